//! Latencies and failures, counted by many tasks at once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Independent parts of one recorder, so that tasks seldom meet at one lock.
const SHARDS: usize = 8;
/// Latencies are told apart down to this, in nanoseconds.
const LATENCY_NS_MIN: u64 = 1_000;
/// Longer latencies are recorded as this long, in nanoseconds.
const LATENCY_NS_MAX: u64 = 600 * 1_000_000_000;

/// Locks; a task that panicked while it held the lock does not stop the others from counting.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Latencies of one kind.
#[derive(Debug)]
pub struct Latencies {
    shards: [Mutex<Histogram<u64>>; SHARDS],
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(empty())),
        }
    }
}

#[expect(clippy::expect_used, reason = "the bounds are constant and valid")]
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

impl Latencies {
    /// Records one latency; `shard` is any number that differs between tasks.
    pub fn record(&self, shard: u32, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        lock(&self.shards[shard as usize % SHARDS]).saturating_record(ns);
    }

    /// What was recorded so far.
    #[expect(clippy::expect_used, reason = "all shards have the same bounds")]
    pub fn summary(&self) -> Summary {
        let mut all = empty();
        for shard in &self.shards {
            all.add(&*lock(shard))
                .expect("all shards have the same bounds");
        }
        Summary::of(&all)
    }
}

/// A distribution in a few numbers, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many were recorded.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// The median.
    pub p50_us: f64,
    /// Nine of ten are at most this.
    pub p90_us: f64,
    /// 99 of a hundred are at most this.
    pub p99_us: f64,
    /// 999 of a thousand are at most this.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Summary {
    fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            count: histogram.len(),
            min_us: histogram.min() as f64 / 1_000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1_000.0,
        }
    }
}

/// Failures by kind: how often, and one of them in full.
#[derive(Debug, Default)]
pub struct Failures(Mutex<BTreeMap<String, (u64, String)>>);

/// Kinds of failures told apart; beyond it they are counted as one.
const FAILURE_KINDS_MAX: usize = 50;

impl Failures {
    /// Counts one failure of `kind`; the first of a kind is kept as its example.
    pub fn count(&self, kind: impl fmt::Display, example: &dyn fmt::Display) {
        let mut kinds = lock(&self.0);
        let mut kind = kind.to_string();
        if kinds.len() >= FAILURE_KINDS_MAX && !kinds.contains_key(&kind) {
            kind = "other".to_owned();
        }
        kinds
            .entry(kind)
            .or_insert_with(|| (0, example.to_string()))
            .0 += 1;
    }

    /// How many there were in all.
    pub fn total(&self) -> u64 {
        lock(&self.0).values().map(|(count, _)| count).sum()
    }

    /// `(kind, count, example)`, by kind.
    pub fn list(&self) -> Vec<(String, u64, String)> {
        let kinds = lock(&self.0);
        kinds
            .iter()
            .map(|(kind, (count, example))| (kind.clone(), *count, example.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_gathers_all_shards() {
        let latencies = Latencies::default();
        for n in 1..=1000_u32 {
            latencies.record(n, Duration::from_micros(n.into()));
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        for (got, wanted) in [
            (summary.min_us, 1.0),
            (summary.p50_us, 500.0),
            (summary.p90_us, 900.0),
            (summary.p99_us, 990.0),
            (summary.p999_us, 999.0),
            (summary.max_us, 1000.0),
        ] {
            assert!(
                (got - wanted).abs() <= wanted * 0.002 + 1.0,
                "{got} is not {wanted}"
            );
        }
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Latencies::default().summary(), Summary::default());
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_recorded_as_the_longest() {
        let latencies = Latencies::default();
        latencies.record(0, Duration::from_secs(100_000));
        assert_eq!(latencies.summary().count, 1);
    }

    #[test]
    fn failures_are_counted_by_kind_and_bounded() {
        let failures = Failures::default();
        failures.count("10003", &"slow down");
        failures.count("10003", &"slow down, I said");
        assert_eq!(failures.list(), [("10003".into(), 2, "slow down".into())]);
        for n in 0..1000 {
            failures.count(n, &"");
        }
        assert_eq!(failures.total(), 1002);
        assert_eq!(failures.list().len(), FAILURE_KINDS_MAX + 1);
    }
}
