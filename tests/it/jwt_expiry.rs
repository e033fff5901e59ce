//! A session ends when the token that it lives by expires, and lives on where a fresh one came in time.

use std::sync::Arc;

use im::{
    clock::{Clock, Manual, System},
    pb::NoticeCode,
};
use serde_json::json;

use crate::support::{
    Device, Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    jwt::{by_secret, signed},
};

const ALICE: i64 = 7_001;

on_each_transport!(
    a_session_ends_with_its_token,
    a_fresh_token_keeps_the_session,
    a_token_that_does_not_hold_ends_the_session_at_once,
);

/// A server whose clock the test moves, so that no token expires before it is used; its sweep comes in
/// an hour, and ends no session here.
struct Site {
    server: Server,
    clock: Arc<Manual>,
}

impl Site {
    async fn start() -> Self {
        let clock = Arc::new(Manual::at(System.now_ms()));
        let server = Server::with_clock(clock.clone(), |config| {
            by_secret(config);
            config.delivery.reconcile_interval_s = 3_600;
        });
        Self {
            server: server.await,
            clock,
        }
    }

    /// A token of Alice's that holds for so many seconds, or a little less.
    fn token(&self, seconds: i64) -> String {
        let expires = self.clock.now_ms() / 1_000 + seconds;
        signed(&json!({ "sub": ALICE, "exp": expires }))
    }

    async fn device(&self, seconds: i64) -> Device {
        let token = self.token(seconds);
        self.server.device_with_token(ALICE, token).await
    }
}

async fn a_session_ends_with_its_token(transport: Transport) {
    let site = Site::start().await;
    let server = &site.server;
    let mut lasting = server.connect(transport, &site.device(3_600).await).await;
    let brief = site.device(2).await;
    let mut session = server.connect(transport, &brief).await;
    site.clock.advance_ms(2_000);
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
    let site = Site::start().await;
    let server = &site.server;
    let first = site.device(2).await;
    let fresh = first.with_token(&site.token(3_600));
    let mut session = server.connect(transport, &first).await;
    let mut other = server.connect(transport, &site.device(2).await).await;
    assert_code(&session.sign_in(&fresh).await, 0);
    site.clock.advance_ms(2_000);
    assert_eq!(server.refusal(&first).await, Some(SIGN_IN_AGAIN));
    // One that began later, with a token that held as long, is over.
    other.assert_ends_with(NoticeCode::NcSignedOut, 4002).await;
    session.heartbeat().await;
    // From then on it ends with the one that came last, also where that is sooner.
    let last = first.with_token(&site.token(2));
    assert_code(&session.sign_in(&last).await, 0);
    site.clock.advance_ms(2_000);
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    // The device itself may come back with any token that holds.
    server.connect(transport, &fresh).await.heartbeat().await;
}

async fn a_token_that_does_not_hold_ends_the_session_at_once(transport: Transport) {
    let site = Site::start().await;
    let server = &site.server;
    let alice = site.device(3_600).await;
    let mut session = server.connect(transport, &alice).await;
    let expired = alice.with_token(&site.token(-60));
    assert_code(&session.sign_in(&expired).await, SIGN_IN_AGAIN);
    session.assert_closes(1008).await;
    assert_eq!(server.refusal(&alice).await, None, "the token itself holds");
}
