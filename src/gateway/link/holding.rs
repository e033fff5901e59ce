//! Waiting for syncs, each timeline by itself: while a device pulls pages of one, nothing of it is
//! pushed; after its last page pushing goes on from there, whatever the others wait for.

use super::{
    Link, USER_SLOT,
    follows::{Doubt, Follows, SlotKey},
    memberships::Given,
};
use crate::{
    id::GroupId,
    timeline::sync::{Ends, GroupEnd},
};

impl Link {
    /// The device asks for its user's timeline and those of `groups`: their pushes wait from here
    /// on, and nothing else does any more.
    pub(in crate::gateway) fn hold(&mut self, groups: impl Iterator<Item = GroupId>) {
        self.memberships.end_early_syncs();
        let mut held = vec![USER_SLOT];
        for group in groups {
            match self.follows.of_group(group) {
                Some(slot) => held.push(slot),
                None => self.memberships.asked_early(group),
            }
        }
        self.hold_only(held);
    }

    /// The device was given a page: each timeline goes on from where the page ended, and waits as
    /// long as the sync is not through with it.
    pub(in crate::gateway) fn synced(&mut self, ends: &Ends) {
        let user = &ends.user;
        self.memberships.synced(user.after, user.end, user.mark);
        if let Some(follow) = self.follows.get_mut(USER_SLOT) {
            follow.position.seq = user.end;
        }
        self.memberships.end_early_syncs();
        let mut held: Vec<SlotKey> = Vec::new();
        if user.is_unfinished {
            held.push(USER_SLOT);
        }
        for group in &ends.groups {
            held.extend(self.group_synced(group));
        }
        self.hold_only(held);
    }

    /// Takes over where a group's page ended. Returns its slot if the sync goes on.
    fn group_synced(&mut self, group: &GroupEnd) -> Option<SlotKey> {
        let Some(slot) = self.follows.of_group(group.group) else {
            // A page that had no room for it changes nothing.
            let end = group.end;
            let given = Given {
                end: end.unwrap_or_else(|| self.memberships.early(group.group).end),
                is_unfinished: group.is_unfinished,
            };
            self.memberships.given_early(group.group, given);
            return None;
        };
        let follow = self.follows.get_mut(slot)?;
        if let Some(end) = group.end {
            let has_skipped = group.after > follow.position.seq;
            if has_skipped {
                // It is not for him, or the device has it.
                follow.skip_to(group.after);
            }
            if has_skipped || follow.doubt != Doubt::None {
                // He has come back, and what is being loaded may not know it.
                self.memberships.outdate();
            }
            follow.position.seq = end;
        }
        group.is_unfinished.then_some(slot)
    }

    /// Pushes of all timelines go on from where the device is.
    pub(in crate::gateway) fn release(&mut self) {
        self.memberships.end_early_syncs();
        self.hold_only(Vec::new());
    }

    /// Exactly the timelines of these slots wait from here on.
    fn hold_only(&mut self, held: Vec<SlotKey>) {
        let waiting = self.waiting.get_mut();
        let released = waiting.map_or_else(Vec::new, |waiting| std::mem::take(&mut waiting.held));
        mark(&mut self.follows, &released, false);
        mark(&mut self.follows, &held, true);
        for slot in released {
            self.follows.make_ready(slot);
        }
        if !held.is_empty() {
            self.waiting.or_default().held = held;
        }
    }

    /// One timeline more waits for the sync that is under way.
    pub(super) fn hold_also(&mut self, slot: SlotKey) {
        mark(&mut self.follows, &[slot], true);
        self.waiting.or_default().held.push(slot);
    }
}

fn mark(follows: &mut Follows, slots: &[SlotKey], is_held: bool) {
    for slot in slots {
        if let Some(follow) = follows.get_mut(*slot) {
            follow.is_held = is_held;
        }
    }
}
