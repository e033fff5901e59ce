//! The append transaction on a database server: the fast way, which takes three to five round trips
//! whatever the batch, and where its assumptions do not hold, the careful one.

use std::{collections::HashMap, time::Instant};

use sea_orm::{DatabaseConnection, sqlx};

use super::{Own, Server, careful, in_time, mysql, plan::Plan, postgres};
use crate::{
    id::{Owner, Seq},
    limits::{ATTEMPT_MAX, DATABASE_PING_AFTER},
    store::{
        FailureKind,
        append::{Committed, Failed, Send},
        failure::sqlx_kind,
    },
};

/// The connection that appends.
#[derive(Debug)]
pub(super) struct Appender {
    connection: Own,
    used: Instant,
}

/// What an open transaction has written so far.
#[derive(Debug)]
pub(super) struct Written {
    /// The database's epoch.
    pub(super) epoch: i64,
    /// The heads as they are raised.
    pub(super) heads: HashMap<Owner, Seq>,
}

/// How the fast way ended.
enum Fast {
    Committed(Committed),
    /// What was assumed does not hold; nothing was written.
    Mistaken,
}

impl Server {
    /// Appends a batch in one transaction.
    pub(in crate::store) async fn append(
        &self,
        write: &DatabaseConnection,
        sends: &[Send],
    ) -> Result<Committed, Failed> {
        if let Some(plan) = Plan::of(sends)
            && let Fast::Committed(committed) = self.append_fast(sends, &plan).await?
        {
            return Ok(committed);
        }
        careful::append(write, sends).await
    }

    /// Appends a batch on a connection kept for that. It is given up after a failure: whatever state
    /// the transaction was in, the server rolls it back.
    async fn append_fast(&self, sends: &[Send], plan: &Plan) -> Result<Fast, Failed> {
        let mut kept = self.appender.lock().await;
        let mut appender = match kept.take() {
            Some(appender) => appender,
            None => self.appender().await.map_err(before)?,
        };
        if appender.used.elapsed() >= DATABASE_PING_AFTER
            && appender.connection.ping().await.is_err()
        {
            appender = self.appender().await.map_err(before)?;
        }
        let written = in_time(ATTEMPT_MAX, appender.connection.write(sends, plan)).await;
        let fast = match written {
            Ok(Some(written)) => {
                let committed = Committed {
                    epoch: written.epoch,
                    placed: plan.placed(sends, &written.heads),
                };
                match in_time(ATTEMPT_MAX, appender.connection.commit()).await {
                    Ok(()) => Ok(Fast::Committed(committed)),
                    Err(error) => return Err(in_commit(error, committed)),
                }
            }
            Ok(None) => Ok(Fast::Mistaken),
            // A send was stored before, or another instance stores it right now. Anything else that
            // has this look is told apart by the careful way.
            Err(error) if sqlx_kind(&error) == FailureKind::Duplicate => Ok(Fast::Mistaken),
            Err(error) => Err(error),
        };
        // Whatever the server itself answered leaves a connection that can be used; and a lock that was
        // waited for in vain is not to be found held by what is being rolled back here.
        let is_usable = match &fast {
            Ok(Fast::Committed(_)) => true,
            Ok(Fast::Mistaken) | Err(sqlx::Error::Database(_)) => {
                let rolled_back = in_time(ATTEMPT_MAX, appender.connection.roll_back());
                rolled_back.await.is_ok()
            }
            Err(_) => false,
        };
        if is_usable {
            appender.used = Instant::now();
            *kept = Some(appender);
        }
        fast.map_err(before)
    }

    async fn appender(&self) -> sqlx::Result<Appender> {
        Ok(Appender {
            connection: self.address.connect().await?,
            used: Instant::now(),
        })
    }
}

impl Own {
    /// Begins a transaction and writes the batch; `None` when the plan does not hold.
    async fn write(&mut self, sends: &[Send], plan: &Plan) -> sqlx::Result<Option<Written>> {
        match self {
            Self::MySql(connection) => mysql::write(connection, sends, plan).await,
            Self::Postgres(connection) => postgres::write(connection, sends, plan).await,
        }
    }

    async fn commit(&mut self) -> sqlx::Result<()> {
        self.execute("COMMIT").await
    }

    async fn roll_back(&mut self) -> sqlx::Result<()> {
        self.execute("ROLLBACK").await
    }

    async fn execute(&mut self, sql: &'static str) -> sqlx::Result<()> {
        let sql = sqlx::raw_sql(sql);
        match self {
            Self::MySql(connection) => sql.execute(connection).await.map(drop),
            Self::Postgres(connection) => sql.execute(connection).await.map(drop),
        }
    }
}

fn before(error: sqlx::Error) -> Failed {
    Failed {
        kind: sqlx_kind(&error),
        in_doubt: None,
        error: error.into(),
    }
}

fn in_commit(error: sqlx::Error, committed: Committed) -> Failed {
    Failed {
        in_doubt: Some(committed),
        ..before(error)
    }
}
