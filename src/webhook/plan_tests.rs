use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::*;

const LATE: i64 = i64::MAX;
const NEVER: i64 = i64::MIN;

fn event(id: i64, owner: i64) -> Row {
    Row {
        id,
        kind: 1,
        owner_id: owner,
        message_id: id,
        device_id: 0,
        created_at: 0,
    }
}

fn offer(plan: &mut Plan, owner: i64, ids: impl IntoIterator<Item = i64>, now: Instant) {
    for id in ids {
        assert!(plan.offer(event(id, owner), now));
    }
}

fn ids(plan: &mut Plan, now: Instant) -> Vec<i64> {
    std::iter::from_fn(|| plan.next(now))
        .map(|e| e.id)
        .collect()
}

#[test]
fn one_owner_does_not_wait_for_another_but_for_himself() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    offer(&mut plan, 1, [1, 2], now);
    offer(&mut plan, 2, [3], now);
    assert_eq!(ids(&mut plan, now), [1, 3]);
    assert!(!plan.taken(2, now));
    assert_eq!(plan.failed(1, now, NEVER), Failure::Again);
    assert!(
        ids(&mut plan, now).is_empty(),
        "the second waits for the first"
    );
    let later = plan.wake_at().unwrap();
    assert!(later > now && later <= now + WEBHOOK_BACK_OFF_MIN);
    assert_eq!(ids(&mut plan, later), [1]);
    plan.taken(1, later);
    assert_eq!(ids(&mut plan, later), [2]);
}

#[test]
fn event_that_was_tried_for_long_enough_makes_room_for_the_next() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    offer(&mut plan, 1, [1, 2], now);
    plan.next(now).unwrap();
    assert_eq!(plan.failed(1, now, LATE), Failure::GivenUp);
    assert_eq!(plan.done().collect::<Vec<_>>(), [1]);
    assert_eq!(ids(&mut plan, now), [2]);
}

#[test]
fn event_that_was_taken_is_not_taken_in_again_until_it_is_deleted() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    offer(&mut plan, 1, [1], now);
    plan.next(now).unwrap();
    plan.taken(1, now);
    offer(&mut plan, 1, [1], now);
    assert!(ids(&mut plan, now).is_empty());
    plan.deleted(&[1]);
    assert_eq!(plan.done_count(), 0);
}

#[test]
fn server_that_is_away_is_tried_with_one_event_at_a_time() {
    let (mut plan, mut now) = (Plan::default(), Instant::now());
    for owner in 1..=20 {
        offer(&mut plan, owner, [owner], now);
    }
    assert_eq!(ids(&mut plan, now).len(), 20);
    let failures = (1..=20).map(|owner| plan.failed(owner, now, NEVER));
    let away = failures.filter(|failure| *failure == Failure::NowAway);
    assert_eq!(away.count(), 1);
    let mut tried = BTreeSet::new();
    for _ in 0..30 {
        now = plan.wake_at().unwrap();
        let probe = ids(&mut plan, now);
        assert_eq!(probe.len(), 1);
        tried.insert(probe[0]);
        assert_eq!(plan.wake_at(), None, "the one under way comes first");
        plan.failed(probe[0], now, NEVER);
    }
    assert!(tried.len() > 10, "not the same one every time: {tried:?}");
    now = plan.wake_at().unwrap();
    let probe = plan.next(now).unwrap().owner_id;
    assert!(plan.taken(probe, now), "it is back");
    assert_eq!(ids(&mut plan, now).len(), 19, "nobody waits any longer");
}

#[test]
fn server_is_not_away_because_the_database_is() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    for owner in 1..=20 {
        offer(&mut plan, owner, [owner], now);
    }
    let later = now + WEBHOOK_BACK_OFF_MIN;
    assert_eq!(ids(&mut plan, now).len(), 20);
    for owner in 1..=20 {
        plan.unread(owner, later);
    }
    assert!(!plan.is_away());
    assert_eq!(plan.next(now), None, "it is given some rest");
    assert_eq!(plan.wake_at(), Some(later));
    assert_eq!(ids(&mut plan, later).len(), 20);
}

#[test]
fn what_is_held_is_bounded() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    offer(&mut plan, 1, 1..=10 * WEBHOOK_LANE_EVENTS_MAX as i64, now);
    let mut owners = 2..;
    let mut is_taken = |owner: &i64| plan.offer(event(1_000 + owner, *owner), now);
    let refused = owners.find(|owner| !is_taken(owner));
    assert_eq!(refused, Some(1 + WEBHOOK_LANES_MAX as i64));
    // Who has room already has it.
    assert!(plan.offer(event(9_000, 1), now));
}

#[test]
fn longest_pauses_are_bounded() {
    for failures in [1, 10, 40, u32::MAX] {
        let pause = back_off(failures, WEBHOOK_BACK_OFF_MAX);
        assert!((WEBHOOK_BACK_OFF_MIN..=WEBHOOK_BACK_OFF_MAX).contains(&pause));
    }
    assert_eq!(back_off(3, WEBHOOK_BACK_OFF_MAX), 4 * WEBHOOK_BACK_OFF_MIN);
}

proptest! {
    /// Against a table, as the driver works: whatever fails, and however late a lane is read on, every
    /// event is taken once, and those of one owner in order.
    #[test]
    fn every_event_is_taken_once_in_the_order_of_its_owner(
        owners in vec(1..6_i64, 1..120),
        fails in vec(any::<bool>(), 200),
    ) {
        let mut table: BTreeMap<i64, i64> = (1..).zip(owners.clone()).collect();
        let (mut plan, mut now) = (Plan::default(), Instant::now());
        let mut fails = fails.into_iter();
        let mut taken: Vec<(i64, i64)> = Vec::new();
        while !table.is_empty() {
            for (id, owner) in &table {
                prop_assert!(plan.offer(event(*id, *owner), now));
            }
            while let Some(next) = plan.next(now) {
                if fails.next().unwrap_or(false) {
                    plan.failed(next.owner_id, now, NEVER);
                } else {
                    plan.taken(next.owner_id, now);
                    taken.push((next.owner_id, next.id));
                }
            }
            let done: Vec<i64> = plan.done().collect();
            table.retain(|id, _| !done.contains(id));
            plan.deleted(&done);
            for hungry in plan.hungry().to_vec() {
                let page = table.iter().filter(|(_, owner)| **owner == hungry);
                let page = page.take(WEBHOOK_LANE_EVENTS_MAX);
                plan.feed(hungry, page.map(|(id, owner)| event(*id, *owner)).collect(), now);
            }
            now = plan.wake_at().unwrap_or(now).max(now);
        }
        let mut expected: Vec<(i64, i64)> = owners.into_iter().zip(1..).collect();
        expected.sort_unstable();
        let by_owner = |owner| taken.iter().filter(move |(o, _)| *o == owner).copied();
        let in_order: Vec<(i64, i64)> = (1..6).flat_map(by_owner).collect();
        prop_assert_eq!(in_order, expected);
    }
}
