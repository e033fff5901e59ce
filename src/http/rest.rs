//! What a service does not read of a request. Over HTTP/1.1 hyper answers, and closes the connection
//! while the client still writes; the kernel then resets it, and the client may lose the answer, which
//! most often says why the request was refused. So the rest is read first, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::limits::{REQUEST_REST_BYTES_MAX, REQUEST_REST_MAX};

/// Passes a request on, and keeps the answer back until the request has come in full, or too much or
/// too slowly.
pub async fn read_rest(request: Request, next: Next) -> Response {
    if request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (dropped, mut rest) = oneshot::channel();
    let request = request.map(|body| {
        Body::new(Lent {
            body,
            dropped: Some(dropped),
        })
    });
    let response = next.run(request).await;
    // Whoever still has it goes on reading.
    if let Ok(rest) = rest.try_recv() {
        let _too_slow = tokio::time::timeout(REQUEST_REST_MAX, discard(rest)).await;
    }
    response
}

async fn discard(mut rest: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > REQUEST_REST_BYTES_MAX {
            return;
        }
    }
}

/// A body that comes back when its reader has done with it.
struct Lent {
    body: Body,
    dropped: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(dropped) = self.dropped.take() {
            // Nobody waits for it where the call itself was dropped.
            let _gone = dropped.send(std::mem::take(&mut self.body));
        }
    }
}
