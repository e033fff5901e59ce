//! Which web pages may use the public HTTP listener from a browser: those of `http.allowed_origins`.
//! Browsers ask about what a page fetches (CORS, in the Fetch standard) and keep the answer from
//! pages that may not have it; about WebSockets they do not ask, so those are refused here. Neither
//! keeps out anything but a browser: who may do what is decided by tokens.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN,
    },
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::limits::PREFLIGHT_CACHED_MAX;

/// What the config calls all pages.
const ANY: &str = "*";

const METHODS: [Method; 4] = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];

/// What a page may send besides what it always may.
const REQUEST_HEADERS: [&str; 14] = [
    "content-type",
    "x-grpc-web",
    "x-user-agent",
    "grpc-timeout",
    "user_id",
    "device_id",
    "token",
    "request_id",
    "authorization",
    "range",
    "if-none-match",
    "x-checksum-sha256",
    "traceparent",
    "tracestate",
];

/// What a page may read besides what it always may.
const RESPONSE_HEADERS: [&str; 9] = [
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "request_id",
    "etag",
    "content-range",
    "content-length",
    "accept-ranges",
    "content-disposition",
];

/// The origins whose pages are allowed.
#[derive(Clone, Debug)]
pub struct Origins(Arc<[String]>);

impl Origins {
    /// The origins of `http.allowed_origins`.
    #[must_use]
    pub fn new(allowed: &[String]) -> Self {
        Self(allowed.into())
    }

    /// Lets allowed pages use `router` and read what it answers. Without any, it stays as it is.
    pub fn share(&self, router: Router) -> Router {
        if self.0.is_empty() {
            return router;
        }
        let cors = CorsLayer::new()
            .allow_origin(self.allow_origin())
            .allow_methods(METHODS)
            .allow_headers(REQUEST_HEADERS.map(HeaderName::from_static))
            .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
            .max_age(PREFLIGHT_CACHED_MAX);
        router.layer(cors).layer(map_response(only_to_allowed))
    }

    /// Refuses requests for `router` that pages make which are not allowed; before any is, there
    /// are no such pages. Whoever names no origin is no page.
    pub fn guard(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), refuse_others))
    }

    fn allow_origin(&self) -> AllowOrigin {
        if self.are_any() {
            return AllowOrigin::any();
        }
        let origins = self.clone();
        AllowOrigin::predicate(move |origin, _| origins.contain(origin))
    }

    fn are_any(&self) -> bool {
        self.0.iter().any(|allowed| allowed == ANY)
    }

    fn contain(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|allowed| origin == allowed)
    }

    fn refuses(&self, headers: &HeaderMap) -> bool {
        let is_open = self.0.is_empty() || self.are_any();
        let is_other = |origin: &HeaderValue| !self.contain(origin);
        !is_open && headers.get_all(ORIGIN).iter().any(is_other)
    }
}

/// Takes from an answer what only a page that is allowed has a use for.
async fn only_to_allowed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.remove(ACCESS_CONTROL_ALLOW_HEADERS);
        headers.remove(ACCESS_CONTROL_ALLOW_METHODS);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        headers.remove(ACCESS_CONTROL_MAX_AGE);
    }
    response
}

async fn refuse_others(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    if origins.refuses(request.headers()) {
        let why = "the origin of this page is not among http.allowed_origins\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    next.run(request).await
}
