//! Reads what other instances have published: nothing but decoding and offering, so that it keeps
//! up. What the client had to drop because it did not is a discontinuity.
//!
//! Invariant: a loss is reported at once, or, where one was reported less than a second ago, when
//! that second is over; the report always comes after what was lost.

use std::{future::pending, sync::Arc};

use bytes::Bytes;
use fred::types::{Message, Value};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::names::{Channel, Names};
use crate::{
    delivery::bridge::{
        Incoming, News,
        frame::{self, Content, Unread, Writer},
    },
    limits::{DISCONTINUITY_INTERVAL, WARNING_INTERVAL},
    telemetry::Metrics,
};

/// What the reader is told by the task that subscribes.
#[derive(Debug)]
pub(super) enum Event {
    /// There is a new connection, and this is what comes over it.
    Connected(broadcast::Receiver<Message>),
    /// Everything wanted is subscribed to again.
    Discontinuity,
}

/// What comes from other instances.
#[derive(Debug)]
pub struct Inbox {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) names: Names,
    pub(super) by: Writer,
    pub(super) metrics: Arc<Metrics>,
    pub(super) losses: Losses,
    /// When it was last said that another cluster is on the same channels.
    pub(super) foreign_at: Option<Instant>,
}

/// When losses are reported.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// When the last one was.
    reported: Option<Instant>,
    /// When there is one to report.
    due: Option<Instant>,
    /// Messages that were too many, of the one to report.
    missed: u64,
}

impl Inbox {
    /// Gives `take` what comes, until `stop`.
    pub async fn run(mut self, stop: CancellationToken, mut take: impl FnMut(Incoming) + Send) {
        let reading = async {
            let mut messages = None;
            while let Some(event) = self.read_until_event(&mut messages, &mut take).await {
                match event {
                    Event::Connected(new) => messages = Some(new),
                    Event::Discontinuity => self.losses.add(0),
                }
            }
            // The task that subscribes ends only with the server.
            stop.cancelled().await;
        };
        stop.run_until_cancelled(reading).await;
    }

    async fn read_until_event(
        &mut self,
        messages: &mut Option<broadcast::Receiver<Message>>,
        take: &mut (impl FnMut(Incoming) + Send),
    ) -> Option<Event> {
        loop {
            let received = tokio::select! {
                biased;
                event = self.events.recv() => return event,
                () = at(self.losses.due) => {
                    self.discontinuity(take);
                    continue;
                }
                Some(received) = next(messages) => received,
            };
            match received {
                Ok(message) => self.read(message, take),
                Err(RecvError::Lagged(missed)) => {
                    // To the end of what waits: at its beginning the next one would be lost too, and
                    // the one after it.
                    *messages = messages.as_ref().map(broadcast::Receiver::resubscribe);
                    self.losses.add(missed);
                }
                Err(RecvError::Closed) => *messages = None,
            }
        }
    }

    fn read(&mut self, message: Message, take: &mut (impl FnMut(Incoming) + Send)) {
        let bytes: Bytes = match message.value {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            _ => Bytes::new(),
        };
        if frame::is_of(&bytes, self.by.instance) {
            return;
        }
        let Some(channel) = self.names.parse(&message.channel) else {
            self.metrics.bridge.ignored.inc();
            return;
        };
        let topic = match channel {
            Channel::Topic(topic) => Some(topic),
            Channel::News => None,
        };
        let content = match frame::read(bytes, self.by.cluster, topic) {
            Ok(content) => content,
            Err(why) => return self.ignore(why),
        };
        self.metrics.bridge.received.inc();
        match (content, topic) {
            (Content::Push(push, after), Some(topic)) => {
                take(Incoming::Push { topic, push, after });
            }
            (Content::Head(seq), Some(topic)) => take(Incoming::Head { topic, seq }),
            // What is read as one of them came on a topic's channel.
            (Content::Push(..) | Content::Head(_), None) => {}
            (Content::News(News::HintsLost), _) => self.losses.add(0),
            (Content::News(news), _) => take(Incoming::News(news)),
        }
    }

    fn ignore(&mut self, why: Unread) {
        self.metrics.bridge.ignored.inc();
        let may_tell = self
            .foreign_at
            .is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if why == Unread::Foreign && may_tell {
            self.foreign_at = Some(Instant::now());
            tracing::warn!(
                "instances on another database use the same redis.url and redis.prefix, what they say is ignored"
            );
        }
    }

    fn discontinuity(&mut self, take: &mut (impl FnMut(Incoming) + Send)) {
        let missed = self.losses.report();
        if missed > 0 {
            tracing::warn!(missed, "messages of other instances came too fast");
        }
        self.metrics.bridge.discontinuities.inc();
        take(Incoming::Discontinuity);
    }
}

impl Losses {
    /// Something was lost; of messages that were too many, `missed`.
    fn add(&mut self, missed: u64) {
        let now = Instant::now();
        let earliest = self.reported.map_or(now, |at| at + DISCONTINUITY_INTERVAL);
        self.due.get_or_insert(earliest.max(now));
        self.missed += missed;
    }

    /// All that was lost until now is being reported. Returns how many messages were too many.
    fn report(&mut self) -> u64 {
        self.reported = Some(Instant::now());
        self.due = None;
        std::mem::take(&mut self.missed)
    }
}

/// Completes at that time, if one is given.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// The next message, if there is a connection. Cancel safe.
async fn next(
    messages: &mut Option<broadcast::Receiver<Message>>,
) -> Option<std::result::Result<Message, RecvError>> {
    match messages {
        Some(open) => Some(open.recv().await),
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn losses_are_reported_at_once_then_once_a_second_and_the_last_is_not_forgotten() {
        let mut losses = Losses::default();
        let begun = Instant::now();
        losses.add(5);
        losses.add(2);
        assert_eq!(losses.due, Some(begun));
        assert_eq!(losses.report(), 7);
        for _ in 0..9 {
            advance(DISCONTINUITY_INTERVAL / 10).await;
            losses.add(1);
            assert_eq!(losses.due, Some(begun + DISCONTINUITY_INTERVAL));
        }
        advance(DISCONTINUITY_INTERVAL / 10).await;
        assert_eq!((losses.report(), losses.due), (9, None));
    }
}
