//! Which remembered authorizations of a user still count, without a list of his devices.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::UserId;

/// More than users are changed while an authorization is remembered: those who share a number with one
/// who was are looked up once more, and nothing else happens to them.
const COUNT: usize = 4_096;

/// A counter for each user, shared with a few others. What was learnt of a user counts as long as his
/// counter stands where it stood before he was asked about.
#[derive(Debug)]
pub(super) struct Versions(Box<[AtomicU64]>);

impl Default for Versions {
    fn default() -> Self {
        Self((0..COUNT).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Versions {
    /// The counter of a user.
    pub(super) fn of(&self, user: UserId) -> u64 {
        self.at(user).load(Ordering::Acquire)
    }

    /// What was learnt of a user until now counts no more.
    pub(super) fn raise(&self, user: UserId) {
        self.at(user).fetch_add(1, Ordering::AcqRel);
    }

    fn at(&self, user: UserId) -> &AtomicU64 {
        // Ids that are handed out one after the other are spread evenly as they are.
        &self.0[user.get().rem_euclid(COUNT as i64) as usize]
    }
}
