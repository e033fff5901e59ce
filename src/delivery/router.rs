//! The router: this instance's feeds by topic, and the way of an entry to them.
//!
//! A feed lives while somebody holds a [`Lease`] on it. Invariant: nothing falls between the head a
//! feed begins with and the first push it is offered, because it is listed and subscribed on the
//! bridge before its head is read.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    bridge::Bridge,
    feed::{Budget, Feed, Offer},
    push::Template,
    topic::Topic,
};
use crate::{error::Result, id::Seq, lifecycle::Tasks, limits::GAP_WAIT, telemetry::Metrics};

/// This instance's feeds.
#[derive(Debug)]
pub struct Router {
    feeds: Mutex<HashMap<Topic, Leased>>,
    budget: Arc<Budget>,
    bridge: Arc<dyn Bridge>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Leased {
    feed: Arc<Feed>,
    leases: usize,
}

/// Keeps a feed alive.
#[derive(Debug)]
pub struct Lease {
    feed: Arc<Feed>,
    router: Arc<Router>,
}

impl Router {
    /// A router without feeds.
    #[must_use]
    pub fn new(bridge: Arc<dyn Bridge>, tasks: Tasks, metrics: Arc<Metrics>) -> Self {
        Self {
            feeds: Mutex::default(),
            budget: Arc::default(),
            bridge,
            tasks,
            metrics,
        }
    }

    /// The feed of a topic, listed and subscribed. A feed of a timeline keeps what it is offered
    /// until it is told its head with [`Feed::open`], which must be read after this returns.
    ///
    /// # Errors
    /// What the bridge answers when it cannot subscribe.
    pub async fn lease(self: &Arc<Self>, topic: Topic) -> Result<Lease> {
        let lease = self.list(topic);
        self.bridge.subscribe(topic).await?;
        Ok(lease)
    }

    fn list(self: &Arc<Self>, topic: Topic) -> Lease {
        let mut feeds = self.lock();
        let leased = feeds.entry(topic).or_insert_with(|| Leased {
            feed: Arc::new(Feed::new(topic, Arc::clone(&self.budget))),
            leases: 0,
        });
        leased.leases += 1;
        Lease {
            feed: Arc::clone(&leased.feed),
            router: Arc::clone(self),
        }
    }

    /// True when an entry on `topic` would reach nobody: there is no feed here and no other
    /// instance.
    #[must_use]
    pub fn is_unheard(&self, topic: Topic) -> bool {
        self.bridge.is_alone() && !self.lock().contains_key(&topic)
    }

    /// Offers an appended entry, or with [`Seq::ZERO`] an ephemeral message, to this instance's
    /// feed and to the bridge. Never waits.
    pub fn publish(self: &Arc<Self>, topic: Topic, seq: Seq, message: &Template) {
        if let Some(feed) = self.feed(topic)
            && feed.offer(message.push(seq)) == Offer::Gap
        {
            self.await_missing(feed);
        }
        self.bridge.publish(topic, seq, message);
    }

    /// Gives entries that are missing a moment to come, then leaves them to the timeline.
    fn await_missing(self: &Arc<Self>, feed: Arc<Feed>) {
        let metrics = Arc::clone(&self.metrics);
        self.tasks.spawn(async move {
            tokio::time::sleep(GAP_WAIT).await;
            if let Some(end) = feed.gap_end()
                && feed.advance_to(end)
            {
                metrics.gaps_filled.inc();
            }
        });
    }

    /// The feed of a topic, if this instance has one.
    #[must_use]
    pub fn feed(&self, topic: Topic) -> Option<Arc<Feed>> {
        self.lock()
            .get(&topic)
            .map(|leased| Arc::clone(&leased.feed))
    }

    /// All feeds of this instance, for the sweep.
    #[must_use]
    pub fn feeds(&self) -> Vec<Arc<Feed>> {
        let feeds = self.lock();
        feeds
            .values()
            .map(|leased| Arc::clone(&leased.feed))
            .collect()
    }

    /// Forgets all feeds: whoever leases one from now on gets a new one. Those who hold the old
    /// ones are to be ended.
    pub fn forget_feeds(&self) {
        self.lock().clear();
    }

    fn release(&self, feed: &Arc<Feed>) {
        let topic = feed.topic();
        let mut feeds = self.lock();
        if let Entry::Occupied(mut entry) = feeds.entry(topic) {
            if !Arc::ptr_eq(&entry.get().feed, feed) {
                return;
            }
            entry.get_mut().leases -= 1;
            if entry.get().leases == 0 {
                entry.remove();
                self.bridge.unsubscribe(topic);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, Leased>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Lease {
    type Target = Feed;

    fn deref(&self) -> &Feed {
        &self.feed
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.router.release(&self.feed);
    }
}
