//! A Redis that dies, hangs, forgets, or is too fast.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_was_killed_or_flushed_is_used_again_and_the_loss_reported() {
    let mut redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let mut session = b.follow(user(1)).await;
    carry(&a, &b, &mut session, user(1), 1).await;
    assert_eq!(redis.ask("FLUSHALL").await, "+OK\r\n");
    carry(&a, &b, &mut session, user(1), 2).await;

    redis.down();
    let dropped = a.metrics.bridge.publish_dropped.get();
    until("what is published is dropped", || {
        a.publish(user(1), 3);
        a.metrics.bridge.publish_dropped.get() > dropped
    })
    .await;
    // Nobody waits for a Redis that is away.
    let other = tokio::time::timeout(LONG, b.follow(user(2)));
    let mut other = other.await.expect("it is away, and known to be");
    let reported = b.metrics.bridge.discontinuities.get();
    assert!(redis.up().await);
    until("the loss is reported", || {
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;
    a.connects().await;
    carry(&a, &b, &mut other, user(2), 1).await;
    session.lease.advance_to(Seq(3));
    session.position.seq = Seq(3);
    carry(&a, &b, &mut session, user(1), 4).await;
    assert!(b.metrics.bridge.reconnects.get() >= 1);
    a.stop().await;
    b.stop().await;
}

/// Half-open connections and a server that hangs look the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_does_not_answer_is_noticed_and_given_up() {
    let redis = RedisServer::start().await;
    let (to_a, to_b) = (Proxy::before(&redis).await, Proxy::before(&redis).await);
    let (a, b) = (
        Node::connected(&to_a.url(), 1).await,
        Node::connected(&to_b.url(), 2).await,
    );
    let mut session = b.follow(user(1)).await;
    let reported = b.metrics.bridge.discontinuities.get();
    let dropped = a.metrics.bridge.publish_dropped.get();
    to_a.swallow();
    a.publish(user(1), 1);
    // By what is published: a heartbeat in vain would count nothing.
    until("the publishing is given up", || {
        a.metrics.bridge.publish_dropped.get() > dropped
    })
    .await;
    to_a.pass();
    until("the loss is told", || {
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;

    let (reconnects, connections) = (b.metrics.bridge.reconnects.get(), to_b.connections());
    to_b.swallow();
    // It notices by itself, without anybody who does anything.
    until("it tries anew", || to_b.connections() > connections).await;
    to_b.pass();
    until("it connects again", || {
        b.metrics.bridge.reconnects.get() > reconnects
    })
    .await;
    until("that is reported", || {
        b.metrics.bridge.discontinuities.get() > reported + 1
    })
    .await;
    a.connects().await;
    session.lease.advance_to(Seq(1));
    session.position.seq = Seq(1);
    carry(&a, &b, &mut session, user(1), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis_holds_nobody_up_and_is_used_again() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let dropped = a.metrics.bridge.publish_dropped.get();
    redis.freeze();
    let begun = std::time::Instant::now();
    drop(b.follow(user(1)).await);
    for seq in 1..=10_000 {
        a.publish(user(1), seq);
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
    until("the publishing is given up", || {
        a.metrics.bridge.publish_dropped.get() > dropped
    })
    .await;
    let reported = b.metrics.bridge.discontinuities.get();
    redis.thaw();
    until("it is back", || {
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;
    a.connects().await;
    let mut session = b.follow(user(2)).await;
    carry(&a, &b, &mut session, user(2), 1).await;
}

/// Redis unsubscribes whoever follows a channel of the slot, and b does nothing that would be sent
/// to the node that has it now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_whose_slot_moves_to_another_node_is_reported_and_received_again() {
    let nodes = RedisServer::cluster_of_two().await;
    let url = nodes[0].cluster_url();
    let (a, b) = (
        Node::connected(&url, 1).await,
        Node::connected(&url, 2).await,
    );
    let mut session = b.follow(user(1)).await;
    carry(&a, &b, &mut session, user(1), 1).await;
    let slot = nodes[0].slot("test:u:1").await;
    let (from, to) = match slot < 8192 {
        true => (&nodes[0], &nodes[1]),
        false => (&nodes[1], &nodes[0]),
    };
    let reported = b.metrics.bridge.discontinuities.get();
    from.move_slot(slot, to).await;
    until("the loss is reported", || {
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;
    carry(&a, &b, &mut session, user(1), 2).await;
}

/// As after a failover that closes no connection: it takes what is published, and only those who
/// are still there hear it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_becomes_a_replica_is_left_until_it_is_a_primary_and_the_loss_reported() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let mut session = b.follow(user(1)).await;
    let reported = b.metrics.bridge.discontinuities.get();
    let dropped = a.metrics.bridge.publish_dropped.get();
    // Nobody answers there.
    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1").await, "+OK\r\n");
    until("what is published is dropped", || {
        a.router.tell(News::Profile(UserId(0)));
        a.metrics.bridge.publish_dropped.get() > dropped
    })
    .await;
    assert_eq!(redis.ask("REPLICAOF NO ONE").await, "+OK\r\n");
    until("the loss is reported", || {
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;
    a.connects().await;
    carry(&a, &b, &mut session, user(1), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_who_may_not_ask_what_the_server_is_is_served() {
    let redis = RedisServer::start().await;
    let forbid = redis.ask("ACL SETUSER default -role").await;
    assert_eq!(forbid, "+OK\r\n");
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let mut session = b.follow(user(1)).await;
    carry(&a, &b, &mut session, user(1), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_came_too_fast_are_reported() {
    let redis = RedisServer::start().await;
    let a = Node::connected(&redis.url(), 1).await;
    let (hold, held) = std::sync::mpsc::sync_channel::<()>(0);
    let (entered, enters) = std::sync::mpsc::sync_channel::<()>(BRIDGE_INBOX_MAX);
    let b = Node::with(&redis.url(), 2, move || {
        // Until the test lets go of it.
        let _ = entered.try_send(());
        let _ = held.recv();
    });
    // The first discontinuity is being taken.
    tokio::task::block_in_place(|| enters.recv().unwrap());
    let published = a.metrics.bridge.published.get();
    let count = 2 * BRIDGE_INBOX_MAX as u64;
    let tell = || {
        for user in 0..count {
            a.router.tell(News::Profile(UserId(user as i64)));
        }
    };
    let bridge = &a.metrics.bridge;
    let all_are = || bridge.published.get() >= published + count;
    until_carried(&a, &b, tell, async || {
        until("all are published", all_are).await
    })
    .await;
    // Redis gives them to b's client in its own time; the last one is waited for.
    let reported = b.metrics.bridge.discontinuities.get();
    drop(hold);
    until("the loss is reported", || {
        a.router.tell(News::Profile(UserId(-1)));
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;
    until("it goes on", || {
        let news = b.news.lock().unwrap();
        news.contains(&News::Profile(UserId(-1)))
    })
    .await;
}

/// Redis hangs: what waits to be published cannot be, and the acks of devices come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_waits_only_a_moment_for_a_redis_that_hangs() {
    let redis = RedisServer::start().await;
    let a = Node::connected(&redis.url(), 1).await;
    redis.freeze();
    for seq in 1..=10_000 {
        a.publish(user(1), seq);
    }
    let begun = std::time::Instant::now();
    a.stop().await;
    assert!(begun.elapsed() < 30 * crate::limits::BRIDGE_STOP_MAX);
    redis.thaw();
}
