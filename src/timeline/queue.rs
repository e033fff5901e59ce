//! The writer's queue: bounded in rows and bytes, first in first out for each sender, and taken
//! from in turns between senders, so that a flooder does not stand before everyone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, oneshot};

use super::append::{Append, Appended};
use crate::{
    error::{Code, Error, Result},
    limits::{
        BATCH_BYTES_MAX, BATCH_ROWS_MAX, BATCH_SENDS_MAX, WRITER_QUEUE_BYTES_MAX,
        WRITER_QUEUE_ROWS_MAX, WRITER_QUEUE_ROWS_PER_SENDER_MAX,
    },
};

/// One send and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) append: Append,
    pub(super) reply: oneshot::Sender<Result<Appended>>,
    pub(super) since: Instant,
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
    /// The senders that have something waiting, in their turns.
    turns: VecDeque<Sender>,
    rows: usize,
    bytes: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    rows: usize,
}

impl Queue {
    /// Adds a send, or refuses it at once.
    ///
    /// # Errors
    /// 10003 when the queue is full or the sender has his share of it; 10004 when the server is
    /// shutting down.
    pub(super) fn push(&self, job: Job) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::try_again("the server is shutting down"));
        }
        let sender = job.sender();
        let (rows, bytes) = job.size();
        let waiting = state.senders.get(&sender).map_or(0, |waiting| waiting.rows);
        if state.rows + rows > WRITER_QUEUE_ROWS_MAX
            || state.bytes + bytes > WRITER_QUEUE_BYTES_MAX
            || waiting + rows > WRITER_QUEUE_ROWS_PER_SENDER_MAX
        {
            return Err(Error::business(
                Code::TooManyRequests,
                "too many messages are waiting to be stored, try again later",
            ));
        }
        state.rows += rows;
        state.bytes += bytes;
        let queue = state.senders.entry(sender).or_default();
        queue.rows += rows;
        queue.jobs.push_back(job);
        if queue.jobs.len() == 1 {
            state.turns.push_back(sender);
        }
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for sends and takes a batch of them; `None` when the queue is closed and empty.
    pub(super) async fn take(&self) -> Option<Vec<Job>> {
        loop {
            {
                let mut state = self.lock();
                let batch = state.take_batch();
                if !batch.is_empty() {
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

impl State {
    /// Takes one send of each sender in turn until the batch is full.
    fn take_batch(&mut self) -> Vec<Job> {
        let mut batch = Vec::with_capacity(self.turns.len().min(BATCH_SENDS_MAX));
        let (mut rows, mut bytes) = (0, 0);
        while let Some(sender) = self.turns.pop_front() {
            let Some(waiting) = self.senders.get_mut(&sender) else {
                continue;
            };
            let Some((job_rows, job_bytes)) = waiting.jobs.front().map(Job::size) else {
                continue;
            };
            let is_full = batch.len() == BATCH_SENDS_MAX
                || rows + job_rows > BATCH_ROWS_MAX
                || bytes + job_bytes > BATCH_BYTES_MAX;
            if is_full && !batch.is_empty() {
                self.turns.push_front(sender);
                break;
            }
            batch.extend(waiting.jobs.pop_front());
            waiting.rows -= job_rows;
            rows += job_rows;
            bytes += job_bytes;
            if waiting.jobs.is_empty() {
                self.senders.remove(&sender);
            } else {
                self.turns.push_back(sender);
            }
        }
        self.rows -= rows;
        self.bytes -= bytes;
        batch
    }
}

impl Job {
    fn sender(&self) -> Sender {
        let message = &self.append.message;
        (message.sender_type, message.sender_id)
    }

    fn size(&self) -> (usize, usize) {
        (self.append.rows(), self.append.message.content.len())
    }
}
