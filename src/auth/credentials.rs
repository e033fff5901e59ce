//! What a token is worth: who it signs in on which device, and until when. Lookups are cached;
//! expiry is looked at on every use, revocation drops the cached answer.

use subtle::ConstantTimeEq;

use crate::{
    error::{Error, Result},
    id::{DeviceId, UserId},
    store::entity::auth_token,
};

/// A token that holds, or did when it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Whom the token signs in.
    pub user: UserId,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// When the token expires, in unix milliseconds.
    pub expires_at: i64,
    /// How many sign-outs were known when the business vouched for the token; 0 for one of this
    /// server's own.
    pub sign_outs: i64,
    /// The device is another user's. The business vouches for whoever it likes on any device; what is
    /// sent as from this one is not taken for its own, which its user would never be given.
    pub is_of_another: bool,
}

/// What a caller claims: a user, a device, and the hash of the token that is to prove it.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Who the caller says to be.
    pub user: UserId,
    /// The device the token was given to.
    pub device: DeviceId,
    /// SHA-256 of the token that was shown.
    pub token_hash: [u8; 32],
}

impl Credential {
    /// Whether this credential proves `claim` at `now_ms`.
    #[must_use]
    pub fn proves(&self, claim: &Claim, now_ms: i64) -> bool {
        self.user == claim.user
            && now_ms < self.expires_at
            && bool::from(self.token_hash.ct_eq(&claim.token_hash))
    }
}

impl TryFrom<auth_token::Model> for Credential {
    type Error = Error;

    fn try_from(row: auth_token::Model) -> Result<Self> {
        Ok(Self {
            user: UserId(row.user_id),
            token_hash: row
                .token_hash
                .try_into()
                .map_err(|_| Error::internal("a stored token hash has not 32 bytes"))?,
            expires_at: row.expires_at,
            sign_outs: 0,
            is_of_another: false,
        })
    }
}
