//! The clock of one instance jumps, or instances disagree about the time: order, delivery and sessions
//! do not depend on it. Tokens expire by the clock of the instance that is asked, and only there.

use std::{sync::Arc, time::Duration};

use im::{
    clock::{Clock, Manual, System},
    pb::NoticeCode,
};

use crate::support::{
    Cluster, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    load::Load,
    messages::{text, text_with_id},
    wait::eventually,
};

const HOUR_MS: i64 = 3_600 * 1_000;
/// Longer than a token lives.
const QUARTER_MS: i64 = 91 * 24 * HOUR_MS;
const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(10);

on_each_transport!(
    the_newest_sign_in_wins_whatever_the_clocks_say,
    a_token_expires_by_the_clock_of_who_is_asked,
);

/// Two instances, and the clock of each.
async fn start() -> (Cluster, [Arc<Manual>; 2]) {
    let clocks = [(); 2].map(|()| Arc::new(Manual::at(System.now_ms())));
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", 1);
    let plan = plan.with_clock(clocks[0].clone());
    let plan = plan.with_clock(clocks[1].clone());
    (plan.start().await, clocks)
}

#[tokio::test]
async fn a_clock_that_jumps_back_and_forth_disturbs_nobody() {
    let (cluster, clocks) = start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[1].new_user().await);
    let mut receivers = Vec::new();
    for at in 0..2 {
        let device = cluster[at].another_device_of(&bob).await;
        receivers.push(cluster[at].connect(Transport::Tcp, &device).await);
    }
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    let jumps = [HOUR_MS, -2 * HOUR_MS, 48 * HOUR_MS, -47 * HOUR_MS, 1, -1];
    let mut seq = 0;
    for jump in jumps {
        load.more(60).await;
        clocks[0].advance_ms(jump);
        for from in [0, 1, 1, 0] {
            seq += 1;
            let request = text_with_id(bob.user_id, "x", &seq.to_string());
            let sent = cluster[from].send(&alice, request.clone()).await;
            assert_eq!(sent.send_time, clocks[from].now_ms());
            let again = cluster[1 - from].send(&alice, request).await;
            assert_eq!(again, sent, "a retry where it is another time (I3)");
            for receiver in &mut receivers {
                assert_eq!(receiver.push().await.seq, seq, "a seq is no time");
            }
        }
    }
    for receiver in &mut receivers {
        receiver.heartbeat().await;
        assert!(receiver.take_pushes().is_empty(), "each came once");
    }
    for at in 0..2 {
        assert!(cluster[at].token_lives(&alice).await);
        assert_eq!(cluster[at].timeline(&bob).await.len() as i64, seq);
    }
    println!("{:?}", load.finish().await);
}

async fn the_newest_sign_in_wins_whatever_the_clocks_say(transport: Transport) {
    let (cluster, clocks) = start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    clocks[0].advance_ms(HOUR_MS);
    let mut old = cluster[0].connect(transport, &alice).await;
    for round in 1..=6 {
        let mut new = cluster[round % 2].connect(transport, &alice).await;
        old.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
        cluster[0].send(&bob, text(alice.user_id, "x")).await;
        assert_eq!(new.push().await.seq, round as i64);
        new.heartbeat().await;
        old = new;
    }
}

/// An instance that is ahead by a quarter of a year takes nobody's token for good, but takes nothing
/// away from the others either: when its clock is right again it is as if nothing had been.
async fn a_token_expires_by_the_clock_of_who_is_asked(transport: Transport) {
    let (cluster, clocks) = start().await;
    let (alice, bob) = (cluster[1].new_user().await, cluster[1].new_user().await);
    let tablet = cluster[1].another_device_of(&alice).await;
    let mut ahead = cluster[0].connect(transport, &alice).await;
    let mut right = cluster[1].connect(transport, &tablet).await;
    clocks[0].advance_ms(QUARTER_MS);
    ahead.assert_ends_with(NoticeCode::NcSignedOut, 4002).await;
    assert!(!cluster[0].token_lives(&alice).await);
    let mut refused = cluster[0].open(transport).await;
    assert_code(&refused.sign_in(&alice).await, SIGN_IN_AGAIN);
    let mut elsewhere = cluster[1].connect(transport, &alice).await;
    for n in 1..=3 {
        cluster[1].send(&bob, text(alice.user_id, "x")).await;
        assert_eq!(right.push().await.seq, n);
        assert_eq!(elsewhere.push().await.seq, n);
    }
    clocks[0].advance_ms(-QUARTER_MS);
    eventually("its clock is right again", async || {
        cluster[0].token_lives(&alice).await.then_some(())
    })
    .await;
    let mut back = cluster[0].connect(transport, &alice).await;
    elsewhere
        .assert_ends_with(NoticeCode::NcReplaced, 4001)
        .await;
    cluster[0].send(&bob, text(alice.user_id, "x")).await;
    assert_eq!(right.push().await.seq, 4);
    assert_eq!(back.push().await.seq, 4);
}
