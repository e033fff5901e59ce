//! Every key and what is allowed for it. Values are checked here, before they are given to serde,
//! so that every refusal reads the same; rules that need two keys stand in `load.rs`.
//!
//! Invariant: what a refusal shows of a value that may be secret is its kind or scheme only.

use std::{net::SocketAddr, str::FromStr};

use figment::{
    providers::{Format, Toml},
    value::{Dict, Value},
};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::{networks::Network, url};

/// One key.
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) rule: Rule,
}

/// What is allowed for a key.
pub(super) enum Rule {
    /// `ip:port`.
    Address,
    /// A list of IP addresses and networks.
    Networks,
    /// A list of origins, or of `*`.
    Origins,
    /// A list of some of these words.
    SomeOf(&'static [&'static str]),
    /// A whole number from 1 on.
    Positive,
    /// A whole number from 0 to 100.
    Percent,
    /// `true` or `false`.
    Bool,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text; it may be secret.
    Text,
    /// Nothing, or what Standard Webhooks are signed with.
    SigningSecret,
    /// A URL with one of these schemes; it may be secret.
    Url(&'static [&'static str]),
    /// Nothing, or a URL with one of these schemes; it may be secret.
    UrlOrEmpty(&'static [&'static str]),
    /// A folder, or `s3://bucket/prefix`.
    Storage,
    /// A filter for log lines.
    LogFilter,
}

pub(super) const HTTP: &[&str] = &["http", "https"];
/// What a business server may be told.
const EVENTS: &[&str] = &[
    "message.sent",
    "message.undelivered",
    "user.online",
    "user.offline",
];
const SQL: &[&str] = &["sqlite", "mysql", "postgres", "postgresql"];
const REDIS: &[&str] = &[
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
];

/// All keys, in the order of `im.toml`.
pub(super) const KEYS: &[Key] = &[
    key("listen", "tcp", Rule::Address),
    key("listen", "http", Rule::Address),
    key("listen", "grpc", Rule::Address),
    key("listen", "internal", Rule::Address),
    key("listen", "metrics", Rule::Address),
    key("listen", "proxy_protocol_from", Rule::Networks),
    key("listen", "forwarded_from", Rule::Networks),
    key("database", "url", Rule::Url(SQL)),
    key("database", "max_connections", Rule::Positive),
    key(
        "database",
        "sqlite_synchronous",
        Rule::OneOf(&["full", "normal"]),
    ),
    key("redis", "url", Rule::UrlOrEmpty(REDIS)),
    key("redis", "prefix", Rule::Text),
    key("http", "allowed_origins", Rule::Origins),
    key(
        "users",
        "provider",
        Rule::OneOf(&["builtin", "remote", "jwt"]),
    ),
    key("users", "endpoint", Rule::UrlOrEmpty(HTTP)),
    key("users", "auth_cache_s", Rule::Positive),
    key("users", "profile_cache_s", Rule::Positive),
    key("jwt", "secret", Rule::Text),
    key("jwt", "public_key", Rule::Text),
    key("jwt", "jwks_url", Rule::UrlOrEmpty(HTTP)),
    key("jwt", "issuer", Rule::Text),
    key("jwt", "audience", Rule::Text),
    key("jwt", "device_claim", Rule::Text),
    key("sign_in", "code_sender", Rule::OneOf(&["log", "webhook"])),
    key("sign_in", "webhook_url", Rule::UrlOrEmpty(HTTP)),
    key("sign_in", "test_code", Rule::Text),
    key("sign_in", "token_ttl_days", Rule::Positive),
    key("internal", "token", Rule::Text),
    key("session", "sign_in_timeout_s", Rule::Positive),
    key("session", "idle_timeout_s", Rule::Positive),
    key("session", "frames_per_s_max", Rule::Positive),
    key("session", "write_timeout_s", Rule::Positive),
    key("session", "sync_hold_s", Rule::Positive),
    key("groups", "small_members_max", Rule::Positive),
    key("groups", "large_members_max", Rule::Positive),
    key("groups", "large_groups_per_user_max", Rule::Positive),
    key("messages", "require_friendship", Rule::Bool),
    key("before_send", "url", Rule::UrlOrEmpty(HTTP)),
    key("before_send", "timeout_ms", Rule::Positive),
    key("before_send", "on_failure", Rule::OneOf(&["allow", "deny"])),
    key("webhooks", "url", Rule::UrlOrEmpty(HTTP)),
    key("webhooks", "secret", Rule::SigningSecret),
    key("webhooks", "events", Rule::SomeOf(EVENTS)),
    key("webhooks", "timeout_s", Rule::Positive),
    key("webhooks", "retry_for_h", Rule::Positive),
    key("webhooks", "undelivered_after_s", Rule::Positive),
    key("devices", "per_user_max", Rule::Positive),
    key("files", "storage", Rule::Storage),
    key("files", "public_url", Rule::Url(HTTP)),
    key("files", "size_max_mib", Rule::Positive),
    key("files", "uploads_per_min", Rule::Positive),
    key("files", "uploads_burst", Rule::Positive),
    key("files", "s3_endpoint", Rule::UrlOrEmpty(HTTP)),
    key("files", "s3_region", Rule::Text),
    key("files", "s3_access_key_id", Rule::Text),
    key("files", "s3_secret_access_key", Rule::Text),
    key("delivery", "reconcile_interval_s", Rule::Positive),
    key("delivery", "drain_timeout_s", Rule::Positive),
    key("log", "format", Rule::OneOf(&["text", "json"])),
    key("log", "level", Rule::LogFilter),
    key("tracing", "otlp_endpoint", Rule::UrlOrEmpty(HTTP)),
    key("tracing", "service_name", Rule::Text),
    key("tracing", "sample_percent", Rule::Percent),
];

const fn key(section: &'static str, name: &'static str, rule: Rule) -> Key {
    Key {
        section,
        name,
        rule,
    }
}

/// Finds a key by its section and name.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.section == section && key.name == name)
}

/// The sections, in order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// The names of a section's keys, in order; empty for a section that does not exist.
pub(super) fn names(section: &str) -> Vec<&'static str> {
    KEYS.iter()
        .filter(|key| key.section == section)
        .map(|key| key.name)
        .collect()
}

impl Key {
    /// `section.name`, as messages name a key.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets the key.
    pub(super) fn variable(&self) -> String {
        format!("IM_{}__{}", self.section, self.name).to_uppercase()
    }
}

impl Rule {
    /// Takes an environment variable's text for a value of the key's type. What is not one stays
    /// text and is refused by [`check`](Self::check).
    pub(super) fn parse(&self, text: String) -> Value {
        match self {
            Self::Positive | Self::Percent => text
                .parse::<i64>()
                .map_or_else(|_| Value::from(text), Value::from),
            Self::Bool => text
                .parse::<bool>()
                .map_or_else(|_| Value::from(text), Value::from),
            Self::Networks | Self::Origins | Self::SomeOf(_) => {
                list(&text).unwrap_or_else(|| Value::from(text))
            }
            _ => Value::from(text),
        }
    }

    /// Checks a value; a refusal says what was found.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        if let Self::Positive = self {
            return match value.to_i128() {
                Some(1..) => Ok(()),
                _ => Err(shown(value)),
            };
        }
        if let Self::Percent = self {
            return match value.to_i128() {
                Some(0..=100) => Ok(()),
                _ => Err(shown(value)),
            };
        }
        if let Self::Bool = self {
            let is_bool = value.to_bool().is_some();
            return is_bool.then_some(()).ok_or_else(|| shown(value));
        }
        match self {
            Self::Networks => return check_list(value, |item| item.parse::<Network>().is_ok()),
            Self::Origins => return check_list(value, is_origin),
            Self::SomeOf(words) => return check_list(value, |item| words.contains(&item)),
            _ => {}
        }
        let Some(text) = value.as_str() else {
            return Err(kind(value).to_owned());
        };
        self.check_text(text)
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        match self {
            Self::Positive
            | Self::Percent
            | Self::Bool
            | Self::Networks
            | Self::Origins
            | Self::SomeOf(_)
            | Self::Text => Ok(()),
            Self::Address => accept(text.parse::<SocketAddr>().is_ok(), text),
            Self::OneOf(words) => accept(words.contains(&text), text),
            Self::UrlOrEmpty(_) if text.is_empty() => Ok(()),
            Self::Url(schemes) | Self::UrlOrEmpty(schemes) => check_url(text, schemes),
            Self::SigningSecret => {
                let is_secret = text.is_empty() || super::signing_key(text).is_some();
                is_secret
                    .then_some(())
                    .ok_or_else(|| "text of another form".to_owned())
            }
            Self::Storage => {
                let known = match text.split_once("://") {
                    Some((scheme, bucket)) => scheme == "s3" && !bucket.is_empty(),
                    None => !text.is_empty(),
                };
                accept(known, &url::without_secrets(text))
            }
            Self::LogFilter => accept(is_log_filter(text), text),
        }
    }

    /// What is allowed, in words.
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Address => {
                "an IP address and a port, like \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned()
            }
            Self::Networks => "a list of IP addresses and networks, like [\"10.0.0.7\", \
                               \"10.1.0.0/16\", \"fd00::/8\"]"
                .to_owned(),
            Self::Origins => "a list of origins, like [\"https://chat.example.com\", \
                              \"http://localhost:3000\"], or [\"*\"]"
                .to_owned(),
            Self::SomeOf(words) => format!("a list of some of {}", quoted(words, ", ")),
            Self::Positive => format!("a whole number from 1 to {}", i64::MAX),
            Self::Percent => "a whole number from 0 to 100".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::OneOf(words) => quoted(words, " or "),
            Self::Text => "text in quotes".to_owned(),
            Self::SigningSecret => "\"\", or whsec_ and 24 to 64 bytes in base64".to_owned(),
            Self::Url(schemes) => format!("a URL that begins with {}", prefixes(schemes)),
            Self::UrlOrEmpty(schemes) => {
                format!("\"\", or a URL that begins with {}", prefixes(schemes))
            }
            Self::Storage => "a folder, or s3://bucket/prefix".to_owned(),
            Self::LogFilter => "off, error, warn, info, debug, trace, or a filter like \
                                \"info,im=debug\""
                .to_owned(),
        }
    }
}

fn accept(allowed: bool, text: &str) -> Result<(), String> {
    if allowed {
        Ok(())
    } else {
        Err(format!("{text:?}"))
    }
}

/// The list that an environment variable spells: as TOML does, or with nothing but commas between its
/// items. `None` where it begins like TOML and is not.
fn list(text: &str) -> Option<Value> {
    if text.trim_start().starts_with('[') {
        let mut spelt: Dict = Toml::from_str(&format!("list = {text}")).ok()?;
        return spelt.remove("list");
    }
    let items = text.split(',').map(str::trim);
    let items: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
    Some(Value::from(items))
}

fn check_list(value: &Value, is_allowed: impl Fn(&str) -> bool) -> Result<(), String> {
    let Some(items) = value.as_array() else {
        return Err(shown(value));
    };
    let is_refused = |item: &&Value| !item.as_str().is_some_and(&is_allowed);
    match items.iter().find(is_refused) {
        Some(item) => Err(shown(item)),
        None => Ok(()),
    }
}

/// As browsers write it in the header `Origin`: a scheme, a host and a port that is not the scheme's
/// own, and no path. RFC 6454, section 6.1.
fn is_origin(text: &str) -> bool {
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let host = url::split(text).map(|(_, host)| host);
    let names_own_port = (text.starts_with("https://") && text.ends_with(":443"))
        || (text.starts_with("http://") && text.ends_with(":80"));
    text == "*"
        || is_lower
            && !names_own_port
            && host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@']))
            && http::HeaderValue::from_str(text).is_ok()
}

fn quoted(words: &[&str], between: &str) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(between)
}

/// Checks a URL without ever showing more of it than its scheme.
fn check_url(text: &str, schemes: &[&str]) -> Result<(), String> {
    if text.is_empty() {
        return Err("\"\"".to_owned());
    }
    let Some((scheme, rest)) = url::split(text) else {
        return Err("text that is no URL".to_owned());
    };
    if !schemes.contains(&scheme) {
        return Err(format!("a URL that begins with {scheme}://"));
    }
    let complete = if HTTP.contains(&scheme) {
        http::Uri::from_str(text).is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
    } else {
        !rest.is_empty()
    };
    if complete {
        Ok(())
    } else {
        Err(format!("a {scheme}:// URL that is malformed"))
    }
}

/// A bare word is taken for a level, never for the name of a module, so that a mistyped level is
/// refused.
fn is_log_filter(text: &str) -> bool {
    let directive = |part: &str| {
        part.contains(['=', '[']) || (!part.is_empty() && LevelFilter::from_str(part).is_ok())
    };
    text.split(',').all(directive) && EnvFilter::try_new(text).is_ok()
}

fn prefixes(schemes: &[&str]) -> String {
    schemes
        .iter()
        .map(|scheme| format!("{scheme}://"))
        .collect::<Vec<_>>()
        .join(" or ")
}

/// A value that is not secret, as it was written.
fn shown(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        format!("{text:?}")
    } else if let Some(number) = value.to_i128() {
        number.to_string()
    } else if let Some(number) = value.to_f64() {
        number.to_string()
    } else {
        kind(value).to_owned()
    }
}

/// The kind of a value, for those whose content must not be shown.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "true or false without quotes",
        Value::Num(..) => "a number without quotes",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a section or a date",
        Value::Array(..) => "a list",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_told_is_what_is_told() {
        let told = crate::store::outbox::Kind::ALL.map(|kind| kind.name());
        assert_eq!(EVENTS, told);
    }

    #[test]
    fn a_log_filter_is_a_level_or_a_list_of_directives() {
        for good in [
            "info",
            "OFF",
            "info,im=debug",
            "im::store=trace",
            "warn,[request]=debug",
        ] {
            assert!(is_log_filter(good), "{good}");
        }
        for bad in ["", "loud", "info,loud", "im=loud", "info,", "im"] {
            assert!(!is_log_filter(bad), "{bad}");
        }
    }

    #[test]
    fn urls_are_known_by_their_scheme() {
        for good in [
            "sqlite://data/im.db",
            "sqlite:im.db",
            "mysql://u:p@h/im",
            "postgres://h/im",
            "postgresql://h/im",
        ] {
            assert_eq!(check_url(good, SQL), Ok(()), "{good}");
        }
        for good in [
            "redis://h",
            "rediss://:p@h:1",
            "redis-cluster://a:1?node=b:1",
        ] {
            assert_eq!(check_url(good, REDIS), Ok(()), "{good}");
        }
        for (bad, schemes) in [
            ("oracle://u:p@h", SQL),
            ("sqlite://", SQL),
            ("http://", HTTP),
            ("http://a b/", HTTP),
            ("sqlite:x", HTTP),
        ] {
            let found = check_url(bad, schemes).expect_err(bad);
            assert!(!found.contains("u:p"), "{found}");
        }
    }
}
