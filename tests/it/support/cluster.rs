//! Several instances of the server on one database and one Redis, in this process or as processes of
//! the real binary. Each has addresses of its own; where a test makes the network fail, each also has
//! relays of its own to the database and to Redis.

use std::{
    ops::{Deref, Index, IndexMut},
    sync::Arc,
};

use im::clock::{Clock, System};
use test_servers::{Database, Engine, Private, Program, Proxy, RedisSpace};

use super::{Api, Process, Server, server::Setting};

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
#[derive(Debug)]
pub struct Plan {
    instances: usize,
    own_database: bool,
    own_redis: bool,
    has_links: bool,
    clock: Arc<dyn Clock>,
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
            clock: Arc::new(System),
            settings: Vec::new(),
        }
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

    /// Instances in this process read the time from `clock`.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
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
            let (database, clock) = (Arc::clone(&ground.database), Arc::clone(&self.clock));
            instances.push(Server::on(database, clock, &settings, |_| {}).await);
        }
        Cluster::new(ground, instances)
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
        Cluster::new(ground, instances)
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
