//! Profiles of users, as they stand on delivered messages: from the accounts in the database, from a
//! business server, or from nobody. Delivery asks for one per message, so they are cached; users that
//! are not there are not. A change is seen at once on the instance that is told of it, and on the
//! others when they hear.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::remote::{Answer, Remote};
use crate::{
    business::Business,
    cache::Cache,
    delivery::{bridge::News, router::Router},
    error::{Error, Result},
    id::UserId,
    lifecycle::Tasks,
    limits::{LARGE_JOB_CHUNK, PROFILES_CACHED_MAX},
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
    source: Source,
    router: Arc<Router>,
    profiles: Arc<Cache<UserId, Arc<Profile>>>,
}

/// Where profiles come from.
#[derive(Debug)]
enum Source {
    /// The accounts in this server's database.
    Accounts(Store),
    /// A business server.
    Remote(Remote),
    /// Nowhere: every user is there and tells nothing of himself.
    Nobody,
}

impl Directory {
    /// The directory of the accounts in `store`, which remembers nothing for longer than `ttl`.
    #[must_use]
    pub fn new(store: Store, router: Arc<Router>, ttl: Duration) -> Self {
        Self {
            source: Source::Accounts(store),
            router,
            profiles: cache(ttl),
        }
    }

    /// The directory of accounts that are not in this server's database, but at a business server,
    /// which is not asked about a user again for `ttl`. Without one every user is there and has an
    /// empty profile.
    #[must_use]
    pub fn elsewhere(business: Option<Arc<Business>>, router: Arc<Router>, ttl: Duration) -> Self {
        let profiles = cache(ttl);
        let source = business.map_or(Source::Nobody, |business| {
            Source::Remote(Remote::new(business, Arc::clone(&profiles)))
        });
        Self {
            source,
            router,
            profiles,
        }
    }

    /// Whether the accounts are in this server's database.
    #[must_use]
    pub const fn is_built_in(&self) -> bool {
        matches!(self.source, Source::Accounts(_))
    }

    /// The profile of a user; `None` when there is no such user.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database, or the business server,
    /// does not answer.
    pub async fn profile(&self, user: UserId) -> Result<Option<Arc<Profile>>> {
        if let Some(profile) = self.profiles.get(user) {
            return Ok(Some(profile));
        }
        Ok(self.look_up(&[user]).await?.remove(&user))
    }

    /// The profiles of those of `users` that are there; what is not cached is asked for at once.
    ///
    /// # Errors
    /// As [`Self::profile`].
    pub async fn profiles(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        let (mut found, missing) = self.cached(users);
        if !missing.is_empty() {
            found.extend(self.look_up(&missing).await?);
        }
        Ok(found)
    }

    /// The profiles of the senders of messages that are stored. A message is not held back for want
    /// of its sender's name: where the business server cannot say, or not within
    /// [`PROFILE_PATIENCE`](crate::limits::PROFILE_PATIENCE), who is not remembered is left out.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn senders(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        let Source::Remote(remote) = &self.source else {
            return self.profiles(users).await;
        };
        let (mut found, missing) = self.cached(users);
        if !missing.is_empty() {
            found.extend(match remote.profiles_soon(&missing).await {
                Answer::Fresh(profiles) => profiles,
                Answer::Remembered(profiles, error) => {
                    unless_away(&error);
                    profiles
                }
            });
        }
        Ok(found)
    }

    /// Those of `users`, ascending and without repeats, that are there. Nothing is cached of them: so
    /// many would drive out who is talking.
    ///
    /// # Errors
    /// As [`Self::profile`].
    pub async fn existing(&self, users: &[UserId]) -> Result<Vec<UserId>> {
        match &self.source {
            Source::Accounts(store) => {
                within_deadline(async {
                    let mut existing = Vec::with_capacity(users.len());
                    for part in users.chunks(LARGE_JOB_CHUNK) {
                        existing.extend(store::user::existing(store.reader(), part).await?);
                    }
                    Ok(existing)
                })
                .await
            }
            Source::Remote(remote) => remote.existing(users).await,
            Source::Nobody => Ok(users.to_vec()),
        }
    }

    /// Forgets the profile of a user, which has changed where he is kept, and tells the others.
    pub fn changed(&self, user: UserId) {
        self.outdated(user);
        self.router.tell(News::Profile(user));
    }

    /// Forgets the profile of a user, which another instance has changed.
    pub fn outdated(&self, user: UserId) {
        if let Source::Remote(remote) = &self.source {
            remote.outdated(user);
        }
        self.profiles.invalidate(user);
    }

    /// Forgets everything: the database went back in time, or changes may have been missed.
    pub fn forget(&self) {
        if let Source::Remote(remote) = &self.source {
            remote.forget();
        }
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

    /// What is cached of `users`, and whom it lacks: ascending and without repeats.
    fn cached(&self, users: &[UserId]) -> (HashMap<UserId, Arc<Profile>>, Vec<UserId>) {
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
        missing.sort_unstable();
        missing.dedup();
        (found, missing)
    }

    /// Looks profiles up where they are kept; `users` has no user twice.
    async fn look_up(&self, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        match &self.source {
            Source::Accounts(store) => self.read(store, users).await,
            Source::Remote(remote) => match remote.profiles(users).await {
                Answer::Fresh(profiles) => Ok(profiles),
                // All of them are known to be there, and nothing else is asked.
                Answer::Remembered(profiles, error) if profiles.len() == users.len() => {
                    unless_away(&error);
                    Ok(profiles)
                }
                Answer::Remembered(_, error) => Err(error.context("look up profiles")),
            },
            Source::Nobody => Ok(users.iter().map(|user| (*user, Arc::default())).collect()),
        }
    }

    async fn read(&self, store: &Store, users: &[UserId]) -> Result<HashMap<UserId, Arc<Profile>>> {
        let load = |user: &UserId| (*user, self.profiles.load(*user));
        let loads: Vec<_> = users.iter().map(load).collect();
        let rows = within_deadline(store::user::profiles(store.reader(), users)).await?;
        let found: HashMap<_, _> = rows
            .into_iter()
            .map(|(id, nickname, sex, avatar_url, extra)| {
                let profile = Profile {
                    nickname,
                    sex,
                    avatar_url,
                    extra,
                };
                (UserId(id), Arc::new(profile))
            })
            .collect();
        for (user, load) in loads {
            if let Some(profile) = found.get(&user) {
                load.keep(Arc::clone(profile));
            }
        }
        Ok(found)
    }
}

fn cache(ttl: Duration) -> Arc<Cache<UserId, Arc<Profile>>> {
    Arc::new(Cache::new(PROFILES_CACHED_MAX, ttl))
}

/// Logs a failure that no answer tells of, because remembered profiles stood in; that the business
/// server is away is logged once by who notices it.
fn unless_away(error: &Error) {
    if error.code().is_none() {
        tracing::error!(%error, trace = ?error.trace(), "remembered profiles stand in");
    }
}
