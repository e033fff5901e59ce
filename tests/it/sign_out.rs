//! Signing out: the connection is told and closed, and the token is dead at once (I8).

use im::pb::{IntSignOutReq, NoticeCode, SetPasswordReq, SignOutReq};

use crate::support::{
    Server, Transport,
    errors::{NO_SUCH_DEVICE, SIGN_IN_AGAIN, assert_code, code},
    messages::text,
};

on_each_transport!(
    signing_out_ends_the_session_and_the_token,
    a_business_signs_one_device_out,
    a_business_signs_every_device_out,
    setting_a_password_ends_the_users_other_sessions,
);

async fn signing_out_ends_the_session_and_the_token(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let other = server.another_device_of(&alice).await;
    let mut session = server.connect(transport, &alice).await;
    let mut others = server.connect(transport, &other).await;
    let mut users = server.users(&alice);
    users.sign_out(SignOutReq {}).await.expect("SignOut");
    assert!(!server.token_lives(&alice).await, "dead at once");
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    let again = users.sign_out(SignOutReq {}).await.expect_err("dead");
    assert_eq!(code(&again), SIGN_IN_AGAIN);

    // It signs in nowhere any more.
    let mut connection = server.open(transport).await;
    assert_code(&connection.sign_in(&alice).await, SIGN_IN_AGAIN);
    connection.assert_closes(1008).await;
    let refused = server.connect_by_url(&alice.url_path()).await;
    assert_eq!(refused.expect_err("the token is dead"), 401);

    // The other device is not touched, and the device itself can sign in again.
    others.heartbeat().await;
    assert!(server.token_lives(&other).await);
    let back = server.sign_in(&alice.phone_number, alice.device_id).await;
    server.connect(transport, &back).await.heartbeat().await;
}

async fn a_business_signs_one_device_out(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&alice).await;
    let mut session = server.connect(transport, &alice).await;
    let request = IntSignOutReq {
        user_id: alice.user_id,
        device_id: alice.device_id,
    };
    let mut internal = server.internal();
    internal.sign_out(request).await.expect("LogicInt.SignOut");
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    let refused = server.try_send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(code(&refused.expect_err("dead")), SIGN_IN_AGAIN);
    assert!(server.token_lives(&other).await);
}

async fn a_business_signs_every_device_out(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&alice).await;
    let mut sessions = Vec::new();
    for device in [&alice, &other] {
        sessions.push(server.connect(transport, device).await);
    }
    let mut bobs = server.connect(transport, &bob).await;
    let request = IntSignOutReq {
        user_id: alice.user_id,
        device_id: 0,
    };
    let mut internal = server.internal();
    internal.sign_out(request).await.expect("LogicInt.SignOut");
    for session in &mut sessions {
        session
            .assert_ends_with(NoticeCode::NcSignedOut, 4002)
            .await;
    }
    for device in [&alice, &other] {
        assert!(!server.token_lives(device).await);
    }
    bobs.heartbeat().await;
}

async fn setting_a_password_ends_the_users_other_sessions(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let other = server.another_device_of(&alice).await;
    let mut own = server.connect(transport, &alice).await;
    let mut others = server.connect(transport, &other).await;
    let request = SetPasswordReq {
        password: "correct horse".into(),
    };
    let mut users = server.users(&alice);
    users.set_password(request).await.expect("SetPassword");
    others.assert_ends_with(NoticeCode::NcSignedOut, 4002).await;
    assert!(!server.token_lives(&other).await);
    assert!(server.token_lives(&alice).await);
    own.heartbeat().await;
}

/// A business cannot sign out a device of somebody else by naming the wrong user.
#[tokio::test]
async fn a_foreign_device_is_not_signed_out() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let request = IntSignOutReq {
        user_id: bob.user_id,
        device_id: alice.device_id,
    };
    if let Err(status) = server.internal().sign_out(request).await {
        assert_eq!(code(&status), NO_SUCH_DEVICE);
    }
    assert!(server.token_lives(&alice).await);
}
