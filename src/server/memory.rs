//! What an instance remembers of the database: what makes it forget, what other instances tell of it,
//! and the sweeps that compare it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    auth::{self, Authenticator},
    clock::Clock,
    delivery::{
        bridge::{Incoming, News},
        handle::Eviction,
        reconcile,
        registry::Registry,
        router,
    },
    friendships::Friendships,
    lifecycle::Tasks,
    members::Members,
    store::Store,
    timeline::{
        Writer,
        ack::Acks,
        epoch::{self, Epoch},
    },
    user::Directory,
};

/// What this instance remembers of the database.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) router: Arc<router::Router>,
    pub(super) registry: Arc<Registry>,
    pub(super) authenticator: Arc<Authenticator>,
    /// Whose sessions are compared with the database at once.
    pub(super) doubts: Arc<auth::Doubts>,
    pub(super) epoch: Arc<Epoch>,
    /// Wakes the sweep over feeds.
    pub(super) hurry: Arc<Notify>,
    pub(super) acks: Arc<Acks>,
    pub(super) directory: Arc<Directory>,
    pub(super) members: Arc<Members>,
    pub(super) friendships: Arc<Friendships>,
}

impl Memory {
    /// Forgets everything, when the database turns out to be older than what was delivered from
    /// it. Devices come back and are told to reset.
    pub(super) fn start_over(&self) {
        tracing::warn!("the database went back in time, all sessions start over");
        self.router.forget_feeds();
        self.acks.forget();
        self.forget();
        self.registry.evict_all(Eviction::Draining);
    }

    /// Forgets what other instances tell the changes of.
    pub(super) fn forget(&self) {
        self.authenticator.forget();
        self.directory.forget();
        self.members.forget();
        self.friendships.forget();
    }

    /// Takes in what comes from other instances. Never waits.
    pub(super) fn hear(&self, incoming: Incoming) {
        match incoming {
            Incoming::Push { topic, push, after } => self.router.offer(topic, push, after),
            Incoming::Head { topic, seq } => self.router.has_come_to(topic, seq),
            Incoming::News(News::Revoked(devices)) => {
                self.authenticator.outdated(&devices);
                // Not ended at once: the device may have signed in anew meanwhile.
                self.doubts.raise(&devices);
            }
            Incoming::News(News::SignedIn {
                device, generation, ..
            }) => self.registry.signed_in_elsewhere(device, generation),
            Incoming::News(News::SignedOut(user)) => self.authenticator.user_changed(user),
            Incoming::News(News::Profile(user)) => {
                self.directory.outdated(user);
                self.authenticator.user_changed(user);
            }
            Incoming::News(News::Group { group, removed }) => {
                self.members.outdated(group, removed);
            }
            Incoming::News(News::HintsLost) | Incoming::Discontinuity => {
                self.forget();
                self.hurry.notify_one();
                self.doubts.raise_all();
            }
        }
    }
}

/// Starts what compares this instance with the database, and what writes acks.
pub(super) fn start_housekeeping(
    core: &Tasks,
    memory: &Memory,
    writer: &Writer,
    store: &Store,
    clock: Arc<dyn Clock>,
    interval: Duration,
) {
    let Memory {
        router,
        registry,
        doubts,
        hurry,
        acks,
        epoch,
        ..
    } = memory.clone();
    core.spawn_critical("acks", acks.run(store.clone(), core.clone()));
    let (fold, stop) = (store.clone().fold_log(), core.stop().clone());
    core.spawn_critical("log", async move {
        stop.run_until_cancelled_owned(fold).await;
    });
    let (memory, writer) = (memory.clone(), writer.clone());
    let went_back = move || {
        writer.forget_ids();
        memory.start_over();
    };
    let stop = core.stop();
    let watch = epoch::watch(
        epoch,
        store.clone(),
        interval,
        stop.clone(),
        went_back.clone(),
    );
    core.spawn_critical("epoch", watch);
    let feeds = reconcile::Sweep {
        router,
        store: store.clone(),
        interval,
        hurry,
    };
    core.spawn_critical("feed sweep", feeds.run(stop.clone(), went_back));
    let sessions = auth::Sweep {
        registry,
        store: store.clone(),
        clock,
        doubts,
        interval,
    };
    core.spawn_critical("session sweep", sessions.run(stop.clone()));
}
