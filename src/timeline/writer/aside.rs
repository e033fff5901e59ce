//! Sends that have to wait because another instance holds a lock on one of their timelines, or on
//! their group, and does not let go: it hangs in the middle of a transaction. They are set aside, so
//! that nobody else waits for them; now and then it is asked whether the locks are free.
//!
//! Invariant: the sends of one user keep their order. Who has a send here gets his next ones in here
//! too. What the business and the system send has no order.

use std::collections::{HashSet, VecDeque};

use super::{Task, is_late, too_late};
use crate::{
    id::{Owner, UserId},
    limits::{SET_ASIDE_BYTES_MAX, SET_ASIDE_MAX},
    store::append::{Lock, To},
    timeline::{append::Append, queue::SendJob},
};

/// Every so many looks it is tried to get the locks instead.
const LOOKS_MAX: u32 = 5;

/// What was set aside, in the order it came.
#[derive(Debug, Default)]
pub(super) struct Aside {
    jobs: VecDeque<SendJob>,
    bytes: usize,
    /// Users who have sends among them.
    users: HashSet<UserId>,
    /// The locks that others held when it was asked last.
    held: HashSet<Lock>,
    /// How often it was asked since nobody looked by trying.
    looks: u32,
}

impl Aside {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes those of `jobs` that have to wait; gives the others.
    fn keep_back(&mut self, jobs: Vec<SendJob>) -> Vec<SendJob> {
        if self.held.is_empty() && self.is_empty() {
            return jobs;
        }
        let mut free = Vec::with_capacity(jobs.len());
        for job in jobs {
            let must_wait = job.user().is_some_and(|user| self.users.contains(&user))
                || locks(&job.append).any(|lock| self.held.contains(&lock));
            if must_wait {
                self.push(job);
            } else {
                free.push(job);
            }
        }
        free
    }

    fn push(&mut self, job: SendJob) {
        let bytes = job.append.message.content.len();
        if self.jobs.len() == SET_ASIDE_MAX || self.bytes + bytes > SET_ASIDE_BYTES_MAX {
            job.answer(Err(too_late()));
            return;
        }
        self.bytes += bytes;
        self.users.extend(job.user());
        self.jobs.push_back(job);
    }

    fn take_all(&mut self) -> Vec<SendJob> {
        self.users.clear();
        self.bytes = 0;
        self.jobs.drain(..).collect()
    }

    /// Whether a user's send is here.
    pub(super) fn has_sends_of(&self, user: UserId) -> bool {
        self.users.contains(&user)
    }

    /// Every lock that what waits needs.
    fn needed(&self) -> HashSet<Lock> {
        let appends = self.jobs.iter().map(|job| &job.append);
        appends.flat_map(locks).collect()
    }
}

impl Task {
    /// Those of `jobs` that need not wait for a lock that somebody else holds.
    pub(super) fn free_of(&mut self, jobs: Vec<SendJob>) -> Vec<SendJob> {
        self.aside.keep_back(jobs)
    }

    /// A batch has waited for a lock in vain: sets aside what needs one that is held. Gives the rest;
    /// all of it when no holder is found, who may have let go.
    pub(super) async fn set_aside(&mut self, jobs: Vec<SendJob>) -> Vec<SendJob> {
        let needed: HashSet<Lock> = jobs.iter().flat_map(|job| locks(&job.append)).collect();
        match self.options.store.held(needed).await {
            Ok(held) => {
                tracing::warn!(
                    locks = held.len(),
                    "another instance holds timelines, others go on"
                );
                self.aside.held.extend(held);
            }
            Err(error) => tracing::warn!(%error, "locks could not be looked at"),
        }
        self.free_of(jobs)
    }

    /// Appends what was set aside and has to wait no more.
    pub(super) async fn take_up(&mut self) {
        self.aside.looks += 1;
        if self.aside.looks.is_multiple_of(LOOKS_MAX) {
            // Whoever holds them may be many, one after the other: only who stands in line gets them.
            self.aside.held.clear();
        } else {
            match self.options.store.held(self.aside.needed()).await {
                Ok(held) => self.aside.held = held,
                Err(error) => tracing::warn!(%error, "locks could not be looked at"),
            }
        }
        let jobs = self.aside.take_all();
        let (late, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| is_late(job.since));
        for job in late {
            job.answer(Err(too_late()));
        }
        let free = self.free_of(jobs);
        for batch in batches(free) {
            // One before it may have been set aside again.
            let batch = self.free_of(batch);
            if !batch.is_empty() {
                self.append(batch).await;
            }
        }
        if self.aside.is_empty() {
            self.aside.held.clear();
            self.aside.looks = 0;
        }
    }
}

/// As the queue would have given them.
fn batches(jobs: Vec<SendJob>) -> Vec<Vec<SendJob>> {
    use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, BATCH_SENDS_MAX};

    let mut batches: Vec<Vec<SendJob>> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for job in jobs {
        let (job_rows, job_bytes) = job.size();
        let has_room = |batch: &Vec<SendJob>| {
            batch.len() < BATCH_SENDS_MAX
                && rows + job_rows <= BATCH_ROWS_MAX
                && bytes + job_bytes <= BATCH_BYTES_MAX
        };
        match batches.last_mut().filter(|batch| has_room(batch)) {
            Some(batch) => batch.push(job),
            None => {
                (rows, bytes) = (0, 0);
                batches.push(vec![job]);
            }
        }
        rows += job_rows;
        bytes += job_bytes;
    }
    batches
}

/// What a send locks, as far as that is known beforehand.
fn locks(append: &Append) -> impl Iterator<Item = Lock> + '_ {
    let (group, members): (_, &[_]) = match &append.to {
        To::Members(roster) => (Some(roster.group), &roster.members),
        To::Group(group) => (Some(*group), &[]),
        To::Owners(_) | To::Rest { .. } => (None, &[]),
    };
    let own = match &append.to {
        To::Group(group) => Some(Owner::Group(*group)),
        _ => None,
    };
    let members = members.iter().map(|user| Owner::User(*user));
    let heads = append.to.fixed().iter().copied().chain(members).chain(own);
    group
        .map(Lock::Group)
        .into_iter()
        .chain(heads.map(Lock::Head))
}
