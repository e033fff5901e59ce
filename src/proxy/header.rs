//! The PROXY protocol (haproxy.org, proxy-protocol.txt), versions 1 and 2: what a load balancer sends
//! before anything of the client it speaks for. A listed address must send it and nobody else may: it
//! is never guessed whether a connection begins with one.
//!
//! The parser takes bytes and knows no socket. Of a valid header every beginning is incomplete, and
//! what follows it belongs to the client's stream.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// What a header of version 1 begins with.
const V1: &[u8] = b"PROXY ";
/// Longest header of version 1, its end of line included (the protocol's own bound).
const V1_BYTES_MAX: usize = 107;
/// What a header of version 2 begins with.
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a header of version 2 before its addresses.
const V2_FIXED_BYTES: usize = 16;
/// Bytes of version 2's addresses: two of IPv4 or IPv6 with their ports, or two paths.
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;
const _: () = assert!(V2_FIXED_BYTES + UNIX_BYTES <= PROXY_HEADER_BYTES_MAX);
/// Room for a usual header and the first frame behind it.
const READ_BYTES: usize = 512;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is. `None`: the load balancer speaks for itself (a health check), or for a
    /// client whose address is not one of TCP over IP.
    pub client: Option<SocketAddr>,
    /// Bytes of the header.
    pub length: usize,
}

/// Why a connection that must begin with a header is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It begins with something else, or the header is broken.
    #[error("no valid PROXY protocol header")]
    Malformed,
    /// The header is longer than is read.
    #[error("a PROXY protocol header of more than {PROXY_HEADER_BYTES_MAX} bytes")]
    TooLong,
    /// The connection ended within the header.
    #[error("it ended within the PROXY protocol header")]
    Cut,
    /// It ended before the header began; health checks of a load balancer do that.
    #[error("it ended before the PROXY protocol header")]
    Empty,
    /// The header did not come in time.
    #[error("the PROXY protocol header did not come in time")]
    Late,
}

/// Reads the header that `stream` must begin with, and returns whose connection it is and what was
/// read beyond the header.
///
/// # Errors
/// [`Refused`], after which nothing can be done but to close the connection.
pub async fn read(
    stream: &mut TcpStream,
    within: Duration,
) -> Result<(Option<SocketAddr>, BytesMut), Refused> {
    let mut received = BytesMut::with_capacity(READ_BYTES);
    let reading = async {
        loop {
            if let Some(header) = parse(&received)? {
                return Ok(header);
            }
            match stream.read_buf(&mut received).await {
                Ok(0) | Err(_) if received.is_empty() => return Err(Refused::Empty),
                Ok(0) | Err(_) => return Err(Refused::Cut),
                Ok(_) => {}
            }
        }
    };
    let header = tokio::time::timeout(within, reading).await;
    let header = header.map_err(|_| Refused::Late)??;
    // Copied, so that a connection that lives long does not keep the header's memory.
    Ok((header.client, BytesMut::from(&received[header.length..])))
}

/// Reads a header from the beginning of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// [`Refused::Malformed`] or [`Refused::TooLong`] as soon as that can be told.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Refused> {
    if begins(bytes, V2) {
        parse_v2(bytes)
    } else if begins(bytes, V1) {
        parse_v1(bytes)
    } else {
        Err(Refused::Malformed)
    }
}

/// True while `bytes` may still become something that begins with `signature`.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes
        .iter()
        .zip(signature)
        .all(|(ours, theirs)| ours == theirs)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Refused> {
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return match line.len() {
            V1_BYTES_MAX => Err(Refused::Malformed),
            _ => Ok(None),
        };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(Refused::Malformed)?;
    let text = text.strip_prefix(V1).ok_or(Refused::Malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| Refused::Malformed)?;
    let client = v1_client(text).ok_or(Refused::Malformed)?;
    Ok(Some(Header {
        client,
        length: end + 1,
    }))
}

/// The client in what follows `PROXY `; `None` where that is not as it must be.
fn v1_client(text: &str) -> Option<Option<SocketAddr>> {
    // Whatever follows UNKNOWN is to be ignored.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = text.split(' ');
    let address: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (source, _destination) = (address(words.next()?)?, address(words.next()?)?);
    let (port, _destination_port) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    let is_all = words.next().is_none();
    is_all.then_some(Some(SocketAddr::new(source, port)))
}

/// A port in decimal, without a sign or leading zeros.
fn v1_port(word: &str) -> Option<u16> {
    let is_plain = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| is_plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Refused> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let command = bytes.get(V2.len()).copied();
    if !matches!(command, None | Some(LOCAL | PROXY)) {
        return Err(Refused::Malformed);
    }
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., family, high, low] = *fixed;
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > PROXY_HEADER_BYTES_MAX {
        return Err(Refused::TooLong);
    }
    let is_local = command == Some(LOCAL);
    let needed = match family {
        // With LOCAL the family does not matter, nor does what follows.
        _ if is_local => 0,
        0x00 => 0,
        0x11 | 0x12 => IPV4_BYTES,
        0x21 | 0x22 => IPV6_BYTES,
        0x31 | 0x32 => UNIX_BYTES,
        _ => return Err(Refused::Malformed),
    };
    if length < V2_FIXED_BYTES + needed {
        return Err(Refused::Malformed);
    }
    let Some(body) = bytes.get(V2_FIXED_BYTES..length) else {
        return Ok(None);
    };
    let client = if is_local {
        None
    } else {
        v2_client(family, body)
    };
    Ok(Some(Header { client, length }))
}

/// The source address of TCP over IP, the first in `body`.
fn v2_client(family: u8, body: &[u8]) -> Option<SocketAddr> {
    let (address, ports): (IpAddr, &[u8]) = match family {
        0x11 => {
            let address: [u8; 4] = *body.first_chunk()?;
            (address.into(), &body[8..])
        }
        0x21 => {
            let address: [u8; 16] = *body.first_chunk()?;
            (address.into(), &body[32..])
        }
        // Nobody said, a datagram, or a path.
        _ => return None,
    };
    let port = u16::from_be_bytes(*ports.first_chunk()?);
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests;
