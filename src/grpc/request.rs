//! What happens around every gRPC call: it gets a request id and a span, its caller is found, and
//! its answer gets the id as metadata and its error the form of the contract.

use std::{
    convert::Infallible,
    future::{self, Future},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;
use tower::{Layer, Service, ServiceExt};
use tracing::{Instrument, Span, field::Empty};

use super::{
    caller::{self, Caller, Guard, Verdict},
    status,
};
use crate::{
    error::Error,
    limits::{GRPC_CALL_MAX, GRPC_SEND_MAX, REQUEST_ID_BYTES_MAX},
};

/// The calls that wait for a commit.
const SEND_MESSAGE: &str = "/pb.LogicExt/SendMessage";
const INT_SEND_MESSAGE: &str = "/pb.LogicInt/SendMessage";
const PUSH_TO_USERS: &str = "/pb.LogicInt/PushToUsers";
const REQUEST_ID: HeaderName = HeaderName::from_static("request_id");

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
        let span = tracing::info_span!(
            "request",
            request_id = id.to_str().unwrap_or_default(),
            method = request.uri().path(),
            client = Empty,
            user = Empty,
            device = Empty,
        );
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
                        Ok(_) => {
                            enter(&mut request, claim.into(), &Span::current());
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
    let mut response = match tokio::time::timeout(deadline, call).await {
        Ok(response) => response?,
        Err(_) => refusal(Error::try_again("this takes too long, try again later")),
    };
    if let Some(amended) = status::amend(&response, id.to_str().unwrap_or_default(), traces) {
        response = amended.into_http();
    }
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
}

fn refusal(error: impl Into<Status>) -> Response {
    error.into().into_http()
}

/// The caller's request id, if it is one, or a new one.
fn request_id(metadata: &HeaderMap) -> HeaderValue {
    metadata
        .get(REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.to_str().is_ok())
        .cloned()
        .unwrap_or_else(|| rand::random::<u64>().into())
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, REQUEST_ID, REQUEST_ID_BYTES_MAX, request_id};

    #[test]
    fn request_id_of_the_caller_is_kept_if_it_is_one() {
        let kept = |value: &[u8]| {
            let mut metadata = HeaderMap::new();
            metadata.insert(REQUEST_ID, value.try_into().unwrap());
            request_id(&metadata).as_bytes() == value
        };
        assert!(kept(b"order-17"));
        assert!(kept(&[b'x'; REQUEST_ID_BYTES_MAX]));
        assert!(!kept(&[b'x'; REQUEST_ID_BYTES_MAX + 1]));
        assert!(!kept(b""));
        assert!(!kept(b"caf\xc3\xa9"));
    }

    #[test]
    fn new_request_ids_differ() {
        let none = HeaderMap::new();
        assert_ne!(request_id(&none), request_id(&none));
    }
}
