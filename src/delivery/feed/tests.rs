//! The feed by itself, and under random plans against a model, compared after every step.

use proptest::{collection::vec, prelude::*};

use self::{
    model::{Model, SLOT, Taken},
    plan::{Step, step},
};
use super::*;
use crate::id::{RoomId, UserId};

mod model;
mod plan;

const USER: Topic = Topic::User(UserId(1));

proptest! {
    #[test]
    fn followers_get_every_entry_once_and_no_wake_up_is_lost(
        steps in vec(step(), 1..80),
        begins_open in any::<bool>(),
        reads_on in any::<bool>(),
    ) {
        let mut model = Model::new(USER);
        if begins_open {
            model.open(0);
        }
        for step in steps {
            model.run(step);
        }
        if reads_on {
            model.finish();
        }
        let (budget, others) = (Arc::clone(&model.budget), model.others);
        drop(model);
        prop_assert_eq!(budget.0.load(Ordering::Relaxed), others, "the budget leaks");
    }

    #[test]
    fn room_carries_what_is_ephemeral(steps in vec(step(), 1..60)) {
        let mut model = Model::new(Topic::Room(RoomId(1)));
        let has_timeline = |step: &Step| {
            matches!(
                step,
                Step::Append { .. } | Step::Store { .. } | Step::Open(_) | Step::Advance(_)
            )
        };
        for step in steps.into_iter().filter(|step| !has_timeline(step)) {
            model.run(step);
        }
        model.finish();
    }
}

fn open_feed(head: i64) -> Feed {
    let feed = Feed::new(USER, Arc::default());
    feed.open(Seq(head));
    feed
}

fn push(seq: i64) -> Push {
    let (number, device, size) = (0, DeviceId(1), 16);
    Taken {
        seq,
        number,
        device,
        size,
    }
    .push()
}

#[test]
fn early_entries_are_kept_up_to_a_bound() {
    let feed = open_feed(0);
    for seq in 2..=2 * EARLY_MAX as i64 {
        assert_eq!(feed.offer(push(seq)), Offer::Gap);
    }
    assert_eq!(feed.lock().early.len(), EARLY_MAX);
    assert_eq!(feed.offer(push(1)), Offer::Taken);
    assert_eq!(feed.head(), Some(Seq(1 + EARLY_MAX as i64)));
    assert_eq!(feed.gap_end(), None);
}

#[test]
fn feed_without_followers_keeps_its_head_and_no_push() {
    let feed = open_feed(5);
    for seq in [6, 7] {
        assert_eq!(feed.offer(push(seq)), Offer::Taken);
    }
    assert_eq!(feed.head(), Some(Seq(7)));
    assert!(feed.lock().ring.is_empty());
    assert_eq!(feed.budget.0.load(Ordering::Relaxed), 0);
}

#[test]
fn ring_nobody_reads_is_given_back_by_the_second_sweep() {
    let feed = open_feed(0);
    let stuck = Arc::new(Handle::new(DeviceId(2)));
    let (key, mut position) = feed.follow(stuck, SLOT);
    feed.offer(push(1));
    feed.sweep();
    assert_eq!(feed.lock().ring.len(), 1);
    feed.sweep();
    assert_eq!(feed.lock().ring.len(), 0);
    assert_eq!(feed.budget.0.load(Ordering::Relaxed), 0);
    let (read, given) = feed.read(key, &mut position, DeviceId(2), |_| true);
    assert_eq!((read, given), (Read::Behind, 0));
}
