//! What the writer does after a failed attempt, the same for a batch of sends and for a change: when
//! the outcome must be looked up, when fresh message ids are needed, when it is tried again, and
//! when it is given up.

use std::{fmt::Display, time::Duration, time::Instant};

use crate::store::FailureKind;

/// First pause before an attempt is repeated; it doubles up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The attempts at one transaction.
#[derive(Debug)]
pub(super) struct Retry {
    deadline: Instant,
    pause: Duration,
    duplicates: u8,
    /// An attempt may have been stored all the same: that must be asked before the next one.
    must_look_up: bool,
}

/// What follows from a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another attempt, with the same message ids.
    Again,
    /// Another attempt, with fresh message ids.
    FreshIds,
    /// Somebody else holds a lock that it needs.
    Locked,
    /// None: the database refuses it as it is.
    Refused,
}

impl Retry {
    /// Attempts that must end by `deadline`.
    pub(super) const fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            pause: PAUSE_MIN,
            duplicates: 0,
            must_look_up: false,
        }
    }

    /// Whether it must be asked now if an earlier attempt was stored.
    pub(super) const fn must_look_up(&self) -> bool {
        self.must_look_up
    }

    /// It was asked, and none was.
    pub(super) const fn looked_up(&mut self) {
        self.must_look_up = false;
    }

    /// Judges a failure. One in the commit may be stored all the same, whatever its kind: that
    /// question comes first.
    pub(super) fn judge(
        &mut self,
        kind: FailureKind,
        in_commit: bool,
        error: &dyn Display,
    ) -> Next {
        self.must_look_up = in_commit;
        match kind {
            FailureKind::Locked if !in_commit => Next::Locked,
            FailureKind::Transient | FailureKind::Locked | FailureKind::Away => {
                tracing::warn!(%error, "a transaction was not made yet");
                Next::Again
            }
            FailureKind::Duplicate | FailureKind::Other if in_commit => {
                tracing::error!(%error, "a commit failed");
                Next::Again
            }
            FailureKind::Duplicate => self.judge_duplicate(),
            FailureKind::Other => Next::Refused,
        }
    }

    fn judge_duplicate(&mut self) -> Next {
        self.duplicates += 1;
        match self.duplicates {
            // Another instance stored the same between the look-up and the insert, which the next
            // attempt sees; or a commit in doubt was made after all.
            1 => {
                self.must_look_up = true;
                Next::Again
            }
            // After a restore the database hands out ids once more.
            2 => Next::FreshIds,
            _ => Next::Refused,
        }
    }

    /// Waits before the next attempt; false when there is no time for one.
    pub(super) async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry::until(Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn failure_in_the_commit_is_looked_up_whatever_its_kind() {
        use FailureKind::{Away, Duplicate, Locked, Other, Transient};

        for kind in [Transient, Locked, Away, Duplicate, Other] {
            let mut retry = retry();
            assert_eq!(retry.judge(kind, true, &"x"), Next::Again, "{kind:?}");
            assert!(retry.must_look_up(), "{kind:?}");
            retry.looked_up();
            assert!(!retry.must_look_up());
        }
    }

    #[test]
    fn duplicate_is_looked_up_then_gets_fresh_ids_and_is_then_refused() {
        let mut retry = retry();
        let mut judge = |kind| (retry.judge(kind, false, &"x"), retry.must_look_up());
        assert_eq!(judge(FailureKind::Duplicate), (Next::Again, true));
        assert_eq!(judge(FailureKind::Transient), (Next::Again, false));
        assert_eq!(judge(FailureKind::Duplicate), (Next::FreshIds, false));
        assert_eq!(judge(FailureKind::Duplicate), (Next::Refused, false));
        assert_eq!(judge(FailureKind::Other), (Next::Refused, false));
    }

    #[test]
    fn lock_that_is_held_is_told_apart() {
        let mut retry = retry();
        assert_eq!(retry.judge(FailureKind::Locked, false, &"x"), Next::Locked);
        assert!(!retry.must_look_up());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_no_attempt_after_the_deadline() {
        let mut over = Retry::until(Instant::now());
        assert!(!over.pause().await);
        assert!(retry().pause().await);
    }
}
