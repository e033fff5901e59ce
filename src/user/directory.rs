//! Profiles of users, as they stand on delivered messages. Delivery asks for one per message, so
//! they are cached; what a user changes is seen at once on the instance where it was changed, and
//! on the others when they are told.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    cache::{Cache, Load},
    delivery::{bridge::News, router::Router},
    error::Result,
    id::UserId,
    lifecycle::Tasks,
    limits::PROFILES_CACHED_MAX,
    store::{self, Store, Tx, within_deadline},
};

/// What others see of a user beside his messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// How the user wants to be called.
    pub nickname: String,
    /// 0 unknown, 1 male, 2 female.
    pub sex: i16,
    /// Where the picture is.
    pub avatar_url: String,
    /// Whatever the business keeps with the user.
    pub extra: String,
}

/// Finds profiles.
#[derive(Debug)]
pub struct Directory {
    store: Store,
    router: Arc<Router>,
    profiles: Arc<Cache<UserId, Arc<Profile>>>,
}

impl Directory {
    /// The directory of the accounts in `store`, which remembers nothing for longer than `ttl`.
    #[must_use]
    pub fn new(store: Store, router: Arc<Router>, ttl: Duration) -> Self {
        Self {
            store,
            router,
            profiles: Arc::new(Cache::new(PROFILES_CACHED_MAX, ttl)),
        }
    }

    /// The profile of a user; `None` when there is no such user.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn profile(&self, user: UserId) -> Result<Option<Arc<Profile>>> {
        if let Some(profile) = self.profiles.get(user) {
            return Ok(Some(profile));
        }
        Ok(self.look_up(&[user]).await?.remove(&user))
    }

    /// The profiles of those of `users` that are there; what is not cached is read in one query.
    ///
    /// # Errors
    /// As [`Self::profile`].
    pub async fn profiles(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        let mut found = HashMap::with_capacity(users.len());
        let mut missing = Vec::new();
        for &user in users {
            match self.profiles.get(user) {
                Some(profile) => {
                    found.insert(user, profile);
                }
                None => missing.push(user),
            }
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            found.extend(self.look_up(&missing).await?);
        }
        Ok(found)
    }

    /// Forgets the profile of a user, which has changed where he is kept, and tells the others.
    pub fn changed(&self, user: UserId) {
        self.profiles.invalidate(user);
        self.router.tell(News::Profile(user));
    }

    /// Forgets the profile of a user, which another instance has changed.
    pub fn outdated(&self, user: UserId) {
        self.profiles.invalidate(user);
    }

    /// Forgets everything: the database went back in time, or changes may have been missed.
    pub fn forget(&self) {
        self.profiles.forget();
    }

    /// Commits a transaction that changed a user's profile; whoever asks afterwards gets the new
    /// one.
    pub(super) async fn commit_change(&self, tx: Tx, tasks: &Tasks, user: UserId) -> Result<()> {
        let (profiles, router) = (Arc::clone(&self.profiles), Arc::clone(&self.router));
        tx.commit_then(tasks, move |_| {
            profiles.invalidate(user);
            router.tell(News::Profile(user));
        })
        .await
    }

    /// Reads profiles from the database; `users` has no user twice.
    async fn look_up(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        let mut loads: HashMap<UserId, Load<'_, _, _>> = users
            .iter()
            .map(|&user| (user, self.profiles.load(user)))
            .collect();
        let rows = within_deadline(store::user::profiles(self.store.reader(), users)).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for (id, nickname, sex, avatar_url, extra) in rows {
            let user = UserId(id);
            let profile = Arc::new(Profile {
                nickname,
                sex,
                avatar_url,
                extra,
            });
            if let Some(load) = loads.remove(&user) {
                load.keep(Arc::clone(&profile));
            }
            found.insert(user, profile);
        }
        Ok(found)
    }
}
