//! What the timelines of a session wait for: to be read because their feeds have left the session
//! behind, or a sync. Most sessions wait for nothing.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Poll, ready},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{follows::SlotKey, seldom::Seldom};
use crate::timeline::pages::Pushes;

/// The slots that wait.
#[derive(Default)]
pub(super) struct Waiting {
    /// Those of timelines that wait to be read.
    pub(super) behind: VecDeque<SlotKey>,
    /// The one that is being read.
    pub(super) catching_up: Option<CatchingUp>,
    /// Those of timelines that wait for a sync.
    pub(super) held: Vec<SlotKey>,
}

/// A timeline that is being read.
pub(super) struct CatchingUp {
    pub(super) slot: SlotKey,
    pub(super) read: BoxFuture<'static, Pushes>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.behind.is_empty() && self.catching_up.is_none() && self.held.is_empty()
    }
}

/// Waits for a catch-up; for ever when there is none. Cancel safe.
pub(super) async fn caught_up(waiting: &mut Seldom<Waiting>) -> (SlotKey, Pushes) {
    // Every connection has room for this future, so it keeps nothing across a wait.
    poll_fn(|context| {
        let Some(waiting) = waiting.get_mut() else {
            return Poll::Pending;
        };
        let Some(CatchingUp { slot, read }) = &mut waiting.catching_up else {
            return Poll::Pending;
        };
        let read = (*slot, ready!(read.poll_unpin(context)));
        waiting.catching_up = None;
        Poll::Ready(read)
    })
    .await
}
