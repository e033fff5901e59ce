//! What users do with their accounts, apart from signing in, which has a file of its own: asking
//! for codes, setting a password, reading and changing what they tell of themselves.

use std::{net::IpAddr, sync::Arc};

use tracing::Instrument;

use super::{Changes, Directory, User, check_phone_number, code::Codes};
use crate::{
    auth::{
        Authenticator,
        attempts::{Attempts, Turns},
        password::Passwords,
    },
    check,
    clock::Clock,
    config,
    error::{Code, Error, Result, ResultExt},
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    limits::{
        ATTEMPTS_PER_ADDRESS_MAX, ATTEMPTS_PER_NUMBER_MAX, AVATAR_URL_BYTES_MAX, CODE_INTERVAL,
        CODE_TTL, EXTRA_BYTES_MAX, GET_USERS_MAX, NICKNAME_BYTES_MAX, PASSWORD_CHARS_MAX,
        PASSWORD_CHARS_MIN, SEARCH_KEY_BYTES_MAX, SEARCH_RESULTS_MAX,
    },
    store::{self, Store, cluster, within_deadline},
};

/// Users that one query reads.
const USERS_CHUNK: usize = 500;

/// The accounts in this server's database.
#[derive(Debug)]
pub struct Accounts {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) codes: Arc<Codes>,
    pub(super) passwords: Passwords,
    /// Wrong codes and passwords by network.
    pub(super) networks: Attempts<IpAddr>,
    /// Wrong passwords by device, for a number whose owner signed in on it before.
    pub(super) known_devices: Attempts<(String, DeviceId)>,
    /// Passwords being tried, by number and known device.
    pub(super) turns: Turns<(String, Option<DeviceId>)>,
    password_turns: Turns<UserId>,
    directory: Arc<Directory>,
    tasks: Tasks,
}

impl Accounts {
    /// The accounts in `store`.
    ///
    /// # Errors
    /// When the database does not answer, or the code sender cannot be set up.
    pub async fn open(
        store: Store,
        authenticator: Arc<Authenticator>,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        sign_in: &config::SignIn,
    ) -> Result<Self> {
        let code_key = cluster::code_key(store.reader()).await?;
        Ok(Self {
            store,
            clock,
            authenticator,
            codes: Arc::new(Codes::new(sign_in, code_key)?),
            passwords: Passwords::default(),
            networks: Attempts::new(ATTEMPTS_PER_ADDRESS_MAX),
            known_devices: Attempts::new(ATTEMPTS_PER_NUMBER_MAX.unsigned_abs()),
            turns: Turns::default(),
            password_turns: Turns::default(),
            directory,
            tasks,
        })
    }

    /// Sends a verification code to a phone number, whether it has an account or not.
    ///
    /// # Errors
    /// [`Code::BadRequest`], [`Code::TooManyRequests`] within a minute of the code before, or
    /// [`Code::TryAgain`] when the code could not be sent; then another may be asked for at once.
    pub async fn send_code(&self, number: String) -> Result<()> {
        check_phone_number(&number)?;
        let permit = Arc::clone(&self.codes.in_flight)
            .try_acquire_owned()
            .map_err(|_| Error::try_again("too many codes are being sent, try again later"))?;
        let code = Codes::generate();
        let code_hash = self.codes.hash(&number, &code)?;
        let tx = self.store.begin().await?;
        within_deadline(self.put_code(tx.conn(), &number, &code_hash)).await?;
        let (store, codes) = (self.store.clone(), Arc::clone(&self.codes));
        // From the commit to the end it must not depend on the caller's patience: a code that is
        // stored but was never sent would keep the user from asking again.
        let send = async move {
            let _permit = permit;
            within_deadline(tx.commit()).await?;
            let sent = codes.send(&number, &code).await;
            if sent.is_err() {
                within_deadline(forget_unsent(&store, &number, &code_hash)).await?;
            }
            sent
        };
        self.tasks
            .spawn(send.in_current_span())
            .await
            .internal("send a code")?
    }

    async fn put_code(
        &self,
        conn: &impl store::Conn,
        number: &str,
        code_hash: &[u8],
    ) -> Result<()> {
        let row = store::verification_code::lock_or_create(conn, number).await?;
        let now = self.clock.now_ms();
        if now - row.sent_at < CODE_INTERVAL.as_millis() as i64 {
            return Err(Error::business(
                Code::TooManyRequests,
                "a code was sent less than a minute ago",
            ));
        }
        let expires_at = now + CODE_TTL.as_millis() as i64;
        store::verification_code::set_code(conn, number, code_hash, now, expires_at).await
    }

    /// Signs `user` out on `device`: its token is revoked and its sessions end.
    ///
    /// # Errors
    /// [`Code::TryAgain`] when the database does not answer.
    pub async fn sign_out(&self, user: UserId, device: DeviceId) -> Result<()> {
        self.authenticator.revoke_device(user, device).await
    }

    /// Sets the password of `user`, who is signed in on `device`, and signs him out everywhere
    /// else.
    ///
    /// # Errors
    /// [`Code::BadRequest`], or [`Code::TryAgain`] when the database does not answer.
    pub async fn set_password(
        &self,
        user: UserId,
        device: DeviceId,
        password: String,
    ) -> Result<()> {
        let chars = password.chars().count();
        if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&chars) {
            return Err(Error::bad_request("password", "8 to 128 characters"));
        }
        let hash = {
            // One place among those who wait for a hash, however often the user asks.
            let _turn = self.password_turns.take(user).await;
            self.passwords.hash(password).await?
        };
        let tx = self.store.begin().await?;
        let revoked = within_deadline(async {
            if !store::user::set_password_hash(tx.conn(), user, hash).await? {
                return Err(no_such_user());
            }
            self.authenticator
                .delete_tokens(tx.conn(), user, Some(device))
                .await
        });
        let revoked = revoked.await?;
        self.authenticator.commit_revoking(tx, revoked).await
    }

    /// What `user` tells of himself.
    ///
    /// # Errors
    /// [`Code::BadRequest`], [`Code::NoSuchUser`], or [`Code::TryAgain`].
    pub async fn get(&self, user: UserId) -> Result<User> {
        check::id("user_id", user.get())?;
        within_deadline(store::user::by_id(self.store.reader(), user))
            .await?
            .ok_or_else(no_such_user)
    }

    /// What those of `users` that are there tell of themselves.
    ///
    /// # Errors
    /// [`Code::BadRequest`], also for more than [`GET_USERS_MAX`], or [`Code::TryAgain`].
    pub async fn get_many(&self, users: &[UserId]) -> Result<Vec<User>> {
        if users.len() > GET_USERS_MAX {
            let why = format_args!("at most {GET_USERS_MAX} users");
            return Err(Error::bad_request("user_ids", why));
        }
        for user in users {
            check::id("user_ids", user.get())?;
        }
        within_deadline(async {
            let mut found = Vec::with_capacity(users.len());
            for part in users.chunks(USERS_CHUNK) {
                found.extend(store::user::by_ids(self.store.reader(), part).await?);
            }
            Ok(found)
        })
        .await
    }

    /// Replaces everything that `user` tells of himself.
    ///
    /// # Errors
    /// [`Code::BadRequest`] naming the field, or [`Code::TryAgain`].
    pub async fn update(&self, user: UserId, changes: Changes) -> Result<()> {
        check::text("nickname", &changes.nickname, NICKNAME_BYTES_MAX)?;
        if !(0..=2).contains(&changes.sex) {
            return Err(Error::bad_request("sex", "0 unknown, 1 male, 2 female"));
        }
        check::text("avatar_url", &changes.avatar_url, AVATAR_URL_BYTES_MAX)?;
        check::text("extra", &changes.extra, EXTRA_BYTES_MAX)?;
        let tx = self.store.begin().await?;
        let update = store::user::update(tx.conn(), user, changes, self.clock.now_ms());
        if !within_deadline(update).await? {
            return Err(no_such_user());
        }
        self.directory.commit_change(tx, &self.tasks, user).await
    }

    /// The user with the phone number `key`, then users whose nickname begins with it.
    ///
    /// # Errors
    /// [`Code::BadRequest`] or [`Code::TryAgain`].
    pub async fn search(&self, key: &str) -> Result<Vec<User>> {
        if key.is_empty() {
            return Err(Error::bad_request("key", "must not be empty"));
        }
        check::text("key", key, SEARCH_KEY_BYTES_MAX)?;
        let conn = self.store.reader();
        within_deadline(async {
            let mut users = Vec::new();
            if check_phone_number(key).is_ok() {
                users.extend(store::user::by_phone_number(conn, key).await?);
            }
            let by_number = users.first().map(|user| user.id);
            let named = store::user::by_nickname_start(conn, key, SEARCH_RESULTS_MAX).await?;
            users.extend(named.into_iter().filter(|user| Some(user.id) != by_number));
            users.truncate(SEARCH_RESULTS_MAX as usize);
            Ok(users)
        })
        .await
    }
}

async fn forget_unsent(store: &Store, number: &str, code_hash: &[u8]) -> Result<()> {
    let tx = store.begin().await?;
    store::verification_code::forget_unsent(tx.conn(), number, code_hash).await?;
    tx.commit().await
}

fn no_such_user() -> Error {
    Error::business(Code::NoSuchUser, "no such user")
}
