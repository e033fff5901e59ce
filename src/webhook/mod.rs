//! Telling the business server, by Standard Webhooks: events from the outbox, at least once each and
//! those of one owner in order, and the question before a message of a user is taken.
//!
//! One instance of a cluster delivers at a time. It also sees, when that is due, which messages have
//! reached nobody, and which instances have died with their devices online.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Response, Url, header::HeaderMap, redirect::Policy};

use self::signature::Signer;
use crate::{
    clock::Clock,
    config::{self, seconds},
    error::{Result, ResultExt},
    limits::UNDELIVERED_GRACE,
    store::outbox::{Kind, Outbox},
    telemetry::trace_context,
};

pub mod attendance;
pub mod before_send;
mod body;
pub mod delivery;
mod plan;
mod scan;
mod signature;
mod undelivered;

pub use attendance::Attendant;
pub use before_send::{BeforeSend, Verdict};
pub use delivery::Delivery;

/// The outbox for what the configuration wants told.
#[must_use]
pub fn outbox(config: &config::Webhooks, clock: Arc<dyn Clock>) -> Outbox {
    let is_wanted = |kind: &Kind| {
        let mut wanted = config.events.iter();
        !config.url.is_empty() && wanted.any(|event| event == kind.name())
    };
    let kinds = Kind::ALL.into_iter().filter(is_wanted);
    let after = seconds(config.undelivered_after_s) + UNDELIVERED_GRACE;
    Outbox::telling(kinds, after.as_millis() as i64, clock)
}

/// Where signed bodies are posted to.
#[derive(Debug)]
struct Endpoint {
    client: Client,
    url: Url,
    signer: Signer,
    clock: Arc<dyn Clock>,
}

impl Endpoint {
    /// An endpoint that must answer within `timeout`. `key` is the configuration's name of its URL.
    fn new(
        (key, url): (&'static str, &str),
        secret: &str,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let client = Client::builder()
            .timeout(timeout)
            .redirect(Policy::none())
            .build()
            .internal("set up the webhooks' HTTP client")?;
        Ok(Self {
            client,
            url: url.parse().internal(key)?,
            signer: Signer::new(&config::signing_key(secret).unwrap_or_default())?,
            clock,
        })
    }

    /// Posts a body under an id, and gives the answer whatever its status. Its error shows no URL,
    /// which may bear a secret.
    async fn post(&self, id: &str, body: String) -> reqwest::Result<Response> {
        let timestamp = self.clock.now_ms().div_euclid(1_000);
        let signature = self.signer.sign(id, timestamp, &body);
        let mut headers = HeaderMap::new();
        trace_context::inject(&mut headers);
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .headers(headers)
            .body(body);
        request.send().await.map_err(reqwest::Error::without_url)
    }
}
