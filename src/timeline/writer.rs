//! The writer: one task that appends what has gathered while its previous transaction ran, so that
//! batching adds no waiting. After the commit it publishes in order and then replies (I2).
//!
//! What can go wrong is handled by its kind: what may be tried again is, within a deadline and
//! with the same message ids; a commit whose outcome is unknown is looked up before anything is
//! run again (I3). How batches of sends are appended stands in `appending`, how changes that are
//! announced by messages are made in `changing`.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    append::{Append, Appended},
    change::{Change, Pending},
    epoch::Epoch,
    ids::MessageIds,
    pages,
    queue::{Batch, ChangeJob, Job, Queue, SendJob},
};
use crate::{
    delivery::{push::Template, router::Router, topic::Topic},
    error::{Error, Result},
    id::MessageId,
    lifecycle::Tasks,
    limits::{BATCH_DEADLINE, DATABASE_DEADLINE, SEND_DEADLINE, TAKE_UP_INTERVAL},
    store::{self, Outcome, Store, append::Entry, outbox::Outbox},
    telemetry::{Cause, Metrics},
};

mod appending;
mod aside;
mod changing;
mod retry;

use self::{aside::Aside, retry::Retry};

/// What the writer works with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where timelines are stored.
    pub store: Store,
    /// Where appended entries are offered.
    pub router: Arc<Router>,
    /// The epoch, observed in every transaction.
    pub epoch: Arc<Epoch>,
    /// Which events are written beside messages.
    pub outbox: Outbox,
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
            aside: Aside::default(),
            take_up_at: Instant::now(),
            is_closed: false,
            epoch_changed: Box::new(epoch_changed),
        };
        let end = End(writer.clone());
        let stop = tasks.stop().clone();
        tasks.spawn_critical("writer", async move {
            task.run(&end.0.queue).await;
            drop(end);
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
            cause: Cause::current(),
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
        cause: Cause::current(),
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

/// Lets go whoever waits for the writer, also when it dies.
struct End(Writer);

impl Drop for End {
    fn drop(&mut self) {
        self.0.queue.abandon();
        self.0.idle.cancel();
    }
}

/// What the writer does next.
enum Next {
    Batch(Batch),
    /// Look at what was set aside.
    Aside,
    /// Nothing waits, and nothing more comes.
    Closed,
}

/// A message that was stored.
struct New<'a> {
    append: &'a Append,
    cause: &'a Option<Arc<Cause>>,
    id: MessageId,
    send_time: i64,
}

struct Task {
    options: Options,
    ids: MessageIds,
    aside: Aside,
    /// When to look at what was set aside.
    take_up_at: Instant,
    /// Nothing more comes.
    is_closed: bool,
    epoch_changed: Box<dyn Fn() + Send + Sync>,
}

impl Task {
    async fn run(mut self, queue: &Queue) {
        loop {
            match self.next(queue).await {
                Next::Batch(Batch::Sends(jobs)) => self.append_in_time(jobs).await,
                Next::Batch(Batch::Change(job)) => self.change(job).await,
                Next::Aside => {
                    self.take_up().await;
                    // Not from when it began: others have their turn between two times.
                    self.take_up_at = Instant::now() + TAKE_UP_INTERVAL;
                }
                Next::Closed => return,
            }
        }
    }

    /// Waits for what is to be done next.
    async fn next(&mut self, queue: &Queue) -> Next {
        let due = tokio::time::Instant::from_std(self.take_up_at);
        let next = tokio::select! {
            biased;
            () = tokio::time::sleep_until(due), if !self.aside.is_empty() => Next::Aside,
            batch = queue.take(), if !self.is_closed => match batch {
                Some(batch) => Next::Batch(batch),
                None => {
                    self.is_closed = true;
                    Next::Aside
                }
            },
            else => Next::Closed,
        };
        if queue.take_forget_ids() {
            self.ids.forget();
        }
        next
    }

    /// Notes the epoch that a transaction has read.
    fn observe(&mut self, epoch: i64) {
        if self.options.epoch.observe(epoch) {
            tracing::warn!(epoch, "the database has a new epoch");
            self.ids.forget();
            (self.epoch_changed)();
        }
    }

    fn publish_one(&self, new: New<'_>, entries: &[Entry]) {
        let New {
            append,
            cause,
            id,
            send_time,
        } = new;
        let router = &self.options.router;
        let mut template = None;
        for (owner, seq) in entries {
            let topic = Topic::from(*owner);
            if !router.is_unheard(topic) {
                let template = template.get_or_insert_with(|| {
                    let mut message = pages::new_message(&append.message, id, &append.profile);
                    message.send_time = send_time;
                    let template = Template::new(message, append.message.device);
                    Arc::new(template.caused_by(cause.clone()))
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
        let mut retry = Retry::until(deadline);
        loop {
            let seen: Outcome<_> = store::attempt(self.ids.peek(&self.options.store, count)).await;
            let error = match seen {
                Ok(ids) => return Ok(ids),
                Err(error) => error,
            };
            if !retry.pause().await {
                return Err(error.into());
            }
            tracing::warn!(%error, "message ids could not be taken yet");
        }
    }
}

/// Whether a job has waited so long that its caller may not wait any more.
fn is_late(since: Instant) -> bool {
    since.elapsed() >= BATCH_DEADLINE
}

fn too_late() -> Error {
    Error::try_again("the database is too slow, try again later")
}

#[cfg(test)]
mod aside_tests;
#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod tests;
