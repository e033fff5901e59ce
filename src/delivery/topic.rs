//! What can be followed.

use std::fmt;

use crate::id::{GroupId, Owner, RoomId, UserId};

/// A stream of messages that sessions follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// A user's own timeline.
    User(UserId),
    /// A large group's timeline.
    Group(GroupId),
    /// A room; it has no timeline.
    Room(RoomId),
    /// Every session of the cluster; it has no timeline.
    Everyone,
}

impl Topic {
    /// Whose timeline the topic is the live tail of, if it has one.
    #[must_use]
    pub const fn owner(self) -> Option<Owner> {
        match self {
            Self::User(id) => Some(Owner::User(id)),
            Self::Group(id) => Some(Owner::Group(id)),
            Self::Room(_) | Self::Everyone => None,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {id}"),
            Self::Group(id) => write!(f, "group {id}"),
            Self::Room(id) => write!(f, "room {id}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

impl From<Owner> for Topic {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::User(id) => Self::User(id),
            Owner::Group(id) => Self::Group(id),
        }
    }
}
