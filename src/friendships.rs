//! Who is whose friend, as this instance remembers it. How friends are made is `friend`'s matter.
//!
//! Invariant: only friendships are remembered, as no friendship ends today; that two are strangers
//! is asked of the database each time, so that friends may write from the moment they are.

use std::time::Duration;

use crate::{
    cache::Cache,
    error::Result,
    id::UserId,
    limits::FRIENDSHIPS_CACHED_MAX,
    store::{self, Store, within_deadline},
};

/// Remembers friendships.
#[derive(Debug)]
pub struct Friendships {
    store: Store,
    known: Cache<(UserId, UserId), ()>,
}

impl Friendships {
    /// Remembers nothing yet, and nothing for longer than `ttl`.
    #[must_use]
    pub fn new(store: Store, ttl: Duration) -> Self {
        Self {
            store,
            known: Cache::new(FRIENDSHIPS_CACHED_MAX, ttl),
        }
    }

    /// Forgets everything: the database went back in time.
    pub fn forget(&self) {
        self.known.forget();
    }

    /// Whether two users are friends.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn exists(&self, one: UserId, other: UserId) -> Result<bool> {
        let pair = (one.min(other), one.max(other));
        if self.known.get(pair).is_some() {
            return Ok(true);
        }
        let load = self.known.load(pair);
        let reader = self.store.reader();
        let are_friends = within_deadline(store::friend::are_friends(reader, one, other)).await?;
        if are_friends {
            load.keep(());
        }
        Ok(are_friends)
    }
}
