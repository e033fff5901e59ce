//! What unit tests share: a server's parts on a database of their own.

use std::{path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    auth::{self, Authenticator},
    clock, config,
    delivery::{
        bridge::{in_process::InProcess, presence::Presence},
        registry::Registry,
        router::Router,
    },
    device::{Description, Devices},
    error::Result,
    friend::Friends,
    group::{self, Groups},
    id::{DeviceId, Owner, Seq, UserId},
    lifecycle::Tasks,
    limits::CACHE_TTL,
    members::Members,
    message::{self, Messages},
    pb,
    store::{self, Store, append::To, outbox::Outbox, timeline::Row},
    telemetry::Metrics,
    timeline::{
        Append, Appended, NewMessage, Writer,
        epoch::Epoch,
        writer::{self, Waiting},
    },
    user::{Accounts, Directory},
};

pub mod redis;
pub mod rows;

/// Runs each named `async fn(test_servers::Engine)` once on MariaDB and once on PostgreSQL.
macro_rules! on_each_server {
    ($($name:ident),+ $(,)?) => {
        mod mysql {
            $(#[tokio::test]
            async fn $name() {
                super::$name(test_servers::Engine::Mysql).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(test_servers::Engine::Postgres).await;
            })+
        }
    };
}
pub(crate) use on_each_server;

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
    pub groups: Arc<Groups>,
    /// What `messages` works with.
    pub sending: message::Options,
    pub friends: Arc<Friends>,
    folder: TempDir,
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
        let store = open_store(folder.path()).await;
        let clock = Arc::new(clock::Manual::at(START_MS));
        let registry = Arc::new(Registry::default());
        let tasks = Tasks::default();
        let devices = config::Devices {
            per_user_max: devices_per_user_max,
        };
        let router = lonely_router();
        let authenticator = auth::Options {
            issuer: auth::Issuer::Own,
            store: store.clone(),
            registry: Arc::clone(&registry),
            router: Arc::clone(&router),
            clock: Arc::clone(&clock) as _,
            tasks: tasks.clone(),
            doubts: Arc::default(),
            cache_ttl: CACHE_TTL,
        };
        let authenticator = Arc::new(Authenticator::new(authenticator, sign_in, &devices));
        let directory = Arc::new(Directory::new(store.clone(), router, CACHE_TTL));
        let accounts = Accounts::open(
            store.clone(),
            Arc::clone(&authenticator),
            Arc::clone(&directory),
            Arc::clone(&clock) as _,
            tasks,
            sign_in,
        );
        let sending = sending(&store, &registry, &directory, &clock);
        let friends = Friends::new(
            store.clone(),
            sending.writer.clone(),
            Arc::clone(&directory),
            Arc::clone(&clock) as _,
        );
        Self {
            accounts: Arc::new(accounts.await.unwrap()),
            devices: Devices::new(store.clone(), Arc::clone(&clock) as _),
            registry,
            groups: Arc::new(groups(&sending)),
            messages: Arc::new(Messages::new(sending.clone())),
            sending,
            friends: Arc::new(friends),
            authenticator,
            directory,
            store,
            clock,
            folder,
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

    /// A connection to the same file that the server knows nothing of.
    pub fn foreign_connection(&self) -> rusqlite::Connection {
        foreign_connection(&self.folder)
    }

    /// So many users, who have never signed in.
    pub async fn users(&self, count: usize) -> Vec<UserId> {
        let tx = self.store.begin().await.unwrap();
        let mut users = Vec::with_capacity(count);
        for number in 0..count {
            let number = format!("+{number:09}");
            let created = store::user::lock_or_create(tx.conn(), &number, START_MS);
            users.push(UserId(created.await.unwrap().0.id));
        }
        tx.commit().await.unwrap();
        users
    }

    /// What is stored on a user's timeline.
    pub async fn timeline(&self, user: UserId) -> Vec<Row> {
        timeline(&self.store, user).await
    }
}

/// A writer and the feeds it publishes to, on a fresh SQLite file, without accounts.
pub struct Timelines {
    pub store: Store,
    pub writer: Writer,
    pub router: Arc<Router>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    folder: TempDir,
}

impl Timelines {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("im.db").display());
        Self::on(folder, url).await
    }

    /// On a database server; the folder stays empty.
    pub async fn at(database: &test_servers::Database) -> Self {
        Self::on(tempfile::tempdir().unwrap(), database.url().into()).await
    }

    async fn on(folder: TempDir, url: String) -> Self {
        let store = open_store_at(url).await;
        let tasks = Tasks::default();
        let metrics = Arc::new(Metrics::default());
        let router = Router::new(Arc::new(InProcess), tasks.clone(), Arc::clone(&metrics));
        let router = Arc::new(router);
        let writer = start_writer(&store, &router, &metrics, &tasks);
        Self {
            store,
            writer,
            router,
            metrics,
            tasks,
            folder,
        }
    }

    /// One more writer on the same database, as after a restart.
    pub fn another_writer(&self) -> Writer {
        start_writer(&self.store, &self.router, &self.metrics, &self.tasks)
    }

    /// A connection to the same file that the server knows nothing of.
    pub fn foreign_connection(&self) -> rusqlite::Connection {
        foreign_connection(&self.folder)
    }

    /// What is stored on a user's timeline.
    pub async fn timeline(&self, user: i64) -> Vec<Row> {
        timeline(&self.store, UserId(user)).await
    }
}

fn foreign_connection(folder: &TempDir) -> rusqlite::Connection {
    rusqlite::Connection::open(folder.path().join("im.db")).unwrap()
}

async fn timeline(store: &Store, user: UserId) -> Vec<Row> {
    let all = usize::MAX;
    let page = store::timeline::page(store, Owner::User(user), Seq::ZERO, all, all).await;
    page.unwrap().0
}

/// Appends a message, and waits as long as its sender would.
pub async fn append(writer: &Writer, append: Append) -> Result<Appended> {
    done(writer.append(append, Instant::now())?).await
}

/// Waits for an append until its deadline.
pub async fn done(mut waiting: Waiting) -> Result<Appended> {
    let deadline = waiting.deadline().into();
    match tokio::time::timeout_at(deadline, waiting.stored()).await {
        Ok(result) => result,
        Err(_) => waiting.give_up(),
    }
}

/// A message from device 10 × `sender` to the timelines of `owners`; the answer is the position
/// in the first one.
pub fn send(sender: i64, owners: &[i64], client_message_id: &str, content: &[u8]) -> Append {
    let owners: Vec<Owner> = owners.iter().map(|id| Owner::User(UserId(*id))).collect();
    Append {
        answer_owner: Some(owners[0]),
        profile: Arc::default(),
        message: NewMessage {
            sender_type: pb::SenderType::StUser as i16,
            sender_id: sender,
            device: DeviceId(10 * sender),
            receiver_type: pb::ReceiverType::RtUser as i16,
            receiver_id: owners[owners.len() - 1].id(),
            to_user_ids: Vec::new(),
            message_type: pb::MessageType::MtText as i16,
            content: Bytes::copy_from_slice(content),
            send_time: START_MS,
            client_message_id: client_message_id.into(),
            digest: Sha256::digest(content).into(),
        },
        to: To::Owners(owners),
    }
}

/// A router of an instance that is alone.
pub fn lonely_router() -> Arc<Router> {
    let router = Router::new(Arc::new(InProcess), Tasks::default(), Arc::default());
    Arc::new(router)
}

async fn open_store(folder: &Path) -> Store {
    open_store_at(format!("sqlite://{}", folder.join("im.db").display())).await
}

pub async fn open_store_at(url: String) -> Store {
    let database = config::Database {
        url,
        max_connections: 4,
        sqlite_synchronous: config::SqliteSynchronous::Normal,
    };
    let store = Store::open(&database).await.unwrap();
    store.migrate().await.unwrap();
    store
}

fn start_writer(
    store: &Store,
    router: &Arc<Router>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Writer {
    let options = writer::Options {
        store: store.clone(),
        router: Arc::clone(router),
        epoch: Arc::new(Epoch::new(1)),
        outbox: Outbox::default(),
        metrics: Arc::clone(metrics),
    };
    Writer::start(options, tasks, || {})
}

fn sending(
    store: &Store,
    registry: &Arc<Registry>,
    directory: &Arc<Directory>,
    clock: &Arc<clock::Manual>,
) -> message::Options {
    // Tests wait for the tasks of the accounts; the writer never ends.
    let tasks = Tasks::default();
    let metrics = Arc::new(Metrics::default());
    let bridge = Arc::new(InProcess);
    let router = Arc::new(Router::new(bridge, tasks.clone(), Arc::clone(&metrics)));
    let writer = start_writer(store, &router, &metrics, &tasks);
    message::Options {
        store: store.clone(),
        writer,
        members: Arc::new(Members::new(store.clone(), Arc::clone(&router), CACHE_TTL)),
        router,
        directory: Arc::clone(directory),
        presence: Arc::new(Presence::alone(Arc::clone(registry))),
        friendships: None,
        before_send: None,
        clock: Arc::clone(clock) as _,
        metrics,
    }
}

/// Groups that share a writer and what is remembered of members with sending, bounded as by
/// default.
fn groups(sending: &message::Options) -> Groups {
    Groups::new(group::Options {
        store: sending.store.clone(),
        writer: sending.writer.clone(),
        directory: Arc::clone(&sending.directory),
        members: Arc::clone(&sending.members),
        clock: Arc::clone(&sending.clock),
        limits: config::Groups {
            small_members_max: 500,
            large_members_max: 1_000_000,
            large_groups_per_user_max: 5_000,
        },
    })
}
