//! A device that does not read costs no memory, slows nobody and loses nothing (I6).

use std::time::{Duration, Instant};

use crate::support::{
    Api, Connection, Device, Process, Transport,
    messages::{sized, text},
    wait::within,
};

const MESSAGES: i64 = 30_000;
const BYTES: usize = 1_024;
const SENDERS: i64 = 60;
const GROWTH_BYTES_MAX: u64 = 60 * 1024 * 1024;
/// Long for one message between two others; a build without optimizations shares two cores with
/// other tests.
const LATENCY_MAX: Duration = Duration::from_secs(5);

/// Both transports at once, as two devices of one user, so that the load is made only once.
#[tokio::test]
async fn a_slow_reader_costs_no_memory_and_loses_nothing() {
    let server = Process::start().await;
    let slow = server.new_user().await;
    let mut readers = Vec::new();
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let device = server.another_device_of(&slow).await;
        readers.push(server.connect(transport, &device).await);
    }
    let (carol, dave) = (server.new_user().await, server.new_user().await);
    let mut carols = server.connect(Transport::Tcp, &carol).await;
    let mut daves = server.connect(Transport::WebSocket, &dave).await;
    // Connections, caches and pools are warm before the memory is measured.
    let warm = server.new_user().await;
    flood(&server, warm.user_id, 50).await;
    exchange(&mut carols, &mut daves, &dave).await;
    let before = server.resident_bytes();

    let load = {
        let (api, to) = (Api::new(server.addresses), slow.user_id);
        tokio::spawn(async move { flood(&api, to, MESSAGES / SENDERS).await })
    };
    let mut most = before;
    while !load.is_finished() {
        let latency = exchange(&mut carols, &mut daves, &dave).await;
        assert!(latency < LATENCY_MAX, "others wait: {latency:?}");
        most = most.max(server.resident_bytes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    load.await.expect("no panic");
    let grown = most.saturating_sub(before) / 1024;
    assert!(grown * 1024 < GROWTH_BYTES_MAX, "grew by {grown} KiB");

    let read = async {
        for reader in &mut readers {
            for seq in 1..=MESSAGES {
                let message = reader.push().await;
                assert_eq!(message.seq, seq, "in order, without a gap");
                assert_eq!(message.message_content.len(), BYTES);
            }
        }
    };
    within(Duration::from_secs(120), "everything comes", read).await;
    let grown = server.resident_bytes().saturating_sub(before) / 1024;
    assert!(grown * 1024 < GROWTH_BYTES_MAX, "grew by {grown} KiB");
}

/// `each` messages of 1 KB from each of the senders, all at the same time.
async fn flood(api: &Api, to: i64, each: i64) {
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let device = api.new_user().await;
        let api = api.clone();
        senders.push(tokio::spawn(async move {
            for _ in 0..each {
                api.send(&device, sized(to, BYTES)).await;
            }
        }));
    }
    for sender in senders {
        sender.await.expect("no panic");
    }
}

/// One message from Carol to Dave, and how long it took until he had it.
async fn exchange(carols: &mut Connection, daves: &mut Connection, dave: &Device) -> Duration {
    let started = Instant::now();
    carols.send(&text(dave.user_id, "quick")).await;
    daves.push().await;
    started.elapsed()
}
