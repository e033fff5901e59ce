//! The configuration: `im.toml` as it is built in, then the file, then the environment
//! (`IM_<SECTION>__<KEY>`), later ones winning key by key.
//!
//! Invariant: a [`Config`] that was loaded is valid; nobody after it checks a key again.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

mod keys;
mod load;
mod networks;
mod types;
mod url;

pub use load::{Invalid, Loaded, Origin, load};
pub use networks::{Network, Networks};
pub use types::{
    BeforeSend, CodeSender, Config, Database, Delivery, Devices, Files, Groups, Http, Internal,
    Jwt, Listen, Log, LogFormat, OnFailure, Redis, Session, SignIn, SqliteSynchronous, Tracing,
    UserProvider, Users, Webhooks,
};
pub use url::without_secrets;

/// The default configuration, every key explained.
pub const BUILT_IN: &str = include_str!("../../im.toml");

/// The bytes of a secret that Standard Webhooks are signed with: `whsec_` and 24 to 64 bytes in base64.
/// `None` for any other text.
#[must_use]
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let key = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    (24..=64).contains(&key.len()).then_some(key)
}

/// A duration from a config key in seconds; more than a hundred years is a hundred years, so that
/// a deadline can always be computed.
#[must_use]
pub fn seconds(value: u64) -> Duration {
    const CENTURY_S: u64 = 100 * 365 * 24 * 3600;
    Duration::from_secs(value.min(CENTURY_S))
}
