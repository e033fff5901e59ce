//! Reads what other instances have published: nothing but decoding and offering, so that it keeps
//! up. What the client had to drop because it did not is a discontinuity.

use std::sync::Arc;

use bytes::Bytes;
use fred::types::{Message, Value};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc,
};
use tokio_util::sync::CancellationToken;

use super::names::{Channel, Names};
use crate::{
    delivery::bridge::{
        Incoming, News,
        frame::{self, Content},
    },
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
    pub(super) instance: u64,
    pub(super) metrics: Arc<Metrics>,
}

impl Inbox {
    /// Gives `take` what comes, until `stop`.
    pub async fn run(mut self, stop: CancellationToken, mut take: impl FnMut(Incoming) + Send) {
        let reading = async {
            let mut messages = None;
            while let Some(event) = self.read_until_event(&mut messages, &mut take).await {
                match event {
                    Event::Connected(new) => messages = Some(new),
                    Event::Discontinuity => self.discontinuity(&mut take),
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
            let Some(open) = messages else {
                return self.events.recv().await;
            };
            let received = tokio::select! {
                biased;
                event = self.events.recv() => return event,
                received = open.recv() => received,
            };
            match received {
                Ok(message) => self.read(message, take),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "messages of other instances came too fast");
                    self.discontinuity(take);
                }
                Err(RecvError::Closed) => *messages = None,
            }
        }
    }

    fn read(&self, message: Message, take: &mut (impl FnMut(Incoming) + Send)) {
        let bytes: Bytes = match message.value {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            _ => Bytes::new(),
        };
        if frame::is_of(&bytes, self.instance) {
            return;
        }
        let incoming = match (self.names.parse(&message.channel), frame::read(bytes)) {
            (Some(Channel::Topic(topic)), Some(Content::Push(push, after))) => {
                Incoming::Push { topic, push, after }
            }
            (Some(_), Some(Content::News(News::HintsLost))) => {
                self.metrics.bridge.received.inc();
                return self.discontinuity(take);
            }
            (Some(_), Some(Content::News(news))) => Incoming::News(news),
            _ => {
                self.metrics.bridge.ignored.inc();
                return;
            }
        };
        self.metrics.bridge.received.inc();
        take(incoming);
    }

    fn discontinuity(&self, take: &mut (impl FnMut(Incoming) + Send)) {
        self.metrics.bridge.discontinuities.inc();
        take(Incoming::Discontinuity);
    }
}
