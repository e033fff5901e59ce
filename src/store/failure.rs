//! What a database error means for whoever asked: that it may be tried again, that the connection
//! was lost and the outcome is unknown, that a unique key refused a row, or a defect.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::error::Error;

/// An error of the database, not yet judged.
pub type Failure = DbErr;
/// What a query answers to those who judge failures themselves.
pub(crate) type Outcome<T> = std::result::Result<T, Failure>;

/// The kinds of failure that are handled differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The transaction was refused but may be run again: busy, deadlock, serialization, lock
    /// timeout.
    Transient,
    /// The database does not answer, has no room, or the connection broke; a commit under way
    /// may or may not have happened.
    Away,
    /// A unique key refused a row.
    Duplicate,
    /// A defect of this code or of the schema.
    Other,
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
    let RuntimeErr::SqlxError(error) = error else {
        return Kind::Other;
    };
    match &**error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Kind::Away,
        sqlx::Error::Database(error) if error.is_unique_violation() => Kind::Duplicate,
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse().ok());
            code.map_or(Kind::Other, sqlite_kind)
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
        match kind(&error) {
            Kind::Transient | Kind::Away => {
                tracing::debug!(%error, "the database does not answer");
                Self::try_again("the database does not answer, try again later")
            }
            Kind::Duplicate | Kind::Other => Self::wrap("query", error),
        }
    }
}
