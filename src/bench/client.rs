//! One device's long connection, over TCP or WebSocket: bytes to packages and back. It holds no
//! buffer while nothing is under way, and writes everything queued at once.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    accounts::Account,
    args::Transport,
    failure::Failure,
    websocket::{self, Frame},
};
use crate::{
    limits,
    pb::{self, Input, Output, PackageType},
};

/// Connecting and signing in take at most this long.
pub const SIGN_IN_DEADLINE: Duration = Duration::from_secs(20);
/// Bytes taken from a socket at once.
const READ_BYTES_MAX: usize = 16 * 1024;
/// A write buffer larger than this is given back when it has been written.
const WRITE_BYTES_KEPT: usize = 4 * 1024;
/// Connections from one source address, well below the ephemeral ports of one.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;
/// Source addresses in use before the first is taken again.
const SOURCES: u32 = 100;

/// Where long connections go: devices are spread over the instances, one after the other.
#[derive(Debug)]
pub struct Target {
    transport: Transport,
    instances: Vec<Arc<Instance>>,
}

/// One instance's listener.
#[derive(Debug)]
struct Instance {
    address: SocketAddr,
    opened: AtomicU32,
}

impl Target {
    /// Connections to `addresses`, at least one, over `transport`.
    pub fn new(transport: Transport, addresses: &[SocketAddr]) -> Self {
        let instance = |&address: &SocketAddr| {
            Arc::new(Instance {
                address,
                opened: AtomicU32::new(0),
            })
        };
        Self {
            transport,
            instances: addresses.iter().map(instance).collect(),
        }
    }

    /// All devices at the first instance.
    pub fn first(&self) -> Self {
        self.with(self.instances.iter().take(1))
    }

    /// The devices with even numbers at the first instance, the others spread over all others;
    /// `None` where there are none.
    pub fn apart(&self) -> Option<Self> {
        let (first, others) = self.instances.split_first()?;
        let pairs = others.iter().flat_map(|other| [first, other]);
        (!others.is_empty()).then(|| self.with(pairs))
    }

    fn with<'a>(&self, instances: impl Iterator<Item = &'a Arc<Instance>>) -> Self {
        Self {
            transport: self.transport,
            instances: instances.cloned().collect(),
        }
    }

    /// Where the device `number` connects.
    fn instance(&self, number: usize) -> &Instance {
        &self.instances[number % self.instances.len()]
    }
}

impl Instance {
    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        if let Some(source) = source(self.address.ip(), number) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// The address the connection `number` comes from, where it matters: on Linux all of 127.0.0.0/8
/// is this machine, so that more connections are possible than one address has ports.
fn source(target: IpAddr, number: u32) -> Option<IpAddr> {
    let step = number / CONNECTIONS_PER_SOURCE % SOURCES;
    let usable = cfg!(target_os = "linux") && target.is_loopback() && target.is_ipv4();
    (usable && step > 0).then(|| Ipv4Addr::new(127, 0, 0, 1 + step as u8).into())
}

/// A signed-in connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    transport: Transport,
    read: BytesMut,
    write: BytesMut,
}

impl Connection {
    /// Connects as the device `number` of a run and signs in as `account`.
    pub async fn open(target: &Target, number: usize, account: &Account) -> Result<Self, Failure> {
        let opening = Self::open_unbounded(target.instance(number), target.transport, account);
        timeout(SIGN_IN_DEADLINE, opening)
            .await
            .unwrap_or_else(|_| Err(Failure::deadline("sign-in")))
    }

    async fn open_unbounded(
        instance: &Instance,
        transport: Transport,
        account: &Account,
    ) -> Result<Self, Failure> {
        let connected = instance.connect().await;
        let mut stream = connected.map_err(|error| Failure::io("connect", &error))?;
        let read = match transport {
            Transport::Tcp => BytesMut::new(),
            Transport::Ws => websocket::upgrade(&mut stream, account).await?,
        };
        let mut connection = Self {
            stream,
            transport,
            read,
            write: BytesMut::new(),
        };
        if transport == Transport::Tcp {
            connection.sign_in(account).await?;
        }
        Ok(connection)
    }

    async fn sign_in(&mut self, account: &Account) -> Result<(), Failure> {
        let input = pb::SignInInput {
            device_id: account.device_id,
            user_id: account.user_id,
            token: account.token.clone(),
        };
        self.queue(PackageType::PtSignIn, 1, input.encode_to_vec());
        let output = self.next().await?;
        match (output.r#type(), output.code) {
            (PackageType::PtSignIn, 0) => Ok(()),
            (_, 0) => Err(Failure::protocol("no answer to the sign-in")),
            (_, code) => Err(Failure::answer(code, output.message)),
        }
    }

    /// Queues a package; the next `turn` writes it.
    #[expect(clippy::expect_used, reason = "writing to memory does not fail")]
    pub fn queue(&mut self, package: PackageType, request_id: i64, data: Vec<u8>) {
        let input = Input {
            r#type: package.into(),
            request_id,
            data: data.into(),
        };
        let length = input.encoded_len();
        debug_assert!(length <= limits::FRAME_BODY_BYTES_MAX);
        let encode = |output: &mut BytesMut| {
            input.encode(output).expect("a BytesMut grows");
        };
        match self.transport {
            Transport::Tcp => {
                self.write.reserve(2 + length);
                self.write.put_u16(length as u16);
                encode(&mut self.write);
            }
            Transport::Ws => websocket::put_body(&mut self.write, length, encode),
        }
    }

    /// Writes what is queued and waits until something has been read. Cancel-safe.
    pub async fn turn(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| self.poll_turn(cx))
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Failure::closed("end of stream"),
                _ => Failure::io("connection", &error),
            })
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.write)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => self.write.advance(written),
                Poll::Pending => break,
            }
        }
        if self.write.is_empty() && self.write.capacity() > WRITE_BYTES_KEPT {
            self.write = BytesMut::new();
        }
        // On the stack of this call only: a connection that waits holds no read buffer.
        let mut space = [MaybeUninit::uninit(); READ_BYTES_MAX];
        let mut space = ReadBuf::uninit(&mut space);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        if space.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.read.extend_from_slice(space.filled());
        Poll::Ready(Ok(()))
    }

    /// The next package that has been read whole, or `None`.
    pub fn take(&mut self) -> Result<Option<Output>, Failure> {
        while let Some(body) = self.take_body()? {
            let Some(body) = body else { continue };
            let output = Output::decode(body).map_err(|_| Failure::protocol("bad Output"))?;
            return Ok(Some(output));
        }
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        Ok(None)
    }

    /// The next frame's body; `Some(None)` for a frame that has none.
    fn take_body(&mut self) -> Result<Option<Option<Bytes>>, Failure> {
        if self.transport == Transport::Tcp {
            return Ok(take_tcp_body(&mut self.read).map(Some));
        }
        match websocket::take_frame(&mut self.read)? {
            None => return Ok(None),
            Some(Frame::Body(body)) => return Ok(Some(Some(body))),
            Some(Frame::Ping(payload)) => websocket::put_pong(&mut self.write, &payload),
            Some(Frame::Close(code)) => {
                return Err(Failure::closed(format_args!("WebSocket close {code}")));
            }
            Some(Frame::Nothing) => {}
        }
        Ok(Some(None))
    }

    /// Waits for the next package.
    pub async fn next(&mut self) -> Result<Output, Failure> {
        loop {
            if let Some(output) = self.take()? {
                return Ok(output);
            }
            self.turn().await?;
        }
    }
}

fn take_tcp_body(input: &mut BytesMut) -> Option<Bytes> {
    let length = input
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))?;
    let length = usize::from(length);
    if input.len() < 2 + length {
        return None;
    }
    input.advance(2);
    Some(input.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut input = BytesMut::from(&b"\x00\x03abc\x00\x00\x00\x02d"[..]);
        assert_eq!(take_tcp_body(&mut input).as_deref(), Some(&b"abc"[..]));
        assert_eq!(take_tcp_body(&mut input).as_deref(), Some(&b""[..]));
        assert_eq!(take_tcp_body(&mut input), None);
        input.put_slice(b"e");
        assert_eq!(take_tcp_body(&mut input).as_deref(), Some(&b"de"[..]));
        assert!(input.is_empty());
    }

    #[test]
    fn devices_are_spread_over_the_instances() {
        let addresses: Vec<SocketAddr> = (1..=3)
            .map(|port| (Ipv4Addr::LOCALHOST, port).into())
            .collect();
        let target = Target::new(Transport::Tcp, &addresses);
        let ports = |target: &Target| -> Vec<u16> {
            let port = |number| target.instance(number).address.port();
            (0..6).map(port).collect()
        };
        assert_eq!(ports(&target), [1, 2, 3, 1, 2, 3]);
        assert_eq!(ports(&target.first()), [1; 6]);
        assert_eq!(ports(&target.apart().unwrap()), [1, 2, 1, 3, 1, 2]);
        assert!(target.first().apart().is_none());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn more_connections_than_ports_come_from_several_addresses() {
        let loopback = Ipv4Addr::LOCALHOST.into();
        assert_eq!(source(loopback, 0), None);
        assert_eq!(source(loopback, 9_999), None);
        assert_eq!(
            source(loopback, 10_000),
            Some(Ipv4Addr::new(127, 0, 0, 2).into())
        );
        assert_eq!(source(loopback, 1_000_000), None);
        assert_eq!(source(Ipv4Addr::new(10, 0, 0, 1).into(), 20_000), None);
    }
}
