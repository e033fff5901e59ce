//! Speaks HTTP/1.1 and HTTP/2 on the connections of a listener. Every HTTP and gRPC listener uses
//! this one loop, so that deadlines, keep-alive, peer addresses and the drain are the same on all.

use std::{
    convert::Infallible,
    future::{self, Future},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use hyper::{Request, body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::net::TcpStream;
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    config::Networks,
    http::stall::StallGuard,
    lifecycle::Tasks,
    limits::{
        HTTP_BUFFER_BYTES_MAX, HTTP_DRAIN_MAX, HTTP_FIRST_REQUEST_MAX, HTTP_HEAD_MAX,
        HTTP_WRITE_STALL_MAX, HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_HEADER_BYTES_MAX,
        HTTP2_PING_INTERVAL, HTTP2_PING_TIMEOUT, HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAMS_MAX,
    },
    listen::Listener,
    proxy::forwarded::Proxies,
};

/// Serves `router` on `listener` until the server stops; requests under way are then finished.
///
/// A handler finds the client's address in `ConnectInfo<SocketAddr>` and, on gRPC, in
/// `tonic::Request::remote_addr`: the peer's, or what one of `proxies` says it is. An upgraded connection downcasts to `TokioIo<TcpStream>`; it is
/// no longer tracked here.
pub async fn serve(listener: Listener, router: Router, proxies: Networks, tasks: Tasks) {
    serve_within(HTTP_WRITE_STALL_MAX, listener, router, proxies, tasks).await;
}

async fn serve_within(
    stall_max: Duration,
    listener: Listener,
    router: Router,
    proxies: Networks,
    tasks: Tasks,
) {
    let proxies = Arc::new(Proxies::new(proxies));
    let router = router.layer(CatchPanicLayer::new());
    let builder = Arc::new(builder(&tasks));
    let local = listener.address();
    let connections = tasks.clone();
    listener
        .accept(&tasks, move |stream, peer| {
            let connection = Connection {
                builder: Arc::clone(&builder),
                router: router.clone(),
                proxies: Arc::clone(&proxies),
                tasks: connections.clone(),
                stall_max,
                local,
                peer,
            };
            connections.spawn(connection.run(stream));
        })
        .await;
}

fn builder(tasks: &Tasks) -> Builder<TrackedExecutor> {
    let mut builder = Builder::new(TrackedExecutor(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEAD_MAX)
        .max_buf_size(HTTP_BUFFER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES);
    builder
}

/// Runs what hyper spawns (the streams of HTTP/2) as tracked tasks.
#[derive(Clone)]
struct TrackedExecutor(Tasks);

impl<F> Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

struct Connection {
    builder: Arc<Builder<TrackedExecutor>>,
    router: Router,
    proxies: Arc<Proxies>,
    tasks: Tasks,
    stall_max: Duration,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let guard = match StallGuard::new(&stream, self.stall_max) {
            Ok(guard) => guard,
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "an HTTP connection was not served");
                return;
            }
        };
        let asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            self.answer(request)
        });
        let mut connection = pin!(
            self.builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
        );
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.tasks.stop().cancelled() => {
                connection.as_mut().graceful_shutdown();
                // A stream that its client keeps open for ever must not hold the drain up.
                match tokio::time::timeout(HTTP_DRAIN_MAX, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
            () = silent_too_long(&asked) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        drop(guard);
        if let Err(error) = result {
            // A client that went away or spoke nonsense is no fault of the server.
            tracing::debug!(peer = %self.peer, %error, "an HTTP connection ended early");
        }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + 'static {
        let mut request = request.map(Body::new);
        let client = self.proxies.client(self.peer, request.headers());
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(client));
        extensions.insert(TcpConnectInfo {
            local_addr: Some(self.local),
            remote_addr: Some(client),
        });
        self.router.clone().oneshot(request)
    }
}

/// Completes when no request has come for too long. Hyper's own deadline begins with the first
/// bytes only.
async fn silent_too_long(asked: &AtomicBool) {
    tokio::time::sleep(HTTP_FIRST_REQUEST_MAX).await;
    if asked.load(Ordering::Relaxed) {
        future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use axum::routing::get;
    use hyper_util::server::conn::auto::upgrade::downcast;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
        time::timeout,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn start(router: Router) -> (SocketAddr, Tasks) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind("listen.http", any).expect("a free port");
        let (address, tasks) = (listener.address(), Tasks::default());
        tasks.spawn(serve(listener, router, Networks::default(), tasks.clone()));
        (address, tasks)
    }

    async fn send(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: im\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream
    }

    /// Reads an answer up to the connection's end.
    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(SOON, read).await.expect("in time").expect("text");
        answer
    }

    #[tokio::test]
    async fn a_request_under_way_is_finished_in_a_drain_and_idle_connections_are_closed() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, left) = (Arc::clone(&entered), Arc::clone(&leave));
        let slow = get(
            move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
                enter.notify_one();
                left.notified().await;
                peer.to_string()
            },
        );
        let (address, tasks) = start(Router::new().route("/slow", slow));
        let idle = TcpStream::connect(address).await.expect("connected");
        let busy = send(address, "/slow").await;
        let peer = busy.local_addr().expect("an address").to_string();
        entered.notified().await;

        tasks.stop().cancel();
        assert_eq!(answer(idle).await, "");
        TcpStream::connect(address).await.expect_err("refused");
        leave.notify_one();
        let text = answer(busy).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with(&peer), "{text}");
        timeout(SOON, tasks.finished()).await.expect("all ended");
    }

    #[tokio::test]
    async fn a_panicking_handler_answers_500_and_the_others_live_on() {
        async fn panicking() -> &'static str {
            panic!("on purpose")
        }
        let routes = Router::new()
            .route("/panic", get(panicking))
            .route("/fine", get(|| async { "fine" }));
        let (address, tasks) = start(routes);
        for (path, status) in [("/panic", "HTTP/1.1 500 "), ("/fine", "HTTP/1.1 200 ")] {
            let mut stream = send(address, path).await;
            let mut head = [0; 13];
            let read = stream.read_exact(&mut head);
            timeout(SOON, read).await.expect("in time").expect("bytes");
            assert_eq!(String::from_utf8_lossy(&head), status);
        }
        tasks.stop().cancel();
        timeout(SOON, tasks.finished()).await.expect("all ended");
    }

    #[tokio::test]
    async fn an_upgraded_connection_gives_its_socket_and_what_was_read_ahead() {
        let (upgraded, mut pieces) = tokio::sync::mpsc::channel(1);
        let upgrades = Tasks::default();
        let upgrade = get(move |request: axum::extract::Request| async move {
            upgrades.spawn(async move {
                let connection = hyper::upgrade::on(request).await.expect("upgraded");
                let pieces = downcast::<TokioIo<TcpStream>>(connection).expect("a socket");
                upgraded.send(pieces).await.expect("wanted");
            });
            let headers = [("connection", "upgrade"), ("upgrade", "test")];
            (hyper::StatusCode::SWITCHING_PROTOCOLS, headers)
        });
        let (address, tasks) = start(Router::new().route("/upgrade", upgrade));
        let mut client = TcpStream::connect(address).await.expect("connected");
        let request = "GET /upgrade HTTP/1.1\r\nHost: im\r\nConnection: upgrade\r\n\
                       Upgrade: test\r\n\r\nearly";
        client.write_all(request.as_bytes()).await.expect("sent");
        let pieces = timeout(SOON, pieces.recv()).await.expect("in time");
        let pieces = pieces.expect("upgraded");
        assert_eq!(pieces.read_buf, "early");

        // A drain waits for requests only; whoever upgraded looks after the socket.
        tasks.stop().cancel();
        timeout(SOON, tasks.finished()).await.expect("all ended");
        let mut socket = pieces.io.into_inner();
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket2::SockRef::from(&socket).tcp_user_timeout().unwrap(),
            None
        );
        socket.write_all(b"late").await.expect("still open");
        drop(socket);
        assert!(answer(client).await.ends_with("late"));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_whose_client_takes_nothing_is_ended() {
        let ended = CancellationToken::new();
        let gone = ended.clone();
        let endless = get(move || async move {
            let held = gone.drop_guard();
            let pieces = futures_util::stream::repeat_with(move || {
                let _held = &held;
                Ok::<_, Infallible>([7; 16 * 1024].to_vec())
            });
            Body::from_stream(pieces)
        });
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind("listen.http", any).expect("a free port");
        let (address, tasks) = (listener.address(), Tasks::default());
        let router = Router::new().route("/endless", endless);
        tasks.spawn(serve_within(
            Duration::from_millis(500),
            listener,
            router,
            Networks::default(),
            tasks.clone(),
        ));
        let client = send(address, "/endless").await;
        let ended = timeout(Duration::from_secs(60), ended.cancelled()).await;
        ended.expect("what the answer came from is let go");
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_asks_is_closed() {
        let (address, _tasks) = start(Router::new());
        for first_bytes in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\n"] {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream
                .write_all(first_bytes.as_bytes())
                .await
                .expect("sent");
            // Paused time runs ahead while nothing happens: to a deadline of the server's, as the test
            // has none.
            let begun = tokio::time::Instant::now();
            let mut rest = Vec::new();
            // A connection that is reset has ended too.
            let _ = stream.read_to_end(&mut rest).await;
            let open = begun.elapsed();
            assert!(
                open <= 2 * HTTP_FIRST_REQUEST_MAX,
                "{first_bytes:?}: {open:?}"
            );
        }
    }
}
