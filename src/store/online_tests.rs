use std::sync::Arc;

use test_servers::{Database, Engine};

use super::*;
use crate::{
    clock::Manual,
    store::failure_kind,
    testing::{on_each_server, open_store_at},
};

/// A session that begins, as a sign-in has it.
async fn came(at: &Attendance, store: &Store, session: Session) {
    loop {
        let attempt = async {
            let tx = store.begin_raw().await?;
            at.came(tx.conn(), [session].into_iter(), 0).await?;
            tx.commit_raw().await
        };
        match attempt.await {
            Ok(()) => return,
            Err(error) => assert!(failure_kind(&error).may_pass(), "{error}"),
        }
    }
}

async fn left(at: &Attendance, store: &Store, session: Session) {
    while let Err(error) = at.left(store, &[session], 0).await {
        assert!(failure_kind(&error).may_pass(), "{error}");
    }
}

async fn told(store: &Store) -> Vec<i16> {
    let page = outbox::page(store.reader(), None, 0, 1_000).await.unwrap();
    page.into_iter().map(|row| row.kind).collect()
}

/// Two instances, at the same time, again and again: of two devices of a user one is the first to come
/// and one the last to go, and a former session of a device takes nothing with it.
async fn first_and_last_are_one_each(engine: Engine) {
    let database = Database::of(engine).await;
    let one = open_store_at(database.url().into()).await;
    let other = open_store_at(database.url().into()).await;
    let kinds = [Kind::UserOnline, Kind::UserOffline];
    let outbox = Outbox::telling(kinds, 0, Arc::new(Manual::at(0)));
    let here = Attendance::at(1, &outbox).unwrap();
    let there = Attendance::at(2, &outbox).unwrap();
    let session = |device, generation| Session {
        user: UserId(7),
        device: DeviceId(device),
        generation,
    };
    let mut expected = Vec::new();
    for generation in 1..=15 {
        let (a, b) = (session(70, generation), session(71, generation));
        tokio::join!(came(&here, &one, a), came(&there, &other, b));
        expected.push(Kind::UserOnline.column());
        assert_eq!(told(&one).await, expected);
        let former = session(70, generation - 1);
        tokio::join!(left(&there, &other, former), left(&here, &one, former));
        assert_eq!(told(&one).await, expected);
        tokio::join!(left(&here, &one, a), left(&there, &other, b));
        expected.push(Kind::UserOffline.column());
        assert_eq!(told(&one).await, expected);
    }
    one.close().await;
    other.close().await;
}

on_each_server!(first_and_last_are_one_each);
