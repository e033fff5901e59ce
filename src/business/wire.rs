//! Single calls: the connection to the business server, how many calls run and wait, the breaker
//! before them, their deadline, and what is counted of them.

use std::{collections::HashMap, fmt, future::Future, sync::Arc};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::failure::{self, Asked};
use crate::{
    breaker::{Breaker, Turned},
    config::without_secrets,
    error::{Error, Result, ResultExt},
    id::{DeviceId, UserId},
    limits::{
        BUSINESS_ANSWER_BYTES_MAX, BUSINESS_CALLS_MAX, BUSINESS_CALLS_WAITING_MAX,
        BUSINESS_CONNECT_MAX, BUSINESS_DEADLINE, BUSINESS_PING_INTERVAL, BUSINESS_PING_TIMEOUT,
    },
    pb::{self, user_int_client::UserIntClient},
    telemetry::{self, Metrics, trace_context},
};

/// The way to the business server.
pub(super) struct Wire {
    client: UserIntClient<Channel>,
    /// Calls under way and those that wait for their turn; beyond them nobody waits.
    places: Semaphore,
    /// Calls under way.
    turns: Semaphore,
    breaker: Breaker,
    metrics: Arc<Metrics>,
}

impl Wire {
    /// The way to the `UserInt` at `endpoint`. Nothing is connected before the first call.
    pub(super) fn new(endpoint: &str, metrics: Arc<Metrics>) -> Result<Self> {
        let client = UserIntClient::new(channel(endpoint)?);
        Ok(Self {
            client: client.max_decoding_message_size(BUSINESS_ANSWER_BYTES_MAX),
            places: Semaphore::new(BUSINESS_CALLS_MAX + BUSINESS_CALLS_WAITING_MAX),
            turns: Semaphore::new(BUSINESS_CALLS_MAX),
            breaker: Breaker::default(),
            metrics,
        })
    }

    /// Asks whether a token is good.
    pub(super) async fn auth(&self, user: UserId, device: DeviceId, token: String) -> Result<()> {
        let question = pb::AuthReq {
            user_id: user.get(),
            device_id: device.get(),
            token,
        };
        let mut client = self.client.clone();
        let answer = self
            .call(
                question,
                |question| async move { client.auth(question).await },
            )
            .await;
        let answer = answer
            .map_err(|status| failure::error(&status, Asked::Token))
            .map(|_| ());
        self.metrics.business.auths.count(&answer);
        answer
    }

    /// Asks who `users` are; those whom the business server does not know are left out.
    pub(super) async fn users(&self, users: Vec<UserId>) -> Result<HashMap<UserId, pb::User>> {
        let answer = match users[..] {
            [user] => self.one_user(user).await,
            _ => self.many_users(&users).await,
        };
        let answer = answer.map_err(|status| failure::error(&status, Asked::Profiles));
        self.metrics.business.lookups.count(&answer);
        answer
    }

    async fn one_user(&self, user: UserId) -> Result<HashMap<UserId, pb::User>, Status> {
        let question = pb::GetUserReq {
            user_id: user.get(),
        };
        let mut client = self.client.clone();
        let answer = self
            .call(question, |question| async move {
                client.get_user(question).await
            })
            .await;
        let found = match answer {
            Ok(answer) => answer.user,
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(status),
        };
        // Another one was not asked for; a server may leave out what the question says.
        let found = found.filter(|found| [0, user.get()].contains(&found.user_id));
        Ok(found.map(|found| (user, found)).into_iter().collect())
    }

    async fn many_users(&self, users: &[UserId]) -> Result<HashMap<UserId, pb::User>, Status> {
        let question = pb::GetUsersReq {
            user_ids: users.iter().map(|user| (user.get(), 0)).collect(),
        };
        let mut client = self.client.clone();
        let mut answer = self
            .call(question, |question| async move {
                client.get_users(question).await
            })
            .await?;
        let found = users.iter().filter_map(|user| {
            let found = answer.users.remove(&user.get())?;
            Some((*user, found))
        });
        Ok(found.collect())
    }

    /// Makes one call within the deadline, which waiting for a turn counts into.
    async fn call<Q, A, F>(
        &self,
        question: Q,
        ask: impl FnOnce(Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + BUSINESS_DEADLINE;
        if !self.breaker.may_pass(Instant::now()) {
            return Err(self.not_asked("it has not answered for a while"));
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(self.not_asked("too many wait for it"));
        };
        let Ok(Ok(_turn)) = timeout_at(deadline, self.turns.acquire()).await else {
            return Err(self.not_asked("it answers too slowly"));
        };
        if !self.breaker.admit(Instant::now()) {
            return Err(self.not_asked("it has not answered for a while"));
        }
        let answer = timeout_at(deadline, ask(request(question, deadline))).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        self.learn(&answer);
        answer.map(Response::into_inner)
    }

    fn not_asked(&self, why: &'static str) -> Status {
        self.metrics.business.not_asked.inc();
        Status::unavailable(why)
    }

    /// Tells the breaker how a call ended.
    fn learn<A>(&self, answer: &Result<A, Status>) {
        let failed = answer.as_ref().err().filter(|s| failure::is_no_answer(s));
        let turned = match failed {
            Some(_) => self.breaker.failed(Instant::now()),
            None => self.breaker.succeeded(),
        };
        match turned {
            Turned::Not => {}
            Turned::Opened => {
                self.metrics.business.breaker_open.set(1);
                let cause = failed.map(tracing::field::display);
                tracing::warn!(cause, "the business server does not answer");
            }
            Turned::Closed => {
                self.metrics.business.breaker_open.set(0);
                tracing::info!("the business server answers again");
            }
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// What every call bears beside its question.
fn request<Q>(question: Q, deadline: Instant) -> Request<Q> {
    let mut request = Request::new(question);
    // So that the business server need not go on when nobody waits any more.
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let metadata = request.metadata_mut().as_mut();
    trace_context::inject(metadata);
    if let Some(id) = telemetry::current_request_id() {
        metadata.insert(telemetry::REQUEST_ID, id);
    }
    request
}

fn channel(endpoint: &str) -> Result<Channel> {
    let unusable = || format!("use users.endpoint {}", without_secrets(endpoint));
    let is_tls = endpoint.starts_with("https://");
    let endpoint = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| Error::wrap(unusable(), error))?
        .connect_timeout(BUSINESS_CONNECT_MAX)
        // Only while calls are under way: gRPC servers take pings on idle connections for an abuse.
        .http2_keep_alive_interval(BUSINESS_PING_INTERVAL)
        .keep_alive_timeout(BUSINESS_PING_TIMEOUT)
        .keep_alive_while_idle(false);
    let endpoint = if is_tls {
        let roots = ClientTlsConfig::new().with_native_roots();
        endpoint
            .tls_config(roots)
            .internal("read the system's root certificates, for users.endpoint")?
    } else {
        endpoint
    };
    Ok(endpoint.connect_lazy())
}
