//! Acks never move a device's position back or beyond the head, and never hide what it lacks (I10).
//! What counts is seen through `seq = 0`, which begins after the user's highest ack.

use im::pb::{MessageAck, PackageType};

use crate::support::{
    Device, Server, Transport,
    errors::BAD_REQUEST,
    messages::{seqs, text},
};

on_each_transport!(
    an_ack_survives_a_restart,
    a_lower_ack_does_not_move_back,
    an_ack_beyond_the_head_hides_nothing,
    an_ack_of_what_was_pushed_does_not_hide_what_was_missed,
    an_ack_of_what_was_pushed_counts_after_a_sync,
    an_ack_of_what_was_pushed_counts_after_an_ack_of_the_head,
    a_stored_ack_counts_for_the_next_connection,
    an_ack_that_cannot_be_read_is_answered,
);

/// What the server says nobody has acknowledged, after a drain has flushed every ack.
async fn unacknowledged(server: &mut Server, user: &Device) -> Vec<i64> {
    server.restart().await;
    let device = server.another_device_of(user).await;
    let mut connection = server.connect(Transport::Tcp, &device).await;
    seqs(&connection.sync_after(0).await.messages)
}

/// A server, somebody who sends, and a receiver with `count` messages.
async fn with_messages(count: usize) -> (Server, Device, Device) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for _ in 0..count {
        server.send(&alice, text(bob.user_id, "x")).await;
    }
    (server, alice, bob)
}

async fn an_ack_survives_a_restart(transport: Transport) {
    let (mut server, _alice, bob) = with_messages(5).await;
    server.connect(transport, &bob).await.ack_and_wait(3).await;
    assert_eq!(unacknowledged(&mut server, &bob).await, [4, 5]);
}

async fn a_lower_ack_does_not_move_back(transport: Transport) {
    let (mut server, _alice, bob) = with_messages(5).await;
    let mut connection = server.connect(transport, &bob).await;
    connection.ack(4).await;
    connection.ack_and_wait(2).await;
    drop(connection);
    assert_eq!(unacknowledged(&mut server, &bob).await, [5]);
    server.connect(transport, &bob).await.ack_and_wait(1).await;
    assert_eq!(unacknowledged(&mut server, &bob).await, [5]);
}

async fn an_ack_beyond_the_head_hides_nothing(transport: Transport) {
    let (mut server, alice, bob) = with_messages(5).await;
    let mut connection = server.connect(transport, &bob).await;
    connection.sync_after(0).await;
    connection.ack(1_000).await;
    connection.ack_and_wait(i64::MAX).await;
    server.send(&alice, text(bob.user_id, "the sixth")).await;
    let page = connection.sync_after(0).await;
    assert!(!page.reset);
    assert_eq!(page.messages.last().map(|m| m.seq), Some(6));
    assert!(unacknowledged(&mut server, &bob).await.ends_with(&[6]));
}

async fn an_ack_of_what_was_pushed_does_not_hide_what_was_missed(transport: Transport) {
    let (mut server, alice, bob) = with_messages(5).await;
    let mut connection = server.connect(transport, &bob).await;
    server.send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(connection.push().await.seq, 6);
    connection.ack_and_wait(6).await;
    assert_eq!(unacknowledged(&mut server, &bob).await, [1, 2, 3, 4, 5, 6]);
}

async fn an_ack_of_what_was_pushed_counts_after_a_sync(transport: Transport) {
    let (mut server, alice, bob) = with_messages(5).await;
    let mut connection = server.connect(transport, &bob).await;
    assert!(!connection.sync_after(0).await.has_more);
    server.send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(connection.push().await.seq, 6);
    connection.ack_and_wait(6).await;
    assert_eq!(unacknowledged(&mut server, &bob).await, [0; 0]);
}

async fn an_ack_of_what_was_pushed_counts_after_an_ack_of_the_head(transport: Transport) {
    let (mut server, alice, bob) = with_messages(5).await;
    let mut connection = server.connect(transport, &bob).await;
    connection.ack(5).await;
    server.send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(connection.push().await.seq, 6);
    connection.ack_and_wait(6).await;
    assert_eq!(unacknowledged(&mut server, &bob).await, [0; 0]);
}

async fn a_stored_ack_counts_for_the_next_connection(transport: Transport) {
    let (mut server, alice, bob) = with_messages(5).await;
    server.connect(transport, &bob).await.ack_and_wait(5).await;
    server.restart().await;
    let mut connection = server.connect(transport, &bob).await;
    server.send(&alice, text(bob.user_id, "x")).await;
    assert_eq!(connection.push().await.seq, 6);
    connection.ack_and_wait(6).await;
    assert_eq!(unacknowledged(&mut server, &bob).await, [0; 0]);
}

async fn an_ack_that_cannot_be_read_is_answered(transport: Transport) {
    let (server, _alice, bob) = with_messages(1).await;
    let mut connection = server.connect(transport, &bob).await;
    let wrong = MessageAck {
        device_ack: -1,
        ..Default::default()
    };
    let answer = connection.request(PackageType::PtMessage, &wrong).await;
    assert_eq!(answer.code, BAD_REQUEST);
    assert!(answer.message.contains("device_ack"), "{answer:?}");
    connection.heartbeat().await;
}
