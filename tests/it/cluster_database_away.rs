//! The database is killed, restarted, frozen, cut off and slowed under load: calls are answered in
//! time, with an error where they must be; when it is back everything goes on, and nothing that was
//! acknowledged is lost or doubled (I1, I2, I3), also where a connection broke in the commit.

use std::time::{Duration, Instant};

use crate::support::{
    Api, Cluster, Device, Transport,
    balancer::is_ready,
    errors::{TRY_AGAIN_LATER, code},
    load::Load,
    messages::text,
    wait::{as_promised, eventually},
};

const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(10);
/// A send that cannot be stored is answered by then.
const SEND_ANSWERED: Duration = Duration::from_secs(10);
/// Another call that cannot be answered well.
const CALL_ANSWERED: Duration = Duration::from_secs(7);
const UNREADY: Duration = Duration::from_secs(10);

/// Nobody waits for ever for a database that is away.
async fn assert_answered(api: &Api, alice: &Device, bob: &Device) {
    let send = api.try_send(alice, text(bob.user_id, "x"));
    let send = as_promised(SEND_ANSWERED, "the answer to a send", send);
    let profile = async { api.get_user(alice, bob.user_id).await };
    let profile = as_promised(CALL_ANSWERED, "the answer to a call", profile);
    let (send, profile) = tokio::join!(send, profile);
    assert_eq!(code(&send.expect_err("it is away")), TRY_AGAIN_LATER);
    // What is remembered may be answered.
    if let Err(status) = profile {
        assert_eq!(code(&status), TRY_AGAIN_LATER, "{status:?}");
    }
}

async fn ready(api: &Api, expected: bool) {
    let started = Instant::now();
    eventually("readiness follows the database", async || {
        (is_ready(api).await == expected).then_some(())
    })
    .await;
    assert!(started.elapsed() < UNREADY || expected, "it noticed late");
}

#[tokio::test]
async fn a_database_that_stops_and_comes_back_loses_and_doubles_nothing() {
    let mut cluster = Cluster::plan(2).with_own_database().start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(200).await;
    cluster.database_server().stop().await;
    for at in 0..2 {
        assert_answered(&cluster[at], &alice, &bob).await;
        ready(&cluster[at], false).await;
    }
    cluster.database_server().start_again().await;
    for at in 0..2 {
        ready(&cluster[at], true).await;
    }
    load.more(200).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn a_database_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let mut cluster = Cluster::plan(2).with_own_database().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    for _ in 0..4 {
        load.more(150).await;
        cluster.database_server().kill();
        cluster.database_server().start_again().await;
    }
    load.more(150).await;
    println!("{:?}", load.finish().await);
}

/// Every cut breaks whatever is under way, a commit too: its outcome has to be found out.
#[tokio::test]
async fn connections_that_break_in_mid_commit_lose_and_double_nothing() {
    let cluster = Cluster::plan(2).with_links().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    for round in 0..25 {
        load.more(20).await;
        let links = cluster.links(round % 2);
        links.database.cut().await;
        links.database.resume().await;
    }
    load.more(100).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn one_instance_cut_off_from_the_database_says_so_and_the_other_goes_on() {
    let cluster = Cluster::plan(2).with_links().start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(100).await;
    cluster.links(0).database.cut().await;
    assert_answered(&cluster[0], &alice, &bob).await;
    ready(&cluster[0], false).await;
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    cluster[1].send(&alice, text(bob.user_id, "x")).await;
    receiver.push().await;
    ready(&cluster[1], true).await;
    cluster.links(0).database.resume().await;
    ready(&cluster[0], true).await;
    load.more(200).await;
    println!("{:?}", load.finish().await);
}

/// Half-open: to the instance its connections look alive, and nobody answers on them. It may hold
/// locks that the other instance needs.
#[tokio::test]
async fn a_network_that_swallows_packets_holds_nobody_else_up() {
    let cluster = Cluster::plan(2).with_links().start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(100).await;
    cluster.links(0).database.swallow().await;
    assert_answered(&cluster[0], &alice, &bob).await;
    // The same users' timelines, by way of the other instance.
    let send = async {
        eventually("the other instance sends", async || {
            let sent = cluster[1].try_send(&alice, text(bob.user_id, "x")).await;
            sent.ok()
        })
        .await
    };
    as_promised(2 * SEND_ANSWERED, "a send on the other instance", send).await;
    cluster.links(0).database.resume().await;
    ready(&cluster[0], true).await;
    load.more(200).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn a_frozen_database_is_waited_for_no_longer_than_promised() {
    let mut cluster = Cluster::plan(2).with_own_database().start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(100).await;
    cluster.database_server().pause();
    for at in 0..2 {
        assert_answered(&cluster[at], &alice, &bob).await;
        ready(&cluster[at], false).await;
    }
    cluster.database_server().resume();
    for at in 0..2 {
        ready(&cluster[at], true).await;
    }
    load.more(200).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn a_slow_database_slows_and_breaks_nothing() {
    const LATER: Duration = Duration::from_millis(20);
    let cluster = Cluster::plan(2).with_links().start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(100).await;
    for links in cluster.all_links() {
        links.database.delay(LATER).await;
    }
    load.more(200).await;
    for at in 0..2 {
        // Slow is not away.
        ready(&cluster[at], true).await;
    }
    for links in cluster.all_links() {
        links.database.resume().await;
    }
    load.more(100).await;
    println!("{:?}", load.finish().await);
}
