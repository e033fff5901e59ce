//! The SQL database: connections, transactions, and what its failures mean. The queries stand
//! beside this, one file per domain; `entity/` has one file per table.
//!
//! Invariant: only this module and the crate `migrations` name sea-orm. Writes go through
//! [`Store::begin`]; on SQLite that is one connection, so writers queue and never deadlock.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use migrations::{Migrator, MigratorTrait};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
    sqlx::{
        Connection as _,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use self::{
    checkpoint::Growth,
    sqlite::{CHECKPOINT_PAGES, Threads},
};
use crate::{
    config,
    error::{Error, Result, ResultExt},
    limits::{DATABASE_DEADLINE, LOCK_TIMEOUT},
};

pub mod ack;
pub mod append;
pub mod auth_token;
mod checkpoint;
pub mod cluster;
mod commit;
pub mod device;
pub mod entity;
mod failure;
pub mod friend;
pub mod group;
pub mod id_block;
mod ids;
pub mod membership;
pub mod message;
pub mod session;
mod sqlite;
mod sqlite_append;
pub mod timeline;
pub mod user;
pub mod verification_code;

pub use commit::within_deadline;
pub(crate) use failure::Outcome;
pub use failure::{Failure, Kind as FailureKind, kind as failure_kind};

/// The appending connection: what it keeps should hold the heads and the ends of the timelines.
const APPENDER: sqlite::Options = sqlite::Options {
    name: "sqlite-append",
    connections: 1,
    cache_kib: 16 * 1024,
    query_only: false,
};
/// The connection that folds the log; it reads no pages of the file.
const CHECKPOINTER: sqlite::Options = sqlite::Options {
    name: "sqlite-fold",
    connections: 1,
    cache_kib: 256,
    query_only: false,
};
/// The connections that read pages, as many as the machine can keep busy.
const PAGE_READERS: sqlite::Options = sqlite::Options {
    name: "sqlite-page",
    connections: 1,
    cache_kib: 2 * 1024,
    query_only: true,
};

/// Whatever a query runs on: the readers' pool or an open transaction.
pub trait Conn: ConnectionTrait {}
impl<T: ConnectionTrait> Conn for T {}

/// A handle to the database; cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Store {
    read: DatabaseConnection,
    write: DatabaseConnection,
    /// Appends.
    appender: Threads,
    /// Read pages.
    page_readers: Threads,
    /// Folds the write-ahead log into the file.
    checkpointer: Threads,
    log_growth: Arc<Growth>,
    /// Who may write now: SQLite has one writer at a time.
    turn: Arc<Mutex<()>>,
    /// Which of the callers' transactions may ask for its turn, so that never more than one of them
    /// stands before the writer, however many callers there are.
    callers: Arc<Mutex<()>>,
    /// Held as long as any handle lives: refuses a second process on one SQLite file.
    _lock: Arc<File>,
}

/// An open transaction; it is rolled back unless committed.
#[derive(Debug)]
pub struct Tx {
    tx: DatabaseTransaction,
    log_growth: Arc<Growth>,
    /// Rows that it is known to write.
    rows: usize,
    _turn: OwnedMutexGuard<()>,
    _callers: Option<OwnedMutexGuard<()>>,
}

impl Store {
    /// Opens the database, creating an SQLite file that is not there. Runs no migrations.
    ///
    /// # Errors
    /// An internal error when the URL is not understood, the database cannot be reached, or
    /// another process has the SQLite file open.
    pub async fn open(config: &config::Database) -> Result<Self> {
        let Some(path) = sqlite_path(&config.url) else {
            return Err(Error::internal(
                "database.url: this version runs on SQLite only (sqlite://path)",
            ));
        };
        if path.as_os_str().is_empty() || path == Path::new(":memory:") {
            return Err(Error::internal(
                "database.url: names no file, allowed: sqlite://path",
            ));
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(folder).internal("create the database's folder")?;
        }
        let lock = lock_beside(&path)?;
        let synchronous = match config.sqlite_synchronous {
            config::SqliteSynchronous::Full => SqliteSynchronous::Full,
            config::SqliteSynchronous::Normal => SqliteSynchronous::Normal,
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let readers = config.max_connections.clamp(1, cores + 2) as u32;
        let write = sqlite_pool(&path, 1, synchronous, false).await?;
        let read = sqlite_pool(&path, readers, synchronous, true).await?;
        Ok(Self {
            read,
            write,
            appender: Threads::start(&path, config.sqlite_synchronous, APPENDER)?,
            page_readers: Threads::start(
                &path,
                config.sqlite_synchronous,
                sqlite::Options {
                    connections: readers as usize,
                    ..PAGE_READERS
                },
            )?,
            checkpointer: Threads::start(&path, config.sqlite_synchronous, CHECKPOINTER)?,
            log_growth: Arc::default(),
            turn: Arc::default(),
            callers: Arc::default(),
            _lock: Arc::new(lock),
        })
    }

    /// Whether the file of an SQLite database is there; other databases cannot be told.
    #[must_use]
    pub fn exists(config: &config::Database) -> bool {
        sqlite_path(&config.url).is_none_or(|path| path.exists())
    }

    /// Brings the schema up to this version and makes sure the cluster's row is there.
    ///
    /// # Errors
    /// An internal error when a migration fails.
    pub async fn migrate(&self) -> Result<()> {
        Migrator::up(&self.write, None)
            .await
            .internal("migrate the database")?;
        cluster::ensure(self).await
    }

    /// What queries that write nothing run on.
    pub fn reader(&self) -> &impl Conn {
        &self.read
    }

    /// Begins a transaction that may write. It waits for its turn at most the database's
    /// deadline.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn begin(&self) -> Result<Tx> {
        let begin = async {
            let callers = Arc::clone(&self.callers).lock_owned().await;
            self.begin_behind(Some(callers)).await
        };
        match tokio::time::timeout(DATABASE_DEADLINE, begin).await {
            Ok(tx) => Ok(tx?),
            Err(_) => Err(Error::try_again(
                "the database does not answer, try again later",
            )),
        }
    }

    /// As [`Store::begin`], for those who handle each kind of failure themselves; it waits behind
    /// one caller at most.
    pub(crate) async fn begin_raw(&self) -> Outcome<Tx> {
        self.begin_behind(None).await
    }

    async fn begin_behind(&self, callers: Option<OwnedMutexGuard<()>>) -> Outcome<Tx> {
        let options = TransactionOptions {
            isolation_level: None,
            access_mode: None,
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let tx = self.write.begin_with_options(options).await?;
        Ok(Tx {
            tx,
            log_growth: Arc::clone(&self.log_growth),
            rows: checkpoint::TRANSACTION_ROWS,
            _turn: turn,
            _callers: callers,
        })
    }

    /// Closes all connections; on SQLite the write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.page_readers.close().await;
        self.checkpointer.close().await;
        self.appender.close().await;
        for pool in [&self.read, &self.write] {
            if let Err(error) = pool.close_by_ref().await {
                tracing::warn!(%error, "closing the database failed");
            }
        }
    }
}

impl Tx {
    /// What the transaction's queries run on.
    pub fn conn(&self) -> &impl Conn {
        &self.tx
    }

    /// Counts rows that the transaction writes, so that the log is folded in time. What writes a few
    /// needs not.
    pub(crate) const fn wrote(&mut self, rows: usize) {
        self.rows += rows;
    }

    /// Makes everything done in the transaction durable.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) or an internal error; the outcome is then
    /// unknown.
    pub async fn commit(self) -> Result<()> {
        Ok(self.commit_raw().await?)
    }

    /// As [`Tx::commit`], for those who handle each kind of failure themselves.
    pub(crate) async fn commit_raw(self) -> Outcome<()> {
        self.tx.commit().await?;
        self.log_growth.add(self.rows);
        Ok(())
    }
}

/// The file an SQLite URL names, or `None` for another database.
fn sqlite_path(url: &str) -> Option<PathBuf> {
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

async fn sqlite_pool(
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

#[cfg(test)]
mod tests;
