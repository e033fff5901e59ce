//! Who is who: tokens that sign devices in, their revocation, passwords, and the bounds on wrong
//! attempts. How a token is earned (codes, passwords, accounts) is `user`'s matter.
//!
//! Tokens are this server's own and stand in the database, or the business's, which vouches for them
//! ([`Issuer`]). Of the latter, the one that a device's session signed in with stands in the database
//! too, so that sessions are compared with it and ended the same way.
//!
//! Invariant (I8): once a revocation is answered, its token is refused here, and sessions that
//! signed in with it have been told to end; other instances are told, and compare their sessions
//! with the database. What the business vouched for before a sign-out signs nobody in after it
//! (`store::sign_out`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    cache::Cache,
    clock::Clock,
    config,
    delivery::{bridge::News, handle::Handle, registry::Registry, router::Router},
    error::{Code, Error, Result},
    id::{DeviceId, Owner, UserId},
    lifecycle::Tasks,
    limits::CREDENTIALS_CACHED_MAX,
    store::{self, Conn, Store, entity::auth_token, within_deadline},
};

pub mod attempts;
pub mod credentials;
pub mod issuer;
pub mod jwt;
pub mod password;
mod renewal;
mod revocation;
pub mod sign_in;
mod sweep;
#[cfg(test)]
mod tests;
pub mod token;
mod versions;
#[cfg(test)]
mod vouched_tests;

pub use credentials::{Claim, Credential};
pub use issuer::Issuer;
pub use sign_in::SignIns;
pub use sweep::{Doubts, Sweep};
use versions::Versions;

/// Checks, issues and revokes tokens.
#[derive(Debug)]
pub struct Authenticator {
    store: Store,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    issuer: Issuer,
    live: Arc<Live>,
    token_ttl_ms: i64,
    devices_per_user_max: u64,
}

/// What [`Authenticator`] works with.
#[derive(Debug)]
pub struct Options {
    /// Whose the tokens are.
    pub issuer: Issuer,
    /// Where they are.
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
    /// How long a token that was checked counts without asking the database or the business.
    pub cache_ttl: Duration,
}

/// What a revocation must reach besides the database.
#[derive(Debug)]
struct Live {
    credentials: Cache<DeviceId, Remembered>,
    versions: Versions,
    registry: Arc<Registry>,
    router: Arc<Router>,
    doubts: Arc<Doubts>,
}

/// A credential that was looked up.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    credential: Credential,
    /// Of its user, from before he was asked about.
    version: u64,
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
            issuer,
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
            issuer,
            live: Arc::new(Live {
                credentials: Cache::new(CREDENTIALS_CACHED_MAX, cache_ttl),
                versions: Versions::default(),
                registry,
                router,
                doubts,
            }),
            token_ttl_ms: ttl.as_millis() as i64,
            devices_per_user_max: devices.per_user_max,
        }
    }

    /// What a caller claims who shows `token`; `None` when it cannot be right.
    #[must_use]
    pub fn claim(&self, user: UserId, device: DeviceId, token: &str) -> Option<Claim> {
        let token_hash = self.issuer.hash(token)?;
        let claim = Claim {
            user,
            device,
            token_hash,
        };
        (user.get() > 0 && device.get() > 0).then_some(claim)
    }

    /// Checks that `token` signs `user` in on `device`.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when it does not,
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database or the business does not
    /// answer.
    pub async fn authorize(
        &self,
        user: UserId,
        device: DeviceId,
        token: &str,
    ) -> Result<Credential> {
        let claim = self.claim(user, device, token);
        let claim = claim.ok_or_else(Error::sign_in_again)?;
        match self.cached(&claim) {
            Some(credential) => Ok(credential),
            None => self.look_up(&claim, token).await,
        }
    }

    /// The credential that proves `claim`, where it is in memory. `None` says nothing: another
    /// instance may have given the device a new token.
    #[must_use]
    pub fn cached(&self, claim: &Claim) -> Option<Credential> {
        let remembered = self.live.credentials.get(claim.device)?;
        let counts = remembered.version == self.live.versions.of(claim.user)
            && remembered.credential.proves(claim, self.clock.now_ms());
        counts.then_some(remembered.credential)
    }

    /// The credential that proves `claim`, from the database or from who vouches for `token`.
    ///
    /// # Errors
    /// As [`Self::authorize`].
    pub async fn look_up(&self, claim: &Claim, token: &str) -> Result<Credential> {
        let version = self.live.versions.of(claim.user);
        let load = self.live.credentials.load(claim.device);
        let credential = if self.issuer.is_own() {
            let row = store::auth_token::by_device(self.store.reader(), claim.device);
            let row = within_deadline(row).await?;
            Credential::try_from(row.ok_or_else(Error::sign_in_again)?)?
        } else {
            self.vouched(claim, token).await?
        };
        load.keep(Remembered {
            credential,
            version,
        });
        if credential.proves(claim, self.clock.now_ms()) {
            Ok(credential)
        } else {
            Err(Error::sign_in_again())
        }
    }

    /// What the business said of a claim a moment ago; `None` where it must be asked, or issues no
    /// tokens.
    #[must_use]
    pub fn vouched_before(&self, claim: &Claim) -> Option<Credential> {
        self.cached(claim).filter(|_| !self.issuer.is_own())
    }

    /// What the business says of a claim; `None` where it issues no tokens.
    ///
    /// # Errors
    /// As [`Self::authorize`].
    pub async fn vouch(&self, claim: &Claim, token: &str) -> Result<Option<Credential>> {
        if self.issuer.is_own() {
            return Ok(None);
        }
        self.look_up(claim, token).await.map(Some)
    }

    /// What the business says. The sign-outs are read before it is asked: one that comes meanwhile
    /// is not among them.
    async fn vouched(&self, claim: &Claim, token: &str) -> Result<Credential> {
        let Claim { user, device, .. } = *claim;
        let sessions = [(user, device)];
        let conn = self.store.reader();
        let known = async {
            let sign_outs = store::sign_out::of(conn, &sessions).await?;
            Ok((sign_outs, store::device::by_id(conn, device).await?))
        };
        let (known, row) = within_deadline(known).await?;
        let now = self.clock.now_ms();
        let expires_at = self.issuer.vouch(claim, token, &known, now).await?;
        Ok(Credential {
            user,
            token_hash: claim.token_hash,
            expires_at,
            sign_outs: known.count(user, device),
            is_of_another: row.is_some_and(|row| ![0, user.get()].contains(&row.user_id)),
        })
    }

    /// How long it is until the token of a session expires that the business issued; `None` for one
    /// that does not, and for this server's own, which the sweep looks after.
    #[must_use]
    pub fn time_left(&self, handle: &Handle) -> Option<Duration> {
        const LONG_MS: i64 = 100 * 365 * 24 * 3_600 * 1_000;
        if self.issuer.is_own() {
            return None;
        }
        let left = handle
            .credential()?
            .expires_at
            .saturating_sub(self.clock.now_ms());
        (left < LONG_MS).then(|| Duration::from_millis(left.max(0).unsigned_abs()))
    }

    /// Forgets what is remembered of the tokens of devices, which another instance has revoked.
    pub fn outdated(&self, devices: &[DeviceId]) {
        for device in devices {
            self.live.credentials.invalidate(*device);
        }
    }

    /// Forgets what the business said of the tokens of a user.
    pub fn user_changed(&self, user: UserId) {
        if !self.issuer.is_own() {
            self.live.versions.raise(user);
        }
    }

    /// Forgets all that is remembered: revocations may have been missed.
    pub fn forget(&self) {
        self.live.credentials.forget();
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

    /// Takes note that `user` has signed in on a device where he was not signed in before: sessions
    /// that another user has on it elsewhere end, and where he is now signed in on too many devices,
    /// the one longest unused is signed out.
    pub fn device_taken(self: &Arc<Self>, user: UserId, device: DeviceId) {
        self.live.router.tell(News::Revoked([device].into()));
        let authenticator = Arc::clone(self);
        self.tasks.spawn(async move {
            match authenticator.keep_to_the_bound(user, device).await {
                Ok(()) => {}
                // The next new device tries it again. There may be thousands of them.
                Err(error) if error.is(Code::TryAgain) => {
                    tracing::debug!(%error, %user, "a device too many stays for now");
                }
                Err(error) => {
                    tracing::error!(%error, trace = ?error.trace(), %user, "signing out a device too many failed");
                }
            }
        });
    }

    async fn keep_to_the_bound(&self, user: UserId, newest: DeviceId) -> Result<()> {
        let excess = self.beyond_the_bound(self.store.reader(), user, newest);
        if within_deadline(excess).await?.is_empty() {
            return Ok(());
        }
        let tx = self.store.begin().await?;
        let excess = within_deadline(async {
            // Whoever signs in meanwhile waits here.
            store::timeline::lock_heads(tx.conn(), [Owner::User(user)]).await?;
            let excess = self.beyond_the_bound(tx.conn(), user, newest).await?;
            store::auth_token::delete(tx.conn(), user, &excess).await?;
            Ok(excess)
        });
        let excess = excess.await?;
        if excess.is_empty() {
            return Ok(());
        }
        self.commit_revoking(tx, excess).await
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

fn devices_of(tokens: Vec<auth_token::Model>) -> Vec<DeviceId> {
    tokens
        .into_iter()
        .map(|token| DeviceId(token.device_id))
        .collect()
}
