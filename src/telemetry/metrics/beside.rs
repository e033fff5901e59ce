//! What is counted of those beside the server: other instances, and the business server in its parts.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Label, Outcomes, count, level};

/// What the bridge to other instances counts.
#[derive(Debug)]
pub struct Bridge {
    /// Messages and news given to Redis.
    pub published: Counter,
    /// Those that could not be.
    pub publish_dropped: Counter,
    /// Those that wait to be.
    pub publish_queue: Gauge,
    /// Messages and news that came from other instances.
    pub received: Counter,
    /// What came and could not be read.
    pub ignored: Counter,
    /// Reports that something may have been missed.
    pub discontinuities: Counter,
    /// Connections to Redis that were lost and had anew.
    pub reconnects: Counter,
    /// Topics that are subscribed to.
    pub subscriptions: Gauge,
}

/// What is counted of the business server that has the accounts.
#[derive(Debug)]
pub struct Business {
    /// Questions whether a token is good, by how they ended.
    pub auths: Outcomes,
    /// Questions who users are, by how they ended.
    pub lookups: Outcomes,
    /// Questions that it was not bothered with: the breaker was open, or too many waited.
    pub not_asked: Counter,
    /// 1 while the breaker is open, else 0.
    pub breaker_open: Gauge,
}

/// What delivering events counts.
#[derive(Debug)]
pub struct Webhook {
    /// Events that were taken.
    pub delivered: Counter,
    /// Attempts that were not.
    pub failed: Counter,
    /// Events that were given up.
    pub given_up: Counter,
    /// Age of the oldest event in seconds, at the instance that delivers; 0 at others.
    pub oldest: Gauge,
}

/// What the before-send hook answers.
#[derive(Debug)]
pub struct BeforeSend {
    /// Sent as it is.
    pub allowed: Counter,
    /// Refused.
    pub denied: Counter,
    /// Sent with another content.
    pub replaced: Counter,
    /// No answer, or none that can be used.
    pub failed: Counter,
}

impl Bridge {
    pub(super) fn of(bridge: &mut Registry) -> Self {
        Self {
            published: count(bridge, "published", "Messages given to Redis"),
            publish_dropped: count(bridge, "publish_dropped", "Messages not given to Redis"),
            publish_queue: level(bridge, "publish_queue", "Messages that wait for Redis"),
            received: count(bridge, "received", "Messages from other instances"),
            ignored: count(bridge, "ignored", "Messages from Redis that cannot be read"),
            discontinuities: count(
                bridge,
                "discontinuities",
                "Times that something may have been missed",
            ),
            reconnects: count(bridge, "reconnects", "Connections to Redis had anew"),
            subscriptions: level(bridge, "subscriptions", "Topics subscribed to"),
        }
    }
}

impl Business {
    pub(super) fn of(business: &mut Registry) -> Self {
        let auths = Family::<Label, Counter>::default();
        business.register("auths", "Tokens asked about by result", auths.clone());
        let lookups = Family::<Label, Counter>::default();
        business.register("lookups", "Calls for profiles by result", lookups.clone());
        Self {
            auths: Outcomes::of(&auths),
            lookups: Outcomes::of(&lookups),
            not_asked: count(
                business,
                "not_asked",
                "Calls not made because the business server does not keep up or answer",
            ),
            breaker_open: level(
                business,
                "breaker_open",
                "1 while the business server does not answer",
            ),
        }
    }
}

impl Webhook {
    pub(super) fn of(webhook: &mut Registry) -> Self {
        Self {
            delivered: count(webhook, "delivered", "Events that were taken"),
            failed: count(
                webhook,
                "failed",
                "Attempts to deliver an event that failed",
            ),
            given_up: count(webhook, "given_up", "Events that were given up"),
            oldest: level(webhook, "oldest_seconds", "Age of the oldest event"),
        }
    }
}

impl BeforeSend {
    pub(super) fn of(family: &Family<Label, Counter>) -> Self {
        Self {
            allowed: family.get_or_create_owned(&[("result", "allowed")]),
            denied: family.get_or_create_owned(&[("result", "denied")]),
            replaced: family.get_or_create_owned(&[("result", "replaced")]),
            failed: family.get_or_create_owned(&[("result", "failed")]),
        }
    }
}
