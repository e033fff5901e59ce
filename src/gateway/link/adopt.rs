//! Following the user's large groups, and what changes when his memberships were loaded anew.
//!
//! Invariant: of a group that he has left, nothing that stands after his leaving is given. Whoever
//! gives its entries passes the removal among them and stops (`Noticed::has_left`), and only
//! memberships that were loaded after that bring it on, from where he joined again.

use super::{
    Link,
    follows::{Doubt, SlotKey},
    memberships::{self, Given, Loaded},
};
use crate::{
    delivery::{router::Lease, topic::Topic},
    error::Result,
    gateway::Gateway,
    id::{GroupId, Seq},
    store::membership::Membership,
};

impl Link {
    /// Follows the groups that a user is in as he signs in, each from its head then.
    pub(super) async fn follow_groups(
        &mut self,
        gateway: &Gateway,
        memberships: &[Membership],
    ) -> Result<()> {
        if memberships.is_empty() {
            return Ok(());
        }
        let groups = memberships.iter().map(|membership| membership.group);
        let leases = memberships::lease(gateway, groups).await?;
        self.follows.reserve_groups(leases.len());
        for (membership, lease) in memberships.iter().zip(leases) {
            let after = membership.head.max(membership.joined);
            self.follows.follow(lease, Some(after));
        }
        Ok(())
    }

    /// Takes over the user's memberships.
    pub(in crate::gateway) fn take_loaded(&mut self, mut loaded: Loaded) {
        for (group, slot) in self.follows.groups() {
            let position = self.follows.get(slot).map(|follow| follow.position.seq);
            match loaded.joined(group, position.unwrap_or_default()) {
                Some(joined) => self.confirm(slot, joined),
                None => self.drop_group(group, slot),
            }
        }
        for lease in std::mem::take(&mut loaded.leases) {
            if let Topic::Group(group) = lease.topic()
                && let Some(joined) = loaded.joined(group, Seq::ZERO)
            {
                self.follow_new(lease, group, joined);
            }
        }
        let Self {
            follows,
            memberships,
            ..
        } = self;
        memberships.expect(loaded.joins.into_iter().filter(|join| {
            let follow = follows
                .of_group(join.group)
                .and_then(|slot| follows.get(slot));
            follow.is_some_and(|follow| join.after > follow.position.seq)
        }));
        memberships.adopted();
    }

    /// The user is in this group, after `joined`. Where the session has passed his leaving, it goes
    /// on from there; where it has not, what stands before that is for him, and it comes to it.
    fn confirm(&mut self, slot: SlotKey, joined: Seq) {
        let Some(follow) = self.follows.get_mut(slot) else {
            return;
        };
        // If he has left since that was loaded, it goes on waiting.
        if follow.doubt == Doubt::Loading {
            follow.doubt = Doubt::None;
            follow.skip_to(joined);
            self.follows.make_ready(slot);
        }
    }

    /// The user was not in this group. It is dropped where the session has passed his leaving;
    /// where it has not, what stands before that is for him, and it comes to it. If he has come back
    /// since, and a sync has given or is to give some of it, it goes on where that ends.
    fn drop_group(&mut self, group: GroupId, slot: SlotKey) {
        let Some(follow) = self.follows.get(slot) else {
            return;
        };
        if follow.doubt != Doubt::Loading {
            return;
        }
        let given = Given {
            end: follow.position.seq,
            is_unfinished: follow.is_held,
        };
        self.memberships.dropped(group, given);
        self.unfollow(slot);
    }

    /// Follows a group from where the user joined it, or where a sync has come to by now.
    fn follow_new(&mut self, lease: Lease, group: GroupId, joined: Seq) {
        let early = self.memberships.early(group);
        let slot = self.follows.follow(lease, Some(early.end.max(joined)));
        if early.is_unfinished {
            self.hold_also(slot);
        }
    }
}
