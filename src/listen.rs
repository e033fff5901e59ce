//! The server's sockets: binding all of them, with errors that name key and address, and accepting
//! from one until the server stops. What is spoken on a connection is not known here.
//!
//! Invariant: an address is never shared with another process (no SO_REUSEPORT), so a second
//! server on the same address is refused instead of taking half of the connections.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Instant,
};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{
    config,
    error::{Error, Result, ResultExt},
    lifecycle::Tasks,
    limits::{ACCEPT_BACK_OFF, ACCEPT_LOG_INTERVAL, LISTEN_BACKLOG},
};

/// A bound socket and the name of its key.
#[derive(Debug)]
pub struct Listener {
    key: &'static str,
    socket: TcpListener,
    address: SocketAddr,
}

/// All listeners of the server, bound.
#[derive(Debug)]
pub struct Listeners {
    /// Long connections over TCP.
    pub tcp: Listener,
    /// WebSocket, files and health.
    pub http: Listener,
    /// The services clients call.
    pub grpc: Listener,
    /// The services other servers call.
    pub internal: Listener,
    /// Prometheus metrics.
    pub metrics: Listener,
}

/// Where the server listens; ports that were 0 in the configuration are the real ones.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Long connections over TCP.
    pub tcp: SocketAddr,
    /// WebSocket, files and health.
    pub http: SocketAddr,
    /// The services clients call.
    pub grpc: SocketAddr,
    /// The services other servers call.
    pub internal: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
}

impl Listeners {
    /// Binds every listener of the configuration.
    ///
    /// # Errors
    /// An internal error that names the key and the address.
    pub fn bind(config: &config::Listen) -> Result<Self> {
        Ok(Self {
            tcp: Listener::bind("listen.tcp", config.tcp)?,
            http: Listener::bind("listen.http", config.http)?,
            grpc: Listener::bind("listen.grpc", config.grpc)?,
            internal: Listener::bind("listen.internal", config.internal)?,
            metrics: Listener::bind("listen.metrics", config.metrics)?,
        })
    }

    /// Where the listeners are.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        Addresses {
            tcp: self.tcp.address,
            http: self.http.address,
            grpc: self.grpc.address,
            internal: self.internal.address,
            metrics: self.metrics.address,
        }
    }
}

impl Listener {
    /// Binds `address`, which the configuration gives under `key`. Must be called in a runtime.
    ///
    /// # Errors
    /// An internal error that names the key and the address.
    pub fn bind(key: &'static str, address: SocketAddr) -> Result<Self> {
        let socket = listen(address).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AddrInUse => "is in use".to_owned(),
                ErrorKind::AddrNotAvailable => "is not an address of this machine".to_owned(),
                ErrorKind::PermissionDenied => "needs more rights".to_owned(),
                _ => format!("cannot be listened on: {error}"),
            };
            Error::internal(format!("{key}: {address} {why}"))
        })?;
        let address = socket.local_addr().internal("ask for a bound address")?;
        Ok(Self {
            key,
            socket,
            address,
        })
    }

    /// Where the listener is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives every connection to `handle`, which must not wait, until the server stops; then the
    /// socket is closed at once. Failing accepts are logged and survived.
    pub async fn accept(self, tasks: &Tasks, mut handle: impl FnMut(TcpStream, SocketAddr)) {
        let mut failures = Failures::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = tasks.stop().cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Fails only where the peer has gone already, which reading will show.
                    let _ = stream.set_nodelay(true);
                    handle(stream, peer);
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    failures.report(self.key, &error);
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Lets a restart bind while connections of the former process linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// True where one connection failed before it was accepted; the next one may be fine.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

/// Failing accepts since the last log line about them.
#[derive(Default)]
struct Failures {
    unreported: u64,
    reported_at: Option<Instant>,
}

impl Failures {
    fn report(&mut self, key: &'static str, error: &io::Error) {
        self.unreported += 1;
        if self
            .reported_at
            .is_some_and(|at| at.elapsed() < ACCEPT_LOG_INTERVAL)
        {
            return;
        }
        tracing::warn!(listener = key, failures = self.unreported, %error, "cannot accept connections");
        self.unreported = 0;
        self.reported_at = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_named_with_its_key() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = Listener::bind("listen.tcp", any).expect("a free port");
        let error = Listener::bind("listen.http", first.address()).expect_err("taken");
        assert_eq!(
            error.to_string(),
            format!("listen.http: {} is in use", first.address())
        );
        let foreign = "192.0.2.1:0".parse().expect("an address");
        let error = Listener::bind("listen.tcp", foreign).expect_err("not ours");
        assert_eq!(
            error.to_string(),
            "listen.tcp: 192.0.2.1:0 is not an address of this machine"
        );
    }

    #[tokio::test]
    async fn connections_are_accepted_until_the_stop_and_refused_after() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind("listen.tcp", any).expect("a free port");
        let address = listener.address();
        let tasks = Tasks::default();
        let (accepted, mut seen) = tokio::sync::mpsc::channel(1);
        let loop_tasks = tasks.clone();
        let accepting = tasks.spawn(async move {
            listener
                .accept(&loop_tasks, |stream, _| {
                    assert!(stream.nodelay().expect("an option"));
                    accepted.try_send(()).expect("room for one");
                })
                .await;
        });
        TcpStream::connect(address).await.expect("connected");
        seen.recv().await.expect("accepted");
        tasks.stop().cancel();
        accepting.await.expect("no panic");
        TcpStream::connect(address).await.expect_err("refused");
    }
}
