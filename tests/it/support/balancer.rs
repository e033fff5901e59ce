//! A load balancer as simple as one can be: it names the next instance that says it is ready.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{Api, http::try_get, wait::soon};

/// Longest wait for one instance to say whether it is ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Before all are asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Hands clients to instances by turns.
#[derive(Debug)]
pub struct Balancer {
    instances: Vec<Api>,
    turn: AtomicUsize,
}

impl Balancer {
    /// A balancer before instances that keep their addresses when they restart.
    pub fn new(instances: Vec<Api>) -> Self {
        Self {
            instances,
            turn: AtomicUsize::new(0),
        }
    }

    /// The next instance that is ready, waiting for one if need be.
    pub async fn next(&self) -> Api {
        soon("an instance is ready", async {
            loop {
                for _ in &self.instances {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                    let instance = &self.instances[turn % self.instances.len()];
                    if is_ready(instance).await {
                        return instance.clone();
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
        .await
    }
}

/// What `/readyz` says; an instance that does not answer is not ready.
pub async fn is_ready(instance: &Api) -> bool {
    let asked = try_get(instance.addresses.http, "/readyz");
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 200)
}
