//! Tokens that the business signs (JSON Web Tokens): whether one was signed with a key of the
//! business, and what it says. Who is signed in with it, and until when, is the [`Authenticator`]'s
//! matter.
//!
//! Invariant: what a token says is looked at only after its signature, except for the header, which
//! chooses among the keys but never what they are good for.
//!
//! [`Authenticator`]: super::Authenticator

use std::sync::Arc;

use jsonwebtoken::decode_header;

use self::{
    claims::{Rules, Why},
    key_set::KeySet,
    keys::Key,
};
use crate::{
    config,
    error::{Error, Result},
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    limits::{FOREIGN_TOKEN_BYTES_MAX, JWT_KEY_FILE_BYTES_MAX, JWT_SECRET_BYTES_LOW},
};

mod claims;
mod key_set;
mod keys;
#[cfg(test)]
mod tests;

/// Checks tokens with the keys that `[jwt]` names.
#[derive(Debug)]
pub struct Verifier {
    source: Source,
    rules: Rules,
}

/// Where the keys come from.
#[derive(Debug)]
enum Source {
    /// The configuration; which key a token names does not matter.
    Fixed(Box<Key>),
    /// A URL where they are published.
    Published(KeySet),
}

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

/// Why a token does not count.
#[derive(Debug)]
enum Refusal {
    Token(Why),
    /// Its key may be one that could not be had yet.
    KeysAway,
}

impl From<Why> for Refusal {
    fn from(why: Why) -> Self {
        Self::Token(why)
    }
}

impl Verifier {
    /// Reads the key, or begins to follow a key set in a task of `tasks`, as `config` says. A key set
    /// that is away delays the server's start by [`KEY_SET_FETCH_TIMEOUT`] at most, and does not keep
    /// it from starting.
    ///
    /// [`KEY_SET_FETCH_TIMEOUT`]: crate::limits::KEY_SET_FETCH_TIMEOUT
    ///
    /// # Errors
    /// An internal error that names the config key, when the key cannot be used.
    pub async fn open(config: &config::Jwt, tasks: &Tasks) -> Result<Arc<Self>> {
        let source = if !config.jwks_url.is_empty() {
            let keys = KeySet::follow(&config.jwks_url, tasks)?;
            keys.looked_once().await;
            Source::Published(keys)
        } else if !config.public_key.is_empty() {
            Source::Fixed(Box::new(read_public_key(&config.public_key).await?))
        } else {
            if config.secret.len() < JWT_SECRET_BYTES_LOW {
                tracing::warn!(
                    bytes = config.secret.len(),
                    recommended = JWT_SECRET_BYTES_LOW,
                    "jwt.secret is short enough to be guessed from a token"
                );
            }
            Source::Fixed(Box::new(Key::from_secret(&config.secret)))
        };
        Ok(Arc::new(Self {
            source,
            rules: Rules::new(config),
        }))
    }

    /// What `token` says, where it holds at `now_ms`. It waits only for a key set that is to be
    /// fetched, and not for long. Cancel safe.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when it does not hold,
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when its key may be one that could not be had
    /// yet.
    pub async fn verify(&self, token: &str, now_ms: i64) -> Result<Verified> {
        self.check(token, now_ms)
            .await
            .map_err(|refusal| match refusal {
                Refusal::Token(why) => {
                    tracing::debug!(why, "a token was refused");
                    Error::sign_in_again()
                }
                Refusal::KeysAway => Error::try_again(
                    "the keys that tokens are signed with cannot be had, try again later",
                ),
            })
    }

    async fn check(&self, token: &str, now_ms: i64) -> Result<Verified, Refusal> {
        if token.len() > FOREIGN_TOKEN_BYTES_MAX {
            return Err("it is too long".into());
        }
        let header = decode_header(token).map_err(|_| "its header is not understood")?;
        if header.crit.is_some() {
            return Err("its header asks for what is not understood".into());
        }
        let claims = match &self.source {
            Source::Fixed(key) if !key.fits(&header) => {
                return Err("its algorithm is not the key's".into());
            }
            Source::Fixed(key) => key.open(token).ok_or("it was not signed with the key")?,
            Source::Published(keys) => keys.open(token, &header).await?,
        };
        Ok(self.rules.check(&claims, now_ms)?)
    }
}

async fn read_public_key(path: &str) -> Result<Key> {
    let refused = |found: &str| {
        Error::internal(format!(
            "jwt.public_key: found {path}: {found}, allowed: the path of a PEM file with a public \
             key, RSA of 2048 to 4096 bits, EC on P-256 or P-384, or Ed25519"
        ))
    };
    let size = tokio::fs::metadata(path).await.map(|file| file.len());
    let text = match size {
        Ok(bytes) if bytes > JWT_KEY_FILE_BYTES_MAX => return Err(refused("it is too large")),
        Ok(_) => tokio::fs::read(path).await,
        Err(error) => Err(error),
    };
    let text = text.map_err(|error| refused(&error.to_string()))?;
    Key::from_pem(&text).map_err(refused)
}
