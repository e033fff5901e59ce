//! The composition root: binds the listeners, builds what the modules need, and runs them.

use std::{future, sync::Arc};

use crate::{
    config::{Config, seconds},
    error::Result,
    http,
    lifecycle::{Shutdown, Tasks},
    listen::{Addresses, Listeners},
    store::Store,
    telemetry::Metrics,
};

/// A server whose sockets are bound and whose database is open.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listeners: Listeners,
    store: Store,
}

impl Server {
    /// Binds all listeners and opens and migrates the database.
    ///
    /// # Errors
    /// An internal error that names the key at fault.
    pub async fn bind(config: Config) -> Result<Self> {
        let listeners = Listeners::bind(&config.listen)?;
        let store = Store::open(&config.database).await?;
        store.migrate().await?;
        Ok(Self {
            config,
            listeners,
            store,
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
    /// An internal error when the server crashed or its drain was cut off.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let tasks = Tasks::default();
        let metrics = Arc::new(Metrics::default());
        let health = http::health_routes(self.store.clone(), tasks.clone());
        let Listeners {
            http: public,
            metrics: scraped,
            ..
        } = self.listeners;
        tasks.spawn_critical("http", http::serve(public, health, tasks.clone()));
        tasks.spawn_critical(
            "metrics",
            http::serve(scraped, http::metrics_routes(metrics), tasks.clone()),
        );
        let deadline = seconds(self.config.delivery.drain_timeout_s);
        let result = tasks
            .supervise(&shutdown, deadline, future::ready(()))
            .await;
        self.store.close().await;
        result
    }
}
