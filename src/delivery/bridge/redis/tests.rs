//! Two instances and a Redis server of their own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

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
        let (tasks, metrics) = (Tasks::default(), Arc::new(Metrics::default()));
        let (redis, inbox) = Redis::connect(&Options {
            url,
            prefix: "test",
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
