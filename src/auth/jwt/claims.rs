//! What the claims of a token must be, once its signature is known to be good: whom it signs in, on
//! which device, and when it holds.

use serde_json::{Map, Value};

use super::Verified;
use crate::{
    config,
    id::{DeviceId, UserId},
    limits::{JWT_EXPIRY_MAX_MS, JWT_NOT_BEFORE_LEEWAY},
};

/// The claims of a token, by name.
pub(super) type Claims = Map<String, Value>;

/// What a token is refused for: a sentence for the log, never for the caller.
pub(super) type Why = &'static str;

/// What `[jwt]` asks of claims.
#[derive(Debug)]
pub(super) struct Rules {
    issuer: Option<String>,
    audience: Option<String>,
    device_claim: Option<String>,
}

impl Rules {
    pub(super) fn new(config: &config::Jwt) -> Self {
        let set = |value: &String| (!value.is_empty()).then(|| value.clone());
        Self {
            issuer: set(&config.issuer),
            audience: set(&config.audience),
            device_claim: set(&config.device_claim),
        }
    }

    /// What `claims` say, where they hold at `now_ms`. Expiry is taken at its word, since sessions end
    /// by it; only `nbf` is given some leeway, for a clock that runs ahead of this one.
    pub(super) fn check(&self, claims: &Claims, now_ms: i64) -> Result<Verified, Why> {
        let user = positive(claims.get("sub").ok_or("it has no sub")?).ok_or("sub is no user")?;
        let device = self
            .device_claim
            .as_ref()
            .and_then(|name| claims.get(name))
            .map(|value| positive(value).ok_or("the device claim is no device"))
            .transpose()?;
        let expires_at_ms = instant_ms(claims, "exp", "exp is no time")?.ok_or("it has no exp")?;
        if now_ms >= expires_at_ms {
            return Err("it has expired");
        }
        let leeway_ms = JWT_NOT_BEFORE_LEEWAY.as_millis() as i64;
        let not_before = instant_ms(claims, "nbf", "nbf is no time")?;
        if not_before.is_some_and(|nbf| now_ms.saturating_add(leeway_ms) < nbf) {
            return Err("it does not hold yet");
        }
        self.check_parties(claims)?;
        Ok(Verified {
            user: UserId(user),
            device: device.map(DeviceId),
            issued_at_s: instant_ms(claims, "iat", "iat is no time")?
                .map(|ms| ms.div_euclid(1_000)),
            expires_at_ms,
        })
    }

    /// Whether the token is from the issuer and for the audience that are configured.
    fn check_parties(&self, claims: &Claims) -> Result<(), Why> {
        let is = |value: &Value, expected: &String| value.as_str() == Some(expected);
        if let Some(issuer) = &self.issuer
            && !claims.get("iss").is_some_and(|iss| is(iss, issuer))
        {
            return Err("iss is another one");
        }
        if let Some(audience) = &self.audience {
            let addressed = claims.get("aud").is_some_and(|aud| match aud {
                Value::Array(several) => several.iter().any(|one| is(one, audience)),
                one => is(one, audience),
            });
            if !addressed {
                return Err("aud is another one");
            }
        }
        Ok(())
    }
}

/// An id as a number or as text in the one form it is written in: `7`, not `07`, `+7` or `7.0`.
fn positive(value: &Value) -> Option<i64> {
    let id = match value {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text
            .parse()
            .ok()
            .filter(|id: &i64| id.to_string() == *text)?,
        _ => return None,
    };
    (id > 0).then_some(id)
}

/// A claim in seconds since 1970, whole or not, as milliseconds; none where it is not there. What is
/// further away than [`JWT_EXPIRY_MAX_MS`] is as far.
fn instant_ms(claims: &Claims, name: &str, why: Why) -> Result<Option<i64>, Why> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let ms = match value {
        Value::Number(number) => match number.as_i64() {
            Some(seconds) => seconds.saturating_mul(1_000),
            // Beyond an i64 the cast ends at its bounds.
            None => (number.as_f64().ok_or(why)? * 1_000.0).floor() as i64,
        },
        _ => return Err(why),
    };
    Ok(Some(ms.min(JWT_EXPIRY_MAX_MS)))
}
