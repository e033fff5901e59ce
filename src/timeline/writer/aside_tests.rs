//! Locks that another instance holds and does not let go.

use std::time::{Duration, Instant};

use test_servers::{Database, Engine};
use tokio::time::timeout;

use crate::{
    error::Code,
    limits::BATCH_DEADLINE,
    testing::{self, Timelines, done, on_each_server, send},
};

const LONG: Duration = Duration::from_secs(20);

/// Only who sends to whom it holds waits, and in the order of his sends.
async fn lock_that_is_held_delays_nobody_else(engine: Engine) {
    let database = Database::of(engine).await;
    let world = Timelines::at(&database).await;
    for user in [1, 2, 3] {
        let first = send(user, &[user], "first", b"x");
        testing::append(&world.writer, first).await.unwrap();
    }
    let holder = database.connect().await;
    holder.execute("BEGIN").await;
    holder
        .execute("UPDATE timeline_head SET seq = seq WHERE owner_type = 1 AND owner_id = 1")
        .await;

    let begun = Instant::now();
    let append = |append| world.writer.append(append, Instant::now()).unwrap();
    let held = append(send(1, &[1, 2], "a", b"1"));
    let beside = append(send(2, &[2, 3], "a", b"2"));
    assert_eq!(done(beside).await.unwrap().seq.get(), 2);
    // The next ones do not even wait for the lock once.
    let behind = append(send(1, &[3], "b", b"3"));
    let also_held = append(send(3, &[1], "a", b"4"));
    for n in 0..4 {
        let free = append(send(2, &[2], &format!("n{n}"), b"5"));
        done(free).await.unwrap();
    }
    // The lock was waited for once, and is tried now and then; five times if each send waited for it.
    assert!(begun.elapsed() < BATCH_DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(world.timeline(1).await.len(), 1);

    holder.let_go().await;
    let seqs = [held, behind, also_held].map(done);
    let seqs = timeout(LONG, futures_util::future::join_all(seqs))
        .await
        .unwrap();
    let seqs: Vec<i64> = seqs
        .into_iter()
        .map(|sent| sent.unwrap().seq.get())
        .collect();
    assert_eq!(seqs, [2, 3, 3]);
    // Nobody is remembered for it.
    assert_eq!(
        testing::append(&world.writer, send(1, &[1], "c", b"6"))
            .await
            .unwrap()
            .seq
            .get(),
        4
    );
}

async fn send_that_waits_for_a_lock_too_long_is_answered(engine: Engine) {
    let database = Database::of(engine).await;
    let world = Timelines::at(&database).await;
    let first = send(1, &[1], "first", b"x");
    testing::append(&world.writer, first).await.unwrap();
    let holder = database.connect().await;
    holder.execute("BEGIN").await;
    holder.execute("UPDATE timeline_head SET seq = seq").await;
    let refused = world
        .writer
        .append(send(1, &[1], "a", b"1"), Instant::now());
    let refused = timeout(LONG, refused.unwrap().stored()).await;
    let refused = refused.expect("the writer answers").unwrap_err();
    assert!(refused.is(Code::TryAgain), "{refused:?}");
    holder.let_go().await;
    let retried = testing::append(&world.writer, send(1, &[1], "a", b"1"))
        .await
        .unwrap();
    assert_eq!(retried.seq.get(), 2);
}

on_each_server!(
    lock_that_is_held_delays_nobody_else,
    send_that_waits_for_a_lock_too_long_is_answered,
);
