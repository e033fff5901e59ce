//! Several instances of the server on one database and one Redis, in this process or as processes of
//! the real binary. Each has addresses of its own; where a test makes the network fail, each also has
//! relays of its own to the database and to Redis.

use std::{
    ops::{Deref, Index, IndexMut},
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
};

use futures_util::FutureExt as _;
use im::clock::{Clock, System};
use test_servers::{Database, Engine, Private, Program, Proxy, RedisSpace};

use super::{Api, Process, Server, server::Setting, wait::eventually};

/// How often a scenario is tried that Redis was too slow for.
const ATTEMPTS: usize = 5;

/// A room that nobody is in.
const NOBODYS_ROOM: i64 = i64::MAX;

/// Instances on one database and one Redis.
pub struct Cluster<I = Server> {
    instances: Vec<I>,
    /// Of each instance; empty where everything is reached directly.
    links: Vec<Links>,
    database_server: Option<Private>,
    redis_server: Option<Private>,
}

/// What an instance reaches the others through.
#[derive(Debug)]
pub struct Links {
    pub database: Proxy,
    pub redis: Proxy,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    instances: usize,
    own_database: bool,
    own_redis: bool,
    has_links: bool,
    /// Of the first instances; the others read the machine's.
    clocks: Vec<Arc<dyn Clock>>,
    settings: Vec<Setting>,
}

/// What instances are started from.
struct Ground {
    links: Vec<Links>,
    database: Arc<Database>,
    redis: RedisSpace,
    database_server: Option<Private>,
    redis_server: Option<Private>,
}

impl Cluster {
    /// A cluster of so many instances in this process, on servers that others use too.
    pub async fn start(instances: usize) -> Self {
        Self::plan(instances).start().await
    }

    /// A cluster of so many instances, to be described further.
    pub fn plan(instances: usize) -> Plan {
        Plan {
            instances,
            own_database: false,
            own_redis: false,
            has_links: false,
            clocks: Vec::new(),
            settings: Vec::new(),
        }
    }
}

/// Runs `scenario` on a cluster and what was prepared for it, and on others where it failed and the
/// instances count that something between them was lost meanwhile: for what holds only while Redis is
/// well, which it is not when the machine has no time for it. A failure without a loss is a failure.
pub async fn undisturbed<T>(
    prepare: impl AsyncFn() -> (Plan, T),
    scenario: impl AsyncFn(&Cluster, &mut T),
) {
    for attempt in 1.. {
        let (plan, mut prepared) = prepare().await;
        let cluster = plan.start().await;
        let before = cluster.disturbances().await;
        let running = AssertUnwindSafe(scenario(&cluster, &mut prepared));
        let Err(panic) = running.catch_unwind().await else {
            return;
        };
        if attempt == ATTEMPTS || cluster.disturbances().await == before {
            resume_unwind(panic);
        }
        println!("attempt {attempt} was disturbed");
    }
}

impl Plan {
    /// The database server is the cluster's own: it may be stopped and killed.
    pub fn with_own_database(mut self) -> Self {
        self.own_database = true;
        self
    }

    /// Redis is the cluster's own: it may be stopped, killed and flushed.
    pub fn with_own_redis(mut self) -> Self {
        self.own_redis = true;
        self
    }

    /// Each instance reaches the database and Redis through relays.
    pub fn with_links(mut self) -> Self {
        self.has_links = true;
        self
    }

    /// The next instance in this process reads the time from `clock`.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clocks.push(clock);
        self
    }

    /// Sets a key of the configuration of every instance.
    pub fn set(mut self, key: &'static str, value: impl ToString) -> Self {
        self.settings.push((key, value.to_string()));
        self
    }

    /// Starts the instances in this process.
    pub async fn start(self) -> Cluster {
        let ground = self.ground().await;
        let mut instances = Vec::new();
        for at in 0..self.instances {
            let settings = self.settings(&ground, at);
            let database = Arc::clone(&ground.database);
            let clock = self.clocks.get(at).cloned();
            let clock = clock.unwrap_or_else(|| Arc::new(System));
            instances.push(Server::on(database, clock, &settings, |_| {}).await);
        }
        let cluster = Cluster::new(ground, instances);
        cluster.bridged().await;
        cluster
    }

    /// Runs `scenario` as [`undisturbed`] does.
    pub async fn undisturbed(self, scenario: impl AsyncFn(&Cluster)) {
        let prepare = async || (self.clone(), ());
        undisturbed(prepare, async |cluster, ()| scenario(cluster).await).await;
    }

    /// Starts the instances as processes.
    pub async fn start_processes(self) -> Cluster<Process> {
        let ground = self.ground().await;
        let mut instances = Vec::new();
        for at in 0..self.instances {
            let settings = self.settings(&ground, at);
            let database = Arc::clone(&ground.database);
            instances.push(Process::with_settings(database, &settings).await);
        }
        let cluster = Cluster::new(ground, instances);
        cluster.bridged().await;
        cluster
    }

    async fn ground(&self) -> Ground {
        let engine = Engine::of_a_cluster();
        let (database, database_server) = if self.own_database {
            let program = engine.program().expect("a cluster's database has a server");
            let server = Private::start(program).await;
            (Database::on(&server).await, Some(server))
        } else {
            (Database::of(engine).await, None)
        };
        let (redis, redis_server) = if self.own_redis {
            let server = Private::start(Program::Redis).await;
            (RedisSpace::on(&server), Some(server))
        } else {
            (RedisSpace::fresh().await, None)
        };
        let mut links = Vec::new();
        if self.has_links {
            let address = database.address().expect("it has a server");
            for _ in 0..self.instances {
                links.push(Links {
                    database: Proxy::to(address).await,
                    redis: Proxy::to(redis.address()).await,
                });
            }
        }
        Ground {
            links,
            database: Arc::new(database),
            redis,
            database_server,
            redis_server,
        }
    }

    /// What the instance at `at` is set to.
    fn settings(&self, ground: &Ground, at: usize) -> Vec<Setting> {
        let (database, redis) = match ground.links.get(at) {
            Some(links) => (
                ground.database.url_through(links.database.address()),
                ground.redis.url_through(links.redis.address()),
            ),
            None => (ground.database.url().to_owned(), ground.redis.url()),
        };
        let mut settings = self.settings.clone();
        settings.extend([
            ("database.url", database),
            ("redis.url", redis),
            ("redis.prefix", ground.redis.prefix().to_owned()),
        ]);
        settings
    }
}

impl<I> Cluster<I> {
    fn new(ground: Ground, instances: Vec<I>) -> Self {
        Self {
            instances,
            links: ground.links,
            database_server: ground.database_server,
            redis_server: ground.redis_server,
        }
    }

    /// The relays of an instance.
    pub fn links(&self, at: usize) -> &Links {
        &self.links[at]
    }

    /// The relays of all instances.
    pub fn all_links(&self) -> &[Links] {
        &self.links
    }

    /// The database server that is their own.
    pub fn database_server(&mut self) -> &mut Private {
        self.database_server.as_mut().expect("it is their own")
    }

    /// The Redis that is their own.
    pub fn redis_server(&mut self) -> &mut Private {
        self.redis_server.as_mut().expect("it is their own")
    }
}

impl<I: Deref<Target = Api>> Cluster<I> {
    /// The ways to all instances.
    pub fn apis(&self) -> Vec<Api> {
        self.instances.iter().map(|i| (**i).clone()).collect()
    }

    /// Waits until instances hear each other: each has told that it may have missed something before
    /// it had subscribed, and what it publishes is taken.
    async fn bridged(&self) {
        for instance in &self.instances {
            eventually("an instance has subscribed", async || {
                let reported = instance.metric("im_bridge_discontinuities_total").await;
                (reported > 0).then_some(())
            })
            .await;
            eventually("an instance publishes", async || {
                instance.push_text_to_room(NOBODYS_ROOM, "x").await;
                let published = instance.metric("im_bridge_published_total").await;
                (published > 0).then_some(())
            })
            .await;
        }
    }

    /// How often something between the instances was lost, or may have been.
    pub async fn disturbances(&self) -> u64 {
        let mut count = 0;
        for instance in &self.instances {
            for metric in ["discontinuities", "publish_dropped", "reconnects"] {
                count += instance.metric(&format!("im_bridge_{metric}_total")).await;
            }
        }
        count
    }
}

impl<I> Index<usize> for Cluster<I> {
    type Output = I;

    fn index(&self, at: usize) -> &I {
        &self.instances[at]
    }
}

impl<I> IndexMut<usize> for Cluster<I> {
    fn index_mut(&mut self, at: usize) -> &mut I {
        &mut self.instances[at]
    }
}

mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_failed_where_something_was_lost_is_tried_again() {
        let attempts = Cell::new(0);
        let scenario = async |cluster: &Cluster| {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 1 {
                cluster.links(0).redis.cut().await;
                eventually("what is lost is counted", async || {
                    cluster[0].push_text_to_room(NOBODYS_ROOM, "x").await;
                    let dropped = cluster[0].metric("im_bridge_publish_dropped_total").await;
                    (dropped > 0).then_some(())
                })
                .await;
                panic!("it was disturbed");
            }
        };
        let plan = Cluster::plan(2).with_links();
        plan.undisturbed(scenario).await;
        assert_eq!(attempts.get(), 2);
    }

    #[tokio::test]
    #[should_panic(expected = "nothing was lost")]
    async fn what_failed_where_nothing_was_lost_is_a_failure() {
        let plan = Cluster::plan(2);
        plan.undisturbed(async |_| panic!("nothing was lost")).await;
    }
}
