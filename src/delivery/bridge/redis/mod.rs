//! The bridge over the pub/sub of Redis: one connection that publishes and one that subscribes,
//! each with a task of its own that connects again for ever.
//!
//! Redis may be away, be flushed or hang at any time: nothing here fails by it, what is lost is
//! reported as a discontinuity. A Redis that is away does not stop a start.
//!
//! A connection that is silently good for nothing is found at its next heartbeat, and given up: a
//! server that hangs, one that has become a replica while others went to its successor, and a Redis
//! Cluster that has ended subscriptions because their slots have moved. So a loss is reported at the
//! latest `REDIS_HEARTBEAT` and `REDIS_TIMEOUT` after it began, or as soon as there is a connection
//! again.

use std::sync::Arc;

use fred::types::config::Config;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

pub use self::inbox::Inbox;
pub(super) use self::{
    connection::{Connection, Dialer, Outcome, ends_soon, is_refusal},
    names::Names,
};
use self::{
    inbox::Losses,
    outbox::{Item, Outbox, Publisher},
    subscriptions::{Subscriber, Subscriptions},
};
use super::{Bridge, News, frame::Writer};
use crate::{
    delivery::{push::Push, topic::Topic},
    error::Result,
    id::Seq,
    lifecycle::Tasks,
    limits::BRIDGE_INBOX_MAX,
    telemetry::Metrics,
};

mod connection;
mod inbox;
mod names;
mod outbox;
mod subscriptions;
#[cfg(test)]
mod tests;

/// Where Redis is and who asks.
#[derive(Debug)]
pub struct Options<'a> {
    /// `redis.url`.
    pub url: &'a str,
    /// `redis.prefix`.
    pub prefix: &'a str,
    /// Which database the cluster works on; whoever bears another number is not heard.
    pub cluster: u64,
    /// What this start of this instance is called; no other start of any bears the same number.
    pub instance: u64,
    /// What runs the two connections.
    pub tasks: &'a Tasks,
    /// Counters.
    pub metrics: &'a Arc<Metrics>,
}

/// The bridge to other instances over Redis.
#[derive(Debug)]
pub struct Redis {
    outbox: Arc<Outbox>,
    subscriptions: Arc<Subscriptions>,
    config: Config,
    names: Names,
    instance: u64,
    metrics: Arc<Metrics>,
}

/// Events that wait for the reader, who takes them at once.
const EVENTS_MAX: usize = 4;
/// Messages that a connection keeps on which none comes. The client's own events need some room.
const NO_INBOX: usize = 32;

impl Redis {
    /// Begins to connect. What comes from other instances comes out of the inbox.
    ///
    /// # Errors
    /// An internal error that names the key when the URL is none.
    pub fn connect(options: &Options<'_>) -> Result<(Self, Inbox)> {
        let Options {
            prefix,
            cluster,
            instance,
            tasks,
            metrics,
            ..
        } = *options;
        let by = Writer { cluster, instance };
        let config = connection::parse(options.url)?;
        let is_sharded = config.server.is_clustered();
        let names = Names::new(prefix);
        let outbox = Arc::new(Outbox::new(Arc::clone(metrics)));
        let subscriptions = Arc::new(Subscriptions::default());
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let dialer =
            |inbox, purpose| Dialer::new(config.clone(), inbox, purpose, Arc::clone(metrics));
        let publisher = Publisher {
            outbox: Arc::clone(&outbox),
            names: names.clone(),
            by,
            is_sharded,
            metrics: Arc::clone(metrics),
            told_at: None,
        };
        let publishing = publisher.run(dialer(NO_INBOX, "publish"), tasks.stop().clone());
        tasks.spawn_critical("bridge publisher", publishing);
        let subscriber = Subscriber {
            subscriptions: Arc::clone(&subscriptions),
            names: names.clone(),
            is_sharded,
            events,
            metrics: Arc::clone(metrics),
        };
        let dialer = dialer(BRIDGE_INBOX_MAX, "subscribe");
        let subscribing = subscriber.run(dialer, tasks.stop().clone());
        tasks.spawn_critical("bridge subscriber", subscribing);
        let inbox = Inbox {
            events: inbox,
            names: names.clone(),
            by,
            metrics: Arc::clone(metrics),
            losses: Losses::default(),
            foreign_at: None,
        };
        let redis = Self {
            outbox,
            subscriptions,
            config,
            names,
            instance,
            metrics: Arc::clone(metrics),
        };
        Ok((redis, inbox))
    }

    /// For a further connection to the same Redis.
    pub(super) fn dialer(&self, purpose: &'static str) -> Dialer {
        let metrics = Arc::clone(&self.metrics);
        Dialer::new(self.config.clone(), NO_INBOX, purpose, metrics)
    }

    pub(super) const fn names(&self) -> &Names {
        &self.names
    }

    pub(super) const fn instance(&self) -> u64 {
        self.instance
    }

    pub(super) fn is_sharded(&self) -> bool {
        self.config.server.is_clustered()
    }
}

impl Bridge for Redis {
    fn subscribe(&self, topics: &[Topic]) -> BoxFuture<'static, ()> {
        self.subscriptions.want(topics)
    }

    fn unsubscribe(&self, topic: Topic) {
        self.subscriptions.unwant(topic);
    }

    fn publish(&self, topic: Topic, push: &Push, after: Seq) {
        self.outbox.put(Item::Push(topic, push.clone(), after));
    }

    fn has_room(&self) -> BoxFuture<'static, ()> {
        let outbox = Arc::clone(&self.outbox);
        async move { outbox.has_room().await }.boxed()
    }

    fn tell(&self, news: News) {
        self.outbox.put(Item::News(news));
    }

    fn is_alone(&self) -> bool {
        false
    }
}
