//! Opens many signed-in connections, so many a second or so many at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::{sleep, sleep_until};

use super::{
    Bench,
    accounts::{self, Account},
    client::{Connection, Target},
    failure::Failure,
    progress::Progress,
    stats::{Failures, Latencies},
    tally::{Clock, count, get},
};
use crate::error::{Result, ResultExt as _};

/// The wait before the second attempt; it grows with each.
const BACKOFF: Duration = Duration::from_millis(200);

/// How connections are opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// At the same time.
    pub in_flight: u32,
    /// Started a second; 0: as fast as the others are ready.
    pub per_s: u32,
    /// How often one is tried.
    pub attempts: u32,
}

impl Opening {
    /// The way in which devices come online that are not measured doing so.
    pub fn calm(bench: &Bench) -> Self {
        Self {
            in_flight: 256,
            per_s: bench.common.connections_per_s,
            attempts: 5,
        }
    }
}

/// What opening counted.
#[derive(Debug, Default)]
pub struct Opened {
    /// From the first byte to the answer to the sign-in.
    pub latency: Latencies,
    /// What failed at the last attempt.
    pub failures: Failures,
}

/// Opens one connection per account, in their order, spread over the instances in their order; `None` where it failed.
pub async fn open_all(
    bench: &Bench,
    accounts: &Arc<[Account]>,
    opening: Opening,
    opened: &Arc<Opened>,
) -> Result<Vec<Option<Connection>>> {
    let online = Arc::new(AtomicU64::new(0));
    let (all, shown) = (accounts.len(), Arc::clone(&online));
    let _progress = Progress::show(&bench.tasks, move || {
        format!("devices online: {} of {all}", get(&shown))
    });
    let clock = Clock::start();
    let next = Arc::new(AtomicUsize::new(0));
    let openers: Vec<_> = (0..all.min(opening.in_flight as usize))
        .map(|_| {
            let opener = Opener {
                target: Arc::clone(&bench.target),
                accounts: Arc::clone(accounts),
                next: Arc::clone(&next),
                online: Arc::clone(&online),
                opened: Arc::clone(opened),
                clock,
                opening,
            };
            bench.tasks.spawn(opener.run())
        })
        .collect();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    connections.resize_with(all, || None);
    for opener in openers {
        for (number, connection) in opener.await.internal("opening connections")? {
            connections[number] = Some(connection);
        }
    }
    Ok(connections)
}

struct Opener {
    target: Arc<Target>,
    accounts: Arc<[Account]>,
    next: Arc<AtomicUsize>,
    online: Arc<AtomicU64>,
    opened: Arc<Opened>,
    clock: Clock,
    opening: Opening,
}

impl Opener {
    async fn run(self) -> Vec<(usize, Connection)> {
        let mut connections = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(account) = self.accounts.get(number) else {
                return connections;
            };
            self.wait_turn(number).await;
            let begun = Instant::now();
            match self.open(number, account).await {
                Ok(connection) => {
                    self.opened.latency.record(number as u32, begun.elapsed());
                    connections.push((number, connection));
                    count(&self.online);
                }
                Err(failure) => {
                    let kind = format_args!("sign-in: {}", failure.kind());
                    self.opened.failures.count(kind, &failure);
                }
            }
        }
    }

    async fn wait_turn(&self, number: usize) {
        if self.opening.per_s > 0 {
            let at_ns = number as u64 * 1_000_000_000 / u64::from(self.opening.per_s);
            sleep_until(self.clock.moment(at_ns)).await;
        }
    }

    /// What the server refuses for good is not tried again.
    async fn open(&self, number: usize, account: &Account) -> Result<Connection, Failure> {
        for attempt in 1..self.opening.attempts {
            match Connection::open(&self.target, number, account).await {
                Ok(connection) => return Ok(connection),
                Err(failure) if failure.code().is_some() && !accounts::is_busy(&failure) => {
                    return Err(failure);
                }
                Err(_) => sleep(BACKOFF * attempt).await,
            }
        }
        Connection::open(&self.target, number, account).await
    }
}
