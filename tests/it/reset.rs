//! A cursor that the server cannot honour is answered with `reset`, never with silence (I10).

use im::pb::SyncInput;
use test_servers::Engine;

use crate::support::{
    Process, Server, Transport,
    messages::{seqs, text},
};

on_each_transport!(
    a_cursor_ahead_of_the_head_is_reset,
    a_cursor_of_another_epoch_is_reset,
);

async fn a_cursor_ahead_of_the_head_is_reset(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &bob).await;
    assert!(
        connection.sync_after(1).await.reset,
        "an empty timeline too"
    );
    for _ in 0..60 {
        server.send(&alice, text(bob.user_id, "x")).await;
    }
    for ahead in [61, 1_000_000, i64::MAX] {
        let page = connection.sync_after(ahead).await;
        assert!(page.reset, "{ahead}");
        assert_eq!(
            seqs(&page.messages),
            (1..=50).collect::<Vec<_>>(),
            "from the start"
        );
        assert!(page.has_more);
        let rest = connection.sync_after(50).await;
        assert!(!rest.reset && !rest.has_more);
        assert_eq!(seqs(&rest.messages), (51..=60).collect::<Vec<_>>());
    }
    assert!(
        !connection.sync_after(60).await.reset,
        "the head itself is right"
    );
}

async fn a_cursor_of_another_epoch_is_reset(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for _ in 0..3 {
        server.send(&alice, text(bob.user_id, "x")).await;
    }
    let mut connection = server.connect(transport, &bob).await;
    let epoch = connection.sync_after(2).await.epoch;
    let ask = |epoch| SyncInput {
        seq: 2,
        epoch,
        ..Default::default()
    };
    for (given, reset) in [(0, false), (epoch, false), (epoch.wrapping_add(1), true)] {
        let page = connection.sync(ask(given)).await;
        assert_eq!(page.reset, reset, "{given} against {epoch}");
        assert_eq!(page.epoch, epoch);
        let expected: &[i64] = if reset { &[1, 2, 3] } else { &[3] };
        assert_eq!(seqs(&page.messages), expected);
    }
}

/// After a restore from a backup the operator renews the epoch.
#[tokio::test]
async fn renewing_the_epoch_resets_every_cursor() {
    let mut server = Process::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for _ in 0..3 {
        server.send(&alice, text(bob.user_id, "x")).await;
    }
    let mut connection = server.connect(Transport::Tcp, &bob).await;
    let epoch = connection.sync_after(3).await.epoch;
    if server.database().engine() == Engine::Sqlite {
        let refused = server.run(&["epoch", "renew"]);
        let code = refused.status.code();
        assert_eq!(
            code,
            Some(1),
            "a file belongs to the server that runs on it"
        );
    }
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
    let renewed = server.run(&["epoch", "renew"]);
    assert_eq!(renewed.status.code(), Some(0), "{renewed:?}");
    server.start_again().await;
    let mut connection = server.connect(Transport::Tcp, &bob).await;
    let page = connection
        .sync(SyncInput {
            seq: 3,
            epoch,
            ..Default::default()
        })
        .await;
    assert!(page.reset);
    assert_ne!(page.epoch, epoch);
    assert_eq!(seqs(&page.messages), [1, 2, 3]);
}
