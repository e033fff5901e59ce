//! A feed: the live tail of one topic on this instance. It knows the head, keeps a short ring of
//! encoded pushes, and wakes the sessions that follow it.
//!
//! Followers pull: each holds a [`Position`] and reads on from it. A push stays in the ring until
//! every follower has passed it, or until the ring or all rings together are too large; who has
//! not read it by then reads on from the timeline ([`Read::Behind`]), and an ephemeral push is
//! lost to him. Invariant: what the ring holds of the timeline is contiguous and ends at the head,
//! so a position is either served without a gap or told that it is behind.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use slab::Slab;

use super::{handle::Handle, push::Push, topic::Topic};
use crate::{
    id::{DeviceId, Seq},
    limits::{RING_BYTES_MAX, RING_FRAMES_MAX, RINGS_BYTES_MAX},
};

/// Bytes held by all rings of an instance.
#[derive(Debug, Default)]
pub struct Budget(AtomicUsize);

impl Budget {
    fn take(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Relaxed) > RINGS_BYTES_MAX
    }
}

/// Where a follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last entry of the timeline that it has.
    pub seq: Seq,
    /// The offset of the next push in the ring, counted since the feed began.
    offset: u64,
}

/// Names a follower to its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerKey(usize);

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The position is at the head. The follower will be woken by the next push.
    UpToDate,
    /// The reader wants no more for now. It must read again by itself.
    Full,
    /// The entries after the position are no longer in the ring: they must be read from the
    /// timeline, and the position set, before this feed is read again.
    Behind,
}

/// What became of an offered push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It was taken, or is known already.
    Taken,
    /// Entries before it are missing. It is kept for a while; if they do not come, the head must
    /// be [moved](Feed::advance_to).
    Gap,
}

/// The live tail of one topic.
#[derive(Debug)]
pub struct Feed {
    topic: Topic,
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The last entry known; `None` until the head has been read.
    head: Option<Seq>,
    ring: VecDeque<Slot>,
    /// The offset of the ring's first push.
    first: u64,
    bytes: usize,
    followers: Slab<Follower>,
    /// Entries that came before their predecessors.
    early: BTreeMap<Seq, Push>,
    /// The offset of the ring's first push at the last sweep, if there was one.
    swept: Option<u64>,
}

#[derive(Debug)]
struct Slot {
    push: Push,
    /// Followers that have not passed it.
    unread: u32,
}

#[derive(Debug)]
struct Follower {
    handle: Arc<Handle>,
    slot: u32,
    /// It was woken and has not read to the end since.
    woken: bool,
}

/// Entries a feed keeps that came before their predecessors; more are left to the timeline.
const EARLY_MAX: usize = 256;

impl Feed {
    /// A feed whose head is not known yet: it keeps what it is offered until [`Feed::open`].
    #[must_use]
    pub fn new(topic: Topic, budget: Arc<Budget>) -> Self {
        let head = match topic.owner() {
            Some(_) => None,
            None => Some(Seq::ZERO),
        };
        Self {
            topic,
            budget,
            state: Mutex::new(State {
                head,
                ring: VecDeque::new(),
                first: 0,
                bytes: 0,
                followers: Slab::new(),
                early: BTreeMap::new(),
                swept: None,
            }),
        }
    }

    /// What it is the tail of.
    #[must_use]
    pub const fn topic(&self) -> Topic {
        self.topic
    }

    /// The last entry known, or `None` before the feed is open.
    #[must_use]
    pub fn head(&self) -> Option<Seq> {
        self.lock().head
    }

    /// Tells a new feed its head, read after it began to be offered pushes; what was offered
    /// meanwhile is taken or dropped. An open feed stays as it is.
    pub fn open(&self, head: Seq) {
        let mut state = self.lock();
        if state.head.is_none() {
            state.head = Some(head);
            state.take_early(&self.budget);
            state.wake_all();
        }
    }

    /// Begins to follow from the head. `slot` is what `handle` will be woken with.
    pub fn follow(&self, handle: Arc<Handle>, slot: u32) -> (FollowerKey, Position) {
        let mut state = self.lock();
        let position = Position {
            seq: state.head.unwrap_or(Seq::ZERO),
            offset: state.end(),
        };
        if state.followers.is_empty() {
            state.followers.reserve_exact(1);
        }
        let key = state.followers.insert(Follower {
            handle,
            slot,
            woken: false,
        });
        (FollowerKey(key), position)
    }

    /// Ends following; `position` is where the follower stood.
    pub fn unfollow(&self, key: FollowerKey, position: Position) {
        let mut state = self.lock();
        state.followers.try_remove(key.0);
        let end = state.end();
        state.pass(position.offset, end);
        state.drop_read(&self.budget);
    }

    /// Takes a push: the entry after the head, or an ephemeral one.
    pub fn offer(&self, push: Push) -> Offer {
        let mut state = self.lock();
        let taken = match (push.seq, state.head) {
            (Seq::ZERO, _) => {
                state.append(push, &self.budget);
                true
            }
            (seq, Some(head)) if seq <= head => return Offer::Taken,
            (seq, Some(head)) if seq == head.next() => {
                state.append(push, &self.budget);
                state.take_early(&self.budget);
                true
            }
            (seq, _) => {
                if state.early.len() < EARLY_MAX {
                    state.early.insert(seq, push);
                }
                false
            }
        };
        if taken {
            state.wake_all();
        }
        // A feed that is not open yet takes what it kept when it opens.
        if state.head.is_some() && !state.early.is_empty() {
            Offer::Gap
        } else {
            Offer::Taken
        }
    }

    /// Moves the head on to `head`, which the timeline has: the entries between are left for the
    /// followers to read there. Returns whether the head moved.
    pub fn advance_to(&self, head: Seq) -> bool {
        let mut state = self.lock();
        if state.head.is_none_or(|known| known >= head) {
            return false;
        }
        state.clear(&self.budget);
        state.head = Some(head);
        state.take_early(&self.budget);
        state.wake_all();
        true
    }

    /// The last entry that came early, while entries before it are missing.
    #[must_use]
    pub fn gap_end(&self) -> Option<Seq> {
        let state = self.lock();
        state.head?;
        state.early.last_key_value().map(|(seq, _)| *seq)
    }

    /// Reads on from `position`. `write` is given each push's body that is not `reader`'s own and
    /// answers whether it wants more. Counts what it gave in the second value.
    pub fn read(
        &self,
        key: FollowerKey,
        position: &mut Position,
        reader: DeviceId,
        mut write: impl FnMut(&[u8]) -> bool,
    ) -> (Read, u32) {
        let mut state = self.lock();
        let begin = position.offset.max(state.first);
        let mut offset = begin;
        let mut given = 0;
        let mut wants_more = true;
        let mut behind = false;
        while wants_more {
            let Some(slot) = state.ring.get((offset - state.first) as usize) else {
                break;
            };
            let push = &slot.push;
            if push.seq > position.seq.next() {
                behind = true;
                break;
            }
            if push.seq == Seq::ZERO || push.seq > position.seq {
                position.seq = position.seq.max(push.seq);
                if push.origin != reader {
                    wants_more = write(&push.body);
                    given += 1;
                }
            }
            offset += 1;
        }
        position.offset = offset;
        state.pass(begin, offset);
        state.drop_read(&self.budget);

        let at_end = offset == state.end();
        let read = if behind || (at_end && state.head.is_some_and(|head| head > position.seq)) {
            Read::Behind
        } else if at_end {
            if let Some(follower) = state.followers.get_mut(key.0) {
                follower.woken = false;
            }
            Read::UpToDate
        } else {
            Read::Full
        };
        (read, given)
    }

    /// Gives back a ring nobody has read from since the last call: its readers are stuck, and the
    /// timeline has what they miss.
    pub fn sweep(&self) {
        let mut state = self.lock();
        if state.swept == Some(state.first) {
            state.clear(&self.budget);
        }
        state.swept = (!state.ring.is_empty()).then_some(state.first);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.budget.give_back(bytes);
    }
}

impl State {
    /// The offset after the ring's last push.
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn append(&mut self, push: Push, budget: &Budget) {
        if push.seq != Seq::ZERO {
            self.head = Some(push.seq);
        }
        let size = push.body.len();
        while self.ring.len() >= RING_FRAMES_MAX
            || self.bytes + size > RING_BYTES_MAX
            || (budget.is_exceeded() && !self.ring.is_empty())
        {
            self.drop_first(budget);
        }
        if self.followers.is_empty() {
            // Nobody to read it: the next follower begins after it.
            self.clear(budget);
            self.first += 1;
            return;
        }
        budget.take(size);
        self.bytes += size;
        self.ring.push_back(Slot {
            push,
            unread: self.followers.len() as u32,
        });
    }

    /// Takes what came early and now follows the head; drops what the head has passed.
    fn take_early(&mut self, budget: &Budget) {
        while let (Some(head), Some(entry)) = (self.head, self.early.first_entry()) {
            if *entry.key() > head.next() {
                break;
            }
            let push = entry.remove();
            if push.seq > head {
                self.append(push, budget);
            }
        }
    }

    /// Counts one follower as having passed the pushes from `begin` up to `end`.
    fn pass(&mut self, begin: u64, end: u64) {
        let begin = begin.max(self.first) - self.first;
        let end = end.max(self.first) - self.first;
        for slot in self.ring.range_mut(begin as usize..end as usize) {
            slot.unread = slot.unread.saturating_sub(1);
        }
    }

    /// Gives back what every follower has passed.
    fn drop_read(&mut self, budget: &Budget) {
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
            self.bytes -= slot.push.body.len();
            budget.give_back(slot.push.body.len());
        }
    }

    fn clear(&mut self, budget: &Budget) {
        self.first = self.end();
        self.ring = VecDeque::new();
        budget.give_back(std::mem::take(&mut self.bytes));
    }

    fn wake_all(&mut self) {
        for (_, follower) in &mut self.followers {
            if !follower.woken {
                follower.woken = true;
                follower.handle.wake(follower.slot);
            }
        }
    }
}

#[cfg(test)]
mod tests;
