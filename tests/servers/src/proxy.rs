//! A relay between a server and what it depends on, through which a test makes the network fail. It
//! runs on a thread of its own, so that a busy test does not slow what passes. Each change is in force
//! when its call returns; there is nothing to wait for.

use std::{net::SocketAddr, thread, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use crate::process::{PATIENCE, free_address, until};

/// Before a port is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// Chunks that wait for their time in one direction of a connection.
const WAITING_MAX: usize = 4_096;
const CHUNK_BYTES: usize = 16 * 1_024;

/// What happens to bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They pass.
    Pass,
    /// They pass this much later.
    Delay(Duration),
    /// They are taken and lost: to the sender the connection looks alive.
    Swallow,
}

/// A relay; it ends at drop, and so do its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
struct Command {
    link: Link,
    done: oneshot::Sender<()>,
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// New ones are refused, and there are none.
    Cut,
    /// They are carried.
    Up { to_server: Way, to_client: Way },
}

/// What happens to the bytes in each direction, and whether they ever were swallowed.
#[derive(Clone, Copy, Debug)]
struct Ways {
    to_server: Way,
    to_client: Way,
}

impl Proxy {
    /// A relay to `target`, at an address of its own, through which everything passes.
    pub async fn to(target: SocketAddr) -> Self {
        let (commands, received) = mpsc::channel(1);
        let (bound, address) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = until("a port", PATIENCE, PAUSE, async || {
                    TcpListener::bind(free_address()).await.ok()
                })
                .await;
                let address = listener.local_addr().expect("it is bound");
                if bound.send(address).is_ok() {
                    Relay::new(target, address, listener).run(received).await;
                }
            });
        });
        Self {
            address: address.await.expect("it is bound"),
            commands,
        }
    }

    /// Where to connect instead.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection and refuses new ones.
    pub async fn cut(&self) {
        self.set(Link::Cut).await;
    }

    /// Half-open: connections stay and are accepted, and nothing passes in either direction.
    pub async fn swallow(&self) {
        self.ways(Way::Swallow, Way::Swallow).await;
    }

    /// Everything passes, this much later in each direction.
    pub async fn delay(&self, by: Duration) {
        self.ways(Way::Delay(by), Way::Delay(by)).await;
    }

    /// Says what happens to the bytes in each direction.
    pub async fn ways(&self, to_server: Way, to_client: Way) {
        let link = Link::Up {
            to_server,
            to_client,
        };
        self.set(link).await;
    }

    /// Everything passes again. Connections that have lost bytes end, as they would when a peer
    /// gives them up.
    pub async fn resume(&self) {
        self.ways(Way::Pass, Way::Pass).await;
    }

    async fn set(&self, link: Link) {
        let (done, is_done) = oneshot::channel();
        let sent = self.commands.send(Command { link, done }).await;
        sent.expect("the relay runs");
        is_done.await.expect("the relay runs");
    }
}

/// The relay's own side.
struct Relay {
    target: SocketAddr,
    address: SocketAddr,
    listener: Option<TcpListener>,
    ways: watch::Sender<Ways>,
    connections: JoinSet<()>,
}

impl Relay {
    fn new(target: SocketAddr, address: SocketAddr, listener: TcpListener) -> Self {
        let (ways, _) = watch::channel(Ways {
            to_server: Way::Pass,
            to_client: Way::Pass,
        });
        Self {
            target,
            address,
            listener: Some(listener),
            ways,
            connections: JoinSet::new(),
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command { link, done }) => {
                        self.change(link).await;
                        let _nobody_waits = done.send(());
                    }
                    None => return,
                },
                socket = accept(self.listener.as_ref()) => {
                    let ways = self.ways.subscribe();
                    self.connections.spawn(carry(socket, self.target, ways));
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn change(&mut self, link: Link) {
        let Link::Up {
            to_server,
            to_client,
        } = link
        else {
            self.listener = None;
            return self.close_all().await;
        };
        let before = self.ways.send_replace(Ways {
            to_server,
            to_client,
        });
        let swallowed = |now, before| before == Way::Swallow && now != Way::Swallow;
        if swallowed(to_server, before.to_server) || swallowed(to_client, before.to_client) {
            self.close_all().await;
        }
        if self.listener.is_none() {
            // Whoever looks for a free port may have it for a moment.
            let listener = until("its own port", PATIENCE, PAUSE, async || {
                TcpListener::bind(self.address).await.ok()
            });
            self.listener = Some(listener.await);
        }
    }

    async fn close_all(&mut self) {
        self.connections.abort_all();
        while self.connections.join_next().await.is_some() {}
    }
}

/// The next connection; never, while new ones are refused. Cancel safe.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => loop {
            if let Ok((socket, _)) = listener.accept().await {
                return socket;
            }
        },
        None => std::future::pending().await,
    }
}

/// Carries one connection until one side ends it.
async fn carry(client: TcpStream, target: SocketAddr, ways: watch::Receiver<Ways>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("set TCP_NODELAY");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let also = ways.clone();
    // A side that ends ends the other: no protocol here closes one direction only.
    tokio::select! {
        () = pump(from_client, to_server, || ways.borrow().to_server) => {}
        () = pump(from_server, to_client, || also.borrow().to_client) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: impl Fn() -> Way) {
    let (waiting, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(WAITING_MAX);
    let read = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let delay = match way() {
                Way::Swallow => continue,
                Way::Pass => Duration::ZERO,
                Way::Delay(by) => by,
            };
            let bytes = chunk[..length].to_vec();
            if waiting.send((Instant::now() + delay, bytes)).await.is_err() {
                return;
            }
        }
        drop(waiting);
    };
    let write = async {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
