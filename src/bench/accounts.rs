//! The users and devices of a run: created through the public API as a client would, and kept in a
//! file, so that the next run need not create them.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Bench,
    failure::Failure,
    grpc::{self, Grpc},
    progress::Progress,
    stats::lock,
};
use crate::{
    error::{Code, Error, Result, ResultExt as _},
    pb,
};

/// Accounts created at the same time.
const CREATING_MAX: usize = 48;
/// How often one is tried when the server is busy.
const ATTEMPTS_MAX: u32 = 6;
/// The wait before the second attempt; it doubles.
const BACKOFF: Duration = Duration::from_millis(100);

/// Which accounts are meant: their phone numbers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Roster {
    /// Each with a device of its own.
    Online,
    /// Users only: each is signed out again by the next one on the same device.
    Offline,
}

impl Roster {
    /// A country code nobody has.
    fn country(self) -> &'static str {
        match self {
            Self::Online => "+999",
            Self::Offline => "+998",
        }
    }

    fn phone_number(self, seed: u16, number: usize) -> String {
        format!("{}{seed:04}{number:08}", self.country())
    }
}

/// A user with one device that is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user_id: i64,
    /// The user's only device in this run.
    pub device_id: i64,
    /// What the device signs in with.
    pub token: String,
}

/// Provides `count` accounts: from the file as far as it holds good ones, the rest anew.
pub async fn provide(bench: &Bench, count: u32) -> Result<Vec<Account>> {
    let count = count as usize;
    let path = bench.common.accounts.as_deref();
    let mut accounts = match path {
        Some(path) => load(path)?,
        None => Vec::new(),
    };
    if let Some(first) = accounts.first()
        && !is_valid(&bench.grpc, 0, first).await?
    {
        eprintln!("the accounts in the file are not this database's: creating new ones");
        accounts.clear();
    }
    if accounts.len() < count {
        let created = create(bench, Roster::Online, accounts.len(), count).await?;
        accounts.extend(created);
        if let Some(path) = path {
            save(path, &accounts).internal("writing the accounts file")?;
        }
    }
    accounts.truncate(count);
    check_instances(bench, &accounts).await?;
    Ok(accounts)
}

/// Refuses instances that do not know each other's accounts.
async fn check_instances(bench: &Bench, accounts: &[Account]) -> Result<()> {
    let Some(first) = accounts.first() else {
        return Ok(());
    };
    for instance in 1..bench.grpc.instances() {
        if !is_valid(&bench.grpc, instance, first).await? {
            let why = "these instances do not share one database";
            return Err(Error::bad_request("--grpc", why));
        }
    }
    Ok(())
}

/// Provides `count` users without a device: from a file beside that of the accounts as far as it
/// holds them, the rest anew. Returns their ids; `asker` looks whether the file is this database's.
pub async fn provide_offline(bench: &Bench, asker: &Account, count: u32) -> Result<Vec<i64>> {
    let count = count as usize;
    let path = bench.common.accounts.as_deref();
    let path = path.map(|path| path.with_extension("offline"));
    let mut users = match &path {
        Some(path) => load(path)?,
        None => Vec::new(),
    };
    if let Some(first) = users.first()
        && !is_known(bench, asker, first).await?
    {
        eprintln!("the offline users in the file are not this database's: creating new ones");
        users.clear();
    }
    if users.len() < count {
        let created = create(bench, Roster::Offline, users.len(), count).await?;
        users.extend(created);
        if let Some(path) = path {
            save(&path, &users).internal("writing the file of offline users")?;
        }
    }
    users.truncate(count);
    Ok(users.into_iter().map(|user| user.user_id).collect())
}

fn load(path: &Path) -> Result<Vec<Account>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).internal("reading the accounts file"),
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let accounts: Option<Vec<Account>> = lines.map(parse).collect();
    accounts.ok_or_else(|| Error::bad_request("--accounts", "not a file of accounts"))
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(' ');
    Some(Account {
        user_id: fields.next()?.parse().ok()?,
        device_id: fields.next()?.parse().ok()?,
        token: fields.next()?.to_owned(),
    })
}

fn save(path: &Path, accounts: &[Account]) -> io::Result<()> {
    let mut text = String::from("# user_id device_id token\n");
    for account in accounts {
        let Account {
            user_id,
            device_id,
            token,
        } = account;
        text.push_str(&format!("{user_id} {device_id} {token}\n"));
    }
    let partial = path.with_extension("partial");
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

/// Whether the instance with that number knows the account's token.
async fn is_valid(grpc: &Grpc, instance: usize, account: &Account) -> Result<bool> {
    let ask = pb::GetUserReq { user_id: 0 };
    let request = grpc::request(ask, &grpc::credentials(account)?);
    match grpc
        .user(instance)
        .get_user(request)
        .await
        .map_err(Failure::from)
    {
        Ok(_) => Ok(true),
        Err(failure) if failure.code() == Some(Code::SignInAgain.number()) => Ok(false),
        Err(failure) => Err(Error::internal(format!("checking an account: {failure}"))),
    }
}

/// Whether the first of the offline users is the user he was when he was created.
async fn is_known(bench: &Bench, asker: &Account, first: &Account) -> Result<bool> {
    let ask = pb::SearchUserReq {
        key: Roster::Offline.phone_number(bench.common.seed, 0),
    };
    let request = grpc::request(ask, &grpc::credentials(asker)?);
    let found = bench.grpc.user(0).search_user(request).await;
    let found = found.internal("looking up an offline user")?.into_inner();
    let ids = found.users.iter().map(|user| user.user_id);
    Ok(ids.into_iter().any(|id| id == first.user_id))
}

/// Creates the accounts of `roster` with the numbers `from..to`.
async fn create(bench: &Bench, roster: Roster, from: usize, to: usize) -> Result<Vec<Account>> {
    let made = Arc::new(Mutex::new(Vec::with_capacity(to - from)));
    let next = Arc::new(AtomicUsize::new(from));
    let done = Arc::new(AtomicU64::new(0));
    let _progress = Progress::show(&bench.tasks, {
        let done = Arc::clone(&done);
        move || {
            format!(
                "creating accounts: {} of {}",
                done.load(Ordering::Relaxed),
                to - from
            )
        }
    });
    let workers: Vec<_> = (0..CREATING_MAX.min(to - from))
        .map(|worker| {
            let (made, next, done) = (Arc::clone(&made), Arc::clone(&next), Arc::clone(&done));
            let mut creator = Creator::new(bench, roster, worker);
            bench.tasks.spawn(async move {
                if roster == Roster::Offline {
                    creator.shared_device = Some(creator.register().await?);
                }
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= to {
                        return Ok::<(), Failure>(());
                    }
                    let account = creator.create(number).await.inspect_err(|_| {
                        // The others need not go on.
                        next.store(to, Ordering::Relaxed);
                    })?;
                    lock(&made).push((number, account));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for worker in workers {
        let result = worker.await.internal("creating accounts")?;
        result.map_err(|failure| Error::internal(format!("creating accounts: {failure}")))?;
    }
    let mut made = std::mem::take(&mut *lock(&made));
    made.sort_by_key(|(number, _)| *number);
    Ok(made.into_iter().map(|(_, account)| account).collect())
}

struct Creator {
    grpc: Grpc,
    roster: Roster,
    worker: usize,
    seed: u16,
    code: String,
    /// The device that all sign in on, where they have none of their own.
    shared_device: Option<i64>,
}

impl Creator {
    fn new(bench: &Bench, roster: Roster, worker: usize) -> Self {
        Self {
            grpc: bench.grpc.clone(),
            roster,
            worker,
            seed: bench.common.seed,
            code: bench.common.test_code.clone(),
            shared_device: None,
        }
    }

    /// A new device, and the user of that number signed in on it. A busy server is asked again,
    /// less and less often; a device of an attempt that failed stays without a user.
    async fn create(&self, number: usize) -> Result<Account, Failure> {
        let mut backoff = BACKOFF;
        for _ in 1..ATTEMPTS_MAX {
            match self.try_create(number).await {
                Err(failure) if is_busy(&failure) => sleep(backoff).await,
                result => return result,
            }
            backoff *= 2;
        }
        self.try_create(number).await
    }

    async fn try_create(&self, number: usize) -> Result<Account, Failure> {
        let device_id = match self.shared_device {
            Some(device_id) => device_id,
            None => self.register().await?,
        };
        let sign_in = pb::SignInReq {
            phone_number: self.roster.phone_number(self.seed, number),
            code: self.code.clone(),
            device_id,
            password: String::new(),
        };
        let mut client = self.grpc.user(self.worker);
        let signed_in = client.sign_in(sign_in).await?.into_inner();
        Ok(Account {
            user_id: signed_in.user_id,
            device_id,
            token: match self.roster {
                Roster::Online => signed_in.token,
                Roster::Offline => String::new(),
            },
        })
    }

    async fn register(&self) -> Result<i64, Failure> {
        const WEB: i32 = 5;
        let device = pb::RegisterDeviceReq {
            r#type: WEB,
            brand: "im".to_owned(),
            model: "bench".to_owned(),
            system_version: "1".to_owned(),
            sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut client = self.grpc.logic(self.worker);
        let registered = client.register_device(device).await?.into_inner();
        Ok(registered.device_id)
    }
}

/// Whether trying again may help.
pub fn is_busy(failure: &Failure) -> bool {
    let busy = [Code::TooManyRequests, Code::TryAgain].map(Code::number);
    failure.code().is_some_and(|code| busy.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn phone_numbers_are_as_long_as_they_may_be_and_differ() {
        let numbers = [
            Roster::Online.phone_number(1, 99_999_999),
            Roster::Offline.phone_number(1, 99_999_999),
            Roster::Offline.phone_number(9_999, 0),
        ];
        assert!(
            numbers
                .iter()
                .all(|n| n.len() == limits::PHONE_NUMBER_BYTES_MAX)
        );
        assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2]);
    }

    #[test]
    fn accounts_come_back_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts");
        assert_eq!(load(&path).unwrap(), []);
        let accounts: Vec<Account> = (1..=3)
            .map(|n| Account {
                user_id: n,
                device_id: n + 10,
                // Offline users have none.
                token: if n == 2 {
                    String::new()
                } else {
                    format!("t-{n}")
                },
            })
            .collect();
        save(&path, &accounts).unwrap();
        assert_eq!(load(&path).unwrap(), accounts);
        fs::write(&path, "something else\n").unwrap();
        assert!(load(&path).is_err());
    }
}
