//! How many uploads a user may begin: so many at once, and then so many a minute (the generic cell rate
//! algorithm, which keeps one moment per user). Each instance counts for itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    config,
    error::{Code, Error, Result},
    id::UserId,
    limits::UPLOAD_RATES_MAX,
};

/// The allowances of all users.
#[derive(Debug)]
pub(super) struct Rates {
    per_min: u64,
    /// Time that one upload uses up.
    each: Duration,
    /// How far ahead of now a user's time may be used up.
    ahead_max: Duration,
    /// Until when each user's time is used up; users of whom that has passed are not needed.
    used_until: Mutex<HashMap<UserId, Instant>>,
}

impl Rates {
    pub(super) fn new(config: &config::Files) -> Self {
        let each = Duration::from_secs(60).div_f64(config.uploads_per_min as f64);
        let burst = u32::try_from(config.uploads_burst).unwrap_or(u32::MAX);
        Self {
            per_min: config.uploads_per_min,
            each,
            ahead_max: each.saturating_mul(burst),
            used_until: Mutex::default(),
        }
    }

    /// Counts an upload of `user`.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`] when he has to wait.
    pub(super) fn count(&self, user: UserId, now: Instant) -> Result<()> {
        let mut used_until = self
            .used_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let until = used_until.get(&user).map_or(now, |until| now.max(*until));
        let next = until + self.each;
        if next.duration_since(now) > self.ahead_max {
            return Err(self.refusal());
        }
        if used_until.len() >= UPLOAD_RATES_MAX {
            used_until.retain(|_, until| *until > now);
            if used_until.len() >= UPLOAD_RATES_MAX && !used_until.contains_key(&user) {
                return Err(self.refusal());
            }
        }
        used_until.insert(user, next);
        Ok(())
    }

    fn refusal(&self) -> Error {
        let message = format!("at most {} uploads a minute, slow down", self.per_min);
        Error::business(Code::TooManyRequests, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rates(per_min: u64, burst: u64) -> Rates {
        let mut files = Config::default().files;
        (files.uploads_per_min, files.uploads_burst) = (per_min, burst);
        Rates::new(&files)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let (rates, start) = (rates(120, 60), Instant::now());
        let user = UserId(1);
        for _ in 0..60 {
            rates.count(user, start).unwrap();
        }
        let refused = rates.count(user, start).unwrap_err();
        assert!(refused.is(Code::TooManyRequests));
        rates.count(UserId(2), start).unwrap();
        let later = start + Duration::from_millis(500);
        rates.count(user, later).unwrap();
        rates.count(user, later).unwrap_err();
        for _ in 0..60 {
            rates.count(user, start + Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn users_who_have_paused_are_forgotten() {
        let (rates, start) = (rates(120, 60), Instant::now());
        for user in 0..UPLOAD_RATES_MAX as i64 {
            rates.count(UserId(user), start).unwrap();
        }
        rates.count(UserId(-1), start).unwrap_err();
        rates
            .count(UserId(-1), start + Duration::from_secs(1))
            .unwrap();
        assert_eq!(rates.used_until.lock().unwrap().len(), 1);
    }
}
