//! Which keys are used, and for what.

use base64::Engine;
use jsonwebtoken::jwk::Jwk;
use proptest::prelude::*;

use super::*;
use crate::auth::jwt::keys::Unusable;

fn from_pem(text: &str) -> std::result::Result<Key, Unusable> {
    Key::from_pem(text.as_bytes())
}

/// The public key of a signing key, as it would be published.
fn published(algorithm: Algorithm, key: &EncodingKey) -> Value {
    serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap()
}

fn with(mut jwk: Value, member: &str, value: Value) -> Value {
    jwk[member] = value;
    jwk
}

#[test]
fn key_files_of_other_kinds_are_refused() {
    assert!(from_pem(key_file!("rsa.pkcs1.pub")).is_ok());
    assert!(from_pem(&format!("\n{}\n", key_file!("ec256.pub"))).is_ok());
    let refusal = |text: &str| from_pem(text).unwrap_err();
    assert_eq!(
        refusal(key_file!("rsa1024.pub")),
        "an RSA key has 2048 to 4096 bits"
    );
    for (text, why) in [
        (key_file!("ec521.pub"), "P-521"),
        (key_file!("secp256k1.pub"), "another curve of the same size"),
        (key_file!("rsa.key"), "a private key"),
        (key_file!("ed25519.key"), "a private key"),
        (key_file!("rsa.crt"), "a certificate"),
        ("", "nothing"),
        ("a secret", "no PEM"),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "no key",
        ),
    ] {
        assert!(from_pem(text).is_err(), "{why}");
    }
}

#[tokio::test]
async fn server_does_not_start_with_an_unusable_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem").display().to_string();
    let tasks = Tasks::default();
    let mut config = config();
    config.public_key.clone_from(&path);
    let away = Verifier::open(&config, &tasks).await.unwrap_err();
    std::fs::write(&path, key_file!("rsa1024.pub")).unwrap();
    let weak = Verifier::open(&config, &tasks).await.unwrap_err();
    std::fs::write(&path, vec![b'-'; 1_000_000]).unwrap();
    let large = Verifier::open(&config, &tasks).await.unwrap_err();
    for error in [away, weak, large] {
        let text = error.to_string();
        assert!(text.contains("jwt.public_key"), "{text}");
        assert!(text.contains(&path) && text.contains("allowed:"), "{text}");
    }
    std::fs::write(&path, key_file!("rsa.pub")).unwrap();
    Verifier::open(&config, &tasks).await.unwrap();
}

#[test]
fn published_key_is_used_for_what_it_is_meant() {
    for (algorithms, signing, _) in signing_keys().iter().skip(1) {
        for algorithm in *algorithms {
            let jwk = published(*algorithm, signing);
            let key = Key::from_jwk(jwk.clone()).unwrap();
            for other in signing_keys()
                .iter()
                .flat_map(|(algorithms, ..)| *algorithms)
            {
                let fits = key.fits(&Header::new(*other));
                assert_eq!(fits, other == algorithm, "{algorithm:?} for {other:?}");
            }
            let token = encode(&Header::new(*algorithm), &claims(), signing).unwrap();
            assert!(key.open(&token).is_some(), "{algorithm:?}");

            let mut any = jwk.clone();
            any.as_object_mut().unwrap().remove("alg");
            let any = Key::from_jwk(any).unwrap();
            assert!(algorithms.iter().all(|one| any.fits(&Header::new(*one))));

            assert!(Key::from_jwk(with(jwk.clone(), "use", json!("sig"))).is_ok());
            let both = json!(["verify", "sign"]);
            assert!(Key::from_jwk(with(jwk.clone(), "key_ops", both)).is_ok());
            for (member, value) in [
                ("use", json!("enc")),
                ("key_ops", json!(["sign"])),
                ("key_ops", json!([])),
                ("alg", json!("HS256")),
                ("alg", json!("none")),
                ("alg", json!("RSA-OAEP")),
                ("kid", json!(7)),
            ] {
                let other = with(jwk.clone(), member, value.clone());
                assert!(
                    Key::from_jwk(other).is_err(),
                    "{algorithm:?} {member} {value}"
                );
            }
        }
    }
}

#[test]
fn published_keys_that_are_none_are_not_used() {
    let coordinate = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![7; bytes]);
    for jwk in [
        json!({}),
        json!(7),
        json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) }),
        json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": coordinate(31) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": coordinate(33) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": coordinate(32) }),
        json!({ "kty": "EC", "crv": "P-256", "x": coordinate(32), "y": coordinate(32) }),
        json!({ "kty": "EC", "crv": "P-256", "x": "", "y": "" }),
        json!({ "kty": "RSA", "n": "", "e": "AQAB" }),
        json!({ "kty": "RSA", "n": coordinate(128), "e": "AQAB" }),
        json!({ "kty": "RSA", "n": coordinate(1_024), "e": "AQAB" }),
        json!({ "kty": "RSA", "n": "not base64!", "e": "AQAB" }),
    ] {
        assert!(Key::from_jwk(jwk.clone()).is_err(), "{jwk}");
    }
    let (_, p256, _) = &signing_keys()[2];
    let jwk = published(Algorithm::ES256, p256);
    assert!(Key::from_jwk(with(jwk, "crv", json!("P-384"))).is_err());
}

/// RFC 7515, appendix A.1 to A.3: keys and tokens that nobody here has made.
#[test]
fn tokens_of_the_standard_are_opened() {
    let ec = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    });
    let rsa = json!({
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB"
    });
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (jwk, header, signature) in [
        (
            ec,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            rsa,
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
    ] {
        let key = Key::from_jwk(jwk).unwrap();
        let claims = key
            .open(&format!("{header}.{payload}.{signature}"))
            .unwrap();
        assert_eq!(claims["iss"], "joe");
        assert_eq!(claims["exp"], 1_300_819_380);
    }
}

proptest! {
    #[test]
    fn no_published_key_makes_it_panic(
        kty in prop::sample::select(vec!["RSA", "EC", "OKP", "oct"]),
        crv in prop::sample::select(vec!["P-256", "P-384", "P-521", "Ed25519"]),
        first in prop::collection::vec(any::<u8>(), 0..520),
        second in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        let [first, second] = [first, second].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let jwk = json!({
            "kty": kty, "crv": crv, "n": first, "e": second, "x": first, "y": second, "k": first,
        });
        if let Ok(key) = Key::from_jwk(jwk) {
            let token = assemble(&json!({ "alg": "RS256" }), &claims(), &[1; 256]);
            prop_assert!(key.open(&token).is_none());
        }
    }
}
