//! `im healthcheck`: one GET /readyz, for container platforms whose images have no HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::print;
use crate::{
    error::{Error, Result},
    limits::HEALTHCHECK_DEADLINE,
};

/// Bytes of an answer that are looked at: its status and its short body.
const ANSWER_BYTES_MAX: u64 = 4 * 1024;

/// Asks the server that listens on `address` whether it is ready.
///
/// # Errors
/// An internal error that says what the server answered, or that it did not in time.
pub(super) async fn ask(address: SocketAddr) -> Result<()> {
    let address = reachable(address);
    let answer = timeout(HEALTHCHECK_DEADLINE, get_ready(address))
        .await
        .map_err(|_| Error::internal(format!("{address} does not answer in time")))?
        .map_err(|error| Error::internal(format!("{address} cannot be asked: {error}")))?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if status == "200" {
        print(format_args!("{}", body.trim()))
    } else {
        Err(Error::internal(format!(
            "{address} is not ready: {status} {}",
            body.trim()
        )))
    }
}

async fn get_ready(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Where a listener is reached from its own machine.
fn reachable(mut listener: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() {
        listener.set_ip(match listener.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listener
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        for (listener, asked) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("10.1.2.3:8081", "10.1.2.3:8081"),
        ] {
            let listener = listener.parse().expect("an address");
            assert_eq!(reachable(listener).to_string(), asked);
        }
    }
}
