//! What happens around every HTTP request to a route with a handler of ours: it gets a request id and a
//! span, its answer gets the id as a header, and a panic becomes an answer that names it.

use std::{net::SocketAddr, panic::AssertUnwindSafe};

use axum::{
    Json, Router,
    extract::{ConnectInfo, MatchedPath, Request},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderValue, StatusCode};
use tracing::{Instrument as _, field::Empty};

use crate::{
    error::INTERNAL,
    telemetry::{REQUEST_ID, request_id, trace_context},
};

/// The id of a request, which its handler finds among the extensions.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The body of the answer to it when the server is at fault, which is logged under it.
    pub(super) fn internal_error(&self) -> serde_json::Value {
        let id = self.0.to_str().unwrap_or_default();
        let message = format!("internal error, logged under request id {id}");
        serde_json::json!({ "code": INTERNAL, "message": message })
    }
}

/// Gives each request to `routes` an id and a span. The span names the route, never the path: a path
/// may bear a key, and a query a token.
pub fn with_request_ids(routes: Router) -> Router {
    routes.route_layer(middleware::from_fn(answer))
}

async fn answer(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let text = id.to_str().unwrap_or_default();
    let route = request.extensions().get::<MatchedPath>();
    let span = tracing::error_span!(
        "http_request",
        request_id = text,
        method = request.method().as_str(),
        route = route.map(MatchedPath::as_str),
        client = Empty,
        user = Empty,
        device = Empty,
    );
    trace_context::accept(&span, request.headers(), trace_context::Caller::Device);
    if let Some(ConnectInfo(client)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        span.record("client", tracing::field::display(client.ip()));
    }
    let named = RequestId(id.clone());
    request.extensions_mut().insert(named.clone());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let answered = async {
        let response = answer.await.unwrap_or_else(|_panic| panicked(&named));
        trace_context::http_ended(response.status());
        response
    };
    let mut response = answered.instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The answer to a request whose handler panicked, which was logged when it did.
fn panicked(id: &RequestId) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, Json(id.internal_error())).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str) -> (StatusCode, Option<String>, String) {
        async fn panicking() -> &'static str {
            panic!("on purpose")
        }
        let routes = Router::new()
            .route("/panic", get(panicking))
            .route("/fine", get(|| async { "fine" }));
        let request = Request::builder().uri(path).header(REQUEST_ID, "order-17");
        let routes = with_request_ids(routes);
        let response = routes
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let id = response.headers().get(REQUEST_ID).cloned();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let id = id.map(|id| id.to_str().unwrap().to_owned());
        (status, id, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_answer_bears_its_request_id_also_after_a_panic() {
        let id = Some("order-17".to_owned());
        let fine = (StatusCode::OK, id.clone(), "fine".to_owned());
        assert_eq!(ask("/fine").await, fine);
        let (status, named, body) = ask("/panic").await;
        assert_eq!((status, named), (StatusCode::INTERNAL_SERVER_ERROR, id));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let message = "internal error, logged under request id order-17";
        assert_eq!(body, serde_json::json!({ "code": 13, "message": message }));
        assert_eq!(ask("/none").await.0, StatusCode::NOT_FOUND);
    }
}
