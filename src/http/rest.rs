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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::Future as _, pin::pin, task::Waker};

    use axum::{Router, http::StatusCode, middleware::from_fn, routing::post};
    use tokio::sync::mpsc;
    use tower::ServiceExt as _;

    use super::*;

    /// A request whose body comes in pieces, and the way to send them.
    fn request(version: Version) -> (mpsc::Sender<Bytes>, Request) {
        let (pieces, mut sent) = mpsc::channel::<Bytes>(1);
        let body = futures_util::stream::poll_fn(move |cx| {
            sent.poll_recv(cx)
                .map(|piece| piece.map(Ok::<_, Infallible>))
        });
        let request = Request::post("/").version(version);
        let request = request.body(Body::from_stream(body)).unwrap();
        (pieces, request)
    }

    /// Refuses what is posted without reading it.
    fn refusing() -> Router {
        let refuse = post(|| async { StatusCode::UNAUTHORIZED });
        Router::new().route("/", refuse).layer(from_fn(read_rest))
    }

    #[tokio::test]
    async fn a_refusal_waits_until_the_request_has_come() {
        let (pieces, request) = request(Version::HTTP_11);
        let mut answer = pin!(refusing().oneshot(request));
        for _ in 0..3 {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(answer.as_mut().poll(&mut cx).is_pending());
            pieces.try_send(Bytes::from_static(b"more")).unwrap();
        }
        drop(pieces);
        assert_eq!(answer.await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_does_not_wait_for_who_is_slow_or_has_no_end() {
        let (pieces, slow) = request(Version::HTTP_11);
        let answer = refusing().oneshot(slow).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(pieces.is_closed());

        let (pieces, endless) = request(Version::HTTP_11);
        let write = async {
            let piece = Bytes::from(vec![0; 64 * 1024]);
            while pieces.send(piece.clone()).await.is_ok() {}
        };
        let begun = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(refusing().oneshot(endless), write);
        assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
        assert!(begun.elapsed().is_zero(), "the bytes were too many first");
    }

    #[tokio::test]
    async fn http2_needs_no_reading() {
        let (_pieces, request) = request(Version::HTTP_2);
        let answer = refusing().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn a_request_that_is_read_is_read_as_it_came() {
        let echo = post(|body: String| async { body });
        let echo = Router::new().route("/", echo).layer(from_fn(read_rest));
        let request = Request::post("/").body(Body::from("hello")).unwrap();
        let answer = echo.oneshot(request).await.unwrap().into_body();
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "hello");
    }
}
