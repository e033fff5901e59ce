//! With users.provider = "jwt" a token that the business has signed signs its user in, on every way in,
//! and nobody else.

use std::process::Command;

use im::pb::NoticeCode;
use serde_json::{Value, json};

use crate::support::{
    Device, Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    jwt::{SECRET, by_secret, claims, now_s, signed, start},
};

const ALICE: i64 = 7_001;
const BOB: i64 = 7_002;

on_each_transport!(
    a_signed_token_signs_its_user_in,
    a_token_that_does_not_hold_is_answered_then_closed,
    a_token_for_one_device_is_good_on_no_other,
    another_user_may_not_come_on_an_open_connection,
    the_newer_session_of_a_device_replaces_the_older,
);

fn with(name: &str, value: Value) -> String {
    let mut claims = claims(ALICE);
    claims[name] = value;
    signed(&claims)
}

async fn a_signed_token_signs_its_user_in(transport: Transport) {
    let server = start().await;
    let alice = server.device_of_business(ALICE).await;
    let mut session = server.connect(transport, &alice).await;
    session.heartbeat().await;
    assert_code(&session.sign_in(&alice).await, 0);
    assert_eq!(server.refusal(&alice).await, None);
    let mut by_url = server
        .connect_by_url(&alice.url_path())
        .await
        .expect("let in");
    by_url.heartbeat().await;
}

/// Tokens that sign ALICE in nowhere.
fn wrong_tokens() -> Vec<(&'static str, String)> {
    let good = signed(&claims(ALICE));
    let (unsigned, _) = good.rsplit_once('.').expect("three parts");
    vec![
        ("nothing", String::new()),
        ("no token", "wrong".into()),
        ("a token of the built-in directory", "a".repeat(64)),
        ("no signature", format!("{unsigned}.")),
        ("half a signature", good[..good.len() - 20].into()),
        ("a foreign signature", foreign(ALICE)),
        ("expired", with("exp", json!(now_s() - 1))),
        ("not yet", with("nbf", json!(now_s() + 600))),
        ("of somebody else", signed(&claims(BOB))),
        ("of nobody", with("sub", json!("alice"))),
        ("written in another way", with("sub", json!("07001"))),
        ("for ever", with("exp", Value::Null)),
    ]
}

fn foreign(user_id: i64) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(b"what somebody else made up himself!");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims(user_id), &key).expect("a token")
}

async fn a_token_that_does_not_hold_is_answered_then_closed(transport: Transport) {
    let server = start().await;
    let alice = server.device_of_business(ALICE).await;
    let mut session = server.connect(transport, &alice).await;
    for (what, token) in wrong_tokens() {
        println!("{what}");
        let wrong = alice.with_token(&token);
        let mut connection = server.open(transport).await;
        let answer = connection.sign_in(&wrong).await;
        assert_code(&answer, SIGN_IN_AGAIN);
        assert!(!answer.message.contains("exp"), "it does not say why");
        connection.assert_closes(1008).await;
        assert_eq!(server.refusal(&wrong).await, Some(SIGN_IN_AGAIN));
        let by_url = server.connect_by_url(&wrong.url_path()).await;
        assert_eq!(by_url.err(), Some(401));
    }
    session.heartbeat().await;
}

async fn a_token_for_one_device_is_good_on_no_other(transport: Transport) {
    let server = start().await;
    let mut own = server.device_of_business(ALICE).await;
    let other = server.device_of_business(ALICE).await;
    own.token = with("device_id", json!(own.device_id));
    server.connect(transport, &own).await.heartbeat().await;
    assert_eq!(server.refusal(&own).await, None);

    let elsewhere = other.with_token(&own.token);
    let mut connection = server.open(transport).await;
    assert_code(&connection.sign_in(&elsewhere).await, SIGN_IN_AGAIN);
    connection.assert_closes(1008).await;
    assert_eq!(server.refusal(&elsewhere).await, Some(SIGN_IN_AGAIN));
    // One without the claim is good on both.
    for device in [own.with_token(&other.token), other] {
        server.connect(transport, &device).await.heartbeat().await;
    }
}

async fn another_user_may_not_come_on_an_open_connection(transport: Transport) {
    let server = start().await;
    let alice = server.device_of_business(ALICE).await;
    let bob = Device {
        user_id: BOB,
        ..alice.with_token(&signed(&claims(BOB)))
    };
    for other in [bob, alice.with_token(&signed(&claims(BOB)))] {
        let mut session = server.connect(transport, &alice).await;
        assert_code(&session.sign_in(&other).await, SIGN_IN_AGAIN);
        session.assert_closes(1008).await;
    }
}

async fn the_newer_session_of_a_device_replaces_the_older(transport: Transport) {
    let server = start().await;
    let alice = server.device_of_business(ALICE).await;
    let mut older = server.connect(transport, &alice).await;
    // With another token, as after a restart of the app.
    let again = alice.with_token(&with("jti", json!("another")));
    let mut newer = server.connect(transport, &again).await;
    older.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
    newer.heartbeat().await;
}

#[tokio::test]
async fn issuer_and_audience_must_be_the_configured_ones() {
    let server = Server::with(|config| {
        by_secret(config);
        config.jwt.issuer = "https://id.example.com".into();
        config.jwt.audience = "im".into();
        config.jwt.device_claim = "https://example.com/device".into();
    })
    .await;
    let alice = server.device_of_business(ALICE).await;
    assert_eq!(server.refusal(&alice).await, Some(SIGN_IN_AGAIN));
    let mut claims = claims(ALICE);
    claims["iss"] = json!("https://id.example.com");
    claims["aud"] = json!(["shop", "im"]);
    claims["https://example.com/device"] = json!(alice.device_id.to_string());
    let good = alice.with_token(&signed(&claims));
    assert_eq!(server.refusal(&good).await, None);
    claims["aud"] = json!("shop");
    let other = alice.with_token(&signed(&claims));
    assert_eq!(server.refusal(&other).await, Some(SIGN_IN_AGAIN));
    claims["aud"] = json!("im");
    claims["https://example.com/device"] = json!(alice.device_id + 1);
    let other = alice.with_token(&signed(&claims));
    assert_eq!(server.refusal(&other).await, Some(SIGN_IN_AGAIN));
}

/// As a business does it that has nothing but the standard library of its language.
#[tokio::test]
async fn token_that_was_made_by_hand_elsewhere_is_accepted() {
    const PROGRAM: &str = r#"
import base64, hashlib, hmac, json, sys, time
part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
header = json.dumps({"typ": "JWT", "alg": "HS256"}, indent=1).encode()
claims = json.dumps({"sub": sys.argv[2], "exp": time.time() + 600.5, "name": "Zo\u00eb"}).encode()
signed = part(header) + b"." + part(claims)
print((signed + b"." + part(hmac.digest(sys.argv[1].encode(), signed, hashlib.sha256))).decode())
"#;
    let user = ALICE.to_string();
    let made = Command::new("python3")
        .args(["-c", PROGRAM, SECRET, &user])
        .output()
        .expect("Python");
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).expect("text");
    let server = start().await;
    let alice = server.device_with_token(ALICE, token.trim().into()).await;
    assert_eq!(server.refusal(&alice).await, None);
    let mut session = server.connect(Transport::Tcp, &alice).await;
    session.heartbeat().await;
}
