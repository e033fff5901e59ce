//! gRPC-Web, which browsers speak because a page's script sees no HTTP trailers: the services of the
//! external listener once more, behind the same guard, for the public HTTP listener.

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post_service,
};
use http::{
    HeaderValue, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE},
};
use tonic_web::GrpcWebLayer;
use tower::Layer as _;

use super::{Services, request::refusal};
use crate::{
    error::Error,
    lifecycle::Tasks,
    telemetry::{REQUEST_ID, request_id},
};

/// What a call is: protobuf, in bytes or in base64.
const CONTENT_TYPES: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

impl Services {
    /// These services for gRPC-Web alone, each at its path; without health and reflection.
    ///
    /// The HTTP listener outlives the stop of `edge`, with which the gRPC listener ends. From then on
    /// calls are refused, and `edge` is not finished before those under way are.
    pub fn web(&self, edge: &Tasks) -> Router {
        let until_stopped = from_fn_with_state(edge.clone(), until_stopped);
        let calls = GrpcWebLayer::new().layer(self.router.clone().layer(until_stopped));
        let calls = post_service(calls).route_layer(from_fn(only_grpc_web));
        let names = self.health.services.iter().filter(|name| !name.is_empty());
        names.fold(Router::new(), |router, name| {
            router.route(&format!("/{name}/{{rpc}}"), calls.clone())
        })
    }
}

/// Keeps out what is no gRPC-Web, whatever the version of HTTP: every page may post plain text to
/// every server without asking first, and native gRPC has its own listener.
async fn only_grpc_web(request: Request, next: Next) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|given| CONTENT_TYPES.iter().any(|known| given == known)) {
        next.run(request).await
    } else {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "gRPC-Web only\n").into_response()
    }
}

async fn until_stopped(State(edge): State<Tasks>, request: Request, next: Next) -> Response {
    let call = async {
        // Asked when the drain waits for this call already, so that none slips in behind it.
        if edge.stop().is_cancelled() {
            refuse(&request)
        } else {
            next.run(request).await
        }
    };
    edge.track(call).await
}

/// Another instance may take the call, which a connection that is kept would not reach.
fn refuse(request: &Request) -> Response {
    let message = "this instance is shutting down, try again";
    let mut response = refusal(Error::try_again(message));
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id(request.headers()));
    if request.version() < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
