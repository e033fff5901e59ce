//! Connections that do nothing end; those that beat stay.

use std::time::{Duration, Instant};

use im::config::Config;

use crate::support::{
    Server, Transport,
    wire::{opcode, web_socket_frame},
};

on_each_transport!(
    a_connection_that_does_not_sign_in_is_closed,
    half_a_frame_does_not_put_the_sign_in_off,
    an_idle_connection_is_closed,
    heartbeats_keep_a_connection_open,
);

const TIMEOUT: Duration = Duration::from_secs(2);
/// Well after the timeout, and well before anybody would call it forgotten.
const LATEST: Duration = Duration::from_secs(12);

fn short_sign_in(config: &mut Config) {
    config.session.sign_in_timeout_s = TIMEOUT.as_secs();
}

fn short_idling(config: &mut Config) {
    config.session.idle_timeout_s = TIMEOUT.as_secs();
}

#[track_caller]
fn assert_in_time(started: Instant) {
    let elapsed = started.elapsed();
    let earliest = TIMEOUT - Duration::from_millis(100);
    assert!(
        (earliest..LATEST).contains(&elapsed),
        "closed after {elapsed:?}"
    );
}

async fn a_connection_that_does_not_sign_in_is_closed(transport: Transport) {
    let server = Server::with(short_sign_in).await;
    let started = Instant::now();
    let mut connection = server.open(transport).await;
    connection.assert_closes(1008).await;
    assert_in_time(started);
}

async fn half_a_frame_does_not_put_the_sign_in_off(transport: Transport) {
    let server = Server::with(short_sign_in).await;
    let started = Instant::now();
    let mut connection = server.open(transport).await;
    let mut drip = tokio::time::interval(TIMEOUT / 8);
    let frame = crate::support::wire::framed(transport, &[0x08; 200]);
    let mut bytes = frame.iter();
    loop {
        tokio::select! {
            _ = connection.closed() => break,
            _ = drip.tick() => connection.raw(&[*bytes.next().expect("a long frame")]).await,
        }
    }
    assert_in_time(started);
}

async fn an_idle_connection_is_closed(transport: Transport) {
    let server = Server::with(short_idling).await;
    let alice = server.new_user().await;
    let started = Instant::now();
    let mut connection = server.connect(transport, &alice).await;
    connection.assert_closes(4003).await;
    assert_in_time(started);
    // The device can come back at once.
    server.connect(transport, &alice).await.heartbeat().await;
}

async fn heartbeats_keep_a_connection_open(transport: Transport) {
    // So long that a busy machine is not what ends it.
    const IDLE: Duration = Duration::from_secs(8);
    let server = Server::with(|config| config.session.idle_timeout_s = IDLE.as_secs()).await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    let started = Instant::now();
    let mut beat = tokio::time::interval(IDLE / 4);
    while started.elapsed() < IDLE * 3 / 2 {
        beat.tick().await;
        connection.heartbeat().await;
    }
}

/// WebSocket control frames are no sign of life of a device.
#[tokio::test]
async fn websocket_pings_do_not_keep_a_connection_open() {
    let server = Server::with(short_idling).await;
    let alice = server.new_user().await;
    let started = Instant::now();
    let mut connection = server.connect(Transport::WebSocket, &alice).await;
    let mut beat = tokio::time::interval(TIMEOUT / 8);
    loop {
        tokio::select! {
            _ = connection.closed() => break,
            _ = beat.tick() => {
                connection.raw(&web_socket_frame(opcode::PING, true, b"")).await;
            }
        }
    }
    connection.assert_closes(4003).await;
    assert_in_time(started);
}
