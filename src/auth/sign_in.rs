//! Signing in on the long connection, in batches: tokens are checked, generations raised and heads
//! read for all who came while the previous transaction ran, so that a reconnect storm costs the
//! database a few transactions a second and not one each.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    error::{Code, Error, Result},
    id::{DeviceId, Owner, Seq, UserId},
    lifecycle::Tasks,
    limits::{DATABASE_DEADLINE, SIGN_IN_BATCH_MAX, SIGN_IN_QUEUE_MAX},
    store::{self, Outcome, Store},
    telemetry::Metrics,
};

/// A sign-in that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// The device's sign-in counter: the higher one wins (I7).
    pub generation: i64,
    /// When the token expires, in unix milliseconds.
    pub expires_at: i64,
    /// The head of the user's timeline.
    pub head: Seq,
    /// How far the device has acknowledged it, as far as that is written.
    pub acked: Seq,
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
    reply: oneshot::Sender<Result<SignedIn>>,
}

impl SignIns {
    /// Starts the task; it ends with the server.
    #[must_use]
    pub fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> Self {
        let (queue, requests) = mpsc::channel(SIGN_IN_QUEUE_MAX);
        let task = Task {
            store,
            clock,
            metrics,
        };
        let stop = tasks.stop().clone();
        tasks.spawn_critical("sign-ins", async move {
            stop.run_until_cancelled_owned(task.run(requests)).await;
        });
        Self { queue }
    }

    /// Checks a device's token and raises its generation.
    ///
    /// # Errors
    /// 10000 when the token does not hold; 10003 when too many sign in at once; 10004 when the
    /// database does not answer.
    pub async fn sign_in(
        &self,
        user: UserId,
        device: DeviceId,
        token_hash: [u8; 32],
    ) -> Result<SignedIn> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            user,
            device,
            token_hash,
            reply,
        };
        self.queue.try_send(request).map_err(|_| {
            Error::business(Code::TooManyRequests, "too many sign-ins, try again later")
        })?;
        match tokio::time::timeout(DATABASE_DEADLINE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Error::try_again(
                "the database does not answer, try again later",
            )),
        }
    }
}

struct Task {
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::new();
        loop {
            if waiting.is_empty() && requests.recv_many(&mut waiting, SIGN_IN_BATCH_MAX).await == 0
            {
                return;
            }
            let batch = take_batch(&mut waiting);
            self.sign_in(batch).await;
            while waiting.len() < SIGN_IN_BATCH_MAX
                && let Ok(request) = requests.try_recv()
            {
                waiting.push(request);
            }
        }
    }

    async fn sign_in(&self, batch: Vec<Request>) {
        let signed = tokio::time::timeout(DATABASE_DEADLINE, self.transaction(&batch)).await;
        let signed = match signed {
            Ok(Ok(signed)) => Ok(signed),
            Ok(Err(error)) => Err(Error::from(error)),
            Err(_) => Err(Error::try_again(
                "the database does not answer, try again later",
            )),
        };
        for request in batch {
            let answer = match &signed {
                Ok(signed) => signed
                    .get(&request.device)
                    .copied()
                    .ok_or_else(Error::sign_in_again),
                Err(error) => Err(error.duplicate()),
            };
            self.metrics.sign_in_done(&answer);
            // Whoever does not wait any more has gone away.
            let _ = request.reply.send(answer);
        }
    }

    /// Signs in those whose token holds; the others are missing from the result.
    async fn transaction(&self, batch: &[Request]) -> Outcome<HashMap<DeviceId, SignedIn>> {
        let now = self.clock.now_ms();
        let devices: Vec<DeviceId> = batch.iter().map(|request| request.device).collect();
        let tx = self.store.begin_raw().await?;
        let conn = tx.conn();
        let tokens = store::session::tokens(conn, &devices).await?;
        let valid: Vec<&Request> = batch
            .iter()
            .filter(|request| {
                let token = tokens.get(&request.device);
                token.is_some_and(|token| request.is_granted_by(token, now))
            })
            .collect();
        if valid.is_empty() {
            return Ok(HashMap::new());
        }
        let devices: Vec<DeviceId> = valid.iter().map(|request| request.device).collect();
        let sessions: Vec<_> = valid
            .iter()
            .map(|request| (request.user, request.device))
            .collect();
        let users: HashSet<Owner> = valid
            .iter()
            .map(|request| Owner::User(request.user))
            .collect();
        let users: Vec<Owner> = users.into_iter().collect();
        let generations = store::session::raise_generations(conn, &devices, now).await?;
        let heads = store::timeline::heads_raw(conn, &users).await?;
        let acks = store::ack::own(conn, &sessions).await?;
        tx.commit_raw().await?;

        let signed = valid.into_iter().filter_map(|request| {
            let Request { user, device, .. } = *request;
            let owner = Owner::User(user);
            Some((
                device,
                SignedIn {
                    generation: *generations.get(&device)?,
                    expires_at: tokens.get(&device)?.expires_at,
                    head: heads.get(&owner).copied().unwrap_or_default(),
                    acked: acks.get(&(user, device)).copied().unwrap_or_default(),
                },
            ))
        });
        Ok(signed.collect())
    }
}

impl Request {
    fn is_granted_by(&self, token: &store::session::TokenRow, now_ms: i64) -> bool {
        token.user_id == self.user.get()
            && token.expires_at > now_ms
            && bool::from(token.token_hash.ct_eq(&self.token_hash))
    }
}

/// Takes what goes into one transaction: at most one sign-in of each device, so that each gets a
/// generation of its own.
fn take_batch(waiting: &mut Vec<Request>) -> Vec<Request> {
    let mut devices = HashSet::new();
    let (mut batch, later): (Vec<_>, Vec<_>) = std::mem::take(waiting)
        .into_iter()
        .partition(|request| devices.insert(request.device));
    *waiting = later;
    // Whoever has gone away must not replace a session that lives.
    batch.retain(|request: &Request| !request.reply.is_closed());
    batch
}
