//! The writer's queue: bounded in rows and bytes, first in first out for each sender, and taken
//! from in turns between senders, so that a flooder does not stand before everyone. Parts of large
//! jobs wait in a lane of their own, whose turn comes when nobody else waits or has waited enough.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, oneshot};

use super::{
    append::{Append, Appended},
    change::Work,
};
use crate::{
    error::{Code, Error, Result},
    id::UserId,
    limits::{
        BATCH_BYTES_MAX, BATCH_ROWS_MAX, BATCH_SENDS_MAX, LARGE_JOB_TURN, LARGE_JOBS_WAITING_MAX,
        WRITER_QUEUE_BYTES_MAX, WRITER_QUEUE_ROWS_MAX, WRITER_QUEUE_ROWS_PER_SENDER_MAX,
    },
    pb,
    telemetry::Cause,
};

/// One send and who waits for it.
#[derive(Debug)]
pub(super) struct SendJob {
    pub(super) append: Append,
    /// The request it comes from.
    pub(super) cause: Option<Arc<Cause>>,
    pub(super) reply: oneshot::Sender<Result<Appended>>,
    pub(super) since: Instant,
}

/// One change and who waits for it.
#[derive(Debug)]
pub(super) struct ChangeJob {
    pub(super) work: Box<dyn Work>,
    /// The request it comes from.
    pub(super) cause: Option<Arc<Cause>>,
    pub(super) since: Instant,
}

/// What waits in a sender's turn.
#[derive(Debug)]
pub(super) enum Job {
    Send(SendJob),
    Change(ChangeJob),
}

/// What the writer does in one transaction.
#[derive(Debug)]
pub(super) enum Batch {
    /// At least one send.
    Sends(Vec<SendJob>),
    /// A change goes alone.
    Change(ChangeJob),
}

/// `SenderType` and id.
type Sender = (i16, i64);

/// What waits for the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Notify,
    forget_ids: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    senders: HashMap<Sender, Waiting>,
    /// The senders whose next job is a send, in their turns.
    turns: VecDeque<Sender>,
    /// The senders whose next job is a change, in their turns.
    changes: VecDeque<Sender>,
    /// Sends went last: now it is a change's turn.
    is_change_due: bool,
    rows: usize,
    bytes: usize,
    /// Parts of large jobs.
    large: VecDeque<SendJob>,
    /// Batches of others since the last of those.
    since_large: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    rows: usize,
}

impl Queue {
    /// Adds a send or a change, or refuses it at once.
    ///
    /// # Errors
    /// 10003 when the queue is full or the sender has his share of it; 10004 when the server is
    /// shutting down.
    pub(super) fn push(&self, job: Job) -> Result<()> {
        let mut state = self.lock();
        state.refuse_closed()?;
        let sender = job.sender();
        let (rows, bytes) = job.size();
        let waiting = state.senders.get(&sender).map_or(0, |waiting| waiting.rows);
        if state.rows + rows > WRITER_QUEUE_ROWS_MAX
            || state.bytes + bytes > WRITER_QUEUE_BYTES_MAX
            || waiting + rows > WRITER_QUEUE_ROWS_PER_SENDER_MAX
        {
            return Err(full());
        }
        state.rows += rows;
        state.bytes += bytes;
        let queue = state.senders.entry(sender).or_default();
        queue.rows += rows;
        queue.jobs.push_back(job);
        if queue.jobs.len() == 1 {
            state.line_up(sender);
        }
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Adds a part of a large job, or refuses it at once.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub(super) fn push_part(&self, job: SendJob) -> Result<()> {
        let mut state = self.lock();
        state.refuse_closed()?;
        if state.large.len() == LARGE_JOBS_WAITING_MAX {
            return Err(full());
        }
        state.large.push_back(job);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Drops what waits and refuses what comes: the writer has died.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        *state = State {
            closed: true,
            ..State::default()
        };
    }

    /// Waits for work and takes a batch of it; `None` when the queue is closed and empty.
    pub(super) async fn take(&self) -> Option<Batch> {
        loop {
            {
                let mut state = self.lock();
                if let Some(batch) = state.take_batch() {
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Refuses what comes from now on.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Asks the writer to forget its block of ids before the next batch.
    pub(super) fn forget_ids(&self) {
        self.forget_ids.store(true, Ordering::Release);
    }

    /// Whether the block of ids is to be forgotten; asked once per request.
    pub(super) fn take_forget_ids(&self) -> bool {
        self.forget_ids.swap(false, Ordering::AcqRel)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full() -> Error {
    Error::business(
        Code::TooManyRequests,
        "too many messages are waiting to be stored, try again later",
    )
}

impl State {
    fn refuse_closed(&self) -> Result<()> {
        if self.closed {
            Err(Error::try_again("the server is shutting down"))
        } else {
            Ok(())
        }
    }

    fn take_batch(&mut self) -> Option<Batch> {
        let nobody_waits = self.turns.is_empty() && self.changes.is_empty();
        if (nobody_waits || self.since_large >= LARGE_JOB_TURN)
            && let Some(part) = self.large.pop_front()
        {
            self.since_large = 0;
            return Some(Batch::Sends(vec![part]));
        }
        let batch = self.take_turns()?;
        self.is_change_due = matches!(batch, Batch::Sends(_));
        self.since_large = if self.large.is_empty() {
            0
        } else {
            self.since_large + 1
        };
        Some(batch)
    }

    /// A change and a batch of sends take turns, so that neither waits for all of the other kind.
    fn take_turns(&mut self) -> Option<Batch> {
        if (self.is_change_due || self.turns.is_empty())
            && let Some(sender) = self.changes.pop_front()
            && let Some(Job::Change(change)) = self.take_next(sender)
        {
            return Some(Batch::Change(change));
        }
        let sends = self.take_sends();
        (!sends.is_empty()).then_some(Batch::Sends(sends))
    }

    /// Takes one send of each sender in turn until the batch is full.
    fn take_sends(&mut self) -> Vec<SendJob> {
        let mut batch = Vec::with_capacity(self.turns.len().min(BATCH_SENDS_MAX));
        let (mut rows, mut bytes) = (0, 0);
        while let Some(sender) = self.turns.pop_front() {
            let Some(next) = self.senders.get(&sender).and_then(|w| w.jobs.front()) else {
                continue;
            };
            let (job_rows, job_bytes) = next.size();
            let is_full = batch.len() == BATCH_SENDS_MAX
                || rows + job_rows > BATCH_ROWS_MAX
                || bytes + job_bytes > BATCH_BYTES_MAX;
            if is_full && !batch.is_empty() {
                self.turns.push_front(sender);
                break;
            }
            if let Some(Job::Send(send)) = self.take_next(sender) {
                batch.push(send);
                rows += job_rows;
                bytes += job_bytes;
            }
        }
        batch
    }

    /// Takes a sender's next job; he goes to the end of the line if he has more.
    fn take_next(&mut self, sender: Sender) -> Option<Job> {
        let waiting = self.senders.get_mut(&sender)?;
        let job = waiting.jobs.pop_front()?;
        let (rows, bytes) = job.size();
        waiting.rows -= rows;
        self.rows -= rows;
        self.bytes -= bytes;
        if waiting.jobs.is_empty() {
            self.senders.remove(&sender);
        } else {
            self.line_up(sender);
        }
        Some(job)
    }

    /// Puts a sender at the end of the line that his next job waits in.
    fn line_up(&mut self, sender: Sender) {
        match self.senders.get(&sender).and_then(|w| w.jobs.front()) {
            Some(Job::Send(_)) => self.turns.push_back(sender),
            Some(Job::Change(_)) => self.changes.push_back(sender),
            None => {}
        }
    }
}

impl SendJob {
    /// Tells whoever waits; that nobody does any more is his affair.
    pub(super) fn answer(self, result: Result<Appended>) {
        let _ = self.reply.send(result);
    }

    /// Whose sends keep their order with it.
    pub(super) fn user(&self) -> Option<UserId> {
        let message = &self.append.message;
        message.is_of_user().then_some(UserId(message.sender_id))
    }

    fn sender(&self) -> Sender {
        let message = &self.append.message;
        (message.sender_type, message.sender_id)
    }

    /// Rows and bytes. A job that is larger than a batch counts as one: it would be refused for ever
    /// otherwise.
    pub(super) fn size(&self) -> (usize, usize) {
        let rows = self.append.rows().min(BATCH_ROWS_MAX);
        (rows, self.append.message.content.len())
    }
}

impl Job {
    fn sender(&self) -> Sender {
        match self {
            Self::Send(send) => send.sender(),
            Self::Change(change) => (pb::SenderType::StUser as i16, change.work.by().get()),
        }
    }

    fn size(&self) -> (usize, usize) {
        match self {
            Self::Send(send) => send.size(),
            Self::Change(change) => {
                let rows = change.work.rows().min(BATCH_ROWS_MAX);
                (rows, change.work.bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests;
