//! The database's epoch as this instance knows it. It changes when the data was restored from a
//! backup: positions that devices hold then mean nothing any more (I10).

use std::sync::atomic::{AtomicI64, Ordering};

/// The epoch last seen in the database.
#[derive(Debug)]
pub struct Epoch(AtomicI64);

impl Epoch {
    /// The epoch read at start.
    #[must_use]
    pub const fn new(epoch: i64) -> Self {
        Self(AtomicI64::new(epoch))
    }

    /// The epoch that cursors are given with.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    /// Takes over the epoch read in a transaction; true when it is another than before.
    pub fn observe(&self, epoch: i64) -> bool {
        self.0.swap(epoch, Ordering::AcqRel) != epoch
    }
}
