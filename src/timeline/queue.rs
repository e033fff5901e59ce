//! The writer's queue: bounded in rows and bytes, first in first out for each sender, and taken
//! from in turns between senders, so that a flooder does not stand before everyone. Parts of large
//! jobs wait in a lane of their own, whose turn comes when nobody else waits or has waited enough.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
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
    limits::{
        BATCH_BYTES_MAX, BATCH_ROWS_MAX, BATCH_SENDS_MAX, LARGE_JOB_TURN, LARGE_JOBS_WAITING_MAX,
        WRITER_QUEUE_BYTES_MAX, WRITER_QUEUE_ROWS_MAX, WRITER_QUEUE_ROWS_PER_SENDER_MAX,
    },
    pb,
};

/// One send and who waits for it.
#[derive(Debug)]
pub(super) struct SendJob {
    pub(super) append: Append,
    pub(super) reply: oneshot::Sender<Result<Appended>>,
    pub(super) since: Instant,
}

/// One change and who waits for it.
#[derive(Debug)]
pub(super) struct ChangeJob {
    pub(super) work: Box<dyn Work>,
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
    /// The senders that have something waiting, in their turns.
    turns: VecDeque<Sender>,
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
            state.turns.push_back(sender);
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
        let is_large_due = self.turns.is_empty() || self.since_large >= LARGE_JOB_TURN;
        if is_large_due && let Some(part) = self.large.pop_front() {
            self.since_large = 0;
            return Some(Batch::Sends(vec![part]));
        }
        let batch = self.take_turns()?;
        self.since_large = if self.large.is_empty() {
            0
        } else {
            self.since_large + 1
        };
        Some(batch)
    }

    /// Takes one send of each sender in turn until the batch is full or a change is next; a change
    /// that is first.
    fn take_turns(&mut self) -> Option<Batch> {
        let mut batch = Vec::with_capacity(self.turns.len().min(BATCH_SENDS_MAX));
        let (mut rows, mut bytes) = (0, 0);
        while let Some(sender) = self.turns.pop_front() {
            let Some(next) = self.senders.get(&sender).and_then(|w| w.jobs.front()) else {
                continue;
            };
            let (job_rows, job_bytes) = next.size();
            let is_full = batch.len() == BATCH_SENDS_MAX
                || rows + job_rows > BATCH_ROWS_MAX
                || bytes + job_bytes > BATCH_BYTES_MAX
                || matches!(next, Job::Change(_));
            if is_full && !batch.is_empty() {
                self.turns.push_front(sender);
                break;
            }
            match self.take_next(sender) {
                Some(Job::Send(send)) => batch.push(send),
                Some(Job::Change(change)) => return Some(Batch::Change(change)),
                None => continue,
            }
            rows += job_rows;
            bytes += job_bytes;
        }
        (!batch.is_empty()).then_some(Batch::Sends(batch))
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
            self.turns.push_back(sender);
        }
        Some(job)
    }
}

impl SendJob {
    fn size(&self) -> (usize, usize) {
        (self.append.rows(), self.append.message.content.len())
    }
}

impl Job {
    fn sender(&self) -> Sender {
        match self {
            Self::Send(send) => {
                let message = &send.append.message;
                (message.sender_type, message.sender_id)
            }
            Self::Change(change) => (pb::SenderType::StUser as i16, change.work.by().get()),
        }
    }

    fn size(&self) -> (usize, usize) {
        match self {
            Self::Send(send) => send.size(),
            Self::Change(change) => (change.work.rows(), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;
    use proptest::{collection::vec, prelude::*};

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{id::UserId, store::Tx, testing::send, timeline::Stop};

    const MIB: usize = 1024 * 1024;

    /// The `number`th send of `sender`, of so many rows and bytes.
    fn job(sender: i64, number: usize, rows: usize, bytes: usize) -> Job {
        Job::Send(send_job(sender, number, rows, bytes))
    }

    fn send_job(sender: i64, number: usize, rows: usize, bytes: usize) -> SendJob {
        let owners: Vec<i64> = (1..rows as i64).collect();
        let mut append = send(sender, &owners, &number.to_string(), b"");
        append.message.content = Bytes::from(vec![0; bytes]);
        let (reply, _) = oneshot::channel();
        SendJob {
            append,
            reply,
            since: Instant::now(),
        }
    }

    /// A change that is only taken, never made.
    struct Untried(i64);

    impl Work for Untried {
        fn by(&self) -> UserId {
            UserId(self.0)
        }
        fn rows(&self) -> usize {
            2
        }
        fn apply<'a>(&'a mut self, _: &'a Tx) -> BoxFuture<'a, Result<Vec<Append>, Stop>> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn committed(&self) {}
        fn done(self: Box<Self>) {}
        fn failed(self: Box<Self>, _: Error) {}
    }

    fn change(by: i64) -> Job {
        Job::Change(ChangeJob {
            work: Box::new(Untried(by)),
            since: Instant::now(),
        })
    }

    fn code(result: Result<()>) -> Option<Code> {
        result.err().and_then(|error| error.code())
    }

    fn take(queue: &Queue) -> Option<Vec<SendJob>> {
        match queue.take().now_or_never().flatten()? {
            Batch::Sends(sends) => Some(sends),
            Batch::Change(change) => panic!("{change:?}"),
        }
    }

    /// Who sent it, and which of his sends it is.
    fn named(job: &SendJob) -> (i64, usize) {
        let message = &job.append.message;
        (
            message.sender_id,
            message.client_message_id.parse().unwrap(),
        )
    }

    fn assert_within_bounds(batch: &[SendJob]) {
        let sizes = || batch.iter().map(SendJob::size);
        assert!(batch.len() <= BATCH_SENDS_MAX);
        assert!(batch.len() == 1 || sizes().map(|(rows, _)| rows).sum::<usize>() <= BATCH_ROWS_MAX);
        assert!(
            batch.len() == 1 || sizes().map(|(_, bytes)| bytes).sum::<usize>() <= BATCH_BYTES_MAX
        );
    }

    proptest! {
        #[test]
        fn senders_take_turns_and_each_is_served_in_order(
            plan in vec(prop_oneof![
                6 => (1..5_i64, prop_oneof![2..4_usize, 300..600_usize], prop_oneof![Just(9), 0..3 * MIB]).prop_map(Some),
                1 => Just(None),
            ], 1..80),
            flood in 0..700_usize,
        ) {
            let queue = Queue::default();
            let mut sent = [0; 5];
            let mut served = [0; 5];
            for number in 1..=flood {
                queue.push(job(0, number, 2, 1)).unwrap();
                sent[0] = number;
            }
            for step in plan.into_iter().chain([None; 80]) {
                let Some((sender, rows, bytes)) = step else {
                    let Some(batch) = take(&queue) else { continue };
                    assert_within_bounds(&batch);
                    let mut count = [0; 5];
                    for (sender, number) in batch.iter().map(named) {
                        served[sender as usize] += 1;
                        count[sender as usize] += 1;
                        prop_assert_eq!(number, served[sender as usize], "of sender {}", sender);
                    }
                    // Nobody is served twice more than one who goes on waiting.
                    let waits = |sender: &usize| served[*sender] < sent[*sender];
                    if let Some(least) = (0..5).filter(waits).map(|sender| count[sender]).min() {
                        prop_assert!(count.iter().all(|n| *n <= least + 1), "{:?}", count);
                    }
                    continue;
                };
                let number = sent[sender as usize] + 1;
                if queue.push(job(sender, number, rows, bytes)).is_ok() {
                    sent[sender as usize] = number;
                }
            }
            prop_assert_eq!(sent, served);
            let state = queue.lock();
            prop_assert_eq!((state.rows, state.bytes, state.senders.len(), state.turns.len()), (0, 0, 0, 0));
        }
    }

    #[test]
    fn one_sender_has_a_share_and_all_together_the_queue() {
        let queue = Queue::default();
        let large = WRITER_QUEUE_ROWS_PER_SENDER_MAX / 4;
        for sender in 1..=4 {
            for number in 1..=4 {
                queue.push(job(sender, number, large, 1)).unwrap();
            }
            let refused = code(queue.push(job(sender, 5, 2, 1)));
            assert_eq!(refused, Some(Code::TooManyRequests), "sender {sender}");
        }
        let refused = code(queue.push(job(5, 1, 2, 1)));
        assert_eq!(refused, Some(Code::TooManyRequests));
        // A job that is larger than a batch goes alone.
        let batch = take(&queue).unwrap();
        assert_eq!(batch.iter().map(named).collect::<Vec<_>>(), [(1, 1)]);
        queue.push(job(5, 1, 2, 1)).unwrap();
        queue.push(job(1, 5, 2, 1)).unwrap();
    }

    #[test]
    fn bytes_are_bounded() {
        let queue = Queue::default();
        let count = (WRITER_QUEUE_BYTES_MAX / MIB) as i64;
        for sender in 1..=count {
            queue.push(job(sender, 1, 2, MIB)).unwrap();
        }
        let refused = code(queue.push(job(100, 1, 2, 1)));
        assert_eq!(refused, Some(Code::TooManyRequests));
        queue.push(job(100, 1, 2, 0)).unwrap();
        assert_eq!(take(&queue).unwrap().len(), BATCH_BYTES_MAX / MIB);
        queue.push(job(100, 2, 2, 1)).unwrap();
    }

    #[tokio::test]
    async fn writer_sleeps_until_a_send_comes_and_ends_with_the_last() {
        let queue = Queue::default();
        let mut taking = Box::pin(queue.take());
        assert!(taking.as_mut().now_or_never().is_none());
        queue.push(job(1, 1, 2, 1)).unwrap();
        assert!(matches!(taking.await, Some(Batch::Sends(sends)) if sends.len() == 1));

        queue.push(job(1, 2, 2, 1)).unwrap();
        queue.close();
        let refused = code(queue.push(job(1, 3, 2, 1)));
        assert_eq!(refused, Some(Code::TryAgain));
        assert!(matches!(queue.take().await, Some(Batch::Sends(sends)) if sends.len() == 1));
        assert!(queue.take().await.is_none());
    }

    #[test]
    fn change_goes_alone_and_in_its_author_s_turn() {
        let queue = Queue::default();
        for job in [job(1, 1, 2, 1), change(1), job(1, 2, 2, 1), job(2, 1, 2, 1)] {
            queue.push(job).unwrap();
        }
        let names = |batch: &[SendJob]| batch.iter().map(named).collect::<Vec<_>>();
        assert_eq!(names(&take(&queue).unwrap()), [(1, 1), (2, 1)]);
        let taken = queue.take().now_or_never().flatten();
        assert!(matches!(taken, Some(Batch::Change(change)) if change.work.by() == UserId(1)));
        assert_eq!(names(&take(&queue).unwrap()), [(1, 2)]);
        let state = queue.lock();
        assert_eq!((state.rows, state.bytes, state.senders.len()), (0, 0, 0));
    }

    #[test]
    fn large_jobs_wait_for_others_but_not_for_ever() {
        let queue = Queue::default();
        for number in 1..=3 {
            queue.push_part(send_job(9, number, 100, 1)).unwrap();
        }
        let mut waited = Vec::new();
        for number in 1..=2 * LARGE_JOB_TURN + 2 {
            queue.push(job(1, number, 2, 1)).unwrap();
            let batch = take(&queue).unwrap();
            waited.push(named(&batch[0]).0);
        }
        let large = |at: usize| waited[at] == 9;
        let expected = |at| (at + 1) % (LARGE_JOB_TURN + 1) == 0;
        assert!(
            (0..waited.len()).all(|at| large(at) == expected(at)),
            "{waited:?}"
        );
        // Nobody else waits any more, once those who did are served.
        while let Some(batch) = take(&queue) {
            waited.push(named(&batch[0]).0);
        }
        assert_eq!(waited.last(), Some(&9));
        for number in 1..=LARGE_JOBS_WAITING_MAX {
            queue.push_part(send_job(9, number, 100, 1)).unwrap();
        }
        let refused = code(queue.push_part(send_job(9, 1, 100, 1)));
        assert_eq!(refused, Some(Code::TooManyRequests));
        queue.push(job(1, 1, 2, 1)).unwrap();
    }

    #[tokio::test]
    async fn closing_wakes_a_writer_that_sleeps() {
        let queue = Queue::default();
        let mut taking = Box::pin(queue.take());
        assert!(taking.as_mut().now_or_never().is_none());
        queue.close();
        assert!(taking.await.is_none());
    }
}
