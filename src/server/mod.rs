//! The composition root: the only module that knows all others. It binds the listeners, builds what
//! each module is given, runs them, and ends them in the order that loses nothing.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::{
    drain::{Groups, Running},
    services::{Base, Services},
};
use crate::{
    clock::{self, Clock},
    config::{Config, seconds},
    error::Result,
    lifecycle::Shutdown,
    limits::DATABASE_CLOSE_MAX,
    listen::Listeners,
    store::{self, Store},
};

mod cluster;
mod drain;
mod edges;
mod hooks;
mod memory;
mod services;
mod users;

pub use crate::listen::Addresses;

/// A server whose sockets are bound and whose database is open.
#[derive(Debug)]
pub struct Server {
    config: Config,
    clock: Arc<dyn Clock>,
    listeners: Listeners,
    store: Store,
    place: store::Held,
}

impl Server {
    /// Binds all listeners and opens and migrates the database.
    ///
    /// # Errors
    /// An internal error that names the key at fault.
    pub async fn bind(config: Config) -> Result<Self> {
        Self::bind_with_clock(config, Arc::new(clock::System)).await
    }

    /// As [`Server::bind`], with a wall clock of the caller's.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_with_clock(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let listeners = Listeners::bind(&config.listen)?;
        let store = Store::open(&config.database).await?;
        // Before the schema is touched: another version may be at work.
        let place = store.take_place(config.redis.url.is_empty()).await?;
        store.migrate().await?;
        Ok(Self {
            config,
            clock,
            listeners,
            store,
            place,
        })
    }

    /// Where the server listens.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.listeners.addresses()
    }

    /// Serves until `shutdown` asks for an end.
    ///
    /// # Errors
    /// An internal error when the server cannot start, crashed, or its drain was cut off.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let deadline = seconds(self.config.delivery.drain_timeout_s);
        let store = self.store.clone();
        let groups = Groups::default();
        let running = self.start(&groups).await?;
        let drain = running.drain(&groups, deadline);
        let result = groups.probes.supervise(&shutdown, deadline, drain).await;
        // What hangs in the disk must not keep the process alive; nothing is lost by leaving.
        if tokio::time::timeout(DATABASE_CLOSE_MAX, store.close())
            .await
            .is_err()
        {
            tracing::warn!("the database could not be closed in time");
        }
        result
    }

    /// Builds every module on the ones below it and starts what runs by itself.
    async fn start(self, groups: &Groups) -> Result<Running> {
        let core = &groups.core;
        core.spawn_critical("place", keep(self.place, core.stop().clone()));
        let base = Base {
            config: self.config,
            store: self.store,
            clock: self.clock,
            metrics: Arc::default(),
        };
        let services = Services::start(&base, groups).await?;
        let health = edges::open(&base, &services, self.listeners, groups).await?;
        Ok(Running {
            store: base.store,
            memory: services.memory,
            writer: services.writer,
            health,
        })
    }
}

/// Keeps the instance's place on the database until the stop. It ends before that, and with it the
/// server, when another instance took it.
async fn keep(place: store::Held, stop: CancellationToken) {
    if let Some(refused) = stop.run_until_cancelled(place.keep()).await {
        tracing::error!(error = %refused, "the place on the database is lost");
    }
}
