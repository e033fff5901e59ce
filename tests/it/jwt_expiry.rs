//! A session ends when the token that it lives by expires, and lives on where a fresh one came in time.

use im::pb::NoticeCode;
use serde_json::Value;

use crate::support::{
    Device, Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    jwt::{by_secret, claims, claims_for, signed},
    wait::eventually,
};

const ALICE: i64 = 7_001;

on_each_transport!(
    a_session_ends_with_its_token,
    a_fresh_token_keeps_the_session,
    a_token_that_does_not_hold_ends_the_session_at_once,
);

/// One whose sweep comes in an hour, so that it ends no session here.
async fn start() -> Server {
    Server::with(|config| {
        by_secret(config);
        config.delivery.reconcile_interval_s = 3_600;
    })
    .await
}

async fn device(server: &Server, claims: &Value) -> Device {
    server.device_with_token(ALICE, signed(claims)).await
}

async fn a_session_ends_with_its_token(transport: Transport) {
    let server = start().await;
    let mut lasting = server
        .connect(transport, &device(&server, &claims(ALICE)).await)
        .await;
    let mut brief = device(&server, &claims(ALICE)).await;
    brief.token = signed(&claims_for(ALICE, 4));
    let mut session = server.connect(transport, &brief).await;
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    assert_eq!(server.refusal(&brief).await, Some(SIGN_IN_AGAIN));
    let mut connection = server.open(transport).await;
    assert_code(&connection.sign_in(&brief).await, SIGN_IN_AGAIN);
    let by_url = server.connect_by_url(&brief.url_path()).await;
    assert_eq!(by_url.err(), Some(401));
    lasting.heartbeat().await;
}

async fn a_fresh_token_keeps_the_session(transport: Transport) {
    let server = start().await;
    let mut first = device(&server, &claims(ALICE)).await;
    let fresh = first.with_token(&first.token);
    first.token = signed(&claims_for(ALICE, 4));
    let mut session = server.connect(transport, &first).await;
    assert_code(&session.sign_in(&fresh).await, 0);
    eventually("the first token expires", async || {
        (server.refusal(&first).await == Some(SIGN_IN_AGAIN)).then_some(())
    })
    .await;
    session.heartbeat().await;
    // From then on it ends with the one that came last, also where that is sooner.
    let last = first.with_token(&signed(&claims_for(ALICE, 3)));
    assert_code(&session.sign_in(&last).await, 0);
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    // The device itself may come back with any token that holds.
    server.connect(transport, &fresh).await.heartbeat().await;
}

async fn a_token_that_does_not_hold_ends_the_session_at_once(transport: Transport) {
    let server = start().await;
    let alice = device(&server, &claims(ALICE)).await;
    let mut session = server.connect(transport, &alice).await;
    let expired = alice.with_token(&signed(&claims_for(ALICE, -60)));
    assert_code(&session.sign_in(&expired).await, SIGN_IN_AGAIN);
    session.assert_closes(1008).await;
    assert_eq!(server.refusal(&alice).await, None, "the token itself holds");
}
