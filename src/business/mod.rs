//! The business server that has the accounts (`users.provider`): asking its `UserInt` over gRPC
//! whether tokens are good and who users are. What is remembered of its answers is the business of
//! who asks: `auth` and `user`.
//!
//! Whoever wants the same at the same time shares one call. A server that is away, or too slow, is
//! not waited for by everybody: calls have a deadline, a bounded number runs and waits, and after
//! failures in a row they are not made at all, but for a probe every second.

use std::{collections::HashMap, future::Future, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    error::Result,
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    limits::{
        AVATAR_URL_BYTES_MAX, BUSINESS_USERS_PER_CALL_MAX, EXTRA_BYTES_MAX, NICKNAME_BYTES_MAX,
    },
    pb,
    telemetry::Metrics,
};

mod failure;
mod flights;
mod wire;

use flights::Flights;
use wire::Wire;

/// Asks the business server about tokens and users.
#[derive(Debug)]
pub struct Business {
    wire: Arc<Wire>,
    auths: Flights<Shown, ()>,
    lookups: Flights<UserId, Found>,
    /// Apart from the look-ups: nothing is kept of what they bring.
    checks: Flights<UserId, Arc<[UserId]>>,
}

/// Those that the business server knows of the users it was asked about.
pub type Found = Arc<HashMap<UserId, pb::User>>;

/// A call about users that is to be made.
#[derive(Debug)]
pub struct LookUp {
    wire: Arc<Wire>,
    users: Vec<UserId>,
}

/// A token as it was shown; its hash stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shown {
    user: UserId,
    device: DeviceId,
    sign_outs: i64,
    token_hash: [u8; 32],
}

impl Business {
    /// A client of the `UserInt` at `endpoint`, `http://…` or `https://…`; it connects when it is
    /// first asked. Its calls are `tasks`.
    ///
    /// # Errors
    /// An internal error when `endpoint` is no URL, or the system's root certificates cannot be read.
    pub fn new(endpoint: &str, metrics: Arc<Metrics>, tasks: Tasks) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            wire: Arc::new(Wire::new(endpoint, metrics)?),
            auths: Flights::new(tasks.clone()),
            lookups: Flights::new(tasks.clone()),
            checks: Flights::new(tasks),
        }))
    }

    /// Asks whether `token` signs `user` in on `device`. Those who know of as many `sign_outs` share
    /// a call: what was said before a sign-out is no answer to who asks after it.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when it does not,
    /// [`Code::NoSuchUser`](crate::error::Code::NoSuchUser) when the business server says so,
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when it does not answer within
    /// [`BUSINESS_DEADLINE`](crate::limits::BUSINESS_DEADLINE), an internal one when it fails.
    pub async fn auth(
        &self,
        user: UserId,
        device: DeviceId,
        token: &str,
        sign_outs: i64,
    ) -> Result<()> {
        let shown = Shown {
            user,
            device,
            sign_outs,
            token_hash: Sha256::digest(token).into(),
        };
        let flights = self.auths.join(&[shown], 1, |_| {
            let (wire, token) = (Arc::clone(&self.wire), token.to_owned());
            async move { wire.auth(user, device, token).await }
        });
        for flight in flights {
            flight.await.map_err(|error| error.duplicate())?;
        }
        Ok(())
    }

    /// The profiles of those of `users` that the business server knows, tidied to what the contract
    /// allows. Each call is made by `call`, to its end though nobody may wait any more: what is to be
    /// kept of it is kept there.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when it does not answer in time, an internal
    /// error when it fails. What it said of some is then had by `call` alone.
    pub async fn users<F>(
        &self,
        users: &[UserId],
        call: impl Fn(LookUp) -> F,
    ) -> Result<HashMap<UserId, pb::User>>
    where
        F: Future<Output = Result<Found>> + Send + 'static,
    {
        let wanted = ascending(users);
        let flights = self
            .lookups
            .join(&wanted, BUSINESS_USERS_PER_CALL_MAX, |users| {
                let wire = Arc::clone(&self.wire);
                call(LookUp { wire, users })
            });
        let mut found = HashMap::with_capacity(wanted.len());
        for flight in flights {
            let brought = flight.await.map_err(|error| error.duplicate())?;
            let asked_for = brought
                .iter()
                .filter(|(user, _)| wanted.binary_search(user).is_ok());
            found.extend(asked_for.map(|(user, found)| (*user, found.clone())));
        }
        Ok(found)
    }

    /// Those of `users` that the business server knows, ascending.
    ///
    /// # Errors
    /// As [`Self::users`].
    pub async fn existing(&self, users: &[UserId]) -> Result<Vec<UserId>> {
        let wanted = ascending(users);
        let flights = self
            .checks
            .join(&wanted, BUSINESS_USERS_PER_CALL_MAX, |users| {
                let wire = Arc::clone(&self.wire);
                async move { Ok(wire.users(users).await?.into_keys().collect()) }
            });
        let mut existing = Vec::with_capacity(wanted.len());
        for flight in flights {
            let known = flight.await.map_err(|error| error.duplicate())?;
            let asked_for = known
                .iter()
                .filter(|user| wanted.binary_search(user).is_ok());
            existing.extend(asked_for);
        }
        existing.sort_unstable();
        Ok(existing)
    }

    /// Lets nobody share a call that began before `user` changed at the business server. To be called
    /// before what is remembered of him is dropped.
    pub fn outdated(&self, user: UserId) {
        self.auths.forget(|shown| shown.user == user);
        self.lookups.forget(|looked_up| *looked_up == user);
        self.checks.forget(|checked| *checked == user);
    }

    /// As [`Self::outdated`], of everybody: changes may have been missed.
    pub fn forget(&self) {
        self.auths.forget(|_| true);
        self.lookups.forget(|_| true);
        self.checks.forget(|_| true);
    }
}

impl LookUp {
    /// Whom it is about.
    #[must_use]
    pub fn users(&self) -> &[UserId] {
        &self.users
    }

    /// Makes the call.
    ///
    /// # Errors
    /// As [`Business::users`].
    pub async fn answer(self) -> Result<Found> {
        let mut found = self.wire.users(self.users).await?;
        found
            .iter_mut()
            .for_each(|(user, found)| tidy(*user, found));
        Ok(Arc::new(found))
    }
}

fn ascending(users: &[UserId]) -> Vec<UserId> {
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    users
}

/// Brings a foreign profile into the bounds that everything here relies on: a message must fit its
/// frame. Nothing is refused, or a long text would keep its owner from writing: a nickname is cut, and
/// what means something else when it is cut is left out.
fn tidy(user: UserId, found: &mut pb::User) {
    found.user_id = user.get();
    let nickname = &mut found.nickname;
    nickname.truncate(nickname.floor_char_boundary(NICKNAME_BYTES_MAX));
    for (text, bytes_max) in [
        (&mut found.avatar_url, AVATAR_URL_BYTES_MAX),
        (&mut found.extra, EXTRA_BYTES_MAX),
    ] {
        if text.len() > bytes_max {
            text.clear();
        }
    }
    if !(0..=2).contains(&found.sex) {
        found.sex = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{EXTRA_BYTES_MAX, NICKNAME_BYTES_MAX, UserId, pb, tidy};

    #[test]
    fn foreign_profile_is_brought_into_bounds() {
        let mut found = pb::User {
            user_id: 7,
            nickname: "é".repeat(NICKNAME_BYTES_MAX),
            sex: 3,
            avatar_url: "https://example.com/1".into(),
            extra: "x".repeat(EXTRA_BYTES_MAX + 1),
            ..Default::default()
        };
        tidy(UserId(1), &mut found);
        assert_eq!(found.nickname, "é".repeat(NICKNAME_BYTES_MAX / 2));
        assert_eq!(found.avatar_url, "https://example.com/1");
        assert_eq!((found.user_id, found.sex, &*found.extra), (1, 0, ""));
    }
}
