//! What one run counts, stage by stage.

use std::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::stats::{Failures, Latencies};

/// The time of a run, which every task and every stamp shares.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that shows zero now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time since `then_ns`; zero for a time to come.
    pub fn since(&self, then_ns: u64) -> Duration {
        Duration::from_nanos(self.now_ns().saturating_sub(then_ns))
    }

    /// The moment that is `at_ns` on this clock.
    pub fn moment(&self, at_ns: u64) -> tokio::time::Instant {
        (self.0 + Duration::from_nanos(at_ns)).into()
    }
}

/// The stages of a run, each counted for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A warm-up, or a chat alone.
    Before,
    /// What the run is about.
    Measured,
    /// Neither: checked, but not reported.
    Aside,
}

/// What was counted in one stage.
#[derive(Debug, Default)]
pub struct Counted {
    /// Sends answered with success.
    pub acknowledged: AtomicU64,
    /// Messages of this run given to receivers.
    pub delivered: AtomicU64,
    /// From when a send was due to its answer.
    pub ack_latency: Latencies,
    /// From when a send was due until the receiver has it.
    pub delivery_latency: Latencies,
}

/// What the tasks of one run count together.
#[derive(Debug)]
pub struct Tally {
    /// Distinguishes this run's messages from an earlier run's.
    pub run: u32,
    /// The run's time.
    pub clock: Clock,
    /// By `Stage`.
    counted: [Counted; 3],
    stage: AtomicUsize,
    /// Sends that were begun.
    pub sent: AtomicU64,
    /// Sends over a connection that were never answered.
    pub unanswered: AtomicU64,
    /// Connections that ended before they should.
    pub connections_lost: AtomicU64,
    /// Heartbeats sent.
    pub heartbeats: AtomicU64,
    /// Heartbeats answered.
    pub heartbeats_answered: AtomicU64,
    /// What failed.
    pub failures: Failures,
}

impl Tally {
    /// Nothing counted; the stage is `Before`.
    pub fn new() -> Self {
        Self {
            run: rand::random(),
            clock: Clock::start(),
            counted: Default::default(),
            stage: AtomicUsize::new(Stage::Before as usize),
            sent: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            connections_lost: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            heartbeats_answered: AtomicU64::new(0),
            failures: Failures::default(),
        }
    }

    /// Begins a stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as usize, Ordering::Relaxed);
    }

    /// Where the present stage is counted.
    pub fn now(&self) -> &Counted {
        &self.counted[self.stage.load(Ordering::Relaxed)]
    }

    /// What was counted in `stage`.
    pub fn counted(&self, stage: Stage) -> &Counted {
        &self.counted[stage as usize]
    }

    /// Sends answered with success, in all stages.
    pub fn acknowledged(&self) -> u64 {
        self.counted
            .iter()
            .map(|counted| get(&counted.acknowledged))
            .sum()
    }

    /// Messages given to receivers, in all stages.
    pub fn delivered(&self) -> u64 {
        self.counted
            .iter()
            .map(|counted| get(&counted.delivered))
            .sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {}, acknowledged {}, delivered {}, failures {}",
            get(&self.sent),
            self.acknowledged(),
            self.delivered(),
            self.failures.total(),
        )
    }
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The counter's value.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
