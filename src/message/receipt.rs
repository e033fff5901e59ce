//! A send that has been accepted, until it is answered.

use std::{sync::Arc, time::Instant};

use crate::{
    error::Result,
    id::{MessageId, Seq},
    pb,
    telemetry::Metrics,
    timeline::{Appended, writer::Waiting},
};

/// The answer to a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Position in the sender's timeline; 0 when not persisted.
    pub seq: Seq,
    /// 0 when not persisted.
    pub message_id: MessageId,
    /// As stored, in unix milliseconds.
    pub send_time: i64,
}

/// A send that has been accepted. Those of one device are appended in the order they were
/// accepted in.
#[derive(Debug)]
pub struct Receipt {
    pub(super) state: State,
    pub(super) since: Instant,
    pub(super) metrics: Arc<Metrics>,
}

/// Where it has come to.
#[derive(Debug)]
pub(super) enum State {
    Done { sent: Sent, repeated: bool },
    Waiting(Waiting),
}

impl Receipt {
    /// Waits until the message is stored, but not beyond its deadline; dropping the future does not
    /// take it back.
    ///
    /// # Errors
    /// 10004 when it could not be stored or its outcome is unknown; 10001 when its client message
    /// id was used for another message.
    pub async fn done(&mut self) -> Result<Sent> {
        let Some(deadline) = self.deadline() else {
            return self.stored().await;
        };
        match tokio::time::timeout_at(deadline.into(), self.stored()).await {
            Ok(result) => result,
            Err(_) => self.give_up(),
        }
    }

    /// Waits however long it takes, for whoever keeps the [deadline](Receipt::deadline) himself.
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Receipt::done`].
    pub async fn stored(&mut self) -> Result<Sent> {
        match &mut self.state {
            State::Done { sent, repeated } => {
                let done = (*sent, *repeated);
                self.counted(Ok(done))
            }
            State::Waiting(waiting) => {
                let appended = waiting.stored().await;
                self.counted(appended.map(|appended| (appended.into(), appended.repeated)))
            }
        }
    }

    /// When the send must be answered; `None` when its answer is there.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Done { .. } => None,
            State::Waiting(waiting) => Some(waiting.deadline()),
        }
    }

    /// The answer to a send that is not known to be stored by its deadline.
    ///
    /// # Errors
    /// 10004, but for a send whose answer is there.
    pub fn give_up(&self) -> Result<Sent> {
        match &self.state {
            State::Done { sent, repeated } => self.counted(Ok((*sent, *repeated))),
            State::Waiting(waiting) => {
                let appended = waiting.give_up();
                self.counted(appended.map(|appended| (appended.into(), appended.repeated)))
            }
        }
    }

    /// Counts the outcome, which is a result and whether it is a repeated one.
    fn counted(&self, outcome: Result<(Sent, bool)>) -> Result<Sent> {
        match outcome {
            Ok((sent, repeated)) => {
                self.metrics.send_done(repeated, self.since.elapsed());
                Ok(sent)
            }
            Err(error) => {
                self.metrics.send_refused(&error);
                Err(error)
            }
        }
    }
}

impl From<Appended> for Sent {
    fn from(appended: Appended) -> Self {
        Self {
            seq: appended.seq,
            message_id: appended.message_id,
            send_time: appended.send_time,
        }
    }
}

impl From<Sent> for pb::SendMessageResp {
    fn from(sent: Sent) -> Self {
        Self {
            seq: sent.seq.get(),
            message_id: sent.message_id.get(),
            send_time: sent.send_time,
        }
    }
}
