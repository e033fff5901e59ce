//! The queue against what it promises: turns, order, bounds.

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
        cause: None,
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
    fn bytes(&self) -> usize {
        3
    }
    fn is_abandoned(&self) -> bool {
        false
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
        cause: None,
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

/// Whose change is next, if one is.
fn take_change(queue: &Queue) -> Option<i64> {
    match queue.take().now_or_never().flatten()? {
        Batch::Change(change) => Some(change.work.by().get()),
        Batch::Sends(sends) => panic!("{sends:?}"),
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
    assert!(batch.len() == 1 || sizes().map(|(_, bytes)| bytes).sum::<usize>() <= BATCH_BYTES_MAX);
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
    let each = WRITER_QUEUE_ROWS_PER_SENDER_MAX / BATCH_ROWS_MAX;
    for sender in 1..=4 {
        for number in 1..=each {
            // However large it is, it counts as one batch, and goes alone.
            let rows = BATCH_ROWS_MAX * number;
            queue.push(job(sender, number, rows, 1)).unwrap();
        }
        let refused = code(queue.push(job(sender, each + 1, 2, 1)));
        assert_eq!(refused, Some(Code::TooManyRequests), "sender {sender}");
    }
    let refused = code(queue.push(job(5, 1, 2, 1)));
    assert_eq!(refused, Some(Code::TooManyRequests));
    let batch = take(&queue).unwrap();
    assert_eq!(batch.iter().map(named).collect::<Vec<_>>(), [(1, 1)]);
    queue.push(job(5, 1, 2, 1)).unwrap();
    queue.push(job(1, each + 1, 2, 1)).unwrap();
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
    assert_eq!(take_change(&queue), Some(1));
    assert_eq!(names(&take(&queue).unwrap()), [(1, 2)]);
    let state = queue.lock();
    assert_eq!((state.rows, state.bytes, state.senders.len()), (0, 0, 0));
}

/// However many users have a change waiting, a batch of sends is not cut by them and waits for
/// one of them at most.
#[test]
fn changes_and_batches_of_sends_take_turns() {
    let queue = Queue::default();
    for sender in 1..=5 {
        queue.push(change(sender)).unwrap();
        queue.push(job(10 + sender, 1, 2, 1)).unwrap();
        queue.push(job(10 + sender, 2, 2, 1)).unwrap();
    }
    let mut taken = Vec::new();
    while let Some(batch) = queue.take().now_or_never().flatten() {
        taken.push(match batch {
            Batch::Sends(sends) => sends.len(),
            Batch::Change(_) => 0,
        });
    }
    assert_eq!(taken, [10, 0, 0, 0, 0, 0]);
    for round in 1..=3 {
        queue.push(change(1)).unwrap();
        queue.push(change(2)).unwrap();
        queue.push(job(3, round, 2, 1)).unwrap();
        assert_eq!(take(&queue).unwrap().len(), 1, "sends were not last");
        assert_eq!(take_change(&queue), Some(1));
        assert_eq!(take_change(&queue), Some(2));
    }
    for sender in 1..=3 {
        queue.push(change(sender)).unwrap();
    }
    assert_eq!(take_change(&queue), Some(1));
    queue.push(job(4, 1, 2, 1)).unwrap();
    assert_eq!(take(&queue).unwrap().len(), 1);
    assert_eq!(take_change(&queue), Some(2));
    queue.push(job(4, 2, 2, 1)).unwrap();
    assert_eq!(take(&queue).unwrap().len(), 1);
    assert_eq!(take_change(&queue), Some(3));
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
