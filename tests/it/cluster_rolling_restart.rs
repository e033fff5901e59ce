//! Three instances are restarted one after the other under load, with clients that reconnect as they
//! are told: no acknowledged message is lost or doubled, and each arrives (I1 to I5).

use std::time::Duration;

use crate::support::{Cluster, load::Load};

const INSTANCES: usize = 3;
const CLIENTS: usize = 30;
const PACE: Duration = Duration::from_millis(30);
/// A message waits at most for its receiver to come back.
const LATEST: Duration = Duration::from_secs(20);
/// Whoever is not done by then is cut off; a few sessions need a second of it.
const DRAIN_TIMEOUT_S: u64 = 25;

#[tokio::test]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let plan = Cluster::plan(INSTANCES).set("delivery.drain_timeout_s", DRAIN_TIMEOUT_S);
    let mut cluster = plan.start_processes().await;
    let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
    load.more(300).await;
    for at in 0..INSTANCES {
        cluster[at].signal("TERM");
        assert_eq!(cluster[at].ended().await.code(), Some(0), "it drained");
        cluster[at].start_again().await;
        load.more(300).await;
    }
    load.settled().await;
    let report = load.finish().await;
    println!(
        "{} sends acknowledged; the longest delivery delay was {:?}",
        report.acknowledged, report.longest_delay
    );
    assert!(report.longest_delay < LATEST, "{report:?}");
}
