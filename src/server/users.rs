//! Where accounts are kept: in the database, at a business server, or elsewhere.

use std::{sync::Arc, time::Duration};

use crate::{
    business::Business,
    config::{self, UserProvider, seconds},
    delivery::router::Router,
    error::Result,
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
