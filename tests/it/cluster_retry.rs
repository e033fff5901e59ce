//! The same send on several instances at once is one message, and every answer is the same (I3).

use std::sync::Arc;

use im::pb::GroupType;
use tokio::sync::Barrier;

use crate::support::{
    Cluster, Device, Transport,
    errors::{BAD_REQUEST, assert_fails},
    messages::{text_with_id, words},
    wire::BOTH,
};

const ROUNDS: usize = 40;
const INSTANCES: usize = 3;

#[tokio::test]
async fn the_same_id_on_three_instances_at_once_is_one_message() {
    let cluster = Cluster::start(INSTANCES).await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut receiver = cluster[1].connect(Transport::Tcp, &bob).await;
    for round in 1..=ROUNDS {
        let id = format!("round-{round}");
        let request = text_with_id(bob.user_id, "once", &id);
        let start = Arc::new(Barrier::new(2 * INSTANCES));
        let mut calls = Vec::new();
        for n in 0..2 * INSTANCES {
            let (api, alice) = (cluster[n % INSTANCES].clone_api(), alice.clone());
            let (request, start) = (request.clone(), Arc::clone(&start));
            calls.push(tokio::spawn(async move {
                start.wait().await;
                api.send(&alice, request).await
            }));
        }
        let mut results = Vec::new();
        for call in calls {
            results.push(call.await.expect("no panic"));
        }
        assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
        let pushed = receiver.push().await;
        assert_eq!(pushed.seq, round as i64);
        assert_eq!(pushed.message_id, results[0].message_id);
    }
    for user in [&alice, &bob] {
        assert_eq!(cluster[2].timeline(user).await.len(), ROUNDS);
    }
}

/// Two devices of a user, each on its instance and with other words: one wins, the other is told so.
#[tokio::test]
async fn the_same_id_with_other_content_on_another_instance_is_refused() {
    let cluster = Cluster::start(2).await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    for round in 0..ROUNDS {
        let id = format!("round-{round}");
        let send = async |at: usize, words: &str| {
            let request = text_with_id(bob.user_id, words, &id);
            cluster[at].try_send(&alice, request).await
        };
        let (one, other) = tokio::join!(send(0, "one"), send(1, "other"));
        let refused = match (one, other) {
            (Ok(_), refused) | (refused, Ok(_)) => refused,
            (one, other) => panic!("both were refused: {one:?}, {other:?}"),
        };
        assert_fails(refused, BAD_REQUEST);
    }
    let timeline = cluster[0].timeline(&bob).await;
    assert_eq!(timeline.len(), ROUNDS);
    let texts = timeline.iter().map(words);
    assert!(texts.clone().all(|text| text == "one" || text == "other"));
}

#[tokio::test]
async fn a_retry_to_a_group_on_another_instance_gets_the_first_result() {
    let cluster = Cluster::start(2).await;
    let users = cluster[0].new_users(4).await;
    let members: Vec<_> = users[1..].iter().map(|user| user.user_id).collect();
    for kind in [GroupType::GtSmall, GroupType::GtLarge] {
        let group = cluster[0].create_group(&users[0], kind, &members).await;
        for round in 0..ROUNDS / 4 {
            let request = group.text_with_id("once", &format!("{kind:?}-{round}"));
            let send = async |at: usize, from: &Device| {
                let result = cluster[at].send(from, request.clone()).await;
                let mut connection = cluster[1 - at].connect(BOTH[at], from).await;
                assert_eq!(connection.send(&request).await, result);
                result
            };
            let (one, other) = tokio::join!(send(0, &users[1]), send(1, &users[2]));
            assert_ne!(one.message_id, other.message_id, "ids are of a user");
        }
        let log = match kind {
            GroupType::GtLarge => cluster[1].group_timeline(&users[0], group).await,
            _ => cluster[1].timeline(&users[0]).await,
        };
        let sends = crate::support::events::said(&log);
        let of_group = sends.iter().filter(|m| group.got(m)).count();
        assert_eq!(of_group, 2 * (ROUNDS / 4));
    }
}
