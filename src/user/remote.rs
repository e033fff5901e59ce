//! Profiles that a business server keeps.
//!
//! Messages go on between people with open sessions while it is away: a profile that was known once
//! stands in for [`PROFILE_FALLBACK_MAX`], unless it was said to have changed. Whom nobody here ever
//! looked at cannot be vouched for.

use std::{collections::HashMap, sync::Arc};

use super::Profile;
use crate::{
    business::Business,
    cache::{Cache, Load},
    error::{Error, Result},
    id::UserId,
    limits::{
        BUSINESS_USERS_AT_ONCE_MAX, PROFILE_FALLBACK_MAX, PROFILE_PATIENCE, PROFILES_CACHED_MAX,
    },
    pb,
};

/// Asks the business server, and remembers what it said.
#[derive(Debug)]
pub(super) struct Remote {
    business: Arc<Business>,
    /// What it said last of users that are there.
    last: Cache<UserId, Arc<Profile>>,
}

/// Profiles that were asked for.
pub(super) enum Answer {
    /// The business server said so: who is missing is not there.
    Fresh(HashMap<UserId, Arc<Profile>>),
    /// It did not say so, for this reason: these are those whom it knew last.
    Remembered(HashMap<UserId, Arc<Profile>>, Error),
}

impl Remote {
    pub(super) fn new(business: Arc<Business>) -> Self {
        Self {
            business,
            last: Cache::new(PROFILES_CACHED_MAX, PROFILE_FALLBACK_MAX),
        }
    }

    /// The profiles of `users`, of whom none is there twice.
    pub(super) async fn profiles(&self, users: &[UserId]) -> Answer {
        let remembered: HashMap<_, _> = users
            .iter()
            .filter_map(|user| Some((*user, self.last.get(*user)?)))
            .collect();
        let mut loads: HashMap<UserId, Load<'_, _, _>> = users
            .iter()
            .map(|user| (*user, self.last.load(*user)))
            .collect();
        let asking = self.business.users(users);
        let answer = if remembered.len() == users.len() {
            // The call goes on meanwhile, for who comes next.
            let answer = tokio::time::timeout(PROFILE_PATIENCE, asking).await;
            answer.unwrap_or_else(|_| Err(Error::try_again("the business server is slow")))
        } else {
            asking.await
        };
        let found = match answer {
            Ok(found) => found,
            Err(error) => return Answer::Remembered(remembered, error),
        };
        let mut profiles = HashMap::with_capacity(found.len());
        for (user, found) in found {
            let profile = Arc::new(Profile::from(found));
            if let Some(load) = loads.remove(&user) {
                load.keep(Arc::clone(&profile));
            }
            profiles.insert(user, profile);
        }
        for (gone, _load) in loads {
            self.last.invalidate(gone);
        }
        Answer::Fresh(profiles)
    }

    /// Those of `users` that are there; nothing is remembered of them, but what is, counts where the
    /// business server does not answer.
    pub(super) async fn existing(&self, users: &[UserId]) -> Result<Vec<UserId>> {
        let mut existing = Vec::with_capacity(users.len());
        for part in users.chunks(BUSINESS_USERS_AT_ONCE_MAX) {
            match self.business.users(part).await {
                Ok(found) => {
                    existing.extend(part.iter().filter(|user| found.contains_key(user)));
                }
                Err(_) if part.iter().all(|user| self.last.get(*user).is_some()) => {
                    existing.extend(part);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(existing)
    }

    /// Forgets a user who has changed.
    pub(super) fn outdated(&self, user: UserId) {
        self.business.outdated(user);
        self.last.invalidate(user);
    }

    /// Takes no call under way for an answer from now on. What was known last still stands in.
    pub(super) fn forget(&self) {
        self.business.forget();
    }
}

impl From<pb::User> for Profile {
    fn from(user: pb::User) -> Self {
        Self {
            nickname: user.nickname,
            sex: user.sex.try_into().unwrap_or_default(),
            avatar_url: user.avatar_url,
            extra: user.extra,
        }
    }
}
