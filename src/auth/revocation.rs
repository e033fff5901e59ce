//! Revoking tokens and ending the sessions that signed in with them, here and on other instances.

use std::sync::Arc;

use super::{Authenticator, Live, devices_of};
use crate::{
    check,
    delivery::{bridge::News, handle::Eviction},
    error::{Code, Error, Result},
    id::{DeviceId, Owner, UserId},
    store::{self, Committed, Conn, Tx, entity::auth_token, sign_out::ALL, within_deadline},
};

impl Authenticator {
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

    /// Signs `user` out on one device, or on all where `device` is 0, for a business server.
    ///
    /// # Errors
    /// [`Code::BadRequest`]; [`Code::TryAgain`] when the database does not answer; where this server
    /// issues the tokens [`Code::NoSuchUser`], and [`Code::NoSuchDevice`] when `user` never signed in
    /// on the device.
    pub async fn sign_out(&self, user: UserId, device: DeviceId) -> Result<()> {
        check::id("user_id", user.get())?;
        if device.get() < 0 {
            return Err(Error::bad_request("device_id", "must not be negative"));
        }
        if !self.issuer.is_own() {
            return self.sign_out_of_business(user, device).await;
        }
        let conn = self.store.reader();
        let found = within_deadline(store::user::by_id(conn, user)).await?;
        found.ok_or_else(|| Error::business(Code::NoSuchUser, "no such user"))?;
        if device == ALL {
            return self.revoke_user(user).await;
        }
        within_deadline(store::device::by_id(conn, device))
            .await?
            .filter(|found| found.user_id == user.get())
            .ok_or_else(|| Error::business(Code::NoSuchDevice, "the user has no such device"))?;
        self.revoke_device(user, device).await
    }

    /// What the business vouched for before this counts no more; what it vouches for from now on does.
    async fn sign_out_of_business(&self, user: UserId, device: DeviceId) -> Result<()> {
        let tx = self.store.begin().await?;
        let signed_out = within_deadline(self.record_sign_out(tx.conn(), user, device)).await?;
        let live = Arc::clone(&self.live);
        let effect = move |committed| {
            live.versions.raise(user);
            live.router.tell(News::SignedOut(user));
            match committed {
                Committed::Surely => live.revoked(signed_out),
                Committed::Perhaps => live.doubted(signed_out),
            }
        };
        tx.commit_then(&self.tasks, effect).await
    }

    /// Records that `user` is signed out and deletes what his devices signed in with. Gives those
    /// devices.
    async fn record_sign_out(
        &self,
        conn: &impl Conn,
        user: UserId,
        device: DeviceId,
    ) -> Result<Vec<DeviceId>> {
        // Whoever signs in meanwhile waits here, or has signed in and is found below.
        store::timeline::lock_heads(conn, [Owner::User(user)]).await?;
        let mut tokens = store::auth_token::of_user(conn, user).await?;
        tokens.retain(|token| device == ALL || token.device_id == device.get());
        let of_token =
            |token: &auth_token::Model| (DeviceId(token.device_id), token.token_hash.clone());
        let mut devices: Vec<_> = tokens.iter().map(of_token).collect();
        if devices.iter().all(|(known, _)| *known != device) {
            devices.push((device, Vec::new()));
        }
        let now_s = self.clock.now_ms().div_euclid(1_000);
        store::sign_out::record(conn, user, &devices, now_s).await?;
        let signed_in = devices_of(tokens);
        store::auth_token::delete(conn, user, &signed_in).await?;
        Ok(signed_in)
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
