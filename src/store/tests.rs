//! What a failure leaves of the connections.

use futures_util::future::join_all;
use sea_orm::ConnectionTrait;

use tokio::sync::Mutex;

use super::*;
use crate::{
    store::group::{Details, GroupKind},
    testing::Timelines,
};

/// As a commit that fails for want of room ends it.
#[tokio::test]
async fn transaction_that_the_database_ended_by_itself_harms_no_later_one() {
    let world = Timelines::new().await;
    let store = &world.store;
    let tx = store.begin().await.unwrap();
    tx.conn().execute_unprepared("ROLLBACK").await.unwrap();
    drop(tx);
    // One that ends in a rollback, one whose end is not waited for, and then those that count.
    drop(store.begin().await.unwrap());

    for _ in 0..2 {
        let tx = store.begin().await.unwrap();
        let made = group::insert(tx.conn(), GroupKind::Small, Details::default(), 0).await;
        tx.commit().await.unwrap();
        let id = crate::id::GroupId(made.unwrap().id);
        // Committed, and not only seen from within.
        let stored = group::by_id(store.reader(), id).await.unwrap();
        assert!(stored.is_some());
        // Nobody keeps the right to write.
        let foreign = world.foreign_connection();
        foreign.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    }
}

#[tokio::test]
async fn writer_waits_behind_one_caller_at_most() {
    let world = Timelines::new().await;
    let store = &world.store;
    let order = Mutex::new(Vec::new());
    let held = store.begin_raw().await.unwrap();
    let call = async |name: &'static str| {
        let tx = store.begin().await.unwrap();
        order.lock().await.push(name);
        drop(tx);
    };
    let write = async {
        let tx = store.begin_raw().await.unwrap();
        order.lock().await.push("writer");
        drop(tx);
    };
    let release = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let callers = join_all(["a", "b", "c", "d"].map(call));
    tokio::join!(callers, write, release);
    assert_eq!(*order.lock().await, ["a", "writer", "b", "c", "d"]);
}
