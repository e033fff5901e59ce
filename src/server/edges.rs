//! What is served on which listener.

use std::sync::Arc;

use axum::{Router, middleware::from_fn};

use super::{
    drain::Groups,
    services::{Base, Services},
};
use crate::{
    config::{self, Networks},
    error::Result,
    gateway::{self, Gateway, websocket},
    grpc, http,
    listen::Listeners,
};

/// Serves everything on all listeners. Gives what says how the gRPC services are.
pub(super) async fn open(
    base: &Base,
    services: &Services,
    listeners: Listeners,
    groups: &Groups,
) -> Result<[grpc::Health; 2]> {
    let external = grpc::external(grpc::External {
        authenticator: Arc::clone(&services.memory.authenticator),
        accounts: services
            .memory
            .directory
            .is_built_in()
            .then(|| Arc::clone(&services.accounts)),
        devices: services.devices.clone(),
        messages: Arc::clone(&services.messages),
        friends: Arc::clone(&services.friends),
        groups: Arc::clone(&services.groups),
    });
    let external = external.await?;
    let internal = grpc::internal(grpc::Internal {
        authenticator: Arc::clone(&services.memory.authenticator),
        accounts: Arc::clone(&services.accounts),
        devices: services.devices.clone(),
        directory: Arc::clone(&services.memory.directory),
        presence: Arc::clone(&services.presence),
        messages: Arc::clone(&services.messages),
        token: base.config.internal.token.clone(),
    });
    let internal = internal.await?;
    let routes = Routes {
        public: public(base, services, external.web(&groups.edge), groups),
        external: external.router,
        internal: internal.router,
        metrics: http::metrics_routes(Arc::clone(&base.metrics)),
    };
    let gateway = Arc::clone(&services.gateway);
    serve(&base.config.listen, listeners, gateway, routes, groups);
    Ok([external.health, internal.health])
}

/// What everybody may ask for over HTTP: probes, WebSocket, gRPC-Web (`web`) and files.
fn public(base: &Base, services: &Services, web: Router, groups: &Groups) -> Router {
    let origins = http::Origins::new(&base.config.http.allowed_origins);
    let websocket = origins.guard(websocket::routes(Arc::clone(&services.gateway)));
    let files = http::files::routes(http::files::Options {
        files: Arc::clone(&services.files),
        authenticator: Arc::clone(&services.memory.authenticator),
        metrics: Arc::clone(&base.metrics),
    });
    let health = http::health_routes(
        base.store.clone(),
        groups.edge.stop().clone(),
        groups.probes.clone(),
    );
    let routes = health
        .merge(http::with_request_ids(websocket))
        .merge(web)
        .layer(from_fn(http::read_rest))
        .merge(http::with_request_ids(files));
    origins.share(routes)
}

/// What is served where.
struct Routes {
    external: Router,
    internal: Router,
    public: Router,
    metrics: Router,
}

fn serve(
    config: &config::Listen,
    listeners: Listeners,
    gateway: Arc<Gateway>,
    routes: Routes,
    groups: &Groups,
) {
    let Groups { edge, probes, .. } = groups;
    let (balancers, proxies) = (&config.proxy_protocol_from, &config.forwarded_from);
    edge.spawn_critical(
        "tcp",
        gateway::tcp::accept(listeners.tcp, gateway, balancers.clone()),
    );
    edge.spawn_critical(
        "grpc",
        http::serve(
            listeners.grpc,
            routes.external,
            proxies.clone(),
            edge.clone(),
        ),
    );
    // Servers of one's own come here without a proxy, and Prometheus does.
    let nobody = Networks::default;
    edge.spawn_critical(
        "internal",
        http::serve(listeners.internal, routes.internal, nobody(), edge.clone()),
    );
    probes.spawn_critical(
        "http",
        http::serve(
            listeners.http,
            routes.public,
            proxies.clone(),
            probes.clone(),
        ),
    );
    probes.spawn_critical(
        "metrics",
        http::serve(listeners.metrics, routes.metrics, nobody(), probes.clone()),
    );
}
