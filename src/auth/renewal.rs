//! A further sign-in on an open connection: with the token of the first one, or with a fresh one of
//! the business's, which is what the session lives by from then on.

use super::{Authenticator, credentials::Claim};
use crate::{
    delivery::handle::Handle,
    error::{Error, Result},
    id::{Owner, UserId},
    store::{self, Conn, Outcome, session::TokenRow, within_deadline},
};

impl Authenticator {
    /// Checks that `token` signs in who is signed in on the session of `handle`, and goes on with it.
    ///
    /// # Errors
    /// As [`Self::authorize`]; 10000 too when the device has signed in anew elsewhere.
    pub async fn renew(&self, handle: &Handle, user: UserId, token: &str) -> Result<()> {
        let device = handle.device();
        let credential = self.authorize(user, device, token).await?;
        let session = handle.credential().ok_or_else(Error::sign_in_again)?;
        if self.issuer.is_own() || session.token_hash == credential.token_hash {
            return Ok(());
        }
        let claim = Claim {
            user,
            device,
            token_hash: credential.token_hash,
        };
        let tx = self.store.begin().await?;
        let kept = self.keep(tx.conn(), session.generation, &claim, &credential);
        let is_kept = within_deadline(async { Ok(kept.await?) }).await?;
        if !is_kept {
            self.outdated(&[device]);
            return Err(Error::sign_in_again());
        }
        // The sweep may come before the commit or after it, and the commit may have an unknown end.
        handle.renewing(credential.token_hash);
        within_deadline(tx.commit()).await?;
        handle.renewed(credential.token_hash, credential.expires_at);
        Ok(())
    }

    /// Keeps what a session lives by from now on; false when its device has a newer one, or its user
    /// was signed out since the business vouched for him.
    async fn keep(
        &self,
        conn: &impl Conn,
        generation: i64,
        claim: &Claim,
        credential: &super::Credential,
    ) -> Outcome<bool> {
        let Claim { user, device, .. } = *claim;
        let now = self.clock.now_ms();
        store::timeline::lock_heads(conn, [Owner::User(user)]).await?;
        let sign_outs = store::sign_out::of(conn, &[(user, device)]).await?;
        if sign_outs.count(user, device) != credential.sign_outs
            || !store::session::lock(conn, device, generation, now).await?
        {
            return Ok(false);
        }
        let token = TokenRow {
            device_id: device.get(),
            user_id: user.get(),
            token_hash: credential.token_hash.to_vec(),
            expires_at: credential.expires_at,
        };
        store::session::keep(conn, &[token], now).await?;
        Ok(true)
    }
}
