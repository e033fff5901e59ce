//! Signing in on a long connection: who is let in, and how everybody else is turned away.

use im::pb::{PackageType, SignInInput};

use crate::support::{
    Device, Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    messages::{text, words},
};

on_each_transport!(
    a_wrong_credential_is_answered_then_closed,
    the_same_sign_in_again_is_answered_and_stays,
    another_sign_in_on_an_open_connection_is_answered_then_closed,
    a_refused_sign_in_replaces_nobody,
);

/// Sign-ins that must be refused.
fn wrong_inputs(own: &Device, foreign: &Device) -> Vec<SignInInput> {
    let good = own.sign_in_input();
    let with = |user_id, device_id, token: &str| SignInInput {
        user_id,
        device_id,
        token: token.into(),
    };
    vec![
        SignInInput::default(),
        with(good.user_id, good.device_id, ""),
        with(good.user_id, good.device_id, "wrong"),
        with(good.user_id, good.device_id, &foreign.token),
        with(good.user_id, good.device_id, &good.token[1..]),
        with(good.user_id, foreign.device_id, &good.token),
        with(foreign.user_id, good.device_id, &good.token),
        with(good.user_id, 0, &good.token),
        with(0, good.device_id, &good.token),
        with(-1, -1, &good.token),
        with(i64::MAX, i64::MAX, &good.token),
    ]
}

async fn a_wrong_credential_is_answered_then_closed(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for input in wrong_inputs(&alice, &bob) {
        let mut connection = server.open(transport).await;
        let answer = connection.request(PackageType::PtSignIn, &input).await;
        assert_code(&answer, SIGN_IN_AGAIN);
        assert!(answer.data.is_empty());
        connection.assert_closes(1008).await;
    }
}

async fn the_same_sign_in_again_is_answered_and_stays(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &alice).await;
    assert_code(&connection.sign_in(&alice).await, 0);
    server.send(&bob, text(alice.user_id, "still here")).await;
    assert_eq!(words(&connection.push().await), "still here");
}

async fn another_sign_in_on_an_open_connection_is_answered_then_closed(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for other in [bob, alice.with_token("wrong")] {
        let mut connection = server.connect(transport, &alice).await;
        assert_code(&connection.sign_in(&other).await, SIGN_IN_AGAIN);
        connection.assert_closes(1008).await;
    }
}

async fn a_refused_sign_in_replaces_nobody(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut session = server.connect(transport, &alice).await;
    for input in wrong_inputs(&alice, &bob) {
        let mut connection = server.open(transport).await;
        connection.request(PackageType::PtSignIn, &input).await;
    }
    session.heartbeat().await;
    server.send(&bob, text(alice.user_id, "undisturbed")).await;
    assert_eq!(words(&session.push().await), "undisturbed");
}

/// If any of the three is in the URL, all three count.
#[tokio::test]
async fn wrong_credentials_in_the_url_are_refused_before_the_upgrade() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let Device {
        user_id,
        device_id,
        token,
        ..
    } = &alice;
    let wrong = [
        format!("/ws?user_id={user_id}"),
        format!("/ws?device_id={device_id}"),
        format!("/ws?token={token}"),
        format!("/ws?user_id={user_id}&device_id={device_id}"),
        format!("/ws?user_id={user_id}&device_id={device_id}&token="),
        format!("/ws?user_id=&device_id={device_id}&token={token}"),
        format!("/ws?user_id={user_id}&device_id=0&token={token}"),
        format!("/ws?user_id={user_id}&device_id={device_id}&token=wrong"),
        format!(
            "/ws?user_id={user_id}&device_id={device_id}&token={}",
            bob.token
        ),
        format!(
            "/ws?user_id={}&device_id={device_id}&token={token}",
            bob.user_id
        ),
        format!(
            "/ws?user_id={user_id}&device_id={}&token={token}",
            bob.device_id
        ),
        format!("/ws?user_id=alice&device_id={device_id}&token={token}"),
    ];
    for path in wrong {
        let refused = server.connect_by_url(&path).await;
        assert_eq!(refused.err(), Some(401), "{path}");
    }
    let mut session = server
        .connect_by_url(&alice.url_path())
        .await
        .expect("right");
    session.heartbeat().await;
    // Signed in by its URL it may sign in once more, as itself.
    assert_code(&session.sign_in(&alice).await, 0);
    assert_code(&session.sign_in(&bob).await, SIGN_IN_AGAIN);
    session.assert_closes(1008).await;
}
