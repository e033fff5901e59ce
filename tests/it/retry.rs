//! A send is applied at most once: a retry gets the first result (I3).

use im::pb::{PackageType, SendMessageReq};

use crate::support::{
    Server, Transport,
    connection::sent,
    errors::{BAD_REQUEST, assert_code, assert_fails},
    messages::{text, text_with_id, words},
};

on_each_transport!(
    a_retry_gets_the_first_result,
    a_storm_of_the_same_send_is_one_message,
    a_retry_after_a_restart_gets_the_first_result,
    a_retry_from_another_device_gets_the_first_result,
    a_retry_is_not_pushed_again,
    the_same_id_with_other_content_is_refused,
);

async fn a_retry_gets_the_first_result(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &alice).await;
    let request = text_with_id(bob.user_id, "once", "the id");
    let first = connection.send(&request).await;
    assert_eq!(connection.send(&request).await, first);
    assert_eq!(
        server.send(&alice, request.clone()).await,
        first,
        "over gRPC"
    );
    assert_eq!(connection.send(&request).await, first);
    for user in [&alice, &bob] {
        assert_eq!(server.timeline(user).await.len(), 1);
    }
}

async fn a_storm_of_the_same_send_is_one_message(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &alice).await;
    let request = text_with_id(bob.user_id, "once", "storm");
    let mut calls = Vec::new();
    let mut packages = Vec::new();
    for _ in 0..40 {
        let (api, alice, again) = (server.clone_api(), alice.clone(), request.clone());
        calls.push(tokio::spawn(async move { api.send(&alice, again).await }));
        packages.push(connection.start(PackageType::PtSendMessage, &request).await);
    }
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.expect("no panic"));
    }
    for package in packages {
        results.push(sent(&connection.answer(package).await));
    }
    assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
    for user in [&alice, &bob] {
        assert_eq!(server.timeline(user).await.len(), 1);
    }
}

async fn a_retry_after_a_restart_gets_the_first_result(transport: Transport) {
    let mut server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let request = text_with_id(bob.user_id, "once", "before");
    let first = server.send(&alice, request.clone()).await;
    server.restart().await;
    let mut connection = server.connect(transport, &alice).await;
    assert_eq!(connection.send(&request).await, first);
    let next = connection.send(&text(bob.user_id, "twice")).await;
    assert_eq!(next.seq, 2, "the timeline goes on");
    assert_ne!(next.message_id, first.message_id);
}

async fn a_retry_from_another_device_gets_the_first_result(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&alice).await;
    let request = text_with_id(bob.user_id, "once", "shared");
    let first = server.send(&alice, request.clone()).await;
    let mut connection = server.connect(transport, &other).await;
    assert_eq!(connection.send(&request).await, first);
    assert_eq!(server.timeline(&bob).await.len(), 1);
}

async fn a_retry_is_not_pushed_again(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut receiver = server.connect(transport, &bob).await;
    let request = text_with_id(bob.user_id, "once", "pushed");
    for _ in 0..3 {
        server.send(&alice, request.clone()).await;
    }
    server.send(&alice, text(bob.user_id, "after")).await;
    assert_eq!(words(&receiver.push().await), "once");
    assert_eq!(words(&receiver.push().await), "after");
}

async fn the_same_id_with_other_content_is_refused(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let carol = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    let first = text_with_id(bob.user_id, "once", "the id");
    connection.send(&first).await;
    let others = [
        text_with_id(bob.user_id, "other words", "the id"),
        text_with_id(carol.user_id, "once", "the id"),
        SendMessageReq {
            to_user_ids: vec![1],
            ..first
        },
    ];
    for other in others {
        assert_code(&connection.try_send(&other).await, BAD_REQUEST);
        assert_fails(server.try_send(&alice, other).await, BAD_REQUEST);
    }
    assert_eq!(server.timeline(&alice).await.len(), 1);
    assert!(server.timeline(&carol).await.is_empty());
}

/// Ids belong to their user: two users may use the same one.
#[tokio::test]
async fn another_users_id_is_another_id() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let from_alice = server
        .send(&alice, text_with_id(bob.user_id, "from Alice", "1"))
        .await;
    let from_bob = server
        .send(&bob, text_with_id(alice.user_id, "from Bob", "1"))
        .await;
    assert_ne!(from_alice.message_id, from_bob.message_id);
    assert_eq!(server.timeline(&alice).await.len(), 2);
}

/// The longest id there may be, with bytes that sort and compare in odd ways.
#[tokio::test]
async fn ids_are_compared_byte_by_byte() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let ids = [
        "a",
        "A",
        "a ",
        " a",
        "ä",
        "a\u{308}",
        &"x".repeat(64),
        &"x".repeat(63),
    ];
    for (n, id) in ids.iter().enumerate() {
        let sent = server
            .send(&alice, text_with_id(bob.user_id, "x", id))
            .await;
        assert_eq!(sent.seq, n as i64 + 1, "{id:?} is another id");
    }
    let timeline = server.timeline(&bob).await;
    let stored: Vec<_> = timeline
        .iter()
        .map(|m| m.client_message_id.as_str())
        .collect();
    assert_eq!(stored, ids);
}
