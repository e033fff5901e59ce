//! What waits to be published, without a Redis.

use futures_util::FutureExt as _;

use super::{super::tests::large, *};
use crate::id::UserId;

fn user(id: i64) -> Topic {
    Topic::User(UserId(id))
}

#[tokio::test]
async fn what_cannot_be_published_is_counted_and_told_once_it_can() {
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(Arc::clone(&metrics));
    let dropped = || metrics.bridge.publish_dropped.get();
    outbox.put(Item::News(News::HintsLost));
    assert_eq!(dropped(), 1, "there is no connection");
    outbox.open();
    assert!(outbox.take_loss() && !outbox.take_loss());
    for _ in 0..crate::limits::BRIDGE_QUEUE_MAX + 2 {
        outbox.put(Item::News(News::Profile(UserId(1))));
    }
    assert_eq!(dropped(), 3, "it is full");
    assert!(outbox.take_loss());
    outbox.close(&[Item::News(News::HintsLost)]);
    let all = crate::limits::BRIDGE_QUEUE_MAX as u64;
    assert_eq!(dropped(), 3 + all + 1);
    assert!(outbox.take_loss());

    outbox.open();
    let before = dropped();
    for _ in 0..1_000 {
        outbox.put(Item::Push(user(1), large().push(Seq(1)), Seq::ZERO));
    }
    assert!(dropped() > before, "it is bounded in bytes too");
    let mut batch = Vec::new();
    outbox.take(&mut batch);
    assert!(batch.len() < 10);
}

#[tokio::test]
async fn large_message_to_many_timelines_takes_the_room_of_a_few() {
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(Arc::clone(&metrics));
    outbox.open();
    for round in 1..=20 {
        let large = large();
        for id in 1..=500 {
            outbox.put(Item::Push(user(id), large.push(Seq(round)), Seq::ZERO));
        }
    }
    assert_eq!(metrics.bridge.publish_dropped.get(), 0);
    let (mut batch, mut bodies, mut heads) = (Vec::new(), 0, 0);
    loop {
        outbox.take(&mut batch);
        if batch.is_empty() {
            break;
        }
        for item in batch.drain(..) {
            match item {
                Item::Push(..) => bodies += 1,
                Item::Head(..) => heads += 1,
                Item::News(_) => {}
            }
        }
    }
    assert_eq!(bodies, 20 * crate::limits::BRIDGE_COPIES_MAX);
    assert_eq!(bodies + heads, 20 * 500);
}

/// Comparing with the database would not bring it back.
#[tokio::test]
async fn ephemeral_message_that_is_dropped_is_no_loss_to_tell() {
    let metrics = Arc::new(Metrics::default());
    let outbox = Outbox::new(Arc::clone(&metrics));
    let ephemeral = || Item::Push(user(1), large().push(Seq::ZERO), Seq::ZERO);
    outbox.put(ephemeral());
    outbox.close(&[ephemeral()]);
    assert_eq!(metrics.bridge.publish_dropped.get(), 2);
    assert!(!outbox.take_loss());
    outbox.put(Item::Head(user(1), Seq(1)));
    assert!(outbox.take_loss());
}

#[tokio::test]
async fn who_publishes_much_waits_for_room_but_not_for_a_redis_that_is_away() {
    let outbox = Outbox::new(Arc::default());
    outbox.has_room().await;
    outbox.open();
    for id in 0..crate::limits::BRIDGE_QUEUE_MAX as i64 {
        outbox.put(Item::Head(user(id), Seq(1)));
    }
    let mut waiting = Box::pin(outbox.has_room());
    assert!((&mut waiting).now_or_never().is_none());
    for _ in 0..crate::limits::BRIDGE_QUEUE_MAX / 2 / crate::limits::BRIDGE_BATCH_MAX {
        outbox.take(&mut Vec::new());
    }
    waiting.await;
    for id in 0..crate::limits::BRIDGE_QUEUE_MAX as i64 {
        outbox.put(Item::Head(user(id), Seq(1)));
    }
    let mut waiting = Box::pin(outbox.has_room());
    assert!((&mut waiting).now_or_never().is_none());
    outbox.close(&[]);
    waiting.await;
}
