//! Tokens expire, for calls, for sign-ins and for sessions that are already there; and a user has so
//! many devices and no more.

use std::sync::Arc;

use im::{
    clock::{Clock, Manual, System},
    pb::NoticeCode,
};

use crate::support::{
    Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
};

const DAY_MS: i64 = 24 * 3600 * 1000;

on_each_transport!(
    an_expired_token_is_worth_nothing,
    a_session_ends_when_its_token_expires,
    one_device_too_many_signs_the_longest_unused_out,
);

async fn an_expired_token_is_worth_nothing(transport: Transport) {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.new_user().await;
    assert!(server.token_lives(&alice).await);
    clock.advance_ms(89 * DAY_MS);
    assert!(server.token_lives(&alice).await, "90 days are not over");
    server.connect(transport, &alice).await.heartbeat().await;
    clock.advance_ms(2 * DAY_MS);
    assert!(!server.token_lives(&alice).await, "however it was cached");
    let mut connection = server.open(transport).await;
    assert_code(&connection.sign_in(&alice).await, SIGN_IN_AGAIN);
    connection.assert_closes(1008).await;
    assert_eq!(
        server.connect_by_url(&alice.url_path()).await.err(),
        Some(401)
    );
    let again = server.sign_in(&alice.phone_number, alice.device_id).await;
    assert!(server.token_lives(&again).await);
}

async fn a_session_ends_when_its_token_expires(transport: Transport) {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let server = Server::with_clock(clock.clone(), |config| {
        config.sign_in.token_ttl_days = 1;
        config.delivery.reconcile_interval_s = 1;
    })
    .await;
    let alice = server.new_user().await;
    let mut session = server.connect(transport, &alice).await;
    session.heartbeat().await;
    clock.advance_ms(DAY_MS + 1);
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
}

async fn one_device_too_many_signs_the_longest_unused_out(transport: Transport) {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let server = Server::with_clock(clock.clone(), |config| config.devices.per_user_max = 2).await;
    let first = server.new_user().await;
    let mut session = server.connect(transport, &first).await;
    clock.advance_ms(60_000);
    let second = server.another_device_of(&first).await;
    session.heartbeat().await;
    clock.advance_ms(60_000);
    let third = server.another_device_of(&first).await;
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    assert!(!server.token_lives(&first).await);
    assert!(server.token_lives(&second).await);
    assert!(server.token_lives(&third).await);
    // Signing in again on a device one has is not one more.
    server.sign_in(&third.phone_number, third.device_id).await;
    assert!(server.token_lives(&second).await);
}
