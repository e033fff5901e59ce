//! Who is in which group, as this instance remembers it.
//!
//! Invariant: nothing rests on it being fresh. A send to a group is checked again in the
//! transaction that stores it, and a refusal is confirmed in the database. Ephemeral messages rely
//! on it alone: every change drops what it has changed on the instance that made it, and other
//! instances are told.

use std::{sync::Arc, time::Duration};

use crate::{
    cache::Cache,
    delivery::{bridge::News, router::Router},
    error::Result,
    id::{GroupId, UserId},
    limits::{MEMBERSHIPS_CACHED_MAX, ROSTERS_CACHED_MAX},
    store::{
        self, Store,
        group::{GroupKind, Roster},
        within_deadline,
    },
};

/// Remembers members of groups.
#[derive(Debug)]
pub struct Members {
    store: Store,
    router: Arc<Router>,
    rosters: Cache<GroupId, Arc<Roster>>,
    large: Cache<Membership, ()>,
}

/// A user's place in a large group.
type Membership = (GroupId, UserId);

impl Members {
    /// Remembers nothing yet, and nothing for longer than `ttl`.
    #[must_use]
    pub fn new(store: Store, router: Arc<Router>, ttl: Duration) -> Self {
        Self {
            store,
            router,
            rosters: Cache::new(ROSTERS_CACHED_MAX, ttl),
            large: Cache::new(MEMBERSHIPS_CACHED_MAX, ttl),
        }
    }

    /// The members of a small group as last seen; `None` when there is no such small group.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn roster(&self, group: GroupId) -> Result<Option<Arc<Roster>>> {
        match self.rosters.get(group) {
            Some(roster) => Ok(Some(roster)),
            None => self.fresh_roster(group).await,
        }
    }

    /// As [`Members::roster`], from the database.
    ///
    /// # Errors
    /// As [`Members::roster`].
    pub async fn fresh_roster(&self, group: GroupId) -> Result<Option<Arc<Roster>>> {
        let load = self.rosters.load(group);
        let roster = within_deadline(async {
            // The version first: a roster that is newer than its version is read again, one that
            // is older would be believed.
            let conn = self.store.reader();
            let row = store::group::by_id(conn, group).await?;
            let Some(row) = row.filter(|row| row.kind() == GroupKind::Small) else {
                return Ok(None);
            };
            let members = store::group::member_ids(conn, group).await?;
            Ok(Some(Arc::new(Roster {
                group,
                version: row.version,
                members,
            })))
        });
        let roster = roster.await?;
        if let Some(roster) = &roster {
            load.keep(Arc::clone(roster));
        }
        Ok(roster)
    }

    /// Whether a user is in a small group; `None` when there is no such small group. Nothing is
    /// remembered.
    ///
    /// # Errors
    /// As [`Members::roster`].
    pub async fn is_in_small(&self, group: GroupId, user: UserId) -> Result<Option<bool>> {
        self.look_up(group, GroupKind::Small, user).await
    }

    /// Whether a user is in a large group; `None` when there is no such large group.
    ///
    /// # Errors
    /// As [`Members::roster`].
    pub async fn is_in_large(&self, group: GroupId, user: UserId) -> Result<Option<bool>> {
        let key = (group, user);
        if self.large.get(key).is_some() {
            return Ok(Some(true));
        }
        let load = self.large.load(key);
        let found = self.look_up(group, GroupKind::Large, user).await?;
        if found == Some(true) {
            load.keep(());
        }
        Ok(found)
    }

    /// Whether a user is in a group of a kind, from the database.
    async fn look_up(&self, group: GroupId, kind: GroupKind, user: UserId) -> Result<Option<bool>> {
        let member = within_deadline(async {
            let conn = self.store.reader();
            Ok(store::group::member(conn, group, user).await?)
        });
        match member.await? {
            Some(member) => Ok((member.kind() == kind).then_some(true)),
            None => Ok(self.is_there(group, kind).await?.then_some(false)),
        }
    }

    /// Whether there is such a large group.
    ///
    /// # Errors
    /// As [`Members::roster`].
    pub async fn is_large(&self, group: GroupId) -> Result<bool> {
        self.is_there(group, GroupKind::Large).await
    }

    async fn is_there(&self, group: GroupId, kind: GroupKind) -> Result<bool> {
        within_deadline(async {
            let row = store::group::by_id(self.store.reader(), group).await?;
            Ok(row.is_some_and(|row| row.kind() == kind))
        })
        .await
    }

    /// Forgets everything: the database went back in time, or changes may have been missed.
    pub fn forget(&self) {
        self.rosters.forget();
        self.large.forget();
    }

    /// Forgets what a committed change has changed, here and on other instances: the roster of
    /// `group`, and the place in it of whoever was removed.
    pub fn changed(&self, group: GroupId, removed: Option<UserId>) {
        self.outdated(group, removed);
        self.router.tell(News::Group { group, removed });
    }

    /// Forgets what was changed by another instance.
    pub fn outdated(&self, group: GroupId, removed: Option<UserId>) {
        self.rosters.invalidate(group);
        if let Some(user) = removed {
            self.large.invalidate((group, user));
        }
    }
}
