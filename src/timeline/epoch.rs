//! The database's epoch as this instance knows it. It changes when the data was restored from a
//! backup: positions that devices hold then mean nothing any more (I10). A sync asks the database
//! itself; this is for what else is to be forgotten then.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::store::{self, Store};

/// The epoch last seen in the database.
#[derive(Debug)]
pub struct Epoch(Mutex<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    now: i64,
    /// The one before. A transaction that began under it may be heard of late.
    former: Option<i64>,
}

impl Epoch {
    /// The epoch read at start.
    #[must_use]
    pub const fn new(epoch: i64) -> Self {
        let seen = Seen {
            now: epoch,
            former: None,
        };
        Self(Mutex::new(seen))
    }

    /// Takes over the epoch read in a transaction; true when it is a new one. The one before does not
    /// come back.
    pub fn observe(&self, epoch: i64) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch == seen.now || Some(epoch) == seen.former {
            return false;
        }
        *seen = Seen {
            now: epoch,
            former: Some(seen.now),
        };
        true
    }
}

/// Looks at the epoch once in an interval, for an instance that stores nothing meanwhile; `changed` is
/// called when it is another one.
pub async fn watch(
    epoch: Arc<Epoch>,
    store: Store,
    interval: Duration,
    stop: CancellationToken,
    changed: impl Fn() + Send,
) {
    let pause = || stop.run_until_cancelled(tokio::time::sleep(interval));
    while pause().await.is_some() {
        match store::cluster::epoch(store.reader()).await {
            Ok(now) if epoch.observe(now) => {
                tracing::warn!(epoch = now, "the database has a new epoch");
                changed();
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, trace = ?error.trace(), "the epoch could not be read")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_epoch_that_is_heard_of_late_is_not_taken_for_a_new_one() {
        let epoch = Epoch::new(1);
        assert!(!epoch.observe(1));
        assert!(epoch.observe(2));
        assert!(!epoch.observe(1), "a transaction read it before");
        assert!(!epoch.observe(2), "it was told already");
        assert!(epoch.observe(3));
        assert!(!epoch.observe(2));
        assert!(!epoch.observe(3));
    }
}
