//! One connection's flood is slowed by not reading from it, and ended when it does not stop (I9).

use std::time::{Duration, Instant};

use im::pb::{Input, Output, PackageType};
use prost::Message as _;

use crate::support::{
    Server, Transport,
    errors::TOO_MANY_REQUESTS,
    wait::within,
    wire::{Incoming, framed},
};

on_each_transport!(
    a_burst_over_the_rate_is_slowed_and_answered,
    a_burst_at_the_default_rate_is_answered_to_the_end,
    a_steady_excess_is_told_and_closed,
    a_flood_that_does_not_stop_is_told_and_closed,
);

fn heartbeats(transport: Transport, count: usize) -> Vec<u8> {
    let beat = Input {
        r#type: PackageType::PtHeartbeat.into(),
        ..Default::default()
    };
    framed(transport, &beat.encode_to_vec()).repeat(count)
}

async fn a_burst_over_the_rate_is_slowed_and_answered(transport: Transport) {
    const RATE: usize = 100;
    const COUNT: usize = 700; // 200 at once, 500 in five seconds
    let server = Server::with(|config| config.session.frames_per_s_max = RATE as u64).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut flooder = server.connect(transport, &alice).await;
    let mut other = server.connect(transport, &bob).await;
    let started = Instant::now();
    flooder.raw(&heartbeats(transport, COUNT)).await;
    let beating = async {
        other.heartbeat().await;
        started.elapsed()
    };
    let flooding = async {
        for _ in 0..COUNT {
            let answer = flooder.any_answer().await.expect("it stays open");
            assert_eq!(answer.code, 0);
        }
        started.elapsed()
    };
    let (other_took, elapsed) = tokio::join!(beating, flooding);
    assert!(
        other_took < elapsed,
        "others are not slowed: {other_took:?} of {elapsed:?}"
    );
    assert!(
        elapsed > Duration::from_millis(4_500),
        "slowed: {elapsed:?}"
    );
    flooder.heartbeat().await;
}

/// At the default rate, where a frame's pause is shorter than a write.
async fn a_burst_at_the_default_rate_is_answered_to_the_end(transport: Transport) {
    const COUNT: usize = 5_000; // 2,000 at once, 3,000 in three seconds
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut flooder = server.connect(transport, &alice).await;
    flooder.raw(&heartbeats(transport, COUNT)).await;
    for answered in 0..COUNT {
        let answer = flooder.any_answer().await;
        assert!(answer.is_some_and(|a| a.code == 0), "after {answered}");
    }
    flooder.heartbeat().await;
}

/// Half as much again as is allowed, for longer than is borne.
async fn a_steady_excess_is_told_and_closed(transport: Transport) {
    const RATE: usize = 100;
    let server = Server::with(|config| config.session.frames_per_s_max = RATE as u64).await;
    let alice = server.new_user().await;
    let connection = server.connect(transport, &alice).await;
    let (mut reader, mut writer) = connection.into_halves();
    // More than the burst and what is let through within the time that is borne. That begins anew
    // when a busy machine has let the connection rest.
    let flood = heartbeats(transport, 2 * RATE + 60 * RATE);
    writer
        .raw(&flood)
        .await
        .expect("it fits the sockets' buffers");
    let told = async {
        loop {
            match reader.next().await {
                Incoming::Body(body) => {
                    let output = Output::decode(&*body).expect("an Output");
                    if output.code == TOO_MANY_REQUESTS {
                        return;
                    }
                }
                other => panic!("closed without a word: {other:?}"),
            }
        }
    };
    within(Duration::from_secs(60), "it is told", told).await;
}

async fn a_flood_that_does_not_stop_is_told_and_closed(transport: Transport) {
    let server = Server::with(|config| config.session.frames_per_s_max = 50).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut other = server.connect(transport, &bob).await;
    let connection = server.connect(transport, &alice).await;
    let (mut reader, mut writer) = connection.into_halves();
    let started = Instant::now();
    let flood = tokio::spawn(async move {
        let bytes = heartbeats(transport, 100);
        while writer.raw(&bytes).await.is_ok() {}
    });
    let told = within(Duration::from_secs(90), "the flood is told", async {
        loop {
            match reader.next().await {
                Incoming::Body(body) => {
                    let answer = Output::decode(body).expect("an Output");
                    if answer.code != 0 {
                        return answer.code;
                    }
                }
                Incoming::Pong => {}
                Incoming::Closed(code) => panic!("closed ({code:?}) without a word"),
            }
        }
    })
    .await;
    assert_eq!(told, TOO_MANY_REQUESTS);
    assert!(
        started.elapsed() > Duration::from_secs(8),
        "after ten seconds"
    );
    let end = within(Duration::from_secs(10), "the flood is closed", async {
        loop {
            if let Incoming::Closed(code) = reader.next().await {
                return code;
            }
        }
    });
    let code = end.await;
    if transport == Transport::WebSocket {
        assert!(code.is_none() || code == Some(1008), "{code:?}");
    }
    flood.await.expect("no panic");
    other.heartbeat().await;
}
