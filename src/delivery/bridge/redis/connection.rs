//! A connection to Redis: had, tried, lost, had again.
//!
//! The client can reconnect by itself, but then it sends what waited, late and perhaps twice, and
//! does not notice a server that hangs. So it is given one connection and no policy: a connection
//! that is lost, or does not answer, is dropped with everything in it, and there is a new client
//! for the next one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use fred::{
    clients::Client,
    error::{Error as RedisError, ErrorKind},
    interfaces::{ClientLike, EventInterface},
    types::{
        ClusterHash, ClusterStateChange, ConnectHandle, CustomCommand, Message, RespVersion, Value,
        config::{Config, ConnectionConfig, PerformanceConfig, Server, TcpConfig},
    },
};
use futures_util::future::try_join_all;
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    limits::{REDIS_BACK_OFF_MAX, REDIS_BACK_OFF_MIN, REDIS_TIMEOUT},
    telemetry::Metrics,
};

/// What Redis answers, or that it does not.
pub(in super::super) type Outcome<T> = std::result::Result<T, RedisError>;

/// Who has which slots of a Redis Cluster, by the word of each server; nobody where it is none.
pub(super) type Layout = HashMap<Server, Vec<Range>>;

/// The first and the last of some slots, and the id of the primary that has them.
type Range = [Value; 3];

/// How often the client is asked whether it is connected, should it not tell.
const CONNECT_POLL: Duration = Duration::from_millis(100);

/// Connects to Redis again and again, for one purpose.
#[derive(Debug)]
pub(in super::super) struct Dialer {
    config: Config,
    /// Messages that the client keeps until they are taken.
    inbox: usize,
    /// For what, in log lines.
    purpose: &'static str,
    metrics: Arc<Metrics>,
    pause: Duration,
    connected_at: Option<Instant>,
}

/// A connection; dropping it cuts it off.
pub(in super::super) struct Connection {
    client: Client,
    router: ConnectHandle,
    /// Of a Redis Cluster: the client has found that slots have moved, or a node has come or gone.
    changes: broadcast::Receiver<Vec<ClusterStateChange>>,
    messages: Option<broadcast::Receiver<Message>>,
    is_cluster: bool,
}

/// Reads the URL of a Redis.
///
/// # Errors
/// An internal error that names the key, and not the URL: it may bear a password.
pub(super) fn parse(url: &str) -> Result<Config> {
    let config = Config::from_url(url)
        .map_err(|error| Error::internal(format!("redis.url: {}", error.details())))?;
    Ok(Config {
        version: RespVersion::RESP3,
        ..config
    })
}

/// Whether `error` is an answer that another connection would not change.
pub(in super::super) fn is_refusal(error: &RedisError) -> bool {
    let is_answer = matches!(
        error.kind(),
        ErrorKind::InvalidCommand | ErrorKind::InvalidArgument | ErrorKind::Unknown
    );
    // A replica answers so: what is to be written belongs elsewhere.
    is_answer && !error.details().starts_with("READONLY")
}

/// Waits for `work`, but not for longer than `within` once `stop` has come; `None` then.
pub(in super::super) async fn ends_soon<T>(
    stop: &CancellationToken,
    within: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(within).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = too_late => None,
    }
}

impl Dialer {
    pub(super) fn new(
        config: Config,
        inbox: usize,
        purpose: &'static str,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            config,
            inbox,
            purpose,
            metrics,
            pause: Duration::ZERO,
            connected_at: None,
        }
    }

    /// A new connection, however long it takes; `None` when `stop` comes first. The first attempt
    /// is made at once unless the last connection did not live for long.
    pub(in super::super) async fn dial(&mut self, stop: &CancellationToken) -> Option<Connection> {
        let before = self.connected_at.take();
        if before.is_some_and(|at| at.elapsed() > REDIS_BACK_OFF_MAX) {
            self.pause = Duration::ZERO;
        }
        let mut is_told = before.is_some();
        loop {
            let attempt = async {
                tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
                Connection::open(&self.config, self.inbox).await
            };
            let outcome = stop.run_until_cancelled(attempt).await?;
            self.pause = (2 * self.pause).clamp(REDIS_BACK_OFF_MIN, REDIS_BACK_OFF_MAX);
            match outcome {
                Ok(connection) => {
                    if is_told {
                        tracing::info!(purpose = self.purpose, "Redis is there again");
                    }
                    if before.is_some() {
                        self.metrics.bridge.reconnects.inc();
                    }
                    self.connected_at = Some(Instant::now());
                    return Some(connection);
                }
                Err(error) if !is_told => {
                    is_told = true;
                    self.is_away(&error);
                }
                Err(_) => {}
            }
        }
    }

    /// Says once that a connection was lost or could not be had.
    pub(in super::super) fn is_away(&self, error: &RedisError) {
        tracing::warn!(purpose = self.purpose, %error, "Redis is away, other instances are reached later");
    }
}

impl Connection {
    async fn open(config: &Config, inbox: usize) -> Outcome<Self> {
        let performance = PerformanceConfig {
            broadcast_channel_capacity: inbox,
            default_command_timeout: REDIS_TIMEOUT,
            ..Default::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: REDIS_TIMEOUT,
            internal_command_timeout: REDIS_TIMEOUT,
            tcp: TcpConfig {
                nodelay: Some(true),
                ..Default::default()
            },
            ..Default::default()
        };
        let client = Client::new(config.clone(), Some(performance), Some(connection), None);
        let mut connection = Self {
            messages: Some(client.message_rx()),
            router: client.connect(),
            changes: client.cluster_change_rx(),
            is_cluster: config.server.is_clustered(),
            client,
        };
        let established = timeout(2 * REDIS_TIMEOUT, connection.established());
        established.await.unwrap_or_else(|_| Err(no_answer()))?;
        // To connect is a change too.
        connection.changes = connection.client.cluster_change_rx();
        connection.check().await?;
        Ok(connection)
    }

    async fn established(&mut self) -> Outcome<()> {
        loop {
            // It tells only those who listen already, so it is asked again.
            let told = timeout(CONNECT_POLL, self.client.wait_for_connect());
            tokio::select! {
                biased;
                Ok(told) = told => return told,
                ended = &mut self.router => return Err(reason(ended)),
                () = tokio::time::sleep(CONNECT_POLL) => {}
            }
        }
    }

    pub(in super::super) fn client(&self) -> &Client {
        &self.client
    }

    /// The messages of the channels it subscribes to. They can be taken once.
    pub(super) fn take_messages(&mut self) -> Option<broadcast::Receiver<Message>> {
        self.messages.take()
    }

    /// Completes with the reason when the connection is lost. A Redis Cluster that changes counts as
    /// that once the client has found it out, which it does only when a command is sent on to another
    /// node; whoever holds subscriptions asks for the [layout](Self::layout) beside it. Not to be
    /// called again then. Cancel safe.
    pub(in super::super) async fn lost(&mut self) -> RedisError {
        tokio::select! {
            ended = &mut self.router => reason(ended),
            _ = self.changes.recv() => cluster_changed(),
        }
    }

    /// Asks every server that it is connected to whether it is there, behind all commands before. A
    /// single one is asked what it is: one that has become a replica keeps its clients, and takes
    /// what they publish, but others are elsewhere by now. In a Redis Cluster such a one sends them on.
    pub(super) async fn check(&self) -> Outcome<()> {
        if self.is_cluster {
            return self.ask_each("PING").await.map(drop);
        }
        match self.ask_each("ROLE").await {
            Ok(roles) if roles.iter().any(|(_, role)| is_replica(role)) => {
                Err(RedisError::new(ErrorKind::IO, "the server is a replica"))
            }
            Ok(_) => Ok(()),
            // It is there, but does not tell: not every user may ask.
            Err(error) if is_refusal(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks every server of a Redis Cluster who has which slots, behind all commands before. A node
    /// that gives a slot away ends the subscriptions there; it says so itself, so nothing depends on
    /// how soon the others hear of it.
    pub(super) async fn layout(&self) -> Outcome<Layout> {
        let answers = self.ask_each("CLUSTER SLOTS").await?;
        let answers = answers.into_iter();
        answers
            .map(|(server, slots)| Ok((server, ranges(slots)?)))
            .collect()
    }

    async fn ask_each(&self, command: &'static str) -> Outcome<Vec<(Server, Value)>> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        let servers = self.client.active_connections().into_iter();
        let asked = servers.map(|server| {
            let client = self.client.with_cluster_node(&server);
            let command = command.clone();
            async move { Ok((server, client.custom(command, Vec::<Value>::new()).await?)) }
        });
        timeout(REDIS_TIMEOUT, try_join_all(asked))
            .await
            .unwrap_or_else(|_| Err(no_answer()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.router.abort();
    }
}

/// What an answer to CLUSTER SLOTS says of primaries.
fn ranges(answer: Value) -> Outcome<Vec<Range>> {
    let ranges: Vec<Vec<Value>> = answer.convert()?;
    let ranges = ranges.iter().map(|range| match &range[..] {
        [first, last, Value::Array(primary), ..] if primary.len() > 2 => {
            Ok([first, last, &primary[2]].map(Value::clone))
        }
        _ => Err(RedisError::new(
            ErrorKind::Protocol,
            "the answer to CLUSTER SLOTS is none",
        )),
    });
    ranges.collect()
}

/// What an answer to ROLE says.
fn is_replica(role: &Value) -> bool {
    matches!(role, Value::Array(role) if role.first().and_then(Value::as_str).as_deref() == Some("slave"))
}

pub(super) fn no_answer() -> RedisError {
    RedisError::new(ErrorKind::Timeout, "no answer in time")
}

pub(super) fn cluster_changed() -> RedisError {
    RedisError::new(ErrorKind::Cluster, "the cluster has changed")
}

fn reason(ended: std::result::Result<Outcome<()>, tokio::task::JoinError>) -> RedisError {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => RedisError::new(ErrorKind::IO, "the connection was closed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_that_is_none_is_refused_without_telling_it() {
        for url in ["redis://:hunter2@", "redis-sentinel://:hunter2@h:1"] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.starts_with("redis.url: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn primaries_count_in_a_layout_and_replicas_do_not() {
        let node = |id: &'static str| {
            let node = ["127.0.0.1".into(), 6379.into(), id.into()];
            Value::Array(node.into())
        };
        let range = |nodes: &[&'static str]| {
            let mut range: Vec<Value> = vec![0.into(), 99.into()];
            range.extend(nodes.iter().copied().map(node));
            Value::Array(vec![Value::Array(range)])
        };
        let of = |nodes| ranges(range(nodes)).unwrap();
        assert_eq!(of(&["a"]), [[0.into(), 99.into(), "a".into()]]);
        assert_eq!(of(&["a", "b"]), of(&["a"]));
        assert_ne!(of(&["b", "a"]), of(&["a"]));
        assert!(ranges(range(&[])).is_err());
    }
}
