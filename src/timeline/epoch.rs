//! The database's epoch as this instance knows it. It changes when the data was restored from a
//! backup: positions that devices hold then mean nothing any more (I10). A sync asks the database
//! itself; this is for what else is to be forgotten then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::store::{self, Store};

/// The epoch last seen in the database.
#[derive(Debug)]
pub struct Epoch(AtomicI64);

impl Epoch {
    /// The epoch read at start.
    #[must_use]
    pub const fn new(epoch: i64) -> Self {
        Self(AtomicI64::new(epoch))
    }

    /// Takes over the epoch read in a transaction; true when it is another than before.
    pub fn observe(&self, epoch: i64) -> bool {
        self.0.swap(epoch, Ordering::AcqRel) != epoch
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
