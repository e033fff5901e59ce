//! Verification codes: making, hashing, comparing and sending them. They live minutes and are
//! limited in attempts, so a keyed hash suffices; the key is the cluster's.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use http::HeaderMap;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::sign_in::Right;
use crate::{
    config,
    error::{Error, Result, ResultExt},
    limits::{CODE_WEBHOOK_TIMEOUT, CODES_IN_FLIGHT_MAX},
    store::verification_code::Row,
    telemetry::trace_context,
};

/// Makes, checks and sends verification codes.
#[derive(Debug)]
pub(super) struct Codes {
    key: Vec<u8>,
    test_code: String,
    sender: Sender,
    /// Sends under way; they go on when the caller has gone.
    pub(super) in_flight: Arc<Semaphore>,
}

/// How codes reach people.
#[derive(Debug)]
enum Sender {
    Log,
    Webhook {
        client: reqwest::Client,
        url: reqwest::Url,
    },
}

impl Codes {
    pub(super) fn new(config: &config::SignIn, key: Vec<u8>) -> Result<Self> {
        let sender = match config.code_sender {
            config::CodeSender::Log => Sender::Log,
            config::CodeSender::Webhook => Sender::Webhook {
                client: reqwest::Client::builder()
                    .timeout(CODE_WEBHOOK_TIMEOUT)
                    .redirect(reqwest::redirect::Policy::none())
                    .build()
                    .internal("set up the webhook's HTTP client")?,
                url: config
                    .webhook_url
                    .parse()
                    .internal("read sign_in.webhook_url")?,
            },
        };
        Ok(Self {
            key,
            test_code: config.test_code.clone(),
            sender,
            in_flight: Arc::new(Semaphore::new(CODES_IN_FLIGHT_MAX)),
        })
    }

    /// A new code of six digits.
    pub(super) fn generate() -> String {
        format!("{:06}", rand::random_range(0..1_000_000))
    }

    /// What is stored of a code for a number.
    pub(super) fn hash(&self, number: &str, code: &str) -> Result<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).internal("hash a code")?;
        mac.update(number.as_bytes());
        // A byte that is in no number keeps the two apart.
        mac.update(&[0]);
        mac.update(code.as_bytes());
        Ok(mac.finalize().into_bytes().into())
    }

    /// Whether `code` is right for `number` at `now_ms`, and why; `row` is what is stored of the
    /// number.
    pub(super) fn check(
        &self,
        number: &str,
        code: &str,
        row: Option<&Row>,
        now_ms: i64,
    ) -> Result<Option<Right>> {
        let hash = self.hash(number, code)?;
        let sent = row
            .filter(|row| now_ms < row.expires_at)
            .and_then(|row| row.code_hash.as_deref())
            .is_some_and(|stored| bool::from(stored.ct_eq(&hash)));
        let test = !self.test_code.is_empty()
            && bool::from(self.test_code.as_bytes().ct_eq(code.as_bytes()));
        Ok(match (sent, test) {
            (true, _) => Some(Right::SentCode),
            (false, true) => Some(Right::TestCode),
            (false, false) => None,
        })
    }

    /// Gives a code to whoever brings it to the number's owner.
    pub(super) async fn send(&self, number: &str, code: &str) -> Result<()> {
        let Sender::Webhook { client, url } = &self.sender else {
            tracing::info!(phone_number = number, code, "verification code");
            return Ok(());
        };
        let body = serde_json::json!({ "phone_number": number, "code": code });
        let mut headers = HeaderMap::new();
        trace_context::inject(&mut headers);
        let answer = client
            .post(url.clone())
            .headers(headers)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .and_then(reqwest::Response::error_for_status);
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                tracing::warn!(status = %answer.status(), "the code webhook did not accept a code");
                Err(not_sent())
            }
            Err(error) => {
                // Without the URL, which may bear a secret.
                let error = error.without_url();
                tracing::warn!(%error, "the code webhook did not accept a code");
                Err(not_sent())
            }
        }
    }
}

fn not_sent() -> Error {
    Error::try_again("the code could not be sent, try again later")
}
