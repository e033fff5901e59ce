//! Groups whose members are on several instances, while others add, remove and send: a message is
//! given to exactly those who were members at its position (I4, I8), and who is online gets it at once.

use std::time::Duration;

use im::pb::GroupType;

use crate::{
    group_history::{check_large, check_small},
    support::{
        Cluster, Transport,
        crowd::ids,
        errors::{NOT_IN_GROUP, assert_fails, code},
        groups::KINDS,
        messages::{seqs, words},
        wait::eventually,
    },
};

const NEVER_S: u64 = 3_600;
const INSTANCES: usize = 3;

on_each_transport!(
    a_large_groups_messages_cross_in_order,
    who_is_removed_elsewhere_is_given_nothing_more,
    who_is_added_elsewhere_is_given_what_comes,
);

#[tokio::test]
async fn a_small_group_on_three_instances_gives_each_message_to_its_members_at_that_time() {
    let plan = Cluster::plan(INSTANCES).set("delivery.reconcile_interval_s", NEVER_S);
    check_small(&plan.start().await.apis()).await;
}

#[tokio::test]
async fn a_large_group_on_three_instances_gives_each_message_to_its_members_at_that_time() {
    let plan = Cluster::plan(INSTANCES).set("delivery.reconcile_interval_s", NEVER_S);
    check_large(&plan.start().await.apis()).await;
}

async fn a_large_groups_messages_cross_in_order(transport: Transport) {
    const EACH: usize = 60;
    let plan = Cluster::plan(INSTANCES).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let users = cluster[0].new_users(2 * INSTANCES).await;
    let (creator, others) = users.split_first().expect("some");
    let group = cluster[1]
        .create_group(creator, GroupType::GtLarge, &ids(others))
        .await;
    let mut connections = Vec::new();
    for (at, user) in others.iter().enumerate() {
        let instance = &cluster[at % INSTANCES];
        connections.push(instance.connect(transport, user).await);
    }
    // Everybody of the creator's sends is on its way at once, over all instances.
    let sends = (0..EACH * INSTANCES).map(|n| {
        let (api, creator) = (cluster[n % INSTANCES].clone_api(), creator.clone());
        let request = group.text(&n.to_string());
        tokio::spawn(async move { api.send(&creator, request).await.seq })
    });
    let mut sent = Vec::new();
    for send in sends.collect::<Vec<_>>() {
        sent.push(send.await.expect("no panic"));
    }
    sent.sort_unstable();
    for connection in &mut connections {
        let pushed = connection.pushed(sent.len()).await;
        assert_eq!(seqs(&pushed), sent, "each once, in order, without gaps");
    }
}

async fn who_is_removed_elsewhere_is_given_nothing_more(transport: Transport) {
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    for kind in KINDS {
        let users = cluster[0].new_users(3).await;
        let (alice, bob, carol) = (&users[0], &users[1], &users[2]);
        let group = cluster[0]
            .create_group(alice, kind, &ids([bob, carol]))
            .await;
        let mut bobs = cluster[1].connect(transport, bob).await;
        let mut carols = cluster[1].connect(transport, carol).await;
        // Now the other instance remembers who is in it.
        let sent = cluster[1].send(bob, group.text("still here")).await;
        assert!(sent.seq > 0);
        assert_eq!(words(&carols.push().await), "still here");
        let removed = cluster[0].remove_member(alice, group.id, bob.user_id);
        removed.await.expect("removed");
        let refused = cluster[1].try_send(bob, group.text("am I?")).await;
        assert_fails(refused, NOT_IN_GROUP);
        let refused = bobs.try_send(&group.text("am I?")).await;
        assert_eq!(refused.code, NOT_IN_GROUP);
        cluster[0].send(alice, group.text("without him")).await;
        let marker = crate::support::messages::text(bob.user_id, "marker");
        cluster[0].send(alice, marker).await;
        assert_eq!(words(&carols.said().await), "without him");
        assert_eq!(words(&bobs.said().await), "marker");
    }
}

async fn who_is_added_elsewhere_is_given_what_comes(transport: Transport) {
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    for kind in KINDS {
        let users = cluster[0].new_users(2).await;
        let (alice, bob) = (&users[0], &users[1]);
        let group = cluster[0].create_group(alice, kind, &[]).await;
        let mut bobs = cluster[1].connect(transport, bob).await;
        // Now the other instance remembers that he is not in it.
        let refused = cluster[1].try_send(bob, group.text("may I?")).await;
        assert_fails(refused, NOT_IN_GROUP);
        for round in 0..3 {
            let added = [bob.user_id];
            let added = cluster[0].add_members(alice, group.id, &added).await;
            assert!(added.expect("added").is_empty());
            cluster[1].send(bob, group.text("thanks")).await;
            cluster[0].send(alice, group.text(&round.to_string())).await;
            assert_eq!(words(&bobs.said().await), round.to_string());
            cluster[1].leave(bob, group.id).await.expect("left");
        }
    }
}

/// What one instance remembers of a group never lets a stranger in, however fast members change.
#[tokio::test]
async fn a_removal_holds_at_once_for_sends_on_every_instance() {
    const ROUNDS: usize = 30;
    let cluster = Cluster::start(2).await;
    for kind in KINDS {
        let users = cluster[0].new_users(2).await;
        let (alice, bob) = (&users[0], &users[1]);
        let group = cluster[0].create_group(alice, kind, &[]).await;
        for _ in 0..ROUNDS {
            let added = [bob.user_id];
            let added = cluster[0].add_members(alice, group.id, &added).await;
            assert!(added.expect("added").is_empty());
            cluster[1].send(bob, group.text("x")).await;
            let removed = cluster[0].remove_member(alice, group.id, bob.user_id);
            removed.await.expect("removed");
            let refused = cluster[1].try_send(bob, group.text("x")).await;
            assert_eq!(code(&refused.expect_err("removed")), NOT_IN_GROUP);
        }
        eventually("he is in no group", async || {
            cluster[1].groups(bob).await.is_empty().then_some(())
        })
        .await;
    }
}

/// A group of a cluster under load stays as quick as it is on one instance.
#[tokio::test]
async fn a_small_groups_event_crosses_at_once() {
    let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", NEVER_S);
    let cluster = plan.start().await;
    let users = cluster[0].new_users(2).await;
    let mut connection = cluster[1].connect(Transport::Tcp, &users[1]).await;
    let bob = users[1].user_id;
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        let kind = GroupType::GtSmall;
        cluster[0].create_group(&users[0], kind, &[bob]).await;
        connection.told().await
    });
    let (message, _) = told.await.expect("it came over the bridge");
    assert_eq!(message.seq, 1);
}
