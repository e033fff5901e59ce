//! Clients that do as the contract says come through drains and kills of the only instance: nothing
//! that was acknowledged is lost or doubled, and each holds its user's timeline (I1 to I5).

use std::time::Duration;

use crate::support::{Process, load::Load};

const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn clients_that_reconnect_as_told_lose_nothing_over_drains_and_kills() {
    let mut server = Process::start().await;
    let load = Load::start(vec![server.clone()], CLIENTS, PACE).await;
    for _ in 0..2 {
        load.more(200).await;
        server.kill();
        server.start_again().await;
        load.more(200).await;
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(0));
        server.start_again().await;
    }
    load.more(100).await;
    println!("{:?}", load.finish().await);
}
