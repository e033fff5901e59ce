//! Real MariaDB, PostgreSQL and Redis servers for the tests, started as processes on free ports with
//! their data in memory, and a relay that cuts, swallows and delays what goes to them.
//!
//! One of each is shared by a whole run ([`Database::fresh`], [`RedisSpace::fresh`]): the first test
//! that needs it starts it, and it ends with the runner. A test that stops, kills or slows a server
//! has one of its own ([`Private`]). Nothing is skipped: where a program is missing, the test fails.

// A test that cannot have its server fails by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support"
)]

mod database;
mod engine;
mod private;
mod process;
mod program;
mod proxy;
mod redis;
mod run;
mod shared;

pub use database::{Database, Rows};
pub use engine::Engine;
pub use private::Private;
pub use program::Program;
pub use proxy::{Proxy, Way};
pub use redis::RedisSpace;
