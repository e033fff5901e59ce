//! The bridge carries appended entries, and news of what has changed, to the other instances of a
//! cluster: one channel per topic.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{push::Push, topic::Topic};
use crate::id::{DeviceId, GroupId, Seq, UserId};

mod frame;
pub mod in_process;
pub mod presence;
pub mod redis;

/// How entries and news reach other instances.
///
/// Delivery is at most once and may be delayed without bound: whoever relies on an entry reads the
/// timeline. What an implementation guarantees is that whatever is published after `subscribe` has
/// returned is offered to the subscribing instance in the order of its publishing, or reported to
/// it as a discontinuity later. Nothing waits for another instance, and `publish` and `tell` never
/// wait at all.
pub trait Bridge: Send + Sync + std::fmt::Debug {
    /// Starts to receive topics; returns once the subscriptions are in force. It does not fail:
    /// while that cannot be had it returns all the same, and when it can, a discontinuity is
    /// reported.
    fn subscribe(&self, topics: &[Topic]) -> BoxFuture<'static, ()>;

    /// Stops to receive a topic.
    fn unsubscribe(&self, topic: Topic);

    /// Offers an entry or an ephemeral message to whoever has subscribed elsewhere. `after` is what
    /// he must have of the timeline before he is given an ephemeral message, if anything.
    fn publish(&self, topic: Topic, push: &Push, after: Seq);

    /// Completes when much can be published without loss, or nothing at all because nobody can be
    /// reached. For those who publish so much at once that it would push out what others publish.
    fn has_room(&self) -> BoxFuture<'static, ()>;

    /// Tells the other instances what has changed.
    fn tell(&self, news: News);

    /// True when there is nobody else to publish to, so that nothing needs to be encoded for them.
    fn is_alone(&self) -> bool;
}

/// What has changed that other instances remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Tokens of these devices were deleted or replaced.
    Revoked(Arc<[DeviceId]>),
    /// A device has signed in; it reaches the instances that follow the user's timeline.
    SignedIn {
        /// Who.
        user: UserId,
        /// On which device.
        device: DeviceId,
        /// The sign-in counter of the device.
        generation: i64,
    },
    /// A user whose tokens the business keeps was signed out of some devices.
    SignedOut(UserId),
    /// A user's profile.
    Profile(UserId),
    /// Who is in a group.
    Group {
        /// Which one.
        group: GroupId,
        /// Who was removed.
        removed: Option<UserId>,
    },
    /// Something could not be published. To hear it is a discontinuity.
    HintsLost,
}

/// What comes from other instances.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// For this instance's feed of a topic.
    Push {
        /// The topic.
        topic: Topic,
        /// What was published.
        push: Push,
        /// See [`Bridge::publish`].
        after: Seq,
    },
    /// A topic's timeline has come so far; what stands on it is in the database.
    Head {
        /// The topic.
        topic: Topic,
        /// The position.
        seq: Seq,
    },
    /// Something that this instance may remember has changed.
    News(News),
    /// Anything may have been missed until now.
    Discontinuity,
}
