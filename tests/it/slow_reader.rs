//! A device that does not read costs no memory, slows nobody and loses nothing (I6).

use std::time::{Duration, Instant};

use im::pb::GetDeviceReq;

use crate::support::{
    Api, Connection, Device, Process, Server, Transport,
    messages::{seqs, sized, text},
    wait::{eventually, within},
};

const MESSAGES: i64 = 30_000;
const BYTES: usize = 1_024;
const SENDERS: i64 = 60;
const GROWTH_BYTES_MAX: u64 = 60 * 1024 * 1024;
/// Long for a message between two others; a build without optimizations shares two cores with other
/// tests.
const LATENCY_MAX: Duration = Duration::from_secs(5);

/// Both transports at once, as two devices of one user, so that the load is made only once.
#[tokio::test]
async fn a_slow_reader_costs_no_memory_and_loses_nothing() {
    // How long the load takes depends on the machine; that a deaf device is closed some time is
    // another promise.
    let server = Process::with(&[("IM_SESSION__WRITE_TIMEOUT_S", "600")]).await;
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
    let mut load = std::pin::pin!(load);
    let (mut most, mut latencies) = (before, Vec::new());
    loop {
        latencies.push(exchange(&mut carols, &mut daves, &dave).await);
        most = most.max(server.resident_bytes());
        // Until the load ends; in between they exchange a message.
        if let Ok(ended) = tokio::time::timeout(Duration::from_millis(50), &mut load).await {
            ended.expect("no panic");
            break;
        }
    }
    latencies.sort_unstable();
    let latency = latencies[latencies.len() / 2];
    assert!(latency < LATENCY_MAX, "others wait: {latencies:?}");
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

on_each_transport!(a_connection_that_takes_no_bytes_is_closed_and_its_device_loses_nothing);

async fn a_connection_that_takes_no_bytes_is_closed_and_its_device_loses_nothing(
    transport: Transport,
) {
    const COUNT: i64 = 400; // more than the sockets' buffers take
    let server = Server::with(|config| config.session.write_timeout_s = 1).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut deaf = server.connect(transport, &bob).await;
    let mut sender = server.connect(transport, &alice).await;
    for _ in 0..COUNT {
        sender.send(&sized(bob.user_id, 60_000)).await;
    }
    eventually("it counts as offline", async || {
        let request = GetDeviceReq {
            device_id: bob.device_id,
        };
        let answer = server.internal().get_device(request).await;
        let device = answer
            .expect("GetDevice")
            .into_inner()
            .device
            .expect("a device");
        (device.status == 0).then_some(())
    })
    .await;
    // What had left is there, in order; the rest is on the timeline.
    deaf.closed().await;
    let given = seqs(&deaf.take_pushes());
    assert!(given.len() < COUNT as usize, "it was closed before the end");
    assert_eq!(given, (1..=given.len() as i64).collect::<Vec<_>>());
    let mut back = server.connect(transport, &bob).await;
    assert_eq!(back.sync_from_start().await.len(), COUNT as usize);
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
