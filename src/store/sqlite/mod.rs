//! The embedded engine: one SQLite file, which serves one instance.
//!
//! SQLite has one writer at a time. Everything that writes waits for its turn here, so that nobody
//! waits by polling, writers never deadlock, and I1 holds: whoever hands out a seq is the only one
//! who writes until that is committed. The two hot paths, appending and reading pages, run on
//! threads with connections of their own, because a statement through sqlx crosses to its worker
//! thread and back, and so does every row.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection,
    sqlx::{
        Connection as _,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::{
    checkpoint::Growth,
    threads::{CHECKPOINT_PAGES, Options, Threads},
};
use super::{
    FailureKind,
    append::{Committed, Failed, Send},
    timeline::Row,
};
use crate::{
    config,
    error::{Error, Result, ResultExt},
    id::{Owner, Seq},
    limits::{DATABASE_DEADLINE, LOCK_TIMEOUT},
};

mod append;
pub(super) mod checkpoint;
mod page;
mod threads;

/// The appending connection: what it keeps should hold the heads and the ends of the timelines.
const APPENDER: Options = Options {
    name: "sqlite-append",
    connections: 1,
    cache_kib: 16 * 1024,
    query_only: false,
};
/// The connection that folds the log; it reads no pages of the file.
const CHECKPOINTER: Options = Options {
    name: "sqlite-fold",
    connections: 1,
    cache_kib: 256,
    query_only: false,
};
/// The connections that read pages, as many as the machine can keep busy.
const PAGE_READERS: Options = Options {
    name: "sqlite-page",
    connections: 1,
    cache_kib: 2 * 1024,
    query_only: true,
};

/// An open SQLite file, beside the pools of sea-orm.
#[derive(Debug)]
pub(super) struct Sqlite {
    /// Appends.
    appender: Threads,
    /// Read pages.
    page_readers: Threads,
    /// Folds the write-ahead log into the file.
    checkpointer: Threads,
    log_growth: Arc<Growth>,
    /// Who may write now.
    turn: Arc<Mutex<()>>,
    /// Which of the callers' transactions may ask for its turn, so that never more than one of them
    /// stands before the writer, however many callers there are.
    callers: Arc<Mutex<()>>,
    /// Refuses a second process on the same file.
    _lock: File,
}

/// The right to write, while a transaction is open.
#[derive(Debug)]
pub(super) struct Turn {
    log_growth: Arc<Growth>,
    /// Rows that the transaction is known to write.
    rows: usize,
    _turn: OwnedMutexGuard<()>,
    _callers: Option<OwnedMutexGuard<()>>,
}

impl Sqlite {
    /// Opens the file that `config` names, creating it where it is not there. Gives the pool that
    /// reads, the pool that writes, and what else there is.
    pub(super) async fn open(
        path: &Path,
        config: &config::Database,
    ) -> Result<(DatabaseConnection, DatabaseConnection, Self)> {
        if path.as_os_str().is_empty() || path == Path::new(":memory:") {
            return Err(Error::internal(
                "database.url: names no file, allowed: sqlite://path",
            ));
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(folder).internal("create the database's folder")?;
        }
        let lock = lock_beside(path)?;
        let synchronous = match config.sqlite_synchronous {
            config::SqliteSynchronous::Full => SqliteSynchronous::Full,
            config::SqliteSynchronous::Normal => SqliteSynchronous::Normal,
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let readers = config.max_connections.clamp(1, cores + 2) as u32;
        let write = pool(path, 1, synchronous, false).await?;
        let read = pool(path, readers, synchronous, true).await?;
        let page_readers = Options {
            connections: readers as usize,
            ..PAGE_READERS
        };
        let start = |options| Threads::start(path, config.sqlite_synchronous, options);
        let sqlite = Self {
            appender: start(APPENDER)?,
            page_readers: start(page_readers)?,
            checkpointer: start(CHECKPOINTER)?,
            log_growth: Arc::default(),
            turn: Arc::default(),
            callers: Arc::default(),
            _lock: lock,
        };
        Ok((read, write, sqlite))
    }

    /// Waits for the right to write.
    pub(super) async fn turn(&self) -> Turn {
        self.turn_behind(None).await
    }

    /// As [`Sqlite::turn`], behind all other callers.
    pub(super) async fn caller_turn(&self) -> Turn {
        let callers = Arc::clone(&self.callers).lock_owned().await;
        self.turn_behind(Some(callers)).await
    }

    async fn turn_behind(&self, callers: Option<OwnedMutexGuard<()>>) -> Turn {
        Turn {
            log_growth: Arc::clone(&self.log_growth),
            rows: 0,
            _turn: Arc::clone(&self.turn).lock_owned().await,
            _callers: callers,
        }
    }

    /// Appends a batch in one transaction on the appending thread.
    pub(super) async fn append(&self, sends: Vec<Send>) -> Result<Committed, Failed> {
        let mut turn = self.turn().await;
        let append = move |connection: &mut Connection| {
            let committed = append::append(connection, &sends);
            turn.wrote(sends.iter().map(Send::rows).sum());
            turn.committed();
            committed
        };
        self.appender.run(append).await.unwrap_or_else(|| {
            Err(Failed {
                kind: FailureKind::Away,
                in_doubt: None,
                error: "the append thread has ended".into(),
            })
        })
    }

    /// See [`timeline::page`](super::timeline::page).
    pub(super) async fn page(
        &self,
        owner: Owner,
        after: Seq,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Row>, bool)> {
        let read = move |connection: &mut Connection| {
            page::read(connection, owner, after, rows_max, bytes_max)
        };
        let page = self.page_readers.run(read).await;
        Ok(page.ok_or_else(|| Error::try_again("the database is closed"))??)
    }

    /// Closes the connections of all threads.
    pub(super) async fn close(&self) {
        self.page_readers.close().await;
        self.checkpointer.close().await;
        self.appender.close().await;
    }
}

impl Turn {
    /// Counts rows that the transaction writes, so that the log is folded in time.
    pub(super) const fn wrote(&mut self, rows: usize) {
        self.rows += rows;
    }

    /// The transaction is committed: it is somebody else's turn.
    pub(super) fn committed(self) {
        self.log_growth.add(self.rows);
    }
}

/// The file an SQLite URL names, or `None` for another database.
pub(super) fn path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Some(PathBuf::from(path))
}

/// Takes the lock file beside an SQLite database.
fn lock_beside(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .internal("open the database's lock file")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::internal(format!(
            "database.url: {} is in use by another process; one SQLite file serves one instance",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(error).internal("lock the database"),
    }
}

async fn pool(
    path: &Path,
    connections: u32,
    synchronous: SqliteSynchronous,
    query_only: bool,
) -> Result<DatabaseConnection> {
    let file = path.to_owned();
    let mut options = ConnectOptions::new("sqlite:");
    options
        .max_connections(connections)
        .min_connections(connections)
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .acquire_timeout(DATABASE_DEADLINE)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        // A commit that fails for want of room ends the transaction in SQLite, but not in the
        // driver, for which every later one would be nested in it. Such a connection is closed. The
        // ping lets a rollback that was begun come first.
        .map_sqlx_sqlite_pool_opts(|pool| {
            pool.after_release(|connection, _| {
                Box::pin(async move {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
        })
        .map_sqlx_sqlite_opts(move |options| {
            let options = options
                // Not in the URL, where a percent sign or a question mark would mean something.
                .filename(&file)
                .create_if_missing(!query_only)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(synchronous)
                .busy_timeout(LOCK_TIMEOUT)
                .statement_cache_capacity(128)
                // Resident memory is bounded: no mapped pages, 2 MiB of page cache a connection.
                .pragma("mmap_size", "0")
                .pragma("cache_size", "-2048")
                .pragma("temp_store", "memory")
                .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string());
            if query_only {
                options.pragma("query_only", "on")
            } else {
                options
            }
        });
    Database::connect(options)
        .await
        .internal("open the database")
}
