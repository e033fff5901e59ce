//! Profiles that a business server keeps.
//!
//! Messages go on between people with open sessions while it is away: a profile that was known once
//! stands in for [`PROFILE_FALLBACK_MAX`], unless it was said to have changed. Whom nobody here ever
//! looked at cannot be vouched for.

use std::{collections::HashMap, sync::Arc};

use super::Profile;
use crate::{
    business::{Business, Found, LookUp},
    cache::Cache,
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
    known: Known,
}

/// What the business server said of users that are there. An answer is kept when it comes, whether or
/// not anybody still waits for it.
#[derive(Clone, Debug)]
struct Known {
    /// Lately: it need not be asked again.
    lately: Arc<Cache<UserId, Arc<Profile>>>,
    /// At all: it stands in.
    last: Arc<Cache<UserId, Arc<Profile>>>,
}

/// Profiles that were asked for.
pub(super) enum Answer {
    /// The business server said so: who is missing is not there.
    Fresh(HashMap<UserId, Arc<Profile>>),
    /// It did not say so, for this reason: these are those whom it knew last.
    Remembered(HashMap<UserId, Arc<Profile>>, Error),
}

impl Remote {
    /// One that keeps in `lately` what `business` says.
    pub(super) fn new(business: Arc<Business>, lately: Arc<Cache<UserId, Arc<Profile>>>) -> Self {
        let last = Cache::new(PROFILES_CACHED_MAX, PROFILE_FALLBACK_MAX);
        let last = Arc::new(last);
        Self {
            business,
            known: Known { lately, last },
        }
    }

    /// The profiles of `users`, of whom none is there twice.
    pub(super) async fn profiles(&self, users: &[UserId]) -> Answer {
        let remembered = self.known.last_of(users);
        let found = if remembered.len() == users.len() {
            self.ask_briefly(users).await
        } else {
            self.ask(users).await
        };
        self.answer(users, found, remembered)
    }

    /// As [`Self::profiles`], for who can do without: not waited for any longer than where all are
    /// remembered.
    pub(super) async fn profiles_soon(&self, users: &[UserId]) -> Answer {
        let remembered = self.known.last_of(users);
        let found = self.ask_briefly(users).await;
        self.answer(users, found, remembered)
    }

    fn answer(
        &self,
        users: &[UserId],
        found: Result<HashMap<UserId, Arc<Profile>>>,
        mut remembered: HashMap<UserId, Arc<Profile>>,
    ) -> Answer {
        match found {
            Ok(found) => Answer::Fresh(found),
            Err(error) => {
                // It may have answered about some of them.
                remembered.extend(self.known.last_of(users));
                Answer::Remembered(remembered, error)
            }
        }
    }

    async fn ask(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        let call = |look_up| self.known.clone().keep(look_up);
        let found = self.business.users(users, call).await?;
        let profile = |(user, found)| (user, Arc::new(Profile::from(found)));
        Ok(found.into_iter().map(profile).collect())
    }

    /// The call goes on when it is not waited for any more, for who comes next.
    async fn ask_briefly(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        tokio::time::timeout(PROFILE_PATIENCE, self.ask(users))
            .await
            .unwrap_or_else(|_| Err(Error::try_again("the business server is slow")))
    }

    /// Those of `users` that are there; nothing is remembered of them, but what is, counts where the
    /// business server does not answer.
    pub(super) async fn existing(&self, users: &[UserId]) -> Result<Vec<UserId>> {
        let mut existing = Vec::with_capacity(users.len());
        for part in users.chunks(BUSINESS_USERS_AT_ONCE_MAX) {
            match self.business.existing(part).await {
                Ok(known) => existing.extend(known),
                Err(_) if self.known.last_of(part).len() == part.len() => existing.extend(part),
                Err(error) => return Err(error),
            }
        }
        Ok(existing)
    }

    /// Forgets a user who has changed.
    pub(super) fn outdated(&self, user: UserId) {
        self.business.outdated(user);
        self.known.last.invalidate(user);
    }

    /// Takes no call under way for an answer from now on. What was known last still stands in.
    pub(super) fn forget(&self) {
        self.business.forget();
    }
}

impl Known {
    /// What was said last of those of `users` that are remembered.
    fn last_of(&self, users: &[UserId]) -> HashMap<UserId, Arc<Profile>> {
        let last = |user: &UserId| Some((*user, self.last.get(*user)?));
        users.iter().filter_map(last).collect()
    }

    /// Looks users up, and keeps what is said of those who are not said to have changed meanwhile.
    async fn keep(self, look_up: LookUp) -> Result<Found> {
        let load = |user: &UserId| (*user, self.lately.load(*user), self.last.load(*user));
        let loads: Vec<_> = look_up.users().iter().map(load).collect();
        let found = look_up.answer().await?;
        for (user, lately, last) in loads {
            match found.get(&user) {
                Some(found) => {
                    let profile = Arc::new(Profile::from(found.clone()));
                    lately.keep(Arc::clone(&profile));
                    last.keep(profile);
                }
                None => self.last.invalidate(user),
            }
        }
        Ok(found)
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
