//! A commit is made, and its answer is lost: the writer finds out, and publishes what is stored.

use std::{sync::Arc, time::Duration};

use test_servers::{Database, Engine, Private, Proxy, Rows, Way};
use tokio::time::{Instant, sleep, timeout};

use super::{Options, Waiting, Writer};
use crate::{
    delivery::{
        feed::{FollowerKey, Position},
        handle::Handle,
        router::{Lease, Router},
        topic::Topic,
    },
    id::{DeviceId, MessageId, Owner, Seq, UserId},
    lifecycle::Tasks,
    store::{append::To, outbox::Outbox},
    testing::{lonely_router, open_store_at, send},
    timeline::{append::Append, epoch::Epoch},
};

const LONG: Duration = Duration::from_secs(30);
const DEVICE: DeviceId = DeviceId(1);

/// A writer behind a relay, on a server of its own: who keeps others from committing keeps everybody.
struct World {
    writer: Writer,
    router: Arc<Router>,
    rows: Rows,
    proxy: Proxy,
    engine: Engine,
    // Dropped last.
    database: Database,
    _server: Private,
}

/// Follows a user's timeline.
struct Listener {
    lease: Lease,
    key: FollowerKey,
    position: Position,
}

impl Listener {
    /// How many pushes have come.
    fn heard(&mut self) -> u32 {
        let position = &mut self.position;
        self.lease.read(self.key, position, DEVICE, |_| true).1
    }
}

impl World {
    async fn new(engine: Engine) -> Self {
        let server = Private::start(engine.program().unwrap()).await;
        let database = Database::on(&server).await;
        let proxy = Proxy::to(server.address()).await;
        let store = open_store_at(database.url_through(proxy.address())).await;
        let router = lonely_router();
        let options = Options {
            store,
            router: Arc::clone(&router),
            epoch: Arc::new(Epoch::new(1)),
            outbox: Outbox::default(),
            metrics: Arc::default(),
        };
        let rows = database.connect().await;
        if engine == Engine::Postgres {
            // What is deferred runs in the commit.
            for statement in [
                "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS \
                 $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$",
                "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON timeline_entry \
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
            ] {
                rows.execute(statement).await;
            }
        }
        Self {
            writer: Writer::start(options, &Tasks::default(), || {}),
            router,
            rows,
            proxy,
            engine,
            database,
            _server: server,
        }
    }

    async fn follow(&self, user: i64) -> Listener {
        let lease = self.router.lease(Topic::User(UserId(user))).await;
        lease.open(Seq::ZERO);
        let (key, position) = lease.follow(Arc::new(Handle::new(DEVICE)), 0, None);
        Listener {
            lease,
            key,
            position,
        }
    }

    /// Begins what then waits in its commit.
    async fn begin_to_commit(&self, append: impl FnOnce() -> Waiting) -> Waiting {
        if self.engine == Engine::Postgres {
            self.rows.execute("SELECT pg_advisory_lock(7)").await;
            let waiting = append();
            let committing =
                "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            self.until(committing, 1).await;
            return waiting;
        }
        // Commits can be held up once the transaction has begun to write.
        let holder = self.database.connect().await;
        holder.hold_timelines().await;
        let waiting = append();
        let writing = "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE info LIKE 'INSERT INTO%timeline_head%' AND state = 'Update'";
        self.until(writing, 1).await;
        for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
            self.rows.execute(&format!("BACKUP STAGE {stage}")).await;
        }
        holder.let_go().await;
        let committing = "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE info = 'COMMIT' AND state = 'Waiting for backup lock'";
        self.until(committing, 1).await;
        waiting
    }

    async fn let_commits_go(&self) {
        let statement = match self.engine {
            Engine::Postgres => "SELECT pg_advisory_unlock(7)",
            _ => "BACKUP STAGE END",
        };
        self.rows.execute(statement).await;
    }

    /// Waits until a statement answers a number.
    async fn until(&self, statement: &str, number: i64) {
        let deadline = Instant::now() + LONG;
        while self.rows.number(statement).await != number {
            assert!(Instant::now() < deadline, "{statement}: not {number}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Has what `append` begins committed, when there are `entries` in all, and its answer lost.
    async fn commit_unheard(&self, append: impl FnOnce() -> Waiting, entries: i64) -> MessageId {
        let mut waiting = self.begin_to_commit(append).await;
        self.proxy.ways(Way::Pass, Way::Swallow).await;
        self.let_commits_go().await;
        self.until("SELECT COUNT(*) FROM timeline_entry", entries)
            .await;
        self.proxy.cut().await;
        self.proxy.resume().await;
        let stored = timeout(LONG, waiting.stored()).await.unwrap();
        stored.unwrap().message_id
    }
}

/// A part of a large job without a client message id.
fn part(users: &[i64], message: Option<MessageId>) -> Append {
    let owners = users.iter().map(|user| Owner::User(UserId(*user)));
    let to = To::Rest {
        owners: owners.collect(),
        message,
    };
    Append {
        to,
        answer_owner: None,
        ..send(9, users, "", b"x")
    }
}

async fn what_is_stored_and_not_answered_is_published(engine: Engine) {
    let world = World::new(engine).await;
    let mut listeners = Vec::new();
    for user in 1..=6 {
        listeners.push(world.follow(user).await);
    }
    let mut heard = || {
        listeners
            .iter_mut()
            .map(Listener::heard)
            .collect::<Vec<_>>()
    };
    let now = || std::time::Instant::now();

    let one = || world.writer.append(send(1, &[1, 2], "", b"x"), now());
    world.commit_unheard(|| one().unwrap(), 2).await;
    assert_eq!(heard(), [1, 1, 0, 0, 0, 0]);

    let first = || world.writer.append_part(part(&[3, 4], None), now());
    let message = world.commit_unheard(|| first().unwrap(), 4).await;
    assert_eq!(heard(), [0, 0, 1, 1, 0, 0]);

    let next = || {
        world
            .writer
            .append_part(part(&[5, 6], Some(message)), now())
    };
    assert_eq!(world.commit_unheard(|| next().unwrap(), 6).await, message);
    assert_eq!(heard(), [0, 0, 0, 0, 1, 1]);
}

crate::testing::on_each_server!(what_is_stored_and_not_answered_is_published);
