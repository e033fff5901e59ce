//! Messages that are not stored reach whoever is online and leave no trace.

use crate::support::{
    Server, Transport,
    messages::{ephemeral, text, words},
};

on_each_transport!(
    an_ephemeral_message_is_pushed_and_not_stored,
    ephemeral_messages_keep_the_order_of_their_sender,
    whoever_is_offline_misses_an_ephemeral_message,
);

async fn an_ephemeral_message_is_pushed_and_not_stored(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&alice).await;
    let mut sender = server.connect(transport, &alice).await;
    let mut own_other = server.connect(transport, &other).await;
    let mut receiver = server.connect(transport, &bob).await;
    let sent = sender.send(&ephemeral(bob.user_id, "typing")).await;
    assert_eq!((sent.seq, sent.message_id), (0, 0));
    for connection in [&mut receiver, &mut own_other] {
        let message = connection.push().await;
        assert_eq!(words(&message), "typing");
        assert_eq!((message.seq, message.message_id), (0, 0));
        assert_eq!(message.sender.expect("a sender").sender_id, alice.user_id);
    }
    // The next stored message is the first of both timelines.
    let stored = server.send(&bob, text(alice.user_id, "stored")).await;
    assert_eq!(stored.seq, 1);
    assert_eq!(words(&sender.push().await), "stored", "not its own");
    for user in [&alice, &bob] {
        let timeline: Vec<_> = server.timeline(user).await.iter().map(words).collect();
        assert_eq!(timeline, ["stored"]);
    }
}

async fn ephemeral_messages_keep_the_order_of_their_sender(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut sender = server.connect(transport, &alice).await;
    let mut receiver = server.connect(transport, &bob).await;
    for n in 0..40 {
        let request = match n % 2 {
            0 => ephemeral(bob.user_id, &n.to_string()),
            _ => text(bob.user_id, &n.to_string()),
        };
        sender.send(&request).await;
    }
    let received: Vec<_> = receiver.pushed(40).await.iter().map(words).collect();
    let expected: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    assert_eq!(received, expected);
}

async fn whoever_is_offline_misses_an_ephemeral_message(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.send(&alice, ephemeral(bob.user_id, "missed")).await;
    let mut receiver = server.connect(transport, &bob).await;
    server.send(&alice, ephemeral(bob.user_id, "seen")).await;
    assert_eq!(words(&receiver.push().await), "seen");
    assert!(receiver.sync_from_start().await.is_empty());
}
