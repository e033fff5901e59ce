//! The bridge carries appended entries to the other instances of a cluster, one channel per topic.

use futures_util::future::BoxFuture;

use super::{push::Template, topic::Topic};
use crate::{error::Result, id::Seq};

pub mod in_process;

/// How entries reach other instances.
///
/// Delivery is at most once and may be delayed without bound: whoever relies on an entry reads the
/// timeline. What an implementation guarantees is that an entry published after `subscribe` has
/// returned is either offered to the subscribing instance or reported to it as a discontinuity.
/// No method waits for another instance, and `publish` never waits at all.
pub trait Bridge: Send + Sync + std::fmt::Debug {
    /// Starts to receive a topic; returns once the subscription is in force.
    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<()>>;

    /// Stops to receive a topic.
    fn unsubscribe(&self, topic: Topic);

    /// Offers an entry to whoever has subscribed elsewhere.
    fn publish(&self, topic: Topic, seq: Seq, message: &Template);

    /// True when there is nobody else to publish to, so that nothing needs to be encoded for them.
    fn is_alone(&self) -> bool;
}
