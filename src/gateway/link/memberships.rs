//! What a session knows of the large groups its user is in, and loading that anew when an entry
//! says that it has changed. Which feeds are followed then is decided in `adopt`.
//!
//! Invariant: whatever changed at or before `covered` on the user's timeline is known, being loaded,
//! or about to be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{follows::Follows, seldom::Seldom};
use crate::{
    delivery::{router::Lease, topic::Topic},
    error::Result,
    gateway::Gateway,
    id::{GroupId, MessageId, Owner, Seq, UserId},
    limits::{JOINS_PENDING_MAX, MEMBERSHIP_LOADS_MAX, SWEEP_CHUNK},
    store::{self, membership::Membership, within_deadline},
};

/// What is known of a user's large groups.
pub(super) struct Memberships {
    /// Changes up to here on the user's timeline are known.
    covered: Seq,
    /// Something has changed since the last load began.
    is_stale: bool,
    pending: Seldom<Pending>,
}

/// What there is only around a change.
#[derive(Default)]
struct Pending {
    loading: Option<Loading>,
    /// To which groups he was added since the last load began, and by which message of theirs.
    joins: Vec<(GroupId, MessageId)>,
    /// What syncs gave, or are to give, of groups that are not followed (yet, or for now).
    early: BTreeMap<GroupId, Given>,
}

enum Loading {
    /// Others are loading theirs.
    Queued(BoxFuture<'static, Turn>),
    Begun(BoxFuture<'static, Box<Loaded>>),
}

/// Turns to load memberships: few sessions have one at a time, because somebody may be in thousands
/// of groups, and on many devices.
#[derive(Debug)]
pub struct LoadTurns(pub(super) Arc<Semaphore>);

/// A turn of one session.
struct Turn {
    gateway: Arc<Gateway>,
    user: UserId,
    permit: OwnedSemaphorePermit,
}

/// The large groups of a user, and leases of the feeds that were not followed before.
pub(in crate::gateway) struct Loaded {
    /// Ascending by group.
    pub(super) memberships: Vec<Membership>,
    /// How he was added to groups meanwhile, whether he is still in them or not.
    pub(super) joins: Vec<Join>,
    pub(super) leases: Vec<Lease>,
}

/// How a user was added to a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    pub(super) group: GroupId,
    /// The message on the group's timeline that tells it.
    event: MessageId,
    /// He is given what comes after this position, until he is removed.
    pub(super) after: Seq,
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
    pub(super) const fn new(covered: Seq) -> Self {
        Self {
            covered,
            is_stale: false,
            pending: Seldom::new(),
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
    #[cfg(test)]
    pub(super) const fn is_settled(&self) -> bool {
        !self.is_stale
    }

    #[cfg(test)]
    pub(super) fn is_tidy(&self) -> bool {
        self.pending.get().is_none()
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

    /// He was added to groups: he may have been removed again before that is loaded. Of very many
    /// the later ones are not remembered; where he is still a member, his membership tells.
    pub(super) fn joined(&mut self, joins: impl IntoIterator<Item = (GroupId, MessageId)>) {
        for join in joins {
            let joins = &mut self.pending.or_default().joins;
            if joins.len() < JOINS_PENDING_MAX {
                joins.push(join);
            }
        }
    }

    /// What was loaded of joins stands before the session in these groups: it comes to them.
    pub(super) fn expect(&mut self, joins: impl Iterator<Item = Join>) {
        self.joined(joins.map(|join| (join.group, join.event)));
    }

    /// A sync asks for a group that is not followed: it waits for that as soon as it is.
    pub(super) fn asked_early(&mut self, group: GroupId) {
        let early = &mut self.pending.or_default().early;
        early.entry(group).or_default().is_unfinished = true;
    }

    /// A sync gave a group that is not followed: it was joined a moment ago.
    pub(super) fn given_early(&mut self, group: GroupId, given: Given) {
        self.pending.or_default().early.insert(group, given);
        self.is_stale = true;
    }

    /// A group is not followed any more, for now at least.
    pub(super) fn dropped(&mut self, group: GroupId, given: Given) {
        self.pending.or_default().early.insert(group, given);
    }

    /// What a sync gave of a group that is to be followed now.
    pub(super) fn early(&self, group: GroupId) -> Given {
        let early = self.pending.get().and_then(|p| p.early.get(&group));
        early.copied().unwrap_or_default()
    }

    /// No sync goes on.
    pub(super) fn end_early_syncs(&mut self) {
        if let Some(pending) = self.pending.get_mut() {
            pending.early.retain(|_, given| {
                given.is_unfinished = false;
                given.end > Seq::ZERO
            });
        }
    }

    /// What a load brought was taken over.
    pub(super) fn adopted(&mut self) {
        if let Some(pending) = self.pending.get_mut().filter(|_| !self.is_stale) {
            pending.early.retain(|_, given| given.is_unfinished);
        }
    }

    /// Begins to load if they are stale and are not being loaded.
    pub(super) fn refresh(&mut self, gateway: &Arc<Gateway>, user: UserId) {
        if !self.is_stale || self.pending.get().is_some_and(|p| p.loading.is_some()) {
            return;
        }
        let turn = Turn::wait(Arc::clone(gateway), user);
        self.pending.or_default().loading = Some(Loading::Queued(turn.boxed()));
    }

    /// Waits for a load; for ever when there is none. What it will be about is settled when it has
    /// its turn. Cancel safe.
    pub(super) async fn loaded(&mut self, follows: &mut Follows) -> Box<Loaded> {
        // Every connection has room for this future, so it keeps nothing across a wait.
        poll_fn(|context| self.poll_loaded(follows, context)).await
    }

    fn poll_loaded(
        &mut self,
        follows: &mut Follows,
        context: &mut Context<'_>,
    ) -> Poll<Box<Loaded>> {
        while let Some(pending) = self.pending.get_mut() {
            match &mut pending.loading {
                Some(Loading::Queued(turn)) => {
                    let turn = ready!(turn.poll_unpin(context));
                    self.is_stale = false;
                    follows.begin_loading();
                    let followed = follows.groups().into_iter().map(|(group, _)| group);
                    let joins = std::mem::take(&mut pending.joins);
                    let load = turn.load(followed.collect(), joins);
                    pending.loading = Some(Loading::Begun(load.boxed()));
                }
                Some(Loading::Begun(load)) => {
                    let loaded = ready!(load.poll_unpin(context));
                    pending.loading = None;
                    return Poll::Ready(loaded);
                }
                None => break,
            }
        }
        Poll::Pending
    }

    /// Gives back what is not needed between changes.
    pub(super) fn tidy(&mut self) {
        self.pending
            .tidy(|p| p.loading.is_none() && p.joins.is_empty() && p.early.is_empty());
    }
}

impl Default for LoadTurns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMBERSHIP_LOADS_MAX)))
    }
}

impl Turn {
    #[expect(clippy::expect_used, reason = "the semaphore is never closed")]
    async fn wait(gateway: Arc<Gateway>, user: UserId) -> Self {
        let turns = Arc::clone(&gateway.load_turns.0);
        let permit = turns.acquire_owned().await;
        Self {
            gateway,
            user,
            permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// Loads until that succeeds. `followed` are the groups that are followed now, ascending.
    async fn load(
        mut self,
        followed: Vec<GroupId>,
        joins: Vec<(GroupId, MessageId)>,
    ) -> Box<Loaded> {
        let mut is_told = false;
        loop {
            match within_deadline(load(&self.gateway, self.user, &followed, &joins)).await {
                Ok(loaded) => return Box::new(loaded),
                Err(error) if !std::mem::replace(&mut is_told, true) => {
                    tracing::warn!(%error, trace = ?error.trace(), user = self.user.get(), "memberships must wait");
                }
                Err(_) => {}
            }
            let Self {
                gateway,
                user,
                permit,
            } = self;
            // Others may have more luck.
            drop(permit);
            tokio::time::sleep(LOAD_PAUSE).await;
            self = Self::wait(gateway, user).await;
        }
    }
}

async fn load(
    gateway: &Gateway,
    user: UserId,
    followed: &[GroupId],
    joins: &[(GroupId, MessageId)],
) -> Result<Loaded> {
    let conn = gateway.store.reader();
    let mut loaded = store::membership::of_users(conn, &[user]).await?;
    let memberships = loaded.remove(&user).unwrap_or_default();
    let mut placed = Vec::with_capacity(joins.len());
    for &(group, event) in joins {
        let seq = store::timeline::seq_of(conn, event, Owner::Group(group)).await?;
        placed.extend(seq.map(|seq| Join {
            group,
            event,
            after: Seq(seq.get() - 1),
        }));
    }
    let joined = placed.iter().map(|join| join.group);
    let groups = memberships.iter().map(|membership| membership.group);
    let groups: BTreeSet<GroupId> = groups.chain(joined).collect();
    let new = groups
        .into_iter()
        .filter(|group| followed.binary_search(group).is_err());
    let leases = lease(gateway, new).await?;
    Ok(Loaded {
        memberships,
        joins: placed,
        leases,
    })
}

impl Loaded {
    /// After which position the group is for the user from `after` on, if it is: the first time he
    /// was added since, or the last one.
    pub(super) fn joined(&self, group: GroupId, after: Seq) -> Option<Seq> {
        let known = &self.memberships;
        let place = known.binary_search_by_key(&group, |membership| membership.group);
        let member = place.ok().map(|place| known[place].joined.max(after));
        let joins = self.joins.iter();
        let told = joins.filter(|join| join.group == group && join.after >= after);
        told.map(|join| join.after).chain(member).min()
    }
}

/// Leases the feeds of groups and opens those that are not open yet.
pub(super) async fn lease(
    gateway: &Gateway,
    groups: impl Iterator<Item = GroupId>,
) -> Result<Vec<Lease>> {
    let topics: Vec<Topic> = groups.map(Topic::Group).collect();
    let leases = gateway.router.lease_all(&topics).await;
    let is_closed = |lease: &&Lease| lease.head().is_none();
    let owners = leases.iter().filter(is_closed);
    let owners: Vec<Owner> = owners.filter_map(|lease| lease.topic().owner()).collect();
    let mut heads = HashMap::new();
    for owners in owners.chunks(SWEEP_CHUNK) {
        heads.extend(store::timeline::heads(gateway.store.reader(), owners).await?);
    }
    for lease in leases.iter().filter(is_closed) {
        let head = lease.topic().owner().and_then(|owner| heads.get(&owner));
        lease.open(head.copied().unwrap_or_default());
    }
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I6, also when somebody adds and removes him all the time.
    #[test]
    fn joins_that_are_remembered_are_bounded_and_the_first_stay() {
        let mut memberships = Memberships::new(Seq::ZERO);
        for n in 0..1_000 {
            memberships.joined([(GroupId(1), MessageId(n))]);
        }
        let joins = &memberships.pending.get().unwrap().joins;
        let first = (0..JOINS_PENDING_MAX as i64).map(|n| (GroupId(1), MessageId(n)));
        assert!(joins.iter().copied().eq(first));
    }
}
