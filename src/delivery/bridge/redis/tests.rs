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

mod away;

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

/// Publishes an entry and waits until it is given.
async fn carry(from: &Node, to: &Node, session: &mut Session, topic: Topic, seq: i64) {
    let count = session.given.len() + 1;
    let publish = || from.publish(topic, seq);
    until_carried(from, to, publish, async || session.until_given(count).await).await;
}

/// Publishes, and waits until it `comes`. What was counted as dropped, or reported as perhaps missed,
/// is published once more; what was lost in silence is not.
async fn until_carried(from: &Node, to: &Node, publish: impl Fn(), mut comes: impl AsyncFnMut()) {
    loop {
        let lost = losses(from, to);
        publish();
        tokio::select! {
            () = comes() => return,
            () = until("it comes or is known to be lost", || losses(from, to) > lost) => {}
        }
        from.connects().await;
    }
}

/// What may be missing of what `from` publishes for `to`: Redis may be slow on a busy machine.
fn losses(from: &Node, to: &Node) -> u64 {
    from.metrics.bridge.publish_dropped.get() + to.metrics.bridge.discontinuities.get()
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
    // A busy machine may be too slow for a batch, which is counted; then others are written to.
    let mut first = 0;
    while !four_are_given_500(&a, &b, first).await {
        first += 4;
        assert!(first < 40, "it is always lossy, or echoes");
    }
    a.stop().await;
    b.stop().await;
}

/// Gives four users 500 entries each, in order. Returns false if something was counted as lost, or
/// came to who published.
async fn four_are_given_500(a: &Node, b: &Node, first: i64) -> bool {
    let ids = first..first + 4;
    let mut readers = Vec::new();
    for id in ids.clone() {
        readers.push((a.follow(user(id)).await, b.follow(user(id)).await));
    }
    let lost = losses(a, b);
    let (echoes, gaps) = (a.metrics.bridge.received.get(), b.metrics.gaps_filled.get());
    for seq in 1..=500 {
        ids.clone().for_each(|id| a.publish(user(id), seq));
    }
    for (own, other) in &mut readers {
        tokio::select! {
            () = other.until_given(500) => {}
            () = until("all are given or known to be lost", || losses(a, b) > lost) => return false,
        }
        assert!(other.given.iter().copied().eq(1..=500));
        own.until_given(500).await;
        assert!(own.given.iter().copied().eq(1..=500));
    }
    let is_lossy = losses(a, b) > lost;
    assert!(is_lossy || b.metrics.gaps_filled.get() == gaps);
    // What was told in order to connect may come late; an echo would come each time.
    let is_heard = a.metrics.bridge.received.get() > echoes;
    !is_lossy && !is_heard
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
            carry(&a, &b, &mut session, user(id), 1).await;
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
        carry(&a, &b, &mut session, user(seq % 3), before + 1).await;
    }
    for worker in storm {
        worker.await.unwrap();
    }
    until("all are unsubscribed", || {
        b.metrics.bridge.subscriptions.get() == 0
    })
    .await;
}

/// A message that is not copied for each timeline.
pub(super) fn large() -> Arc<Template> {
    let message = pb::Message {
        message_content: vec![0; 60_000].into(),
        ..Default::default()
    };
    Arc::new(Template::new(message, DeviceId(1)))
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
    until("it is ignored", || {
        stranger.publish(user(1), 1);
        b.metrics.bridge.ignored.get() > ignored
    })
    .await;
    assert_eq!(session.lease.head(), Some(Seq::ZERO));
    carry(&a, &b, &mut session, user(1), 1).await;
}

/// On one thread: all wait to be published before the first one is.
#[tokio::test]
async fn feed_that_is_only_told_how_far_its_timeline_goes_leaves_it_to_the_database() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        Node::connected(&redis.url(), 1).await,
        Node::connected(&redis.url(), 2).await,
    );
    let last = user(crate::limits::BRIDGE_COPIES_MAX as i64 + 1);
    let mut session = b.follow(last).await;
    let large = large();
    let publish = || {
        for id in 1..=crate::limits::BRIDGE_COPIES_MAX as i64 + 1 {
            a.router.publish(user(id), Seq(1), &large);
        }
    };
    until_carried(&a, &b, publish, async || session.handle.woken().await).await;
    assert_eq!(session.read(), Read::Behind);
    assert_eq!(session.lease.head(), Some(Seq(1)));
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
    let tell = || all.iter().for_each(|news| a.router.tell(news.clone()));
    let [group, revoked, of_another, signed_in] = all.clone();
    let expected = [group, revoked, signed_in];
    let heard = || {
        let mut heard = b.news.lock().unwrap().clone();
        heard.retain(|news| !matches!(news, News::Profile(_)));
        heard
    };
    // What was given up as lost may have come all the same.
    let comes = async || until("all are heard", || heard().ends_with(&expected)).await;
    until_carried(&a, &b, tell, comes).await;
    assert!(!heard().contains(&of_another));
}
