//! A business's webhook: a small HTTP server that keeps what it was sent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A business's webhook: it keeps what it was sent and answers with a status.
pub struct Webhook {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Webhook {
    /// A webhook that answers every request with `status`.
    pub async fn answering(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        tokio::spawn(async move {
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            loop {
                let (mut socket, _) = listener.accept().await.expect("accept");
                let Some(text) = request(&mut socket).await else {
                    continue;
                };
                kept.lock().expect("no panic under the lock").push(text);
                let _given_up = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, requests }
    }

    /// The last request.
    pub fn last_request(&self) -> String {
        let requests = self.requests.lock().expect("no panic under the lock");
        requests.last().expect("a request").clone()
    }

    /// The JSON of the last request.
    pub fn last(&self) -> serde_json::Value {
        let request = self.last_request();
        assert!(request.starts_with("POST /codes "), "{request}");
        let (_, body) = request.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }
}

/// The next request; `None` where the server gave it up before all of it was here, as it does when the
/// machine holds this process up for too long.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.ends_with('}') {
        let read = socket
            .read(&mut bytes)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    Some(text)
}
