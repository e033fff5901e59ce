//! The composition root: the only module that knows all others. It binds the listeners, builds what
//! each module is given, runs them, and ends them in the order that loses nothing.

use std::{convert::Infallible, sync::Arc, time::Duration};

use crate::{
    auth::{self, Authenticator, Issuer, SignIns},
    clock::{self, Clock},
    config::{self, Config, Networks, seconds},
    delivery::{handle::Eviction, release, router},
    device::Devices,
    error::Result,
    file::{self, Files},
    friend::Friends,
    friendships::Friendships,
    gateway::{self, Gateway, websocket},
    group, grpc, http,
    lifecycle::{Shutdown, Tasks},
    limits::{CACHE_TTL, DATABASE_CLOSE_MAX, DRAIN_SWEEP_INTERVAL},
    listen::Listeners,
    members::Members,
    message::{self, Messages},
    store::{self, Store},
    telemetry::Metrics,
    timeline::{Writer, ack::Acks, epoch::Epoch, pages::Pages, writer},
    user::Accounts,
    webhook::{self, BeforeSend},
};
use axum::{Router, middleware::from_fn};
use tokio_util::sync::CancellationToken;

use self::{
    cluster::Cluster,
    hooks::Hooks,
    memory::{Memory, start_housekeeping},
};

mod cluster;
mod hooks;
mod memory;
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
        let Self {
            config,
            clock,
            listeners,
            store,
            place,
        } = self;
        let core = &groups.core;
        core.spawn_critical("place", keep(place, core.stop().clone()));
        let metrics = Arc::new(Metrics::default());
        let outbox = webhook::outbox(&config.webhooks, Arc::clone(&clock));
        let Cluster {
            bridge,
            registry,
            departures,
            presence,
            tasks,
        } = Cluster::join(&config, core, &store, &metrics, &outbox).await?;
        let router = router::Router::new(bridge, core.clone(), Arc::clone(&metrics));
        let router = Arc::new(router);
        let interval = seconds(config.delivery.reconcile_interval_s);
        let cache_ttl = CACHE_TTL.min(interval);

        let business = users::business(&config.users, &metrics, core)?;
        let issuer = users::issuer(&config, business.as_ref(), core).await?;
        let is_lonely = config.redis.url.is_empty();
        let doubts = Arc::new(auth::Doubts::default());
        let authenticator = auth::Options {
            cache_ttl: match &issuer {
                // What other instances tell may be lost, and is made up for within the interval.
                Issuer::Business(_) if is_lonely => seconds(config.users.auth_cache_s),
                Issuer::Business(_) => seconds(config.users.auth_cache_s).min(interval),
                Issuer::Own | Issuer::Signed(_) => cache_ttl,
            },
            issuer,
            store: store.clone(),
            registry: Arc::clone(&registry),
            router: Arc::clone(&router),
            clock: Arc::clone(&clock),
            tasks: core.clone(),
            doubts: Arc::clone(&doubts),
        };
        let authenticator = Authenticator::new(authenticator, &config.sign_in, &config.devices);
        let authenticator = Arc::new(authenticator);
        let directory = users::directory(&config.users, business, &store, &router, cache_ttl);
        let directory = Arc::new(directory);
        let devices = Devices::new(store.clone(), Arc::clone(&clock));

        let epoch = Arc::new(Epoch::new(store::cluster::epoch(store.reader()).await?));
        let pages = Pages::new(
            store.clone(),
            Arc::clone(&directory),
            core.clone(),
            Arc::clone(&metrics),
        );
        let acks = Arc::new(Acks::default());
        let members = Members::new(store.clone(), Arc::clone(&router), cache_ttl);
        let members = Arc::new(members);
        let friendships = Arc::new(Friendships::new(store.clone(), cache_ttl));
        let memory = Memory {
            router: Arc::clone(&router),
            registry: Arc::clone(&registry),
            authenticator: Arc::clone(&authenticator),
            doubts,
            epoch: Arc::clone(&epoch),
            hurry: Arc::default(),
            acks: Arc::clone(&acks),
            directory: Arc::clone(&directory),
            members: Arc::clone(&members),
            friendships: Arc::clone(&friendships),
        };
        let writer = Writer::start(
            writer::Options {
                store: store.clone(),
                router: Arc::clone(&router),
                epoch: Arc::clone(&epoch),
                outbox: outbox.clone(),
                metrics: Arc::clone(&metrics),
            },
            core,
            {
                let memory = memory.clone();
                move || memory.start_over()
            },
        );
        let before_send = BeforeSend::new(
            &config.before_send,
            &config.webhooks.secret,
            Arc::clone(&clock),
            Arc::clone(&metrics),
        )?;
        let messages = Arc::new(Messages::new(message::Options {
            store: store.clone(),
            writer: writer.clone(),
            router: Arc::clone(&router),
            directory: Arc::clone(&directory),
            members: Arc::clone(&members),
            friendships: config.messages.require_friendship.then_some(friendships),
            presence: Arc::clone(&presence),
            before_send: before_send.map(Arc::new),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        }));
        let friends = Arc::new(Friends::new(
            store.clone(),
            writer.clone(),
            Arc::clone(&directory),
            Arc::clone(&clock),
        ));
        let group_service = Arc::new(group::Groups::new(group::Options {
            store: store.clone(),
            writer: writer.clone(),
            directory: Arc::clone(&directory),
            members: Arc::clone(&members),
            clock: Arc::clone(&clock),
            limits: config.groups.clone(),
        }));
        let hooks = Hooks {
            config: &config,
            store: &store,
            outbox: &outbox,
            registry: &registry,
            departures,
            clock: &clock,
            metrics: &metrics,
        };
        let attendance = hooks.start(core).await?;
        let sign_ins = SignIns::start(
            store.clone(),
            Arc::clone(&clock),
            Arc::clone(&metrics),
            attendance,
            core,
        );
        let accounts = Accounts::open(
            store.clone(),
            Arc::clone(&authenticator),
            Arc::clone(&directory),
            Arc::clone(&clock),
            core.clone(),
            &config.sign_in,
        );
        let accounts = Arc::new(accounts.await?);
        let gateway = Arc::new(Gateway {
            config: config.session.clone(),
            store: store.clone(),
            load_turns: gateway::LoadTurns::default(),
            sign_ins,
            authenticator: Arc::clone(&authenticator),
            registry: Arc::clone(&registry),
            presence: Arc::clone(&presence),
            router: Arc::clone(&router),
            messages: Arc::clone(&messages),
            pages: Arc::new(pages),
            acks: Arc::clone(&acks),
            tasks: groups.edge.clone(),
            draining: groups.edge.stop().clone(),
            metrics: Arc::clone(&metrics),
        });
        let files = file::Options {
            store: store.clone(),
            clock: Arc::clone(&clock),
            tasks: groups.edge.clone(),
            metrics: Arc::clone(&metrics),
        };
        let files = Arc::new(Files::open(files, &config.files)?);
        let sweep = Arc::clone(&files).sweep(core.stop().clone());
        core.spawn_critical("file sweep", sweep);
        let files = http::files::routes(http::files::Options {
            files,
            authenticator: Arc::clone(&authenticator),
            metrics: Arc::clone(&metrics),
        });
        let files = http::with_request_ids(files);
        let external = grpc::external(grpc::External {
            authenticator: Arc::clone(&authenticator),
            accounts: directory.is_built_in().then(|| Arc::clone(&accounts)),
            devices: devices.clone(),
            messages: Arc::clone(&messages),
            friends,
            groups: group_service,
        });
        let external = external.await?;
        let internal = grpc::internal(grpc::Internal {
            authenticator,
            accounts,
            devices,
            directory,
            presence,
            messages,
            token: config.internal.token.clone(),
        });
        let internal = internal.await?;

        if let Some((inbox, keeper)) = tasks {
            let (stop, memory) = (core.stop(), memory.clone());
            let take = move |incoming| memory.hear(incoming);
            core.spawn_critical("bridge inbox", inbox.run(stop.clone(), take));
            core.spawn_critical("presence", keeper.run(stop.clone()));
        }
        start_housekeeping(core, &memory, &writer, &store, clock, interval);
        let origins = http::Origins::new(&config.http.allowed_origins);
        let public = http::health_routes(
            store.clone(),
            groups.edge.stop().clone(),
            groups.probes.clone(),
        )
        .merge(http::with_request_ids(
            origins.guard(websocket::routes(Arc::clone(&gateway))),
        ))
        .merge(external.web(&groups.edge));
        let health = [external.health, internal.health];
        let routes = Routes {
            external: external.router,
            internal: internal.router,
            public: origins.share(public.layer(from_fn(http::read_rest)).merge(files)),
            metrics: http::metrics_routes(metrics),
        };
        serve(&config.listen, listeners, gateway, routes, groups);
        Ok(Running {
            store,
            memory,
            writer,
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

/// The tasks of a server, in the order in which a drain ends them.
#[derive(Debug)]
struct Groups {
    /// Connections of devices and callers.
    edge: Tasks,
    /// What works for them: the writer, sign-ins, acks, page reads, sweeps.
    core: Tasks,
    /// Health and metrics, which answer to the end.
    probes: Tasks,
}

impl Default for Groups {
    fn default() -> Self {
        let probes = Tasks::default();
        Self {
            edge: probes.group(),
            core: probes.group(),
            probes,
        }
    }
}

/// What is served where.
struct Routes {
    external: Router,
    internal: Router,
    public: Router,
    metrics: Router,
}

fn serve(
    config: &config::Listen,
    listeners: Listeners,
    gateway: Arc<Gateway>,
    routes: Routes,
    groups: &Groups,
) {
    let Groups { edge, probes, .. } = groups;
    let (balancers, proxies) = (&config.proxy_protocol_from, &config.forwarded_from);
    edge.spawn_critical(
        "tcp",
        gateway::tcp::accept(listeners.tcp, gateway, balancers.clone()),
    );
    edge.spawn_critical(
        "grpc",
        http::serve(
            listeners.grpc,
            routes.external,
            proxies.clone(),
            edge.clone(),
        ),
    );
    // Servers of one's own come here without a proxy, and Prometheus does.
    let nobody = Networks::default;
    edge.spawn_critical(
        "internal",
        http::serve(listeners.internal, routes.internal, nobody(), edge.clone()),
    );
    probes.spawn_critical(
        "http",
        http::serve(
            listeners.http,
            routes.public,
            proxies.clone(),
            probes.clone(),
        ),
    );
    probes.spawn_critical(
        "metrics",
        http::serve(listeners.metrics, routes.metrics, nobody(), probes.clone()),
    );
}

/// What a drain needs of a running server.
struct Running {
    store: Store,
    memory: Memory,
    writer: Writer,
    health: [grpc::Health; 2],
}

impl Running {
    /// Ends everything but the probes: first nobody new, then one session after the other, then the
    /// writer when nobody can send any more, then the rest; all of it within `timeout`, if it can be.
    async fn drain(self, groups: &Groups, timeout: Duration) {
        // `/readyz` looks at this too, so it says no before any listener has closed.
        groups.edge.stop().cancel();
        for health in &self.health {
            health.stop_serving().await;
            health.end_watches().await;
        }
        tokio::select! {
            never = self.release_sessions(&groups.edge, timeout) => match never {},
            () = groups.edge.finished() => {}
        }
        self.writer.close().await;
        groups.core.stop().cancel();
        // Not only at the end: what hangs may use up the time that is left.
        let acks = &self.memory.acks;
        tokio::join!(acks.flush(&self.store), groups.core.finished());
        acks.flush(&self.store).await;
    }

    /// Tells the sessions to go, those too that were about to sign in when it began.
    async fn release_sessions(&self, edge: &Tasks, timeout: Duration) -> Infallible {
        let registry = &self.memory.registry;
        tokio::select! {
            () = release::release(registry, timeout) => {}
            // Sessions may not be able to work without what crashed.
            () = edge.crashed() => {}
        }
        loop {
            registry.evict_all(Eviction::Draining);
            tokio::time::sleep(DRAIN_SWEEP_INTERVAL).await;
        }
    }
}
