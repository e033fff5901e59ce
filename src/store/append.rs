//! The transaction that appends: the hot path of the whole server, and the only code that hands
//! out seqs.
//!
//! Invariant I1 rests here: a seq is taken by raising the timeline's head row inside the
//! transaction that inserts the entry, and the write lock is held until that commits. On SQLite
//! the transaction runs on one thread with a connection of its own.

use std::sync::Arc;

use rusqlite::Connection;

use super::{FailureKind, Store, message, sqlite_append};
use crate::id::{MessageId, Owner, Seq};

/// One message and the timelines it goes to.
#[derive(Clone, Debug)]
pub struct Send {
    /// The message, with the id it gets if it is new.
    pub row: message::Row,
    /// The timelines it goes to, without repeats.
    pub owners: Vec<Owner>,
    /// In whose timeline the seq of a repeat is looked up.
    pub answer_owner: Owner,
}

/// What became of one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Stored, at these positions in the order of [`Send::owners`].
    New(Vec<Seq>),
    /// Stored before, by this batch or an earlier one.
    Repeat {
        /// Under this id.
        id: MessageId,
        /// At this position of the timeline that was asked for.
        seq: Seq,
        /// When, in unix milliseconds.
        send_time: i64,
    },
    /// Its client message id is taken by another message.
    Conflict,
}

/// A batch that is stored.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The database's epoch, read in the same transaction.
    pub epoch: i64,
    /// What became of each send.
    pub placed: Vec<Placed>,
}

/// A batch that is not known to be stored.
#[derive(Debug)]
pub struct Failed {
    /// What can be done about it.
    pub kind: FailureKind,
    /// The failure came while committing: it may be stored all the same.
    pub in_commit: bool,
    /// What the database said.
    pub error: Box<dyn std::error::Error + std::marker::Send + Sync>,
}

impl Store {
    /// Appends a batch in one transaction. A send whose client message id is known is not stored
    /// again.
    ///
    /// # Errors
    /// [`Failed`]; nothing is stored unless it says `in_commit`.
    pub async fn append(&self, sends: Vec<Send>) -> Result<Committed, Failed> {
        // One writer at a time: SQLite would make the other wait by polling.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let growth = Arc::clone(&self.log_growth);
        let append = move |connection: &mut Connection| {
            let committed = sqlite_append::append(connection, &sends);
            drop(turn);
            growth.add(sends.iter().map(|send| 1 + send.owners.len()).sum());
            committed
        };
        self.appender.run(append).await.unwrap_or_else(|| {
            Err(Failed {
                kind: FailureKind::Away,
                in_commit: true,
                error: "the append thread has ended".into(),
            })
        })
    }
}
