//! Key sets that a real HTTP server publishes: rotation, and what must not cause traffic.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use futures_util::future::join_all;
use jsonwebtoken::jwk::Jwk;
use tokio::net::TcpListener;

use super::*;
use crate::{
    auth::jwt::key_set::Pace,
    limits::{KEY_SET_BYTES_MAX, KEY_SET_WAITING_MAX},
};

/// The paces of these tests: as fast as it goes, with or without a refresh that nobody asked for.
const ON_DEMAND: Pace = Pace {
    between: Duration::from_millis(20),
    refresh: Duration::from_secs(3_600),
};
const OFTEN: Pace = Pace {
    between: Duration::from_millis(20),
    refresh: Duration::from_millis(20),
};

/// A key of the business with the id it is published under.
struct Pair {
    id: &'static str,
    signing: EncodingKey,
}

impl Pair {
    fn new(id: &'static str) -> Self {
        // An Ed25519 key in PKCS #8 is this and any 32 bytes.
        let mut der = vec![
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        der.extend_from_slice(&rand::random::<[u8; 32]>());
        let signing = EncodingKey::from_ed_der(&der);
        Self { id, signing }
    }

    fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.signing, Algorithm::EdDSA).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = self.id.into();
        jwk
    }

    fn sign_naming(&self, id: Option<&str>) -> String {
        let header = Header {
            kid: id.map(str::to_owned),
            ..Header::new(Algorithm::EdDSA)
        };
        encode(&header, &claims(), &self.signing).unwrap()
    }

    fn sign(&self) -> String {
        self.sign_naming(Some(self.id))
    }
}

/// Who publishes the keys.
struct Publisher {
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
    url: String,
    tasks: Tasks,
}

impl Publisher {
    async fn start() -> Self {
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let publisher = Self {
            answer: Arc::new(Mutex::new((StatusCode::OK, String::new()))),
            asked: Arc::default(),
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            tasks: Tasks::default(),
        };
        let (answer, asked) = (Arc::clone(&publisher.answer), Arc::clone(&publisher.asked));
        let serve = move || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            let (status, body) = answer.lock().unwrap().clone();
            (status, [("location", "/keys")], body)
        };
        let server = axum::serve(listener, Router::new().route("/keys", get(serve)));
        publisher
            .tasks
            .spawn(std::future::IntoFuture::into_future(server));
        publisher
    }

    fn publish(&self, keys: &[&Pair]) {
        let keys: Vec<Value> = keys.iter().map(|pair| pair.jwk()).collect();
        self.answer_with(StatusCode::OK, &json!({ "keys": keys }).to_string());
    }

    fn answer_with(&self, status: StatusCode, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until it was asked, and its answer was dealt with, after now.
    async fn asked_again(&self) {
        let before = self.asked();
        let again = async {
            while self.asked() < before + 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), again).await;
        waited.expect("the set is asked for");
    }

    fn verifier(&self, pace: Pace) -> Verifier {
        Verifier {
            source: Source::Published(KeySet::follow_at(&self.url, pace, &self.tasks).unwrap()),
            rules: Rules::new(&config()),
        }
    }
}

async fn answer(verifier: &Verifier, token: &str) -> Option<Code> {
    match verifier.verify(token, NOW_MS).await {
        Ok(verified) => {
            assert_eq!(verified.user, UserId(7));
            None
        }
        Err(error) => Some(error.code().expect("a business error")),
    }
}

#[tokio::test]
async fn new_key_is_accepted_as_soon_as_it_is_published() {
    let publisher = Publisher::start().await;
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    publisher.publish(&[&old]);
    let verifier = publisher.verifier(ON_DEMAND);
    assert_eq!(answer(&verifier, &old.sign()).await, None);
    assert_eq!(
        answer(&verifier, &new.sign()).await,
        Some(Code::SignInAgain)
    );
    publisher.publish(&[&old, &new]);
    assert_eq!(answer(&verifier, &new.sign()).await, None);
    assert_eq!(answer(&verifier, &old.sign()).await, None);
}

#[tokio::test]
async fn removed_key_is_refused_after_a_refresh() {
    let publisher = Publisher::start().await;
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    publisher.publish(&[&old, &new]);
    let verifier = publisher.verifier(OFTEN);
    assert_eq!(answer(&verifier, &old.sign()).await, None);
    publisher.publish(&[&new]);
    publisher.asked_again().await;
    assert_eq!(
        answer(&verifier, &old.sign()).await,
        Some(Code::SignInAgain)
    );
    assert_eq!(answer(&verifier, &new.sign()).await, None);
}

#[tokio::test]
async fn token_that_names_no_key_is_tried_with_those_that_fit() {
    let publisher = Publisher::start().await;
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    publisher.publish(&[&old]);
    let verifier = publisher.verifier(ON_DEMAND);
    assert_eq!(answer(&verifier, &old.sign_naming(None)).await, None);
    let unnamed = new.sign_naming(None);
    assert_eq!(answer(&verifier, &unnamed).await, Some(Code::SignInAgain));
    publisher.publish(&[&old, &new]);
    assert_eq!(answer(&verifier, &unnamed).await, None);
}

#[tokio::test]
async fn key_that_is_named_must_be_the_one_that_signed() {
    let publisher = Publisher::start().await;
    let (one, other) = (Pair::new("one"), Pair::new("other"));
    publisher.publish(&[&one, &other]);
    let verifier = publisher.verifier(ON_DEMAND);
    assert_eq!(answer(&verifier, &one.sign()).await, None);
    let asked = publisher.asked();
    let token = one.sign_naming(Some("other"));
    assert_eq!(answer(&verifier, &token).await, Some(Code::SignInAgain));
    let header = Header {
        kid: Some("one".into()),
        ..Header::default()
    };
    let published = one.jwk()["x"].as_str().unwrap().to_owned();
    let secret = EncodingKey::from_base64_secret(&format!("{published}=")).ok();
    let secret = secret.unwrap_or_else(|| EncodingKey::from_secret(published.as_bytes()));
    let token = encode(&header, &claims(), &secret).unwrap();
    assert_eq!(answer(&verifier, &token).await, Some(Code::SignInAgain));
    assert_eq!(publisher.asked(), asked, "the keys are known");
}

#[tokio::test]
async fn flood_of_unknown_keys_is_one_fetch() {
    let publisher = Publisher::start().await;
    let (good, forger) = (Pair::new("good"), Pair::new("good"));
    publisher.publish(&[&good]);
    let verifier = publisher.verifier(ON_DEMAND);
    assert_eq!(answer(&verifier, &good.sign()).await, None);
    assert_eq!(publisher.asked(), 1);
    let tokens: Vec<String> = (0..200)
        .map(|number| forger.sign_naming(Some(&format!("random-{number}"))))
        .collect();
    let answers = join_all(tokens.iter().map(|token| answer(&verifier, token))).await;
    assert!(answers.iter().all(|code| *code == Some(Code::SignInAgain)));
    assert_eq!(publisher.asked(), 2);
}

#[tokio::test]
async fn tokens_that_wait_for_keys_are_bounded() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let tasks = Tasks::default();
    let verifier = Verifier {
        source: Source::Published(KeySet::follow_at(&url, ON_DEMAND, &tasks).unwrap()),
        rules: Rules::new(&config()),
    };
    let token = Pair::new("one").sign();
    let mut waiting: Vec<_> = (0..KEY_SET_WAITING_MAX)
        .map(|_| Box::pin(verifier.verify(&token, NOW_MS)))
        .collect();
    for one in &mut waiting {
        assert!(futures_util::poll!(one).is_pending());
    }
    let beyond = verify(&verifier, &token).unwrap_err();
    assert!(beyond.is(Code::TryAgain));
    drop(waiting);
    assert!(verifier.verify(&token, NOW_MS).now_or_never().is_none());
}

#[tokio::test]
async fn without_any_key_tokens_are_to_be_tried_again() {
    let publisher = Publisher::start().await;
    let key = Pair::new("key");
    publisher.answer_with(StatusCode::SERVICE_UNAVAILABLE, "");
    let verifier = publisher.verifier(ON_DEMAND);
    assert_eq!(answer(&verifier, &key.sign()).await, Some(Code::TryAgain));
    assert_eq!(answer(&verifier, "nonsense").await, Some(Code::SignInAgain));
    publisher.publish(&[&key]);
    let accepted = async {
        while let Some(code) = answer(&verifier, &key.sign()).await {
            assert_eq!(code, Code::TryAgain);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), accepted).await;
    waited.expect("the set is asked for again");
}

#[tokio::test]
async fn known_keys_stay_whatever_the_url_answers() {
    let publisher = Publisher::start().await;
    let (known, new) = (Pair::new("known"), Pair::new("new"));
    publisher.publish(&[&known]);
    let verifier = publisher.verifier(OFTEN);
    assert_eq!(answer(&verifier, &known.sign()).await, None);
    let huge = format!("{{\"keys\":[{}]}}", " ".repeat(KEY_SET_BYTES_MAX));
    let secret = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "new" }] }).to_string();
    for (status, body) in [
        (StatusCode::OK, huge.as_str()),
        (StatusCode::OK, "<html>not found</html>"),
        (StatusCode::OK, r#"{"keys":[]}"#),
        (StatusCode::OK, r#"{"keys":{}}"#),
        (StatusCode::OK, "[]"),
        (StatusCode::OK, &secret),
        (StatusCode::INTERNAL_SERVER_ERROR, ""),
        (StatusCode::FOUND, ""),
    ] {
        publisher.answer_with(status, body);
        publisher.asked_again().await;
        assert_eq!(answer(&verifier, &known.sign()).await, None, "{status}");
        let unknown = answer(&verifier, &new.sign()).await;
        assert_eq!(unknown, Some(Code::TryAgain), "{status}");
    }
    publisher.publish(&[&new]);
    publisher.asked_again().await;
    assert_eq!(answer(&verifier, &new.sign()).await, None);
    assert_eq!(
        answer(&verifier, &known.sign()).await,
        Some(Code::SignInAgain)
    );
}

#[tokio::test]
async fn keys_that_are_not_understood_do_not_hide_the_others() {
    let publisher = Publisher::start().await;
    let key = Pair::new("key");
    let keys = json!([
        { "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "large" },
        { "kty": "RSA", "n": 7 },
        "nonsense",
        { "kty": "oct", "k": "c2VjcmV0", "kid": "key" },
        key.jwk(),
    ]);
    publisher.answer_with(StatusCode::OK, &json!({ "keys": keys }).to_string());
    let verifier = publisher.verifier(ON_DEMAND);
    assert_eq!(answer(&verifier, &key.sign()).await, None);
}

#[tokio::test]
async fn keys_are_there_when_the_server_starts_or_it_starts_without() {
    let publisher = Publisher::start().await;
    let key = Pair::new("key");
    let mut config = config();
    config.jwks_url.clone_from(&publisher.url);
    publisher.answer_with(StatusCode::SERVICE_UNAVAILABLE, "");
    let without = Verifier::open(&config, &publisher.tasks).await.unwrap();
    assert!(verify(&without, &key.sign()).is_err_and(|error| error.is(Code::TryAgain)));
    publisher.publish(&[&key]);
    let with = Verifier::open(&config, &publisher.tasks).await.unwrap();
    assert_eq!(verify(&with, &key.sign()).unwrap().user, UserId(7));
}

#[tokio::test]
async fn following_ends_with_the_server() {
    let publisher = Publisher::start().await;
    publisher.publish(&[&Pair::new("key")]);
    let tasks = Tasks::default();
    let keys = KeySet::follow_at(&publisher.url, OFTEN, &tasks).unwrap();
    tasks.stop().cancel();
    tasks.finished().await;
    drop(keys);
}
