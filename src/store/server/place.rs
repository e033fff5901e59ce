//! An instance's place on a database: one that is alone refuses all others, and those of a cluster
//! refuse one that is alone, because it would not hear of what they append.
//!
//! The place is a lock that the database keeps for a connection of its own, and lets go when that
//! connection ends, however the instance dies. It guards against a mistake in the configuration; what
//! is stored stays right without it, because I1 to I3 rest on the transactions.

use std::{fmt::Write as _, future::Future, time::Duration};

use sea_orm::sqlx::{self, AssertSqlSafe, Executor as _, Row as _};

use super::{Address, Own, Server, in_time};
use crate::{
    error::{Error, Result, ResultExt},
    limits::{
        ATTEMPT_MAX, DATABASE_DEADLINE, PLACE_AGAIN_MAX, PLACE_PING_INTERVAL, PLACE_SILENCE_MAX,
        PLACE_WAIT_MAX, SCHEMA_WAIT_MAX,
    },
};

/// Instances that MySQL has room for in a cluster: it knows no shared lock of this kind, so each one
/// takes one of so many, and one that is alone takes all.
const PLACES: usize = 128;
/// The lock's key on PostgreSQL: the letters `im`.
pub(super) const POSTGRES_KEY: i64 = 0x69_6d;
/// The key of the right to change the schema.
const POSTGRES_SCHEMA_KEY: i64 = POSTGRES_KEY + 1;
/// Between two attempts to take a place.
const PAUSE: Duration = Duration::from_millis(200);

/// The place of a running instance.
#[derive(Debug)]
pub(in crate::store) struct Place {
    address: Address,
    is_alone: bool,
    connection: Option<Own>,
}

/// The right to change the schema: other instances wait.
#[derive(Debug)]
pub(in crate::store) struct SchemaLock {
    connection: Own,
    silence_max: Duration,
}

impl Server {
    /// Takes a place; it waits a moment for that of an instance that has just died.
    pub(in crate::store) async fn take_place(&self, is_alone: bool) -> Result<Place> {
        let take = take(&self.address, is_alone, PLACE_WAIT_MAX).await;
        let connection = take.internal("take the database's lock")?;
        let connection = connection.ok_or_else(|| refused(is_alone))?;
        Ok(Place {
            address: self.address.clone(),
            is_alone,
            connection: Some(connection),
        })
    }

    /// Waits for the right to change the schema. The server takes it from an instance of which it hears
    /// nothing for `silence_max`.
    pub(in crate::store) async fn lock_schema(&self, silence_max: Duration) -> Result<SchemaLock> {
        let lock = async {
            let mut connection = self.address.connect().await?;
            connection.end_when_lost(silence_max).await?;
            in_time(SCHEMA_WAIT_MAX, connection.lock_schema()).await?;
            Ok::<_, sqlx::Error>(SchemaLock {
                connection,
                silence_max,
            })
        };
        lock.await
            .internal("wait for the right to migrate the database")
    }
}

impl SchemaLock {
    /// Does `work` as long as the right is held, however long that takes.
    pub(in crate::store) async fn during<T>(
        mut self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.lost() => Err(Error::internal("the right to migrate the database was lost")),
        }
    }

    /// Completes when it may be another one's.
    async fn lost(&mut self) {
        loop {
            tokio::time::sleep(self.silence_max / 4).await;
            if let Err(error) = self.connection.ping_within(self.silence_max).await {
                tracing::warn!(%error, "the right to migrate the database cannot be kept");
                return;
            }
        }
    }
}

impl Place {
    /// Keeps the place for ever. It ends when another instance took it while the database was away.
    pub(in crate::store) async fn keep(mut self) -> Error {
        loop {
            tokio::time::sleep(PLACE_PING_INTERVAL).await;
            if let Some(connection) = &mut self.connection
                && connection.ping().await.is_ok()
            {
                continue;
            }
            // Its session may hold the place yet: it is ended here, or by the server after a while.
            self.connection = None;
            match take(&self.address, self.is_alone, PLACE_AGAIN_MAX).await {
                Ok(Some(connection)) => self.connection = Some(connection),
                Ok(None) => return refused(self.is_alone),
                Err(error) => tracing::debug!(%error, "the database's lock is not taken again yet"),
            }
        }
    }
}

fn refused(is_alone: bool) -> Error {
    Error::internal(if is_alone {
        "database.url: another instance works on this database; several need the same redis.url"
    } else {
        "database.url: an instance without redis.url works on this database, or too many with it"
    })
}

/// A connection that holds a place, or `None` when there was none for so long.
async fn take(address: &Address, is_alone: bool, max: Duration) -> sqlx::Result<Option<Own>> {
    let mut connection = address.connect().await?;
    connection.end_when_lost(PLACE_SILENCE_MAX).await?;
    let begun = tokio::time::Instant::now();
    loop {
        if in_time(DATABASE_DEADLINE, connection.take_place(is_alone)).await? {
            return Ok(Some(connection));
        }
        if begun.elapsed() >= max {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Own {
    async fn lock_schema(&mut self) -> sqlx::Result<()> {
        match self {
            Self::Postgres(connection) => {
                let lock = format!("SELECT pg_advisory_lock({POSTGRES_SCHEMA_KEY})");
                // The lock may be waited for, whatever is set for rows.
                let lock = format!("SET lock_timeout = 0; {lock}");
                sqlx::raw_sql(AssertSqlSafe(lock))
                    .execute(connection)
                    .await
                    .map(drop)
            }
            Self::MySql(connection) => {
                let wait = SCHEMA_WAIT_MAX.as_secs();
                let name = "CONCAT('im.schema.', LEFT(DATABASE(), 48))";
                let lock = format!("SELECT GET_LOCK({name}, {wait})");
                let taken: Option<i64> = connection
                    .fetch_one(AssertSqlSafe(lock))
                    .await?
                    .try_get(0)?;
                taken
                    .filter(|taken| *taken == 1)
                    .map(drop)
                    .ok_or(sqlx::Error::PoolTimedOut)
            }
        }
    }

    /// Has the server end the session, and with it the lock, when it has not heard of it for
    /// `silence_max`: the machine may be gone without a word.
    pub(super) async fn end_when_lost(&mut self, silence_max: Duration) -> sqlx::Result<()> {
        let seconds = silence_max.as_secs();
        in_time(ATTEMPT_MAX, async {
            match self {
                Self::Postgres(connection) => {
                    // Unknown before version 14, where keepalive does it.
                    let idle = format!("SET idle_session_timeout = '{seconds}s'");
                    if let Err(error) = connection.execute(AssertSqlSafe(idle)).await {
                        tracing::debug!(%error, "the server ends no idle sessions");
                    }
                    let (idle, interval) = (seconds / 2, seconds / 4);
                    let keepalive = format!(
                        "SET tcp_keepalives_idle = {idle}; \
                         SET tcp_keepalives_interval = {interval}; SET tcp_keepalives_count = 2"
                    );
                    let keepalive = sqlx::raw_sql(AssertSqlSafe(keepalive));
                    keepalive.execute(connection).await.map(drop)
                }
                Self::MySql(connection) => {
                    let idle = format!("SET SESSION wait_timeout = {seconds}");
                    connection.execute(AssertSqlSafe(idle)).await.map(drop)
                }
            }
        })
        .await
    }

    async fn take_place(&mut self, is_alone: bool) -> sqlx::Result<bool> {
        match self {
            Self::Postgres(connection) => {
                let shared = if is_alone { "" } else { "_shared" };
                let lock = format!("SELECT pg_try_advisory_lock{shared}({POSTGRES_KEY})");
                let row = connection.fetch_one(AssertSqlSafe(lock)).await?;
                row.try_get(0)
            }
            Self::MySql(connection) => {
                // The names are the server's, not the database's.
                let name = |place| format!("CONCAT('im.{place}.', LEFT(DATABASE(), 48))");
                if is_alone {
                    let mut all = String::from("SELECT 0");
                    for place in 0..PLACES {
                        // Writing to a string cannot fail.
                        let _ = write!(all, " + COALESCE(GET_LOCK({}, 0), 0)", name(place));
                    }
                    let taken: i64 = connection.fetch_one(AssertSqlSafe(all)).await?.try_get(0)?;
                    if taken == PLACES as i64 {
                        return Ok(true);
                    }
                    connection.execute("SELECT RELEASE_ALL_LOCKS()").await?;
                    return Ok(false);
                }
                for place in 0..PLACES {
                    let lock = format!("SELECT COALESCE(GET_LOCK({}, 0), 0)", name(place));
                    let taken: i64 = connection
                        .fetch_one(AssertSqlSafe(lock))
                        .await?
                        .try_get(0)?;
                    if taken == 1 {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}
