//! The writer on a real database: what is stored once, in which order, and what becomes of the
//! others when one send or the whole database fails.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::time::{timeout, timeout_at};

use super::*;
use crate::{
    delivery::handle::Handle,
    error::Code,
    id::{DeviceId, Seq, UserId},
    limits::LOCK_TIMEOUT,
    pb,
    testing::{self, Timelines, done, send},
    timeline::append,
};

const LONG: Duration = Duration::from_secs(20);

/// Puts sends into the queue at once, so that they are one batch, and waits for all of them.
async fn append_all(
    writer: &Writer,
    sends: impl IntoIterator<Item = Append>,
) -> Vec<Result<Appended>> {
    let now = Instant::now();
    let waiting = sends.into_iter().map(|send| writer.append(send, now));
    let waiting: Vec<Waiting> = waiting.map(Result::unwrap).collect();
    join_all(waiting.into_iter().map(done)).await
}

async fn look_up(world: &Timelines, send: &Append) -> Result<Option<Appended>> {
    append::find_repeat(&world.store, &send.message, send.answer_owner).await
}

/// The positions and the contents of a user's timeline.
async fn contents(world: &Timelines, user: i64) -> Vec<(i64, String)> {
    let rows = world.timeline(user).await.into_iter();
    rows.map(|row| {
        let content = String::from_utf8(row.message.content).unwrap();
        (row.seq.get(), content)
    })
    .collect()
}

fn code<T>(result: &Result<T>) -> Option<Code> {
    result.as_ref().err().and_then(Error::code)
}

/// I3.
#[tokio::test]
async fn repeat_gets_the_first_result_in_one_batch_and_over_batches() {
    let world = Timelines::new().await;
    let repeat = || send(1, &[1, 2], "a", b"hello");
    let sends = [repeat(), send(1, &[1, 2], "b", b"other"), repeat()];
    let batch: Vec<Appended> = append_all(&world.writer, sends)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let [first, other, again] = batch[..] else {
        panic!("{batch:?}");
    };
    assert_eq!((first.seq, other.seq), (Seq(1), Seq(2)));
    assert!(!first.repeated && !other.repeated);
    assert_ne!(first.message_id, other.message_id);
    let repeated = Appended {
        repeated: true,
        ..first
    };
    assert_eq!(again, repeated);

    let mut late = repeat();
    late.message.send_time += 5_000;
    assert_eq!(
        testing::append(&world.writer, late).await.unwrap(),
        repeated
    );
    let restarted = world.another_writer();
    assert_eq!(
        testing::append(&restarted, repeat()).await.unwrap(),
        repeated
    );
    assert_eq!(look_up(&world, &repeat()).await.unwrap(), Some(repeated));

    let stored = [(1, "hello".into()), (2, "other".into())];
    assert_eq!(contents(&world, 1).await, stored);
    assert_eq!(contents(&world, 2).await, stored);
}

#[tokio::test]
async fn id_used_for_another_message_is_refused() {
    let world = Timelines::new().await;
    let sends = [send(1, &[1, 2], "a", b"one"), send(1, &[1, 2], "a", b"two")];
    let batch = append_all(&world.writer, sends).await;
    assert_eq!(code(&batch[0]), None);
    assert_eq!(code(&batch[1]), Some(Code::BadRequest));
    let later = testing::append(&world.writer, send(1, &[1, 2], "a", b"three")).await;
    assert_eq!(code(&later), Some(Code::BadRequest));
    let looked_up = look_up(&world, &send(1, &[1], "a", b"four")).await;
    assert_eq!(code(&looked_up), Some(Code::BadRequest));
    // Another sender may use the same id, and no id is no repeat.
    let others = [
        send(2, &[2, 1], "a", b"two"),
        send(1, &[1, 2], "", b"same"),
        send(1, &[1, 2], "", b"same"),
    ];
    for other in append_all(&world.writer, others).await {
        assert!(!other.unwrap().repeated);
    }
    let seqs: Vec<i64> = contents(&world, 1)
        .await
        .iter()
        .map(|(seq, _)| *seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
}

#[tokio::test]
async fn message_to_oneself_is_one_entry() {
    let world = Timelines::new().await;
    let sent = testing::append(&world.writer, send(1, &[1], "a", b"note"))
        .await
        .unwrap();
    assert_eq!(sent.seq, Seq(1));
    assert_eq!(contents(&world, 1).await, [(1, "note".into())]);
}

/// I1, and that feeds are offered what is appended in its order and before the reply (I2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_at_once_leave_no_gap_and_are_published_in_order() {
    const SENDERS: i64 = 40;
    const EACH: usize = 25;
    let world = Timelines::new().await;
    let lease = world.router.lease(Topic::User(UserId(1_000))).await;
    lease.open(Seq::ZERO);
    let device = DeviceId(1);
    let (key, mut position) = lease.follow(Arc::new(Handle::new(device)), 0, None);

    let senders = (1..=SENDERS).map(|sender| {
        let writer = world.writer.clone();
        world.tasks.spawn(async move {
            let sends = (0..EACH).map(|n| {
                let content = format!("{sender} {n}");
                send(sender, &[sender, 1_000], &n.to_string(), content.as_bytes())
            });
            append_all(&writer, sends).await
        })
    });
    for results in join_all(senders).await {
        let seqs: Vec<i64> = results
            .unwrap()
            .into_iter()
            .map(|r| r.unwrap().seq.get())
            .collect();
        assert!(
            seqs.into_iter().eq(1..=EACH as i64),
            "each sender's own timeline is in order"
        );
    }

    let stored = contents(&world, 1_000).await;
    let total = SENDERS * EACH as i64;
    assert!(stored.iter().map(|(seq, _)| *seq).eq(1..=total));
    for sender in 1..=SENDERS {
        let prefix = format!("{sender} ");
        let own = stored
            .iter()
            .filter_map(|(_, content)| content.strip_prefix(&prefix));
        assert!(
            own.eq((0..EACH).map(|n| n.to_string())),
            "those of {sender} are in order"
        );
    }
    let mut pushed = Vec::new();
    lease.read(key, &mut position, device, |push| {
        let body = push.encode(UserId(1)).pieces().concat();
        let output = <pb::Output as prost::Message>::decode(&*body).unwrap();
        let pushed_one = <pb::MessageSend as prost::Message>::decode(output.data).unwrap();
        let message = pushed_one.message.unwrap();
        let content = String::from_utf8(message.message_content.to_vec()).unwrap();
        pushed.push((message.seq, content));
        true
    });
    assert_eq!(pushed, stored, "every reply came after its push");
    assert_eq!(world.metrics.gaps_filled.get(), 0);
}

#[tokio::test]
async fn send_the_database_refuses_fails_alone() {
    let world = Timelines::new().await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON timeline_entry WHEN NEW.owner_id = 13 \
                  BEGIN SELECT RAISE(ABORT, 'refused on purpose'); END";
    world.foreign_connection().execute_batch(refuse).unwrap();
    let receivers: Vec<i64> = (2..=21).collect();
    let sends = receivers
        .iter()
        .map(|to| send(1, &[1, *to], &to.to_string(), b"x"));
    let results = append_all(&world.writer, sends).await;
    for (to, result) in receivers.iter().zip(&results) {
        if *to == 13 {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.code(), None, "a defect is an internal error");
            assert!(error.to_string().contains("refused on purpose"), "{error}");
        } else {
            assert!(result.is_ok(), "to {to}: {result:?}");
        }
    }
    // I1: the refused one took no position anywhere.
    let own: Vec<i64> = results
        .iter()
        .flatten()
        .map(|sent| sent.seq.get())
        .collect();
    assert!(own.into_iter().eq(1..=19));
    assert_eq!(world.timeline(1).await.len(), 19);
    assert_eq!(world.timeline(13).await.len(), 0);

    world
        .foreign_connection()
        .execute_batch("DROP TRIGGER refuse")
        .unwrap();
    let sent = testing::append(&world.writer, send(1, &[1, 13], "13", b"x"))
        .await
        .unwrap();
    assert_eq!((sent.seq, sent.repeated), (Seq(20), false));
}

#[tokio::test]
async fn timeline_with_a_damaged_head_harms_no_other() {
    let world = Timelines::new().await;
    testing::append(&world.writer, send(3, &[3], "", b"x"))
        .await
        .unwrap();
    let damage = "UPDATE timeline_head SET seq = 0 WHERE owner_id = 3";
    world.foreign_connection().execute_batch(damage).unwrap();
    let sends = (2..=5).map(|to: i64| send(1, &[1, to], &to.to_string(), b"x"));
    for (to, result) in (2..=5).zip(append_all(&world.writer, sends).await) {
        assert_eq!(result.is_ok(), to != 3, "to {to}: {result:?}");
    }
    assert_eq!(world.timeline(1).await.len(), 3);
    assert_eq!(world.timeline(3).await.len(), 1);
}

#[tokio::test]
async fn busy_database_delays_a_send_and_stores_it_once() {
    let world = Timelines::new().await;
    testing::append(&world.writer, send(1, &[1, 2], "first", b"x"))
        .await
        .unwrap();
    let foreign = world.foreign_connection();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sent = send(1, &[1, 2], "a", b"x");
    let mut waiting = world.writer.append(sent, Instant::now()).unwrap();
    // Longer than one attempt waits for the lock.
    let too_soon = timeout(LOCK_TIMEOUT + Duration::from_millis(300), waiting.stored()).await;
    assert!(too_soon.is_err(), "{too_soon:?}");
    foreign.execute_batch("COMMIT").unwrap();
    let sent = done(waiting).await.unwrap();
    assert_eq!((sent.seq, sent.repeated), (Seq(2), false));
    assert_eq!(world.timeline(1).await.len(), 2);
    assert_eq!(world.timeline(2).await.len(), 2);
}

/// Takes about ten seconds of real time: the deadline is what it is about.
#[tokio::test]
async fn database_busy_beyond_the_deadline_is_answered_in_time() {
    let world = Timelines::new().await;
    testing::append(&world.writer, send(1, &[1, 2], "first", b"x"))
        .await
        .unwrap();
    let foreign = world.foreign_connection();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let sends = [send(1, &[1, 2], "a", b"x"), send(2, &[2], "a", b"x")];
    let mut late = Vec::new();
    for mut waiting in sends.map(|send| world.writer.append(send, begun).unwrap()) {
        let deadline = waiting.deadline();
        assert!(deadline < begun + Duration::from_secs(10));
        match timeout_at(deadline.into(), waiting.stored()).await {
            Ok(answer) => assert_eq!(code(&answer), Some(Code::TryAgain)),
            Err(_) => late.push(waiting),
        }
    }
    assert!(
        begun.elapsed() > LOCK_TIMEOUT,
        "it was tried more than once"
    );
    // An attempt that began in time may wait yet, and is not to have the lock after all.
    for mut waiting in late {
        let answer = timeout(LONG, waiting.stored()).await.unwrap();
        assert_eq!(code(&answer), Some(Code::TryAgain));
    }
    let ended_after = begun.elapsed();
    assert!(ended_after < Duration::from_secs(15), "{ended_after:?}");

    foreign.execute_batch("ROLLBACK").unwrap();
    let retried = testing::append(&world.writer, send(1, &[1, 2], "a", b"x"))
        .await
        .unwrap();
    assert_eq!(retried.seq, Seq(2));
    assert_eq!(world.timeline(1).await.len(), 2);
    assert_eq!(world.timeline(2).await.len(), 2, "the other was not stored");
}

#[tokio::test]
async fn closed_writer_stores_what_waits_and_ends() {
    let world = Timelines::new().await;
    let now = Instant::now();
    let writer = &world.writer;
    let mut waiting = writer.append(send(1, &[1, 2], "a", b"x"), now).unwrap();
    let dropped = writer.append(send(1, &[1, 2], "b", b"x"), now).unwrap();
    drop(dropped);
    timeout(LONG, writer.close())
        .await
        .expect("the writer ends");
    assert_eq!(
        waiting.stored().now_or_never().unwrap().unwrap().seq,
        Seq(1)
    );
    let refused = writer.append(send(1, &[1, 2], "c", b"x"), now);
    assert_eq!(code(&refused), Some(Code::TryAgain));
    assert_eq!(
        world.timeline(2).await.len(),
        2,
        "a send is not taken back by who stops waiting"
    );
}

#[tokio::test]
async fn message_ids_handed_out_twice_after_a_restore_are_replaced() {
    let world = Timelines::new().await;
    let sends = (1..=3).map(|n: i64| send(1, &[1, 2], &n.to_string(), b"before"));
    let before = append_all(&world.writer, sends).await;
    let restore = "UPDATE id_block SET next = 1 WHERE name = 'message'";
    world.foreign_connection().execute_batch(restore).unwrap();

    let restarted = world.another_writer();
    let mut after = Vec::new();
    for n in 4..=6 {
        let sent = testing::append(&restarted, send(1, &[1, 2], &n.to_string(), b"after"));
        after.push(sent.await);
    }
    let ids: BTreeSet<MessageId> = before
        .into_iter()
        .chain(after)
        .map(|sent| sent.unwrap().message_id)
        .collect();
    assert_eq!(ids.len(), 6);
    assert_eq!(world.timeline(2).await.len(), 6);
}

/// I10.
#[tokio::test]
async fn new_epoch_is_reported_once() {
    let world = Timelines::new().await;
    let epoch = crate::store::cluster::epoch(world.store.reader())
        .await
        .unwrap();
    let known = Arc::new(Epoch::new(epoch));
    let options = Options {
        store: world.store.clone(),
        router: Arc::clone(&world.router),
        epoch: Arc::clone(&known),
        outbox: Outbox::default(),
        metrics: Arc::clone(&world.metrics),
    };
    let reported = Arc::new(AtomicBool::new(false));
    let report = Arc::clone(&reported);
    let writer = Writer::start(options, &world.tasks, move || {
        assert!(!report.swap(true, Ordering::SeqCst), "reported twice");
    });
    testing::append(&writer, send(1, &[1], "", b"x"))
        .await
        .unwrap();
    assert!(!reported.load(Ordering::SeqCst));

    let renewed = crate::store::cluster::renew_epoch(&world.store)
        .await
        .unwrap();
    for _ in 0..2 {
        testing::append(&writer, send(1, &[1], "", b"x"))
            .await
            .unwrap();
        assert!(reported.load(Ordering::SeqCst));
    }
    assert!(!known.observe(renewed), "it is known");
}
