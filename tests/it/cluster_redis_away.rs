//! Redis is stopped, killed, flushed, frozen, and cut off by a network that swallows packets: sends go
//! on as before, what is lost on the way arrives within the reconcile interval, and when Redis is back
//! delivery is at once again (I5, I7).

use std::time::{Duration, Instant};

use crate::support::{
    Api, Cluster, Server, Transport,
    balancer::is_ready,
    load::Load,
    messages::text,
    wait::{BUSY, PATIENCE, eventually, eventually_within},
};

const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(10);
const INTERVAL_S: u64 = 2;
/// Whoever waits for Redis takes longer.
const PROMPT: Duration = Duration::from_millis(500);

fn plan() -> crate::support::cluster::Plan {
    Cluster::plan(2).set("delivery.reconcile_interval_s", INTERVAL_S)
}

/// Sends on one instance reach the other, in the time that is allowed without Redis; they are answered
/// as quickly as ever: most of some in a row. The disk or the machine may be slow for a while, so there
/// are a few rows, of which one counts; whoever waits for Redis waits in each.
async fn assert_delivers(cluster: &Cluster) {
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    let mut answered = Vec::new();
    for n in 1..=15 {
        let started = Instant::now();
        cluster[0].send(&alice, text(bob.user_id, "x")).await;
        answered.push(started.elapsed());
        assert_eq!(receiver.push().await.seq, n);
        let elapsed = started.elapsed();
        let allowed = Duration::from_secs(4 * INTERVAL_S) + BUSY;
        assert!(elapsed < allowed, "delivered after {elapsed:?}");
        let row = answered.chunks(5).last().unwrap_or_default();
        if row.iter().filter(|answered| **answered < PROMPT).count() > 2 {
            return;
        }
    }
    panic!("answered after {answered:?}");
}

/// Deliveries come over the bridge again: so many in a row are so quick only by bridge, as one in four
/// is by the sweep.
async fn assert_bridged(cluster: &Cluster) {
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    let quick = Duration::from_millis(INTERVAL_S * 1_000 / 4);
    eventually_within(2 * PATIENCE, "nine of ten are quick", async || {
        let mut slow = 0;
        for _ in 0..10 {
            let started = Instant::now();
            cluster[0].send(&alice, text(bob.user_id, "x")).await;
            receiver.push().await;
            slow += usize::from(started.elapsed() > quick);
            if slow > 1 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// That Redis is away is no reason not to be ready.
async fn assert_ready(api: &Api) {
    eventually("it is ready", async || is_ready(api).await.then_some(())).await;
}

#[tokio::test]
async fn a_redis_that_stops_and_comes_back_delays_and_loses_nothing() {
    let mut cluster = plan().with_own_redis().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(200).await;
    cluster.redis_server().stop().await;
    load.more(200).await;
    assert_delivers(&cluster).await;
    for at in 0..2 {
        assert_ready(&cluster[at]).await;
    }
    cluster.redis_server().start_again().await;
    load.more(200).await;
    assert_bridged(&cluster).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn a_redis_that_restarts_again_and_again_loses_nothing() {
    let mut cluster = plan().with_own_redis().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    for _ in 0..5 {
        load.more(100).await;
        cluster.redis_server().kill();
        cluster.redis_server().start_again().await;
    }
    load.more(100).await;
    assert_bridged(&cluster).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn a_flushed_redis_is_filled_again() {
    let mut cluster = plan().with_own_redis().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    let alice = cluster[0].new_user().await;
    for round in 0..4 {
        load.more(100).await;
        let mut old = cluster[round % 2].connect(Transport::Tcp, &alice).await;
        cluster.redis_server().flush().await;
        let mut new = cluster[(round + 1) % 2]
            .connect(Transport::Tcp, &alice)
            .await;
        let notice = im::pb::NoticeCode::NcReplaced;
        old.assert_ends_with(notice, 4001).await;
        new.heartbeat().await;
    }
    assert_bridged(&cluster).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn a_frozen_redis_delays_and_loses_nothing() {
    let mut cluster = plan().with_own_redis().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(200).await;
    cluster.redis_server().pause();
    load.more(400).await;
    assert_delivers(&cluster).await;
    cluster.redis_server().resume();
    load.more(200).await;
    assert_bridged(&cluster).await;
    println!("{:?}", load.finish().await);
}

/// Half-open: what is sent to Redis is taken and lost, on one instance or on both.
#[tokio::test]
async fn a_network_that_swallows_packets_delays_and_loses_nothing() {
    let cluster = plan().with_links().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    for swallowing in [&cluster.all_links()[..1], cluster.all_links()] {
        load.more(200).await;
        for links in swallowing {
            links.redis.swallow().await;
        }
        load.more(200).await;
        assert_delivers(&cluster).await;
        for links in swallowing {
            links.redis.resume().await;
        }
        assert_bridged(&cluster).await;
    }
    println!("{:?}", load.finish().await);
}

/// It is cut in one direction only: one hears nothing, or is not heard.
#[tokio::test]
async fn a_network_that_swallows_one_direction_delays_and_loses_nothing() {
    use test_servers::Way::{Pass, Swallow};
    let cluster = plan().with_links().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    for (to_redis, from_redis) in [(Swallow, Pass), (Pass, Swallow)] {
        load.more(100).await;
        let links = &cluster.links(1).redis;
        links.ways(to_redis, from_redis).await;
        load.more(200).await;
        assert_delivers(&cluster).await;
        links.resume().await;
        assert_bridged(&cluster).await;
    }
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn an_instance_starts_and_is_ready_without_redis() {
    let mut cluster = plan().with_own_redis().start().await;
    cluster.redis_server().stop().await;
    let server: &mut Server = &mut cluster[1];
    server.restart().await;
    assert_ready(&cluster[1]).await;
    assert_delivers(&cluster).await;
    cluster.redis_server().start_again().await;
    assert_bridged(&cluster).await;
}
