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
    bridge::{Bridge, News},
    budget::Budget,
    feed::{Feed, Offer},
    push::{Push, Template},
    topic::Topic,
};
use crate::{id::Seq, lifecycle::Tasks, limits::GAP_WAIT, telemetry::Metrics};

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
    /// Somebody else gives it back.
    is_kept: bool,
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
    /// until it is told its head with [`Lease::open`], which must be read after this returns.
    pub async fn lease(self: &Arc<Self>, topic: Topic) -> Lease {
        let lease = self.list(topic);
        self.bridge.subscribe(&[topic]).await;
        lease
    }

    /// As [`Router::lease`], of two topics at the same time.
    pub async fn lease_both(self: &Arc<Self>, topics: [Topic; 2]) -> [Lease; 2] {
        let leases = topics.map(|topic| self.list(topic));
        self.bridge.subscribe(&topics).await;
        leases
    }

    /// As [`Router::lease`], of many topics at the same time.
    pub async fn lease_all(self: &Arc<Self>, topics: &[Topic]) -> Vec<Lease> {
        let leases = topics.iter().map(|topic| self.list(*topic)).collect();
        self.bridge.subscribe(topics).await;
        leases
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
            is_kept: false,
        }
    }

    /// True when an entry on `topic` would reach nobody: there is no feed here and no other
    /// instance.
    #[must_use]
    pub fn is_unheard(&self, topic: Topic) -> bool {
        self.is_alone() && !self.lock().contains_key(&topic)
    }

    /// Offers an appended entry, or with [`Seq::ZERO`] an ephemeral message, to this instance's
    /// feed and to the bridge. Never waits.
    pub fn publish(self: &Arc<Self>, topic: Topic, seq: Seq, message: &Arc<Template>) {
        self.publish_push(topic, message.push(seq), Seq::ZERO);
    }

    /// Offers an ephemeral message to those of `topic`, a large group, who have its timeline up to
    /// `after`: whoever lacks some is given that first.
    pub fn publish_after(self: &Arc<Self>, topic: Topic, after: Seq, message: &Arc<Template>) {
        self.publish_push(topic, message.push(Seq::ZERO), after);
    }

    fn publish_push(self: &Arc<Self>, topic: Topic, push: Push, after: Seq) {
        self.bridge.publish(topic, &push, after);
        self.offer(topic, push, after);
    }

    /// Offers to this instance's feed what another instance has published.
    pub fn offer(self: &Arc<Self>, topic: Topic, push: Push, after: Seq) {
        let Some(feed) = self.feed(topic) else {
            return;
        };
        let offer = if after > Seq::ZERO {
            // Its followers pass what is before it, removals above all, before they are given it.
            feed.offer_after(push, after)
        } else {
            feed.offer(push)
        };
        if offer == Offer::Gap {
            self.await_missing(feed);
        }
    }

    /// Tells this instance's feed how far its timeline goes, where another instance did not say
    /// what stands there.
    pub fn has_come_to(self: &Arc<Self>, topic: Topic, seq: Seq) {
        if let Some(feed) = self.feed(topic)
            && feed.has_come_to(seq) == Offer::Gap
        {
            self.await_missing(feed);
        }
    }

    /// Completes when much can be published at once: see [`Bridge::has_room`].
    pub async fn has_room(&self) {
        self.bridge.has_room().await;
    }

    /// Tells the other instances what has changed.
    pub fn tell(&self, news: News) {
        self.bridge.tell(news);
    }

    /// True when there is no other instance.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.bridge.is_alone()
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
        // Under the lock, as in `release`: a lease that comes meanwhile subscribes after it.
        let mut feeds = self.lock();
        for (topic, _) in feeds.drain() {
            self.bridge.unsubscribe(topic);
        }
    }

    /// Gives back a lease that was [kept](Lease::keep).
    pub fn release(&self, feed: &Arc<Feed>) {
        let topic = feed.topic();
        let mut feeds = self.lock();
        match feeds.entry(topic) {
            Entry::Occupied(mut entry) if Arc::ptr_eq(&entry.get().feed, feed) => {
                entry.get_mut().leases -= 1;
                if entry.get().leases == 0 {
                    entry.remove();
                    self.bridge.unsubscribe(topic);
                }
            }
            Entry::Occupied(_) => {}
            // It was forgotten, perhaps before its holder had subscribed.
            Entry::Vacant(_) => self.bridge.unsubscribe(topic),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, Leased>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Tells a new feed its head; an open one stays as it is. If entries are missing between that
    /// and what the feed was offered, they are given a moment to come.
    pub fn open(&self, head: Seq) {
        if self.feed.open(head) == Offer::Gap {
            self.router.await_missing(Arc::clone(&self.feed));
        }
    }

    /// The feed alone, for those who hold many: they give it back by [`Router::release`].
    #[must_use]
    pub fn keep(mut self) -> Arc<Feed> {
        self.is_kept = true;
        Arc::clone(&self.feed)
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
        if !self.is_kept {
            self.router.release(&self.feed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::{
        delivery::{
            bridge::in_process::InProcess,
            feed::{FollowerKey, Position, Read},
            handle::Handle,
        },
        id::{DeviceId, UserId},
        pb,
    };

    const TOPIC: Topic = Topic::User(UserId(1));
    const READER: DeviceId = DeviceId(2);

    fn router() -> Arc<Router> {
        let bridge = Arc::new(InProcess);
        Arc::new(Router::new(bridge, Tasks::default(), Arc::default()))
    }

    fn template() -> Arc<Template> {
        Arc::new(Template::new(pb::Message::default(), DeviceId(1)))
    }

    async fn open(router: &Arc<Router>, head: i64) -> Lease {
        let lease = router.lease(TOPIC).await;
        lease.open(Seq(head));
        lease
    }

    /// Reads to the end: how it ended, and how many pushes there were.
    fn read(lease: &Lease, position: &mut Position, key: FollowerKey) -> (Read, u32) {
        lease.read(key, position, READER, |_| true)
    }

    #[tokio::test]
    async fn feed_lives_as_long_as_its_last_lease() {
        let router = router();
        let first = router.lease(TOPIC).await;
        let second = router.lease(TOPIC).await;
        let feed = router.feed(TOPIC).expect("a leased feed is listed");
        assert!(Arc::ptr_eq(&first.feed, &feed) && Arc::ptr_eq(&second.feed, &feed));
        drop(first);
        assert!(!router.is_unheard(TOPIC));
        drop(second);
        assert!(router.is_unheard(TOPIC));
        assert!(router.feeds().is_empty());
    }

    #[tokio::test]
    async fn old_lease_does_not_remove_a_new_feed() {
        let router = router();
        let old = open(&router, 1).await;
        router.forget_feeds();
        assert!(router.is_unheard(TOPIC));
        let new = open(&router, 0).await;
        drop(old);
        let feed = router.feed(TOPIC).expect("the new feed stays");
        assert!(Arc::ptr_eq(&new.feed, &feed));
        drop(new);
        assert!(router.is_unheard(TOPIC));
    }

    #[tokio::test]
    async fn publishing_without_a_feed_leaves_nothing_behind() {
        let router = router();
        router.publish(TOPIC, Seq(1), &template());
        router.publish(TOPIC, Seq::ZERO, &template());
        assert!(router.feeds().is_empty());
        assert_eq!(open(&router, 1).await.head(), Some(Seq(1)));
    }

    #[tokio::test]
    async fn entry_published_before_the_head_was_read_is_taken_or_known() {
        let router = router();
        let lease = router.lease(TOPIC).await;
        for seq in 4..=6 {
            router.publish(TOPIC, Seq(seq), &template());
        }
        lease.open(Seq(5));
        assert_eq!(lease.head(), Some(Seq(6)));
        assert_eq!(lease.gap_end(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn gap_is_left_to_the_timeline_after_a_moment() {
        let router = router();
        let lease = open(&router, 0).await;
        let (key, mut position) = lease.follow(Arc::new(Handle::new(READER)), 0, None);
        let begun = Instant::now();
        for seq in [1, 3, 5] {
            router.publish(TOPIC, Seq(seq), &template());
        }
        assert_eq!(read(&lease, &mut position, key), (Read::UpToDate, 1));
        router.tasks.finished().await;
        assert_eq!(begun.elapsed(), GAP_WAIT);
        assert_eq!(lease.head(), Some(Seq(5)));
        assert_eq!(read(&lease, &mut position, key), (Read::Behind, 0));
        assert_eq!(router.metrics.gaps_filled.get(), 1);
    }

    /// Nothing may follow that would tell of it.
    #[tokio::test(start_paused = true)]
    async fn gap_that_a_feed_opens_with_is_left_to_the_timeline_too() {
        let router = router();
        let lease = router.lease(TOPIC).await;
        router.publish(TOPIC, Seq(4), &template());
        lease.open(Seq(2));
        router.tasks.finished().await;
        assert_eq!(lease.head(), Some(Seq(4)));
    }

    /// What its followers have not read stays in the ring meanwhile.
    #[tokio::test(start_paused = true)]
    async fn ephemeral_message_that_overtakes_an_entry_waits_for_it_a_moment() {
        let group = Topic::Group(crate::id::GroupId(1));
        for comes in [true, false] {
            let router = router();
            let lease = router.lease(group).await;
            lease.open(Seq::ZERO);
            let (key, mut position) = lease.follow(Arc::new(Handle::new(READER)), 0, None);
            router.publish(group, Seq(1), &template());
            router.publish_after(group, Seq(2), &template());
            router.publish_after(group, Seq(2), &template());
            if comes {
                router.publish(group, Seq(2), &template());
                assert_eq!(read(&lease, &mut position, key), (Read::UpToDate, 4));
            } else {
                assert_eq!(read(&lease, &mut position, key), (Read::UpToDate, 1));
            }
            router.tasks.finished().await;
            assert_eq!(lease.head(), Some(Seq(2)));
            if !comes {
                assert_eq!(read(&lease, &mut position, key), (Read::Behind, 0));
                position.seq = Seq(2);
                assert_eq!(read(&lease, &mut position, key), (Read::UpToDate, 2));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gap_that_closes_in_time_costs_no_read() {
        let router = router();
        let lease = open(&router, 0).await;
        let (key, mut position) = lease.follow(Arc::new(Handle::new(READER)), 0, None);
        router.publish(TOPIC, Seq(2), &template());
        advance(GAP_WAIT / 2).await;
        router.publish(TOPIC, Seq(1), &template());
        router.tasks.finished().await;
        assert_eq!(read(&lease, &mut position, key), (Read::UpToDate, 2));
        assert_eq!(router.metrics.gaps_filled.get(), 0);
    }
}
