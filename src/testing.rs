//! What unit tests share: a server's parts on a database of their own.

use std::sync::Arc;

use tempfile::TempDir;

use crate::{
    auth::Authenticator,
    clock, config,
    delivery::{bridge::in_process::InProcess, registry::Registry, router::Router},
    device::{Description, Devices},
    id::DeviceId,
    lifecycle::Tasks,
    message::Messages,
    store::Store,
    telemetry::Metrics,
    timeline::{Writer, epoch::Epoch, writer},
    user::{Accounts, Directory},
};

/// When the clock of a [`World`] starts, in unix milliseconds.
pub const START_MS: i64 = 1_700_000_000_000;

/// The accounts of a server, on a fresh SQLite file and a clock that the test moves.
pub struct World {
    pub store: Store,
    pub clock: Arc<clock::Manual>,
    pub registry: Arc<Registry>,
    pub authenticator: Arc<Authenticator>,
    pub directory: Arc<Directory>,
    pub accounts: Arc<Accounts>,
    pub devices: Devices,
    pub messages: Arc<Messages>,
    _folder: TempDir,
}

/// `[sign_in]` as it is by default, but with a test code.
pub fn sign_in_config() -> config::SignIn {
    config::SignIn {
        code_sender: config::CodeSender::Log,
        webhook_url: String::new(),
        test_code: "999999".into(),
        token_ttl_days: 90,
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(&sign_in_config(), 32).await
    }

    pub async fn with(sign_in: &config::SignIn, devices_per_user_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = config::Database {
            url: format!("sqlite://{}", folder.path().join("im.db").display()),
            max_connections: 4,
            sqlite_synchronous: config::SqliteSynchronous::Normal,
        };
        let store = Store::open(&database).await.unwrap();
        store.migrate().await.unwrap();
        let clock = Arc::new(clock::Manual::at(START_MS));
        let registry = Arc::new(Registry::default());
        let tasks = Tasks::default();
        let devices = config::Devices {
            per_user_max: devices_per_user_max,
        };
        let authenticator = Arc::new(Authenticator::new(
            store.clone(),
            Arc::clone(&registry),
            Arc::clone(&clock) as _,
            tasks.clone(),
            sign_in,
            &devices,
        ));
        let directory = Arc::new(Directory::new(store.clone()));
        let accounts = Accounts::open(
            store.clone(),
            Arc::clone(&authenticator),
            Arc::clone(&directory),
            Arc::clone(&clock) as _,
            tasks,
            sign_in,
        );
        Self {
            accounts: Arc::new(accounts.await.unwrap()),
            devices: Devices::new(store.clone(), Arc::clone(&clock) as _),
            registry,
            messages: messages(&store, &directory, &clock),
            authenticator,
            directory,
            store,
            clock,
            _folder: folder,
        }
    }

    pub async fn device(&self) -> DeviceId {
        let description = Description {
            kind: 1,
            brand: String::new(),
            model: String::new(),
            system_version: String::new(),
            sdk_version: String::new(),
        };
        self.devices.register(description).await.unwrap()
    }
}

fn messages(
    store: &Store,
    directory: &Arc<Directory>,
    clock: &Arc<clock::Manual>,
) -> Arc<Messages> {
    // Tests wait for the tasks of the accounts; the writer never ends.
    let tasks = Tasks::default();
    let metrics = Arc::new(Metrics::default());
    let bridge = Arc::new(InProcess);
    let router = Arc::new(Router::new(bridge, tasks.clone(), Arc::clone(&metrics)));
    let options = writer::Options {
        store: store.clone(),
        router: Arc::clone(&router),
        epoch: Arc::new(Epoch::new(1)),
        metrics: Arc::clone(&metrics),
    };
    let writer = Writer::start(options, &tasks, || {});
    Arc::new(Messages::new(
        store.clone(),
        writer,
        router,
        Arc::clone(directory),
        Arc::clone(clock) as _,
        metrics,
    ))
}
