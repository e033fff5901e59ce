//! The bytes that all rings of an instance may hold together.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::RINGS_BYTES_MAX;

/// Bytes held by all rings of an instance. What many rings share is counted once.
#[derive(Debug, Default)]
pub struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn take(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.taken() > RINGS_BYTES_MAX
    }

    pub(super) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
