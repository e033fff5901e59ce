//! The engines that run as servers: MySQL, MariaDB and PostgreSQL. Connections and how they are set
//! up; the append transaction stands in `append`, with each engine's fastest statements beside it.
//!
//! Isolation is READ COMMITTED on both. Invariant I1 rests on row locks here: whoever raises a head
//! holds its row's lock to the commit, so seqs of one timeline are handed out one transaction after
//! the other, and become visible in that order. All transactions lock in the same order: groups,
//! heads, messages, entries, each sorted by key.

use std::{
    future::Future,
    str::FromStr,
    time::{Duration, Instant},
};

use futures_util::{TryStreamExt as _, future::BoxFuture};
use sea_orm::{
    ColumnTrait, DatabaseConnection, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    SqlxMySqlConnector, SqlxPostgresConnector, StreamTrait,
    sea_query::Expr,
    sqlx::{
        self, ConnectOptions as _, Connection, Database,
        mysql::{MySqlConnectOptions, MySqlConnection},
        pool::PoolOptions,
        postgres::{PgConnectOptions, PgConnection},
    },
};
use tokio::sync::Mutex;

use super::{
    Outcome,
    entity::{message, timeline_entry},
    failure::sqlx_kind,
    timeline::Row,
};
use crate::{
    config,
    error::{Error, Result, ResultExt},
    id::{Owner, Seq},
    limits::{
        ATTEMPT_MAX, DATABASE_CONNECTION_IDLE_MAX, DATABASE_DEADLINE, DATABASE_PING_AFTER,
        DATABASE_PING_MAX, WRITER_CONNECTIONS_MAX,
    },
};

mod append;
mod careful;
mod duty;
mod held;
mod mysql;
mod place;
mod plan;
mod postgres;

pub(super) use duty::Duty;
pub(super) use held::held;
pub(super) use place::Place;

/// Between two attempts to reach the server at the start.
const REACH_PAUSE: Duration = Duration::from_millis(250);

/// How to reach a database server.
#[derive(Clone, Debug)]
enum Address {
    MySql(MySqlConnectOptions),
    Postgres(PgConnectOptions),
}

/// A connection of its own, outside the pools.
#[derive(Debug)]
enum Own {
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

/// A database server, beside the pools of sea-orm.
#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    /// What appends. It is dropped after a failure, which rolls back what it was about to do.
    appender: Mutex<Option<append::Appender>>,
}

impl Server {
    /// Connects to the server at `config.url`. Gives the pool that reads and runs the transactions of
    /// callers, the pool of those who write by themselves, and what else there is.
    pub(super) async fn open(
        config: &config::Database,
    ) -> Result<(DatabaseConnection, DatabaseConnection, Self)> {
        let address = Address::parse(&config.url)?;
        address.reach().await?;
        let all = u32::try_from(config.max_connections).unwrap_or(u32::MAX);
        // Never the last one of the others.
        let writers = (all / 4).clamp(1, WRITER_CONNECTIONS_MAX);
        let readers = Ord::max(all.saturating_sub(writers), 1);
        let read = address.pool(readers).await?;
        let write = address.pool(writers).await?;
        let server = Self {
            address,
            appender: Mutex::default(),
        };
        Ok((read, write, server))
    }

    /// Closes what the pools do not.
    pub(super) async fn close(&self) {
        *self.appender.lock().await = None;
    }
}

impl Address {
    fn parse(url: &str) -> Result<Self> {
        // The parser's own words may repeat the URL, which bears a password.
        let unreadable = |_| Error::internal("database.url: cannot be read as a URL");
        if url.starts_with("mysql:") {
            let options = MySqlConnectOptions::from_str(url).map_err(unreadable)?;
            let options = options.charset("utf8mb4");
            // A slow statement would be logged with all that it writes.
            Ok(Self::MySql(options.disable_statement_logging()))
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(unreadable)?;
            let options = options.application_name("im");
            Ok(Self::Postgres(options.disable_statement_logging()))
        } else {
            Err(Error::internal(
                "database.url: unknown engine, allowed: sqlite://, mysql://, postgres://",
            ))
        }
    }

    /// Waits for the server, which may be starting too, and says what is wrong with it: the pools would
    /// only say that they have waited.
    async fn reach(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.connect().await {
                Ok(_) => return Ok(()),
                Err(error)
                    if sqlx_kind(&error).may_pass() && begun.elapsed() < DATABASE_DEADLINE =>
                {
                    tokio::time::sleep(REACH_PAUSE).await;
                }
                Err(error) => return Err(error).internal("database.url: connect to the database"),
            }
        }
    }

    async fn pool(&self, connections: u32) -> Result<DatabaseConnection> {
        let pool = match self {
            Self::MySql(options) => {
                let pool = pool_options::<sqlx::MySql>(connections)
                    .after_connect(|connection, _| Box::pin(mysql::set_up(connection)))
                    .connect_with(options.clone())
                    .await;
                pool.map(SqlxMySqlConnector::from_sqlx_mysql_pool)
            }
            Self::Postgres(options) => {
                let pool = pool_options::<sqlx::Postgres>(connections)
                    .after_connect(|connection, _| Box::pin(postgres::set_up(connection)))
                    .connect_with(options.clone())
                    .await;
                pool.map(SqlxPostgresConnector::from_sqlx_postgres_pool)
            }
        };
        pool.internal("database.url: connect to the database")
    }

    /// A connection outside the pools.
    async fn connect(&self) -> sqlx::Result<Own> {
        in_time(ATTEMPT_MAX, async {
            match self {
                Self::MySql(options) => {
                    let mut connection = MySqlConnection::connect_with(options).await?;
                    mysql::set_up(&mut connection).await?;
                    Ok(Own::MySql(connection))
                }
                Self::Postgres(options) => {
                    let mut connection = PgConnection::connect_with(options).await?;
                    postgres::set_up(&mut connection).await?;
                    Ok(Own::Postgres(connection))
                }
            }
        })
        .await
    }
}

impl Own {
    async fn ping(&mut self) -> sqlx::Result<()> {
        self.ping_within(DATABASE_PING_MAX).await
    }

    async fn ping_within(&mut self, max: Duration) -> sqlx::Result<()> {
        in_time(max, async {
            match self {
                Self::MySql(connection) => connection.ping().await,
                Self::Postgres(connection) => connection.ping().await,
            }
        })
        .await
    }
}

/// What both engines' pools have in common: a connection that does not answer is found out in time,
/// when it is taken after a rest and when it is given back, and leaves the pool then.
fn pool_options<DB: Database>(connections: u32) -> PoolOptions<DB>
where
    DB::Connection: Connection<Database = DB>,
{
    fn ping<C: Connection>(connection: &mut C) -> BoxFuture<'_, sqlx::Result<bool>> {
        Box::pin(in_time(DATABASE_PING_MAX, async {
            connection.ping().await.map(|()| true)
        }))
    }
    PoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(DATABASE_DEADLINE)
        .idle_timeout(DATABASE_CONNECTION_IDLE_MAX)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            if meta.idle_for < DATABASE_PING_AFTER {
                Box::pin(std::future::ready(Ok(true)))
            } else {
                ping(connection)
            }
        })
        .after_release(|connection, _| ping(connection))
}

/// Waits for the server at most `max`, as it may be cut off without a word.
async fn in_time<T>(max: Duration, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(max, work)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// See [`timeline::page`](super::timeline::page). Rows are taken one by one, so that no more than the
/// page is held.
pub(super) async fn page(
    conn: &DatabaseConnection,
    owner: Owner,
    after: Seq,
    rows_max: usize,
    bytes_max: usize,
) -> Outcome<(Vec<Row>, bool)> {
    use timeline_entry::Column as C;

    let limit = Ord::min(rows_max, i64::MAX as usize - 1) as u64 + 1;
    let of_entry = Expr::col((message::Entity, message::Column::Id))
        .equals((timeline_entry::Entity, C::MessageId));
    let mut select = message::Entity::find()
        .column_as(C::Seq, "seq")
        .filter(C::OwnerType.eq(owner.kind()))
        .filter(C::OwnerId.eq(owner.id()))
        .filter(C::Seq.gt(after.get()))
        .order_by_asc(C::Seq)
        .limit(limit);
    QuerySelect::query(&mut select).inner_join(timeline_entry::Entity, of_entry);
    let mut found = conn.stream(QuerySelect::query(&mut select)).await?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        let message = <message::Model as sea_orm::FromQueryResult>::from_query_result(&row, "")?;
        bytes += message.content.len();
        if rows.len() == rows_max || (bytes > bytes_max && !rows.is_empty()) {
            return Ok((rows, true));
        }
        let seq = Seq(row.try_get("", "seq")?);
        rows.push(Row { seq, message });
    }
    Ok((rows, false))
}

#[cfg(test)]
mod place_tests;
#[cfg(test)]
mod tests;
