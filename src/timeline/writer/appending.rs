//! Batches of sends: one transaction for each, run again or halved until every send is stored, known
//! to be stored, or refused.

use std::time::Instant;

use futures_util::future::BoxFuture;

use super::{
    New, Task, is_late,
    retry::{Next, Retry},
    too_late, unknown_outcome,
};
use crate::{
    error::Error,
    id::{MessageId, Seq},
    limits::BATCH_DEADLINE,
    store::{
        Outcome,
        append::{Entry, Failed, Placed},
    },
    timeline::{
        append::{self, Append, Appended},
        queue::SendJob,
    },
};

/// How a batch, or a part of it, ended.
enum Ended {
    Placed(Vec<Placed>),
    /// Not stored, or unknown: try again later.
    Away,
    /// Not stored: somebody else holds a lock that one of them needs.
    Locked,
    /// The database refuses it as it is.
    Refused(Failed),
}

impl Task {
    /// Appends what has not waited too long.
    pub(super) async fn append_in_time(&mut self, jobs: Vec<SendJob>) {
        let (jobs, late): (Vec<SendJob>, Vec<SendJob>) =
            jobs.into_iter().partition(|job| !is_late(job.since));
        for job in late {
            job.answer(Err(too_late()));
        }
        let jobs = self.free_of(jobs);
        if !jobs.is_empty() {
            self.append(jobs).await;
        }
    }

    pub(super) async fn append(&mut self, jobs: Vec<SendJob>) {
        let deadline = Instant::now() + BATCH_DEADLINE;
        let ids = match self.take_ids(jobs.len(), deadline).await {
            Ok(ids) => ids,
            Err(error) => {
                for job in jobs {
                    job.answer(Err(error.duplicate()));
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
                        job.answer(Err(unknown_outcome()));
                    }
                }
                Ended::Locked => {
                    let count = jobs.len();
                    let free = self.set_aside(jobs).await;
                    if is_over(deadline) {
                        free.into_iter().for_each(|job| job.answer(Err(too_late())));
                    } else if free.len() == count && count > 1 {
                        self.append_halves(free, ids, deadline).await;
                    } else if !free.is_empty() {
                        ids.truncate(free.len());
                        self.append_halving(free, ids, deadline).await;
                    }
                }
                Ended::Refused(failed) if jobs.len() == 1 => {
                    let error = Error::wrap("append a message", failed.error);
                    jobs.drain(..)
                        .for_each(|job| job.answer(Err(error.duplicate())));
                }
                Ended::Refused(_) => {
                    self.append_halves(jobs, ids, deadline).await;
                }
            }
        })
    }

    async fn append_halves(
        &mut self,
        mut jobs: Vec<SendJob>,
        mut ids: Vec<MessageId>,
        deadline: Instant,
    ) {
        let mut second_ids = ids.split_off(jobs.len() / 2);
        let second = jobs.split_off(jobs.len() / 2);
        self.append_halving(jobs, ids, deadline).await;
        // Of the first half some may have been set aside.
        let second = self.free_of(second);
        second_ids.truncate(second.len());
        if !second.is_empty() {
            self.append_halving(second, second_ids, deadline).await;
        }
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
        let mut retry = Retry::until(deadline);
        // What a commit with an unknown outcome would have led to.
        let mut doubt: Option<Vec<Placed>> = None;
        loop {
            if retry.must_look_up() {
                match self.is_stored(&batch, &ids, doubt.as_deref()).await {
                    Ok(false) => {
                        retry.looked_up();
                        // It has ended, and in nothing.
                        doubt = None;
                    }
                    Ok(true) => return doubt.map_or(Ended::Away, Ended::Placed),
                    Err(error) => tracing::warn!(%error, "looking up a commit failed"),
                }
            }
            if !retry.must_look_up() {
                let failed = match self.attempt(&batch, &ids).await {
                    Ok(placed) => return Ended::Placed(placed),
                    Err(failed) => failed,
                };
                match retry.judge(failed.kind, failed.in_doubt.is_some(), &failed.error) {
                    Next::Again => {}
                    Next::FreshIds => {
                        self.ids.forget();
                        match self.take_ids(ids.len(), deadline).await {
                            Ok(fresh) => ids = fresh,
                            Err(_) => return Ended::Away,
                        }
                    }
                    Next::Locked => return Ended::Locked,
                    Next::Refused => return Ended::Refused(failed),
                }
                doubt = failed.in_doubt.map(|committed| committed.placed).or(doubt);
            }
            if !retry.pause().await {
                return Ended::Away;
            }
        }
    }

    /// Whether an earlier attempt, which would have led to `doubt`, was stored.
    async fn is_stored(
        &self,
        batch: &[&Append],
        ids: &[MessageId],
        doubt: Option<&[Placed]>,
    ) -> Outcome<bool> {
        match doubt {
            Some(placed) => append::is_stored(&self.options.store, batch, ids, placed).await,
            None => Ok(false),
        }
    }

    /// One transaction.
    async fn attempt(
        &mut self,
        batch: &[&Append],
        ids: &[MessageId],
    ) -> std::result::Result<Vec<Placed>, Failed> {
        let begun = Instant::now();
        let outbox = &self.options.outbox;
        let sends = batch.iter().zip(ids);
        let sends = sends.map(|(send, id)| send.as_stored(*id, outbox));
        let committed = self.options.store.append(sends.collect()).await?;
        let rows = batch.iter().map(|append| append.rows()).sum();
        let metrics = &self.options.metrics;
        metrics.batch_committed(batch.len(), rows, begun.elapsed());
        self.observe(committed.epoch);
        Ok(committed.placed)
    }

    /// Offers every new entry to its topic, in order, then replies.
    fn publish(&self, jobs: Vec<SendJob>, placed: Vec<Placed>) {
        self.options.outbox.written();
        for (job, placed) in jobs.into_iter().zip(placed) {
            let result = match placed {
                Placed::New {
                    id,
                    send_time,
                    entries,
                } => {
                    let new = New {
                        append: &job.append,
                        cause: &job.cause,
                        id,
                        send_time,
                    };
                    self.publish_one(new, &entries);
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
                Placed::NoSuchGroup => Err(Error::no_such_group()),
                Placed::NotInGroup => Err(Error::not_in_group()),
            };
            job.answer(result);
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

fn is_over(deadline: Instant) -> bool {
    Instant::now() >= deadline
}
