//! Hashing passwords with argon2id, on blocking threads and a few at a time: a hash takes 19 MiB
//! and about 30 ms of a core. Who waits for a hash is bounded too.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use crate::{
    error::{Error, Result, ResultExt},
    limits::{PASSWORD_HASHES_MAX, PASSWORD_HASHES_WAITING_MAX},
};

/// A hash that no password has, with the parameters of the real ones: it takes as long to refuse
/// a password for a number without an account as for one with.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes and verifies passwords.
#[derive(Debug)]
pub struct Passwords {
    waiting: Semaphore,
    hashing: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(PASSWORD_HASHES_MAX + PASSWORD_HASHES_WAITING_MAX),
            hashing: Arc::new(Semaphore::new(PASSWORD_HASHES_MAX)),
        }
    }
}

impl Passwords {
    /// The hash to store for a password.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when too many wait for a hash.
    pub async fn hash(&self, password: String) -> Result<String> {
        self.run(move || {
            let hash: PasswordHash = Argon2::default()
                .hash_password(password.as_bytes())
                .internal("hash a password")?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether `password` is the one of the stored `hash`; without a hash it takes as long and is
    /// not.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when too many wait for a hash.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        self.run(move || {
            let hash = PasswordHash::new(hash.as_deref().unwrap_or(NOBODY))
                .internal("read a password hash")?;
            match Argon2::default().verify_password(password.as_bytes(), &hash) {
                Ok(()) => Ok(true),
                Err(password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(error).internal("verify a password"),
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place = self
            .waiting
            .try_acquire()
            .map_err(|_| Error::try_again("too many passwords to check, try again later"))?;
        let permit = Arc::clone(&self.hashing)
            .acquire_owned()
            .await
            .internal("wait for a password hash")?;
        let work = move || {
            // The thread keeps it, also when nobody waits for the result any more.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .internal("hash a password")?
    }
}

#[cfg(test)]
mod tests {
    use argon2::{Params, password_hash::phc::PasswordHash};

    use super::{NOBODY, Passwords};

    #[tokio::test]
    async fn password_is_verified_against_its_own_hash_only() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        let verify = |password: &str| passwords.verify(password.into(), Some(hash.clone()));
        assert!(verify("correct horse").await.unwrap());
        assert!(!verify("battery staple").await.unwrap());
        assert!(!passwords.verify("any".into(), None).await.unwrap());
    }

    #[test]
    fn nobody_costs_as_much_as_a_real_hash() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let (nobody, real) = (Params::try_from(&nobody).unwrap(), Params::default());
        assert_eq!(nobody.m_cost(), real.m_cost());
        assert_eq!(nobody.t_cost(), real.t_cost());
        assert_eq!(nobody.p_cost(), real.p_cost());
        assert!(
            NOBODY.starts_with("$argon2id$v=19$"),
            "the default algorithm"
        );
    }
}
