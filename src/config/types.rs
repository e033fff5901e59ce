//! What the sections and keys of `im.toml` mean. Whoever adds a key adds it here, to `im.toml` and
//! to `keys.rs`; a test compares the three.
//!
//! Invariant: `Debug` never shows a secret, nor a URL that may contain one.

use std::{fmt, net::SocketAddr};

use serde::Deserialize;

use super::{networks::Networks, url::without_secrets};

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Listen,
    /// The SQL database.
    pub database: Database,
    /// The Redis that joins instances.
    pub redis: Redis,
    /// Where accounts live.
    pub users: Users,
    /// Signing in with codes and tokens.
    pub sign_in: SignIn,
    /// The internal gRPC listener.
    pub internal: Internal,
    /// Long connections.
    pub session: Session,
    /// Bounds of groups.
    pub groups: Groups,
    /// What may be sent.
    pub messages: Messages,
    /// Bounds of devices.
    pub devices: Devices,
    /// Uploaded files.
    pub files: Files,
    /// Delivery and shutdown.
    pub delivery: Delivery,
    /// Logging.
    pub log: Log,
}

/// `[listen]`: one address per listener, port 0 takes a free one; and whose word is taken for where a
/// client is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Long connections over TCP.
    pub tcp: SocketAddr,
    /// WebSocket, files, gRPC-Web and health.
    pub http: SocketAddr,
    /// `LogicExt` and `UserExt`.
    pub grpc: SocketAddr,
    /// `LogicInt` and `UserInt`.
    pub internal: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Whose connections to `tcp` begin with a PROXY protocol header.
    pub proxy_protocol_from: Networks,
    /// Whose requests to `http` and `grpc` may bear `Forwarded` or `X-Forwarded-For`.
    pub forwarded_from: Networks,
}

/// `[database]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite://path`, `mysql://…` or `postgres://…`.
    pub url: String,
    /// Connections to the database.
    pub max_connections: u64,
    /// SQLite only: `full` survives a power cut, `normal` may lose the last sends to one.
    pub sqlite_synchronous: SqliteSynchronous,
}

/// How far SQLite waits for the disk at each commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SqliteSynchronous {
    /// Every commit waits until the disk has it.
    Full,
    /// A power cut may lose the last commits; a crash of the process does not.
    Normal,
}

/// `[redis]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Empty: one instance.
    pub url: String,
    /// What the names of all keys and channels begin with.
    pub prefix: String,
}

/// `[users]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// Whose accounts they are.
    pub provider: UserProvider,
    /// Remote: the business server's `UserInt`.
    pub endpoint: String,
}

/// Where accounts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserProvider {
    /// In this server's database.
    Builtin,
    /// At a business server that implements `UserInt`.
    Remote,
}

/// `[sign_in]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// How verification codes reach people.
    pub code_sender: CodeSender,
    /// Webhook: receives `{"phone_number", "code"}`.
    pub webhook_url: String,
    /// When set, accepted for every phone number: development only.
    pub test_code: String,
    /// How long a token lives.
    pub token_ttl_days: u64,
}

/// How verification codes reach people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeSender {
    /// They are written to the log: development only.
    Log,
    /// They are posted to `webhook_url`.
    Webhook,
}

/// `[internal]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Internal {
    /// What callers of the internal listener must send; empty: nothing, on loopback only.
    pub token: String,
}

/// `[session]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Seconds until a new connection must have signed in.
    pub sign_in_timeout_s: u64,
    /// Seconds without a frame until a connection is closed.
    pub idle_timeout_s: u64,
    /// Frames a second one connection may send.
    pub frames_per_s_max: u64,
    /// Seconds a connection may refuse bytes until it is closed.
    pub write_timeout_s: u64,
    /// Seconds without a `SyncInput` until a sync is given up and pushing goes on.
    pub sync_hold_s: u64,
}

/// `[groups]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Members of a small group.
    pub small_members_max: u64,
    /// Members of a large group.
    pub large_members_max: u64,
    /// Large groups one user may be in.
    pub large_groups_per_user_max: u64,
}

/// `[messages]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Users may write to each other only when they are friends.
    pub require_friendship: bool,
}

/// `[devices]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    /// Devices of one user that are signed in.
    pub per_user_max: u64,
}

/// `[files]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// A folder, or `s3://bucket/prefix`.
    pub storage: String,
    /// What a file's key is appended to in the URL an upload answers.
    pub public_url: String,
    /// Largest upload.
    pub size_max_mib: u64,
}

/// `[delivery]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Seconds within which everything live is compared with the database once.
    pub reconcile_interval_s: u64,
    /// Seconds a shutdown may take.
    pub drain_timeout_s: u64,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// Least important level that is written, or a `tracing` filter (`im=debug,info`).
    pub level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("url", &without_secrets(&self.url))
            .field("max_connections", &self.max_connections)
            .field("sqlite_synchronous", &self.sqlite_synchronous)
            .finish()
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("url", &without_secrets(&self.url))
            .field("prefix", &self.prefix)
            .finish()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("provider", &self.provider)
            .field("endpoint", &without_secrets(&self.endpoint))
            .finish()
    }
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("code_sender", &self.code_sender)
            .field("webhook_url", &without_secrets(&self.webhook_url))
            .field("test_code", &Secret(&self.test_code))
            .field("token_ttl_days", &self.token_ttl_days)
            .finish()
    }
}

impl fmt::Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internal")
            .field("token", &Secret(&self.token))
            .finish()
    }
}

/// Shows whether a secret is set, and nothing else of it.
struct Secret<'a>(&'a str);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "***" })
    }
}
