//! Keys that signatures are checked with, from a secret, a PEM file or a JSON Web Key.
//!
//! Invariant: the key says which algorithms it is good for, and a token that names another one is not
//! looked at. A public key is never taken for a secret, and `none` is no algorithm.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header, Validation, crypto,
    jwk::{AlgorithmParameters, Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use super::claims::Claims;
use crate::limits::{RSA_BITS_MAX, RSA_BITS_MIN};

/// Why a key is not used: a sentence for whoever has configured it.
pub(super) type Unusable = &'static str;

/// A key that can be used, and the algorithms it is good for.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    key: DecodingKey,
    /// Which algorithms; what the claims must be is not its matter.
    validation: Validation,
}

impl Key {
    /// The secret of HS256, HS384 and HS512: the bytes of the text itself.
    pub(super) fn from_secret(secret: &str) -> Self {
        let key = DecodingKey::from_secret(secret.as_bytes());
        Self::new(key, AlgorithmFamily::Hmac.algorithms())
    }

    /// The first key in a PEM text, `PUBLIC KEY` or `RSA PUBLIC KEY`. A private key does not belong
    /// here, and a certificate has a period of validity that nobody would look at.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, Unusable> {
        let labels = [
            b"-----BEGIN PUBLIC KEY-----".as_slice(),
            b"-----BEGIN RSA PUBLIC KEY-----",
        ];
        if !labels
            .iter()
            .any(|label| text.trim_ascii().starts_with(label))
        {
            return Err("it is no public key in PEM");
        }
        let key = DecodingKey::from_rsa_pem(text)
            .or_else(|_| DecodingKey::from_ec_pem(text))
            .or_else(|_| DecodingKey::from_ed_pem(text))
            .map_err(|_| "it is neither RSA, EC nor Ed25519")?;
        let algorithms = algorithms(&key)?;
        Ok(Self::new(key, algorithms))
    }

    /// A JSON Web Key (RFC 7517) that is meant for checking signatures.
    pub(super) fn from_jwk(value: Value) -> Result<Self, Unusable> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is not understood")?;
        let common = &jwk.common;
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let for_checking = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures || !for_checking {
            return Err("it is meant for something else");
        }
        if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return Err("a secret that is published is none");
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| "it is neither RSA, EC nor Ed25519")?;
        let mut algorithms = algorithms(&key)?.to_vec();
        // The curve that it names must be the one that it is on.
        if !Jwk::from_decoding_key(&key, None).is_ok_and(|same| same.algorithm == jwk.algorithm) {
            return Err("it is not on the curve that it names");
        }
        if let Some(algorithm) = common.key_algorithm {
            algorithms.retain(|one| Algorithm::try_from(algorithm).as_ref() == Ok(one));
        }
        if algorithms.is_empty() {
            return Err("its algorithm is another key's");
        }
        Ok(Self {
            id: common.key_id.clone(),
            ..Self::new(key, &algorithms)
        })
    }

    fn new(key: DecodingKey, algorithms: &[Algorithm]) -> Self {
        let mut validation = Validation::new_for_family(key.family());
        validation.algorithms = algorithms.to_vec();
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            id: None,
            key,
            validation,
        }
    }

    /// Whether this is the key that `header` names.
    pub(super) fn is_named(&self, header: &Header) -> bool {
        self.id.is_some() && self.id == header.kid
    }

    /// Whether the key is good for the algorithm of `header`.
    pub(super) fn fits(&self, header: &Header) -> bool {
        self.validation.algorithms.contains(&header.alg)
    }

    /// The claims of `token`, where this key has signed it. It is computed in place: HS256 takes 2 µs
    /// to check, EdDSA 40, RS256 with 2048 bits 200, ES256 400, RSA with 4096 bits 900, ES384 1200.
    pub(super) fn open(&self, token: &str) -> Option<Claims> {
        jsonwebtoken::decode(token, &self.key, &self.validation)
            .ok()
            .map(|data| data.claims)
    }
}

/// The algorithms a public key is good for, where it can be used at all.
fn algorithms(key: &DecodingKey) -> Result<&'static [Algorithm], Unusable> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let algorithms: &[Algorithm] = match key.family() {
        AlgorithmFamily::Hmac => return Err("it is a secret"),
        AlgorithmFamily::Rsa => {
            let bits = rsa_bits(key).ok_or("its RSA modulus is not understood")?;
            if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                return Err("an RSA key has 2048 to 4096 bits");
            }
            &[RS256, RS384, RS512, PS256, PS384, PS512]
        }
        // A byte that says "uncompressed" and two coordinates.
        AlgorithmFamily::Ec => match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(65) => &[ES256],
            Ok(97) => &[ES384],
            _ => return Err("an EC key is on the curve P-256 or P-384"),
        },
        AlgorithmFamily::Ed => match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(32) => &[EdDSA],
            _ => return Err("an Ed25519 key has 32 bytes"),
        },
    };
    // A point that is not on its curve is found when the key is first used.
    let usable = algorithms
        .iter()
        .all(|algorithm| crypto::verify("", b"", key, *algorithm).is_ok());
    usable
        .then_some(algorithms)
        .ok_or("it is no point on its curve")
}

/// How many bits the modulus of an RSA key has.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let jwk = Jwk::from_decoding_key(key, None).ok()?;
    let AlgorithmParameters::RSA(parameters) = jwk.algorithm else {
        return None;
    };
    let modulus = URL_SAFE_NO_PAD.decode(parameters.n).ok()?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}
