//! Tokens that the business signs (JSON Web Tokens): whether one was signed by a key of the business,
//! and what it says. Who is signed in with it, and until when, is the [`Authenticator`]'s matter.
//!
//! [`Authenticator`]: super::Authenticator

use std::sync::Arc;

use crate::{
    config,
    error::{Error, Result},
    id::{DeviceId, UserId},
    lifecycle::Tasks,
};

/// Checks tokens with the keys that `[jwt]` names.
#[derive(Debug)]
pub struct Verifier {}

/// What a token says that was signed by the business and holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whom it signs in.
    pub user: UserId,
    /// The only device it is good on; `None` where it is good on any.
    pub device: Option<DeviceId>,
    /// When it was issued, in unix seconds, where it says so.
    pub issued_at_s: Option<i64>,
    /// When it expires, in unix milliseconds.
    pub expires_at_ms: i64,
}

impl Verifier {
    /// Reads the key, or starts to look after a key set, as `config` says; what it does beside the
    /// caller is a task of `tasks`. A key set that is away does not keep the server from starting.
    ///
    /// # Errors
    /// An internal error that names the config key, when the key cannot be used.
    pub async fn open(_config: &config::Jwt, _tasks: &Tasks) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {}))
    }

    /// What `token` says, where it holds at `now_ms`.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when it does not hold,
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when no key set could be had yet.
    pub async fn verify(&self, _token: &str, _now_ms: i64) -> Result<Verified> {
        Err(Error::sign_in_again())
    }
}
