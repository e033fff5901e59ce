//! Sync: pages by count and by size, from where, and how far.

use im::pb::SyncInput;

use crate::support::{
    Connection, Device, Server, Transport,
    errors::assert_code,
    messages::{seqs, sized, text},
    wait::eventually,
};

on_each_transport!(
    pages_hold_at_most_fifty_messages,
    pages_of_large_messages_fit_a_frame,
    from_start_gives_a_new_device_everything,
    seq_zero_begins_after_what_any_device_of_the_user_has_acknowledged,
    an_empty_timeline_is_an_empty_page,
    cursors_of_groups_one_is_not_in_are_ignored,
    asking_again_gives_again,
);

/// `count` small messages to `to`.
async fn fill(server: &Server, from: &Device, to: &Device, count: usize) {
    let mut connection = server.connect(Transport::Tcp, from).await;
    let package = im::pb::PackageType::PtSendMessage;
    let request = text(to.user_id, "x");
    let mut sends = Vec::new();
    for _ in 0..count {
        sends.push(connection.start(package, &request).await);
    }
    for send in sends {
        assert_code(&connection.answer(send).await, 0);
    }
}

async fn pages_hold_at_most_fifty_messages(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    fill(&server, &alice, &bob, 120).await;
    let mut connection = server.connect(transport, &bob).await;
    for (after, page_seqs, more) in [
        (0, 1..=50, true),
        (50, 51..=100, true),
        (100, 101..=120, false),
    ] {
        let page = connection.sync_after(after).await;
        assert_eq!(seqs(&page.messages), page_seqs.collect::<Vec<i64>>());
        assert_eq!(page.has_more, more, "after {after}");
        assert!(!page.reset);
    }
    let page = connection.sync_after(70).await;
    assert_eq!(seqs(&page.messages), (71..=120).collect::<Vec<i64>>());
    assert!(!page.has_more, "exactly fifty are left");
    assert!(connection.sync_after(120).await.messages.is_empty());
}

async fn pages_of_large_messages_fit_a_frame(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let sizes = [
        60_000, 60_000, 100, 60_000, 30_000, 30_000, 30_000, 5, 60_000,
    ];
    let mut sender = server.connect(transport, &alice).await;
    for size in sizes {
        sender.send(&sized(bob.user_id, size)).await;
    }
    let mut connection = server.connect(transport, &bob).await;
    let mut received = Vec::new();
    let mut pages = 0;
    loop {
        let page = connection.sync_after(received.len() as i64).await;
        assert!(!page.messages.is_empty(), "every page gets on");
        let bytes: usize = page.messages.iter().map(|m| m.message_content.len()).sum();
        assert!(bytes <= 65_535);
        received.extend(page.messages);
        pages += 1;
        if !page.has_more {
            break;
        }
    }
    let lengths: Vec<_> = received.iter().map(|m| m.message_content.len()).collect();
    assert_eq!(lengths, sizes);
    assert_eq!(seqs(&received), (1..=9).collect::<Vec<_>>());
    assert!(
        (6..=9).contains(&pages),
        "no page holds two of 60,000: {pages}"
    );
}

async fn from_start_gives_a_new_device_everything(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    fill(&server, &alice, &bob, 70).await;
    let mut old = server.connect(transport, &bob).await;
    old.ack(70).await;
    wait_for_unacknowledged(&mut old, &[]).await;
    let new = server.another_device_of(&bob).await;
    let mut connection = server.connect(transport, &new).await;
    let page = connection
        .sync(SyncInput {
            from_start: true,
            seq: 33, // ignored
            ..Default::default()
        })
        .await;
    assert_eq!(seqs(&page.messages), (1..=50).collect::<Vec<_>>());
    assert!(page.has_more && !page.reset);
    assert_eq!(connection.sync_from_start().await.len(), 70);
}

/// Asks with seq = 0 until exactly `expected` comes.
async fn wait_for_unacknowledged(connection: &mut Connection, expected: &[i64]) {
    eventually("what is not acknowledged", async || {
        let page = connection.sync_after(0).await;
        (seqs(&page.messages) == expected).then_some(())
    })
    .await;
}

async fn seq_zero_begins_after_what_any_device_of_the_user_has_acknowledged(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    fill(&server, &alice, &bob, 10).await;
    let (first, second) = (
        server.another_device_of(&bob).await,
        server.another_device_of(&bob).await,
    );
    let mut asking = server.connect(transport, &bob).await;
    assert_eq!(
        asking.sync_after(0).await.messages.len(),
        10,
        "nothing is acknowledged"
    );
    server
        .connect(transport, &first)
        .await
        .ack_and_wait(4)
        .await;
    wait_for_unacknowledged(&mut asking, &[5, 6, 7, 8, 9, 10]).await;
    // The highest counts, whichever device it came from.
    server
        .connect(transport, &second)
        .await
        .ack_and_wait(8)
        .await;
    wait_for_unacknowledged(&mut asking, &[9, 10]).await;
}

async fn an_empty_timeline_is_an_empty_page(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    for from_start in [false, true] {
        let page = connection
            .sync(SyncInput {
                from_start,
                ..Default::default()
            })
            .await;
        assert!(page.messages.is_empty() && page.groups.is_empty());
        assert!(!page.has_more && !page.reset);
    }
}

async fn cursors_of_groups_one_is_not_in_are_ignored(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    fill(&server, &alice, &bob, 3).await;
    let mut connection = server.connect(transport, &bob).await;
    let page = connection
        .sync(SyncInput {
            group_seqs: [(1, 0), (77, 5)].into(),
            ..Default::default()
        })
        .await;
    assert_eq!(page.messages.len(), 3);
    assert!(page.groups.is_empty() && !page.has_more);
}

async fn asking_again_gives_again(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &bob).await;
    fill(&server, &alice, &bob, 3).await;
    assert_eq!(seqs(&connection.pushed(3).await), [1, 2, 3]);
    assert_eq!(seqs(&connection.sync_after(1).await.messages), [2, 3]);
    assert_eq!(seqs(&connection.sync_after(1).await.messages), [2, 3]);
    // What follows is pushed once.
    fill(&server, &alice, &bob, 2).await;
    assert_eq!(seqs(&connection.pushed(2).await), [4, 5]);
}

/// What was written before a restart is there after it.
#[tokio::test]
async fn a_timeline_survives_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    fill(&server, &alice, &bob, 5).await;
    let before = server.timeline(&bob).await;
    let mut connection = server.connect(Transport::Tcp, &bob).await;
    let epoch = connection.sync_after(0).await.epoch;
    server.restart().await;
    assert_eq!(server.timeline(&bob).await, before);
    let mut connection = server.connect(Transport::Tcp, &bob).await;
    assert_eq!(connection.sync_after(0).await.epoch, epoch);
}
