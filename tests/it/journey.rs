//! A client's whole way: register, sign in, connect, talk, miss something, sync it.

use im::pb::{GetUserReq, PackageType, SendCodeReq, SignInReq, SyncInput};

use crate::support::{
    Connection, Server, Transport,
    api::{TEST_CODE, random_phone_number},
    messages::{seqs, text, words},
};

on_each_transport!(a_client_comes_from_registration_to_sync);

async fn a_client_comes_from_registration_to_sync(transport: Transport) {
    let server = Server::start().await;

    // Alice's phone: register the device, ask for a code, sign in.
    let phone_number = random_phone_number();
    let device_id = server.register_device().await;
    assert!(device_id > 0);
    let mut users = server.anyones_users();
    let request = SendCodeReq {
        phone_number: phone_number.clone(),
    };
    users.send_code(request).await.expect("SendCode");
    let request = SignInReq {
        phone_number: phone_number.clone(),
        code: TEST_CODE.into(),
        device_id,
        password: String::new(),
    };
    let answer = users.sign_in(request).await.expect("SignIn").into_inner();
    assert!(answer.is_new, "the first sign-in creates the account");
    assert!(answer.user_id > 0 && !answer.token.is_empty());
    let alice = server.sign_in(&phone_number, device_id).await;
    assert_eq!(alice.user_id, answer.user_id);
    server.set_nickname(&alice, "Alice").await;

    // Bob talks with her over his long connection.
    let bob = server.new_user().await;
    let mut alices = server.connect(transport, &alice).await;
    let mut bobs = server.connect(transport, &bob).await;
    let hello = bobs.send(&text(alice.user_id, "hello")).await;
    assert_eq!(hello.seq, 1, "the first message of Bob's timeline");
    let pushed = alices.push().await;
    assert_eq!((words(&pushed).as_str(), pushed.seq), ("hello", 1));
    assert_eq!(pushed.message_id, hello.message_id);
    alices.ack(1).await;

    let answer = alices.send(&text(bob.user_id, "hi Bob")).await;
    let pushed = bobs.push().await;
    assert_eq!((words(&pushed).as_str(), pushed.seq), ("hi Bob", 2));
    assert_eq!(pushed.message_id, answer.message_id);
    let sender = pushed.sender.expect("a sender");
    assert_eq!(
        (sender.sender_id, sender.nickname.as_str()),
        (alice.user_id, "Alice")
    );

    // She goes offline, misses two, and comes back.
    drop(alices);
    for missed in ["are you there?", "call me"] {
        bobs.send(&text(alice.user_id, missed)).await;
    }
    let mut alices = server.connect(transport, &alice).await;
    let page = alices.sync_after(2).await;
    assert_eq!(seqs(&page.messages), [3, 4]);
    let missed: Vec<_> = page.messages.iter().map(words).collect();
    assert_eq!(missed, ["are you there?", "call me"]);
    assert!(!page.has_more && !page.reset);

    // What comes next is pushed from there on.
    bobs.send(&text(alice.user_id, "still there?")).await;
    assert_eq!(alices.push().await.seq, 5);
    let mut profile = server.users(&bob);
    let request = GetUserReq {
        user_id: alice.user_id,
    };
    let user = profile
        .get_user(request)
        .await
        .expect("GetUser")
        .into_inner();
    assert_eq!(user.user.expect("a user").nickname, "Alice");
}

mod standard_client {
    use super::*;
    use futures_util::{SinkExt, StreamExt};
    use im::pb::{Input, Output};
    use prost::Message as _;
    use tokio_tungstenite::tungstenite;

    /// The tests' own WebSocket client is written by hand; this one is what others use.
    #[tokio::test]
    async fn a_common_websocket_client_signs_in_and_syncs() {
        let server = Server::start().await;
        let alice = server.new_user().await;
        let url = format!("ws://{}{}", server.addresses.http, alice.url_path());
        let (mut socket, _) = tokio_tungstenite::connect_async(url)
            .await
            .expect("connect");
        let input = Input {
            r#type: PackageType::PtSync.into(),
            request_id: 7,
            data: SyncInput::default().encode_to_vec().into(),
        };
        let message = tungstenite::Message::binary(input.encode_to_vec());
        socket.send(message).await.expect("send");
        let answer = socket.next().await.expect("open").expect("an answer");
        let output = Output::decode(answer.into_data()).expect("an Output");
        assert_eq!((output.request_id, output.code), (7, 0));
        socket.close(None).await.expect("close");
    }
}

/// A signed-in WebSocket is the same session however it signed in.
#[tokio::test]
async fn a_websocket_that_signed_in_by_its_url_gets_pushes() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut alices: Connection = server
        .connect_by_url(&alice.url_path())
        .await
        .expect("the credential is right");
    alices.heartbeat().await;
    server.send(&bob, text(alice.user_id, "hello")).await;
    assert_eq!(words(&alices.push().await), "hello");
}
