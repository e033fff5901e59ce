//! Two instances and a Redis server of their own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;
use crate::{
    delivery::{
        bridge::Incoming,
        feed::{FollowerKey, Position, Read},
        handle::Handle,
        push::Template,
        router::{Lease, Router},
    },
    id::{DeviceId, GroupId, UserId},
    pb,
    testing::redis::{Proxy, RedisServer},
};

/// How long a test waits for what must come: longer than a hanging Redis is noticed.
const LONG: Duration = Duration::from_secs(30);
const READER: DeviceId = DeviceId(2);

/// An instance: a router, its bridge, and what came over it.
struct Node {
    router: Arc<Router>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    news: Arc<Mutex<Vec<News>>>,
}

/// A session that follows one topic.
struct Session {
    lease: Lease,
    handle: Arc<Handle>,
    key: FollowerKey,
    position: Position,
    given: Vec<i64>,
}

impl Node {
    fn new(url: &str, instance: u64) -> Self {
        Self::with(url, instance, || {})
    }

    /// As [`Node::new`]; `before` runs before anything is taken from the inbox.
    fn with(url: &str, instance: u64, before: impl Fn() + Send + 'static) -> Self {
        Self::of(7, url, instance, before)
    }

    /// As [`Node::with`], in a cluster of another number than all others.
    fn of(cluster: u64, url: &str, instance: u64, before: impl Fn() + Send + 'static) -> Self {
        let (tasks, metrics) = (Tasks::default(), Arc::new(Metrics::default()));
        let (redis, inbox) = Redis::connect(&Options {
            url,
            prefix: "test",
            cluster,
            instance,
            tasks: &tasks,
            metrics: &metrics,
        })
        .unwrap();
        let router = Router::new(Arc::new(redis), tasks.clone(), Arc::clone(&metrics));
        let (router, news) = (Arc::new(router), Arc::new(Mutex::new(Vec::new())));
        let (offers, told) = (Arc::clone(&router), Arc::clone(&news));
        let take = move |incoming| {
            before();
            match incoming {
                Incoming::Push { topic, push, after } => offers.offer(topic, push, after),
                Incoming::Head { topic, seq } => offers.has_come_to(topic, seq),
                Incoming::News(news) => told.lock().unwrap().push(news),
                Incoming::Discontinuity => {}
            }
        };
        tasks.spawn_critical("inbox", inbox.run(tasks.stop().clone(), take));
        Self {
            router,
            metrics,
            tasks,
            news,
        }
    }

    async fn connected(url: &str, instance: u64) -> Self {
        let node = Self::new(url, instance);
        node.connects().await;
        node
    }

    /// Waits until both connections are there.
    async fn connects(&self) {
        until("it connects", || {
            self.metrics.bridge.discontinuities.get() > 0
        })
        .await;
        // What is published before there is a connection is dropped.
        let published = self.metrics.bridge.published.get();
        until("it publishes", || {
            self.router.tell(News::Profile(UserId(0)));
            self.metrics.bridge.published.get() > published
        })
        .await;
    }

    async fn follow(&self, topic: Topic) -> Session {
        let lease = self.router.lease(topic).await;
        lease.open(Seq::ZERO);
        let handle = Arc::new(Handle::new(READER));
        let (key, position) = lease.follow(Arc::clone(&handle), 0, None);
        Session {
            lease,
            handle,
            key,
            position,
            given: Vec::new(),
        }
    }

    fn publish(&self, topic: Topic, seq: i64) {
        let message = pb::Message {
            message_id: seq,
            ..Default::default()
        };
        let template = Arc::new(Template::new(message, DeviceId(1)));
        self.router.publish(topic, Seq(seq), &template);
    }

    async fn stop(self) {
        self.tasks.stop().cancel();
        let finished = tokio::time::timeout(LONG, self.tasks.finished());
        finished.await.expect("it stops");
    }
}

impl Session {
    fn read(&mut self) -> Read {
        let Self {
            lease,
            key,
            position,
            given,
            ..
        } = self;
        let take = |push: &Push| {
            given.push(push.seq.get());
            true
        };
        lease.read(*key, position, READER, take).0
    }

    async fn until_given(&mut self, count: usize) {
        let reading = async {
            while self.read() != Read::UpToDate || self.given.len() < count {
                self.handle.woken().await;
            }
        };
        let in_time = tokio::time::timeout(LONG, reading).await.is_ok();
        assert!(in_time, "{count} are given, but for {:?}", self.given.len());
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect(what);
}

fn user(id: i64) -> Topic {
    Topic::User(UserId(id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_reach_other_instances_in_order_and_echoes_nobody() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let mut readers = Vec::new();
    for id in 0..4 {
        readers.push((a.follow(user(id)).await, b.follow(user(id)).await));
    }
    let before = a.metrics.bridge.received.get();
    for seq in 1..=500 {
        (0..4).for_each(|id| a.publish(user(id), seq));
    }
    for (own, other) in &mut readers {
        other.until_given(500).await;
        assert!(other.given.iter().copied().eq(1..=500));
        own.until_given(500).await;
        assert!(own.given.iter().copied().eq(1..=500));
    }
    assert_eq!(a.metrics.bridge.received.get(), before);
    assert_eq!(b.metrics.gaps_filled.get(), 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_published_after_a_lease_is_missed() {
    for is_cluster in [false, true] {
        let redis = match is_cluster {
            true => RedisServer::cluster().await,
            false => RedisServer::start().await,
        };
        let url = match is_cluster {
            true => redis.cluster_url(),
            false => redis.url(),
        };
        let (a, b) = (
            Node::connected(&url, 1).await,
            Node::connected(&url, 2).await,
        );
        for id in 1..=200 {
            let mut session = b.follow(user(id)).await;
            a.publish(user(id), 1);
            session.until_given(1).await;
        }
        until("all are unsubscribed", || {
            b.metrics.bridge.subscriptions.get() == 0
        })
        .await;
        let channels = match is_cluster {
            true => redis.ask("PUBSUB SHARDCHANNELS test:u:*").await,
            false => redis.ask("PUBSUB CHANNELS test:u:*").await,
        };
        assert_eq!(channels, "*0\r\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_left_and_followed_again_at_once_is_received() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let b = Arc::new(b);
    let storm = (0..8).map(|worker| {
        let b = Arc::clone(&b);
        let tasks = b.tasks.clone();
        tasks.spawn(async move {
            for round in 0..100 {
                let lease = b.router.lease(user((worker + round) % 3)).await;
                if round % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                drop(lease);
            }
        })
    });
    let storm: Vec<_> = storm.collect();
    for seq in 1..=100 {
        let mut session = b.follow(user(seq % 3)).await;
        let before = session.lease.head().unwrap_or_default().get();
        a.publish(user(seq % 3), before + 1);
        session.until_given(1).await;
    }
    for worker in storm {
        worker.await.unwrap();
    }
    until("all are unsubscribed", || {
        b.metrics.bridge.subscriptions.get() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_was_killed_or_flushed_is_used_again_and_the_loss_reported() {
    let mut redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let mut session = b.follow(user(1)).await;
    a.publish(user(1), 1);
    session.until_given(1).await;
    assert_eq!(redis.ask("FLUSHALL").await, "+OK\r\n");
    a.publish(user(1), 2);
    session.until_given(2).await;

    redis.down();
    let dropped = a.metrics.bridge.publish_dropped.get();
    until("what is published is dropped", || {
        a.publish(user(1), 3);
        a.metrics.bridge.publish_dropped.get() > dropped
    })
    .await;
    // Nobody waits for a Redis that is away.
    let other = tokio::time::timeout(Duration::from_secs(5), b.follow(user(2)));
    let mut other = other.await.expect("it is away, and known to be");
    let reported = b.metrics.bridge.discontinuities.get();
    assert!(redis.up().await);
    until("the loss is reported", || {
        b.metrics.bridge.discontinuities.get() > reported
    })
    .await;
    a.connects().await;
    a.publish(user(2), 1);
    other.until_given(1).await;
    session.lease.advance_to(Seq(3));
    session.position.seq = Seq(3);
    a.publish(user(1), 4);
    session.until_given(3).await;
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
    to_a.swallow();
    let begun = std::time::Instant::now();
    a.publish(user(1), 1);
    until("the publishing is given up", || {
        a.metrics.bridge.publish_dropped.get() > 0
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(3));
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
    a.publish(user(1), 2);
    session.until_given(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis_holds_nobody_up_and_is_used_again() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    redis.freeze();
    let begun = std::time::Instant::now();
    drop(b.follow(user(1)).await);
    for seq in 1..=10_000 {
        a.publish(user(1), seq);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    until("the publishing is given up", || {
        a.metrics.bridge.publish_dropped.get() > 0
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
    a.publish(user(2), 1);
    session.until_given(1).await;
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
    for user in 0..count {
        a.router.tell(News::Profile(UserId(user as i64)));
    }
    until("all are published", || {
        a.metrics.bridge.published.get() >= published + count
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

#[tokio::test]
async fn what_cannot_be_published_is_counted_and_told_once_it_can() {
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(Arc::clone(&metrics));
    let dropped = || metrics.bridge.publish_dropped.get();
    outbox.put(Item::News(News::HintsLost));
    assert_eq!(dropped(), 1, "there is no connection");
    outbox.open();
    assert!(outbox.take_loss() && !outbox.take_loss());
    for _ in 0..crate::limits::BRIDGE_QUEUE_MAX + 2 {
        outbox.put(Item::News(News::Profile(UserId(1))));
    }
    assert_eq!(dropped(), 3, "it is full");
    assert!(outbox.take_loss());
    outbox.close(&[Item::News(News::HintsLost)]);
    let all = crate::limits::BRIDGE_QUEUE_MAX as u64;
    assert_eq!(dropped(), 3 + all + 1);
    assert!(outbox.take_loss());

    outbox.open();
    let before = dropped();
    for _ in 0..1_000 {
        outbox.put(Item::Push(user(1), large().push(Seq(1)), Seq::ZERO));
    }
    assert!(dropped() > before, "it is bounded in bytes too");
    let mut batch = Vec::new();
    outbox.take(&mut batch);
    assert!(batch.len() < 10);
}

fn large() -> Arc<Template> {
    let message = pb::Message {
        message_content: vec![0; 60_000].into(),
        ..Default::default()
    };
    Arc::new(Template::new(message, DeviceId(1)))
}

#[tokio::test]
async fn large_message_to_many_timelines_takes_the_room_of_a_few() {
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(Arc::clone(&metrics));
    outbox.open();
    for round in 1..=20 {
        let large = large();
        for id in 1..=500 {
            outbox.put(Item::Push(user(id), large.push(Seq(round)), Seq::ZERO));
        }
    }
    assert_eq!(metrics.bridge.publish_dropped.get(), 0);
    let (mut batch, mut bodies, mut heads) = (Vec::new(), 0, 0);
    loop {
        outbox.take(&mut batch);
        if batch.is_empty() {
            break;
        }
        for item in batch.drain(..) {
            match item {
                Item::Push(..) => bodies += 1,
                Item::Head(..) => heads += 1,
                Item::News(_) => {}
            }
        }
    }
    assert_eq!(bodies, 20 * crate::limits::BRIDGE_COPIES_MAX);
    assert_eq!(bodies + heads, 20 * 500);
}

/// Comparing with the database would not bring it back.
#[tokio::test]
async fn ephemeral_message_that_is_dropped_is_no_loss_to_tell() {
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(Arc::clone(&metrics));
    let ephemeral = || Item::Push(user(1), large().push(Seq::ZERO), Seq::ZERO);
    outbox.put(ephemeral());
    outbox.close(&[ephemeral()]);
    assert_eq!(metrics.bridge.publish_dropped.get(), 2);
    assert!(!outbox.take_loss());
    outbox.put(Item::Head(user(1), Seq(1)));
    assert!(outbox.take_loss());
}

#[tokio::test]
async fn who_publishes_much_waits_for_room_but_not_for_a_redis_that_is_away() {
    let outbox = Outbox::new(Arc::default());
    outbox.has_room().await;
    outbox.open();
    for id in 0..crate::limits::BRIDGE_QUEUE_MAX as i64 {
        outbox.put(Item::Head(user(id), Seq(1)));
    }
    let mut waiting = Box::pin(outbox.has_room());
    assert!((&mut waiting).now_or_never().is_none());
    for _ in 0..crate::limits::BRIDGE_QUEUE_MAX / 2 / crate::limits::BRIDGE_BATCH_MAX {
        outbox.take(&mut Vec::new());
    }
    waiting.await;
    for id in 0..crate::limits::BRIDGE_QUEUE_MAX as i64 {
        outbox.put(Item::Head(user(id), Seq(1)));
    }
    let mut waiting = Box::pin(outbox.has_room());
    assert!((&mut waiting).now_or_never().is_none());
    outbox.close(&[]);
    waiting.await;
}

/// As when two clusters are given one Redis by mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_on_another_database_are_not_heard() {
    let redis = RedisServer::start().await;
    let a = Node::connected(&redis.url(), 1).await;
    let b = Node::connected(&redis.url(), 2).await;
    let stranger = Node::of(8, &redis.url(), 3, || {});
    stranger.connects().await;
    let mut session = b.follow(user(1)).await;
    let ignored = b.metrics.bridge.ignored.get();
    stranger.publish(user(1), 1);
    until("it is ignored", || b.metrics.bridge.ignored.get() > ignored).await;
    assert_eq!(session.lease.head(), Some(Seq::ZERO));
    a.publish(user(1), 1);
    session.until_given(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feed_that_is_only_told_how_far_its_timeline_goes_leaves_it_to_the_database() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let last = user(crate::limits::BRIDGE_COPIES_MAX as i64 + 1);
    let mut session = b.follow(last).await;
    let large = large();
    for id in 1..=crate::limits::BRIDGE_COPIES_MAX as i64 + 1 {
        a.router.publish(user(id), Seq(1), &large);
    }
    let told = tokio::time::timeout(LONG, session.handle.woken());
    told.await.expect("its follower is woken");
    assert_eq!(session.read(), Read::Behind);
    assert_eq!(session.lease.head(), Some(Seq(1)));
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
    assert!(begun.elapsed() < 2 * crate::limits::BRIDGE_STOP_MAX);
    redis.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_reach_everybody_or_those_who_follow_the_user() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let group = News::Group {
        group: GroupId(1),
        removed: Some(UserId(2)),
    };
    let revoked = News::Revoked([DeviceId(1), DeviceId(2)].into());
    let signed_in = |user| News::SignedIn {
        user: UserId(user),
        device: DeviceId(3),
        generation: 4,
    };
    let _session = b.follow(user(7)).await;
    let all = [group, revoked, signed_in(8), signed_in(7)];
    for news in &all {
        a.router.tell(news.clone());
    }
    let [group, revoked, _, signed_in] = all;
    let is_noise = |news: &News| matches!(news, News::Profile(_));
    until("all but that of another user are heard", || {
        let news = b.news.lock().unwrap();
        let heard: Vec<News> = news.iter().filter(|n| !is_noise(n)).cloned().collect();
        heard == [group.clone(), revoked.clone(), signed_in.clone()]
    })
    .await;
}

#[tokio::test]
async fn url_that_is_none_is_refused_without_telling_it() {
    for url in ["redis://:hunter2@", "redis-sentinel://:hunter2@h:1"] {
        let error = connection::parse(url).expect_err(url).to_string();
        assert!(error.starts_with("redis.url: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
