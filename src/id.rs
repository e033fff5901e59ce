//! Identifiers as types of their own, so that a user id is never passed where a device id is
//! meant. All are 64-bit signed integers on the wire and in the database; 0 means "none".

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);

        impl $name {
            /// The plain number, as it stands on the wire and in the database.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl From<i64> for $name {
            fn from(value: i64) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An account.
    UserId
);
id!(
    /// An installation of a client on some machine; it survives sign-outs.
    DeviceId
);
id!(
    /// A small or a large group.
    GroupId
);
id!(
    /// A room: a topic without membership or history.
    RoomId
);
id!(
    /// A message, the same on every timeline it stands on; 0 when it was not persisted.
    MessageId
);
id!(
    /// A position in one timeline: 1, 2, 3 … without gaps; 0 is before the first entry.
    Seq
);

impl Seq {
    /// Before the first entry of any timeline.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Whose timeline it is.
///
/// The order (users before groups, each by id) is the order in which rows are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A user's own timeline: one-to-one messages, small groups, what the server tells him.
    User(UserId),
    /// A large group's timeline.
    Group(GroupId),
}

impl Owner {
    /// The column `owner_type`: 1 for users, 2 for large groups.
    #[must_use]
    pub const fn kind(self) -> i16 {
        match self {
            Self::User(_) => 1,
            Self::Group(_) => 2,
        }
    }

    /// The column `owner_id`.
    #[must_use]
    pub const fn id(self) -> i64 {
        match self {
            Self::User(id) => id.0,
            Self::Group(id) => id.0,
        }
    }

    /// The owner that the two columns name, or `None` for an `owner_type` this version does not
    /// know.
    #[must_use]
    pub const fn from_columns(kind: i16, id: i64) -> Option<Self> {
        match kind {
            1 => Some(Self::User(UserId(id))),
            2 => Some(Self::Group(GroupId(id))),
            _ => None,
        }
    }
}
