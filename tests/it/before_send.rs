//! The question before a message of a user is taken: the hook allows, denies and rewrites, and when it
//! does not answer, what is configured happens. A retry gets the first result (I3).

use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use im::{
    config::OnFailure,
    pb::{Command, PackageType, SenderType, Text},
};
use prost::Message as _;

use crate::support::{
    Server, Transport,
    connection::sent,
    errors::{NOT_ALLOWED, TRY_AGAIN_LATER, assert_code, assert_fails},
    messages::{ephemeral, text, text_with_id, words},
    receiver::{Answer, Posted, Receiver},
    rooms::room_text,
    wait::eventually,
};

const ALLOW: &str = r#"{"action":"allow"}"#;

fn replacement(text: &str) -> Answer {
    let content = Text { text: text.into() }.encode_to_vec();
    let content = STANDARD.encode(content);
    Answer::json(format!(r#"{{"action":"replace","content":"{content}"}}"#))
}

/// Denies what contains "bad", rewrites what contains "rude", and allows the rest.
fn censor(posted: &Posted) -> Answer {
    let words = posted.words();
    if words.contains("bad") {
        Answer::json(r#"{"action":"deny","reason":"mind\nyour words"}"#)
    } else if words.contains("rude") {
        replacement("polite")
    } else {
        Answer::json(ALLOW)
    }
}

async fn server_asking(receiver: &Receiver) -> Server {
    Server::with(|config| receiver.ask(config)).await
}

#[tokio::test]
async fn messages_are_allowed_denied_and_rewritten() {
    let receiver = Receiver::answering(censor).await;
    let server = server_asking(&receiver).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut of_bob = server.connect(Transport::Tcp, &bob).await;
    server.send(&alice, text(bob.user_id, "good")).await;
    let denied = server.try_send(&alice, text(bob.user_id, "bad")).await;
    assert_eq!(assert_fails(denied, NOT_ALLOWED), "mindyour words");
    server.send(&alice, text(bob.user_id, "rude")).await;
    server
        .send(&alice, ephemeral(bob.user_id, "rude, and not stored"))
        .await;
    let pushed = of_bob.pushed(3).await;
    let said: Vec<String> = pushed.iter().map(words).collect();
    assert_eq!(said, ["good", "polite", "polite"]);
    let stored = server.timeline(&bob).await;
    assert_eq!(
        stored.iter().map(words).collect::<Vec<_>>(),
        ["good", "polite"]
    );

    let asked = receiver.posted();
    let message = &asked[0].json()["data"]["message"];
    assert_eq!(asked[0].kind(), "message.before_send");
    assert_eq!(message["sender"]["id"], alice.user_id.to_string());
    assert_eq!(message["is_persist"], true);
    assert_eq!(asked[3].json()["data"]["message"]["is_persist"], false);
}

#[tokio::test]
async fn rooms_are_asked_about_and_the_business_is_not() {
    let receiver = Receiver::answering(censor).await;
    let server = server_asking(&receiver).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut of_alice = server.connect(Transport::Tcp, &alice).await;
    of_alice.subscribe(5).await;
    assert_code(&of_alice.try_send(&room_text(5, "bad")).await, NOT_ALLOWED);
    assert_code(&of_alice.try_send(&room_text(5, "good")).await, 0);
    // Who may not send at all is refused before that.
    let asked = receiver.posted().len();
    assert_eq!(asked, 2);
    assert_code(&of_alice.try_send(&room_text(6, "good")).await, NOT_ALLOWED);
    let of_business = text(bob.user_id, "bad");
    let sent = server.send_as(SenderType::StBusiness, 1, of_business).await;
    sent.expect("nobody is asked");
    assert_eq!(receiver.posted().len(), asked);
}

#[tokio::test]
async fn retry_gets_the_first_result_whatever_is_said_now() {
    let receiver = Receiver::answering(|_| replacement("rewritten")).await;
    let server = server_asking(&receiver).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let first = server
        .send(&alice, text_with_id(bob.user_id, "mine", "1"))
        .await;
    receiver.answer(|_| Answer::json(r#"{"action":"deny"}"#));
    let again = server
        .send(&alice, text_with_id(bob.user_id, "mine", "1"))
        .await;
    assert_eq!(again, first);
    let other = server
        .try_send(&alice, text_with_id(bob.user_id, "another", "2"))
        .await;
    assert_fails(other, NOT_ALLOWED);
    let stored = server.timeline(&bob).await;
    assert_eq!(stored.iter().map(words).collect::<Vec<_>>(), ["rewritten"]);
}

#[tokio::test]
async fn pipelined_sends_keep_their_order() {
    const SENDS: usize = 30;
    let receiver = Receiver::answering(censor).await;
    let server = server_asking(&receiver).await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::Tcp, &alice).await;
    let mut requests = Vec::new();
    for n in 0..SENDS {
        let message = text(alice.user_id, &n.to_string());
        requests.push(connection.start(PackageType::PtSendMessage, &message).await);
    }
    let mut last = 0;
    for request in requests {
        let seq = sent(&connection.answer(request).await).seq;
        assert!(seq > last);
        last = seq;
    }
    let stored = server.timeline(&alice).await;
    let said: Vec<String> = stored.iter().map(words).collect();
    assert_eq!(said, (0..SENDS).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// Everything that is no answer in time.
#[tokio::test]
async fn hook_that_fails_is_closed_or_open_as_configured() {
    let too_long = format!(r#"{{"action":"allow","x":"{}"}}"#, "x".repeat(200_000));
    let reserved = Command {
        code: 100,
        data: Default::default(),
    };
    let reserved = STANDARD.encode(reserved.encode_to_vec());
    let failures = [
        Answer::Silence,
        Answer::failure(),
        Answer::Status(204, String::new()),
        Answer::Status(302, ALLOW.into()),
        Answer::json("allow"),
        Answer::json(r#"{"action":"maybe"}"#),
        Answer::json(r#"{"action":"replace","content":"not base64!"}"#),
        Answer::json(format!(
            r#"{{"action":"replace","content":"{}"}}"#,
            STANDARD.encode(vec![b'x'; 60_001])
        )),
        Answer::json(too_long),
    ];
    for (on_failure, code) in [(OnFailure::Deny, TRY_AGAIN_LATER), (OnFailure::Allow, 0)] {
        let receiver = Receiver::start().await;
        let server = Server::with(|config| {
            receiver.ask(config);
            config.before_send.timeout_ms = 300;
            config.before_send.on_failure = on_failure;
        })
        .await;
        let alice = server.new_user().await;
        let mut connection = server.connect(Transport::Tcp, &alice).await;
        let current = Arc::new(Mutex::new(Answer::ok()));
        let given = Arc::clone(&current);
        receiver.answer(move |_| given.lock().expect("no panic").clone());
        for failure in &failures {
            *current.lock().expect("no panic") = failure.clone();
            let answer = connection.try_send(&text(alice.user_id, "hello")).await;
            assert_eq!(answer.code, code, "{on_failure:?} {failure:?}: {answer:?}");
        }
        // A command that belongs to the server cannot be smuggled in either.
        let mut command = text(alice.user_id, "");
        command.message_type = im::pb::MessageType::MtCommand.into();
        command.message_content = Command {
            code: 1_000,
            data: Default::default(),
        }
        .encode_to_vec()
        .into();
        let smuggled = format!(r#"{{"action":"replace","content":"{reserved}"}}"#);
        *current.lock().expect("no panic") = Answer::json(smuggled);
        let answer = connection.try_send(&command).await;
        assert_eq!(answer.code, code, "{answer:?}");
        let stored = server.timeline(&alice).await;
        let kept = if code == 0 { failures.len() + 1 } else { 0 };
        assert_eq!(stored.len(), kept);
    }
}

/// Whoever sends does not wait for a hook that answers nobody, and it is asked again once it does.
#[tokio::test]
async fn hook_that_hangs_is_not_asked_about_every_message() {
    const SENDS: usize = 40;
    let receiver = Receiver::answering(|_| Answer::Silence).await;
    let server = Server::with(|config| {
        receiver.ask(config);
        config.before_send.timeout_ms = 300;
    })
    .await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::Tcp, &alice).await;
    let hello = text(alice.user_id, "hello");
    for _ in 0..SENDS {
        assert_code(&connection.try_send(&hello).await, TRY_AGAIN_LATER);
    }
    let asked = receiver.posted().len();
    // A busy machine may not get to ask each time before the time is over.
    assert!((5..SENDS).contains(&asked), "asked {asked} times");

    receiver.answer(censor);
    eventually("it is asked again", async || {
        let answer = connection.try_send(&hello).await;
        (answer.code == 0).then_some(())
    })
    .await;
    let bad = text(alice.user_id, "bad");
    eventually("it denies", async || {
        let answer = connection.try_send(&bad).await;
        assert!(
            [NOT_ALLOWED, TRY_AGAIN_LATER].contains(&answer.code),
            "{answer:?}"
        );
        (answer.code == NOT_ALLOWED).then_some(())
    })
    .await;
}
