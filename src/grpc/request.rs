//! What happens around every gRPC call: it gets a request id and a span, its caller is found, and
//! its answer gets the id as metadata and its error the form of the contract.

use std::{
    convert::Infallible,
    future::{self, Future},
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request},
    response::Response,
};
use futures_util::FutureExt as _;
use http::HeaderValue;
use tonic::Status;
use tower::{Layer, Service, ServiceExt};
use tracing::{Instrument, Span, field::Empty};

use super::{
    caller::{self, Caller, Guard, Verdict},
    status,
};
use crate::{
    error::Error,
    limits::{GRPC_CALL_MAX, GRPC_SEND_MAX},
    telemetry::{REQUEST_ID, request_id, trace_context},
};

/// The calls that wait for a commit.
const SEND_MESSAGE: &str = "/pb.LogicExt/SendMessage";
const INT_SEND_MESSAGE: &str = "/pb.LogicInt/SendMessage";
const PUSH_TO_USERS: &str = "/pb.LogicInt/PushToUsers";

/// Wraps a listener's router in [`RequestService`].
#[derive(Clone, Debug)]
pub(super) struct RequestLayer {
    guard: Guard,
}

/// Lets requests pass to the services behind it, if its guard does.
#[derive(Clone, Debug)]
pub(super) struct RequestService<S> {
    services: S,
    guard: Guard,
}

impl RequestLayer {
    pub(super) const fn new(guard: Guard) -> Self {
        Self { guard }
    }
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, services: S) -> Self::Service {
        RequestService {
            services,
            guard: self.guard.clone(),
        }
    }
}

impl<S> Service<Request> for RequestService<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let id = request_id(request.headers());
        // An error's line must bear the id at every log level.
        let span = tracing::error_span!(
            "request",
            request_id = id.to_str().unwrap_or_default(),
            method = request.uri().path(),
            client = Empty,
            user = Empty,
            device = Empty,
        );
        trace_context::accept(&span, request.headers(), self.guard.caller());
        if let Some(ConnectInfo(client)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
            span.record("client", tracing::field::display(client.ip()));
        }
        let edge = Edge {
            id,
            traces: self.guard.shows_traces(),
            deadline: match request.uri().path() {
                SEND_MESSAGE | INT_SEND_MESSAGE | PUSH_TO_USERS => GRPC_SEND_MAX,
                _ => GRPC_CALL_MAX,
            },
        };
        // The common ways go straight to the service: one allocation, no lookup but the cache's.
        match self.guard.check(&request) {
            Verdict::Pass => {
                let call = self.services.call(request);
                Box::pin(answer(call, edge).instrument(span))
            }
            Verdict::PassAs(caller) => {
                enter(&mut request, caller, &span);
                let call = self.services.call(request);
                Box::pin(answer(call, edge).instrument(span))
            }
            Verdict::LookUp(authenticator, claim) => {
                let services = self.services.clone();
                let token = caller::token(request.headers())
                    .unwrap_or_default()
                    .to_owned();
                let call = async move {
                    match authenticator.look_up(&claim, &token).await {
                        Ok(credential) => {
                            let caller = Caller::new(&claim, &credential);
                            enter(&mut request, caller, &Span::current());
                            services.oneshot(request).await
                        }
                        Err(error) => Ok(refusal(error)),
                    }
                };
                Box::pin(answer(call, edge).instrument(span))
            }
            Verdict::Refuse => {
                let refused = future::ready(Ok(refusal(Error::sign_in_again())));
                Box::pin(answer(refused, edge).instrument(span))
            }
            Verdict::NoSuchRpc => {
                let refused = future::ready(Ok(refusal(Status::unimplemented("no such rpc"))));
                Box::pin(answer(refused, edge).instrument(span))
            }
        }
    }
}

/// Makes `caller` known to the request's handler and in its span.
fn enter(request: &mut Request, caller: Caller, span: &Span) {
    span.record("user", caller.user.get());
    span.record("device", caller.device.get());
    request.extensions_mut().insert(caller);
}

/// What a call's answer needs to know of the call.
struct Edge {
    id: HeaderValue,
    traces: bool,
    deadline: Duration,
}

async fn answer(
    call: impl Future<Output = Result<Response, Infallible>>,
    edge: Edge,
) -> Result<Response, Infallible> {
    let Edge {
        id,
        traces,
        deadline,
    } = edge;
    let request_id = id.to_str().unwrap_or_default();
    let call = AssertUnwindSafe(call).catch_unwind();
    let mut response = match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => in_form(response?, request_id, traces),
        Ok(Err(_panic)) => refusal(status::panicked(request_id)),
        Err(_) => refusal(Error::try_again("this takes too long, try again later")),
    };
    let ended = response.extensions().get::<Status>().map(Status::code);
    trace_context::grpc_ended(ended.unwrap_or(tonic::Code::Ok));
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
}

/// The answer in the contract's form.
fn in_form(response: Response, request_id: &str, with_trace: bool) -> Response {
    match status::amend(&response, request_id, with_trace) {
        Some(amended) => amended.into_http(),
        None => response,
    }
}

pub(super) fn refusal(error: impl Into<Status>) -> Response {
    error.into().into_http()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    /// The answer to a call whose handler runs `handle`.
    async fn call<F>(handle: fn() -> F) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let services = tower::service_fn(move |_: Request| async move {
            handle().await;
            Ok(Response::new(Body::empty()))
        });
        let service = RequestLayer::new(Guard::business("")).layer(services);
        let request = Request::builder().uri("/pb.LogicInt/PushToAll");
        let request = request.header(REQUEST_ID, "order-17");
        let answer = service.oneshot(request.body(Body::empty()).unwrap()).await;
        answer.unwrap_or_else(|never| match never {})
    }

    #[tokio::test]
    async fn handler_that_panics_is_answered_as_an_internal_error() {
        let answer = call(|| async { panic!("on purpose") }).await;
        let status = answer.extensions().get::<Status>().unwrap();
        assert_eq!(status.code(), tonic::Code::Internal);
        assert_eq!(
            status.message(),
            "internal error, logged under request id order-17"
        );
        assert!(status.details().is_empty());
        assert_eq!(answer.headers()[REQUEST_ID], "order-17");
        assert_eq!(answer.headers()["grpc-status"], "13");

        let answer = call(|| async {}).await;
        assert!(answer.extensions().get::<Status>().is_none());
        assert_eq!(answer.headers()[REQUEST_ID], "order-17");
    }
}
