//! One plain HTTP GET, as a load balancer or Prometheus would send it; and requests with headers.

use std::net::SocketAddr;

use http::Method;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::wait::{eventually, soon};

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Gets `path`; an error is a connection that was refused or broke.
pub async fn try_get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok(Answer {
        status: status.expect("an HTTP status"),
        body: body.to_owned(),
    })
}

/// A client that is not built yet.
pub fn client() -> reqwest::ClientBuilder {
    // It wants one even where nothing is encrypted.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// A request without a body, with `headers`.
pub async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> reqwest::Response {
    let url = format!("http://{address}{path}");
    let client = client().build().expect("a client");
    let mut request = client.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    soon("an HTTP answer", request.send())
        .await
        .expect("an HTTP answer")
}

/// Asks `/readyz` until it says yes. Only a machine so busy that the database takes longer than
/// `/readyz` waits for it is an excuse.
pub async fn assert_ready(address: SocketAddr) {
    eventually("it is ready", async || {
        let answer = get(address, "/readyz").await;
        let is_busy = answer.body.contains("the database does not answer");
        assert!(answer.status == 200 || is_busy, "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Gets `path` of a server that is there.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    soon("an HTTP answer", try_get(address, path))
        .await
        .expect("an HTTP answer")
}
