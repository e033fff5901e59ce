//! The server programs: where they are, how their data begins, how they are started, and how one
//! asks whether they answer. Their settings save memory and time; what a commit has written is in
//! the hands of the system, so killing a server loses nothing that it has confirmed.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection, DbErr};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::process::PATIENCE;

type Connected = Result<DatabaseConnection, DbErr>;

/// A program that serves the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `mariadbd`.
    Mariadb,
    /// `postgres`.
    Postgres,
    /// `redis-server`.
    Redis,
}

/// Who runs PostgreSQL, which refuses to be run by root.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Program {
    /// Its name in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }

    /// What a client is given to reach it.
    pub fn url(self, address: SocketAddr, database: &str) -> String {
        match self {
            Self::Mariadb => format!("mysql://root@{address}/{database}"),
            Self::Postgres => format!("postgres://postgres@{address}/{database}"),
            Self::Redis => format!("redis://{address}"),
        }
    }

    /// The database that is always there.
    pub const fn first_database(self) -> &'static str {
        match self {
            Self::Mariadb => "mysql",
            Self::Postgres => "postgres",
            Self::Redis => "",
        }
    }

    /// What ends it in good order.
    pub const fn stop_signal(self) -> Signal {
        match self {
            // "Fast": does not wait for its clients.
            Self::Postgres => Signal::INT,
            Self::Mariadb | Self::Redis => Signal::TERM,
        }
    }

    /// What ends it at once. PostgreSQL then goes without writing anything, as in a crash, and
    /// recovers at the next start; killed, it would leave a System V segment behind every time.
    pub const fn kill_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::QUIT,
            Self::Mariadb | Self::Redis => Signal::KILL,
        }
    }

    /// Writes the data of an empty server into `folder`, which does not exist yet.
    pub fn initialize(self, folder: &Path) {
        match self {
            Self::Redis => fs::create_dir(folder).expect("a folder"),
            Self::Mariadb => {
                let mut install = self.command("mariadb-install-db");
                install
                    .arg("--no-defaults")
                    .arg(format!("--datadir={}", folder.display()))
                    .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
                    .args(MARIADB_FILES);
                if is_root() {
                    install.arg("--user=root");
                }
                run(install, folder);
            }
            Self::Postgres => {
                fs::create_dir(folder).expect("a folder");
                if let Some(account) = self.account() {
                    let owned = chown(folder, Some(account.uid), Some(account.gid));
                    owned.expect("root may give a folder away");
                }
                let mut initdb = self.command("initdb");
                initdb
                    .arg("-D")
                    .arg(folder)
                    .args(["-U", "postgres", "--auth=trust", "--no-sync"])
                    .args(["--encoding=UTF8", "--locale=C.UTF-8"]);
                run(initdb, folder);
            }
        }
    }

    /// The command that serves the data in `folder` at `address`.
    pub fn serve(self, folder: &Path, address: SocketAddr) -> Command {
        let (folder, port) = (folder.display(), address.port());
        let mut command;
        match self {
            Self::Redis => {
                command = self.command("redis-server");
                command
                    .args(["--port", &port.to_string(), "--dir", &folder.to_string()])
                    .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            }
            Self::Mariadb => {
                command = self.command("mariadbd");
                command
                    .arg("--no-defaults")
                    .arg(format!("--datadir={folder}"))
                    .arg(format!("--socket={folder}/socket"))
                    .arg(format!("--pid-file={folder}/pid"))
                    .arg(format!("--port={port}"))
                    .args(MARIADB_FILES)
                    .args(MARIADB_SERVES);
                if is_root() {
                    command.arg("--user=root");
                }
            }
            Self::Postgres => {
                command = self.command("postgres");
                command
                    .args(["-D", &folder.to_string(), "-p", &port.to_string()])
                    .args(["-k", ""])
                    .args(POSTGRES_SERVES.iter().flat_map(|setting| ["-c", setting]));
            }
        }
        command
    }

    /// True when it answers at `address`.
    pub async fn answers(self, address: SocketAddr) -> bool {
        let asked = async {
            match self {
                Self::Redis => {
                    let answer = ask_redis(address, "PING").await;
                    answer.is_ok_and(|answer| answer == "+PONG")
                }
                Self::Mariadb | Self::Postgres => {
                    let url = self.url(address, self.first_database());
                    match connect(&url).await {
                        Ok(connection) => connection.close().await.is_ok(),
                        Err(_) => false,
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE / 30, asked)
            .await
            .unwrap_or(false)
    }

    /// One of its programs, to be run as whoever may run it.
    fn command(self, program: &str) -> Command {
        let path = self.find(program).unwrap_or_else(|| {
            let package = self.package();
            panic!("{program} is missing, so this test cannot run: `tests/run` installs it, or `apt-get install {package}`")
        });
        let mut command = Command::new(path);
        // Not the test's folder, which another account may not enter.
        command.current_dir("/");
        if let Some(account) = self.account() {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Whose it is, if not ours.
    pub fn account(self) -> Option<Account> {
        match self {
            Self::Postgres => postgres_account(),
            Self::Mariadb | Self::Redis => None,
        }
    }

    fn find(self, program: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        folders.extend(["/usr/sbin".into(), "/usr/bin".into()]);
        if self == Self::Postgres {
            folders.splice(..0, postgres_folders());
        }
        let files = folders.into_iter().map(|folder| folder.join(program));
        files.into_iter().find(|file| file.is_file())
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb-server",
            Self::Postgres => "postgresql",
            Self::Redis => "redis-server",
        }
    }
}

/// What MariaDB's files begin with and keep.
const MARIADB_FILES: [&str; 2] = ["--innodb-log-file-size=32M", "--innodb-flush-method=fsync"];

const MARIADB_SERVES: [&str; 9] = [
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--max-connections=1000",
    "--innodb-buffer-pool-size=128M",
    "--innodb-use-native-aio=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--character-set-server=utf8mb4",
    "--performance-schema=off",
];

const POSTGRES_SERVES: [&str; 8] = [
    "listen_addresses=127.0.0.1",
    "max_connections=1000",
    "shared_buffers=64MB",
    "fsync=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "logging_collector=off",
];

/// Opens one connection. Boxed, because the types of a driver's futures are too deep for a caller's.
pub fn connect(url: &str) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
    Box::pin(open(url))
}

async fn open(url: &str) -> Connected {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(1)
        .sqlx_logging(false)
        .acquire_timeout(PATIENCE / 6)
        .connect_timeout(PATIENCE / 6);
    let connection = sea_orm::Database::connect(options).await?;
    connection.execute_unprepared("SELECT 1").await?;
    Ok(connection)
}

/// One command without arguments, and the line that Redis answers.
pub async fn ask_redis(address: SocketAddr, command: &str) -> std::io::Result<String> {
    let mut socket = BufReader::new(TcpStream::connect(address).await?);
    let line = format!("{command}\r\n");
    socket.get_mut().write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}

/// Runs a program that prepares data, and fails with what it said.
fn run(mut command: Command, folder: &Path) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    assert!(
        output.status.success(),
        "{command:?} for {}: {output:?}",
        folder.display()
    );
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Debian keeps a folder for each version; the newest is taken.
fn postgres_folders() -> Vec<PathBuf> {
    let Ok(versions) = fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut versions: Vec<u32> = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let folder = |version| format!("/usr/lib/postgresql/{version}/bin").into();
    versions.into_iter().map(folder).collect()
}

/// The account `postgres` where we are root; nobody else can and need change who he is.
fn postgres_account() -> Option<Account> {
    if !is_root() {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("there are accounts");
    let line = accounts.lines().find_map(|l| l.strip_prefix("postgres:"));
    let line = line.expect("PostgreSQL does not run as root: the account `postgres` is missing");
    let mut fields = line.split(':').skip(1).map(|field| field.parse().ok());
    let (uid, gid) = (fields.next().flatten(), fields.next().flatten());
    Some(Account {
        uid: uid.expect("a user id"),
        gid: gid.expect("a group id"),
    })
}
