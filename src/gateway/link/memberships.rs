//! What a session knows of the large groups its user is in, and loading that anew when an entry
//! says that it has changed. Which feeds are followed then is decided in `adopt`.
//!
//! Invariant: whatever changed at or before `covered` on the user's timeline is known, being loaded,
//! or about to be.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    delivery::{
        router::{Lease, Router},
        topic::Topic,
    },
    error::Result,
    gateway::Gateway,
    id::{GroupId, Owner, Seq, UserId},
    limits::SYNC_GROUPS_MAX,
    store::{self, Store, group::Membership, within_deadline},
};

/// What is known of a user's large groups.
pub(super) struct Memberships {
    user: UserId,
    /// Changes up to here on the user's timeline are known.
    covered: Seq,
    /// Something has changed since the last load began.
    is_stale: bool,
    loading: Option<BoxFuture<'static, Box<Loaded>>>,
    /// What syncs gave, or are to give, of groups that are not followed (yet, or for now).
    early: BTreeMap<GroupId, Given>,
}

/// The large groups of a user, and leases of the feeds that were not followed before.
pub(in crate::gateway) struct Loaded {
    /// Ascending by group.
    pub(super) memberships: Vec<Membership>,
    pub(super) leases: Vec<Lease>,
}

/// How far a sync gave a group's timeline.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) end: Seq,
    /// The sync goes on.
    pub(super) is_unfinished: bool,
}

/// How long a session waits before it tries again to load its memberships.
const LOAD_PAUSE: Duration = Duration::from_secs(1);

impl Memberships {
    /// Those of a user whose changes up to `covered` on his timeline are known.
    pub(super) const fn new(user: UserId, covered: Seq) -> Self {
        Self {
            user,
            covered,
            is_stale: false,
            loading: None,
            early: BTreeMap::new(),
        }
    }

    pub(super) const fn covered(&self) -> Seq {
        self.covered
    }

    /// Something has changed: they must be loaded.
    pub(super) const fn outdate(&mut self) {
        self.is_stale = true;
    }

    /// True when nothing has changed since the last load began.
    pub(super) const fn is_settled(&self) -> bool {
        !self.is_stale
    }

    /// The session was given its user's timeline up to `position`.
    pub(super) fn passed(&mut self, position: Seq) {
        self.covered = self.covered.max(position);
    }

    /// A sync gave the user's timeline from `after` to `end`; `mark` is its last entry that tells
    /// of a change. What the device says it holds up to `after` was not seen here.
    pub(super) fn synced(&mut self, after: Seq, end: Seq, mark: Option<Seq>) {
        if after > self.covered || mark > Some(self.covered) {
            self.is_stale = true;
        }
        self.passed(end);
    }

    /// A sync asks for a group that is not followed: it waits for that as soon as it is.
    pub(super) fn asked_early(&mut self, group: GroupId) {
        self.early.entry(group).or_default().is_unfinished = true;
    }

    /// A sync gave a group that is not followed: it was joined a moment ago.
    pub(super) fn given_early(&mut self, group: GroupId, given: Given) {
        self.early.insert(group, given);
        self.is_stale = true;
    }

    /// A group is not followed any more, for now at least.
    pub(super) fn dropped(&mut self, group: GroupId, given: Given) {
        self.early.insert(group, given);
    }

    /// What a sync gave of a group that is to be followed now.
    pub(super) fn early(&self, group: GroupId) -> Given {
        self.early.get(&group).copied().unwrap_or_default()
    }

    /// No sync goes on.
    pub(super) fn end_early_syncs(&mut self) {
        self.early.retain(|_, given| {
            given.is_unfinished = false;
            given.end > Seq::ZERO
        });
    }

    /// What a load brought was taken over.
    pub(super) fn adopted(&mut self) {
        if self.is_settled() {
            self.early.retain(|_, given| given.is_unfinished);
        }
    }

    /// Begins to load if they are stale and are not being loaded. `followed` gives the groups that
    /// are followed now, ascending.
    pub(super) fn refresh(&mut self, gateway: &Gateway, followed: impl FnOnce() -> Vec<GroupId>) {
        if !self.is_stale || self.loading.is_some() {
            return;
        }
        self.is_stale = false;
        let (user, followed) = (self.user, followed());
        let (store, router) = (gateway.store.clone(), Arc::clone(&gateway.router));
        let load = async move {
            loop {
                match within_deadline(load(&store, &router, user, &followed)).await {
                    Ok(loaded) => return Box::new(loaded),
                    Err(error) => tracing::warn!(%error, %user, "memberships must wait"),
                }
                tokio::time::sleep(LOAD_PAUSE).await;
            }
        };
        self.loading = Some(load.boxed());
    }

    /// Waits for a load; for ever when there is none. Cancel safe.
    pub(super) async fn loaded(&mut self) -> Box<Loaded> {
        match &mut self.loading {
            Some(loading) => {
                let loaded = loading.await;
                self.loading = None;
                loaded
            }
            None => std::future::pending().await,
        }
    }
}

async fn load(
    store: &Store,
    router: &Arc<Router>,
    user: UserId,
    followed: &[GroupId],
) -> Result<Loaded> {
    let mut loaded = store::group::memberships(store.reader(), &[user]).await?;
    let memberships = loaded.remove(&user).unwrap_or_default();
    let new = memberships
        .iter()
        .map(|membership| membership.group)
        .filter(|group| followed.binary_search(group).is_err());
    let leases = lease(store, router, new).await?;
    Ok(Loaded {
        memberships,
        leases,
    })
}

/// Leases the feeds of groups and opens those that are not open yet.
pub(super) async fn lease(
    store: &Store,
    router: &Arc<Router>,
    groups: impl Iterator<Item = GroupId>,
) -> Result<Vec<Lease>> {
    let leases = router.lease_all(groups.map(Topic::Group)).await?;
    let is_closed = |lease: &&Lease| lease.head().is_none();
    let owners = leases.iter().filter(is_closed);
    let owners: Vec<Owner> = owners.filter_map(|lease| lease.topic().owner()).collect();
    let mut heads = HashMap::new();
    for owners in owners.chunks(SYNC_GROUPS_MAX) {
        heads.extend(store::timeline::heads(store.reader(), owners).await?);
    }
    for lease in leases.iter().filter(is_closed) {
        let head = lease.topic().owner().and_then(|owner| heads.get(&owner));
        lease.open(head.copied().unwrap_or_default());
    }
    Ok(leases)
}
