//! What can happen to a feed, in any order.

use proptest::{prelude::*, sample::Index};

use crate::id::DeviceId;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// New entries are stored and offered, one after the other.
    Append {
        device: DeviceId,
        size: usize,
        count: usize,
    },
    /// A new entry is stored; its offer is late or lost.
    Store {
        device: DeviceId,
        size: usize,
    },
    /// A stored entry is offered: late, once more, or before its predecessors.
    Offer(Index),
    /// An ephemeral push is offered.
    Ephemeral {
        device: DeviceId,
        size: usize,
    },
    /// The feed learns of a stored entry from the database.
    Advance(Index),
    /// The feed is told a head.
    Open(Index),
    /// A follower comes, to the head or to an entry.
    Follow {
        device: DeviceId,
        after: Option<Index>,
    },
    Unfollow(Index),
    /// A follower reads and refuses more after so many pushes.
    Read {
        follower: Index,
        room: usize,
    },
    /// A follower reads the timeline up to an entry, because it is behind or its device syncs.
    FromTimeline {
        follower: Index,
        to: Index,
    },
    /// A follower begins anew, behind an entry.
    Skip {
        follower: Index,
        to: Index,
    },
    Sweep,
    /// Other feeds begin or cease to use up the budget.
    Tighten,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let device = || (1..4_i64).prop_map(DeviceId);
    let size = || prop_oneof![4 => 16..100_usize, 1 => 100_000..400_000_usize];
    let count = prop_oneof![8 => 1..4_usize, 1 => 400..700_usize];
    let room = prop_oneof![Just(1), 2..6_usize, Just(usize::MAX)];
    let index = any::<Index>;
    prop_oneof![
        6 => (device(), size(), count).prop_map(|(device, size, count)| Step::Append {
            device,
            size: if count > 4 { size.min(100) } else { size },
            count,
        }),
        2 => (device(), size()).prop_map(|(device, size)| Step::Store { device, size }),
        3 => index().prop_map(Step::Offer),
        3 => (device(), size()).prop_map(|(device, size)| Step::Ephemeral { device, size }),
        1 => index().prop_map(Step::Advance),
        1 => index().prop_map(Step::Open),
        2 => (device(), any::<Option<Index>>())
            .prop_map(|(device, after)| Step::Follow { device, after }),
        1 => index().prop_map(Step::Unfollow),
        8 => (index(), room).prop_map(|(follower, room)| Step::Read { follower, room }),
        3 => (index(), index()).prop_map(|(follower, to)| Step::FromTimeline { follower, to }),
        1 => (index(), index()).prop_map(|(follower, to)| Step::Skip { follower, to }),
        1 => Just(Step::Sweep),
        1 => Just(Step::Tighten),
    ]
}
