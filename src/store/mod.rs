//! The SQL database: connections, transactions, and what its failures mean. The queries stand
//! beside this, one file per domain; `entity/` has one file per table. What the engines do
//! differently stands in `sqlite/` and `server/`.
//!
//! Invariant: only this module and the crate `migrations` name sea-orm. Writes go through
//! [`Store::begin`] and [`Store::append`](append).

use std::{future::Future, sync::Arc};

use migrations::{Migrator, MigratorTrait};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
    sea_query::{Expr, IntoIden},
};

use self::{
    bounded::Bounded,
    server::{Place, Server},
    sqlite::Sqlite,
};
use crate::{
    config,
    error::{Error, Result, ResultExt},
    limits::{ATTEMPT_MAX, DATABASE_DEADLINE, SCHEMA_SILENCE_MAX},
};

pub mod ack;
pub mod append;
pub mod auth_token;
mod bounded;
pub mod cluster;
mod commit;
pub mod device;
pub mod entity;
mod failure;
pub mod file;
pub mod friend;
pub mod group;
pub mod id_block;
mod ids;
pub mod membership;
pub mod message;
pub mod online;
pub mod outbox;
mod server;
pub mod session;
pub mod sign_out;
mod sqlite;
pub mod timeline;
pub mod undelivered;
pub mod user;
pub mod verification_code;

pub use commit::{Committed, within_deadline};
pub(crate) use failure::Outcome;
pub use failure::{Failure, Kind as FailureKind, kind as failure_kind};

/// Whatever a query runs on: the readers' pool or an open transaction.
pub trait Conn: ConnectionTrait {}
impl<T: ConnectionTrait> Conn for T {}

/// A handle to the database; cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Store {
    /// Reads. On a database server callers' transactions run here too, so that those who write by
    /// themselves need not wait for a connection behind them.
    read: Arc<Bounded<DatabaseConnection>>,
    write: DatabaseConnection,
    engine: Arc<Engine>,
}

/// What an engine has beside the pools.
#[derive(Debug)]
enum Engine {
    Sqlite(Box<Sqlite>),
    Server(Box<Server>),
}

/// An instance's place on a database, to be kept as long as it runs.
#[derive(Debug)]
pub struct Held(Option<Place>);

/// A right that one instance has at a time: to do what must be done once in a cluster.
#[derive(Debug)]
pub struct Duty(Option<server::Duty>);

/// An open transaction; it is rolled back unless committed.
#[derive(Debug)]
pub struct Tx {
    tx: Bounded<DatabaseTransaction>,
    turn: Option<sqlite::Turn>,
}

impl Store {
    /// Opens the database, creating an SQLite file that is not there. Runs no migrations.
    ///
    /// # Errors
    /// An internal error when the URL is not understood, the database cannot be reached, or
    /// another process has the SQLite file open.
    pub async fn open(config: &config::Database) -> Result<Self> {
        let (read, write, engine) = match sqlite::path(&config.url) {
            Some(path) => {
                let (read, write, sqlite) = Sqlite::open(&path, config).await?;
                (read, write, Engine::Sqlite(Box::new(sqlite)))
            }
            None => {
                let (read, write, server) = Server::open(config).await?;
                (read, write, Engine::Server(Box::new(server)))
            }
        };
        Ok(Self {
            read: Arc::new(Bounded(read)),
            write,
            engine: Arc::new(engine),
        })
    }

    /// Whether the file of an SQLite database is there; other databases cannot be told.
    #[must_use]
    pub fn exists(config: &config::Database) -> bool {
        sqlite::path(&config.url).is_none_or(|path| path.exists())
    }

    /// Brings the schema up to this version and makes sure the cluster's row is there. Of instances
    /// that start together one does it, and the others wait.
    ///
    /// # Errors
    /// An internal error when a migration fails, or takes place no more under the lock that keeps the
    /// others waiting.
    pub async fn migrate(&self) -> Result<()> {
        let migrate = async {
            Migrator::up(&self.write, None)
                .await
                .internal("migrate the database")?;
            cluster::ensure(self).await
        };
        match &*self.engine {
            Engine::Sqlite(_) => migrate.await,
            Engine::Server(server) => {
                let alone = server.lock_schema(SCHEMA_SILENCE_MAX).await?;
                alone.during(migrate).await
            }
        }
    }

    /// Takes a place on the database for a running instance. One that `is_alone` refuses all others
    /// and is refused by them. An SQLite file was taken when it was opened.
    ///
    /// # Errors
    /// An internal error when there is no place, or the database does not answer.
    pub async fn take_place(&self, is_alone: bool) -> Result<Held> {
        match &*self.engine {
            Engine::Sqlite(_) => Ok(Held(None)),
            Engine::Server(server) => Ok(Held(Some(server.take_place(is_alone).await?))),
        }
    }

    /// The duty to deliver what stands in the outbox. An SQLite file serves one instance, whose duty
    /// it is.
    #[must_use]
    pub fn delivery_duty(&self) -> Duty {
        match &*self.engine {
            Engine::Sqlite(_) => Duty(None),
            Engine::Server(server) => Duty(Some(server.delivery_duty())),
        }
    }

    /// What queries that write nothing run on.
    pub fn reader(&self) -> &impl Conn {
        &*self.read
    }

    /// Begins a transaction that may write. It waits for its turn at most the database's
    /// deadline.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn begin(&self) -> Result<Tx> {
        let begin = async {
            match &*self.engine {
                Engine::Sqlite(sqlite) => {
                    self.begin_on(&self.write, Some(sqlite.caller_turn().await))
                }
                Engine::Server(_) => self.begin_on(&self.read.0, None),
            }
            .await
        };
        match tokio::time::timeout(DATABASE_DEADLINE, begin).await {
            Ok(tx) => Ok(tx?),
            Err(_) => Err(Error::try_again(
                "the database does not answer, try again later",
            )),
        }
    }

    /// As [`Store::begin`], for those who handle each kind of failure themselves; on SQLite it waits
    /// behind one caller at most.
    pub(crate) async fn begin_raw(&self) -> Outcome<Tx> {
        let turn = match &*self.engine {
            Engine::Sqlite(sqlite) => Some(sqlite.turn().await),
            Engine::Server(_) => None,
        };
        self.begin_on(&self.write, turn).await
    }

    async fn begin_on(
        &self,
        pool: &DatabaseConnection,
        mut turn: Option<sqlite::Turn>,
    ) -> Outcome<Tx> {
        let options = TransactionOptions {
            isolation_level: None,
            access_mode: None,
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        };
        if let Some(turn) = &mut turn {
            turn.wrote(sqlite::checkpoint::TRANSACTION_ROWS);
        }
        let tx = attempt(pool.begin_with_options(options)).await?;
        Ok(Tx {
            tx: Bounded(tx),
            turn,
        })
    }

    /// Folds SQLite's write-ahead log into its file whenever it has grown enough; never returns.
    pub async fn fold_log(self) {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.fold_log().await,
            Engine::Server(_) => std::future::pending().await,
        }
    }

    /// Closes all connections; on SQLite the write-ahead log is folded into the file.
    pub async fn close(&self) {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.close().await,
            Engine::Server(server) => server.close().await,
        }
        for pool in [&self.read.0, &self.write] {
            if let Err(error) = pool.close_by_ref().await {
                tracing::warn!(%error, "closing the database failed");
            }
        }
    }
}

impl Held {
    /// Keeps the place for ever; it ends when another instance took it while the database was away.
    pub async fn keep(self) -> Error {
        match self.0 {
            Some(place) => place.keep().await,
            None => std::future::pending().await,
        }
    }
}

impl Duty {
    /// Waits until the duty is this instance's, however long another one has it.
    pub async fn taken(&mut self) {
        if let Some(duty) = &mut self.0 {
            duty.taken().await;
        }
    }

    /// Completes when the duty may be another instance's.
    pub async fn lost(&mut self) {
        match &mut self.0 {
            Some(duty) => duty.lost().await,
            None => std::future::pending().await,
        }
    }
}

impl Tx {
    /// What the transaction's queries run on.
    pub fn conn(&self) -> &impl Conn {
        &self.tx
    }

    /// Counts rows that the transaction writes, so that SQLite's log is folded in time. What writes a
    /// few needs not.
    pub(crate) const fn wrote(&mut self, rows: usize) {
        if let Some(turn) = &mut self.turn {
            turn.wrote(rows);
        }
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
        attempt(self.tx.0.commit()).await?;
        if let Some(turn) = self.turn {
            turn.committed();
        }
        Ok(())
    }
}

/// Waits for one attempt at something on the database at most [`ATTEMPT_MAX`]: it may have been cut off
/// without a word.
///
/// # Errors
/// What `work` gives, and [`FailureKind::Away`] when it takes longer.
pub(crate) async fn attempt<T, E: From<Failure>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let done = tokio::time::timeout(ATTEMPT_MAX, work).await;
    done.unwrap_or_else(|_| Err(failure::timed_out().into()))
}

/// In an upsert: the value that was to be inserted. What that is called differs.
fn incoming(conn: &impl Conn, column: impl IntoIden) -> Expr {
    let column = column.into_iden();
    Expr::cust(match conn.get_database_backend() {
        sea_orm::DbBackend::MySql => format!("VALUES(`{column}`)"),
        _ => format!("excluded.\"{column}\""),
    })
}

#[cfg(test)]
mod tests;
