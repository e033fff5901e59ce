//! What waits to be published, and the one task that publishes it: whatever has gathered while the
//! batch before was on its way is the next batch.
//!
//! Invariant: whatever is not published is counted, and told to all as lost once publishing works
//! again, but for ephemeral messages, which no comparison would bring back. So is it told when a
//! connection was lost: its server may have taken what no other instance was there to hear. Nothing
//! is tried twice: an ephemeral message would be given twice.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use fred::{
    bytes_utils::Str,
    interfaces::{LuaInterface, PubsubInterface},
    types::Value,
};
use futures_util::future::try_join_all;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Dialer, Outcome, ends_soon, no_answer},
    names::{Channel, Names},
};
use crate::{
    delivery::{
        bridge::{
            News,
            frame::{self, Writer},
        },
        push::{Push, Template},
        topic::Topic,
    },
    id::Seq,
    limits::{
        BRIDGE_BATCH_BYTES_MAX, BRIDGE_BATCH_MAX, BRIDGE_COPIES_MAX, BRIDGE_PUBLISH_TIMEOUT,
        BRIDGE_QUEUE_BYTES_MAX, BRIDGE_QUEUE_MAX, BRIDGE_SMALL_BYTES, BRIDGE_STOP_MAX,
        HINTS_LOST_INTERVAL, REDIS_HEARTBEAT,
    },
    telemetry::Metrics,
};

/// Publishes all pairs of a channel and a frame. One command for a batch costs this side a third of
/// what as many commands do, and Redis half as much again.
const PUBLISH_ALL: &str = "for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end";

/// What is published.
#[derive(Debug)]
pub(super) enum Item {
    Push(Topic, Push, Seq),
    /// An entry without what stands there.
    Head(Topic, Seq),
    News(News),
}

/// What waits.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    /// There is room again.
    roomy: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Each with the bytes that it counts for.
    items: VecDeque<(Item, usize)>,
    bytes: usize,
    /// The message of the last push, and how many there were of it in a row.
    last: Option<Arc<Template>>,
    copies: usize,
    /// Something is taken: there is a connection.
    is_open: bool,
    /// Something was dropped or may be lost, and nobody has been told yet.
    is_lossy: bool,
}

impl Outbox {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            queue: Mutex::default(),
            filled: Notify::new(),
            roomy: Notify::new(),
            metrics,
        }
    }

    /// Puts something in line, or drops it where that cannot be.
    pub(super) fn put(&self, item: Item) {
        let mut queue = self.lock();
        let (item, bytes) = queue.weigh(item);
        let is_full =
            queue.items.len() >= BRIDGE_QUEUE_MAX || queue.bytes + bytes > BRIDGE_QUEUE_BYTES_MAX;
        if !queue.is_open || is_full {
            queue.is_lossy |= item.is_missed();
            self.metrics.bridge.publish_dropped.inc();
            return;
        }
        queue.bytes += bytes;
        queue.items.push_back((item, bytes));
        let was_empty = queue.items.len() == 1;
        drop(queue);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Completes when at least half of the room is free, or nothing waits for room because there is
    /// no connection.
    pub(super) async fn has_room(&self) {
        loop {
            let roomy = self.roomy.notified();
            if self.lock().is_roomy() {
                return;
            }
            roomy.await;
        }
    }

    /// Takes what may be published in one go.
    pub(super) fn take(&self, batch: &mut Vec<Item>) {
        let mut queue = self.lock();
        let mut bytes = 0;
        while batch.len() < BRIDGE_BATCH_MAX
            && bytes < BRIDGE_BATCH_BYTES_MAX
            && let Some((item, weight)) = queue.items.pop_front()
        {
            bytes += item.bytes();
            queue.bytes -= weight;
            batch.push(item);
        }
        if queue.items.is_empty() {
            // Room that a burst needed is given back.
            queue.items.shrink_to(BRIDGE_BATCH_MAX);
            queue.last = None;
        }
        if queue.is_roomy() {
            self.roomy.notify_waiters();
        }
        self.metrics
            .bridge
            .publish_queue
            .set(queue.items.len() as i64);
    }

    pub(super) fn open(&self) {
        self.lock().is_open = true;
    }

    /// Drops what waits, and what is in `unsure`, of which nobody knows whether it was published.
    pub(super) fn close(&self, unsure: &[Item]) {
        let mut queue = self.lock();
        let waiting = mem::take(&mut queue.items);
        let mut dropped = waiting.iter().map(|(item, _)| item).chain(unsure);
        *queue = Queue {
            is_lossy: queue.is_lossy || dropped.any(Item::is_missed),
            ..Queue::default()
        };
        self.roomy.notify_waiters();
        let dropped = waiting.len() + unsure.len();
        self.metrics.bridge.publish_dropped.inc_by(dropped as u64);
        self.metrics.bridge.publish_queue.set(0);
    }

    /// Something that was published may have reached nobody.
    fn doubt(&self) {
        self.lock().is_lossy = true;
    }

    fn is_lossy(&self) -> bool {
        self.lock().is_lossy
    }

    /// Whether something was dropped or may be lost since the last call.
    pub(super) fn take_loss(&self) -> bool {
        mem::take(&mut self.lock().is_lossy)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// How an item is put in line, and the bytes it counts for. A message that stands on many
    /// timelines is in memory once; and if it is large it is published only a few times, and for
    /// the others only that it is there: who follows them reads it in the database.
    fn weigh(&mut self, item: Item) -> (Item, usize) {
        let Item::Push(topic, push, _) = &item else {
            let bytes = item.bytes();
            return (item, bytes);
        };
        let last = self.last.as_ref();
        if !last.is_some_and(|last| Arc::ptr_eq(last, &push.template)) {
            self.last = Some(Arc::clone(&push.template));
            self.copies = 1;
            let bytes = item.bytes();
            return (item, bytes);
        }
        self.copies += 1;
        let is_small = push.template.message().len() <= BRIDGE_SMALL_BYTES;
        if is_small || push.seq == Seq::ZERO || self.copies <= BRIDGE_COPIES_MAX {
            return (item, size_of::<Item>());
        }
        (Item::Head(*topic, push.seq), size_of::<Item>())
    }

    fn is_roomy(&self) -> bool {
        !self.is_open
            || self.items.len() <= BRIDGE_QUEUE_MAX / 2 && self.bytes <= BRIDGE_QUEUE_BYTES_MAX / 2
    }
}

impl Item {
    /// Whether others find by comparing what they miss if it is dropped.
    fn is_missed(&self) -> bool {
        !matches!(self, Self::Push(_, push, _) if push.seq == Seq::ZERO)
    }

    /// What it takes in memory and, about, on the wire.
    fn bytes(&self) -> usize {
        let own = size_of::<Self>();
        match self {
            Self::Push(_, push, _) => own + push.template.message().len(),
            Self::News(News::Revoked(devices)) => own + size_of_val(&**devices),
            Self::Head(..) | Self::News(_) => own,
        }
    }
}

/// The task that publishes.
pub(super) struct Publisher {
    pub(super) outbox: Arc<Outbox>,
    pub(super) names: Names,
    pub(super) by: Writer,
    /// Redis Cluster: sharded pub/sub, in which each channel may be on another node.
    pub(super) is_sharded: bool,
    pub(super) metrics: Arc<Metrics>,
    /// When others were last told of a loss.
    pub(super) told_at: Option<Instant>,
}

impl Publisher {
    /// Publishes until `stop`, and then, if that does not take long, what still waits.
    pub(super) async fn run(mut self, mut dialer: Dialer, stop: CancellationToken) {
        while let Some(mut connection) = dialer.dial(&stop).await {
            self.outbox.open();
            let mut batch = Vec::new();
            let serving = self.serve(&mut connection, &mut batch, &stop);
            let ended = ends_soon(&stop, BRIDGE_STOP_MAX, serving).await;
            self.outbox.close(&batch);
            match ended {
                None | Some(Ok(())) => return,
                Some(Err(error)) => {
                    self.outbox.doubt();
                    dialer.is_away(&error);
                }
            }
        }
    }

    /// Publishes over one connection until that fails, or until there is nothing left after `stop`.
    async fn serve(
        &mut self,
        connection: &mut Connection,
        batch: &mut Vec<Item>,
        stop: &CancellationToken,
    ) -> Outcome<()> {
        // What is published does not put it off.
        let mut heartbeat = Instant::now() + REDIS_HEARTBEAT;
        loop {
            if heartbeat <= Instant::now() {
                connection.check().await?;
                heartbeat = Instant::now() + REDIS_HEARTBEAT;
            }
            self.fill(batch);
            if !batch.is_empty() {
                self.publish(connection, batch).await?;
                self.metrics.bridge.published.inc_by(batch.len() as u64);
                batch.clear();
                continue;
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            tokio::select! {
                () = self.outbox.filled.notified() => {}
                () = self.loss_due() => {}
                () = sleep_until(heartbeat) => {}
                () = stop.cancelled() => {}
                error = connection.lost() => return Err(error),
            }
        }
    }

    /// Takes the next batch, with news of a loss first.
    fn fill(&mut self, batch: &mut Vec<Item>) {
        let may_tell = self
            .told_at
            .is_none_or(|at| at.elapsed() >= HINTS_LOST_INTERVAL);
        if may_tell && self.outbox.take_loss() {
            self.told_at = Some(Instant::now());
            batch.push(Item::News(News::HintsLost));
        }
        self.outbox.take(batch);
    }

    /// Completes when others may be told of a loss, if there is one.
    async fn loss_due(&self) {
        match self.told_at.filter(|_| self.outbox.is_lossy()) {
            Some(at) => sleep_until(at + HINTS_LOST_INTERVAL).await,
            None => std::future::pending().await,
        }
    }

    async fn publish(&self, connection: &Connection, batch: &[Item]) -> Outcome<()> {
        let mut out = BytesMut::with_capacity(batch.iter().map(Item::bytes).sum());
        let parts = batch.iter().map(|item| self.encode(item, &mut out));
        let client = connection.client();
        let publishing = async {
            if self.is_sharded {
                // Sent together in one go, as commands in a `Pipeline` are not.
                let each = parts.map(|[channel, frame]| {
                    let channel = Str::from_inner(channel).unwrap_or_default();
                    client.spublish(channel, frame)
                });
                return try_join_all(each).await.map(|_: Vec<()>| ());
            }
            let keys: Vec<String> = Vec::new();
            let args: Vec<Value> = parts.flatten().map(Value::Bytes).collect();
            client.eval(PUBLISH_ALL, keys, args).await
        };
        timeout(BRIDGE_PUBLISH_TIMEOUT, publishing)
            .await
            .unwrap_or_else(|_| Err(no_answer()))
    }

    /// The channel and the frame of `item`, both in the buffer `out`.
    fn encode(&self, item: &Item, out: &mut BytesMut) -> [Bytes; 2] {
        let channel = match item {
            Item::Push(topic, ..) | Item::Head(topic, _) => Channel::Topic(*topic),
            Item::News(News::SignedIn { user, .. }) => Channel::Topic(Topic::User(*user)),
            Item::News(_) => Channel::News,
        };
        self.names.put_channel(out, channel);
        let name = out.split().freeze();
        match item {
            Item::Push(_, push, after) => frame::put_push(out, self.by, push, *after),
            Item::Head(_, seq) => frame::put_head(out, self.by, *seq),
            Item::News(news) => frame::put_news(out, self.by, news),
        }
        [name, out.split().freeze()]
    }
}

#[cfg(test)]
mod tests;
