//! What load balancers in front of the server say about whose connection or request they pass on: the
//! PROXY protocol on TCP, `Forwarded` and `X-Forwarded-For` on HTTP.
//!
//! Invariant: nothing of it is read, and so nothing believed, that did not come from an address of the
//! configured list.

pub mod forwarded;
pub mod header;

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::limits::WARNING_INTERVAL;

/// When it was last said that a proxy is not set up as this server is: once a minute at most, however
/// many connections it makes.
#[derive(Debug, Default)]
pub struct Warnings {
    last: Mutex<Option<Instant>>,
}

impl Warnings {
    /// Whether it may be said now; then it was.
    #[must_use]
    pub fn may_warn(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return false;
        }
        *last = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_of_many_warnings_is_said() {
        let warnings = Warnings::default();
        assert!(warnings.may_warn());
        assert!(!warnings.may_warn());
    }
}
