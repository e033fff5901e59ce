//! A business server's HTTP endpoint: it keeps what is posted to it and answers as the test says.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use im::{config::Config, limits::BEFORE_SEND_TIMEOUT_MAX};
use serde_json::Value;
use tokio::net::TcpListener;

use super::wait::eventually;

/// How long the server waits for an answer, in seconds: beyond what a busy machine takes for one. What is
/// not answered in time is posted again.
pub const TIMEOUT_S: u64 = 30;

/// What all of these tests sign with.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What is answered to one request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A status and a body.
    Status(u16, String),
    /// Nothing, ever.
    Silence,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Posted {
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    /// Within which trace it was posted, if any.
    pub traceparent: Option<String>,
    pub body: String,
    /// It was answered with 200.
    pub is_taken: bool,
}

type Rule = Box<dyn FnMut(&Posted) -> Answer + Send>;

/// An endpoint in this process; it ends with the test.
pub struct Receiver {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    posted: Vec<Posted>,
    rule: Rule,
}

impl Answer {
    /// It was taken.
    pub fn ok() -> Self {
        Self::Status(200, String::new())
    }

    /// A JSON answer.
    pub fn json(text: impl Into<String>) -> Self {
        Self::Status(200, text.into())
    }

    /// It was not taken.
    pub fn failure() -> Self {
        Self::Status(503, String::new())
    }
}

impl Posted {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    /// When it was posted, in unix seconds.
    pub fn second(&self) -> i64 {
        self.timestamp.parse().expect("a time")
    }

    /// What it tells.
    pub fn kind(&self) -> String {
        self.json()["type"].as_str().expect("a type").to_owned()
    }

    /// What the message that it is about says, if it is a text.
    pub fn words(&self) -> String {
        let json = self.json();
        let text = json["data"]["message"]["text"].as_str();
        text.unwrap_or_default().to_owned()
    }

    /// The user whom it is about.
    pub fn user(&self) -> i64 {
        let json = self.json();
        let user = json["data"]["user_id"].as_str().expect("a user");
        user.parse().expect("an id")
    }
}

impl Receiver {
    /// An endpoint that takes everything.
    pub async fn start() -> Self {
        Self::answering(|_| Answer::ok()).await
    }

    /// An endpoint that answers as `rule` says.
    pub async fn answering(rule: impl FnMut(&Posted) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let inner = Inner {
            posted: Vec::new(),
            rule: Box::new(rule),
        };
        let inner = Arc::new(Mutex::new(inner));
        let routes = Router::new()
            .route("/hook", post(take))
            .with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
        Self { address, inner }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers as `rule` says from now on.
    pub fn answer(&self, rule: impl FnMut(&Posted) -> Answer + Send + 'static) {
        lock(&self.inner).rule = Box::new(rule);
    }

    /// All that was posted so far.
    pub fn posted(&self) -> Vec<Posted> {
        lock(&self.inner).posted.clone()
    }

    /// What the events of a user tell, in order: each once, although one that the server did not see
    /// taken is posted again.
    pub fn told_of(&self, user_id: i64) -> Vec<String> {
        let mut ids = HashSet::new();
        let mut posted = self.posted();
        posted.retain(|posted| posted.user() == user_id && ids.insert(posted.id.clone()));
        posted.iter().map(Posted::kind).collect()
    }

    /// What was taken so far, of one kind.
    pub fn taken(&self, kind: &str) -> Vec<Posted> {
        let mut posted = self.posted();
        posted.retain(|posted| posted.is_taken && posted.kind() == kind);
        posted
    }

    /// Waits until at least so many of a kind were taken.
    pub async fn until_taken(&self, kind: &str, count: usize) -> Vec<Posted> {
        let what = format!("{count} of {kind}");
        eventually(&what, async || {
            let taken = self.taken(kind);
            (taken.len() >= count).then_some(taken)
        })
        .await
    }

    /// Has the server tell some events here.
    pub fn tell(&self, config: &mut Config, events: &[&str]) {
        config.webhooks.url = self.url();
        config.webhooks.secret = SECRET.into();
        config.webhooks.events = events.iter().map(|event| (*event).into()).collect();
        config.webhooks.timeout_s = TIMEOUT_S;
        config.webhooks.undelivered_after_s = 1;
    }

    /// The same for a process.
    pub fn variables(&self, events: &str) -> Vec<(&'static str, String)> {
        vec![
            ("IM_WEBHOOKS__URL", self.url()),
            ("IM_WEBHOOKS__SECRET", SECRET.into()),
            ("IM_WEBHOOKS__EVENTS", events.into()),
        ]
    }

    /// Has the server ask here before messages are sent. It waits as long as it can for an answer, which
    /// a busy machine delays.
    pub fn ask(&self, config: &mut Config) {
        config.before_send.url = self.url();
        config.before_send.timeout_ms = BEFORE_SEND_TIMEOUT_MAX.as_millis() as u64;
        config.webhooks.secret = SECRET.into();
    }
}

async fn take(State(inner): State<Arc<Mutex<Inner>>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name| {
        let value = headers.get(name).expect("a header of Standard Webhooks");
        value.to_str().expect("ASCII").to_owned()
    };
    let mut posted = Posted {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        traceparent: headers.get("traceparent").map(|_| header("traceparent")),
        body: String::from_utf8(body.to_vec()).expect("UTF-8"),
        is_taken: false,
    };
    let answer = {
        let mut inner = lock(&inner);
        let answer = (inner.rule)(&posted);
        posted.is_taken = matches!(answer, Answer::Status(200, _));
        inner.posted.push(posted);
        answer
    };
    match answer {
        Answer::Status(status, text) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, text).into_response()
        }
        Answer::Silence => std::future::pending().await,
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("no panic under the lock")
}
