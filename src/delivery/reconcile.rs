//! The sweep: every feed is compared with the head in the database once per reconcile interval, in
//! chunks spread over it, and at once when hints may have been lost. It is what makes a lost hint a
//! delay and not a loss (I5).

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{feed::Feed, router::Router};
use crate::{
    error::Result,
    id::{Owner, Seq},
    limits::{COMPARE_AGAIN_MAX, GAP_WAIT, HURRY_INTERVAL, SWEEP_CHUNK},
    store::{self, Store},
};

/// What the database says of this instance's feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Feeds that were behind have been moved on.
    Forward,
    /// A timeline is shorter than its feed knew it: the database went back in time.
    WentBack,
}

/// What the sweep works with.
#[derive(Debug)]
pub struct Sweep {
    /// Whose feeds.
    pub router: Arc<Router>,
    /// What they are compared with.
    pub store: Store,
    /// In which all are compared once.
    pub interval: Duration,
    /// Wakes it when all must be compared at once; more reports that come before it has begun are
    /// one.
    pub hurry: Arc<Notify>,
}

impl Sweep {
    /// Compares all feeds until `stop`; `went_back` is called when the database turns out to be
    /// older than what was delivered from it.
    pub async fn run(self, stop: CancellationToken, went_back: impl Fn() + Send) {
        let sweeping = async {
            let mut haste = Haste {
                rests_until: Instant::now(),
                pause: HURRY_INTERVAL,
            };
            loop {
                self.go_round(&mut haste, &went_back).await;
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// Compares all feeds, in haste from when there is need of it. In every round a feed has its turn
    /// at about the same time.
    async fn go_round(&self, haste: &mut Haste, went_back: &(impl Fn() + Send)) {
        let begun = Instant::now();
        let mut feeds = self.router.feeds();
        feeds.sort_unstable_by_key(|feed| feed.topic());
        let chunks = feeds.chunks(SWEEP_CHUNK);
        let count = chunks.len().max(1) as u32;
        for (done, chunk) in (1..).zip(chunks) {
            for feed in chunk {
                feed.sweep();
            }
            if self.compare(chunk, went_back).await == Some(Verdict::WentBack) {
                // The other feeds are those of the former database too.
                break;
            }
            let due = begun + self.interval * done / count;
            self.pause_until(due, haste, went_back).await;
        }
        let end = begun + self.interval;
        self.pause_until(end, haste, went_back).await;
    }

    /// Waits, and compares all feeds at once whenever there is need of it: once at most where the
    /// time is over, so that the round goes on however often there is.
    async fn pause_until(&self, end: Instant, haste: &mut Haste, went_back: &(impl Fn() + Send)) {
        loop {
            let need = async {
                sleep_until(haste.rests_until).await;
                self.hurry.notified().await;
            };
            if timeout_at(end, need).await.is_err() {
                return;
            }
            haste.pause = if self.compare_all(went_back).await {
                HURRY_INTERVAL
            } else {
                // The need is still there.
                self.hurry.notify_one();
                (2 * haste.pause).min(COMPARE_AGAIN_MAX)
            };
            haste.rests_until = Instant::now() + haste.pause;
        }
    }

    /// Returns whether the database answered.
    async fn compare_all(&self, went_back: &(impl Fn() + Send)) -> bool {
        let feeds = self.router.feeds();
        for chunk in feeds.chunks(SWEEP_CHUNK) {
            match self.compare(chunk, went_back).await {
                Some(Verdict::Forward) => {}
                Some(Verdict::WentBack) => return true,
                None => return false,
            }
        }
        true
    }

    /// `None` when the database does not answer.
    async fn compare(
        &self,
        feeds: &[Arc<Feed>],
        went_back: &(impl Fn() + Send),
    ) -> Option<Verdict> {
        match reconcile(&self.store, feeds).await {
            Ok(verdict) => {
                if verdict == Verdict::WentBack {
                    went_back();
                }
                Some(verdict)
            }
            Err(error) => {
                tracing::warn!(%error, trace = ?error.trace(), "comparing feeds with the database failed");
                None
            }
        }
    }
}

/// When all feeds may be compared at once again.
struct Haste {
    rests_until: Instant,
    pause: Duration,
}

/// Compares `feeds` with the database and moves on those that are behind.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn reconcile(store: &Store, feeds: &[Arc<Feed>]) -> Result<Verdict> {
    let mut suspects = Vec::new();
    let known: Vec<(Arc<Feed>, Owner, Option<Seq>)> = feeds
        .iter()
        .filter_map(|feed| Some((Arc::clone(feed), feed.topic().owner()?, feed.head())))
        .collect();
    let heads = heads_of(store, known.iter().map(|(_, owner, _)| *owner)).await?;
    for (feed, owner, seen) in known {
        let head = heads.get(&owner).copied().unwrap_or(Seq::ZERO);
        let Some(seen) = seen else {
            // It may be about to open with a head that was read before this one.
            feed.note_end(head);
            continue;
        };
        if head < seen {
            return Ok(Verdict::WentBack);
        }
        if head > seen {
            suspects.push((feed, head));
        }
    }
    if !suspects.is_empty() {
        // What was committed a moment ago may be on its way.
        tokio::time::sleep(GAP_WAIT).await;
        for (feed, head) in suspects {
            feed.advance_to(head);
        }
    }
    Ok(Verdict::Forward)
}

async fn heads_of(
    store: &Store,
    owners: impl Iterator<Item = Owner>,
) -> Result<HashMap<Owner, Seq>> {
    let owners: Vec<Owner> = owners.collect();
    store::timeline::heads(store.reader(), &owners).await
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use tokio::time::timeout;

    use super::*;
    use crate::{
        delivery::{handle::Handle, router::Lease, topic::Topic},
        error::Code,
        id::{DeviceId, UserId},
        testing::{Timelines, append, send},
    };

    const USER: i64 = 1;
    const LONG: Duration = Duration::from_secs(20);

    async fn lease(world: &Timelines, user: i64, head: i64) -> Lease {
        let lease = world.router.lease(Topic::User(UserId(user))).await;
        lease.open(Seq(head));
        lease
    }

    fn sweep(world: &Timelines, interval: Duration) -> Sweep {
        Sweep {
            router: Arc::clone(&world.router),
            store: world.store.clone(),
            interval,
            hurry: Arc::default(),
        }
    }

    /// I5: as after a discontinuity.
    #[tokio::test]
    async fn sweep_in_a_hurry_brings_on_all_feeds_at_once() {
        let world = Timelines::new().await;
        let stop = CancellationToken::new();
        let sweep = sweep(&world, Duration::from_secs(3_600));
        let hurry = Arc::clone(&sweep.hurry);
        let sweep = world.tasks.spawn(sweep.run(stop.clone(), || {}));
        for count in 1..=3 {
            append_unheard(&world, USER, 1).await;
            let behind = lease(&world, USER, count - 1).await;
            let handle = Arc::new(Handle::new(DeviceId(1)));
            behind.follow(Arc::clone(&handle), 0, None);
            hurry.notify_one();
            timeout(LONG, handle.woken()).await.expect("it is moved on");
            assert_eq!(behind.head(), Some(Seq(count)));
        }
        stop.cancel();
        sweep.await.unwrap();
    }

    /// Appends entries whose hints are lost: no feed is listed while they are published.
    async fn append_unheard(world: &Timelines, user: i64, count: usize) {
        for _ in 0..count {
            let sent = append(&world.writer, send(user, &[user], "", b"x"));
            sent.await.unwrap();
        }
    }

    #[tokio::test]
    async fn feed_that_lost_a_hint_is_moved_on_and_its_followers_woken() {
        let world = Timelines::new().await;
        append_unheard(&world, USER, 3).await;
        append_unheard(&world, 2, 1).await;
        let behind = lease(&world, USER, 1).await;
        let up_to_date = lease(&world, 2, 1).await;
        let new = lease(&world, 3, 0).await;
        let unopened = world.router.lease(Topic::User(UserId(4))).await;
        let room = world.router.lease(Topic::Everyone).await;
        let handles: Vec<_> = [&behind, &up_to_date, &new, &unopened, &room]
            .into_iter()
            .map(|lease| {
                let handle = Arc::new(Handle::new(DeviceId(1)));
                lease.follow(Arc::clone(&handle), 7, None);
                handle
            })
            .collect();

        let verdict = reconcile(&world.store, &world.router.feeds()).await;
        assert_eq!(verdict.unwrap(), Verdict::Forward);
        let heads = [&behind, &up_to_date, &new, &unopened].map(|lease| lease.head());
        assert_eq!(heads, [Some(Seq(3)), Some(Seq(1)), Some(Seq(0)), None]);
        let woken: Vec<_> = handles.iter().map(|handle| handle.take_ready()).collect();
        assert_eq!(woken, [vec![7], vec![], vec![], vec![], vec![]]);
    }

    #[tokio::test]
    async fn feed_that_opens_with_an_older_head_than_it_was_compared_with_moves_on() {
        let world = Timelines::new().await;
        append_unheard(&world, USER, 2).await;
        let opening = world.router.lease(Topic::User(UserId(USER))).await;
        reconcile(&world.store, &world.router.feeds())
            .await
            .unwrap();
        opening.open(Seq(1));
        let moves_on = async {
            while opening.head() != Some(Seq(2)) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, moves_on).await.expect("it moves on");
    }

    #[tokio::test]
    async fn need_that_the_database_did_not_answer_stays() {
        let world = Timelines::new().await;
        let _lease = lease(&world, USER, 1).await;
        world.store.close().await;
        let stop = CancellationToken::new();
        let sweep = sweep(&world, Duration::from_secs(3_600));
        let hurry = Arc::clone(&sweep.hurry);
        hurry.notify_one();
        let sweep = world.tasks.spawn(sweep.run(stop.clone(), || {}));
        // The sweep rests while the need is there again.
        tokio::time::sleep(HURRY_INTERVAL / 4).await;
        timeout(LONG, hurry.notified()).await.expect("a need");
        stop.cancel();
        sweep.await.unwrap();
    }

    /// A push that its follower does not read is given up by the second ordinary round.
    #[tokio::test]
    async fn ordinary_rounds_go_on_however_often_there_is_need_of_haste() {
        let world = Timelines::new().await;
        let stop = CancellationToken::new();
        let sweep = sweep(&world, Duration::from_millis(5));
        let hurry = Arc::clone(&sweep.hurry);
        let lease = lease(&world, USER, 0).await;
        let (key, position) = lease.follow(Arc::new(Handle::new(DeviceId(1))), 0, None);
        append_unheard(&world, USER, 1).await;
        let sweep = world.tasks.spawn(sweep.run(stop.clone(), || {}));
        let given_up = async {
            loop {
                hurry.notify_one();
                tokio::task::yield_now().await;
                let mut position = position;
                let read = lease.read(key, &mut position, DeviceId(1), |_| false);
                if read.0 == crate::delivery::feed::Read::Behind {
                    return;
                }
            }
        };
        timeout(LONG, given_up).await.expect("it is given up");
        stop.cancel();
        sweep.await.unwrap();
    }

    #[tokio::test]
    async fn timeline_shorter_than_its_feed_is_reported() {
        let world = Timelines::new().await;
        append_unheard(&world, USER, 1).await;
        for (user, head) in [(USER, 2), (2, 1)] {
            let ahead = lease(&world, user, head).await;
            let verdict = reconcile(&world.store, &world.router.feeds()).await;
            assert_eq!(verdict.unwrap(), Verdict::WentBack);
            assert_eq!(ahead.head(), Some(Seq(head)));
        }
    }

    #[tokio::test]
    async fn database_that_does_not_answer_is_no_verdict() {
        let world = Timelines::new().await;
        let _lease = lease(&world, USER, 1).await;
        world.store.close().await;
        let verdict = reconcile(&world.store, &world.router.feeds()).await;
        assert!(verdict.unwrap_err().is(Code::TryAgain));
    }

    /// I5.
    #[tokio::test]
    async fn sweep_brings_on_all_feeds_and_reports_a_database_that_went_back() {
        let world = Timelines::new().await;
        let users = 1..=SWEEP_CHUNK as i64 + 1;
        for user in users.clone() {
            let queued = send(user, &[user], "", b"x");
            world.writer.append(queued, Instant::now()).unwrap();
        }
        // The queue is taken from in turns, so this one is stored last.
        append_unheard(&world, USER, 1).await;
        let mut leases = Vec::new();
        for user in users {
            leases.push(lease(&world, user, 0).await);
        }
        let handles = leases.iter().map(|lease| {
            let handle = Arc::new(Handle::new(DeviceId(1)));
            lease.follow(Arc::clone(&handle), 0, None);
            handle
        });
        let handles: Vec<_> = handles.collect();

        let stop = CancellationToken::new();
        let (went_back, mut reported) = tokio::sync::mpsc::channel(1);
        let sweep = sweep(&world, Duration::from_millis(30));
        let sweep = world.tasks.spawn(sweep.run(stop.clone(), move || {
            // One report is enough.
            let _ = went_back.try_send(());
        }));
        let woken = futures_util::future::join_all(handles.iter().map(|handle| handle.woken()));
        timeout(LONG, woken).await.expect("all are woken");
        assert_eq!(leases[0].head(), Some(Seq(2)));
        assert_eq!(leases[SWEEP_CHUNK].head(), Some(Seq(1)));

        leases[0].advance_to(Seq(3));
        let report = timeout(LONG, reported.recv()).await;
        report.expect("the sweep goes on").expect("a report");
        stop.cancel();
        sweep.await.unwrap();
    }

    /// Whoever is told makes the router forget its feeds; those that come back have new ones.
    #[tokio::test]
    async fn database_that_went_back_is_reported_once() {
        let world = Timelines::new().await;
        let mut leases = Vec::new();
        for user in 1..=3 * SWEEP_CHUNK as i64 {
            leases.push(lease(&world, user, 1).await);
        }
        let stop = CancellationToken::new();
        let reports = Arc::new(AtomicUsize::new(0));
        let (router, counter) = (Arc::clone(&world.router), Arc::clone(&reports));
        let sweep = sweep(&world, Duration::from_millis(40));
        let sweep = world.tasks.spawn(sweep.run(stop.clone(), move || {
            router.forget_feeds();
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        // A feed that comes after it is reached when the round is over.
        append_unheard(&world, USER, 2).await;
        let wait_for_report = async {
            while reports.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, wait_for_report).await.expect("a report");
        let next = lease(&world, USER, 1).await;
        let handle = Arc::new(Handle::new(DeviceId(1)));
        next.follow(Arc::clone(&handle), 0, None);
        timeout(LONG, handle.woken()).await.expect("it is moved on");
        assert_eq!(reports.load(Ordering::SeqCst), 1);
        stop.cancel();
        sweep.await.unwrap();
    }
}
