//! While a device pulls pages nothing of that timeline is pushed to it; after the last page pushing
//! goes on from there.

use crate::support::{
    Connection, Device, Server, Transport,
    messages::{seqs, text},
};

on_each_transport!(
    pushes_are_held_between_pages_and_go_on_after_the_last,
    a_sync_that_is_given_up_goes_on_by_push,
    a_sync_amid_live_traffic_gives_everything_once,
);

/// A receiver who lacks 60 messages and has taken the first page of them.
async fn in_mid_sync(server: &Server, transport: Transport) -> (Device, Device, Connection) {
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for _ in 0..60 {
        server.send(&alice, text(bob.user_id, "x")).await;
    }
    let mut connection = server.connect(transport, &bob).await;
    let page = connection.sync_after(0).await;
    assert_eq!(page.messages.len(), 50);
    assert!(page.has_more);
    (alice, bob, connection)
}

async fn pushes_are_held_between_pages_and_go_on_after_the_last(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob, mut syncing) = in_mid_sync(&server, transport).await;
    let other = server.another_device_of(&bob).await;
    let mut witness = server.connect(transport, &other).await;
    server.send(&alice, text(bob.user_id, "held")).await;
    assert_eq!(witness.push().await.seq, 61, "others are pushed to");
    syncing.heartbeat().await;
    assert!(syncing.take_pushes().is_empty(), "held");

    let page = syncing.sync_after(50).await;
    assert_eq!(seqs(&page.messages), (51..=61).collect::<Vec<_>>());
    assert!(!page.has_more);
    server.send(&alice, text(bob.user_id, "pushed")).await;
    assert_eq!(
        syncing.push().await.seq,
        62,
        "nothing twice, nothing left out"
    );
}

async fn a_sync_that_is_given_up_goes_on_by_push(transport: Transport) {
    let server = Server::with(|config| config.session.sync_hold_s = 1).await;
    let (alice, bob, mut connection) = in_mid_sync(&server, transport).await;
    server.send(&alice, text(bob.user_id, "x")).await;
    let pushed = connection.pushed(11).await;
    assert_eq!(
        seqs(&pushed),
        (51..=61).collect::<Vec<_>>(),
        "from its position"
    );
}

async fn a_sync_amid_live_traffic_gives_everything_once(transport: Transport) {
    const COUNT: i64 = 400;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let sending = {
        let (api, to) = (server.clone_api(), bob.user_id);
        tokio::spawn(async move {
            let mut sender = api.connect(transport, &alice).await;
            for _ in 0..COUNT {
                sender.send(&text(to, "x")).await;
            }
        })
    };
    let mut connection = server.connect(transport, &bob).await;
    // Pushes that come before the first page was asked for are what that page gives again.
    let mut page = connection.sync_after(0).await;
    connection.take_pushes();
    let mut received = page.messages.clone();
    while page.has_more {
        page = connection.sync_after(received.len() as i64).await;
        received.append(&mut page.messages.clone());
    }
    while received.len() < COUNT as usize {
        received.push(connection.push().await);
    }
    assert_eq!(seqs(&received), (1..=COUNT).collect::<Vec<_>>());
    assert!(connection.take_pushes().is_empty());
    sending.await.expect("no panic");
}
