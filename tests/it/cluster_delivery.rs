//! What is sent on one instance is delivered on the others, at once and in order (I4, I5).

use std::{collections::HashSet, time::Duration};

use crate::support::{
    Cluster, Transport,
    history::History,
    load::Load,
    messages::{seqs, text, text_with_id, words},
    wait::{PATIENCE, eventually},
    wire::BOTH,
};

/// Beyond what a test waits for anything: whatever arrives came over the bridge.
const NEVER_S: u64 = 3_600;
const CLIENTS: usize = 9;
const PACE: Duration = Duration::from_millis(5);

on_each_transport!(
    a_message_crosses_to_every_device_of_its_receiver,
    pipelined_sends_cross_in_their_order,
);

async fn a_message_crosses_to_every_device_of_its_receiver(transport: Transport) {
    let plan = Cluster::plan(3).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[1].new_user().await);
    let mut connections = Vec::new();
    for at in 0..3 {
        let device = cluster[at].another_device_of(&bob).await;
        connections.push(cluster[at].connect(BOTH[at % 2], &device).await);
    }
    let mut sender = cluster[0].connect(transport, &alice).await;
    let tablet = cluster[2].another_device_of(&alice).await;
    let mut own_tablet = cluster[2].connect(transport, &tablet).await;
    for n in 1..=20 {
        sender.send(&text(bob.user_id, &n.to_string())).await;
        // Over another instance, and not on a connection at all.
        cluster[2].send(&alice, text(bob.user_id, "gRPC")).await;
        for connection in &mut connections {
            let pair = connection.pushed(2).await;
            assert_eq!(seqs(&pair), [2 * n - 1, 2 * n]);
            assert_eq!(words(&pair[0]), n.to_string());
        }
        let own = own_tablet.pushed(2).await;
        assert_eq!(seqs(&own), [2 * n - 1, 2 * n], "the sender's other device");
    }
    sender.heartbeat().await;
    assert!(sender.take_pushes().is_empty(), "it sent all that itself");
}

async fn pipelined_sends_cross_in_their_order(transport: Transport) {
    const COUNT: i64 = 500;
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut receiver = cluster[1].connect(transport, &bob).await;
    let mut sender = cluster[0].connect(transport, &alice).await;
    let mut history = History::default();
    let mut waiting = Vec::new();
    for n in 0..COUNT {
        let id = n.to_string();
        history.attempted(&id, alice.user_id, bob.user_id);
        let request = text_with_id(bob.user_id, "x", &id);
        let package = im::pb::PackageType::PtSendMessage;
        waiting.push((sender.start(package, &request).await, id));
    }
    for (request_id, id) in waiting {
        let answer = sender.answer(request_id).await;
        history.acknowledged(&id, crate::support::connection::sent(&answer));
    }
    let pushed = receiver.pushed(COUNT as usize).await;
    assert_eq!(seqs(&pushed), (1..=COUNT).collect::<Vec<_>>());
    history.delivered(bob.user_id, pushed, HashSet::new());
    for user in [&alice, &bob] {
        history.timeline(user.user_id, cluster[1].timeline(user).await);
    }
    history.check();
}

#[tokio::test]
async fn three_instances_under_load_deliver_everything_once_and_in_order() {
    let plan = Cluster::plan(3).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(1_500).await;
    let report = load.finish().await;
    println!("{report:?}");
    assert!(report.longest_delay < PATIENCE, "{report:?}");
}

/// What the server remembers of profiles is as new everywhere as where it was changed.
#[tokio::test]
async fn a_changed_profile_is_shown_by_every_instance() {
    let cluster = Cluster::start(2).await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[1].new_user().await);
    let mut connection = cluster[1].connect(Transport::Tcp, &bob).await;
    for name in ["Alice", "Alicia", "Al"] {
        cluster[1].send(&alice, text(bob.user_id, "before")).await;
        connection.push().await;
        cluster[0].set_nickname(&alice, name).await;
        let shown = eventually("the new name is shown", async || {
            cluster[1].send(&alice, text(bob.user_id, "after")).await;
            let sender = connection.push().await.sender.expect("a sender");
            (sender.nickname == name).then_some(())
        });
        shown.await;
    }
}
