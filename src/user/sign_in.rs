//! Signing in with a verification code or a password.
//!
//! Invariant: an answer that tells whether a code or password was right is given only after the
//! attempt was admitted, and a wrong one counted, in one step: for a phone number under the lock
//! of its row, for a network or a known device under the counter's mutex. So guesses made at the
//! same time cannot exceed the bounds, and right ones are never counted. Numbers with and without
//! an account are answered alike.

use std::net::IpAddr;

use super::{Accounts, check_phone_number};
use crate::{
    auth::attempts::{WINDOW_MS, network},
    check,
    error::{Code, Error, Result},
    id::{DeviceId, UserId},
    limits::ATTEMPTS_PER_NUMBER_MAX,
    store::{
        self, Conn, Tx,
        verification_code::{self, Row},
        within_deadline,
    },
};

/// What a device signs in with: either a code or a password.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// The account's phone number.
    pub phone_number: String,
    /// The verification code that was sent to the number, or empty.
    pub code: String,
    /// The account's password, or empty.
    pub password: String,
    /// The device to sign in.
    pub device: DeviceId,
    /// Where the request came from.
    pub address: IpAddr,
}

/// A device that was signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Whether the account was made by this.
    pub is_new: bool,
    /// The account.
    pub user: UserId,
    /// The device's new token.
    pub token: String,
}

/// One attempt to sign in.
struct Attempt {
    number: String,
    device: DeviceId,
    network: IpAddr,
    /// Whether it is a password from a device on which the number's owner signed in before.
    from_known_device: bool,
}

/// What was shown in proof of owning the number.
enum Proof {
    Code(String),
    /// The stored hash that the password was found to fit; `None` when it was wrong.
    Password(Option<String>),
}

/// Which proof was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// The code that was sent; it is now to be used up.
    SentCode,
    /// The configured test code.
    TestCode,
    /// The password.
    Password,
}

impl Accounts {
    /// Signs a device in and gives it a new token; the one it had is revoked and its sessions end.
    /// A code makes the account where there is none.
    ///
    /// # Errors
    /// [`Code::BadRequest`], [`Code::NoSuchDevice`], [`Code::WrongCode`],
    /// [`Code::TooManyRequests`] after too many wrong attempts, or [`Code::TryAgain`].
    pub async fn sign_in(&self, input: SignIn) -> Result<SignedIn> {
        check_phone_number(&input.phone_number)?;
        check::id("device_id", input.device.get())?;
        if input.code.is_empty() == input.password.is_empty() {
            return Err(Error::bad_request(
                "code",
                "give either a code or a password",
            ));
        }
        let conn = self.store.reader();
        let device = within_deadline(store::device::by_id(conn, input.device))
            .await?
            .ok_or_else(no_such_device)?;
        let attempt = Attempt {
            number: input.phone_number,
            device: input.device,
            network: network(input.address),
            from_known_device: false,
        };
        if input.password.is_empty() {
            self.admit(&attempt).await?;
            return self.settle(attempt, Proof::Code(input.code)).await;
        }
        let last_user = UserId(device.user_id);
        self.sign_in_by_password(attempt, input.password, last_user)
            .await
    }

    async fn sign_in_by_password(
        &self,
        mut attempt: Attempt,
        password: String,
        last_user: UserId,
    ) -> Result<SignedIn> {
        let user = store::user::by_phone_number(self.store.reader(), &attempt.number);
        let user = within_deadline(user).await?;
        attempt.from_known_device = user.as_ref().is_some_and(|u| u.id == last_user.get());
        let known = attempt.from_known_device.then_some(attempt.device);
        let _turn = self.turns.take((attempt.number.clone(), known)).await;
        if let Err(refused) = self.admit(&attempt).await {
            // Or one could walk through device ids to learn which one the owner uses.
            let _ = self.networks.count(attempt.network, self.clock.now_ms());
            return Err(refused);
        }
        let hash = user.and_then(|user| user.password_hash);
        let right = self.passwords.verify(password, hash.clone()).await?;
        let proof = Proof::Password(hash.filter(|_| right));
        self.settle(attempt, proof).await
    }

    /// Refuses early, and without a transaction, what would be refused anyway.
    async fn admit(&self, attempt: &Attempt) -> Result<()> {
        let conn = self.store.reader();
        let row = within_deadline(verification_code::by_number(conn, &attempt.number)).await?;
        self.check_attempts(attempt, row.as_ref(), self.clock.now_ms())
    }

    fn check_attempts(&self, attempt: &Attempt, row: Option<&Row>, now_ms: i64) -> Result<()> {
        let exhausted = if attempt.from_known_device {
            let key = (attempt.number.clone(), attempt.device);
            self.known_devices.exhausted(&key, now_ms)
        } else {
            wrong_attempts(row, now_ms) >= ATTEMPTS_PER_NUMBER_MAX
        };
        if exhausted || self.networks.exhausted(&attempt.network, now_ms) {
            Err(too_many_attempts())
        } else {
            Ok(())
        }
    }

    /// Decides an attempt under the lock of the number's row.
    async fn settle(&self, attempt: Attempt, proof: Proof) -> Result<SignedIn> {
        let tx = self.store.begin().await?;
        let conn = tx.conn();
        let row = within_deadline(verification_code::lock(conn, &attempt.number)).await?;
        self.check_attempts(&attempt, row.as_ref(), self.clock.now_ms())?;
        let right = self.prove(conn, &attempt, row.as_ref(), proof);
        match within_deadline(right).await? {
            Some(right) => self.complete(tx, &attempt, right).await,
            None => Err(self.count_wrong(tx, attempt).await?),
        }
    }

    async fn prove(
        &self,
        conn: &impl Conn,
        attempt: &Attempt,
        row: Option<&Row>,
        proof: Proof,
    ) -> Result<Option<Right>> {
        match proof {
            Proof::Code(code) => {
                let now = self.clock.now_ms();
                self.codes.check(&attempt.number, &code, row, now)
            }
            Proof::Password(None) => Ok(None),
            Proof::Password(hash) => {
                // It may have been changed since it was verified, outside this transaction.
                let user = store::user::lock_by_phone_number(conn, &attempt.number).await?;
                let unchanged = user.is_some_and(|user| user.password_hash == hash);
                Ok(unchanged.then_some(Right::Password))
            }
        }
    }

    /// Counts a wrong attempt; returns the error to answer.
    async fn count_wrong(&self, tx: Tx, attempt: Attempt) -> Result<Error> {
        let now = self.clock.now_ms();
        if !self.networks.count(attempt.network, now) {
            return Ok(too_many_attempts());
        }
        if attempt.from_known_device {
            let key = (attempt.number, attempt.device);
            if !self.known_devices.count(key, now) {
                return Ok(too_many_attempts());
            }
        } else {
            let conn = tx.conn();
            let within_bound = within_deadline(count_on_number(conn, &attempt.number, now));
            if !within_bound.await? {
                return Ok(too_many_attempts());
            }
            within_deadline(tx.commit()).await?;
        }
        Ok(Error::business(Code::WrongCode, "wrong code or password"))
    }

    async fn complete(&self, tx: Tx, attempt: &Attempt, right: Right) -> Result<SignedIn> {
        let conn = tx.conn();
        let (user, is_new, issued) = within_deadline(async {
            let now = self.clock.now_ms();
            if right == Right::SentCode {
                verification_code::use_up(conn, &attempt.number).await?;
            }
            let (user, is_new) = store::user::lock_or_create(conn, &attempt.number, now).await?;
            let user = UserId(user.id);
            if !store::device::assign(conn, attempt.device, user, now).await? {
                return Err(no_such_device());
            }
            let issued = self.authenticator.issue(conn, user, attempt.device).await?;
            Ok((user, is_new, issued))
        })
        .await?;
        self.authenticator
            .commit_revoking(tx, issued.revoked)
            .await?;
        Ok(SignedIn {
            is_new,
            user,
            token: issued.token,
        })
    }
}

/// How many wrong attempts on a number count at `now_ms`.
fn wrong_attempts(row: Option<&Row>, now_ms: i64) -> i32 {
    row.filter(|row| now_ms - row.attempts_since < WINDOW_MS)
        .map_or(0, |row| row.attempts)
}

/// Counts a wrong attempt on a number; false when they were used up before it.
async fn count_on_number(conn: &impl Conn, number: &str, now_ms: i64) -> Result<bool> {
    let row = verification_code::lock_or_create(conn, number).await?;
    let before = wrong_attempts(Some(&row), now_ms);
    if before >= ATTEMPTS_PER_NUMBER_MAX {
        return Ok(false);
    }
    let since = if before == 0 {
        now_ms
    } else {
        row.attempts_since
    };
    verification_code::set_attempts(conn, number, before + 1, since).await?;
    Ok(true)
}

fn too_many_attempts() -> Error {
    Error::business(
        Code::TooManyRequests,
        "too many wrong codes or passwords, try again later",
    )
}

fn no_such_device() -> Error {
    Error::business(Code::NoSuchDevice, "no such device")
}
