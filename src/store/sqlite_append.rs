//! The append transaction on SQLite, on a thread of its own with rusqlite: every statement is
//! prepared once, and none crosses a thread.

use std::{path::Path, thread};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, ffi, params};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use super::{
    FailureKind,
    append::{Committed, Failed, Placed, Send},
    failure::sqlite_kind,
    message::Row,
};
use crate::{
    config::SqliteSynchronous,
    error::{Result, ResultExt},
    id::{MessageId, Owner, Seq},
    limits::LOCK_TIMEOUT,
};

/// A batch, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) sends: Vec<Send>,
    pub(super) reply: oneshot::Sender<std::result::Result<Committed, Failed>>,
    /// The right to write, given back when the transaction has ended.
    pub(super) turn: OwnedMutexGuard<()>,
}

/// Kibibytes of pages the connection keeps; the working set of the heads and the ends of the
/// timelines should fit.
const CACHE_KIB: i32 = 16 * 1024;
/// Pages in the write-ahead log after which a commit folds it into the file.
const CHECKPOINT_PAGES: i32 = 4_000;

/// The thread's handle; dropping it ends the thread.
#[derive(Clone, Debug)]
pub(super) struct Appender {
    jobs: mpsc::Sender<Job>,
}

impl Appender {
    /// Opens a connection to the file at `path`, which exists, and starts the thread.
    ///
    /// # Errors
    /// An internal error when the file cannot be opened.
    pub(super) fn start(path: &Path, synchronous: SqliteSynchronous) -> Result<Self> {
        let connection = open(path, synchronous).internal("open the database to append")?;
        let (jobs, received) = mpsc::channel(1);
        thread::Builder::new()
            .name("sqlite-append".into())
            .spawn(move || run(connection, received))
            .internal("start the append thread")?;
        Ok(Self { jobs })
    }

    pub(super) async fn send(
        &self,
        job: Job,
    ) -> std::result::Result<(), mpsc::error::SendError<Job>> {
        self.jobs.send(job).await
    }
}

fn open(path: &Path, synchronous: SqliteSynchronous) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(
        None,
        "synchronous",
        match synchronous {
            SqliteSynchronous::Full => "full",
            SqliteSynchronous::Normal => "normal",
        },
    )?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

fn run(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(Job { sends, reply, turn }) = jobs.blocking_recv() {
        let committed = append(&mut connection, &sends);
        drop(turn);
        // The writer waits for its batches; it is gone only when the server is.
        let _ = reply.send(committed);
    }
}

fn append(connection: &mut Connection, sends: &[Send]) -> std::result::Result<Committed, Failed> {
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| failed(error, false))?;
    let committed = fill(&tx, sends).map_err(|error| failed(error, false))?;
    tx.commit().map_err(|error| failed(error, true))?;
    Ok(committed)
}

fn fill(tx: &Transaction<'_>, sends: &[Send]) -> rusqlite::Result<Committed> {
    let epoch = tx
        .prepare_cached("SELECT epoch FROM cluster")?
        .query_one([], |row| row.get(0))?;
    let placed = sends.iter().map(|send| place(tx, send));
    Ok(Committed {
        epoch,
        placed: placed.collect::<rusqlite::Result<_>>()?,
    })
}

/// Stores one send unless it is stored already. Earlier sends of the batch are seen like those of
/// earlier batches.
fn place(tx: &Transaction<'_>, send: &Send) -> rusqlite::Result<Placed> {
    if let Some(id) = &send.row.client_message_id
        && let Some(known) = find_known(tx, send, id)?
    {
        return Ok(known);
    }
    insert_message(tx, &send.row)?;
    let seqs = send.owners.iter().map(|owner| {
        let seq = raise_head(tx, *owner)?;
        insert_entry(tx, *owner, seq, send.row.id)?;
        Ok(seq)
    });
    Ok(Placed::New(seqs.collect::<rusqlite::Result<_>>()?))
}

fn find_known(
    tx: &Transaction<'_>,
    send: &Send,
    client_message_id: &[u8],
) -> rusqlite::Result<Option<Placed>> {
    let known: Option<(i64, Vec<u8>, i64)> = tx
        .prepare_cached(
            "SELECT id, digest, send_time FROM message \
             WHERE sender_type = ?1 AND sender_id = ?2 AND client_message_id = ?3",
        )?
        .query_row(
            params![send.row.sender_type, send.row.sender_id, client_message_id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((id, digest, send_time)) = known else {
        return Ok(None);
    };
    if digest != send.row.digest {
        return Ok(Some(Placed::Conflict));
    }
    let owner = send.answer_owner;
    let seq: Option<i64> = tx
        .prepare_cached(
            "SELECT seq FROM timeline_entry \
             WHERE message_id = ?1 AND owner_type = ?2 AND owner_id = ?3",
        )?
        .query_row(params![id, owner.kind(), owner.id()], |row| row.get(0))
        .optional()?;
    Ok(Some(Placed::Repeat {
        id: MessageId(id),
        seq: Seq(seq.unwrap_or_default()),
        send_time,
    }))
}

fn raise_head(tx: &Transaction<'_>, owner: Owner) -> rusqlite::Result<Seq> {
    tx.prepare_cached(
        "INSERT INTO timeline_head (owner_type, owner_id, seq) VALUES (?1, ?2, 1) \
         ON CONFLICT DO UPDATE SET seq = seq + 1 RETURNING seq",
    )?
    .query_one(params![owner.kind(), owner.id()], |row| row.get(0).map(Seq))
}

fn insert_entry(
    tx: &Transaction<'_>,
    owner: Owner,
    seq: Seq,
    message_id: i64,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO timeline_entry (owner_type, owner_id, seq, message_id) \
         VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![owner.kind(), owner.id(), seq.get(), message_id])
    .map(drop)
}

fn insert_message(tx: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO message (id, sender_type, sender_id, sender_device_id, receiver_type, \
         receiver_id, to_user_ids, type, content, send_time, status, client_message_id, digest) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        row.id,
        row.sender_type,
        row.sender_id,
        row.sender_device_id,
        row.receiver_type,
        row.receiver_id,
        row.to_user_ids,
        row.r#type,
        row.content,
        row.send_time,
        row.status,
        row.client_message_id,
        row.digest,
    ])
    .map(drop)
}

fn failed(error: rusqlite::Error, in_commit: bool) -> Failed {
    let kind = match &error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
                FailureKind::Duplicate
            }
            code => sqlite_kind(code),
        },
        _ => FailureKind::Other,
    };
    Failed {
        kind,
        in_commit,
        error: error.into(),
    }
}
