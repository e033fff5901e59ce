//! The real server inside the test's process, with a folder, a database and ports of its own. It
//! runs in a runtime of its own, so that a busy test does not slow it and its end does not wait.
//! `IM_TEST_DATABASE` says on which engine.

use std::{
    ops::Deref,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use im::lifecycle::Shutdown;
use im::{
    clock::{Clock, System},
    config::Config,
};
use tempfile::TempDir;
use test_servers::Database;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    api::{Addresses, TEST_CODE},
    wait::soon,
};

/// A key of the configuration and its value.
pub type Setting = (&'static str, String);

/// A server in this process; it is stopped at drop.
pub struct Server {
    api: Api,
    running: Option<Running>,
    config: Config,
    clock: Arc<dyn Clock>,
    /// Dropped last, so that nobody writes to it any more. Instances of a cluster share one.
    database: Arc<Database>,
    _folder: TempDir,
}

struct Running {
    drain: Shutdown,
    abandon: CancellationToken,
    ended: oneshot::Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server with the default configuration on free ports.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with the default configuration as changed by `change`.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_clock(Arc::new(System), change).await
    }

    /// Starts a server that reads the time from `clock`.
    pub async fn with_clock(clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) -> Self {
        let database = Arc::new(Database::fresh().await);
        Self::on(database, clock, &[], change).await
    }

    /// Starts a server on a database that others may use too, with settings by their keys and as
    /// changed by `change`.
    pub async fn on(
        database: Arc<Database>,
        clock: Arc<dyn Clock>,
        settings: &[Setting],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = default_config(folder.path(), database.url(), settings);
        change(&mut config);
        let (running, api) = run(config.clone(), Arc::clone(&clock)).await;
        Self {
            api,
            running: Some(running),
            config,
            clock,
            database,
            _folder: folder,
        }
    }

    /// The way to it, for a task of its own.
    pub fn clone_api(&self) -> Api {
        self.api.clone()
    }

    /// Its database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Asks it to drain, and waits until it has.
    pub async fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.drain.drain();
        let ended = soon("the drain", &mut running.ended).await;
        ended.expect("it ends").expect("it drains without an error");
    }

    /// Drains it and starts it on the same data. It listens on other ports then.
    pub async fn restart(&mut self) {
        self.stop().await;
        let (running, api) = run(self.config.clone(), Arc::clone(&self.clock)).await;
        self.running = Some(running);
        self.api = api;
    }
}

impl Deref for Server {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.abandon.cancel();
        if let Some(thread) = self.thread.take() {
            // It has said what went wrong; a second panic would hide the test's own.
            let _panicked = thread.join();
        }
    }
}

/// The repository's `im.toml` with `settings`, on free ports of the loopback and with its files in
/// `folder`.
fn default_config(folder: &Path, database_url: &str, settings: &[Setting]) -> Config {
    let mut layers = Figment::from(Toml::string(include_str!("../../../im.toml")))
        .merge(("database.url", database_url));
    for (key, value) in settings {
        layers = match value.parse::<u64>() {
            Ok(number) => layers.merge((key, number)),
            Err(_) => layers.merge((key, value)),
        };
    }
    let mut config: Config = layers.extract().expect("a configuration");
    let free = "127.0.0.1:0".parse().expect("an address");
    config.listen.tcp = free;
    config.listen.http = free;
    config.listen.grpc = free;
    config.listen.internal = free;
    config.listen.metrics = free;
    config.files.storage = folder.join("files").display().to_string();
    config.sign_in.test_code = TEST_CODE.into();
    config
}

async fn run(config: Config, clock: Arc<dyn Clock>) -> (Running, Api) {
    // The program does this first thing; whoever uses the library does it himself.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    let (bound, addresses) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (drain, abandon) = (Shutdown::default(), CancellationToken::new());
    let (draining, abandoned) = (drain.clone(), abandon.clone());
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = im::server::Server::bind_with_clock(config, clock).await;
            let server = match server {
                Ok(server) => server,
                Err(error) => return drop(bound.send(Err(format!("{error:?}")))),
            };
            let _gone = bound.send(Ok(server.addresses()));
            tokio::select! {
                result = server.run(draining) => {
                    let _gone = end.send(result.map_err(|error| format!("{error:?}")));
                }
                () = abandoned.cancelled() => {}
            }
        });
        runtime.shutdown_background();
    });
    let addresses = soon("the server's start", addresses).await;
    let addresses = addresses.expect("it says where it listens").expect("bind");
    let running = Running {
        drain,
        abandon,
        ended,
        thread: Some(thread),
    };
    let addresses = Addresses {
        tcp: addresses.tcp,
        http: addresses.http,
        grpc: addresses.grpc,
        internal: addresses.internal,
        metrics: addresses.metrics,
    };
    (running, Api::new(addresses))
}
