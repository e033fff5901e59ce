//! Tokens and keys of all kinds, good and bad, and key sets that come over HTTP.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::error::Code;

mod key_set;
mod keys;
mod rules;
mod tokens;

/// When all of this happens, in unix seconds.
const NOW_S: i64 = 1_800_000_000;
const NOW_MS: i64 = NOW_S * 1_000;
const SECRET: &str = "a secret of more than thirty-two bytes, for HMAC";

macro_rules! key_file {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/keys/", $name, ".pem"))
    };
}
use key_file;

fn config() -> config::Jwt {
    config::Jwt {
        secret: SECRET.into(),
        public_key: String::new(),
        jwks_url: String::new(),
        issuer: String::new(),
        audience: String::new(),
        device_claim: "device_id".into(),
    }
}

/// A verifier with one key and the default rules.
fn verifier(key: Key) -> Verifier {
    Verifier {
        source: Source::Fixed(Box::new(key)),
        rules: Rules::new(&config()),
    }
}

/// A key pair of each kind that signs: how it is called, what signs, and the public key.
fn signing_keys() -> Vec<(&'static [Algorithm], EncodingKey, Key)> {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512};
    use Algorithm::{RS256, RS384, RS512};
    let pem = |text: &str| Key::from_pem(text.as_bytes()).unwrap();
    vec![
        (
            &[HS256, HS384, HS512],
            EncodingKey::from_secret(SECRET.as_bytes()),
            Key::from_secret(SECRET),
        ),
        (
            &[RS256, RS384, RS512, PS256, PS384, PS512],
            EncodingKey::from_rsa_pem(key_file!("rsa.key").as_bytes()).unwrap(),
            pem(key_file!("rsa.pub")),
        ),
        (
            &[ES256],
            EncodingKey::from_ec_pem(key_file!("ec256.key").as_bytes()).unwrap(),
            pem(key_file!("ec256.pub")),
        ),
        (
            &[ES384],
            EncodingKey::from_ec_pem(key_file!("ec384.key").as_bytes()).unwrap(),
            pem(key_file!("ec384.pub")),
        ),
        (
            &[EdDSA],
            EncodingKey::from_ed_pem(key_file!("ed25519.key").as_bytes()).unwrap(),
            pem(key_file!("ed25519.pub")),
        ),
    ]
}

/// Claims of user 7 that hold for another hour.
fn claims() -> Value {
    json!({ "sub": "7", "exp": NOW_S + 3_600 })
}

fn sign(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).unwrap()
}

/// A token whose three parts are as given, whatever they are.
fn assemble(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (header, claims) = (header.to_string(), claims.to_string());
    [header.as_bytes(), claims.as_bytes(), signature]
        .map(part)
        .join(".")
}

/// The answer of a verifier that waits for nothing.
fn verify(verifier: &Verifier, token: &str) -> Result<Verified> {
    verifier
        .verify(token, NOW_MS)
        .now_or_never()
        .expect("an answer at once")
}

fn is_refused(answer: &Result<Verified>) -> bool {
    answer
        .as_ref()
        .is_err_and(|error| error.is(Code::SignInAgain))
}
