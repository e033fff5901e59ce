//! The clock of one instance jumps, or instances disagree about the time: order, delivery and sessions
//! do not depend on it.

use std::{sync::Arc, time::Duration};

use im::clock::{Clock, Manual, System};

use crate::support::{Cluster, Transport, load::Load, messages::text};

const HOUR_MS: i64 = 3_600 * 1_000;
const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_clock_that_jumps_back_and_forth_disturbs_nobody() {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let plan = Cluster::plan(2).with_clock(clock.clone());
    let plan = plan.set("delivery.reconcile_interval_s", 1);
    let cluster = plan.start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[1].new_user().await);
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    let jumps = [HOUR_MS, -2 * HOUR_MS, 48 * HOUR_MS, -47 * HOUR_MS, 1, -1];
    for (n, jump) in (1..).zip(jumps) {
        load.more(60).await;
        clock.advance_ms(jump);
        let sent = cluster[0].send(&alice, text(bob.user_id, "x")).await;
        assert_eq!(sent.send_time, clock.now_ms());
        assert_eq!(receiver.push().await.seq, n, "a seq is no time");
        receiver.heartbeat().await;
    }
    assert!(cluster[1].token_lives(&alice).await);
    println!("{:?}", load.finish().await);
}
