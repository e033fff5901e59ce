//! Changes in their turns: each is a transaction of its own with the messages that announce it, and
//! is handled after a failure as a batch of sends is.

use std::time::Instant;

use super::{
    New, Task, is_late,
    retry::{Next, Retry},
    too_late, unknown_outcome,
};
use crate::{
    error::{Code, Error, Result},
    id::MessageId,
    limits::{ANNOUNCEMENTS_MAX, DATABASE_DEADLINE},
    store::{
        self, Failure, Outcome, Tx,
        append::{Entry, Send},
    },
    timeline::{
        append::Append,
        change::{Stop, Work},
        queue::ChangeJob,
    },
};

/// A change that is written, and where its announcements stand.
struct Written {
    announcements: Vec<Append>,
    entries: Vec<Vec<Entry>>,
    epoch: i64,
}

/// An attempt that is not known to be stored.
enum Failed {
    /// The change was refused.
    Refused(Error),
    /// The database failed before the commit.
    Before(Failure),
    /// The database failed in the commit: it may be stored all the same.
    InCommit(Failure, Written),
}

impl Task {
    /// Makes a change, publishes what announces it, and answers.
    pub(super) async fn change(&mut self, job: ChangeJob) {
        let ChangeJob {
            mut work,
            cause,
            since,
        } = job;
        if is_late(since) {
            work.failed(too_late());
            return;
        }
        // He has sent something before that waits for a lock; the change must not come before it.
        if self.aside.has_sends_of(work.by()) {
            work.failed(too_late());
            return;
        }
        // Who has been told to look whether it was done must not be surprised by it later.
        if work.is_abandoned() {
            return;
        }
        match self
            .change_retrying(&mut *work, since + DATABASE_DEADLINE)
            .await
        {
            Ok((written, ids)) => {
                work.committed();
                self.options.outbox.written();
                self.ids.use_up(written.announcements.len());
                self.observe(written.epoch);
                let announced = written.announcements.iter().zip(ids);
                for ((append, id), entries) in announced.zip(&written.entries) {
                    let new = New {
                        append,
                        cause: &cause,
                        id,
                        send_time: append.message.send_time,
                    };
                    self.publish_one(new, entries);
                }
                work.done();
            }
            Err(error) => {
                if error.is(Code::TryAgain) {
                    work.committed();
                }
                work.failed(error);
            }
        }
    }

    /// Runs the transaction until it is known what became of it, or the deadline has passed.
    async fn change_retrying(
        &mut self,
        work: &mut dyn Work,
        deadline: Instant,
    ) -> Result<(Written, Vec<MessageId>)> {
        let mut ids = self.peek_ids(ANNOUNCEMENTS_MAX, deadline).await?;
        let mut retry = Retry::until(deadline);
        // What a commit with an unknown outcome would have led to.
        let mut doubt: Option<Written> = None;
        loop {
            if retry.must_look_up() {
                match self.is_made(doubt.as_ref(), &ids).await {
                    Ok(false) => {
                        retry.looked_up();
                        // It has ended, and in nothing.
                        doubt = None;
                    }
                    Ok(true) => {
                        let made = doubt.map(|written| (written, ids));
                        return made.ok_or_else(unknown_outcome);
                    }
                    Err(error) => tracing::warn!(%error, "looking up a commit failed"),
                }
            }
            if !retry.must_look_up() {
                let (failure, written) = match self.attempt_change(work, &ids).await {
                    Ok(written) => return Ok((written, ids)),
                    Err(Failed::Refused(error)) => return Err(error),
                    Err(Failed::Before(failure)) => (failure, None),
                    Err(Failed::InCommit(failure, written)) => (failure, Some(written)),
                };
                let kind = store::failure_kind(&failure);
                match retry.judge(kind, written.is_some(), &failure) {
                    Next::Again => {}
                    // Everybody else would wait for whoever holds it.
                    Next::Locked => {
                        tracing::warn!(%failure, "another instance holds what a change is about");
                        return Err(too_late());
                    }
                    Next::FreshIds => {
                        self.ids.forget();
                        ids = self.peek_ids(ANNOUNCEMENTS_MAX, deadline).await?;
                    }
                    Next::Refused => return Err(Error::wrap("make a change", failure)),
                }
                doubt = written.or(doubt);
            }
            // What nobody waits for any more is left, unless it may be made already.
            let is_wanted = retry.must_look_up() || !work.is_abandoned();
            if !is_wanted || !retry.pause().await {
                // They may be taken.
                self.ids.forget();
                return Err(unknown_outcome());
            }
        }
    }

    /// One transaction.
    async fn attempt_change(
        &self,
        work: &mut dyn Work,
        ids: &[MessageId],
    ) -> Result<Written, Failed> {
        let begun = Instant::now();
        let (tx, written) = store::attempt(self.write_change(work, ids)).await?;
        let rows = written
            .entries
            .iter()
            .map(|entries| 1 + entries.len())
            .sum();
        match tx.commit_raw().await {
            Ok(()) => {
                let metrics = &self.options.metrics;
                metrics.batch_committed(written.entries.len(), rows, begun.elapsed());
                Ok(written)
            }
            Err(failure) => Err(Failed::InCommit(failure, written)),
        }
    }

    /// All of the transaction but the commit.
    async fn write_change(
        &self,
        work: &mut dyn Work,
        ids: &[MessageId],
    ) -> Result<(Tx, Written), Failed> {
        let mut tx = self.options.store.begin_raw().await?;
        let announcements = work.apply(&tx).await.map_err(|stop| match stop {
            Stop::Refused(error) => Failed::Refused(error),
            Stop::Failed(failure) => Failed::Before(failure),
        })?;
        if announcements.len() > ids.len() {
            let error = Error::internal("a change is announced by too many messages");
            return Err(Failed::Refused(error));
        }
        let sends = announcements.iter().zip(ids);
        let outbox = &self.options.outbox;
        let sends = sends.map(|(send, id)| send.as_stored(*id, outbox));
        let sends: Vec<Send> = sends.collect();
        let entries = store::append::within(tx.conn(), &sends).await?;
        let epoch = store::cluster::epoch_raw(tx.conn()).await?;
        let rows: usize = entries.iter().map(|entries| 1 + entries.len()).sum();
        tx.wrote(work.rows() + rows);
        let written = Written {
            announcements,
            entries,
            epoch,
        };
        Ok((tx, written))
    }

    /// After a commit whose outcome is unknown: whether the change was made. One that is announced
    /// by nothing counts as not made, as it can be made again.
    async fn is_made(&self, written: Option<&Written>, ids: &[MessageId]) -> Outcome<bool> {
        let Some(first) = written.and_then(|written| written.announcements.first()) else {
            return Ok(false);
        };
        let owner = written.and_then(|written| written.entries.first()?.first());
        let Some((owner, _)) = owner else {
            return Ok(false);
        };
        let stored = self.options.store.settle(&ids[..1], *owner).await?;
        Ok(stored
            .iter()
            .any(|known| known.digest == first.message.digest))
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Before(failure)
    }
}
