//! A JSON Web Key Set that is published at a URL: one task fetches it, at the start, from time to
//! time, and when a token names a key that is not known. What was had last stays until there is
//! something better.
//!
//! Invariant: however many tokens come, two fetches are [`Pace::between`] apart at least.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Header;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Refusal, claims::Claims, keys::Key};
use crate::{
    error::{Error, Result, ResultExt},
    lifecycle::Tasks,
    limits::{
        KEY_SET_BYTES_MAX, KEY_SET_FETCH_TIMEOUT, KEY_SET_INTERVAL_MIN, KEY_SET_KEYS_MAX,
        KEY_SET_REFRESH_INTERVAL, KEY_SET_TRIED_MAX, KEY_SET_WAIT_MAX, KEY_SET_WAITING_MAX,
    },
};

/// The keys of a set, and the way to ask for newer ones.
#[derive(Debug)]
pub(super) struct KeySet {
    state: watch::Receiver<State>,
    /// The number of the fetch that somebody waits for.
    wanted: watch::Sender<u64>,
    waiting: Semaphore,
}

/// What is known of the set.
#[derive(Debug, Default)]
struct State {
    keys: Arc<[Key]>,
    /// Fetches begun and ended: each has a number, from 1.
    begun: u64,
    ended: u64,
    /// The last one failed.
    is_away: bool,
}

/// How often a set is fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two fetches, and after one that failed.
    pub(super) between: Duration,
    /// When nobody asks.
    pub(super) refresh: Duration,
}

/// The task that fetches.
struct Follower {
    client: reqwest::Client,
    url: reqwest::Url,
    pace: Pace,
    state: watch::Sender<State>,
    wanted: watch::Receiver<u64>,
    /// What was last logged, while the set is away.
    reported: Option<String>,
}

/// What a set says of a token.
enum Trial {
    Opened(Claims),
    Refused(super::Why),
    /// A newer set may know better.
    NoSuchKey,
}

impl KeySet {
    /// Follows the set at `url` until the server stops.
    pub(super) fn follow(url: &str, tasks: &Tasks) -> Result<Self> {
        let pace = Pace {
            between: KEY_SET_INTERVAL_MIN,
            refresh: KEY_SET_REFRESH_INTERVAL,
        };
        Self::follow_at(url, pace, tasks)
    }

    /// As [`Self::follow`], at another pace.
    pub(super) fn follow_at(url: &str, pace: Pace, tasks: &Tasks) -> Result<Self> {
        let (published, state) = watch::channel(State::default());
        let (wanted, wishes) = watch::channel(0);
        let follower = Follower {
            client: reqwest::Client::builder()
                .timeout(KEY_SET_FETCH_TIMEOUT)
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .internal("set up the key set's HTTP client")?,
            url: url.parse().internal("read jwt.jwks_url")?,
            pace,
            state: published,
            wanted: wishes,
            reported: None,
        };
        tasks.spawn_critical("key set", follower.run(tasks.stop().clone()));
        Ok(Self {
            state,
            wanted,
            waiting: Semaphore::new(KEY_SET_WAITING_MAX),
        })
    }

    /// Waits until the first fetch has ended, well or not: those who come back after a restart, all at
    /// once, need not be told to try again.
    pub(super) async fn looked_once(&self) {
        // It ends with the server.
        let _ = self.state.clone().wait_for(|state| state.ended > 0).await;
    }

    /// The claims of `token`, where a key of the set has signed it. Where no key is known that might
    /// have, it waits for the set as it is published now.
    pub(super) async fn open(&self, token: &str, header: &Header) -> Result<Claims, Refusal> {
        let (trial, is_away) = self.try_known(token, header);
        match trial {
            Trial::Opened(claims) => return Ok(claims),
            Trial::Refused(why) => return Err(why.into()),
            Trial::NoSuchKey if is_away => return Err(Refusal::KeysAway),
            Trial::NoSuchKey => {}
        }
        let _place = self.waiting.try_acquire().map_err(|_| Refusal::KeysAway)?;
        timeout(KEY_SET_WAIT_MAX, self.open_with_newer(token, header))
            .await
            .unwrap_or(Err(Refusal::KeysAway))
    }

    fn try_known(&self, token: &str, header: &Header) -> (Trial, bool) {
        let (keys, is_away) = {
            let state = self.state.borrow();
            (Arc::clone(&state.keys), state.is_away)
        };
        (try_keys(&keys, token, header), is_away)
    }

    /// Tries each set that comes, until one was asked for after this token came.
    async fn open_with_newer(&self, token: &str, header: &Header) -> Result<Claims, Refusal> {
        let mut state = self.state.clone();
        let wanted = state.borrow_and_update().begun + 1;
        self.wanted.send_if_modified(|others| {
            let is_new = *others < wanted;
            *others = wanted.max(*others);
            is_new
        });
        loop {
            // It ends with the server.
            state.changed().await.map_err(|_| Refusal::KeysAway)?;
            let is_newer = state.borrow_and_update().ended >= wanted;
            match self.try_known(token, header) {
                (Trial::Opened(claims), _) => return Ok(claims),
                (Trial::Refused(why), _) => return Err(why.into()),
                (Trial::NoSuchKey, true) => return Err(Refusal::KeysAway),
                (Trial::NoSuchKey, false) if is_newer => {
                    return Err("no key of the set has signed it".into());
                }
                (Trial::NoSuchKey, false) => {}
            }
        }
    }
}

/// Tries the keys with the id that the token names. Where it names none, every key that fits may be
/// the one, up to a bound.
fn try_keys(keys: &[Key], token: &str, header: &Header) -> Trial {
    if header.kid.is_none() {
        let mut fitting = keys.iter().filter(|key| key.fits(header));
        let opened = fitting
            .by_ref()
            .take(KEY_SET_TRIED_MAX)
            .find_map(|key| key.open(token));
        return opened.map_or(Trial::NoSuchKey, Trial::Opened);
    }
    let named: Vec<&Key> = keys.iter().filter(|key| key.is_named(header)).collect();
    if named.is_empty() {
        return Trial::NoSuchKey;
    }
    let mut fitting = named.into_iter().filter(|key| key.fits(header));
    fitting.find_map(|key| key.open(token)).map_or(
        Trial::Refused("it was not signed with the key that it names"),
        Trial::Opened,
    )
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let begun_at = Instant::now();
                self.fetch().await;
                self.rest(begun_at).await;
            }
        })
        .await;
    }

    /// Waits until the set is to be fetched again.
    async fn rest(&mut self, begun_at: Instant) {
        sleep_until(begun_at + self.pace.between).await;
        let (begun, is_away) = {
            let state = self.state.borrow();
            (state.begun, state.is_away)
        };
        if is_away {
            return;
        }
        tokio::select! {
            Ok(_) = self.wanted.wait_for(|wanted| *wanted > begun) => {}
            () = sleep_until(begun_at + self.pace.refresh) => {}
        }
    }

    async fn fetch(&mut self) {
        // Nobody waits for a beginning.
        self.state.send_if_modified(|state| {
            state.begun += 1;
            false
        });
        let keys = self.ask().await;
        self.report(keys.as_ref().err());
        self.state.send_modify(|state| {
            state.ended = state.begun;
            state.is_away = keys.is_err();
            if let Ok(keys) = keys {
                state.keys = keys.into();
            }
        });
    }

    async fn ask(&self) -> Result<Vec<Key>> {
        let request = self.client.get(self.url.clone());
        let answer = request.header(ACCEPT, "application/json").send().await;
        // Errors go without the URL, which may bear a secret.
        let mut answer = answer
            .map_err(reqwest::Error::without_url)
            .internal("ask for the key set")?;
        if !answer.status().is_success() {
            return Err(Error::internal(format!("it answers {}", answer.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)
            .internal("read the key set")?
        {
            if body.len() + chunk.len() > KEY_SET_BYTES_MAX {
                return Err(Error::internal("it is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }

    /// Logs a failure once, until it is another one or over.
    fn report(&mut self, failure: Option<&Error>) {
        match failure.map(Error::to_string) {
            Some(error) if self.reported.as_ref() != Some(&error) => {
                tracing::warn!(error, "the key set of jwt.jwks_url cannot be had");
                self.reported = Some(error);
            }
            Some(_) => {}
            None if self.reported.take().is_some() => {
                tracing::info!("the key set of jwt.jwks_url can be had again");
            }
            None => {}
        }
    }
}

/// The keys of a set that can be used; of those that cannot there may be any number (RFC 7517).
fn parse(body: &[u8]) -> Result<Vec<Key>> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<serde_json::Value>,
    }
    // Serde's own words might quote the body.
    let document: Document =
        serde_json::from_slice(body).map_err(|_| Error::internal("it is no JSON Web Key Set"))?;
    let mut keys = Vec::new();
    for value in document.keys {
        match Key::from_jwk(value) {
            Ok(_) if keys.len() == KEY_SET_KEYS_MAX => {
                tracing::debug!(
                    max = KEY_SET_KEYS_MAX,
                    "the key set has more keys than are used"
                );
                break;
            }
            Ok(key) => keys.push(key),
            Err(why) => tracing::debug!(why, "a key of the key set is not used"),
        }
    }
    if keys.is_empty() {
        return Err(Error::internal("it has no key that can be used"));
    }
    Ok(keys)
}
