//! Tokens that the business has signed before it signs a user out count no more; newer ones do. Both
//! outlive a restart.

use im::pb::{IntSignOutReq, NoticeCode};
use serde_json::json;

use crate::support::{
    Device, Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    jwt::{claims, now_s, signed, start},
};

const ALICE: i64 = 7_001;
const BOB: i64 = 7_002;

on_each_transport!(
    a_sign_out_ends_the_session_and_the_token,
    a_sign_out_of_every_device_reaches_unknown_tokens,
    sessions_and_sign_outs_outlive_a_restart,
);

/// A token that was issued some seconds from now.
fn issued_in(user_id: i64, seconds: i64) -> String {
    let mut claims = claims(user_id);
    claims["iat"] = json!(now_s() + seconds);
    signed(&claims)
}

async fn sign_out(server: &Server, user_id: i64, device_id: i64) {
    let request = IntSignOutReq { user_id, device_id };
    let mut internal = server.internal();
    internal.sign_out(request).await.expect("LogicInt.SignOut");
}

async fn assert_signs_in_nowhere(server: &Server, transport: Transport, device: &Device) {
    assert_eq!(server.refusal(device).await, Some(SIGN_IN_AGAIN));
    let mut connection = server.open(transport).await;
    assert_code(&connection.sign_in(device).await, SIGN_IN_AGAIN);
    connection.assert_closes(1008).await;
    let by_url = server.connect_by_url(&device.url_path()).await;
    assert_eq!(by_url.err(), Some(401));
}

async fn a_sign_out_ends_the_session_and_the_token(transport: Transport) {
    let server = start().await;
    let alice = server.device_of_business(ALICE).await;
    let other = server.device_of_business(ALICE).await;
    let bob = server.device_of_business(BOB).await;
    let mut session = server.connect(transport, &alice).await;
    let mut others = server.connect(transport, &other).await;
    let mut bobs = server.connect(transport, &bob).await;
    sign_out(&server, ALICE, alice.device_id).await;
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    assert_signs_in_nowhere(&server, transport, &alice).await;
    let older = alice.with_token(&issued_in(ALICE, -10));
    assert_signs_in_nowhere(&server, transport, &older).await;

    others.heartbeat().await;
    bobs.heartbeat().await;
    assert_eq!(server.refusal(&other).await, None);
    let newer = alice.with_token(&issued_in(ALICE, 1));
    assert_eq!(server.refusal(&newer).await, None);
    server.connect(transport, &newer).await.heartbeat().await;
    assert_signs_in_nowhere(&server, transport, &alice).await;
}

async fn a_sign_out_of_every_device_reaches_unknown_tokens(transport: Transport) {
    let server = start().await;
    let mut sessions = Vec::new();
    let mut devices = Vec::new();
    for _ in 0..2 {
        let device = server.device_of_business(ALICE).await;
        sessions.push(server.connect(transport, &device).await);
        devices.push(device);
    }
    let bob = server.device_of_business(BOB).await;
    sign_out(&server, ALICE, 0).await;
    for session in &mut sessions {
        session
            .assert_ends_with(NoticeCode::NcSignedOut, 4002)
            .await;
    }
    for device in &devices {
        assert_signs_in_nowhere(&server, transport, device).await;
    }
    let unseen = issued_in(ALICE, -10);
    let unseen = server.device_with_token(ALICE, unseen).await;
    assert_signs_in_nowhere(&server, transport, &unseen).await;
    let newer = unseen.with_token(&issued_in(ALICE, 1));
    server.connect(transport, &newer).await.heartbeat().await;
    server.connect(transport, &bob).await.heartbeat().await;
}

async fn sessions_and_sign_outs_outlive_a_restart(transport: Transport) {
    let mut server = start().await;
    let alice = server.device_of_business(ALICE).await;
    let gone = server.device_of_business(BOB).await;
    for device in [&alice, &gone] {
        server.connect(transport, device).await.heartbeat().await;
    }
    sign_out(&server, BOB, gone.device_id).await;
    server.restart().await;
    let mut session = server.connect(transport, &alice).await;
    session.heartbeat().await;
    assert_signs_in_nowhere(&server, transport, &gone).await;
    sign_out(&server, ALICE, 0).await;
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    server.restart().await;
    assert_signs_in_nowhere(&server, transport, &alice).await;
}
