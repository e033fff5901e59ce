//! Order and exactness: many senders at once, many receivers, and pipelined sends.

use std::collections::HashSet;

use im::pb::{Message, PackageType};

use crate::support::{
    Device, Server, Transport,
    connection::sent,
    history::History,
    messages::{seqs, text_with_id},
    wait::soon,
    wire::BOTH,
};

const SENDERS: usize = 12;
const SENDS_EACH: usize = 60;

on_each_transport!(
    many_concurrent_senders_lose_repeat_and_reorder_nothing,
    pipelined_sends_are_appended_in_their_order,
    two_devices_that_talk_at_once_are_given_everything_but_their_own_sends,
);

async fn many_concurrent_senders_lose_repeat_and_reorder_nothing(transport: Transport) {
    let server = Server::start().await;
    let bob = server.new_user().await;
    let mut receivers = Vec::new();
    for other in BOTH {
        let device = server.another_device_of(&bob).await;
        receivers.push(server.connect(other, &device).await);
    }
    let mut senders = Vec::new();
    for index in 0..SENDERS {
        let device = server.new_user().await;
        let (api, to) = (server.clone_api(), bob.user_id);
        senders.push(tokio::spawn(async move {
            let over_grpc = index % 2 == 0;
            let mut connection = api.connect(transport, &device).await;
            let mut history = History::default();
            for n in 0..SENDS_EACH {
                let id = format!("{index}-{n}");
                history.attempted(&id, device.user_id, to);
                let request = text_with_id(to, "x", &id);
                let result = if over_grpc {
                    api.send(&device, request).await
                } else {
                    connection.send(&request).await
                };
                history.acknowledged(&id, result);
            }
            (device, history)
        }));
    }
    let mut history = History::default();
    for receiver in &mut receivers {
        let messages = receiver.pushed(SENDERS * SENDS_EACH).await;
        assert_eq!(messages[0].seq, 1, "from the head at sign-in");
        assert_each_sender_in_order(&messages);
        history.delivered(bob.user_id, messages, HashSet::new());
    }
    for sender in senders {
        let (device, part) = soon("a sender", sender).await.expect("no panic");
        history.merge(part);
        history.timeline(device.user_id, server.timeline(&device).await);
    }
    history.timeline(bob.user_id, server.timeline(&bob).await);
    history.check();
}

/// Whoever waits for each reply has his messages in his order everywhere.
fn assert_each_sender_in_order(messages: &[Message]) {
    for sender in 0..SENDERS {
        let prefix = format!("{sender}-");
        let ids = messages.iter().map(|m| &m.client_message_id);
        let own: Vec<_> = ids.filter(|id| id.starts_with(&prefix)).collect();
        let expected: Vec<_> = (0..SENDS_EACH).map(|n| format!("{sender}-{n}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

async fn pipelined_sends_are_appended_in_their_order(transport: Transport) {
    const COUNT: i64 = 600;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut receiver = server.connect(transport, &bob).await;
    let mut sender = server.connect(transport, &alice).await;
    let mut requests = Vec::new();
    for n in 1..=COUNT {
        let request = text_with_id(bob.user_id, "x", &n.to_string());
        requests.push(sender.start(PackageType::PtSendMessage, &request).await);
    }
    for (n, request_id) in (1..=COUNT).zip(requests) {
        let answer = sender.answer(request_id).await;
        assert_eq!(sent(&answer).seq, n, "the sends keep their order");
    }
    let messages = receiver.pushed(COUNT as usize).await;
    assert_eq!(seqs(&messages), (1..=COUNT).collect::<Vec<_>>());
    let expected: Vec<_> = (1..=COUNT).map(|n| n.to_string()).collect();
    let ids: Vec<_> = messages.into_iter().map(|m| m.client_message_id).collect();
    assert_eq!(ids, expected);
}

async fn two_devices_that_talk_at_once_are_given_everything_but_their_own_sends(
    transport: Transport,
) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let talk = async |from: &Device, to: &Device| {
        let mut connection = server.connect(transport, from).await;
        let mut history = History::default();
        let mut own = HashSet::new();
        for n in 0..150 {
            let id = format!("{}-{n}", from.user_id);
            history.attempted(&id, from.user_id, to.user_id);
            let result = connection.send(&text_with_id(to.user_id, "x", &id)).await;
            own.insert(result.seq);
            history.acknowledged(&id, result);
        }
        // Until the last of the 300 is seen, pushed or as a reply.
        let mut pushed = connection.take_pushes();
        while !(own.contains(&300) || pushed.last().is_some_and(|m| m.seq == 300)) {
            pushed.push(connection.push().await);
        }
        history.delivered(from.user_id, pushed, own);
        history
    };
    let (mut history, other) = tokio::join!(talk(&alice, &bob), talk(&bob, &alice));
    history.merge(other);
    for device in [&alice, &bob] {
        history.timeline(device.user_id, server.timeline(device).await);
    }
    history.check();
}
