//! Two instances and a Redis server of their own.

use std::time::Duration;

use super::*;
use crate::{
    delivery::{
        bridge::redis::Options,
        handle::{Credential, Eviction, Handle},
    },
    error::Code,
    lifecycle::Tasks,
    telemetry::Metrics,
    testing::redis::RedisServer,
};

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(30);
const DEVICE: DeviceId = DeviceId(5);
const USER: UserId = UserId(7);
const ROOM: RoomId = RoomId(9);

/// An instance with nothing but sessions.
struct Node {
    registry: Arc<Registry>,
    presence: Presence,
    tasks: Tasks,
}

impl Node {
    fn new(url: &str, instance: u64) -> Self {
        let tasks = Tasks::default();
        let (redis, _inbox) = Redis::connect(&Options {
            url,
            prefix: "test",
            cluster: 7,
            instance,
            tasks: &tasks,
            metrics: &Arc::new(Metrics::default()),
        })
        .unwrap();
        let registry = Arc::new(Registry::watched());
        let (presence, keeper) = Presence::shared(&redis, &registry);
        tasks.spawn_critical("presence", keeper.run(tasks.stop().clone()));
        Self {
            registry,
            presence,
            tasks,
        }
    }

    fn sign_in(&self, generation: i64) -> Arc<Handle> {
        self.sign_in_on(DEVICE, generation)
    }

    fn sign_in_on(&self, device: DeviceId, generation: i64) -> Arc<Handle> {
        let handle = Arc::new(Handle::new(device));
        self.registry.enter(&handle);
        let credential = Credential {
            user: USER,
            generation,
            token_hash: [0; 32],
            expires_at: 0,
        };
        self.registry.sign_in(&handle, credential);
        handle
    }

    async fn until_written(&self) {
        let version = self.registry.version();
        let mut written = self.presence.shared.as_ref().unwrap().written.clone();
        let writing = written.wait_for(|written| *written >= version);
        tokio::time::timeout(LONG, writing).await.unwrap().unwrap();
    }

    async fn until_connected(&self, connected: bool) {
        let mut client = self.presence.shared.as_ref().unwrap().client.clone();
        let waiting = client.wait_for(|client| client.is_some() == connected);
        tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    }

    async fn until_online(&self, online: bool) {
        self.until_online_on(DEVICE, online).await;
    }

    async fn until_online_on(&self, device: DeviceId, online: bool) {
        let waiting = async {
            while self.presence.online(device).await != online {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let in_time = tokio::time::timeout(LONG, waiting).await;
        in_time.unwrap_or_else(|_| panic!("online: {online}"));
    }

    /// The room of a user, once Redis has said so.
    async fn room(&self, user: UserId) -> Option<RoomId> {
        answered(async || self.presence.room(user, DEVICE).await).await
    }

    /// Whether the device counts as online elsewhere, once Redis has said so: as long as it does not,
    /// no device is [online](Presence::online).
    async fn finds(&self, device: DeviceId) -> bool {
        let shared = self.presence.shared.as_ref().unwrap();
        answered(async || shared.find(device).await).await.is_some()
    }

    async fn stop(&self) {
        self.tasks.stop().cancel();
        let finished = tokio::time::timeout(LONG, self.tasks.finished());
        finished.await.expect("it stops");
    }
}

/// Asks until it is known: a busy machine may take too long.
async fn answered<T>(ask: impl AsyncFn() -> Result<T>) -> T {
    let asking = async {
        loop {
            if let Ok(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, asking).await.expect("an answer")
}

/// Has Redis remove keys until `node` finds the device no more: its instance may renew its key at the
/// same moment.
async fn until_lost(redis: &RedisServer, removal: &str, node: &Node) {
    let losing = async {
        loop {
            redis.ask(removal).await;
            if !node.finds(DEVICE).await {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, losing)
        .await
        .expect("it is lost");
}

#[tokio::test]
async fn device_is_known_on_other_instances_with_its_room() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let session = a.sign_in(1);
    a.registry.enter_room(&session, Some(ROOM));
    a.until_written().await;
    b.until_online(true).await;
    assert_eq!(b.room(USER).await, Some(ROOM));
    assert_eq!(b.room(UserId(8)).await, None);
    assert!(!b.finds(DeviceId(6)).await);
    a.registry.enter_room(&session, None);
    let begun = Instant::now();
    a.presence.settled().await;
    if begun.elapsed() >= PRESENCE_WAIT {
        // It has given up.
        a.until_written().await;
    }
    assert_eq!(b.room(USER).await, None);
    a.registry.leave(&session);
    a.until_written().await;
    assert!(!b.finds(DEVICE).await);
    assert!(!b.presence.online(DEVICE).await);
    assert_eq!(redis.ask("KEYS test:d:*").await, "*0\r\n");
}

#[tokio::test]
async fn late_instance_neither_overwrites_nor_removes_a_newer_session() {
    let redis = RedisServer::start().await;
    let (a, b, c) = (
        Node::new(&redis.url(), 1),
        Node::new(&redis.url(), 2),
        Node::new(&redis.url(), 3),
    );
    let old = a.sign_in(1);
    a.until_written().await;
    let new = b.sign_in(2);
    b.registry.enter_room(&new, Some(ROOM));
    b.until_written().await;
    // The late one writes its state again, then its session goes.
    a.registry.touch(&[DEVICE]);
    a.until_written().await;
    assert_eq!(c_room(&c).await, Some(ROOM));
    old.evict(Eviction::Replaced);
    a.registry.leave(&old);
    a.until_written().await;
    assert_eq!(c_room(&c).await, Some(ROOM));
    b.registry.leave(&new);
    b.until_written().await;
    assert!(!c.finds(DEVICE).await);
}

async fn c_room(node: &Node) -> Option<RoomId> {
    node.until_online(true).await;
    node.room(USER).await
}

#[tokio::test]
async fn devices_of_an_instance_that_died_go_offline_and_those_of_one_that_drained_at_once() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let _session = a.sign_in(1);
    a.until_written().await;
    b.until_online(true).await;
    let begun = Instant::now();
    a.stop().await;
    if begun.elapsed() >= BRIDGE_STOP_MAX {
        // It has given up: its key ends by itself.
        b.until_online(false).await;
    }
    assert!(!b.finds(DEVICE).await, "its key is gone");

    let c = Node::new(&redis.url(), 3);
    let _session = c.sign_in(2);
    c.until_written().await;
    b.until_online(true).await;
    let ttl = redis.ask("PTTL test:i:0000000000000003").await;
    let ttl: u128 = ttl[1..].trim().parse().expect("it ends by itself");
    assert!(ttl <= PRESENCE_LEASE.as_millis());
    until_lost(&redis, "DEL test:i:0000000000000003", &b).await;
}

#[tokio::test]
async fn entries_are_put_back_after_redis_lost_them() {
    let mut redis = RedisServer::start().await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let _session = a.sign_in(1);
    a.until_written().await;
    until_lost(&redis, "FLUSHALL", &b).await;
    b.until_online(true).await;
    redis.down();
    b.until_online(false).await;
    assert!(a.presence.online(DEVICE).await, "it is here");
    let asked = b.presence.room(USER, DEVICE).await;
    assert!(asked.unwrap_err().is(Code::TryAgain));
    assert_eq!(a.presence.room(USER, DEVICE).await.unwrap(), None);
    assert!(redis.up().await);
    b.until_online(true).await;
}

/// As when a replica took over that had not been given the last writes, of so many devices that each
/// is renewed rarely.
#[tokio::test]
async fn entries_that_a_failover_lost_are_put_back_with_the_next_connection() {
    let redis = RedisServer::start().await;
    let a = Node::new(&redis.url(), 1);
    let devices: Vec<_> = (0..2 * PRESENCE_REFRESH_RENEWALS as i64)
        .map(|device| DeviceId(1_000 + device))
        .collect();
    let sign_in = |device: &DeviceId| a.sign_in_on(*device, 1);
    let _sessions: Vec<_> = devices.iter().map(sign_in).collect();
    a.until_written().await;
    let keys = devices.iter().map(|device| format!(" test:d:{device}"));
    redis.ask(&format!("DEL{}", keys.collect::<String>())).await;
    redis.ask("CLIENT KILL TYPE normal").await;
    let b = Node::new(&redis.url(), 2);
    for device in devices {
        b.until_online_on(device, true).await;
    }
}

/// As when a replica took over that had not been told of the removal.
#[tokio::test]
async fn entry_whose_removal_a_failover_lost_counts_no_longer_with_the_next_connection() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let session = a.sign_in(1);
    a.until_written().await;
    a.registry.leave(&session);
    a.until_written().await;
    let entry = "generation 1 instance 0000000000000001 user 7 room 9";
    redis.ask(&format!("HSET test:d:{DEVICE} {entry}")).await;
    assert_eq!(c_room(&b).await, Some(ROOM));
    redis.ask("CLIENT KILL TYPE normal").await;
    let c = Node::new(&redis.url(), 3);
    let leaving = async {
        // While it is not known, that is an error.
        while !matches!(c.presence.room(USER, DEVICE).await, Ok(None)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let left = tokio::time::timeout(LONG, leaving).await;
    left.expect("it counts no longer");
}

/// A Redis that refuses to remove is as good after another connection as before it.
#[tokio::test]
async fn former_name_that_cannot_be_removed_costs_no_connection() {
    let redis = RedisServer::start().await;
    let a = Node::new(&redis.url(), 1);
    let session = a.sign_in(1);
    a.until_written().await;
    let mut client = a.presence.shared.as_ref().unwrap().client.clone();
    client.mark_unchanged();
    assert_eq!(redis.ask("ACL SETUSER default -del").await, "+OK\r\n");
    redis.ask("CLIENT KILL TYPE normal").await;
    let lost = tokio::time::timeout(LONG, client.changed());
    lost.await.expect("the connection is lost").unwrap();
    a.until_connected(true).await;
    a.registry.enter_room(&session, Some(ROOM));
    a.until_written().await;
    // A busy machine may lose another one, but not each.
    let mut is_lost = async || {
        client.mark_unchanged();
        for room in [None, Some(ROOM)] {
            a.registry.enter_room(&session, room);
            a.until_written().await;
        }
        client.has_changed().unwrap()
    };
    let mut rounds = 0;
    while is_lost().await {
        rounds += 1;
        assert!(rounds < 5, "it is lost again and again");
    }
}

/// As after a failover that closes no connection.
#[tokio::test]
async fn redis_that_has_become_a_replica_counts_as_away() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let _session = a.sign_in(1);
    a.until_written().await;
    // Nobody answers there.
    redis.ask("REPLICAOF 127.0.0.1 1").await;
    a.until_connected(false).await;
    redis.ask("REPLICAOF NO ONE").await;
    a.until_connected(true).await;
    b.until_online(true).await;
}

#[tokio::test]
async fn instance_that_is_alone_knows_its_own_devices() {
    let registry = Arc::new(Registry::default());
    let presence = Presence::alone(registry);
    assert!(!presence.online(DEVICE).await);
    assert_eq!(presence.room(USER, DEVICE).await.unwrap(), None);
    presence.settled().await;
}

/// As when somebody else uses names that begin with the prefix.
#[tokio::test]
async fn key_that_is_no_entry_harms_no_other() {
    let redis = RedisServer::start().await;
    redis.ask(&format!("SET test:d:{DEVICE} x")).await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let _session = a.sign_in(1);
    let _other = a.sign_in_on(DeviceId(6), 1);
    a.until_written().await;
    b.until_online_on(DeviceId(6), true).await;
}

#[tokio::test]
async fn nobody_waits_for_a_redis_that_is_away() {
    let mut redis = RedisServer::start().await;
    let a = Node::new(&redis.url(), 1);
    let session = a.sign_in(1);
    a.until_written().await;
    redis.down();
    a.until_connected(false).await;
    a.registry.enter_room(&session, Some(ROOM));
    let settled = tokio::time::timeout(PRESENCE_WAIT / 2, a.presence.settled());
    settled.await.expect("at once");
}

/// More devices have left while Redis was away than are remembered.
#[tokio::test]
async fn device_that_left_and_was_forgotten_is_offline() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::new(&redis.url(), 1), Node::new(&redis.url(), 2));
    let session = a.sign_in(1);
    a.until_written().await;
    b.until_online(true).await;
    a.registry.leave(&session);
    let many: Vec<_> = (0..=crate::limits::PRESENCE_CHANGES_MAX as i64 + 9)
        .map(|device| DeviceId(1_000 + device))
        .collect();
    a.registry.touch(&many);
    b.until_online(false).await;
    let _session = a.sign_in(2);
    b.until_online(true).await;
}
