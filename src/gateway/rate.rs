//! How many frames a second a connection may send: a token bucket. A connection that has used it
//! up is not read from; one that keeps it used up for too long is ended.

use std::time::{Duration, Instant};

use crate::limits::{FRAME_BURST_FACTOR, FRAME_EXCESS_MAX};

/// One connection's allowance.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    left: f64,
    at: Instant,
    excess_since: Option<Instant>,
}

impl Rate {
    pub(super) fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second as f64;
        Self {
            per_second,
            left: per_second * FRAME_BURST_FACTOR as f64,
            at: now,
            excess_since: None,
        }
    }

    /// Counts one frame.
    pub(super) fn count(&mut self, now: Instant) {
        self.refill(now);
        self.left -= 1.0;
        if self.left < 1.0 {
            self.excess_since.get_or_insert(now);
        }
    }

    /// When the next frame may be read: `None` for now.
    pub(super) fn resume_at(&self, now: Instant) -> Option<Instant> {
        let left = self.left + self.gained(now);
        if left >= 1.0 {
            return None;
        }
        let wait = ((1.0 - left) / self.per_second).min(FRAME_EXCESS_MAX.as_secs_f64());
        // A millisecond at least, so that a slow rate does not spin on rounding.
        Some(now + Duration::from_secs_f64(wait).max(Duration::from_millis(1)))
    }

    /// Notes that everything the peer has sent was taken: it does not send in excess.
    pub(super) const fn keeps_up(&mut self) {
        self.excess_since = None;
    }

    /// True when the peer has sent in excess for too long.
    pub(super) fn is_abused(&self, now: Instant) -> bool {
        let in_excess = |since: Instant| now.saturating_duration_since(since) >= FRAME_EXCESS_MAX;
        self.excess_since.is_some_and(in_excess)
    }

    fn refill(&mut self, now: Instant) {
        let burst = self.per_second * FRAME_BURST_FACTOR as f64;
        self.left = (self.left + self.gained(now)).min(burst);
        if self.left >= burst / 2.0 {
            // What waited so long did not wait for the rate.
            self.excess_since = None;
        }
        self.at = now;
    }

    fn gained(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.at).as_secs_f64() * self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        for _ in 0..19 {
            assert_eq!(rate.resume_at(start), None);
            rate.count(start);
        }
        rate.count(start);
        let resume = rate.resume_at(start).unwrap();
        assert_eq!(resume - start, Duration::from_millis(100));
        assert_eq!(rate.resume_at(resume), None);
    }

    #[test]
    fn only_lasting_excess_is_abuse() {
        let start = Instant::now();
        let mut rate = Rate::new(1, start);
        rate.count(start);
        rate.count(start);
        assert!(!rate.is_abused(start + FRAME_EXCESS_MAX / 2));
        assert!(rate.is_abused(start + FRAME_EXCESS_MAX));
        rate.keeps_up();
        assert!(!rate.is_abused(start + FRAME_EXCESS_MAX));
    }
}
