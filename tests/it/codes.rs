//! Verification codes: how they reach people, how long they live.

use std::sync::Arc;

use im::{
    clock::{Clock, Manual, System},
    config::CodeSender,
    pb::{SendCodeReq, SignInReq},
};

use crate::support::{
    Api, Process, Server,
    api::random_phone_number,
    errors::{WRONG_CODE, assert_fails},
    wait::eventually,
    webhook::Webhook,
};

async fn send_code(server: &Api, phone_number: &str) -> Result<(), tonic::Status> {
    let request = SendCodeReq {
        phone_number: phone_number.into(),
    };
    server.anyones_users().send_code(request).await.map(|_| ())
}

/// Has a code sent; once more where the webhook, in this process, was held up for longer than the server
/// waits.
async fn code_sent(server: &Api, phone_number: &str) {
    eventually("a code is sent", async || {
        send_code(server, phone_number).await.ok()
    })
    .await;
}

async fn sign_in(
    server: &Api,
    phone_number: &str,
    code: &str,
) -> Result<im::pb::SignInResp, tonic::Status> {
    let request = SignInReq {
        phone_number: phone_number.into(),
        code: code.into(),
        device_id: server.register_device().await,
        password: String::new(),
    };
    let answer = server.anyones_users().sign_in(request).await?;
    Ok(answer.into_inner())
}

/// The six digits that stand alone in a text.
fn code_in(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .find(|word| word.len() == 6 && word.bytes().all(|b| b.is_ascii_digit()))
        .map(String::from)
}

#[tokio::test]
async fn a_code_from_the_log_signs_in() {
    let server = Process::with(&[("IM_SIGN_IN__TEST_CODE", "")]).await;
    let phone_number = random_phone_number();
    code_sent(&server, &phone_number).await;
    let digits = phone_number.trim_start_matches('+').to_owned();
    let line = server
        .logged("the code", |line| {
            line.contains(&digits) && code_in(line).is_some()
        })
        .await;
    let code = code_in(&line).expect("six digits");
    let answer = sign_in(&server, &phone_number, &code)
        .await
        .expect("SignIn");
    assert!(answer.is_new);
}

async fn with_webhook(webhook: &Webhook) -> (Server, Arc<Manual>) {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let url = format!("http://{}/codes", webhook.address);
    let server = Server::with_clock(clock.clone(), |config| {
        config.sign_in.code_sender = CodeSender::Webhook;
        config.sign_in.webhook_url = url;
        config.sign_in.test_code.clear();
    })
    .await;
    (server, clock)
}

#[tokio::test]
async fn a_code_from_the_webhook_signs_in() {
    let webhook = Webhook::answering("204 No Content").await;
    let (server, _) = with_webhook(&webhook).await;
    let phone_number = random_phone_number();
    code_sent(&server, &phone_number).await;
    let sent = webhook.last();
    assert_eq!(sent["phone_number"], phone_number.as_str());
    let code = sent["code"].as_str().expect("a code");
    assert!(
        code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()),
        "{code}"
    );
    // It is of use for its own number only.
    let foreign = sign_in(&server, &random_phone_number(), code).await;
    assert_fails(foreign, WRONG_CODE);
    let answer = sign_in(&server, &phone_number, code).await.expect("SignIn");
    assert!(answer.is_new);
}

#[tokio::test]
async fn a_code_lives_five_minutes() {
    let webhook = Webhook::answering("200 OK").await;
    let (server, clock) = with_webhook(&webhook).await;
    let phone_number = random_phone_number();
    for (age_s, lives) in [(299, true), (301, false)] {
        code_sent(&server, &phone_number).await;
        let sent = webhook.last();
        clock.advance_ms(age_s * 1000);
        let code = sent["code"].as_str().expect("a code");
        let answer = sign_in(&server, &phone_number, code).await;
        match lives {
            true => assert!(answer.is_ok(), "{answer:?}"),
            false => drop(assert_fails(answer, WRONG_CODE)),
        }
    }
}

#[tokio::test]
async fn only_the_newest_code_counts() {
    let webhook = Webhook::answering("200 OK").await;
    let (server, clock) = with_webhook(&webhook).await;
    let phone_number = random_phone_number();
    code_sent(&server, &phone_number).await;
    let old = webhook.last();
    clock.advance_ms(61_000);
    code_sent(&server, &phone_number).await;
    let new = webhook.last();
    if old["code"] != new["code"] {
        let refused = sign_in(
            &server,
            &phone_number,
            old["code"].as_str().expect("a code"),
        )
        .await;
        assert_fails(refused, WRONG_CODE);
    }
    let code = new["code"].as_str().expect("a code");
    sign_in(&server, &phone_number, code)
        .await
        .expect("the newest");
}

#[tokio::test]
async fn a_webhook_that_fails_is_an_error() {
    let webhook = Webhook::answering("500 Internal Server Error").await;
    let (server, _) = with_webhook(&webhook).await;
    let refused = send_code(&server, &random_phone_number()).await;
    assert!(refused.is_err(), "2xx is success and nothing else");
}
