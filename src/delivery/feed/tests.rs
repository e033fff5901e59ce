//! The feed by itself, and under random plans against a model, compared after every step.

use proptest::{collection::vec, prelude::*};

use self::{
    model::{Model, SLOT, Taken},
    plan::{Step, step},
};
use super::{state::SLOT_BYTES, *};
use crate::{
    id::{RoomId, UserId},
    limits::RINGS_BYTES_MAX,
};

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
        prop_assert_eq!(budget.taken(), others, "the budget leaks");
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
    assert_eq!(feed.open(Seq(head)), Offer::Taken);
    feed
}

fn push(seq: i64) -> Push {
    let (number, device, size) = (0, DeviceId(1), 16);
    Taken {
        seq,
        number,
        device,
        size,
        head: seq,
    }
    .push()
}

/// The last one may be the last that is offered for long.
#[test]
fn newest_of_the_early_entries_are_kept() {
    let feed = open_feed(0);
    let end = 2 * EARLY_MAX as i64;
    for seq in 2..=end {
        assert_eq!(feed.offer(push(seq)), Offer::Gap);
    }
    assert_eq!(feed.lock().early.len(), EARLY_MAX);
    assert_eq!(feed.gap_end(), Some(Seq(end)));
    assert_eq!(feed.offer(push(1)), Offer::Gap);
    feed.advance_to(Seq(end - EARLY_MAX as i64));
    assert_eq!((feed.head(), feed.gap_end()), (Some(Seq(end)), None));
}

/// A client may keep what all rings may hold from being read; a room has no timeline to go on from.
#[test]
fn room_is_left_a_part_of_its_ring_when_others_take_too_much() {
    let room = Feed::new(Topic::Room(RoomId(1)), Arc::default());
    let reader = DeviceId(2);
    let (key, mut position) = room.follow(Arc::new(Handle::new(reader)), SLOT, None);
    room.budget.take(RINGS_BYTES_MAX + 1);
    for _ in 0..10 {
        room.offer(ephemeral());
    }
    let (read, given) = room.read(key, &mut position, reader, |_| true);
    assert_eq!((read, given), (Read::UpToDate, 10));
}

fn ephemeral() -> Push {
    Push {
        seq: Seq::ZERO,
        ..push(0)
    }
}

/// Whoever is removed from a group by an entry must not be given what was sent after it.
#[test]
fn ephemeral_push_waits_for_the_entries_before_it() {
    let feed = open_feed(0);
    let reader = DeviceId(2);
    let (key, mut position) = feed.follow(Arc::new(Handle::new(reader)), SLOT, None);
    feed.offer(ephemeral());
    feed.advance_to(Seq(2));
    feed.offer(ephemeral());
    feed.offer(push(3));
    let mut seqs = Vec::new();
    let mut read = |position: &mut Position| {
        let read = feed.read(key, position, reader, |push| {
            seqs.push(push.seq.get());
            true
        });
        (read.0, std::mem::take(&mut seqs))
    };
    assert_eq!(read(&mut position), (Read::Behind, vec![]));
    position.seq = Seq(1);
    assert_eq!(read(&mut position), (Read::Behind, vec![]));
    position.seq = Seq(2);
    assert_eq!(read(&mut position), (Read::UpToDate, vec![0, 3]));
}

#[test]
fn follower_may_begin_before_the_head_and_reads_what_it_lacks_from_the_timeline() {
    let feed = open_feed(5);
    let reader = DeviceId(2);
    let (key, mut position) = feed.follow(Arc::new(Handle::new(reader)), SLOT, Some(Seq(3)));
    feed.offer(push(6));
    let read = |position: &mut Position| feed.read(key, position, reader, |_| true);
    assert_eq!(read(&mut position), (Read::Behind, 0));
    position.seq = Seq(5);
    assert_eq!(read(&mut position), (Read::UpToDate, 1));
}

#[test]
fn every_follower_of_many_is_woken_once() {
    let feed = open_feed(0);
    let count = 2 * WAKE_CHUNK as i64 + 3;
    let handles: Vec<_> = (1..=count)
        .map(|id| Arc::new(Handle::new(DeviceId(id))))
        .collect();
    let keys: Vec<_> = handles
        .iter()
        .map(|handle| feed.follow(Arc::clone(handle), SLOT, None))
        .collect();
    let (first, position) = keys[0];
    feed.unfollow(first, position);
    for seq in 1..=2 {
        feed.offer(push(seq));
    }
    let woken: Vec<_> = handles.iter().map(|handle| handle.take_ready()).collect();
    assert_eq!(woken[0], Vec::<u32>::new());
    assert!(woken[1..].iter().all(|slots| slots == &[SLOT]));
}

/// A message of a small group stands in the rings of all its members.
#[test]
fn message_in_many_rings_counts_once() {
    let budget = Arc::new(Budget::default());
    let template = push(1).template;
    let feeds: Vec<_> = (0..10)
        .map(|_| {
            let feed = Feed::new(USER, Arc::clone(&budget));
            assert_eq!(feed.open(Seq::ZERO), Offer::Taken);
            feed.follow(Arc::new(Handle::new(DeviceId(2))), SLOT, None);
            feed.offer(template.push(Seq(1)));
            feed
        })
        .collect();
    let bytes = template.push(Seq(1)).bytes();
    drop(template);
    assert_eq!(budget.taken(), bytes + 10 * SLOT_BYTES);
    drop(feeds);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn feed_without_followers_keeps_its_head_and_no_push() {
    let feed = open_feed(5);
    for seq in [6, 7] {
        assert_eq!(feed.offer(push(seq)), Offer::Taken);
    }
    assert_eq!(feed.head(), Some(Seq(7)));
    assert!(feed.lock().ring.is_empty());
    assert_eq!(feed.budget.taken(), 0);
}

/// In a room nothing else has what is dropped.
#[test]
fn reader_that_keeps_up_loses_nothing_to_one_that_does_not() {
    let feed = Feed::new(Topic::Room(RoomId(1)), Arc::default());
    let (stuck, reader) = (DeviceId(2), DeviceId(3));
    feed.follow(Arc::new(Handle::new(stuck)), SLOT, None);
    let (key, mut position) = feed.follow(Arc::new(Handle::new(reader)), SLOT, None);
    for _ in 0..5 {
        feed.offer(ephemeral());
        feed.sweep();
        let (read, given) = feed.read(key, &mut position, reader, |_| true);
        assert_eq!((read, given), (Read::UpToDate, 1));
        assert_eq!(feed.lock().ring.len(), 1, "what is old was given back");
    }
}

#[test]
fn ring_nobody_reads_is_given_back_by_the_second_sweep() {
    let feed = open_feed(0);
    let stuck = Arc::new(Handle::new(DeviceId(2)));
    let (key, mut position) = feed.follow(stuck, SLOT, None);
    feed.offer(push(1));
    feed.sweep();
    assert_eq!(feed.lock().ring.len(), 1);
    feed.sweep();
    assert_eq!(feed.lock().ring.len(), 0);
    assert_eq!(feed.budget.taken(), 0);
    let (read, given) = feed.read(key, &mut position, DeviceId(2), |_| true);
    assert_eq!((read, given), (Read::Behind, 0));
}
