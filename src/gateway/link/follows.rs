//! The feeds that a session follows, each in a slot with which it is woken, and which of them have
//! something to read. A session may follow thousands of groups, so one costs no more than it must.
//!
//! What a silent group costs a session: a `Follow` of 32 bytes, 4 bytes in the list of groups, and in
//! the group's feed a follower of 16 bytes: 52 bytes, and no room is reserved beyond what is used
//! at the sign-in.

use std::{collections::VecDeque, sync::Arc};

use slab::Slab;

use crate::{
    delivery::{
        feed::{Feed, FollowerKey, Position, Read},
        handle::Handle,
        push::Push,
        router::{Lease, Router},
        topic::Topic,
    },
    id::{DeviceId, GroupId, Owner, Seq},
};

/// Names a followed feed within its session.
pub(super) type SlotKey = u32;

/// Everything a session follows. Dropping it ends that.
pub(super) struct Follows {
    router: Arc<Router>,
    handle: Arc<Handle>,
    slots: Slab<Follow>,
    /// The slots of large groups, by the id of the group.
    groups: Vec<SlotKey>,
    /// The slots of feeds that have something which was not read yet, each once.
    ready: VecDeque<SlotKey>,
}

/// A followed feed.
pub(super) struct Follow {
    feed: Arc<Feed>,
    /// Up to where the session has it.
    pub(super) position: Position,
    key: FollowerKey,
    /// It waits for a sync.
    pub(super) is_held: bool,
    pub(super) doubt: Doubt,
    /// It waits for a read of the timeline.
    pub(super) is_behind: bool,
    /// It is in `Follows::ready`.
    is_ready: bool,
}

const _: () = assert!(size_of::<Follow>() <= 32);

/// Whether the user is still in a group; while it is not known, nothing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// As far as this session has read, he is.
    None,
    /// He has left, and may have come back: his memberships must be loaded.
    Raised,
    /// They are being loaded since then.
    Loading,
}

/// Ready slots of which the memory is kept while none is ready.
const READY_KEPT: usize = 4;

impl Follows {
    /// Nothing yet, with room for `count` feeds.
    pub(super) fn new(router: &Arc<Router>, handle: &Arc<Handle>, count: usize) -> Self {
        Self {
            router: Arc::clone(router),
            handle: Arc::clone(handle),
            slots: Slab::with_capacity(count),
            groups: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Follows a feed from its end, or after the entry `after` where one is given.
    pub(super) fn follow(&mut self, lease: Lease, after: Option<Seq>) -> SlotKey {
        let feed = lease.keep();
        let entry = self.slots.vacant_entry();
        let slot = entry.key() as SlotKey;
        let (key, position) = feed.follow(Arc::clone(&self.handle), slot, after);
        let has_more = feed.head() > Some(position.seq);
        let follow = entry.insert(Follow {
            feed,
            position,
            key,
            is_held: false,
            doubt: Doubt::None,
            is_behind: false,
            is_ready: false,
        });
        if let Some(group) = follow.group()
            && let Err(place) = self.place_of(group)
        {
            self.groups.insert(place, slot);
        }
        if has_more {
            self.make_ready(slot);
        }
        slot
    }

    /// Makes room for `count` groups more, and not for twice as many.
    pub(super) fn reserve_groups(&mut self, count: usize) {
        self.slots.reserve_exact(count);
        self.groups.reserve_exact(count);
    }

    /// Ends following; another feed may take the slot.
    pub(super) fn unfollow(&mut self, slot: SlotKey) {
        let Some(follow) = self.get(slot) else {
            return;
        };
        if let Some(group) = follow.group()
            && let Ok(place) = self.place_of(group)
        {
            self.groups.remove(place);
        }
        self.slots.remove(slot as usize).end(&self.router);
    }

    pub(super) fn get(&self, slot: SlotKey) -> Option<&Follow> {
        self.slots.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: SlotKey) -> Option<&mut Follow> {
        self.slots.get_mut(slot as usize)
    }

    /// What is followed in a slot.
    pub(super) fn topic(&self, slot: SlotKey) -> Option<Topic> {
        self.get(slot).map(|follow| follow.feed.topic())
    }

    /// The slot of a large group that is followed.
    pub(super) fn of_group(&self, group: GroupId) -> Option<SlotKey> {
        let place = self.place_of(group).ok()?;
        Some(self.groups[place])
    }

    /// The large groups that are followed, ascending, and their slots.
    pub(super) fn groups(&self) -> Vec<(GroupId, SlotKey)> {
        let groups = self.groups.iter();
        groups
            .filter_map(|slot| Some((self.get(*slot)?.group()?, *slot)))
            .collect()
    }

    /// The user's memberships are being loaded: what they say decides the doubts there are.
    pub(super) fn begin_loading(&mut self) {
        for slot in &self.groups {
            if let Some(follow) = self.slots.get_mut(*slot as usize)
                && follow.doubt == Doubt::Raised
            {
                follow.doubt = Doubt::Loading;
            }
        }
    }

    /// Where a group stands in the list of groups, or would.
    fn place_of(&self, group: GroupId) -> Result<usize, usize> {
        let groups = &self.groups;
        groups.binary_search_by_key(&Some(group), |slot| self.slots[*slot as usize].group())
    }

    /// Takes over which feeds have something new.
    pub(super) fn take_ready(&mut self) {
        let Self {
            handle,
            slots,
            ready,
            ..
        } = self;
        handle.drain_ready(|slot| list(slots, ready, slot));
    }

    /// A feed is to be read on.
    pub(super) fn make_ready(&mut self, slot: SlotKey) {
        list(&mut self.slots, &mut self.ready, slot);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next feed to be read on; those that wait for something are left out, because whatever
    /// they wait for makes them ready again.
    pub(super) fn next_ready(&mut self) -> Option<SlotKey> {
        while let Some(slot) = self.ready.pop_front() {
            if let Some(follow) = self.slots.get_mut(slot as usize) {
                follow.is_ready = false;
                if !follow.waits() {
                    return Some(slot);
                }
            }
        }
        if self.ready.capacity() > READY_KEPT {
            self.ready = VecDeque::new();
        }
        None
    }
}

/// Puts a slot at the end of `ready` unless it is there.
fn list(slots: &mut Slab<Follow>, ready: &mut VecDeque<SlotKey>, slot: SlotKey) {
    if let Some(follow) = slots.get_mut(slot as usize)
        && !std::mem::replace(&mut follow.is_ready, true)
    {
        ready.push_back(slot);
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        for follow in self.slots.drain() {
            follow.end(&self.router);
        }
    }
}

impl Follow {
    /// The timeline it follows, if it is one.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.feed.topic().owner()
    }

    fn group(&self) -> Option<GroupId> {
        match self.feed.topic() {
            Topic::Group(group) => Some(group),
            Topic::User(_) | Topic::Room(_) | Topic::Everyone => None,
        }
    }

    /// The last entry that this instance knows of: the feed's head, or beyond it what the session
    /// was given.
    pub(super) fn head(&self) -> Seq {
        self.position.seq.max(self.feed.head().unwrap_or_default())
    }

    /// Nothing may be read from it for now.
    pub(super) const fn waits(&self) -> bool {
        self.is_held || self.is_behind || !matches!(self.doubt, Doubt::None)
    }

    /// Leaves out whatever came up to an entry, see [`Feed::skip_to`].
    pub(super) fn skip_to(&mut self, seq: Seq) {
        self.feed.skip_to(seq, &mut self.position);
    }

    /// Reads on, see [`Feed::read`].
    pub(super) fn read(
        &mut self,
        reader: DeviceId,
        write: impl FnMut(&Push) -> bool,
    ) -> (Read, u32) {
        self.feed.read(self.key, &mut self.position, reader, write)
    }

    fn end(self, router: &Router) {
        self.feed.unfollow(self.key, self.position);
        router.release(&self.feed);
    }
}
