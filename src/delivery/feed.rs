//! A feed: the live tail of one topic on this instance. It knows the head, keeps a short ring of
//! encoded pushes, and wakes the sessions that follow it.
//!
//! Followers pull: each holds a [`Position`] and reads on from it. A push stays in the ring until
//! every follower has passed it, or until the ring or all rings together are too large; who has
//! not read it by then reads on from the timeline ([`Read::Behind`]), and an ephemeral push is
//! lost to him. Invariant: what the ring holds of the timeline is contiguous and ends at the head,
//! so a position is either served without a gap or told that it is behind. An ephemeral push keeps
//! its place: it is served only to who has what stood on the timeline before it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::state::{Follower, State, WAKE_CHUNK};
use super::{budget::Budget, handle::Handle, push::Push, topic::Topic};
use crate::id::{DeviceId, Seq};

mod state;

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
pub struct FollowerKey(u32);

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

/// Entries a feed keeps that came before their predecessors; more are left to the timeline.
const EARLY_MAX: usize = 256;

impl Feed {
    /// A feed whose head is not known yet: it keeps what it is offered until [`Feed::open`].
    #[must_use]
    pub fn new(topic: Topic, budget: Arc<Budget>) -> Self {
        let state = match topic.owner() {
            Some(_) => State::of_timeline(),
            None => State::without_timeline(),
        };
        Self {
            topic,
            budget,
            state: Mutex::new(state),
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
    /// meanwhile is taken or dropped, or kept where it tells of a gap. An open feed stays as it is.
    #[must_use]
    pub(super) fn open(&self, head: Seq) -> Offer {
        let mut state = self.lock();
        if state.head.is_some() {
            return Offer::Taken;
        }
        state.head = Some(head);
        state.take_early(&self.budget);
        let offer = state.gap();
        self.wake_all(state);
        offer
    }

    /// Begins to follow from the head, or after the entry `after` where one is given; then the
    /// follower must read by itself if the head is beyond that. `slot` is what `handle` will be
    /// woken with.
    pub fn follow(
        &self,
        handle: Arc<Handle>,
        slot: u32,
        after: Option<Seq>,
    ) -> (FollowerKey, Position) {
        let mut state = self.lock();
        let position = Position {
            seq: after.or(state.head).unwrap_or(Seq::ZERO),
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
        (FollowerKey(key as u32), position)
    }

    /// Ends following; `position` is where the follower stood.
    pub fn unfollow(&self, key: FollowerKey, position: Position) {
        let mut state = self.lock();
        state.followers.try_remove(key.0 as usize);
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
                state.early.insert(seq, push);
                // The newest stay: how far the timeline goes must not be forgotten.
                if state.early.len() > EARLY_MAX {
                    state.early.pop_first();
                }
                false
            }
        };
        let offer = state.gap();
        if taken {
            self.wake_all(state);
        }
        offer
    }

    /// Takes note, before the feed is open, that the timeline goes on to `seq` at least.
    pub(super) fn note_end(&self, seq: Seq) {
        let mut state = self.lock();
        state.known = seq.max(state.known);
    }

    /// Takes note that the timeline goes on to `seq` at least, with whatever stands there: an open
    /// feed that has all the entries before it moves on, one that is not open yet does later.
    pub(super) fn has_come_to(&self, seq: Seq) -> Offer {
        let mut state = self.lock();
        state.known = seq.max(state.known);
        if state.head.is_none_or(|head| seq != head.next()) {
            return state.gap();
        }
        self.move_on(&mut state, seq);
        let offer = state.gap();
        self.wake_all(state);
        offer
    }

    /// Takes an ephemeral push that nobody may be given before he has the timeline up to `after`.
    /// Where entries are missing before that it is kept for a while, as one that came early.
    pub(super) fn offer_after(&self, push: Push, after: Seq) -> Offer {
        let mut state = self.lock();
        let is_due = state.held.is_empty() && state.head.is_some_and(|head| head >= after);
        if is_due {
            state.append(push, &self.budget);
        } else {
            state.known = after.max(state.known);
            state.held.push_back((after, push));
            if state.held.len() > EARLY_MAX {
                state.held.pop_front();
            }
        }
        let offer = state.gap();
        if is_due {
            self.wake_all(state);
        }
        offer
    }

    /// Moves the head on to `head`, which the timeline has: the entries between are left for the
    /// followers to read there. Returns whether the head moved.
    pub fn advance_to(&self, head: Seq) -> bool {
        let mut state = self.lock();
        if state.head.is_none_or(|known| known >= head) {
            return false;
        }
        self.move_on(&mut state, head);
        self.wake_all(state);
        true
    }

    fn move_on(&self, state: &mut State, head: Seq) {
        state.clear(&self.budget);
        state.head = Some(head);
        state.take_early(&self.budget);
    }

    /// The last entry that is known of, while entries before it are missing.
    #[must_use]
    pub fn gap_end(&self) -> Option<Seq> {
        let state = self.lock();
        let head = state.head?;
        let early = state.early.last_key_value().map(|(seq, _)| *seq);
        let known = (state.known > head).then_some(state.known);
        early.max(known)
    }

    /// Reads on from `position`. `write` is given each push that is not `reader`'s own and answers
    /// whether it wants more. Counts what it gave in the second value.
    pub fn read(
        &self,
        key: FollowerKey,
        position: &mut Position,
        reader: DeviceId,
        mut write: impl FnMut(&Push) -> bool,
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
            let is_missing_some = match push.seq {
                Seq::ZERO => slot.head > position.seq,
                seq => seq > position.seq.next(),
            };
            if is_missing_some {
                behind = true;
                break;
            }
            if push.seq == Seq::ZERO || push.seq > position.seq {
                position.seq = position.seq.max(push.seq);
                if push.origin() != reader {
                    wants_more = write(push);
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
            if let Some(follower) = state.followers.get_mut(key.0 as usize) {
                follower.woken = false;
            }
            Read::UpToDate
        } else {
            Read::Full
        };
        (read, given)
    }

    /// Moves a position past everything that came up to the entry `seq`, and to it unless it is
    /// beyond that: past ephemeral pushes too, which whoever was not there yet must not be given.
    pub fn skip_to(&self, seq: Seq, position: &mut Position) {
        let mut state = self.lock();
        let begin = position.offset.max(state.first);
        let ahead = state.ring.range((begin - state.first) as usize..);
        let skipped = ahead.take_while(|slot| slot.head <= seq).count();
        position.offset = begin + skipped as u64;
        position.seq = position.seq.max(seq);
        state.pass(begin, position.offset);
        state.drop_read(&self.budget);
    }

    /// Gives back what has been in the ring since the last call: its readers are stuck, and the
    /// timeline has what they miss. What came since then stays for those that are not.
    pub fn sweep(&self) {
        self.lock().sweep(&self.budget);
    }

    /// Wakes every follower that is not woken yet. One that comes meanwhile begins behind what it
    /// would be woken for, and one that has read it by then is woken in vain.
    fn wake_all<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.followers.len() <= WAKE_CHUNK {
            for (_, follower) in &mut state.followers {
                if !std::mem::replace(&mut follower.woken, true) {
                    follower.handle.wake(follower.slot);
                }
            }
            return;
        }
        let mut roused = Vec::with_capacity(WAKE_CHUNK);
        let mut next = Some(0);
        while let Some(key) = next {
            next = state.rouse(key, &mut roused);
            drop(state);
            for (handle, slot) in roused.drain(..) {
                handle.wake(slot);
            }
            state = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.lock().clear(&self.budget);
    }
}

#[cfg(test)]
mod tests;
