//! Long connections over WebSocket: the handshake (RFC 6455 §4.2), then the byte pipe goes to the
//! driver like any other. A credential in the URL is checked, and the device signed in, before the
//! upgrade, so that a push sent right after it is not missed.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Query, Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::BytesMut;
use http::StatusCode;
use hyper::upgrade::Upgraded;
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use tokio::net::TcpStream;
use tracing::Span;
use tungstenite::handshake::server::create_response_with_body;

use super::{
    Gateway,
    connection::Connection,
    frame::{Fragments, Framing},
    link::Link,
};
use crate::{
    error::{Code, Error, Result},
    id::{DeviceId, UserId},
};

/// The route `/ws`.
pub fn routes(gateway: Arc<Gateway>) -> Router {
    Router::new().route("/ws", get(upgrade)).with_state(gateway)
}

async fn upgrade(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    Query(query): Query<HashMap<String, String>>,
    mut request: Request,
) -> Response {
    let Ok(response) = create_response_with_body(&request, Body::empty) else {
        return (StatusCode::BAD_REQUEST, "not a WebSocket handshake\n").into_response();
    };
    let client = client.ip().to_canonical();
    let link = match sign_in(&gateway, &query).await {
        Ok(link) => link,
        Err(error) => return refuse(&error),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = gateway.tasks.clone();
    tasks.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(gateway, upgraded, client, link).await,
            Err(error) => tracing::debug!(%error, "a WebSocket handshake was cut off"),
        }
    });
    response
}

/// Signs in with the credential in the URL; `None` when there is none.
async fn sign_in(gateway: &Gateway, query: &HashMap<String, String>) -> Result<Option<Box<Link>>> {
    let get = |key| query.get(key).map(String::as_str);
    let (user, device, token) = (get("user_id"), get("device_id"), get("token"));
    if user.is_none() && device.is_none() && token.is_none() {
        return Ok(None);
    }
    let id = |text: Option<&str>| -> Result<i64> {
        let id = text.and_then(|text| text.parse().ok());
        id.ok_or_else(Error::sign_in_again)
    };
    let (user, device) = (UserId(id(user)?), DeviceId(id(device)?));
    let span = Span::current();
    span.record("user", user.get());
    span.record("device", device.get());
    let token = token.unwrap_or_default();
    Link::sign_in(gateway, user, device, token).await.map(Some)
}

fn refuse(error: &Error) -> Response {
    let status = match error.code() {
        Some(Code::TryAgain) => StatusCode::SERVICE_UNAVAILABLE,
        Some(Code::TooManyRequests) => StatusCode::TOO_MANY_REQUESTS,
        Some(_) => StatusCode::UNAUTHORIZED,
        None => {
            tracing::error!(%error, trace = ?error.trace(), "a sign-in failed");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    (status, format!("{}\n", error.public_message())).into_response()
}

async fn serve(gateway: Arc<Gateway>, upgraded: Upgraded, client: IpAddr, link: Option<Box<Link>>) {
    let Ok(parts) = downcast::<TokioIo<TcpStream>>(upgraded) else {
        tracing::error!("an upgraded connection is not a plain TCP stream");
        return;
    };
    let framing = Framing::WebSocket(Fragments::default());
    let stream = parts.io.into_inner();
    let received = BytesMut::from(parts.read_buf);
    Connection::new(gateway, stream, client, framing, received, link)
        .run()
        .await;
}
