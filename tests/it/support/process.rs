//! The real binary as a process: killed, stopped and started again on the same data and ports.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    ops::Deref,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use tempfile::TempDir;
use test_servers::Database;

use super::{
    Api,
    api::{Addresses, TEST_CODE},
    http::assert_ready,
    server::Setting,
    wait::eventually,
};

const LISTENERS: [&str; 5] = ["tcp", "http", "grpc", "internal", "metrics"];

/// A running `im serve`; it is killed at drop.
pub struct Process {
    folder: TempDir,
    environment: HashMap<String, String>,
    child: Child,
    log: Log,
    api: Api,
    /// Dropped after the process. Instances of a cluster share one.
    database: Arc<Database>,
}

/// What a process has written so far, stdout and stderr together.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Process {
    /// Starts the binary with the default configuration on free ports.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts the binary with `IM_…` variables besides those that keep tests apart.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        Self::on(Arc::new(Database::fresh().await), variables).await
    }

    /// Starts the binary on a database that others may use too, unless `variables` name another.
    pub async fn on(database: Arc<Database>, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut environment = base_environment(folder.path());
        environment.insert("IM_DATABASE__URL".into(), database.url().into());
        for (key, value) in variables {
            environment.insert((*key).into(), (*value).into());
        }
        let (child, log, addresses) = spawn(folder.path(), &environment).await;
        // From now on it has these ports, also after a restart.
        for (listener, address) in listening(addresses) {
            environment.insert(listen_key(listener), address.to_string());
        }
        Self {
            folder,
            environment,
            child,
            log,
            api: Api::new(addresses),
            database,
        }
    }

    /// As [`Process::on`], with settings by their keys.
    pub async fn with_settings(database: Arc<Database>, settings: &[Setting]) -> Self {
        let named = settings.iter().map(|(key, value)| (variable(key), value));
        let variables: Vec<_> = named.collect();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Self::on(database, &variables).await
    }

    /// Kills it as a power cut would end it, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("it is gone");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success(), "kill -{name}");
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the process ends", async || {
            child.try_wait().expect("wait for a child")
        })
        .await
    }

    /// Starts it again on the same data and ports, after it was killed or has ended.
    pub async fn start_again(&mut self) {
        let (child, log, addresses) = spawn(self.folder.path(), &self.environment).await;
        self.child = child;
        self.log = log;
        self.api = Api::new(addresses);
    }

    /// The URL of its database.
    pub fn database_url(&self) -> String {
        self.environment["IM_DATABASE__URL"].clone()
    }

    /// Its database, unless it was started with the URL of another.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Runs another command of the binary with the same configuration.
    pub fn run(&self, arguments: &[&str]) -> Output {
        command(self.folder.path(), &self.environment)
            .args(arguments)
            .output()
            .expect("the binary runs")
    }

    /// The first line of its log that `matches`.
    pub async fn logged(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        eventually(what, async || {
            self.log.lines().into_iter().find(|line| matches(line))
        })
        .await
    }

    /// Its log so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs, on Linux");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
        kib.and_then(|k| k.trim().parse::<u64>().ok())
            .expect("VmRSS in kB")
            * 1024
    }
}

impl Deref for Process {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The variables that keep a test's server apart from all others, with a SQLite file in `folder`.
pub fn base_environment(folder: &Path) -> HashMap<String, String> {
    let mut environment = HashMap::from([
        (
            "IM_DATABASE__URL".into(),
            format!("sqlite://{}/im.db", folder.display()),
        ),
        (
            "IM_FILES__STORAGE".into(),
            folder.join("files").display().to_string(),
        ),
        ("IM_SIGN_IN__TEST_CODE".into(), TEST_CODE.into()),
    ]);
    for listener in LISTENERS {
        environment.insert(listen_key(listener), "127.0.0.1:0".into());
    }
    environment
}

/// The binary, to be run in `folder` with nothing in its environment but `environment`.
pub fn command(folder: &Path, environment: &HashMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_im"));
    command.env_clear().envs(environment).current_dir(folder);
    command
}

async fn spawn(folder: &Path, environment: &HashMap<String, String>) -> (Child, Log, Addresses) {
    let mut child = command(folder, environment)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let log = Log::default();
    log.follow(child.stdout.take().expect("stdout is piped"));
    log.follow(child.stderr.take().expect("stderr is piped"));
    let addresses = eventually("the process listens", async || {
        if let Ok(Some(status)) = child.try_wait() {
            panic!("it ended ({status}): {:#?}", log.lines());
        }
        log.addresses()
    })
    .await;
    // Once it listens.
    assert_ready(addresses.http).await;
    (child, log, addresses)
}

fn listen_key(listener: &str) -> String {
    variable(&format!("listen.{listener}"))
}

/// The variable that sets a key of the configuration.
fn variable(key: &str) -> String {
    format!("IM_{}", key.replace('.', "__").to_uppercase())
}

fn listening(addresses: Addresses) -> [(&'static str, SocketAddr); 5] {
    [
        ("tcp", addresses.tcp),
        ("http", addresses.http),
        ("grpc", addresses.grpc),
        ("internal", addresses.internal),
        ("metrics", addresses.metrics),
    ]
}

impl Log {
    /// Collects the lines of `stream` on a thread that ends with it.
    fn follow(&self, stream: impl Read + Send + 'static) {
        let lines = Arc::clone(&self.0);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.lock().expect("no panic under the lock").push(line);
            }
        });
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no panic under the lock").clone()
    }

    /// Where it says that it listens, once it has said so of every listener.
    fn addresses(&self) -> Option<Addresses> {
        let mut found = HashMap::new();
        for line in self.lines() {
            for (listener, address) in listeners_in(&line) {
                found.entry(listener).or_insert(address);
            }
        }
        Some(Addresses {
            tcp: *found.get("tcp")?,
            http: *found.get("http")?,
            grpc: *found.get("grpc")?,
            internal: *found.get("internal")?,
            metrics: *found.get("metrics")?,
        })
    }
}

/// The listeners that a log line names, each with the address that follows its name.
fn listeners_in(line: &str) -> Vec<(&'static str, SocketAddr)> {
    let plain = without_colours(line);
    let mut found = Vec::new();
    let mut named = None;
    for token in plain.split(|c: char| !(c.is_ascii_alphanumeric() || ".:[]".contains(c))) {
        if let Some(name) = LISTENERS.into_iter().find(|name| token == *name) {
            named = Some(name);
        } else if let (Some(name), Ok(address)) = (named, token.parse::<SocketAddr>()) {
            found.push((name, address));
            named = None;
        }
    }
    found
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut escape = false;
    for c in line.chars() {
        match c {
            '\u{1b}' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            other => plain.push(other),
        }
    }
    plain
}

mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_every_form_of_the_log() {
        let expected = ("grpc", "127.0.0.1:41".parse().expect("an address"));
        for line in [
            "INFO im::server: listening listener=grpc address=127.0.0.1:41",
            "\u{1b}[32m INFO\u{1b}[0m listening \u{1b}[3mgrpc\u{1b}[0m\u{1b}[2m=\u{1b}[0m127.0.0.1:41 x=1",
            r#"{"fields":{"message":"listening","grpc":"127.0.0.1:41"}}"#,
        ] {
            assert_eq!(listeners_in(line), [expected], "{line}");
        }
        let line = "listening tcp=127.0.0.1:40 grpc=127.0.0.1:41";
        assert_eq!(listeners_in(line)[1], expected);
    }
}
