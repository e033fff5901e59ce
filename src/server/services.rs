//! What the edges serve: every module between the database and the listeners, built on those below it.

use std::{sync::Arc, time::Duration};

use super::{
    cluster::Cluster,
    drain::Groups,
    hooks::Hooks,
    memory::{Memory, start_housekeeping},
    users,
};
use crate::{
    auth::{self, Authenticator, SignIns},
    clock::Clock,
    config::{Config, seconds},
    delivery::{bridge::presence::Presence, registry::Registry, router},
    device::Devices,
    error::Result,
    file::{self, Files},
    friend::Friends,
    friendships::Friendships,
    gateway::{self, Gateway},
    group,
    lifecycle::Tasks,
    limits::CACHE_TTL,
    members::Members,
    message::{self, Messages},
    store::{self, Store, outbox::Outbox},
    telemetry::Metrics,
    timeline::{Writer, epoch::Epoch, pages::Pages, writer},
    user::Accounts,
    webhook::{self, BeforeSend},
};

/// What everything else is made of.
pub(super) struct Base {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

/// What the edges serve, and what they end.
pub(super) struct Services {
    pub(super) accounts: Arc<Accounts>,
    pub(super) devices: Devices,
    pub(super) messages: Arc<Messages>,
    pub(super) friends: Arc<Friends>,
    pub(super) groups: Arc<group::Groups>,
    pub(super) files: Arc<Files>,
    pub(super) presence: Arc<Presence>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) memory: Memory,
    pub(super) writer: Writer,
}

impl Services {
    /// Builds them and starts what works for them by itself, in `groups`.
    pub(super) async fn start(base: &Base, groups: &Groups) -> Result<Self> {
        let Base {
            config,
            store,
            clock,
            metrics,
        } = base;
        let core = &groups.core;
        let outbox = webhook::outbox(&config.webhooks, Arc::clone(clock));
        let Cluster {
            bridge,
            registry,
            departures,
            presence,
            tasks,
        } = Cluster::join(config, core, store, metrics, &outbox).await?;
        let router = router::Router::new(bridge, core.clone(), Arc::clone(metrics));
        let memory = base.memory(registry, Arc::new(router), core).await?;
        let writer = base.writer(&memory, &outbox, core);
        let messages = base.messages(&memory, &writer, &presence)?;
        let friends = Friends::new(
            store.clone(),
            writer.clone(),
            Arc::clone(&memory.directory),
            Arc::clone(clock),
        );
        let accounts = Accounts::open(
            store.clone(),
            Arc::clone(&memory.authenticator),
            Arc::clone(&memory.directory),
            Arc::clone(clock),
            core.clone(),
            &config.sign_in,
        );
        let hooks = Hooks {
            config,
            store,
            outbox: &outbox,
            registry: &memory.registry,
            departures,
            clock,
            metrics,
        };
        let attendance = hooks.start(core).await?;
        let sign_ins = SignIns::start(
            store.clone(),
            Arc::clone(clock),
            Arc::clone(metrics),
            attendance,
            core,
        );
        let services = Self {
            accounts: Arc::new(accounts.await?),
            devices: Devices::new(store.clone(), Arc::clone(clock)),
            friends: Arc::new(friends),
            groups: Arc::new(base.groups(&memory, &writer)),
            files: base.files(groups)?,
            gateway: Arc::new(base.gateway(groups, &memory, sign_ins, &messages, &presence)),
            messages,
            presence,
            memory,
            writer,
        };
        if let Some((inbox, keeper)) = tasks {
            let (stop, memory) = (core.stop(), services.memory.clone());
            let take = move |incoming| memory.hear(incoming);
            core.spawn_critical("bridge inbox", inbox.run(stop.clone(), take));
            core.spawn_critical("presence", keeper.run(stop.clone()));
        }
        let interval = seconds(config.delivery.reconcile_interval_s);
        start_housekeeping(
            core,
            &services.memory,
            &services.writer,
            store,
            Arc::clone(clock),
            interval,
        );
        Ok(services)
    }
}

impl Base {
    /// How long what is remembered of the database counts: what other instances tell of it may be
    /// lost, and is made up for within the interval.
    fn cache_ttl(&self) -> Duration {
        CACHE_TTL.min(seconds(self.config.delivery.reconcile_interval_s))
    }

    async fn memory(
        &self,
        registry: Arc<Registry>,
        router: Arc<router::Router>,
        core: &Tasks,
    ) -> Result<Memory> {
        let (config, store) = (&self.config, &self.store);
        let cache_ttl = self.cache_ttl();
        let business = users::business(&config.users, &self.metrics, core)?;
        let issuer = users::issuer(config, business.as_ref(), core).await?;
        let doubts = Arc::new(auth::Doubts::default());
        let authenticator = auth::Options {
            cache_ttl: users::auth_cache_ttl(config, &issuer, cache_ttl),
            issuer,
            store: store.clone(),
            registry: Arc::clone(&registry),
            router: Arc::clone(&router),
            clock: Arc::clone(&self.clock),
            tasks: core.clone(),
            doubts: Arc::clone(&doubts),
        };
        let authenticator = Authenticator::new(authenticator, &config.sign_in, &config.devices);
        let directory = users::directory(&config.users, business, store, &router, cache_ttl);
        let members = Members::new(store.clone(), Arc::clone(&router), cache_ttl);
        let epoch = store::cluster::epoch(store.reader()).await?;
        Ok(Memory {
            router,
            registry,
            authenticator: Arc::new(authenticator),
            doubts,
            epoch: Arc::new(Epoch::new(epoch)),
            hurry: Arc::default(),
            acks: Arc::default(),
            directory: Arc::new(directory),
            members: Arc::new(members),
            friendships: Arc::new(Friendships::new(store.clone(), cache_ttl)),
        })
    }

    fn writer(&self, memory: &Memory, outbox: &Outbox, core: &Tasks) -> Writer {
        let options = writer::Options {
            store: self.store.clone(),
            router: Arc::clone(&memory.router),
            epoch: Arc::clone(&memory.epoch),
            outbox: outbox.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let memory = memory.clone();
        Writer::start(options, core, move || memory.start_over())
    }

    fn messages(
        &self,
        memory: &Memory,
        writer: &Writer,
        presence: &Arc<Presence>,
    ) -> Result<Arc<Messages>> {
        let config = &self.config;
        let before_send = BeforeSend::new(
            &config.before_send,
            &config.webhooks.secret,
            Arc::clone(&self.clock),
            Arc::clone(&self.metrics),
        )?;
        let only_friends = config.messages.require_friendship;
        Ok(Arc::new(Messages::new(message::Options {
            store: self.store.clone(),
            writer: writer.clone(),
            router: Arc::clone(&memory.router),
            directory: Arc::clone(&memory.directory),
            members: Arc::clone(&memory.members),
            friendships: only_friends.then(|| Arc::clone(&memory.friendships)),
            presence: Arc::clone(presence),
            before_send: before_send.map(Arc::new),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        })))
    }

    fn groups(&self, memory: &Memory, writer: &Writer) -> group::Groups {
        group::Groups::new(group::Options {
            store: self.store.clone(),
            writer: writer.clone(),
            directory: Arc::clone(&memory.directory),
            members: Arc::clone(&memory.members),
            clock: Arc::clone(&self.clock),
            limits: self.config.groups.clone(),
        })
    }

    /// The files, whose sweep begins.
    fn files(&self, groups: &Groups) -> Result<Arc<Files>> {
        let options = file::Options {
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
            tasks: groups.edge.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let files = Arc::new(Files::open(options, &self.config.files)?);
        let core = &groups.core;
        let sweep = Arc::clone(&files).sweep(core.stop().clone());
        core.spawn_critical("file sweep", sweep);
        Ok(files)
    }

    fn gateway(
        &self,
        groups: &Groups,
        memory: &Memory,
        sign_ins: SignIns,
        messages: &Arc<Messages>,
        presence: &Arc<Presence>,
    ) -> Gateway {
        let pages = Pages::new(
            self.store.clone(),
            Arc::clone(&memory.directory),
            groups.core.clone(),
            Arc::clone(&self.metrics),
        );
        Gateway {
            config: self.config.session.clone(),
            store: self.store.clone(),
            load_turns: gateway::LoadTurns::default(),
            sign_ins,
            authenticator: Arc::clone(&memory.authenticator),
            registry: Arc::clone(&memory.registry),
            presence: Arc::clone(presence),
            router: Arc::clone(&memory.router),
            messages: Arc::clone(messages),
            pages: Arc::new(pages),
            acks: Arc::clone(&memory.acks),
            tasks: groups.edge.clone(),
            draining: groups.edge.stop().clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}
