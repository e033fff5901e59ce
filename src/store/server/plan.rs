//! What a batch of sends is about to write, worked out before the database is asked, on the
//! assumption that holds for nearly every batch: no send was stored before, and what this instance
//! remembers of groups is current. The transaction checks the assumption; where it does not hold, the
//! batch goes the careful way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    id::{GroupId, MessageId, Owner, Seq, UserId},
    store::{
        append::{Entry, Placed, Send, To},
        group::GroupKind,
    },
};

/// What a batch is about to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The groups that must be there, of this kind, and the small ones at this version.
    pub(super) groups: BTreeMap<GroupId, (GroupKind, Option<i64>)>,
    /// Who must be a member of a large group.
    pub(super) members: BTreeSet<(GroupId, UserId)>,
    /// By how much each head is raised.
    pub(super) increments: BTreeMap<Owner, i64>,
}

/// One entry that is about to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub(super) owner: Owner,
    /// How far before the raised head it stands.
    pub(super) back: i64,
    pub(super) message: MessageId,
}

impl Plan {
    /// What `sends` are about to write; `None` when that cannot be said beforehand.
    pub(super) fn of(sends: &[Send]) -> Option<Self> {
        let mut plan = Self::default();
        let mut keys = HashSet::with_capacity(sends.len());
        for send in sends {
            let row = &send.row;
            if let Some(id) = &row.client_message_id
                && !keys.insert((row.sender_type, row.sender_id, &id[..]))
            {
                return None;
            }
            plan.add(send)?;
        }
        (!plan.increments.is_empty()).then_some(plan)
    }

    fn add(&mut self, send: &Send) -> Option<()> {
        match &send.to {
            To::Owners(_) => {}
            To::Members(roster) => {
                if send.member.is_some_and(|member| !roster.contains(member)) {
                    return None;
                }
                self.need(roster.group, GroupKind::Small, Some(roster.version))?;
            }
            To::Group(group) => {
                self.need(*group, GroupKind::Large, None)?;
                self.members
                    .extend(send.member.map(|member| (*group, member)));
            }
            // Some of it may be stored.
            To::Rest { .. } => return None,
        }
        for owner in owners(send) {
            *self.increments.entry(owner).or_default() += 1;
        }
        Some(())
    }

    /// `None` when two sends remember the group differently.
    fn need(&mut self, group: GroupId, kind: GroupKind, version: Option<i64>) -> Option<()> {
        let needed = (kind, version);
        (*self.groups.entry(group).or_insert(needed) == needed).then_some(())
    }

    /// Whether the groups are as the plan says. `found` are those that are there.
    pub(super) fn holds(&self, found: &[(GroupId, i16, i64)]) -> bool {
        let is_current = |(id, kind, version): &(GroupId, i16, i64)| {
            let needed = self.groups.get(id);
            needed.is_some_and(|(needed, at)| {
                needed.column() == *kind && at.is_none_or(|at| at == *version)
            })
        };
        found.len() == self.groups.len() && found.iter().all(is_current)
    }

    /// The entries in the order of the sends.
    pub(super) fn entries<'a>(&self, sends: &'a [Send]) -> impl Iterator<Item = Planned> + 'a {
        let mut left = self.increments.clone();
        sends
            .iter()
            .flat_map(owners_of)
            .map(move |(owner, message)| {
                let back = left.entry(owner).or_default();
                *back -= 1;
                Planned {
                    owner,
                    back: *back,
                    message,
                }
            })
    }

    /// What became of the sends, once the heads are raised to `heads`.
    pub(super) fn placed(&self, sends: &[Send], heads: &HashMap<Owner, Seq>) -> Vec<Placed> {
        let mut planned = self.entries(sends);
        let mut entry = |_| {
            let entry = planned.next()?;
            let head = heads.get(&entry.owner)?;
            Some((entry.owner, Seq(head.get() - entry.back)))
        };
        let place = |send: &Send| Placed::New {
            id: MessageId(send.row.id),
            send_time: send.row.send_time,
            entries: owners(send).filter_map(&mut entry).collect::<Vec<Entry>>(),
        };
        sends.iter().map(place).collect()
    }
}

fn owners_of(send: &Send) -> impl Iterator<Item = (Owner, MessageId)> + '_ {
    owners(send).map(|owner| (owner, MessageId(send.row.id)))
}

/// The timelines of a send that is as planned.
fn owners(send: &Send) -> impl Iterator<Item = Owner> + '_ {
    let (fixed, members, group): (&[Owner], &[UserId], _) = match &send.to {
        To::Owners(owners) => (owners, &[], None),
        To::Rest { owners, .. } => (owners, &[], None),
        To::Members(roster) => (&[], &roster.members, None),
        To::Group(group) => (&[], &[], Some(Owner::Group(*group))),
    };
    let members = members.iter().map(|user| Owner::User(*user));
    fixed.iter().copied().chain(members).chain(group)
}
