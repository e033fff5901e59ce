//! Which topics are to be received and which are, and the one task that makes them the same. As
//! nobody else subscribes or unsubscribes, the last follower's leaving and the next one's coming
//! cannot cross; and what has gathered goes in one command, so a storm of sign-ins is a few.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fred::interfaces::PubsubInterface;
use futures_util::{FutureExt, future::BoxFuture, future::ready, future::try_join_all};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    connection::{Connection, Dialer, Layout, Outcome, cluster_changed, no_answer},
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
    /// Those that were changed since the last round, some more than once; none while there is no
    /// connection.
    dirty: Vec<Topic>,
    /// For those who wait for the round that sees to what is dirty now.
    round: Ticket,
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

/// What waits for a round.
#[derive(Clone, Debug, Default)]
struct Ticket {
    /// Ends with the round.
    done: CancellationToken,
    /// Somebody did not wait for its end, and may have missed what came before that.
    is_late: Arc<AtomicBool>,
}

/// What one round does.
#[derive(Debug, Default)]
struct Round {
    subscribe: Vec<Topic>,
    unsubscribe: Vec<Topic>,
    /// See [`Ticket`].
    is_late: Arc<AtomicBool>,
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
                is_in = false;
                // Without a connection nothing would take it away; the next one begins with all.
                if state.is_up {
                    state.dirty.push(*topic);
                }
            }
        }
        // While there is no connection nobody waits: all that was missed will be reported.
        if is_in || !state.is_up {
            return ready(()).boxed();
        }
        let Ticket { done, is_late } = state.round.clone();
        drop(state);
        self.changed.notify_one();
        async move {
            if timeout(REDIS_TIMEOUT, done.cancelled()).await.is_err() {
                is_late.store(true, Ordering::SeqCst);
            }
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
        let Ticket { done, is_late } = mem::take(&mut state.round);
        let mut round = Round {
            is_late,
            _done: Some(done.drop_guard()),
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

    /// A round was done. Returns how many topics are known, and whether somebody did not wait for
    /// it: he may have missed something that nothing else tells of.
    fn end(&self, round: Round) -> (usize, bool) {
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
        (state.topics.len(), round.is_late.load(Ordering::SeqCst))
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
        mem::take(&mut state.round).done.cancel();
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
            // Before anything is subscribed to: what moves meanwhile is seen by comparing.
            let layout = if self.is_sharded {
                connection.layout().await?
            } else {
                Layout::default()
            };
            self.subscriptions.up();
            let news = vec![self.names.channel(Channel::News)];
            self.subscribe(connection, news).await?;
            self.round(connection).await?;
            // Only now: who compares with the database misses nothing that comes after.
            self.report(Event::Discontinuity).await;
            self.keep(connection, &layout).await
        };
        match serving.await {
            Ok(error) | Err(error) => error,
        }
    }

    async fn keep(
        &self,
        connection: &mut Connection,
        layout: &Layout,
    ) -> Outcome<fred::error::Error> {
        // Changes do not put it off: those that only unsubscribe wait for no answer.
        let mut heartbeat = Instant::now() + REDIS_HEARTBEAT;
        loop {
            tokio::select! {
                biased;
                error = connection.lost() => return Ok(error),
                () = sleep_until(heartbeat) => {
                    self.check(connection, layout).await?;
                    heartbeat = Instant::now() + REDIS_HEARTBEAT;
                }
                () = self.subscriptions.changed.notified() => self.round(connection).await?,
            }
        }
    }

    /// Whether what was subscribed to still is. A node of a Redis Cluster ends subscriptions to a slot
    /// that it gives away, which the client hears and does not tell.
    async fn check(&self, connection: &Connection, layout: &Layout) -> Outcome<()> {
        if !self.is_sharded {
            return connection.check().await;
        }
        if connection.layout().await? == *layout {
            Ok(())
        } else {
            Err(cluster_changed())
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
        let (known, is_late) = self.subscriptions.end(round);
        self.metrics.bridge.subscriptions.set(known as i64);
        if is_late {
            self.report(Event::Discontinuity).await;
        }
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
            connection.check().await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;

    fn user(id: i64) -> Topic {
        Topic::User(UserId(id))
    }

    #[tokio::test]
    async fn without_a_connection_nothing_grows_but_what_is_wanted() {
        let subscriptions = Subscriptions::default();
        for _ in 0..100 {
            subscriptions.want(&[user(1), user(2)]).await;
            subscriptions.unwant(user(2));
        }
        {
            let state = subscriptions.lock();
            assert_eq!((state.topics.len(), state.dirty.len()), (1, 0));
        }
        subscriptions.up();
        assert_eq!(subscriptions.begin().subscribe, [user(1)]);
    }

    /// What was published between its head and the end of the round nobody else would tell of.
    #[tokio::test(start_paused = true)]
    async fn round_that_somebody_did_not_wait_for_is_late_and_no_other() {
        let subscriptions = Subscriptions::default();
        subscriptions.up();
        let first = subscriptions.begin();
        subscriptions.want(&[user(1)]).await;
        assert_eq!(
            subscriptions.end(first),
            (1, false),
            "it does not see to it"
        );

        let second = subscriptions.begin();
        assert_eq!(second.subscribe, [user(1)]);
        assert_eq!(subscriptions.end(second), (1, true));

        let waiting = subscriptions.want(&[user(2)]);
        let third = subscriptions.begin();
        assert_eq!(subscriptions.end(third), (2, false));
        waiting.await;
    }
}
