//! Redis is stopped, killed, flushed, frozen, and cut off by a network that swallows packets: sends go
//! on as before, what is lost on the way arrives within the reconcile interval, and when Redis is back
//! delivery is at once again (I5, I7).

use std::time::{Duration, Instant};

use crate::support::{
    Cluster, Server, Transport, balancer::is_ready, load::Load, messages::text, wait::eventually,
};

const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(10);
const INTERVAL_S: u64 = 2;
/// Whoever waits for the network takes longer.
const PROMPT: Duration = Duration::from_secs(2);

fn plan() -> crate::support::cluster::Plan {
    Cluster::plan(2).set("delivery.reconcile_interval_s", INTERVAL_S)
}

/// A send on one instance reaches the other, in the time that is allowed without Redis; it is
/// answered as quickly as ever.
async fn assert_delivers(cluster: &Cluster) {
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    for n in 1..=3 {
        let started = Instant::now();
        cluster[0].send(&alice, text(bob.user_id, "x")).await;
        let elapsed = started.elapsed();
        assert!(elapsed < PROMPT, "answered after {elapsed:?}");
        assert_eq!(receiver.push().await.seq, n);
        let elapsed = started.elapsed();
        let allowed = Duration::from_secs(4 * INTERVAL_S);
        assert!(elapsed < allowed, "delivered after {elapsed:?}");
    }
}

/// Deliveries come over the bridge again: quicker than any sweep would bring them.
async fn assert_bridged(cluster: &Cluster) {
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    let quick = Duration::from_millis(INTERVAL_S * 1_000 / 10);
    eventually("five in a row are quick", async || {
        for _ in 0..5 {
            let started = Instant::now();
            cluster[0].send(&alice, text(bob.user_id, "x")).await;
            receiver.push().await;
            if started.elapsed() > quick {
                return None;
            }
        }
        Some(())
    })
    .await;
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
        assert!(is_ready(&cluster[at]).await, "Redis is no reason");
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
    assert!(is_ready(&cluster[1]).await);
    assert_delivers(&cluster).await;
    cluster.redis_server().start_again().await;
    assert_bridged(&cluster).await;
}
