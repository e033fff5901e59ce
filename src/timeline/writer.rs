//! The writer: one task that appends what has gathered while its previous transaction ran, so that
//! batching adds no waiting. After the commit it publishes in order and then replies (I2).
//!
//! What can go wrong is handled by its kind: what may be tried again is, within a deadline and
//! with the same message ids; a commit whose outcome is unknown is looked up before anything is
//! run again (I3); a batch that the database refuses is halved until the bad send stands alone.
//! Changes that are announced by messages have their turns in `changing`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    append::{self, Append, Appended},
    change::{Change, Pending},
    epoch::Epoch,
    ids::MessageIds,
    pages,
    queue::{Batch, ChangeJob, Job, Queue, SendJob},
};
use crate::{
    delivery::{push::Template, router::Router, topic::Topic},
    error::{Code, Error, Result},
    id::{MessageId, Seq},
    lifecycle::Tasks,
    limits::{BATCH_DEADLINE, DATABASE_DEADLINE, SEND_DEADLINE},
    store::{
        FailureKind, Outcome, Store,
        append::{Committed, Entry, Failed, Placed},
    },
    telemetry::Metrics,
};

mod changing;

/// What the writer works with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where timelines are stored.
    pub store: Store,
    /// Where appended entries are offered.
    pub router: Arc<Router>,
    /// The epoch, observed in every transaction.
    pub epoch: Arc<Epoch>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// A handle to the writer; cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    /// Cancelled when the queue is closed and everything in it has been answered.
    idle: CancellationToken,
}

/// A send that waits for its commit.
#[derive(Debug)]
pub struct Waiting {
    reply: oneshot::Receiver<Result<Appended>>,
    deadline: Instant,
}

impl Writer {
    /// Starts the writer. `epoch_changed` is called when the database turns out to be a restored
    /// one.
    #[must_use]
    pub fn start(
        options: Options,
        tasks: &Tasks,
        epoch_changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let writer = Self {
            queue: Arc::default(),
            idle: CancellationToken::new(),
        };
        let task = Task {
            options,
            ids: MessageIds::default(),
            epoch_changed: Box::new(epoch_changed),
        };
        let Self { queue, idle } = writer.clone();
        let stop = tasks.stop().clone();
        tasks.spawn_critical("writer", async move {
            task.run(queue).await;
            idle.cancel();
            stop.cancelled().await;
        });
        writer
    }

    /// Puts a send into the queue. Two sends of one sender are appended in the order of these
    /// calls, whether or not the first is waited for. `since` is when the send arrived: its deadline
    /// counts from there.
    ///
    /// # Errors
    /// 10003 when the queue is full; 10004 when the server is shutting down.
    pub fn append(&self, append: Append, since: Instant) -> Result<Waiting> {
        let (job, waiting) = waiting(append, since);
        self.queue.push(Job::Send(job))?;
        Ok(waiting)
    }

    /// Puts a part of a large job into the lane of lower priority: its turn comes when nobody else
    /// waits, or has waited enough. The parts of one job are put in one after the other.
    ///
    /// # Errors
    /// As [`Writer::append`].
    pub fn append_part(&self, append: Append, since: Instant) -> Result<Waiting> {
        let (job, waiting) = waiting(append, since);
        self.queue.push_part(job)?;
        Ok(waiting)
    }

    /// Makes a change and appends what announces it, in one transaction. It takes turns with what
    /// its author sends.
    ///
    /// # Errors
    /// What the change was refused for; 10003 when the queue is full; 10004 when it could not be
    /// made or its outcome is unknown.
    pub async fn change<C: Change>(&self, change: C) -> Result<C::Output> {
        let (pending, outcome) = Pending::new(change);
        self.queue.push(Job::Change(ChangeJob {
            work: Box::new(pending),
            since: Instant::now(),
        }))?;
        match tokio::time::timeout(DATABASE_DEADLINE, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Error::try_again(
                "it may not have been done, look and try again",
            )),
        }
    }

    /// Refuses further sends, and returns when everything that waits has been answered.
    pub async fn close(&self) {
        self.queue.close();
        self.idle.cancelled().await;
    }

    /// Message ids taken from the database mean nothing any more: it went back in time.
    pub fn forget_ids(&self) {
        self.queue.forget_ids();
    }
}

fn waiting(append: Append, since: Instant) -> (SendJob, Waiting) {
    let (reply, receiver) = oneshot::channel();
    let job = SendJob {
        append,
        reply,
        since,
    };
    let waiting = Waiting {
        reply: receiver,
        deadline: since + SEND_DEADLINE,
    };
    (job, waiting)
}

impl Waiting {
    /// Waits for the commit, however long it takes: whoever waits keeps the deadline himself.
    /// Cancel safe.
    ///
    /// # Errors
    /// 10004 when it could not be stored or its outcome is unknown; 10001 when its client message
    /// id was used for another message; 10011 or 10013 when its group does not take it.
    pub async fn stored(&mut self) -> Result<Appended> {
        (&mut self.reply)
            .await
            .unwrap_or_else(|_| Err(unknown_outcome()))
    }

    /// When the send must be answered.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The answer to a send that is not known to be stored by its deadline.
    ///
    /// # Errors
    /// Always: 10004.
    pub fn give_up(&self) -> Result<Appended> {
        Err(unknown_outcome())
    }
}

fn unknown_outcome() -> Error {
    Error::try_again("the message may not have been stored, try again with the same id")
}

struct Task {
    options: Options,
    ids: MessageIds,
    epoch_changed: Box<dyn Fn() + Send + Sync>,
}

/// How a batch, or a part of it, ended.
enum Ended {
    Placed(Vec<Placed>),
    /// Not stored, or unknown: try again later.
    Away,
    /// The database refuses it as it is.
    Refused(Failed),
}

/// First pause before an attempt is repeated; it doubles up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl Task {
    async fn run(mut self, queue: Arc<Queue>) {
        while let Some(batch) = queue.take().await {
            if queue.take_forget_ids() {
                self.ids.forget();
            }
            match batch {
                Batch::Sends(jobs) => self.append_in_time(jobs).await,
                Batch::Change(job) => self.change(job).await,
            }
        }
    }

    async fn append_in_time(&mut self, jobs: Vec<SendJob>) {
        let (jobs, late): (Vec<SendJob>, Vec<SendJob>) =
            jobs.into_iter().partition(|job| !is_late(job.since));
        for job in late {
            answer(job, Err(too_late()));
        }
        if !jobs.is_empty() {
            self.append(jobs).await;
        }
    }

    async fn append(&mut self, jobs: Vec<SendJob>) {
        let deadline = Instant::now() + BATCH_DEADLINE;
        let ids = match self.take_ids(jobs.len(), deadline).await {
            Ok(ids) => ids,
            Err(error) => {
                for job in jobs {
                    answer(job, Err(error.duplicate()));
                }
                return;
            }
        };
        self.append_halving(jobs, ids, deadline).await;
    }

    /// Appends a batch; one that the database refuses is halved, so that one bad send fails alone.
    fn append_halving(
        &mut self,
        mut jobs: Vec<SendJob>,
        mut ids: Vec<MessageId>,
        deadline: Instant,
    ) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self.append_retrying(&jobs, &ids, deadline).await {
                Ended::Placed(placed) => self.publish(jobs, placed),
                Ended::Away => {
                    for job in jobs {
                        answer(job, Err(unknown_outcome()));
                    }
                }
                Ended::Refused(failed) if jobs.len() == 1 => {
                    let error = Error::wrap("append a message", failed.error);
                    jobs.drain(..)
                        .for_each(|job| answer(job, Err(error.duplicate())));
                }
                Ended::Refused(_) => {
                    let second_ids = ids.split_off(jobs.len() / 2);
                    let second = jobs.split_off(jobs.len() / 2);
                    self.append_halving(jobs, ids, deadline).await;
                    self.append_halving(second, second_ids, deadline).await;
                }
            }
        })
    }

    /// Runs the transaction until it is known what became of it, or the deadline has passed.
    async fn append_retrying(
        &mut self,
        jobs: &[SendJob],
        ids: &[MessageId],
        deadline: Instant,
    ) -> Ended {
        let batch: Vec<&Append> = jobs.iter().map(|job| &job.append).collect();
        let mut ids = ids.to_vec();
        let mut pause = PAUSE_MIN;
        // What a commit with an unknown outcome would have led to.
        let mut doubt: Option<Committed> = None;
        let mut look_up = false;
        let mut duplicates = 0;
        loop {
            if look_up && let Some(committed) = &doubt {
                let placed = &committed.placed;
                match append::is_stored(&self.options.store, &batch, &ids, placed).await {
                    Ok(true) => return Ended::Placed(placed.clone()),
                    Ok(false) => look_up = false,
                    Err(error) => tracing::warn!(%error, "looking up a commit failed"),
                }
            } else {
                look_up = false;
            }
            if !look_up {
                match self.attempt(&batch, &ids).await {
                    Ok(placed) => return Ended::Placed(placed),
                    Err(failed) => match failed.kind {
                        FailureKind::Transient | FailureKind::Away => {
                            tracing::warn!(error = %failed.error, "a batch was not stored yet");
                            look_up = failed.in_doubt.is_some();
                            doubt = failed.in_doubt.or(doubt);
                        }
                        // Another instance stored one of them between the look-up and the
                        // insert, which the next attempt sees; or a commit in doubt was made
                        // after all.
                        FailureKind::Duplicate if duplicates == 0 => {
                            duplicates += 1;
                            look_up = true;
                        }
                        // After a restore the database hands out ids once more.
                        FailureKind::Duplicate if duplicates == 1 => {
                            duplicates += 1;
                            self.ids.forget();
                            match self.take_ids(ids.len(), deadline).await {
                                Ok(fresh) => ids = fresh,
                                Err(_) => return Ended::Away,
                            }
                        }
                        FailureKind::Duplicate | FailureKind::Other => {
                            return Ended::Refused(failed);
                        }
                    },
                }
            }
            if Instant::now() + pause >= deadline {
                return Ended::Away;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One transaction.
    async fn attempt(
        &mut self,
        batch: &[&Append],
        ids: &[MessageId],
    ) -> std::result::Result<Vec<Placed>, Failed> {
        let begun = Instant::now();
        let sends = batch.iter().zip(ids).map(|(send, id)| send.as_stored(*id));
        let committed = self.options.store.append(sends.collect()).await?;
        let rows = batch.iter().map(|append| append.rows()).sum();
        let metrics = &self.options.metrics;
        metrics.batch_committed(batch.len(), rows, begun.elapsed());
        self.observe(committed.epoch);
        Ok(committed.placed)
    }

    /// Notes the epoch that a transaction has read.
    fn observe(&mut self, epoch: i64) {
        if self.options.epoch.observe(epoch) {
            tracing::warn!(epoch, "the database has a new epoch");
            self.ids.forget();
            (self.epoch_changed)();
        }
    }

    /// Offers every new entry to its topic, in order, then replies.
    fn publish(&self, jobs: Vec<SendJob>, placed: Vec<Placed>) {
        for (job, placed) in jobs.into_iter().zip(placed) {
            let result = match placed {
                Placed::New {
                    id,
                    send_time,
                    entries,
                } => {
                    self.publish_one(&job.append, id, send_time, &entries);
                    Ok(Appended {
                        seq: job.append.answered_seq(&entries),
                        message_id: id,
                        send_time,
                        repeated: false,
                    })
                }
                Placed::Repeat { id, seq, send_time } => Ok(Appended {
                    seq,
                    message_id: id,
                    send_time,
                    repeated: true,
                }),
                Placed::Conflict => Err(append::conflict()),
                Placed::NoSuchGroup => Err(Error::business(Code::NoSuchGroup, "no such group")),
                Placed::NotInGroup => Err(Error::business(Code::NotInGroup, "not in the group")),
            };
            answer(job, result);
        }
    }

    fn publish_one(&self, append: &Append, id: MessageId, send_time: i64, entries: &[Entry]) {
        let router = &self.options.router;
        let mut template = None;
        for (owner, seq) in entries {
            let topic = Topic::from(*owner);
            if !router.is_unheard(topic) {
                let template = template.get_or_insert_with(|| {
                    let mut message = pages::new_message(&append.message, id, &append.profile);
                    message.send_time = send_time;
                    Arc::new(Template::new(message, append.message.device))
                });
                router.publish(topic, *seq, template);
            }
        }
    }

    async fn take_ids(&mut self, count: usize, deadline: Instant) -> Result<Vec<MessageId>> {
        let ids = self.peek_ids(count, deadline).await?;
        self.ids.use_up(count);
        Ok(ids)
    }

    /// The next ids, which stay in the block.
    async fn peek_ids(&mut self, count: usize, deadline: Instant) -> Result<Vec<MessageId>> {
        let mut pause = PAUSE_MIN;
        loop {
            let seen: Outcome<_> = self.ids.peek(&self.options.store, count).await;
            match seen {
                Ok(ids) => return Ok(ids),
                Err(error) if Instant::now() + pause >= deadline => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "message ids could not be taken yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Append {
    /// The position that its sender is told.
    fn answered_seq(&self, entries: &[Entry]) -> Seq {
        let answered = entries
            .iter()
            .find(|(owner, _)| Some(*owner) == self.answer_owner);
        answered.map_or(Seq::ZERO, |(_, seq)| *seq)
    }
}

/// Whether a job has waited so long that its caller may not wait any more.
fn is_late(since: Instant) -> bool {
    since.elapsed() >= BATCH_DEADLINE
}

fn too_late() -> Error {
    Error::try_again("the database is too slow, try again later")
}

/// Tells whoever waits; that nobody does any more is his affair.
fn answer(job: SendJob, result: Result<Appended>) {
    let _ = job.reply.send(result);
}

#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod tests;
