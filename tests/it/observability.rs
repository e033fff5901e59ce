//! Health and metrics, as an operator reads them.

use std::collections::HashMap;

use crate::support::{
    Server, Transport,
    http::{assert_ready, get},
    messages::text,
    wait::eventually,
    wire::BOTH,
};

#[tokio::test]
async fn a_running_server_is_healthy_and_ready() {
    let server = Server::start().await;
    assert_eq!(get(server.addresses.http, "/healthz").await.status, 200);
    assert_ready(server.addresses.http).await;
    assert_eq!(get(server.addresses.http, "/nothing").await.status, 404);
    // A browser that comes to the WebSocket without an upgrade breaks nothing.
    let plain = get(server.addresses.http, "/ws").await;
    assert!((400..500).contains(&plain.status), "{plain:?}");
}

/// The samples of a metrics page: name with labels, and value.
fn samples(page: &str) -> HashMap<String, f64> {
    let lines = page
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// The sum of the samples whose name has every one of `words`.
fn sum(samples: &HashMap<String, f64>, words: &[&str]) -> Option<f64> {
    let matching = samples
        .iter()
        .filter(|(name, _)| words.iter().all(|w| name.contains(w)));
    matching.map(|(_, value)| *value).reduce(|a, b| a + b)
}

#[tokio::test]
async fn metrics_tell_what_happens() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut receivers = Vec::new();
    for transport in BOTH {
        let device = server.another_device_of(&bob).await;
        receivers.push(server.connect(transport, &device).await);
    }
    for _ in 0..20 {
        server.send(&alice, text(bob.user_id, "x")).await;
    }
    for receiver in &mut receivers {
        receiver.pushed(20).await;
    }
    // One session ends, so that there is a reason to count.
    let mut again = server.connect(Transport::Tcp, &bob).await;
    again.body(&[]).await;
    again.closed().await;

    let page = get(server.addresses.metrics, "/metrics").await;
    assert_eq!(page.status, 200);
    for what in [
        ["session", "tcp"],
        ["session", "websocket"],
        ["send", ""],
        ["batch", ""],
        ["commit", ""],
        ["deliver", ""],
        ["gap", ""],
        ["catch", ""],
        ["close", "reason"],
    ] {
        let found = page.body.to_lowercase().replace("web_socket", "websocket");
        let found = found
            .lines()
            .any(|line| what.iter().all(|word| line.contains(word)));
        assert!(found, "{what:?} in\n{}", page.body);
    }
    eventually("the counts are right", async || {
        let page = get(server.addresses.metrics, "/metrics").await;
        let samples = samples(&page.body);
        let tcp = sum(&samples, &["session", "tcp"])?;
        let delivered = sum(&samples, &["deliver"])?;
        (tcp == 1.0 && delivered >= 40.0).then_some(())
    })
    .await;
}
