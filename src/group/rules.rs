//! Who may do what with a group and its members. Pure: what is judged was read in the transaction
//! that carries the verdict out, with the group's row locked.
//!
//! Invariant: a group that has members has an admin. Whoever asks is judged first (10011 for a
//! stranger, 10002 for a member without the right), then whom it is about (10011).

use crate::error::{Code, Error, Result};

/// What a member is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May change the group and its members.
    Admin,
    /// May read and send, change what is kept with himself, and leave.
    Member,
}

impl Role {
    /// The column `member_type`, which is `MemberType` of the contract.
    #[must_use]
    pub const fn column(self) -> i16 {
        match self {
            Self::Admin => 1,
            Self::Member => 2,
        }
    }

    /// The role that a column says.
    #[must_use]
    pub const fn from_column(member_type: i16) -> Self {
        if member_type == Self::Admin.column() {
            Self::Admin
        } else {
            Self::Member
        }
    }
}

/// A member who is to be changed or removed, and by whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// The role of whoever asks; `None`: he is no member.
    pub(super) actor: Option<Role>,
    /// Whoever asks is himself the one it is about.
    pub(super) is_self: bool,
    /// The role of the one it is about; `None`: he is no member.
    pub(super) target: Option<Role>,
    /// There is an admin besides the one it is about.
    pub(super) other_admin: bool,
    /// How many members there are.
    pub(super) members: u64,
}

/// What the removal of a member leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// The group goes on without him.
    Leaves,
    /// He was the last one: it ends.
    EndsGroup,
}

/// How much room there is for new members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// How many members there are.
    pub(super) members: u64,
    /// How many there may be.
    pub(super) members_max: u64,
    /// The most large groups that one of the new members is in; 0 where that does not matter.
    pub(super) large_groups: u64,
    /// How many large groups a user may be in.
    pub(super) large_groups_max: u64,
}

/// Judges who wants to see a group, and gives his role.
pub(super) fn see(actor: Option<Role>) -> Result<Role> {
    actor.ok_or_else(Error::not_in_group)
}

/// Judges who wants to change a group or add members.
pub(super) fn administer(actor: Option<Role>) -> Result<()> {
    match see(actor)? {
        Role::Admin => Ok(()),
        Role::Member => Err(not_allowed("only an admin of the group may do this")),
    }
}

/// Judges whether so many new members fit.
pub(super) fn admit(newcomers: u64, room: Room) -> Result<()> {
    if room.members + newcomers > room.members_max {
        return Err(full("the group is full"));
    }
    if newcomers > 0 && room.large_groups >= room.large_groups_max {
        return Err(full("a user is in too many large groups"));
    }
    Ok(())
}

/// Judges a change of a member; `wanted` is his new role, `None` the one he has. Gives the role he
/// is to have.
pub(super) fn change(case: Case, wanted: Option<Role>) -> Result<Role> {
    let present = target(case)?;
    let role = wanted.unwrap_or(present);
    if role == present {
        return Ok(role);
    }
    administer(case.actor)?;
    if role == Role::Member && !case.other_admin {
        return Err(last_admin());
    }
    Ok(role)
}

/// Judges the removal of a member.
pub(super) fn remove(case: Case) -> Result<Removal> {
    let role = target(case)?;
    if case.members == 1 {
        return Ok(Removal::EndsGroup);
    }
    if role == Role::Admin && !case.other_admin {
        return Err(last_admin());
    }
    Ok(Removal::Leaves)
}

/// Judges who wants to touch a member: himself, or another one.
pub(super) fn approach(actor: Option<Role>, is_self: bool) -> Result<()> {
    if is_self {
        see(actor).map(drop)
    } else {
        administer(actor)
    }
}

/// Judges who touches whom, and gives the role of the one it is about.
fn target(case: Case) -> Result<Role> {
    approach(case.actor, case.is_self)?;
    case.target.ok_or_else(Error::not_in_group)
}

fn not_allowed(why: &'static str) -> Error {
    Error::business(Code::NotAllowed, why)
}

fn last_admin() -> Error {
    not_allowed("the group's last admin must name another one first")
}

fn full(why: &'static str) -> Error {
    Error::business(Code::GroupFull, why)
}

#[cfg(test)]
mod tests;
