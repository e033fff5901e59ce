//! Which database engine the tests of this run use.

use crate::Program;

/// The variable that chooses the engine of a run.
const VARIABLE: &str = "IM_TEST_DATABASE";

/// A database engine that the server runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A file, opened by the server itself.
    Sqlite,
    /// MariaDB, in the place of MySQL too.
    Mysql,
    /// PostgreSQL.
    Postgres,
}

impl Engine {
    /// What `IM_TEST_DATABASE` says: `sqlite` (also when it is not set), `mysql` or `postgres`.
    #[must_use]
    pub fn of_this_run() -> Self {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("" | "sqlite") => Self::Sqlite,
            Ok("mysql" | "mariadb") => Self::Mysql,
            Ok("postgres" | "postgresql") => Self::Postgres,
            Ok(other) => panic!("{VARIABLE}={other}: use sqlite, mysql or postgres"),
        }
    }

    /// The engine of this run, or MariaDB where that serves one instance only.
    #[must_use]
    pub fn of_a_cluster() -> Self {
        match Self::of_this_run() {
            Self::Sqlite => Self::Mysql,
            other => other,
        }
    }

    /// The server program behind it; SQLite has none.
    #[must_use]
    pub const fn program(self) -> Option<Program> {
        match self {
            Self::Sqlite => None,
            Self::Mysql => Some(Program::Mariadb),
            Self::Postgres => Some(Program::Postgres),
        }
    }
}
