//! Removes what is left of uploads that did not end: those of instances that died, those whose clients
//! were given a URL of the storage and did not use it, and those that could not be removed at once.
//! Every instance does this; a row is taken before it is worked on, so that they share the work.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Files, Key};
use crate::{
    error::{Error, Result},
    limits::{FILE_SWEEP_CHUNK, FILE_SWEEP_INTERVAL, UPLOAD_PENDING_MAX},
    store::{self, file::Row, within_deadline},
};

/// What the storage may have of a file that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// What it has now.
    AtRest,
    /// More may come: it was asked to store something, and did not answer, or may be asked by a client.
    MayCome,
}

impl Files {
    /// Removes what is due until `stop`.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                if let Err(error) = self.remove_due().await {
                    tracing::warn!(%error, "looking for uploads that did not end failed");
                }
                sleep(FILE_SWEEP_INTERVAL).await;
            }
        })
        .await;
    }

    /// Each row is tried once: one that cannot be removed is due again later.
    async fn remove_due(&self) -> Result<()> {
        let now_ms = self.clock.now_ms();
        loop {
            let due = store::file::due(self.store.reader(), now_ms, FILE_SWEEP_CHUNK);
            let due = within_deadline(due).await?;
            let is_last = (due.len() as u64) < FILE_SWEEP_CHUNK;
            for row in due {
                if let Err(error) = self.remove_row(&row, Leftover::AtRest).await {
                    tracing::warn!(key = row.key, %error, "an upload that did not end is left");
                    // The rest would fare no better.
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Removes what is stored for a key, and its row, unless more may come: then the row stays until
    /// the sweep removes it all once more.
    pub(super) async fn remove(&self, key: Key, leftover: Leftover) -> Result<()> {
        match self.row(key).await? {
            Some(row) => self.remove_row(&row, leftover).await,
            None => Ok(()),
        }
    }

    async fn remove_row(&self, row: &Row, leftover: Leftover) -> Result<()> {
        let key = Key::parse(&row.key).ok_or_else(|| Error::internal("a row with a broken key"))?;
        let again = match leftover {
            Leftover::AtRest => FILE_SWEEP_INTERVAL,
            Leftover::MayCome => UPLOAD_PENDING_MAX,
        };
        let again_ms = self.clock.now_ms().saturating_add(again.as_millis() as i64);
        let taken = self.write(async |tx| store::file::discard(tx.conn(), row, again_ms).await);
        if !taken.await? {
            // It was stored meanwhile, or somebody else removes it.
            return Ok(());
        }
        self.storage.remove(key, &row.upload_id).await?;
        if leftover == Leftover::AtRest {
            let deleted = self.write(async |tx| store::file::delete(tx.conn(), row.id).await);
            deleted.await?;
        }
        Ok(())
    }
}
