//! An instance is killed in mid load: its clients go to the others and nothing that was acknowledged
//! is lost or doubled (I1 to I5); nobody else notices.

use std::time::Duration;

use im::pb::NoticeCode;

use crate::support::{Cluster, Transport, load::Load, messages::text};

const CLIENTS: usize = 9;
const PACE: Duration = Duration::from_millis(10);
const INTERVAL_S: u64 = 5;

#[tokio::test]
async fn killed_instances_lose_nothing_that_was_acknowledged() {
    let plan = Cluster::plan(3).set("delivery.reconcile_interval_s", INTERVAL_S);
    let mut cluster = plan.start_processes().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    for at in 0..3 {
        load.more(300).await;
        cluster[at].kill();
        load.more(300).await;
        cluster[at].start_again().await;
    }
    load.more(100).await;
    println!("{:?}", load.finish().await);
}

#[tokio::test]
async fn the_others_go_on_as_if_nothing_had_happened() {
    let plan = Cluster::plan(3).set("delivery.reconcile_interval_s", 3_600);
    let mut cluster = plan.start_processes().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[1].new_user().await);
    let carol = cluster[2].new_user().await;
    let mut sender = cluster[0].connect(Transport::Tcp, &alice).await;
    let mut receiver = cluster[1].connect(Transport::WebSocket, &bob).await;
    let mut victim = cluster[2].connect(Transport::Tcp, &carol).await;
    for n in 1..=30 {
        sender.send(&text(bob.user_id, "x")).await;
        assert_eq!(receiver.push().await.seq, n);
        if n == 10 {
            cluster[2].kill();
            assert_eq!(victim.closed().await, None);
        }
    }
    // Her device signs in elsewhere, and again where it was.
    let mut here = cluster[0].connect(Transport::Tcp, &carol).await;
    cluster[1].send(&bob, text(carol.user_id, "x")).await;
    assert_eq!(here.push().await.seq, 1);
    cluster[2].start_again().await;
    let mut back = cluster[2].connect(Transport::Tcp, &carol).await;
    here.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
    cluster[0].send(&bob, text(carol.user_id, "x")).await;
    assert_eq!(back.push().await.seq, 2);
}
