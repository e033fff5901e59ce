//! The circuit breaker before what the business answers: after some failures in a row nobody waits
//! for it any more, but for one probe now and then. It counts and keeps the time; what a failure is,
//! whoever asks knows.
//!
//! ```text
//! Closed --BUSINESS_FAILURES_MAX failures in a row--> Open --a success--> Closed
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::limits::{BUSINESS_FAILURES_MAX, BUSINESS_PROBE_INTERVAL};

/// Whether calls may be made.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Every call may be made; so many failed since the last success.
    Closed { failures: u32 },
    /// One call may be made when it is time for it.
    Open { probe_at: Instant },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// What the outcome of a call has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// Nothing.
    Not,
    /// From now on nobody waits.
    Opened,
    /// From now on every call is made again.
    Closed,
}

impl Breaker {
    /// Whether a call would be admitted at `now`.
    pub(crate) fn may_pass(&self, now: Instant) -> bool {
        match *self.lock() {
            State::Closed { .. } => true,
            State::Open { probe_at } => now >= probe_at,
        }
    }

    /// Whether a call may be made at `now`; where the breaker is open, the next may a while later.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        let mut state = self.lock();
        match &mut *state {
            State::Closed { .. } => true,
            State::Open { probe_at } if now >= *probe_at => {
                *probe_at = now + BUSINESS_PROBE_INTERVAL;
                true
            }
            State::Open { .. } => false,
        }
    }

    /// A call was answered.
    pub(crate) fn succeeded(&self) -> Turned {
        match std::mem::take(&mut *self.lock()) {
            State::Closed { .. } => Turned::Not,
            State::Open { .. } => Turned::Closed,
        }
    }

    /// A call was not answered, as is known at `now`.
    pub(crate) fn failed(&self, now: Instant) -> Turned {
        let mut state = self.lock();
        if let State::Closed { failures } = &mut *state {
            *failures += 1;
            if *failures >= BUSINESS_FAILURES_MAX {
                let probe_at = now + BUSINESS_PROBE_INTERVAL;
                *state = State::Open { probe_at };
                return Turned::Opened;
            }
        }
        Turned::Not
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUSINESS_FAILURES_MAX, BUSINESS_PROBE_INTERVAL, Breaker, Instant, Turned};

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        for _ in 1..BUSINESS_FAILURES_MAX {
            assert_eq!(breaker.failed(now), Turned::Not);
            assert!(breaker.admit(now));
        }
        assert_eq!(breaker.failed(now), Turned::Opened);
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row() {
        let now = Instant::now();
        let breaker = opened(now);
        assert!(!breaker.may_pass(now) && !breaker.admit(now));
        assert_eq!(breaker.failed(now), Turned::Not, "it is open already");
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..3 {
            for _ in 1..BUSINESS_FAILURES_MAX {
                assert_eq!(breaker.failed(now), Turned::Not);
            }
            assert_eq!(breaker.succeeded(), Turned::Not);
        }
        assert!(breaker.admit(now));
    }

    #[test]
    fn it_lets_one_probe_through_each_interval_until_one_succeeds() {
        let mut now = Instant::now();
        let breaker = opened(now);
        for _ in 0..3 {
            now += BUSINESS_PROBE_INTERVAL;
            assert!(!breaker.admit(now - Duration::from_millis(1)));
            assert!(breaker.may_pass(now) && breaker.admit(now));
            assert!(!breaker.may_pass(now) && !breaker.admit(now));
            assert_eq!(breaker.failed(now), Turned::Not);
        }
        assert_eq!(breaker.succeeded(), Turned::Closed);
        assert!(breaker.admit(now) && breaker.admit(now));
    }
}
