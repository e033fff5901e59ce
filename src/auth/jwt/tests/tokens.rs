//! Signatures: every algorithm with its own key and no other, and tokens that were tampered with.

use jsonwebtoken::crypto;
use proptest::prelude::*;

use super::*;

#[test]
fn every_algorithm_is_accepted_from_its_key_only() {
    let keys = signing_keys();
    let tokens: Vec<(usize, Algorithm, String)> = keys
        .iter()
        .enumerate()
        .flat_map(|(owner, (algorithms, signing, _))| {
            algorithms.iter().map(move |algorithm| {
                let token = encode(&Header::new(*algorithm), &claims(), signing).unwrap();
                (owner, *algorithm, token)
            })
        })
        .collect();
    for (position, (_, _, key)) in keys.into_iter().enumerate() {
        let verifier = verifier(key);
        for (owner, algorithm, token) in &tokens {
            let answer = verify(&verifier, token);
            if *owner == position {
                assert_eq!(answer.unwrap().user, UserId(7), "{algorithm:?}");
            } else {
                assert!(is_refused(&answer), "{algorithm:?} with key {position}");
            }
        }
    }
}

/// Signed with `PyJWT` 2.15.
#[test]
fn tokens_of_another_implementation_are_accepted() {
    let verifiers: Vec<_> = signing_keys()
        .into_iter()
        .map(|(algorithms, _, key)| (algorithms, verifier(key)))
        .collect();
    let lines = include_str!("../../../../tests/keys/tokens.txt").lines();
    assert_eq!(lines.clone().count(), 6);
    for (name, token) in lines.map(|line| line.split_once(' ').unwrap()) {
        let algorithm: Algorithm = name.parse().unwrap();
        let (_, verifier) = verifiers
            .iter()
            .find(|(algorithms, _)| algorithms.contains(&algorithm))
            .unwrap();
        let expected = Verified {
            user: UserId(7),
            device: Some(DeviceId(9)),
            issued_at_s: Some(1_600_000_000),
            expires_at_ms: 4_102_444_800_000,
        };
        assert_eq!(verify(verifier, token).unwrap(), expected, "{name}");
    }
}

#[test]
fn public_key_is_no_secret() {
    for (text, key) in [
        (key_file!("rsa.pub"), &signing_keys()[1].2),
        (key_file!("ed25519.pub"), &signing_keys()[4].2),
    ] {
        let secret = EncodingKey::from_secret(text.as_bytes());
        let token = encode(&Header::default(), &claims(), &secret).unwrap();
        assert!(key.open(&token).is_none());
        let trimmed = EncodingKey::from_secret(text.trim().as_bytes());
        let token = encode(&Header::default(), &claims(), &trimmed).unwrap();
        assert!(key.open(&token).is_none());
    }
}

#[test]
fn unsigned_tokens_are_refused() {
    let verifier = verifier(Key::from_secret(SECRET));
    for algorithm in [
        "none", "None", "NONE", "nOnE", "", "HS256", "RS256", "hs256",
    ] {
        let header = json!({ "alg": algorithm, "typ": "JWT" });
        for signature in [b"".as_slice(), b"\0", &[0; 32]] {
            let token = assemble(&header, &claims(), signature);
            assert!(is_refused(&verify(&verifier, &token)), "{token}");
        }
        let two_parts = assemble(&header, &claims(), b"");
        let two_parts = two_parts.trim_end_matches('.');
        assert!(is_refused(&verify(&verifier, two_parts)));
    }
    for header in [
        json!({}),
        json!([]),
        json!({ "alg": null }),
        json!({ "alg": 1 }),
    ] {
        let token = assemble(&header, &claims(), b"");
        assert!(is_refused(&verify(&verifier, &token)), "{header}");
    }
}

#[test]
fn tampered_tokens_are_refused() {
    let verifier = verifier(Key::from_secret(SECRET));
    let good = sign(&claims());
    verify(&verifier, &good).unwrap();
    for position in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let token = String::from_utf8(bytes).unwrap();
        assert!(is_refused(&verify(&verifier, &token)), "{token}");
        assert!(is_refused(&verify(&verifier, &good[..position])));
    }
    let other = sign(&json!({ "sub": "8", "exp": NOW_S + 3_600 }));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    for token in [
        format!("{signed}.{signature}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(".{good}"),
        format!("{good}="),
        format!("{good} "),
        format!("Bearer {good}"),
    ] {
        assert!(is_refused(&verify(&verifier, &token)), "{token}");
    }
}

#[test]
fn headers_that_must_be_understood_are_not() {
    let verifier = verifier(Key::from_secret(SECRET));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let critical = Header {
        crit: Some(vec!["exp".into()]),
        ..Header::default()
    };
    let token = encode(&critical, &claims(), &key).unwrap();
    assert!(is_refused(&verify(&verifier, &token)));
    // One that names a key, or brings one along, is as good as its signature.
    let talkative = Header {
        kid: Some("../../etc/passwd".into()),
        jku: Some("http://127.0.0.1:1/keys".into()),
        ..Header::default()
    };
    let token = encode(&talkative, &claims(), &key).unwrap();
    assert_eq!(verify(&verifier, &token).unwrap().user, UserId(7));
}

#[test]
fn long_tokens_are_refused() {
    let verifier = verifier(Key::from_secret(SECRET));
    let with = |bytes: usize| {
        let mut claims = claims();
        claims["name"] = "n".repeat(bytes).into();
        sign(&claims)
    };
    let longest = with(5_900);
    assert!((7_900..=FOREIGN_TOKEN_BYTES_MAX).contains(&longest.len()));
    verify(&verifier, &longest).unwrap();
    let token = with(6_200);
    assert!(token.len() > FOREIGN_TOKEN_BYTES_MAX);
    assert!(is_refused(&verify(&verifier, &token)));
}

#[tokio::test]
async fn short_secret_is_accepted() {
    let mut config = config();
    config.secret = "s".into();
    let verifier = Verifier::open(&config, &Tasks::default()).await.unwrap();
    let key = EncodingKey::from_secret(b"s");
    let token = encode(&Header::default(), &claims(), &key).unwrap();
    assert_eq!(verify(&verifier, &token).unwrap().user, UserId(7));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", parts in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){2}") {
        let verifier = verifier(Key::from_secret(SECRET));
        for token in [&text, &parts] {
            prop_assert!(is_refused(&verify(&verifier, token)));
        }
    }

    #[test]
    fn no_signed_bytes_make_it_panic(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>()) {
        let verifier = verifier(Key::from_secret(SECRET));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let good_header = br#"{"alg":"HS256"}"#.to_vec();
        for header in [header, good_header] {
            let [header, payload] = [&header, &payload].map(|part| URL_SAFE_NO_PAD.encode(part));
            let signed = format!("{header}.{payload}");
            let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
            let token = format!("{signed}.{signature}");
            prop_assert!(is_refused(&verify(&verifier, &token)));
        }
    }
}
