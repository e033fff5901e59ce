//! Bytes on a socket: bodies in TCP frames or in WebSocket messages, behind one type. It is written
//! by hand so that a test can also send what no well-behaved client would.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::wait::soon;

/// How a long connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A 2-byte length before each body.
    Tcp,
    /// One binary message per body.
    WebSocket,
}

/// Both transports.
pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

/// WebSocket opcodes.
pub mod opcode {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

/// What comes from the server.
#[derive(Debug)]
pub enum Incoming {
    /// A body.
    Body(Bytes),
    /// The answer to a WebSocket ping.
    Pong,
    /// The end: the code of a WebSocket close frame, if there was one.
    Closed(Option<u16>),
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Reader {
    transport: Transport,
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct Writer {
    transport: Transport,
    socket: OwnedWriteHalf,
}

/// Opens a plain TCP connection.
pub async fn open_tcp(address: SocketAddr) -> (Reader, Writer) {
    let socket = soon("connect over TCP", TcpStream::connect(address))
        .await
        .expect("connect over TCP");
    halves(Transport::Tcp, socket, BytesMut::new())
}

/// Opens a WebSocket at `path`, or returns the HTTP status that refused the upgrade.
pub async fn open_web_socket(address: SocketAddr, path: &str) -> Result<(Reader, Writer), u16> {
    try_open_web_socket(address, path, &[]).await
}

/// As [`open_web_socket`], with headers besides those of every handshake.
pub async fn try_open_web_socket(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(Reader, Writer), u16> {
    let mut socket = soon("connect over HTTP", TcpStream::connect(address))
        .await
        .expect("connect over HTTP");
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes()).await.expect("upgrade");
    let mut buffer = BytesMut::new();
    let end = soon("the answer to an upgrade", async {
        loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                return at + 4;
            }
            let read = socket
                .read_buf(&mut buffer)
                .await
                .expect("read the upgrade");
            assert!(read > 0, "closed during the upgrade");
        }
    })
    .await;
    let head = buffer.split_to(end);
    let head = std::str::from_utf8(&head).expect("an HTTP head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    match status.expect("an HTTP status") {
        101 => Ok(halves(Transport::WebSocket, socket, buffer)),
        refused => Err(refused),
    }
}

/// Opens a plain TCP connection to a server that may be gone.
pub async fn try_open_tcp(address: SocketAddr) -> std::io::Result<(Reader, Writer)> {
    let socket = TcpStream::connect(address).await?;
    Ok(halves(Transport::Tcp, socket, BytesMut::new()))
}

fn halves(transport: Transport, socket: TcpStream, buffer: BytesMut) -> (Reader, Writer) {
    socket.set_nodelay(true).expect("set TCP_NODELAY");
    let (read, write) = socket.into_split();
    let reader = Reader {
        transport,
        socket: read,
        buffer,
    };
    let writer = Writer {
        transport,
        socket: write,
    };
    (reader, writer)
}

/// `body` as it stands on the wire.
pub fn framed(transport: Transport, body: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => {
            let length = u16::try_from(body.len()).expect("a body that fits a TCP frame");
            let mut frame = length.to_be_bytes().to_vec();
            frame.extend_from_slice(body);
            frame
        }
        Transport::WebSocket => web_socket_frame(opcode::BINARY, true, body),
    }
}

/// A client's WebSocket frame. Its mask is zero, which is a mask like any other.
pub fn web_socket_frame(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(opcode | if last { 0x80 } else { 0 });
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        medium @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.put_u16(medium as u16);
        }
        long => {
            frame.push(0x80 | 127);
            frame.put_u64(long as u64);
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

impl Writer {
    /// Which transport it is.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Sends one body.
    pub async fn body(&mut self, body: &[u8]) -> std::io::Result<()> {
        let frame = framed(self.transport, body);
        self.raw(&frame).await
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(bytes).await
    }
}

impl Reader {
    /// The next thing the server sends. Cancel safe: what was read stays in the buffer.
    pub async fn next(&mut self) -> Incoming {
        loop {
            let parsed = match self.transport {
                Transport::Tcp => parse_tcp(&mut self.buffer).map(Incoming::Body),
                Transport::WebSocket => parse_web_socket(&mut self.buffer),
            };
            if let Some(incoming) = parsed {
                return incoming;
            }
            // A reset is an end like any other: what the server said before it has been read.
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Incoming::Closed(None),
                Ok(_) => {}
            }
        }
    }
}

fn parse_tcp(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes(*buffer.first_chunk::<2>()?));
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length).freeze())
}

fn parse_web_socket(buffer: &mut BytesMut) -> Option<Incoming> {
    let [first, second] = *buffer.first_chunk::<2>()?;
    assert!(first & 0x80 != 0, "the server sends whole messages");
    assert!(second & 0x80 == 0, "a server does not mask");
    let (header, length) = match second {
        126 => {
            let bytes = buffer.get(2..4)?.try_into().expect("2 bytes");
            (4, usize::from(u16::from_be_bytes(bytes)))
        }
        127 => {
            let bytes = buffer.get(2..10)?.try_into().expect("8 bytes");
            let length = u64::from_be_bytes(bytes);
            (10, usize::try_from(length).expect("a sane length"))
        }
        short => (2, usize::from(short)),
    };
    if buffer.len() < header + length {
        return None;
    }
    buffer.advance(header);
    let payload = buffer.split_to(length).freeze();
    Some(match first & 0x0F {
        opcode::BINARY => Incoming::Body(payload),
        opcode::PONG => Incoming::Pong,
        opcode::CLOSE => {
            Incoming::Closed(payload.first_chunk::<2>().map(|c| u16::from_be_bytes(*c)))
        }
        other => panic!("the server sent a WebSocket frame with opcode {other}"),
    })
}

/// The hand-written client against a WebSocket server that everybody uses.
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

    use super::*;

    #[tokio::test]
    async fn the_websocket_client_speaks_the_protocol() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let echo = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("accept");
            let mut socket = tokio_tungstenite::accept_async(socket)
                .await
                .expect("upgrade");
            for _ in 0..4 {
                match socket.next().await.expect("open").expect("a message") {
                    Message::Binary(body) => {
                        socket.send(Message::Binary(body)).await.expect("echo")
                    }
                    Message::Ping(_) => socket.flush().await.expect("pong"),
                    other => panic!("{other:?}"),
                }
            }
            let frame = CloseFrame {
                code: 4001.into(),
                reason: "".into(),
            };
            socket.close(Some(frame)).await.expect("close");
        });
        let (mut reader, mut writer) = open_web_socket(address, "/ws").await.expect("upgrade");
        for length in [5, 1_000, 70_000] {
            let body = vec![7; length];
            writer.body(&body).await.expect("write");
            match reader.next().await {
                Incoming::Body(echoed) => assert_eq!(echoed, body),
                other => panic!("{other:?}"),
            }
        }
        let ping = web_socket_frame(opcode::PING, true, b"?");
        writer.raw(&ping).await.expect("write");
        assert!(matches!(reader.next().await, Incoming::Pong));
        assert!(matches!(reader.next().await, Incoming::Closed(Some(4001))));
        echo.await.expect("no panic");
    }
}
