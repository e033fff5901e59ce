//! Who issues the tokens that devices show: this server, or the business, which is asked about each
//! one or has signed it.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{credentials::Claim, jwt::Verifier, token};
use crate::{
    business::Business,
    error::{Error, Result},
    id::DeviceId,
    limits::FOREIGN_TOKEN_BYTES_MAX,
    store::sign_out::SignOuts,
};

/// Who issues tokens.
#[derive(Debug)]
pub enum Issuer {
    /// This server; they are in its database.
    Own,
    /// The business server, which is asked about them.
    Business(Arc<Business>),
    /// The business, which signs them.
    Signed(Arc<Verifier>),
}

impl Issuer {
    /// Whether the database knows all tokens that hold.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }

    /// What a token is known by, or `None` for a text that is no token.
    pub(super) fn hash(&self, token: &str) -> Option<[u8; 32]> {
        if self.is_own() {
            return token::hash(token);
        }
        let is_possible = (1..=FOREIGN_TOKEN_BYTES_MAX).contains(&token.len());
        is_possible.then(|| Sha256::digest(token).into())
    }

    /// Until when `token` proves `claim`, in unix milliseconds, where the database does not say it.
    ///
    /// # Errors
    /// 10000 when it does not prove it; 10004 when whoever knows does not answer.
    pub(super) async fn vouch(
        &self,
        claim: &Claim,
        token: &str,
        sign_outs: &SignOuts,
        now_ms: i64,
    ) -> Result<i64> {
        let Claim { user, device, .. } = *claim;
        match self {
            Self::Own => Err(Error::sign_in_again()),
            Self::Business(business) => {
                let sign_outs = sign_outs.count(user, device);
                business.auth(user, device, token, sign_outs).await?;
                Ok(i64::MAX)
            }
            Self::Signed(verifier) => {
                let verified = verifier.verify(token, now_ms).await?;
                let is_for = |only: DeviceId| only == device;
                if verified.user != user || !verified.device.is_none_or(is_for) {
                    return Err(Error::sign_in_again());
                }
                if is_signed_out(claim, verified.issued_at_s, sign_outs) {
                    return Err(Error::sign_in_again());
                }
                Ok(verified.expires_at_ms)
            }
        }
    }
}

/// Whether a signed token was issued before the sign-out of its user: in an earlier second, or it is
/// the one that the device had then.
fn is_signed_out(claim: &Claim, issued_at_s: Option<i64>, sign_outs: &SignOuts) -> bool {
    sign_outs.of(claim.user, claim.device).any(|sign_out| {
        sign_out.token_hash == claim.token_hash || issued_at_s.is_some_and(|at| at < sign_out.at_s)
    })
}
