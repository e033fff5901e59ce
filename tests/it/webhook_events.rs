//! What a business server is told: each stored message once, who comes and goes, and messages that have
//! reached nobody.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use im::pb::{AddFriendReq, GroupType, MessageType, PushToUsersReq, SenderType};
use serde_json::json;

use crate::support::{
    Server, Transport,
    internal::command,
    messages::{ephemeral, text, text_with_id},
    receiver::{Posted, Receiver, SECRET},
    wait::eventually,
};

/// Checks a signature with nothing but Python's standard library.
const VERIFY: &str = r#"
import base64, hashlib, hmac, json, sys
secret, posted = sys.argv[1], json.load(sys.stdin)
key = base64.b64decode(secret.removeprefix("whsec_"))
signed = f'{posted["id"]}.{posted["timestamp"]}.{posted["body"]}'.encode()
expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
sys.exit(f"v1,{expected}" != posted["signature"])
"#;

fn is_verified(posted: &Posted, body: &str) -> bool {
    let mut python = Command::new("python3")
        .args(["-c", VERIFY, SECRET])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let Posted {
        id,
        timestamp,
        signature,
        ..
    } = posted;
    let posted = json!({"id": id, "timestamp": timestamp, "signature": signature, "body": body});
    let mut stdin = python.stdin.take().expect("it is piped");
    let written = stdin.write_all(posted.to_string().as_bytes());
    written.expect("it reads");
    drop(stdin);
    python.wait().expect("it ends").success()
}

#[tokio::test]
async fn every_stored_message_is_told_once() {
    let receiver = Receiver::start().await;
    let server = Server::with(|config| receiver.tell(config, &["message.sent"])).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let sent = server
        .send(&alice, text_with_id(bob.user_id, "hello", "1"))
        .await;
    for _ in 0..3 {
        server
            .send(&alice, text_with_id(bob.user_id, "hello", "1"))
            .await;
    }
    server
        .send(&alice, ephemeral(bob.user_id, "not stored"))
        .await;
    let business = text(bob.user_id, "from the business");
    let of_business = server.send_as(SenderType::StBusiness, 7, business).await;
    of_business.expect("it is sent");
    for kind in [GroupType::GtSmall, GroupType::GtLarge] {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        server.send(&alice, group.text("to a group")).await;
    }
    let push = PushToUsersReq {
        user_ids: vec![alice.user_id, bob.user_id],
        command: Some(command("to both")),
        is_persist: true,
        ..Default::default()
    };
    server.push_to_users(push).await.expect("it is pushed");
    server.send(&alice, text(bob.user_id, "the last")).await;

    eventually("the last", async || {
        let taken = receiver.taken("message.sent");
        taken
            .iter()
            .any(|posted| posted.words() == "the last")
            .then_some(())
    })
    .await;
    // What is told of others may come after it.
    let texts = |words: &str| {
        let taken = receiver.taken("message.sent");
        taken
            .iter()
            .filter(|posted| posted.words() == words)
            .count()
    };
    for (words, count) in [
        ("hello", 1),
        ("not stored", 0),
        ("from the business", 1),
        ("to a group", 2),
    ] {
        eventually(words, async || (texts(words) == count).then_some(())).await;
    }
    eventually("the push", async || {
        let taken = receiver.taken("message.sent");
        let pushes = taken.iter().filter(|posted| {
            let message = &posted.json()["data"]["message"];
            message["sender"]["type"] == "ST_BUSINESS" && message["type"] == "MT_COMMAND"
        });
        (pushes.count() == 1).then_some(())
    })
    .await;

    let taken = receiver.taken("message.sent");
    let hello = taken.iter().find(|posted| posted.words() == "hello");
    let hello = hello.expect("it was told");
    let message = &hello.json()["data"]["message"];
    assert_eq!(message["id"], sent.message_id.to_string());
    assert_eq!(message["sender"]["id"], alice.user_id.to_string());
    assert_eq!(message["sender"]["device_id"], alice.device_id.to_string());
    assert_eq!(
        message["receiver"],
        json!({"type": "RT_USER", "id": bob.user_id.to_string()})
    );
    assert_eq!(message["send_time"], sent.send_time.to_string());
    assert_eq!(message["client_message_id"], "1");
    assert!(hello.id.starts_with("evt_"), "{hello:?}");
    assert!(is_verified(hello, &hello.body), "{hello:?}");
    assert!(!is_verified(hello, &hello.body.replace("hello", "hallo")));
    assert!(hello.body.contains("hello"));
}

#[tokio::test]
async fn nothing_is_written_where_nothing_is_told() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let _connection = server.connect(Transport::Tcp, &alice).await;
    server.send(&alice, text(bob.user_id, "hello")).await;
    let rows = server.database().connect().await;
    for table in ["outbox", "undelivered_check", "online_device", "instance"] {
        let count = rows.number(&format!("SELECT COUNT(*) FROM {table}")).await;
        assert_eq!(count, 0, "{table}");
    }
}

#[tokio::test]
async fn first_device_comes_online_and_the_last_one_goes_offline() {
    let receiver = Receiver::start().await;
    let events = ["user.online", "user.offline"];
    let server = Server::with(|config| receiver.tell(config, &events)).await;
    let alice = server.new_user().await;
    let other = server.another_device_of(&alice).await;
    let until = async |expected: &[&str]| {
        eventually(&format!("{expected:?}"), async || {
            (receiver.told_of(alice.user_id) == *expected).then_some(())
        })
        .await;
    };
    let first = server.connect(Transport::Tcp, &alice).await;
    until(&["user.online"]).await;
    let second = server.connect(Transport::WebSocket, &other).await;
    // The same device once more: that is no coming and going.
    let mut again = server.connect(Transport::Tcp, &alice).await;
    drop(first);
    again.heartbeat().await;
    drop(second);
    let rows = server.database().connect().await;
    eventually("one device is left", async || {
        let left = rows.number("SELECT COUNT(*) FROM online_device").await;
        (left == 1).then_some(())
    })
    .await;
    drop(again);
    until(&["user.online", "user.offline"]).await;
    let _back = server.connect(Transport::Tcp, &other).await;
    until(&["user.online", "user.offline", "user.online"]).await;
    let last = receiver.posted().pop().expect("it was told");
    assert_eq!(
        last.json()["data"]["device_id"],
        other.device_id.to_string()
    );
}

#[tokio::test]
async fn drain_tells_that_everybody_has_left() {
    let receiver = Receiver::start().await;
    let events = ["user.online", "user.offline"];
    let mut server = Server::with(|config| receiver.tell(config, &events)).await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::Tcp, &alice).await;
    let closed = tokio::spawn(async move { connection.closed().await });
    server.restart().await;
    closed.await.expect("it is told to go");
    eventually("she is offline", async || {
        (receiver.told_of(alice.user_id) == ["user.online", "user.offline"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_who_did_not_acknowledge_is_undelivered() {
    let receiver = Receiver::start().await;
    let server = Server::with(|config| {
        receiver.tell(config, &["message.undelivered"]);
        // Bob has until then, on a busy machine too.
        config.webhooks.undelivered_after_s = 8;
    })
    .await;
    let (alice, bob, carol) = (
        server.new_user().await,
        server.new_user().await,
        server.new_user().await,
    );
    let others = [bob.user_id, carol.user_id];
    let small = server
        .create_group(&alice, GroupType::GtSmall, &others)
        .await;
    let large = server
        .create_group(&alice, GroupType::GtLarge, &others)
        .await;
    let mut of_bob = server.connect(Transport::Tcp, &bob).await;
    server.send(&alice, text(bob.user_id, "to bob")).await;
    server.send(&alice, text(carol.user_id, "to carol")).await;
    let mut program = text(carol.user_id, "");
    program.message_type = MessageType::MtCommand.into();
    program.message_content = prost::Message::encode_to_vec(&command("for a program")).into();
    server.send(&alice, program).await;
    server.send(&alice, small.text("to both")).await;
    let mut mention = large.text("mentions carol");
    mention.to_user_ids = vec![alice.user_id, carol.user_id, 999_999_999];
    server.send(&alice, mention).await;
    server.send(&alice, large.text("mentions nobody")).await;
    let wish = AddFriendReq {
        friend_id: carol.user_id,
        remarks: String::new(),
        description: "hello".into(),
    };
    server.ask(&bob, wish).await.expect("he asks");
    // One device of his is enough.
    let synced = of_bob.sync_from_start().await;
    of_bob
        .ack_and_wait(synced.last().expect("messages").seq)
        .await;

    let told = receiver.until_taken("message.undelivered", 4).await;
    assert!(
        told.iter().all(|posted| posted.user() == carol.user_id),
        "{told:?}"
    );
    let mut words: Vec<String> = told.iter().map(Posted::words).collect();
    words.sort_unstable();
    assert_eq!(words, ["", "mentions carol", "to both", "to carol"]);
    let rows = server.database().connect().await;
    eventually("all were looked at", async || {
        let left = rows.number("SELECT COUNT(*) FROM undelivered_check").await;
        (left == 0).then_some(())
    })
    .await;
    eventually("all were told", async || {
        (rows.number("SELECT COUNT(*) FROM outbox").await == 0).then_some(())
    })
    .await;
    assert_eq!(receiver.posted().len(), 4, "{:?}", receiver.posted());
}
