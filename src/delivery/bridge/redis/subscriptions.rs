//! Which topics are to be received and which are, and the one task that makes them the same. As
//! nobody else subscribes or unsubscribes, the last follower's leaving and the next one's coming
//! cannot cross; and what has gathered goes in one command, so a storm of sign-ins is a few.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fred::interfaces::PubsubInterface;
use futures_util::{FutureExt, future::BoxFuture, future::ready, future::try_join_all};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    connection::{Connection, Dialer, Outcome, no_answer},
    inbox::Event,
    names::{Channel, Names},
};
use crate::{
    delivery::topic::Topic,
    limits::{BRIDGE_SUBSCRIBE_CHUNK, REDIS_HEARTBEAT, REDIS_TIMEOUT},
    telemetry::Metrics,
};

/// Which topics are wanted.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Subscription>,
    /// Those that were changed since the last round, some more than once.
    dirty: Vec<Topic>,
    /// Ends with the round that sees to what is dirty now.
    round: CancellationToken,
    /// There is a connection.
    is_up: bool,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    is_wanted: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Out,
    /// A round changes it.
    Changing,
    In,
}

/// What one round does.
#[derive(Debug, Default)]
struct Round {
    subscribe: Vec<Topic>,
    unsubscribe: Vec<Topic>,
    /// Nobody waits for it any longer when it is dropped, done or not.
    _done: Option<DropGuard>,
}

impl Subscriptions {
    /// Wants topics; the future completes when they are subscribed to, or when that takes long.
    pub(super) fn want(&self, topics: &[Topic]) -> BoxFuture<'static, ()> {
        let mut state = self.lock();
        let mut is_in = true;
        for topic in topics {
            let subscription = state.topics.entry(*topic).or_insert(Subscription {
                is_wanted: false,
                stage: Stage::Out,
            });
            subscription.is_wanted = true;
            if subscription.stage != Stage::In {
                state.dirty.push(*topic);
                is_in = false;
            }
        }
        // While there is no connection nobody waits: all that was missed will be reported.
        if is_in || !state.is_up {
            return ready(()).boxed();
        }
        let done = state.round.clone();
        drop(state);
        self.changed.notify_one();
        async move {
            // If it takes longer the connection is given up, and that is a discontinuity.
            let _ = timeout(REDIS_TIMEOUT, done.cancelled()).await;
        }
        .boxed()
    }

    /// Wants a topic no longer.
    pub(super) fn unwant(&self, topic: Topic) {
        let mut state = self.lock();
        let Some(subscription) = state.topics.get_mut(&topic) else {
            return;
        };
        subscription.is_wanted = false;
        if subscription.stage == Stage::Out && !state.is_up {
            state.topics.remove(&topic);
            return;
        }
        state.dirty.push(topic);
        drop(state);
        self.changed.notify_one();
    }

    /// What is to be done now.
    fn begin(&self) -> Round {
        let mut state = self.lock();
        let mut round = Round {
            _done: Some(mem::take(&mut state.round).drop_guard()),
            ..Round::default()
        };
        for topic in mem::take(&mut state.dirty) {
            let Some(subscription) = state.topics.get_mut(&topic) else {
                continue;
            };
            match (subscription.is_wanted, subscription.stage) {
                (true, Stage::Out) => round.subscribe.push(topic),
                (false, Stage::In) => round.unsubscribe.push(topic),
                (false, Stage::Out) => {
                    state.topics.remove(&topic);
                    continue;
                }
                (true, Stage::In) | (_, Stage::Changing) => continue,
            }
            subscription.stage = Stage::Changing;
        }
        round
    }

    /// A round was done. Returns how many topics are known.
    fn end(&self, round: Round) -> usize {
        let mut state = self.lock();
        for topic in round.subscribe {
            if let Some(subscription) = state.topics.get_mut(&topic) {
                subscription.stage = Stage::In;
            }
        }
        for topic in round.unsubscribe {
            match state.topics.get_mut(&topic) {
                Some(subscription) if subscription.is_wanted => subscription.stage = Stage::Out,
                _ => drop(state.topics.remove(&topic)),
            }
        }
        state.topics.len()
    }

    /// There is a new connection, on which nothing is subscribed to: all that is wanted is to be.
    fn up(&self) {
        let mut state = self.lock();
        state.is_up = true;
        state.topics.retain(|_, subscription| {
            subscription.stage = Stage::Out;
            subscription.is_wanted
        });
        state.dirty = state.topics.keys().copied().collect();
    }

    /// The connection is lost: nobody waits any longer.
    fn down(&self) {
        let mut state = self.lock();
        state.is_up = false;
        state.dirty = Vec::new();
        mem::take(&mut state.round).cancel();
        state.topics.retain(|_, subscription| {
            subscription.stage = Stage::Out;
            subscription.is_wanted
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that subscribes.
pub(super) struct Subscriber {
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) names: Names,
    /// Redis Cluster: sharded pub/sub, in which each channel may be on another node.
    pub(super) is_sharded: bool,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) metrics: Arc<Metrics>,
}

impl Subscriber {
    /// Keeps the subscriptions as they are wanted until `stop`.
    pub(super) async fn run(self, mut dialer: Dialer, stop: CancellationToken) {
        while let Some(mut connection) = dialer.dial(&stop).await {
            let ended = stop.run_until_cancelled(self.serve(&mut connection)).await;
            self.subscriptions.down();
            match ended {
                None => return,
                Some(error) => dialer.is_away(&error),
            }
        }
    }

    /// Serves one connection until it fails, and returns why.
    async fn serve(&self, connection: &mut Connection) -> fred::error::Error {
        let serving = async {
            if let Some(messages) = connection.take_messages() {
                self.report(Event::Connected(messages)).await;
            }
            self.subscriptions.up();
            let news = vec![self.names.channel(Channel::News)];
            self.subscribe(connection, news).await?;
            self.round(connection).await?;
            // Only now: who compares with the database misses nothing that comes after.
            self.report(Event::Discontinuity).await;
            self.keep(connection).await
        };
        match serving.await {
            Ok(error) | Err(error) => error,
        }
    }

    async fn keep(&self, connection: &mut Connection) -> Outcome<fred::error::Error> {
        loop {
            let heartbeat = Instant::now() + REDIS_HEARTBEAT;
            tokio::select! {
                biased;
                error = connection.lost() => return Ok(error),
                () = self.subscriptions.changed.notified() => self.round(connection).await?,
                () = sleep_until(heartbeat) => connection.ping().await?,
            }
        }
    }

    /// Subscribes to what is wanted and unsubscribes from what is not.
    async fn round(&self, connection: &Connection) -> Outcome<()> {
        let round = self.subscriptions.begin();
        for topics in round.unsubscribe.chunks(BRIDGE_SUBSCRIBE_CHUNK) {
            self.unsubscribe(connection, self.channels(topics)).await?;
        }
        for topics in round.subscribe.chunks(BRIDGE_SUBSCRIBE_CHUNK) {
            self.subscribe(connection, self.channels(topics)).await?;
        }
        let known = self.subscriptions.end(round);
        self.metrics.bridge.subscriptions.set(known as i64);
        Ok(())
    }

    fn channels(&self, topics: &[Topic]) -> Vec<String> {
        let topics = topics.iter().copied();
        topics
            .map(|topic| self.names.channel(Channel::Topic(topic)))
            .collect()
    }

    /// Subscribes to channels, and waits until that is in force.
    async fn subscribe(&self, connection: &Connection, channels: Vec<String>) -> Outcome<()> {
        let client = connection.client();
        let subscribing = async {
            if self.is_sharded {
                // The client takes one answer for each such command, so it may name one channel.
                let each = channels
                    .into_iter()
                    .map(|channel| client.ssubscribe(channel));
                return try_join_all(each).await.map(drop);
            }
            client.subscribe(channels).await?;
            // The client does not wait for the answer; this one comes behind it.
            connection.ping().await
        };
        timeout(REDIS_TIMEOUT, subscribing)
            .await
            .unwrap_or_else(|_| Err(no_answer()))
    }

    async fn unsubscribe(&self, connection: &Connection, channels: Vec<String>) -> Outcome<()> {
        let client = connection.client();
        let unsubscribing = async {
            if self.is_sharded {
                let each = channels
                    .into_iter()
                    .map(|channel| client.sunsubscribe(channel));
                return try_join_all(each).await.map(drop);
            }
            client.unsubscribe(channels).await
        };
        timeout(REDIS_TIMEOUT, unsubscribing)
            .await
            .unwrap_or_else(|_| Err(no_answer()))
    }

    async fn report(&self, event: Event) {
        // Nobody takes it when the server stops, and then nobody needs it.
        let _ = self.events.send(event).await;
    }
}
