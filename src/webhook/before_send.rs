//! The question that is asked before a message of a user is taken: may it be sent, and as it is?
//!
//! Whatever keeps the answer from being had in time counts as a failure, and what follows from that is
//! configured. The answer is bounded and taken at its word only where it makes sense. A hook that
//! does not answer at all is not waited for by each message: after some of them it is not asked any
//! more, but for a probe now and then.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    Endpoint,
    body::{Told, body},
    delivery::in_words,
};
use crate::{
    breaker::{Breaker, Turned},
    clock::Clock,
    config::{self, OnFailure},
    error::{Code, Error, Result},
    limits::{
        BEFORE_SEND_ANSWER_BYTES_MAX, BEFORE_SEND_IN_FLIGHT_MAX, BEFORE_SEND_REASON_BYTES_MAX,
        BEFORE_SEND_TIMEOUT_MAX, WARNING_INTERVAL,
    },
    telemetry::Metrics,
    timeline::NewMessage,
};

/// Asks about messages.
#[derive(Debug)]
pub struct BeforeSend {
    endpoint: Endpoint,
    timeout: Duration,
    on_failure: OnFailure,
    /// Questions that are under way.
    turns: Semaphore,
    breaker: Breaker,
    warned_at: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent as it is.
    Allow,
    /// It is sent with this content.
    Replace(Bytes),
}

/// Why there is no answer that could be followed.
#[derive(Debug)]
enum Failure {
    /// It has not answered for a while, and was not asked.
    NotAsked,
    /// It did not answer.
    Silent(String),
    /// What it answered makes no sense.
    Nonsense(String),
}

/// What the hook answers.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum Answer {
    Allow,
    Deny {
        #[serde(default)]
        reason: String,
    },
    Replace {
        content: String,
    },
}

impl BeforeSend {
    /// Asks as `config` says; `None` where nobody is to be asked.
    ///
    /// # Errors
    /// An internal error where the HTTP client cannot be set up.
    pub fn new(
        config: &config::BeforeSend,
        secret: &str,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>> {
        if config.url.is_empty() {
            return Ok(None);
        }
        let timeout = Duration::from_millis(config.timeout_ms).min(BEFORE_SEND_TIMEOUT_MAX);
        Ok(Some(Self {
            endpoint: Endpoint::new(("before_send.url", &config.url), secret, timeout, clock)?,
            timeout,
            on_failure: config.on_failure,
            turns: Semaphore::new(BEFORE_SEND_IN_FLIGHT_MAX),
            breaker: Breaker::default(),
            warned_at: Mutex::default(),
            metrics,
        }))
    }

    /// Asks about a message. `is_fit` says whether a content may replace its own.
    ///
    /// # Errors
    /// 10002 with the reason where the message is denied; 10004 where the hook fails and messages are
    /// to be refused then.
    pub async fn ask(
        &self,
        message: &NewMessage,
        is_persist: bool,
        is_fit: impl Fn(&Bytes) -> Result<()>,
    ) -> Result<Verdict> {
        let counts = &self.metrics.before_send;
        let answer = match timeout(self.timeout, self.answer(message, is_persist)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Silent("no answer in time".to_owned())),
        };
        self.learn(&answer);
        let verdict = answer.and_then(|answer| match answer {
            Answer::Allow => Ok(Ok(Verdict::Allow)),
            Answer::Deny { reason } => Ok(Err(reason)),
            Answer::Replace { content } => {
                let content = STANDARD.decode(content).map(Bytes::from);
                let content = content.map_err(|error| unfit(&error))?;
                is_fit(&content).map_err(|error| unfit(&error))?;
                Ok(Ok(Verdict::Replace(content)))
            }
        });
        match verdict {
            Ok(Ok(verdict)) => {
                match &verdict {
                    Verdict::Allow => counts.allowed.inc(),
                    Verdict::Replace(_) => counts.replaced.inc(),
                };
                Ok(verdict)
            }
            Ok(Err(reason)) => {
                counts.denied.inc();
                Err(Error::business(Code::NotAllowed, in_bounds(&reason)))
            }
            Err(failure) => {
                counts.failed.inc();
                self.failed(&failure)
            }
        }
    }

    /// Tells the breaker whether there was an answer. One that makes no sense is one: it keeps nobody
    /// waiting, and whoever can cause it with a message of his must not switch the question off.
    fn learn(&self, answer: &Result<Answer, Failure>) {
        let turned = match answer {
            Err(Failure::NotAsked) => Turned::Not,
            Err(Failure::Silent(_)) => self.breaker.failed(Instant::now()),
            Ok(_) | Err(Failure::Nonsense(_)) => self.breaker.succeeded(),
        };
        match turned {
            Turned::Not => {}
            Turned::Opened => tracing::warn!("the before-send hook does not answer, it is probed"),
            Turned::Closed => tracing::info!("the before-send hook answers again"),
        }
    }

    fn failed(&self, failure: &Failure) -> Result<Verdict> {
        if let Failure::Silent(why) | Failure::Nonsense(why) = failure
            && self.is_warning_due()
        {
            tracing::warn!(why, "the before-send hook failed");
        }
        match self.on_failure {
            OnFailure::Allow => Ok(Verdict::Allow),
            OnFailure::Deny => Err(Error::try_again(
                "the message could not be checked, try again later",
            )),
        }
    }

    /// Not for each message of an hour in which nobody answers.
    fn is_warning_due(&self) -> bool {
        let mut warned_at = self
            .warned_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_due = warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if is_due {
            *warned_at = Some(Instant::now());
        }
        is_due
    }

    async fn answer(&self, message: &NewMessage, is_persist: bool) -> Result<Answer, Failure> {
        if !self.breaker.may_pass(Instant::now()) {
            return Err(Failure::NotAsked);
        }
        let turn = self.turns.acquire().await;
        let _turn = turn.map_err(|error| Failure::Silent(error.to_string()))?;
        if !self.breaker.admit(Instant::now()) {
            return Err(Failure::NotAsked);
        }
        let mut told = Told::from(message).json();
        told["is_persist"] = is_persist.into();
        let now_ms = self.endpoint.clock.now_ms();
        let body = body("message.before_send", now_ms, &json!({ "message": told }));
        let id = format!("msg_{:032x}", rand::random::<u128>());
        let answer = self.endpoint.post(&id, body).await;
        let mut answer = answer.map_err(|error| Failure::Silent(in_words(&error)))?;
        if answer.status() != http::StatusCode::OK {
            let why = format!("it answers {}", answer.status());
            return Err(Failure::Nonsense(why));
        }
        let mut text = Vec::new();
        let read = |error: reqwest::Error| Failure::Silent(in_words(&error.without_url()));
        while let Some(chunk) = answer.chunk().await.map_err(read)? {
            if text.len() + chunk.len() > BEFORE_SEND_ANSWER_BYTES_MAX {
                return Err(Failure::Nonsense("its answer is too long".to_owned()));
            }
            text.extend_from_slice(&chunk);
        }
        // What serde says of it may quote what it says.
        let nonsense = |_| Failure::Nonsense("its answer is not understood".to_owned());
        serde_json::from_slice(&text).map_err(nonsense)
    }
}

fn unfit(error: &dyn std::fmt::Display) -> Failure {
    Failure::Nonsense(format!("the content: {error}"))
}

/// A reason as the sender is told it: bounded, on one line, and never empty.
fn in_bounds(reason: &str) -> String {
    let printed = reason.chars().filter(|c| !c.is_control());
    let mut kept = String::new();
    for c in printed {
        if kept.len() + c.len_utf8() > BEFORE_SEND_REASON_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    if kept.trim().is_empty() {
        "the message is not allowed".clone_into(&mut kept);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_one_bounded_line() {
        assert_eq!(in_bounds("no\r\nSet-Cookie: x\0"), "noSet-Cookie: x");
        assert_eq!(in_bounds(" \n"), "the message is not allowed");
        let long = in_bounds(&"ä".repeat(BEFORE_SEND_REASON_BYTES_MAX));
        assert_eq!(long.len(), BEFORE_SEND_REASON_BYTES_MAX);
    }

    #[test]
    fn answer_says_what_is_to_be_done() {
        let read = |text| serde_json::from_str::<Answer>(text);
        assert!(matches!(
            read(r#"{"action":"allow","x":1}"#),
            Ok(Answer::Allow)
        ));
        assert!(matches!(
            read(r#"{"action":"deny"}"#),
            Ok(Answer::Deny { .. })
        ));
        for nonsense in [
            "",
            "{}",
            r#"{"action":"maybe"}"#,
            r#"{"action":"replace"}"#,
            "[]",
        ] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }
}
