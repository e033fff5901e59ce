//! What a database error means for whoever asked: that it may be tried again, that the connection
//! was lost and the outcome is unknown, that a unique key refused a row, or a defect.

use std::sync::Arc;

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, mysql::MySqlDatabaseError, postgres::PgDatabaseError},
};

use crate::error::Error;

/// An error of the database, not yet judged.
pub type Failure = DbErr;
/// What a query answers to those who judge failures themselves.
pub(crate) type Outcome<T> = std::result::Result<T, Failure>;

/// The kinds of failure that are handled differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The transaction was refused but may be run again: busy, deadlock, serialization.
    Transient,
    /// Somebody else holds a lock for too long; it may be run again.
    Locked,
    /// The database does not answer, has no room, or the connection broke; a commit under way
    /// may or may not have happened.
    Away,
    /// A unique key refused a row.
    Duplicate,
    /// A defect of this code or of the schema.
    Other,
}

impl Kind {
    /// Whether trying again may help.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Transient | Self::Locked | Self::Away)
    }
}

/// Classifies an error of any of the engines.
pub fn kind(error: &DbErr) -> Kind {
    match error {
        DbErr::ConnectionAcquire(_) => Kind::Away,
        DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error) => runtime_kind(error),
        _ => Kind::Other,
    }
}

fn runtime_kind(error: &RuntimeErr) -> Kind {
    match error {
        RuntimeErr::SqlxError(error) => sqlx_kind(error),
        RuntimeErr::Internal(_) => Kind::Other,
    }
}

/// Classifies an error of the driver.
pub(super) fn sqlx_kind(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        // What comes of a connection that was cut in the middle of an answer.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Kind::Away,
        sqlx::Error::Database(error) if error.is_unique_violation() => Kind::Duplicate,
        sqlx::Error::Database(error) => {
            if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
                mysql_kind(error.number())
            } else if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
                postgres_kind(error.code())
            } else {
                let code = error.code().and_then(|code| code.parse().ok());
                code.map_or(Kind::Other, sqlite_kind)
            }
        }
        _ => Kind::Other,
    }
}

/// The failure of what took too long: the database may have been cut off without a word.
pub(super) fn timed_out() -> Failure {
    let error = sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))
}

/// The error numbers of <https://mariadb.com/kb/en/mariadb-error-code-reference/> and
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>.
const fn mysql_kind(number: u16) -> Kind {
    match number {
        // Record changed, deadlock, certification failed.
        1020 | 1213 | 3101 => Kind::Transient,
        // Lock wait timeout.
        1205 => Kind::Locked,
        // Disk full, too many connections, out of memory, unknown to a node that joins, shutdown,
        // error in the commit, network errors, read only (a replica), interrupted, killed, too idle.
        1021
        | 1037
        | 1038
        | 1040
        | 1041
        | 1047
        | 1053
        | 1077
        | 1079
        | 1105
        | 1114
        | 1152..=1161
        | 1180
        | 1184
        | 1203
        | 1226
        | 1290
        | 1317
        | 1792
        | 1836
        | 1927
        | 1969
        | 3024
        | 3100
        | 4031 => Kind::Away,
        _ => Kind::Other,
    }
}

/// The codes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn postgres_kind(code: &str) -> Kind {
    match code {
        // Serialization failure, deadlock.
        "40001" | "40P01" => Kind::Transient,
        // Lock not available.
        "55P03" => Kind::Locked,
        // Read only (a replica), idle in a transaction for too long, unknown, cancelled.
        "25006" | "25P03" | "25P04" | "40003" | "57014" => Kind::Away,
        // Connection, resources, operator, system.
        _ if ["08", "53", "57P", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Kind::Away
        }
        _ => Kind::Other,
    }
}

/// The result codes of <https://sqlite.org/rescode.html>; the low byte is the primary code.
pub(super) const fn sqlite_kind(code: i32) -> Kind {
    match code & 0xff {
        // BUSY, LOCKED (517 is BUSY_SNAPSHOT).
        5 | 6 => Kind::Transient,
        // READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
        8 | 9 | 10 | 13 | 14 | 15 => Kind::Away,
        _ => Kind::Other,
    }
}

impl From<DbErr> for Error {
    #[track_caller]
    fn from(error: DbErr) -> Self {
        if kind(&error).may_pass() {
            tracing::debug!(%error, "the database does not answer");
            Self::try_again("the database does not answer, try again later")
        } else {
            Self::wrap("query", error)
        }
    }
}
