//! Signing in on the long connection, in batches: tokens are checked, generations raised and heads
//! read for all who came while the previous transaction ran, so that a reconnect storm costs the
//! database a few transactions a second and not one each.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot};

use super::credentials::{Claim, Credential};
use crate::{
    clock::Clock,
    error::{Code, Error, Result},
    id::{DeviceId, Owner, Seq, UserId},
    lifecycle::Tasks,
    limits::{DATABASE_DEADLINE, SIGN_IN_BATCH_MAX, SIGN_IN_QUEUE_MAX, SIGN_IN_USERS_CHUNK},
    store::{
        self, Conn, Outcome, Store,
        membership::Membership,
        online::{Attendance, Session},
        session::TokenRow,
        sign_out::SignOuts,
    },
    telemetry::Metrics,
};

/// First pause before signing in is tried again; it doubles up to `RETRY_PAUSE_MAX`.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// A sign-in that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// The device's sign-in counter: the higher one wins (I7).
    pub generation: i64,
    /// When the token expires, in unix milliseconds.
    pub expires_at: i64,
    /// The user has not been signed in on the device.
    pub is_new_device: bool,
    /// The head of the user's timeline.
    pub head: Seq,
    /// How far the device has acknowledged it, as far as that is written.
    pub acked: Seq,
    /// The large groups the user is in, as they were at that head or later.
    pub memberships: Arc<[Membership]>,
}

/// A handle to the task that signs in; cloning it is cheap.
#[derive(Clone, Debug)]
pub struct SignIns {
    queue: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    user: UserId,
    device: DeviceId,
    token_hash: [u8; 32],
    /// What the business said, where the tokens are its own.
    vouched: Option<Credential>,
    reply: oneshot::Sender<Result<SignedIn>>,
}

impl SignIns {
    /// Starts the task; it ends with the server.
    #[must_use]
    pub fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        attendance: Option<Attendance>,
        tasks: &Tasks,
    ) -> Self {
        let (queue, requests) = mpsc::channel(SIGN_IN_QUEUE_MAX);
        let task = Task {
            store,
            clock,
            metrics,
            attendance,
        };
        let stop = tasks.stop().clone();
        tasks.spawn_critical("sign-ins", async move {
            stop.run_until_cancelled_owned(task.run(requests)).await;
        });
        Self { queue }
    }

    /// Checks a device's token, or that what `vouched` for it still counts, and raises its generation.
    /// How long to wait for that is the caller's matter; who does not wait any more is not signed in,
    /// if his turn has not come by then.
    ///
    /// # Errors
    /// 10000 when the token does not hold; 10003 when too many sign in at once; 10004 when the
    /// database does not answer.
    pub async fn sign_in(&self, claim: Claim, vouched: Option<Credential>) -> Result<SignedIn> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            user: claim.user,
            device: claim.device,
            token_hash: claim.token_hash,
            vouched,
            reply,
        };
        self.queue.try_send(request).map_err(|_| {
            Error::business(Code::TooManyRequests, "too many sign-ins, try again later")
        })?;
        let ended = |_| Error::try_again("this instance is shutting down");
        answer.await.map_err(ended)?
    }
}

struct Task {
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Where it is written who is online, if somebody is told.
    attendance: Option<Attendance>,
}

impl Task {
    async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while requests.recv_many(&mut batch, SIGN_IN_BATCH_MAX).await > 0 {
            // Whoever has gone away must not replace a session that lives.
            batch.retain(|request: &Request| !request.reply.is_closed());
            if !batch.is_empty() {
                self.sign_in(std::mem::take(&mut batch)).await;
            }
        }
    }

    async fn sign_in(&self, batch: Vec<Request>) {
        let signed = tokio::time::timeout(DATABASE_DEADLINE, self.sign_in_surely(&batch)).await;
        let mut signed = match signed {
            Ok(Ok(signed)) => Ok(signed),
            Ok(Err(error)) => Err(Error::from(error)),
            Err(_) => Err(Error::try_again(
                "the database does not answer, try again later",
            )),
        };
        for (index, request) in batch.into_iter().enumerate() {
            let answer = match &mut signed {
                Ok(signed) => signed.remove(&index).ok_or_else(Error::sign_in_again),
                Err(error) => Err(error.duplicate()),
            };
            self.metrics.sign_in_done(&answer);
            // Whoever does not wait any more has gone away.
            let _ = request.reply.send(answer);
        }
    }

    /// Tries again while that may help: hundreds of devices wait. A generation that is raised once
    /// more harms nobody.
    async fn sign_in_surely(&self, batch: &[Request]) -> Outcome<HashMap<usize, SignedIn>> {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let error = match store::attempt(self.sign_in_all(batch)).await {
                Ok(signed) => return Ok(signed),
                Err(error) => error,
            };
            if !store::failure_kind(&error).may_pass() {
                return Err(error);
            }
            tracing::debug!(%error, "signing in is tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Signs in those whose token holds; the indices of the others are missing from the result.
    async fn sign_in_all(&self, batch: &[Request]) -> Outcome<HashMap<usize, SignedIn>> {
        let mut signed = self.transaction(batch).await?;
        // After the heads: a change that is not seen here stands beyond them. And after the commit:
        // who is in thousands of groups must not keep everyone else from writing.
        let users = distinct(signed.keys().map(|index| batch[*index].user));
        let memberships = self.memberships(&users).await?;
        for (index, signed) in &mut signed {
            let user = batch[*index].user;
            signed.memberships = memberships.get(&user).cloned().unwrap_or_default();
        }
        Ok(signed)
    }

    /// The large groups of users; who is in none is missing.
    async fn memberships(&self, users: &[UserId]) -> Outcome<HashMap<UserId, Arc<[Membership]>>> {
        let mut memberships = HashMap::new();
        for users in users.chunks(SIGN_IN_USERS_CHUNK) {
            let some = store::membership::of_users(self.store.reader(), users).await?;
            let some = some.into_iter();
            memberships.extend(some.map(|(user, groups)| (user, Arc::from(groups))));
        }
        Ok(memberships)
    }

    /// Checks tokens, raises generations and reads heads and acks.
    async fn transaction(&self, batch: &[Request]) -> Outcome<HashMap<usize, SignedIn>> {
        let now = self.clock.now_ms();
        let tx = self.store.begin_raw().await?;
        let conn = tx.conn();
        let mut tokens =
            store::session::tokens(conn, &distinct(batch.iter().map(|r| r.device))).await?;
        let sign_outs = sign_outs(conn, batch).await?;
        let is_granted = |request: &Request| match &request.vouched {
            Some(vouched) => request.is_still_granted(vouched, &sign_outs, now),
            None => {
                let token = tokens.get(&request.device);
                token.is_some_and(|token| request.is_granted_by(token, now))
            }
        };
        let all = batch.iter().enumerate();
        let granted: Vec<(usize, &Request)> = all.filter(|(_, r)| is_granted(r)).collect();
        // A device that signs in more than once takes a generation for each time.
        let mut times: HashMap<DeviceId, i64> = HashMap::new();
        for (_, request) in &granted {
            *times.entry(request.device).or_default() += 1;
        }
        let Some(step) = times.values().max().copied() else {
            return Ok(HashMap::new());
        };
        let mut devices: Vec<DeviceId> = times.keys().copied().collect();
        // As another instance locks them.
        devices.sort_unstable();
        let owners = distinct(granted.iter().map(|(_, request)| Owner::User(request.user)));
        let sessions = distinct(
            granted
                .iter()
                .map(|(_, request)| (request.user, request.device)),
        );
        // A device that was never registered has none.
        let generations = store::session::raise_generations(conn, &devices, step, now).await?;
        let known = granted
            .iter()
            .filter(|(_, request)| generations.contains_key(&request.device));
        let vouched = newest_tokens(known.map(|(_, request)| *request));
        if !vouched.is_empty() {
            // Read anew, now that the devices are locked.
            tokens = store::session::tokens(conn, &devices).await?;
            let is_new = |token: &TokenRow| tokens.get(&DeviceId(token.device_id)) != Some(token);
            let changed: Vec<TokenRow> = vouched.into_iter().filter(is_new).collect();
            store::session::keep(conn, &changed, now).await?;
        }
        if let Some(attendance) = &self.attendance {
            let sessions = granted.iter().filter_map(|(_, r)| r.session(&generations));
            attendance.came(conn, sessions, now).await?;
        }
        let heads = store::timeline::heads_raw(conn, &owners).await?;
        let acks = store::ack::own(conn, &sessions).await?;
        tx.commit_raw().await?;
        if let Some(attendance) = &self.attendance {
            attendance.written();
        }
        let read = Read {
            tokens,
            generations,
            heads,
            acks,
        };
        Ok(read.signed_in(&granted, times))
    }
}

/// What the transaction has found.
struct Read {
    /// What devices had before.
    tokens: HashMap<DeviceId, TokenRow>,
    generations: HashMap<DeviceId, i64>,
    heads: HashMap<Owner, Seq>,
    acks: HashMap<(UserId, DeviceId), Seq>,
}

impl Read {
    /// What it means for those whose token holds; how many `times` each device signs in is counted down.
    fn signed_in(
        &self,
        granted: &[(usize, &Request)],
        mut times: HashMap<DeviceId, i64>,
    ) -> HashMap<usize, SignedIn> {
        let mut signed = HashMap::with_capacity(granted.len());
        for (index, request) in granted {
            let Request { user, device, .. } = **request;
            let stored = self.tokens.get(&device);
            let expires_at = match &request.vouched {
                Some(vouched) => Some(vouched.expires_at),
                None => stored.map(|token| token.expires_at),
            };
            let newest = self.generations.get(&device);
            let (Some(newest), Some(expires_at), Some(left)) =
                (newest, expires_at, times.get_mut(&device))
            else {
                continue;
            };
            *left -= 1;
            let head = self.heads.get(&Owner::User(user)).copied();
            let acked = self.acks.get(&(user, device)).copied();
            let signed_in = SignedIn {
                // The last of them is the newest.
                generation: newest - *left,
                expires_at,
                is_new_device: stored.is_none_or(|token| token.user_id != user.get()),
                head: head.unwrap_or_default(),
                acked: acked.unwrap_or_default(),
                memberships: Arc::default(),
            };
            signed.insert(*index, signed_in);
        }
        signed
    }
}

impl Request {
    /// The newest session of its device.
    fn session(&self, generations: &HashMap<DeviceId, i64>) -> Option<Session> {
        Some(Session {
            user: self.user,
            device: self.device,
            generation: *generations.get(&self.device)?,
        })
    }

    fn is_granted_by(&self, token: &TokenRow, now_ms: i64) -> bool {
        token.user_id == self.user.get()
            && token.expires_at > now_ms
            && bool::from(token.token_hash.ct_eq(&self.token_hash))
    }

    /// Whether what the business said counts: nobody has signed the user out since.
    fn is_still_granted(&self, vouched: &Credential, sign_outs: &SignOuts, now_ms: i64) -> bool {
        vouched.expires_at > now_ms && vouched.sign_outs == sign_outs.count(self.user, self.device)
    }
}

/// The sign-outs of those who were vouched for; another one waits for the end of this transaction.
async fn sign_outs(conn: &impl Conn, batch: &[Request]) -> Outcome<SignOuts> {
    let vouched = || batch.iter().filter(|request| request.vouched.is_some());
    let users = distinct(vouched().map(|request| request.user));
    if users.is_empty() {
        return Ok(SignOuts::default());
    }
    store::timeline::lock_heads(conn, users.into_iter().map(Owner::User)).await?;
    let sessions = distinct(vouched().map(|request| (request.user, request.device)));
    store::sign_out::of(conn, &sessions).await
}

/// What devices were vouched for with, by device. The last sign-in of a device is its newest.
fn newest_tokens<'a>(granted: impl Iterator<Item = &'a Request>) -> Vec<TokenRow> {
    let mut newest = BTreeMap::new();
    for request in granted {
        let Some(vouched) = &request.vouched else {
            continue;
        };
        let token = TokenRow {
            device_id: request.device.get(),
            user_id: request.user.get(),
            token_hash: request.token_hash.to_vec(),
            expires_at: vouched.expires_at,
        };
        newest.insert(request.device, token);
    }
    newest.into_values().collect()
}

/// Each once.
fn distinct<T: Eq + Hash>(items: impl Iterator<Item = T>) -> Vec<T> {
    let distinct: HashSet<T> = items.collect();
    distinct.into_iter().collect()
}
