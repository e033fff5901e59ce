//! A device has one session in the whole cluster, wherever it signs in (I7).

use std::time::{Duration, Instant};

use im::pb::{NoticeCode, PackageType};

use crate::support::{
    Cluster, Transport,
    messages::{text, words},
    wait::{BUSY, eventually},
};

const INTERVAL_S: u64 = 2;

on_each_transport!(
    a_sign_in_elsewhere_replaces_at_once,
    of_many_sign_ins_on_all_instances_exactly_one_stays,
    without_redis_the_older_session_ends_within_the_interval,
);

async fn a_sign_in_elsewhere_replaces_at_once(transport: Transport) {
    let plan = Cluster::plan(3).set("delivery.reconcile_interval_s", 3_600);
    let cluster = plan.start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut old = cluster[0].connect(transport, &alice).await;
    for round in 1..=9 {
        let at = round % 3;
        let mut new = cluster[at].connect(transport, &alice).await;
        old.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
        // The dying one has taken nothing of its successor's away.
        let from = &cluster[(at + 1) % 3];
        from.send(&bob, text(alice.user_id, "to the newer")).await;
        assert_eq!(words(&new.push().await), "to the newer");
        new.heartbeat().await;
        old = new;
    }
}

async fn of_many_sign_ins_on_all_instances_exactly_one_stays(transport: Transport) {
    const SIGN_INS: usize = 12;
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut attempts = Vec::new();
    for n in 0..SIGN_INS {
        let (api, alice) = (cluster[n % 3].clone_api(), alice.clone());
        attempts.push(tokio::spawn(async move {
            let mut connection = api.open(transport).await;
            let input = alice.sign_in_input();
            connection.start(PackageType::PtSignIn, &input).await;
            let message = connection.push_or_end().await;
            message.is_some_and(|m| words(&m) == "stay")
        }));
    }
    eventually("one session is left", async || {
        let running = attempts.iter().filter(|a| !a.is_finished()).count();
        (running == 1).then_some(())
    })
    .await;
    cluster[1].send(&bob, text(alice.user_id, "stay")).await;
    let mut stayed = 0;
    for attempt in attempts {
        stayed += usize::from(attempt.await.expect("no panic"));
    }
    assert_eq!(stayed, 1);
}

async fn without_redis_the_older_session_ends_within_the_interval(transport: Transport) {
    let plan = Cluster::plan(2).with_links();
    let plan = plan.set("delivery.reconcile_interval_s", INTERVAL_S);
    let cluster = plan.start().await;
    let alice = cluster[0].new_user().await;
    let mut old = cluster[0].connect(transport, &alice).await;
    for links in cluster.all_links() {
        links.redis.cut().await;
    }
    let started = Instant::now();
    let mut new = cluster[1].connect(transport, &alice).await;
    old.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
    let elapsed = started.elapsed();
    let allowed = Duration::from_secs(5 * INTERVAL_S) + BUSY;
    assert!(elapsed < allowed, "{elapsed:?}");
    new.heartbeat().await;
}
