//! What one instance of a cluster does for all: the right to it is a lock that the database keeps for a
//! connection of its own, as it does for [places](super::place). When its instance dies, another one
//! takes it.
//!
//! The lock may be lost without a word, and then two instances do the same for a moment: whoever has a
//! duty does what may be done twice.

use std::time::Duration;

use sea_orm::sqlx::{self, AssertSqlSafe, Executor as _, Row as _};

use super::{Address, Own, Server, in_time, place::POSTGRES_KEY};
use crate::limits::{DATABASE_PING_MAX, PLACE_PING_INTERVAL, PLACE_SILENCE_MAX};

/// The key of the duty to deliver events on PostgreSQL.
const POSTGRES_DELIVERY_KEY: i64 = POSTGRES_KEY + 2;
/// Between two attempts to take a duty.
const PAUSE: Duration = Duration::from_secs(1);

/// A right that one instance has at a time.
#[derive(Debug)]
pub(in crate::store) struct Duty {
    address: Address,
    connection: Option<Own>,
}

impl Server {
    /// The duty to deliver events.
    pub(in crate::store) fn delivery_duty(&self) -> Duty {
        Duty {
            address: self.address.clone(),
            connection: None,
        }
    }
}

impl Duty {
    /// Waits until it is this instance's. Cancel safe.
    pub(in crate::store) async fn taken(&mut self) {
        loop {
            match self.take().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, "the duty to deliver events cannot be asked for");
                    self.connection = None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn take(&mut self) -> sqlx::Result<bool> {
        if self.connection.is_none() {
            let mut connection = self.address.connect().await?;
            connection.end_when_lost(PLACE_SILENCE_MAX).await?;
            self.connection = Some(connection);
        }
        match &mut self.connection {
            Some(connection) => in_time(DATABASE_PING_MAX, connection.take_delivery()).await,
            None => Ok(false),
        }
    }

    /// Completes when it may be another one's.
    pub(in crate::store) async fn lost(&mut self) {
        while let Some(connection) = &mut self.connection {
            tokio::time::sleep(PLACE_PING_INTERVAL).await;
            if connection.ping().await.is_err() {
                // Its session ends, here or at the server.
                self.connection = None;
            }
        }
    }
}

impl Own {
    async fn take_delivery(&mut self) -> sqlx::Result<bool> {
        match self {
            Self::Postgres(connection) => {
                let lock = format!("SELECT pg_try_advisory_lock({POSTGRES_DELIVERY_KEY})");
                let row = connection.fetch_one(AssertSqlSafe(lock)).await?;
                row.try_get(0)
            }
            Self::MySql(connection) => {
                // The names are the server's, not the database's.
                let name = "CONCAT('im.webhooks.', LEFT(DATABASE(), 48))";
                let lock = format!("SELECT COALESCE(GET_LOCK({name}, 0), 0)");
                let row = connection.fetch_one(AssertSqlSafe(lock)).await?;
                row.try_get::<i64, _>(0).map(|taken| taken == 1)
            }
        }
    }
}
