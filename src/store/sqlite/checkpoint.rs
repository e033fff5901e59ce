//! Folding SQLite's write-ahead log into the database file beside the appending, so that no commit
//! waits while megabytes are copied.
//!
//! A passive checkpoint copies what it finds while others write on; but as long as they do, it is
//! never done, and the log grows (<https://sqlite.org/wal.html#ckpt>). So a second one follows that
//! holds the right to write: it has little left to copy, and the next transaction begins the log
//! anew.

use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::Connection;
use tokio::sync::Notify;

use super::Sqlite;

/// Rows written after which the log is folded: some 16 MiB of it.
const ROWS_MAX: usize = 4_000;

/// What a transaction counts for that is not an append: most write a few pages.
pub(in crate::store) const TRANSACTION_ROWS: usize = 16;

/// How much the log has grown since it was folded.
#[derive(Debug, Default)]
pub(super) struct Growth {
    rows: AtomicUsize,
    enough: Notify,
}

impl Growth {
    /// Counts rows that were committed.
    pub(super) fn add(&self, rows: usize) {
        if self.rows.fetch_add(rows, Ordering::Relaxed) + rows >= ROWS_MAX {
            self.enough.notify_one();
        }
    }
}

impl Sqlite {
    /// Folds the log whenever it has grown enough; never returns.
    pub(in crate::store) async fn fold_log(&self) {
        loop {
            self.log_growth.enough.notified().await;
            self.log_growth.rows.store(0, Ordering::Relaxed);
            self.checkpointer.run(checkpoint).await;
            let _turn = self.turn().await;
            self.checkpointer.run(checkpoint).await;
        }
    }
}

fn checkpoint(connection: &mut Connection) {
    let folded = connection.query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = folded {
        tracing::warn!(%error, "the write-ahead log could not be folded yet");
    }
}
