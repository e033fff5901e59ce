//! A database of a test's own, on the engine of the run, and the few statements that tests make
//! beside the server.

use std::{net::SocketAddr, thread};

use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;

use crate::{Engine, Private, Program, program::connect, shared};

/// An empty database; it is dropped at drop.
#[derive(Debug)]
pub struct Database {
    engine: Engine,
    url: String,
    kept: Kept,
}

/// What has to be cleared away.
#[derive(Debug)]
enum Kept {
    /// The folder of a SQLite file.
    Folder { _folder: TempDir },
    /// A database of the shared server.
    Named { admin_url: String, name: String },
    /// Nothing: it goes with its server.
    Nothing,
}

impl Database {
    /// An empty database of the run's engine.
    pub async fn fresh() -> Self {
        Self::of(Engine::of_this_run()).await
    }

    /// An empty database of `engine`, on the server that the run shares.
    pub async fn of(engine: Engine) -> Self {
        let Some(program) = engine.program() else {
            return Self::file();
        };
        let address = shared::address(program).await;
        let (url, name) = create(program, address).await;
        let admin_url = program.url(address, program.first_database());
        Self {
            engine,
            url,
            kept: Kept::Named { admin_url, name },
        }
    }

    /// An empty database on a server of the test's own.
    pub async fn on(server: &Private) -> Self {
        let engine = match server.program() {
            Program::Mariadb => Engine::Mysql,
            Program::Postgres => Engine::Postgres,
            Program::Redis => panic!("Redis has no SQL databases"),
        };
        let (url, _) = create(server.program(), server.address()).await;
        Self {
            engine,
            url,
            kept: Kept::Nothing,
        }
    }

    fn file() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            engine: Engine::Sqlite,
            url: format!("sqlite://{}", folder.path().join("im.db").display()),
            kept: Kept::Folder { _folder: folder },
        }
    }

    /// What `database.url` is set to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its engine.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// Where its server listens; SQLite has none.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let (_, rest) = self.url.split_once('@')?;
        rest.split('/').next()?.parse().ok()
    }

    /// Its URL when its server is reached at `address`, which may be a relay's.
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        let own = self.address().expect("a database behind a server");
        self.url.replacen(&own.to_string(), &address.to_string(), 1)
    }

    /// A connection of the test's own, that the server knows nothing of.
    pub async fn connect(&self) -> Rows {
        Rows::connect(&self.url).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Kept::Named { admin_url, name } = &self.kept else {
            return;
        };
        let statement = match self.engine {
            Engine::Postgres => format!("DROP DATABASE {name} WITH (FORCE)"),
            // Whoever still holds it in a transaction must not hold up the test.
            _ => format!("SET STATEMENT lock_wait_timeout=1 FOR DROP DATABASE {name}"),
        };
        let admin_url = admin_url.clone();
        let dropped = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                if let Ok(admin) = connect(&admin_url).await {
                    // What stays goes with the run.
                    let _stays = admin.execute_unprepared(&statement).await;
                    let _closed = admin.close().await;
                }
            });
        });
        let _stays = dropped.join();
    }
}

/// A connection beside the server's: for tests that hold, look at or change rows themselves.
#[derive(Debug)]
pub struct Rows(DatabaseConnection);

impl Rows {
    /// Opens the database at `url`.
    pub async fn connect(url: &str) -> Self {
        // The file may not be there yet.
        let url = match url.strip_prefix("sqlite:") {
            Some(_) => format!("{url}?mode=rwc"),
            None => url.to_owned(),
        };
        let connection = connect(&url).await;
        Self(connection.unwrap_or_else(|error| panic!("{url}: {error}")))
    }

    /// Runs one statement without parameters; how many rows it concerned.
    pub async fn execute(&self, sql: &str) -> u64 {
        let result = self.0.execute_unprepared(sql).await;
        result
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
            .rows_affected()
    }

    /// The single integer that a statement answers.
    pub async fn number(&self, sql: &str) -> i64 {
        let statement = Statement::from_string(self.0.get_database_backend(), sql);
        let row = self.0.query_one_raw(statement).await;
        let row = row.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let row = row.unwrap_or_else(|| panic!("{sql}: no row"));
        // A literal is a smaller integer than a column on PostgreSQL.
        let narrow = || row.try_get_by_index::<i32>(0).map(i64::from);
        let number = row.try_get_by_index(0).or_else(|_| narrow());
        number.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Begins a transaction that keeps every timeline as it is: who appends to one has to wait, who
    /// reads does not. It lasts until [`Rows::let_go`].
    pub async fn hold_timelines(&self) {
        let statements: &[&str] = match self.0.get_database_backend() {
            DbBackend::Sqlite => &["BEGIN IMMEDIATE"],
            DbBackend::Postgres => &["BEGIN", "LOCK TABLE timeline_head IN EXCLUSIVE MODE"],
            // With the gaps between them, so that none can be inserted either.
            _ => &[
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "BEGIN",
                "SELECT seq FROM timeline_head FOR UPDATE",
            ],
        };
        for statement in statements {
            self.execute(statement).await;
        }
    }

    /// Ends the transaction and leaves everything as it was.
    pub async fn let_go(&self) {
        self.execute("ROLLBACK").await;
    }
}

/// Makes a database with a name that no other has.
async fn create(program: Program, address: SocketAddr) -> (String, String) {
    let admin_url = program.url(address, program.first_database());
    let admin = connect(&admin_url).await;
    let admin = admin.unwrap_or_else(|error| panic!("{admin_url}: {error}"));
    let name = format!("im_{:016x}", rand::random::<u64>());
    let statement = match program {
        Program::Mariadb => format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"),
        _ => format!("CREATE DATABASE {name}"),
    };
    let created = admin.execute_unprepared(&statement).await;
    created.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let _closed = admin.close().await;
    (program.url(address, &name), name)
}
