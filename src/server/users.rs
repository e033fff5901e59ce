//! Where accounts are kept: in the database, at a business server, or elsewhere.

use std::{sync::Arc, time::Duration};

use crate::{
    auth::{Issuer, jwt::Verifier},
    business::Business,
    config::{self, Config, UserProvider, seconds},
    delivery::router::Router,
    error::{Error, Result},
    lifecycle::Tasks,
    store::Store,
    telemetry::Metrics,
    user::Directory,
};

/// The business server that has the accounts, where one has.
pub(super) fn business(
    users: &config::Users,
    metrics: &Arc<Metrics>,
    core: &Tasks,
) -> Result<Option<Arc<Business>>> {
    if users.provider == UserProvider::Builtin || users.endpoint.is_empty() {
        return Ok(None);
    }
    Business::new(&users.endpoint, Arc::clone(metrics), core.clone()).map(Some)
}

/// Who issues tokens.
pub(super) async fn issuer(
    config: &Config,
    business: Option<&Arc<Business>>,
    tasks: &Tasks,
) -> Result<Issuer> {
    Ok(match (config.users.provider, business) {
        (UserProvider::Builtin, _) => Issuer::Own,
        (UserProvider::Remote, Some(business)) => Issuer::Business(Arc::clone(business)),
        (UserProvider::Remote, None) => return Err(Error::internal("users.endpoint: not set")),
        (UserProvider::Jwt, _) => Issuer::Signed(Verifier::open(&config.jwt, tasks).await?),
    })
}

/// How long a token that was checked counts, where what is in the database counts for `cache_ttl`.
pub(super) fn auth_cache_ttl(config: &Config, issuer: &Issuer, cache_ttl: Duration) -> Duration {
    let of_the_business = seconds(config.users.auth_cache_s);
    match issuer {
        Issuer::Business(_) if config.redis.url.is_empty() => of_the_business,
        // What other instances tell may be lost, and is made up for within the interval.
        Issuer::Business(_) => of_the_business.min(seconds(config.delivery.reconcile_interval_s)),
        Issuer::Own | Issuer::Signed(_) => cache_ttl,
    }
}

/// Who knows the users.
pub(super) fn directory(
    users: &config::Users,
    business: Option<Arc<Business>>,
    store: &Store,
    router: &Arc<Router>,
    cache_ttl: Duration,
) -> Directory {
    let router = Arc::clone(router);
    match users.provider {
        UserProvider::Builtin => Directory::new(store.clone(), router, cache_ttl),
        UserProvider::Remote | UserProvider::Jwt => {
            Directory::elsewhere(business, router, seconds(users.profile_cache_s))
        }
    }
}
