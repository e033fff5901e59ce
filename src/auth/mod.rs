//! Who is who: tokens that sign devices in, their revocation, passwords, and the bounds on wrong
//! attempts. How a token is earned (codes, passwords, accounts) is `user`'s matter.
//!
//! Invariant (I8): once a revocation is answered, its token is refused here, and sessions that
//! signed in with it have been told to end; other instances are told, and compare their sessions
//! with the database.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    cache::Cache,
    clock::Clock,
    config,
    delivery::{bridge::News, handle::Eviction, registry::Registry, router::Router},
    error::{Error, Result},
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    limits::CREDENTIALS_CACHED_MAX,
    store::{self, Committed, Conn, Store, Tx, entity::auth_token, within_deadline},
};

pub mod attempts;
pub mod credentials;
pub mod jwt;
pub mod password;
pub mod sign_in;
mod sweep;
#[cfg(test)]
mod tests;
pub mod token;

pub use credentials::{Claim, Credential};
pub use sign_in::SignIns;
pub use sweep::{Doubts, Sweep};

/// Checks, issues and revokes tokens.
#[derive(Debug)]
pub struct Authenticator {
    store: Store,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    live: Arc<Live>,
    token_ttl_ms: i64,
    devices_per_user_max: u64,
}

/// What [`Authenticator`] works with.
#[derive(Debug)]
pub struct Options {
    /// Where the tokens are.
    pub store: Store,
    /// Whose sessions end with their tokens.
    pub registry: Arc<Registry>,
    /// Tells other instances.
    pub router: Arc<Router>,
    /// What tokens expire by.
    pub clock: Arc<dyn Clock>,
    /// What commits go on in when nobody waits for them.
    pub tasks: Tasks,
    /// Whose sessions are to be compared with the database.
    pub doubts: Arc<Doubts>,
    /// How long a token that was checked counts without asking the database.
    pub cache_ttl: Duration,
}

/// What a revocation must reach besides the database.
#[derive(Debug)]
struct Live {
    credentials: Cache<DeviceId, Credential>,
    registry: Arc<Registry>,
    router: Arc<Router>,
    doubts: Arc<Doubts>,
}

/// A token that is stored, in a transaction that is still open.
#[derive(Debug)]
pub struct Issued {
    /// The token itself; it is not kept anywhere.
    pub token: String,
    /// Devices whose former tokens are gone when the transaction is committed.
    pub revoked: Vec<DeviceId>,
}

impl Authenticator {
    /// Checks tokens as `options` say.
    #[must_use]
    pub fn new(options: Options, sign_in: &config::SignIn, devices: &config::Devices) -> Self {
        let Options {
            store,
            registry,
            router,
            clock,
            tasks,
            doubts,
            cache_ttl,
        } = options;
        let ttl = config::seconds(sign_in.token_ttl_days.saturating_mul(24 * 3600));
        Self {
            store,
            clock,
            tasks,
            live: Arc::new(Live {
                credentials: Cache::new(CREDENTIALS_CACHED_MAX, cache_ttl),
                registry,
                router,
                doubts,
            }),
            token_ttl_ms: ttl.as_millis() as i64,
            devices_per_user_max: devices.per_user_max,
        }
    }

    /// Checks that `token` signs `user` in on `device`.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when it does not,
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn authorize(
        &self,
        user: UserId,
        device: DeviceId,
        token: &str,
    ) -> Result<Credential> {
        let token_hash = token::hash(token).ok_or_else(Error::sign_in_again)?;
        let claim = Claim {
            user,
            device,
            token_hash,
        };
        match self.cached(&claim) {
            Some(credential) => Ok(credential),
            None => self.look_up(&claim).await,
        }
    }

    /// The credential that proves `claim`, where it is in memory. `None` says nothing: another
    /// instance may have given the device a new token.
    #[must_use]
    pub fn cached(&self, claim: &Claim) -> Option<Credential> {
        let credential = self.live.credentials.get(claim.device)?;
        credential
            .proves(claim, self.clock.now_ms())
            .then_some(credential)
    }

    /// The credential that proves `claim`, from the database.
    ///
    /// # Errors
    /// As [`Self::authorize`].
    pub async fn look_up(&self, claim: &Claim) -> Result<Credential> {
        let load = self.live.credentials.load(claim.device);
        let row = store::auth_token::by_device(self.store.reader(), claim.device);
        let row = within_deadline(row)
            .await?
            .ok_or_else(Error::sign_in_again)?;
        let credential = Credential::try_from(row)?;
        load.keep(credential);
        if credential.proves(claim, self.clock.now_ms()) {
            Ok(credential)
        } else {
            Err(Error::sign_in_again())
        }
    }

    /// Forgets what is remembered of the tokens of devices, which another instance has revoked.
    pub fn outdated(&self, devices: &[DeviceId]) {
        for device in devices {
            self.live.credentials.invalidate(*device);
        }
    }

    /// Forgets all that is remembered: revocations may have been missed.
    pub fn forget(&self) {
        self.live.credentials.forget();
    }

    /// Revokes the token that `user` has on `device`, if any, and ends the device's sessions.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
    pub async fn revoke_device(&self, user: UserId, device: DeviceId) -> Result<()> {
        let tx = self.store.begin().await?;
        let row = within_deadline(store::auth_token::by_device(tx.conn(), device)).await?;
        if row.is_some_and(|token| token.user_id != user.get()) {
            return Ok(());
        }
        let devices = vec![device];
        within_deadline(store::auth_token::delete(tx.conn(), user, &devices)).await?;
        self.commit_revoking(tx, devices).await
    }

    /// Revokes every token of `user` and ends the sessions of their devices.
    ///
    /// # Errors
    /// As [`Self::revoke_device`].
    pub async fn revoke_user(&self, user: UserId) -> Result<()> {
        let tx = self.store.begin().await?;
        let revoked = within_deadline(self.delete_tokens(tx.conn(), user, None)).await?;
        self.commit_revoking(tx, revoked).await
    }

    /// Deletes the tokens of `user`, but for the one on the device `keep`, and returns the devices
    /// they were for: to be given to [`Self::commit_revoking`] in the same transaction.
    pub(crate) async fn delete_tokens(
        &self,
        conn: &impl Conn,
        user: UserId,
        keep: Option<DeviceId>,
    ) -> Result<Vec<DeviceId>> {
        let mut devices = devices_of(store::auth_token::of_user(conn, user).await?);
        devices.retain(|device| Some(*device) != keep);
        store::auth_token::delete(conn, user, &devices).await?;
        Ok(devices)
    }

    /// Commits a transaction that deleted or replaced the tokens of some devices; then none of
    /// them is accepted any more, and the sessions of those devices are told to end. A caller who
    /// goes away does not stop it.
    pub(crate) async fn commit_revoking(&self, tx: Tx, devices: Vec<DeviceId>) -> Result<()> {
        let live = Arc::clone(&self.live);
        let effect = move |committed| match committed {
            Committed::Surely => live.revoked(devices),
            Committed::Perhaps => live.doubted(devices),
        };
        tx.commit_then(&self.tasks, effect).await
    }

    /// Stores a new token for `user` on `device` in place of the one before. Where the user is
    /// then signed in on too many devices, the one longest unused loses its token.
    pub(crate) async fn issue(
        &self,
        conn: &impl Conn,
        user: UserId,
        device: DeviceId,
    ) -> Result<Issued> {
        let (token, hash) = token::generate();
        let row = auth_token::Model {
            device_id: device.get(),
            user_id: user.get(),
            token_hash: hash.to_vec(),
            expires_at: self.clock.now_ms().saturating_add(self.token_ttl_ms),
        };
        store::auth_token::replace(conn, row).await?;
        let mut revoked = self.beyond_the_bound(conn, user, device).await?;
        store::auth_token::delete(conn, user, &revoked).await?;
        revoked.push(device);
        Ok(Issued { token, revoked })
    }

    /// The devices of `user` that must lose their tokens, so that those that stay, `newest` among
    /// them, are not too many: expired tokens first, then the device longest unused.
    async fn beyond_the_bound(
        &self,
        conn: &impl Conn,
        user: UserId,
        newest: DeviceId,
    ) -> Result<Vec<DeviceId>> {
        let tokens = store::auth_token::of_user(conn, user).await?;
        let max = usize::try_from(self.devices_per_user_max).unwrap_or(usize::MAX);
        let excess = tokens.len().saturating_sub(max);
        if excess == 0 {
            return Ok(Vec::new());
        }
        let now = self.clock.now_ms();
        let live: HashMap<i64, bool> = tokens
            .iter()
            .map(|t| (t.device_id, now < t.expires_at))
            .collect();
        let mut devices = store::device::last_used(conn, &devices_of(tokens)).await?;
        devices.retain(|(device, _)| *device != newest);
        devices.sort_by_key(|(device, used)| (live.get(&device.get()).copied(), *used, *device));
        devices.truncate(excess);
        Ok(devices.into_iter().map(|(device, _)| device).collect())
    }
}

impl Live {
    fn revoked(&self, devices: Vec<DeviceId>) {
        for device in &devices {
            self.credentials.invalidate(*device);
            self.registry.evict_device(*device, Eviction::SignedOut);
        }
        self.router.tell(News::Revoked(devices.into()));
    }

    /// Nobody knows whether they were revoked: the database is asked, here and elsewhere.
    fn doubted(&self, devices: Vec<DeviceId>) {
        for device in &devices {
            self.credentials.invalidate(*device);
        }
        self.doubts.raise(&devices);
        self.router.tell(News::Revoked(devices.into()));
    }
}

fn devices_of(tokens: Vec<auth_token::Model>) -> Vec<DeviceId> {
    tokens
        .into_iter()
        .map(|token| DeviceId(token.device_id))
        .collect()
}
