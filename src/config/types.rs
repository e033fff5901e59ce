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
    /// The HTTP listener.
    pub http: Http,
    /// Where accounts live.
    pub users: Users,
    /// Tokens that the business signs.
    pub jwt: Jwt,
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
    /// What is asked before a message is taken.
    pub before_send: BeforeSend,
    /// What a business server is told.
    pub webhooks: Webhooks,
    /// Bounds of devices.
    pub devices: Devices,
    /// Uploaded files.
    pub files: Files,
    /// Delivery and shutdown.
    pub delivery: Delivery,
    /// Logging.
    pub log: Log,
    /// Spans for a collector.
    pub tracing: Tracing,
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

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Origins of the pages that browsers may use this server from; `*`: of all.
    pub allowed_origins: Vec<String>,
}

/// `[users]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// Whose accounts they are.
    pub provider: UserProvider,
    /// The business server's `UserInt`: remote needs it, jwt may have it for profiles.
    pub endpoint: String,
    /// Remote: seconds for which a token that the business server accepted counts.
    pub auth_cache_s: u64,
    /// Remote and jwt: seconds for which a profile is remembered.
    pub profile_cache_s: u64,
}

/// `[jwt]`: exactly one of the three sources of keys.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// HMAC: the shared secret.
    pub secret: String,
    /// RSA, EC, Ed25519: the file of the public key, PEM.
    pub public_key: String,
    /// Where a JSON Web Key Set is published.
    pub jwks_url: String,
    /// When set, what `iss` must be.
    pub issuer: String,
    /// When set, what `aud` must be or contain.
    pub audience: String,
    /// The claim that names the device, where a token is for one device only.
    pub device_claim: String,
}

/// Where accounts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserProvider {
    /// In this server's database.
    Builtin,
    /// At a business server that implements `UserInt`.
    Remote,
    /// Wherever the business has them: it signs tokens that this server can check by itself.
    Jwt,
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

/// `[before_send]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeforeSend {
    /// What is asked about each message of a user; empty: nobody.
    pub url: String,
    /// Milliseconds to wait for the answer.
    pub timeout_ms: u64,
    /// What becomes of a message about which there was no answer.
    pub on_failure: OnFailure,
}

/// What becomes of a message when the hook does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is sent as it is.
    Allow,
    /// It is refused.
    Deny,
}

/// `[webhooks]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    /// What events are posted to; empty: nothing.
    pub url: String,
    /// What bodies are signed with.
    pub secret: String,
    /// Which events.
    pub events: Vec<String>,
    /// Seconds to wait for an answer.
    pub timeout_s: u64,
    /// Hours for which an event is tried again.
    pub retry_for_h: u64,
    /// Seconds until a message that no device has acknowledged is told to be undelivered.
    pub undelivered_after_s: u64,
}

/// `[devices]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    /// Devices of one user that are signed in.
    pub per_user_max: u64,
}

/// `[files]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// A folder, or `s3://bucket/prefix`.
    pub storage: String,
    /// What a file's key is appended to in the URL an upload answers.
    pub public_url: String,
    /// Largest upload.
    pub size_max_mib: u64,
    /// Uploads of one user in a minute.
    pub uploads_per_min: u64,
    /// Uploads of one user at once.
    pub uploads_burst: u64,
    /// S3: where it is, when not at Amazon.
    pub s3_endpoint: String,
    /// S3: its region.
    pub s3_region: String,
    /// S3: who this server is there.
    pub s3_access_key_id: String,
    /// S3: how it proves that.
    pub s3_secret_access_key: String,
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

/// `[tracing]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// Where spans are sent by OTLP over gRPC; empty: nowhere.
    pub otlp_endpoint: String,
    /// What they say they are from.
    pub service_name: String,
    /// Of how many traces in a hundred that begin here, spans are sent.
    pub sample_percent: u64,
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
            .field("auth_cache_s", &self.auth_cache_s)
            .field("profile_cache_s", &self.profile_cache_s)
            .finish()
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt")
            .field("secret", &Secret(&self.secret))
            .field("public_key", &self.public_key)
            .field("jwks_url", &without_secrets(&self.jwks_url))
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("device_claim", &self.device_claim)
            .finish()
    }
}

impl fmt::Debug for BeforeSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeSend")
            .field("url", &without_secrets(&self.url))
            .field("timeout_ms", &self.timeout_ms)
            .field("on_failure", &self.on_failure)
            .finish()
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("url", &without_secrets(&self.url))
            .field("secret", &Secret(&self.secret))
            .field("events", &self.events)
            .field("timeout_s", &self.timeout_s)
            .field("retry_for_h", &self.retry_for_h)
            .field("undelivered_after_s", &self.undelivered_after_s)
            .finish()
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("storage", &self.storage)
            .field("public_url", &self.public_url)
            .field("size_max_mib", &self.size_max_mib)
            .field("uploads_per_min", &self.uploads_per_min)
            .field("uploads_burst", &self.uploads_burst)
            .field("s3_endpoint", &without_secrets(&self.s3_endpoint))
            .field("s3_region", &self.s3_region)
            .field("s3_access_key_id", &Secret(&self.s3_access_key_id))
            .field("s3_secret_access_key", &Secret(&self.s3_secret_access_key))
            .finish()
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing")
            .field("otlp_endpoint", &without_secrets(&self.otlp_endpoint))
            .field("service_name", &self.service_name)
            .field("sample_percent", &self.sample_percent)
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
