//! A device that changes its user is given nothing of the former user's from then on (I11).

use im::pb::NoticeCode;

use crate::support::{
    Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    messages::{text, words},
};

on_each_transport!(
    a_device_that_changes_its_user_gets_nothing_of_the_former_users,
    a_new_sign_in_of_the_same_user_ends_the_old_session,
);

async fn a_device_that_changes_its_user_gets_nothing_of_the_former_users(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let friend = server.new_user().await;
    server
        .send(&friend, text(alice.user_id, "old, for Alice"))
        .await;
    let mut as_alice = server.connect(transport, &alice).await;

    let as_bob = server.sign_in(&bob.phone_number, alice.device_id).await;
    assert_eq!(as_bob.user_id, bob.user_id);
    as_alice
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    assert!(
        !server.token_lives(&alice).await,
        "Alice's token on it is revoked"
    );
    let answer = server.open(transport).await.sign_in(&alice).await;
    assert_code(&answer, SIGN_IN_AGAIN);

    // Neither by push nor by sync.
    let mut phone = server.connect(transport, &as_bob).await;
    server
        .send(&friend, text(alice.user_id, "new, for Alice"))
        .await;
    server.send(&friend, text(bob.user_id, "for Bob")).await;
    let message = phone.push().await;
    assert_eq!((words(&message).as_str(), message.seq), ("for Bob", 1));
    let all: Vec<_> = phone.sync_from_start().await.iter().map(words).collect();
    assert_eq!(all, ["for Bob"]);
    assert!(as_alice.take_pushes().is_empty());
}

async fn a_new_sign_in_of_the_same_user_ends_the_old_session(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut old = server.connect(transport, &alice).await;
    let again = server.sign_in(&alice.phone_number, alice.device_id).await;
    assert_ne!(again.token, alice.token);
    old.assert_ends_with(NoticeCode::NcSignedOut, 4002).await;
    assert!(!server.token_lives(&alice).await);
    server.connect(transport, &again).await.heartbeat().await;
}
