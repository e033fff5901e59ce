//! SQLite connections on threads of their own, for the two hot paths: appending and reading pages.
//!
//! A statement through sqlx crosses to its worker thread and back, and so does every row. Here a
//! whole transaction, or a whole page, crosses once. Everything else goes through sea-orm.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rusqlite::{Connection, ffi};
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::SqliteSynchronous,
    error::{Error, Result, ResultExt},
    limits::LOCK_TIMEOUT,
    store::{FailureKind, failure::sqlite_kind},
};

/// Pages in the write-ahead log after which a commit folds it into the file itself, where
/// `checkpoint` has not come to it.
pub(super) const CHECKPOINT_PAGES: u32 = 40_000;
/// Calls that wait for a thread before the next one has to wait to be queued.
const QUEUE_MAX: usize = 64;

enum Work {
    Call(Box<dyn FnOnce(&mut Connection) + Send>),
    /// Close the connection and end; the sender's drop tells that it is closed.
    Close(oneshot::Sender<()>),
}

/// What the connections of a pool are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// The threads' name.
    pub(super) name: &'static str,
    /// How many connections, each on its thread.
    pub(super) connections: usize,
    /// Kibibytes of pages each connection keeps.
    pub(super) cache_kib: i32,
    /// They write nothing.
    pub(super) query_only: bool,
}

/// Connections and their threads; the last handle's drop ends them.
#[derive(Clone, Debug)]
pub(super) struct Threads {
    work: mpsc::Sender<Work>,
    count: usize,
}

impl Threads {
    /// Opens connections to the file at `path`, which exists, and starts their threads.
    ///
    /// # Errors
    /// An internal error when the file cannot be opened.
    pub(super) fn start(
        path: &Path,
        synchronous: SqliteSynchronous,
        options: Options,
    ) -> Result<Self> {
        let (work, received) = mpsc::channel(QUEUE_MAX);
        let received = Arc::new(Mutex::new(received));
        for _ in 0..options.connections {
            let connection = open(path, synchronous, options).internal("open the database")?;
            let received = Arc::clone(&received);
            thread::Builder::new()
                .name(options.name.into())
                .spawn(move || run(connection, &received))
                .internal("start a database thread")?;
        }
        Ok(Self {
            work,
            count: options.connections,
        })
    }

    /// Runs `call` on one of the connections; it runs to its end although nobody waits for it any
    /// more. `None` when the threads have ended.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(move |connection: &mut Connection| {
            // Whoever asked may have gone away.
            let _ = reply.send(call(connection));
        });
        self.work.send(Work::Call(call)).await.ok()?;
        answer.await.ok()
    }

    /// Closes all connections when what was asked before is done. Nothing runs after that.
    pub(super) async fn close(&self) {
        for _ in 0..self.count {
            let (closing, closed) = oneshot::channel();
            if self.work.send(Work::Close(closing)).await.is_ok() {
                // An error is what it waits for.
                let _ = closed.await;
            }
        }
    }
}

fn run(mut connection: Connection, work: &Mutex<mpsc::Receiver<Work>>) {
    loop {
        // The one thread that waits for work holds the lock; the others wait for the lock.
        let next = work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        match next {
            Some(Work::Call(call)) => call(&mut connection),
            Some(Work::Close(closed)) => {
                drop(connection);
                drop(closed);
                return;
            }
            None => return,
        }
    }
}

fn open(
    path: &Path,
    synchronous: SqliteSynchronous,
    options: Options,
) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let synchronous = match synchronous {
        SqliteSynchronous::Full => "full",
        SqliteSynchronous::Normal => "normal",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "cache_size", -options.cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "query_only", options.query_only)?;
    Ok(connection)
}

/// What a failure means.
pub(super) fn kind(error: &rusqlite::Error) -> FailureKind {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
                FailureKind::Duplicate
            }
            code => sqlite_kind(code),
        },
        _ => FailureKind::Other,
    }
}

impl From<rusqlite::Error> for Error {
    #[track_caller]
    fn from(error: rusqlite::Error) -> Self {
        if kind(&error).may_pass() {
            tracing::debug!(%error, "the database does not answer");
            Self::try_again("the database does not answer, try again later")
        } else {
            Self::wrap("query", error)
        }
    }
}
