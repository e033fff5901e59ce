//! What a feed's mutex protects: its head, its ring and its followers. Nothing here wakes or waits.
//!
//! Invariant: each slot of the ring counts the followers that have not passed it; the last one
//! frees it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use slab::Slab;

use super::Offer;
use crate::{
    delivery::{budget::Budget, handle::Handle, push::Push},
    id::Seq,
    limits::{RING_BYTES_MAX, RING_FLOOR_BYTES, RING_FRAMES_MAX},
};

#[derive(Debug)]
pub(super) struct State {
    /// The last entry known; `None` until the head has been read.
    pub(super) head: Option<Seq>,
    pub(super) ring: VecDeque<Slot>,
    /// The offset of the ring's first push.
    pub(super) first: u64,
    pub(super) bytes: usize,
    /// Bytes that the budget leaves it.
    floor: usize,
    pub(super) followers: Slab<Follower>,
    /// Entries that came before their predecessors.
    pub(super) early: BTreeMap<Seq, Push>,
    /// Ephemeral pushes that came before entries that must be had first, in the order they came.
    pub(super) held: VecDeque<(Seq, Push)>,
    /// How far the timeline is known to go, perhaps without the entries.
    pub(super) known: Seq,
    /// The offset after the ring's last push at the last sweep.
    pub(super) swept: u64,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) push: Push,
    /// The head when it came; its own seq when it is an entry.
    pub(super) head: Seq,
    /// Followers that have not passed it.
    pub(super) unread: u32,
}

/// What a push takes in the ring beside its message, which other rings may share.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

#[derive(Debug)]
pub(super) struct Follower {
    pub(super) handle: Arc<Handle>,
    pub(super) slot: u32,
    /// It was woken and has not read to the end since.
    pub(super) woken: bool,
}

/// A session that follows thousands of silent groups pays this for each, in the group's feed.
const _: () = assert!(size_of::<Follower>() <= 16);

/// Followers that are woken in one go: a feed with more is free for readers between them.
pub(super) const WAKE_CHUNK: usize = 64;

impl State {
    /// That of a timeline's feed, whose head is not known yet.
    pub(super) fn of_timeline() -> Self {
        Self::new(None, 0)
    }

    /// That of a feed that is all there is.
    pub(super) fn without_timeline() -> Self {
        Self::new(Some(Seq::ZERO), RING_FLOOR_BYTES)
    }

    fn new(head: Option<Seq>, floor: usize) -> Self {
        Self {
            head,
            ring: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor,
            followers: Slab::new(),
            early: BTreeMap::new(),
            held: VecDeque::new(),
            known: Seq::ZERO,
            swept: 0,
        }
    }

    /// The offset after the ring's last push.
    pub(super) fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    pub(super) fn append(&mut self, push: Push, budget: &Arc<Budget>) {
        if push.seq != Seq::ZERO {
            self.head = Some(push.seq);
        }
        let size = push.bytes();
        while self.ring.len() >= RING_FRAMES_MAX
            || self.bytes + size > RING_BYTES_MAX
            || (budget.is_exceeded() && !self.ring.is_empty() && self.bytes + size > self.floor)
        {
            self.drop_first(budget);
        }
        if self.followers.is_empty() {
            // Nobody to read it: the next follower begins after it.
            self.clear(budget);
            self.first += 1;
            return;
        }
        push.template.count_in(budget);
        budget.take(SLOT_BYTES);
        self.bytes += size;
        self.ring.push_back(Slot {
            push,
            head: self.head.unwrap_or(Seq::ZERO),
            unread: self.followers.len() as u32,
        });
    }

    /// Takes what came early and now follows the head; drops what the head has passed.
    pub(super) fn take_early(&mut self, budget: &Arc<Budget>) {
        while let (Some(head), Some(entry)) = (self.head, self.early.first_entry()) {
            if *entry.key() > head.next() {
                break;
            }
            let push = entry.remove();
            if push.seq > head {
                self.append(push, budget);
            }
        }
        while let (Some(head), Some((after, _))) = (self.head, self.held.front())
            && *after <= head
            && let Some((_, push)) = self.held.pop_front()
        {
            self.append(push, budget);
        }
    }

    /// Whether entries are missing after the head. A feed that is not open yet takes what it kept
    /// when it opens.
    pub(super) fn gap(&self) -> Offer {
        match self.head {
            Some(head) if !self.early.is_empty() || self.known > head => Offer::Gap,
            _ => Offer::Taken,
        }
    }

    /// Counts one follower as having passed the pushes from `begin` up to `end`.
    pub(super) fn pass(&mut self, begin: u64, end: u64) {
        let begin = begin.max(self.first) - self.first;
        let end = end.max(self.first) - self.first;
        for slot in self.ring.range_mut(begin as usize..end as usize) {
            slot.unread = slot.unread.saturating_sub(1);
        }
    }

    /// Gives back what every follower has passed.
    pub(super) fn drop_read(&mut self, budget: &Budget) {
        while self.ring.front().is_some_and(|slot| slot.unread == 0) {
            self.drop_first(budget);
        }
        if self.ring.is_empty() {
            self.ring = VecDeque::new();
        }
    }

    fn drop_first(&mut self, budget: &Budget) {
        if let Some(slot) = self.ring.pop_front() {
            self.first += 1;
            self.bytes -= slot.push.bytes();
            budget.give_back(SLOT_BYTES);
        }
    }

    /// Gives back what came before the sweep before this one, and was not read by now.
    pub(super) fn sweep(&mut self, budget: &Budget) {
        while self.first < self.swept && !self.ring.is_empty() {
            self.drop_first(budget);
        }
        if self.ring.is_empty() {
            self.ring = VecDeque::new();
        }
        self.swept = self.end();
    }

    pub(super) fn clear(&mut self, budget: &Budget) {
        self.first = self.end();
        budget.give_back(self.ring.len() * SLOT_BYTES);
        self.ring = VecDeque::new();
        self.bytes = 0;
    }

    /// Gathers followers from the key `next` on that are not woken yet, and counts them as woken.
    /// Returns where to go on while some may be left.
    pub(super) fn rouse(
        &mut self,
        next: usize,
        roused: &mut Vec<(Arc<Handle>, u32)>,
    ) -> Option<usize> {
        for key in next..self.followers.capacity() {
            if roused.len() == WAKE_CHUNK {
                return Some(key);
            }
            if let Some(follower) = self.followers.get_mut(key)
                && !std::mem::replace(&mut follower.woken, true)
            {
                roused.push((Arc::clone(&follower.handle), follower.slot));
            }
        }
        None
    }
}
