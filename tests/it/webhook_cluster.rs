//! Several instances: one delivers, another takes over when it dies, and a user is online as long as
//! any of them has a device of his.

use std::time::Duration;

use crate::support::{
    Cluster, Transport,
    messages::text,
    receiver::{Posted, Receiver, SECRET, TIMEOUT_S},
    wait::{eventually, eventually_within},
};

/// Until an instance that was killed counts as dead, and somebody has seen it.
const UNTIL_DEAD: Duration = Duration::from_secs(90);

async fn cluster(receiver: &Receiver, events: &str) -> Cluster<crate::support::Process> {
    Cluster::plan(2)
        .set("webhooks.url", receiver.url())
        .set("webhooks.secret", SECRET)
        .set("webhooks.events", events)
        .set("webhooks.timeout_s", TIMEOUT_S)
        .start_processes()
        .await
}

#[tokio::test]
async fn each_event_is_told_once_and_by_the_survivor() {
    let receiver = Receiver::start().await;
    let mut cluster = cluster(&receiver, "message.sent").await;
    let alice = cluster[0].new_user().await;
    for n in 0..10 {
        cluster[n % 2]
            .send(&alice, text(alice.user_id, &n.to_string()))
            .await;
    }
    let taken = receiver.until_taken("message.sent", 10).await;
    let words: Vec<String> = taken.iter().map(Posted::words).collect();
    assert_eq!(words, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    for (killed, survivor) in [(0, 1), (1, 0)] {
        cluster[killed].kill();
        let after = format!("without {killed}");
        cluster[survivor]
            .send(&alice, text(alice.user_id, &after))
            .await;
        eventually(&after, async || {
            let taken = receiver.taken("message.sent");
            taken
                .iter()
                .any(|posted| posted.words() == after)
                .then_some(())
        })
        .await;
        cluster[killed].start_again().await;
    }
}

#[tokio::test]
async fn user_is_online_while_any_instance_has_a_device_of_his() {
    let receiver = Receiver::start().await;
    let mut cluster = cluster(&receiver, "user.online,user.offline").await;
    let alice = cluster[0].new_user().await;
    let other = cluster[0].another_device_of(&alice).await;
    let bob = cluster[0].new_user().await;
    let here = cluster[0].connect(Transport::Tcp, &alice).await;
    let there = cluster[1].connect(Transport::Tcp, &other).await;
    let _bob = cluster[1].connect(Transport::Tcp, &bob).await;
    receiver.until_taken("user.online", 2).await;
    drop(here);
    let rows = cluster[0].database().connect().await;
    eventually("her first device has left", async || {
        let left = rows.number("SELECT COUNT(*) FROM online_device").await;
        (left == 2).then_some(())
    })
    .await;
    assert_eq!(receiver.told_of(alice.user_id), ["user.online"]);
    cluster[1].kill();
    drop(there);
    eventually_within(
        UNTIL_DEAD,
        "all devices of the dead are offline",
        async || {
            let told = [&alice, &bob].map(|user| receiver.told_of(user.user_id));
            (told == [["user.online", "user.offline"]; 2]).then_some(())
        },
    )
    .await;
}
