//! What signed claims must be.

use proptest::prelude::*;

use super::*;
use crate::limits::JWT_EXPIRY_MAX_MS;

/// The answer of the default rules to a token of user 7 with one claim changed.
fn with(name: &str, value: Value) -> Result<Verified> {
    let mut claims = claims();
    claims[name] = value;
    verify(&verifier(Key::from_secret(SECRET)), &sign(&claims))
}

fn without(name: &str) -> Result<Verified> {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    verify(&verifier(Key::from_secret(SECRET)), &sign(&claims))
}

#[test]
fn sub_is_a_user_in_the_one_form_it_is_written_in() {
    for (sub, user) in [
        (json!("7"), 7),
        (json!(7), 7),
        (json!("9223372036854775807"), i64::MAX),
        (json!(i64::MAX), i64::MAX),
    ] {
        assert_eq!(with("sub", sub).unwrap().user, UserId(user));
    }
    for sub in [
        json!("0"),
        json!("-1"),
        json!("+1"),
        json!("1.0"),
        json!("01"),
        json!(" 1"),
        json!("1 "),
        json!("1\u{0}"),
        json!("١"),
        json!("0x1"),
        json!("1e3"),
        json!("9223372036854775808"),
        json!("99999999999999999999999999"),
        json!(""),
        json!("alice"),
        json!(0),
        json!(-1),
        json!(1.0),
        json!(1.5),
        json!(1e300),
        json!(9_223_372_036_854_775_808_u64),
        json!(null),
        json!(true),
        json!([7]),
        json!({ "id": 7 }),
    ] {
        assert!(is_refused(&with("sub", sub.clone())), "{sub}");
    }
    assert!(is_refused(&without("sub")));
}

#[test]
fn device_is_the_one_that_is_named() {
    assert_eq!(without("device_id").unwrap().device, None);
    for device in [json!(9), json!("9")] {
        let verified = with("device_id", device).unwrap();
        assert_eq!(verified.device, Some(DeviceId(9)));
    }
    for device in [
        json!(0),
        json!("0"),
        json!(-9),
        json!("09"),
        json!(9.5),
        json!(null),
        json!([]),
    ] {
        assert!(is_refused(&with("device_id", device.clone())), "{device}");
    }
    let claims =
        json!({ "sub": 7, "exp": NOW_S + 1, "https://example.com/device": 5, "device_id": 9 });
    for (name, device) in [
        ("https://example.com/device", Some(5)),
        ("other", None),
        ("", None),
    ] {
        let mut config = config();
        config.device_claim = name.into();
        let rules = Rules::new(&config);
        let verified = rules.check(claims.as_object().unwrap(), NOW_MS).unwrap();
        assert_eq!(verified.device, device.map(DeviceId), "{name}");
    }
}

#[test]
fn token_expires_on_the_millisecond() {
    let verifier = verifier(Key::from_secret(SECRET));
    let token = sign(&json!({ "sub": 7, "exp": NOW_S }));
    let at = |ms: i64| verifier.verify(&token, ms).now_or_never().unwrap();
    assert_eq!(at(NOW_MS - 1).unwrap().expires_at_ms, NOW_MS);
    assert!(is_refused(&at(NOW_MS)));

    let fraction = with("exp", json!(NOW_S as f64 + 0.25)).unwrap();
    assert_eq!(fraction.expires_at_ms, NOW_MS + 250);
    for far in [
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(NOW_MS * 1_000),
    ] {
        let verified = with("exp", far.clone()).unwrap();
        assert_eq!(verified.expires_at_ms, JWT_EXPIRY_MAX_MS, "{far}");
    }
    for exp in [
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(-1e300),
        json!(NOW_S - 1),
        json!(null),
        json!((NOW_S + 60).to_string()),
        json!("never"),
        json!({}),
    ] {
        assert!(is_refused(&with("exp", exp.clone())), "{exp}");
    }
    assert!(is_refused(&without("exp")));
}

#[test]
fn token_does_not_hold_before_its_time() {
    let leeway_s = crate::limits::JWT_NOT_BEFORE_LEEWAY.as_secs() as i64;
    with("nbf", json!(NOW_S + leeway_s)).unwrap();
    with("nbf", json!(0)).unwrap();
    for nbf in [
        json!(NOW_S + leeway_s + 1),
        json!(i64::MAX),
        json!("0"),
        json!(null),
    ] {
        assert!(is_refused(&with("nbf", nbf.clone())), "{nbf}");
    }
}

#[test]
fn time_of_issue_is_told_in_whole_seconds() {
    assert_eq!(without("iat").unwrap().issued_at_s, None);
    for (iat, second) in [
        (json!(NOW_S), NOW_S),
        (json!(NOW_S as f64 + 0.9), NOW_S),
        (json!(-1.5), -2),
    ] {
        assert_eq!(with("iat", iat).unwrap().issued_at_s, Some(second));
    }
    assert!(is_refused(&with("iat", json!("yesterday"))));
}

#[test]
fn issuer_and_audience_are_looked_at_when_they_are_configured() {
    with("aud", json!("whoever")).unwrap();
    with("iss", json!("whoever")).unwrap();
    let mut config = config();
    config.issuer = "https://id.example.com".into();
    config.audience = "im".into();
    let rules = Rules::new(&config);
    let check = |iss: Value, aud: Value| {
        let mut claims = claims();
        claims["iss"] = iss;
        claims["aud"] = aud;
        rules.check(claims.as_object().unwrap(), NOW_MS).is_ok()
    };
    let issuer = || json!("https://id.example.com");
    assert!(check(issuer(), json!("im")));
    assert!(check(issuer(), json!(["other", "im"])));
    for aud in [
        json!("other"),
        json!("IM"),
        json!("im "),
        json!([]),
        json!(["other"]),
        json!(null),
        json!([["im"]]),
    ] {
        assert!(!check(issuer(), aud.clone()), "{aud}");
    }
    for iss in [
        json!("https://id.example.com/"),
        json!(["https://id.example.com"]),
        json!(null),
        json!(""),
    ] {
        assert!(!check(iss.clone(), json!("im")), "{iss}");
    }
    assert!(rules.check(claims().as_object().unwrap(), NOW_MS).is_err());
}

/// What claims may be, good and bad.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[0-9]{1,20}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([1, "a", {}])),
        Just(json!({ "a": [] })),
    ]
}

proptest! {
    #[test]
    fn no_claims_make_it_panic(
        values in prop::collection::vec(value(), 7),
        now_ms in any::<i64>(),
    ) {
        let names = ["sub", "exp", "nbf", "iat", "iss", "aud", "device_id"];
        let claims = names.map(str::to_owned).into_iter().zip(values).collect();
        for (issuer, audience) in [("", ""), ("a", "b")] {
            let mut config = config();
            config.issuer = issuer.into();
            config.audience = audience.into();
            if let Ok(verified) = Rules::new(&config).check(&claims, now_ms) {
                prop_assert!(verified.user.get() > 0);
                prop_assert!(verified.expires_at_ms > now_ms);
            }
        }
    }
}
