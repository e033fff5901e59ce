//! A corner of Redis that no other test uses.

use std::net::SocketAddr;

use crate::{Private, Program, shared};

/// Where Redis is, and what every key and channel of a test begins with.
#[derive(Clone, Debug)]
pub struct RedisSpace {
    address: SocketAddr,
    prefix: String,
}

impl RedisSpace {
    /// A prefix of its own on the Redis that the run shares.
    pub async fn fresh() -> Self {
        Self::at(shared::address(Program::Redis).await)
    }

    /// A prefix of its own on a Redis of the test's own.
    #[must_use]
    pub fn on(server: &Private) -> Self {
        assert_eq!(server.program(), Program::Redis, "Redis is asked for");
        Self::at(server.address())
    }

    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            prefix: format!("test-{:016x}", rand::random::<u64>()),
        }
    }

    /// What `redis.url` is set to.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.address)
    }

    /// Its URL when Redis is reached at `address`, which may be a relay's.
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        Program::Redis.url(address, "")
    }

    /// What `redis.prefix` is set to.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where Redis listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
