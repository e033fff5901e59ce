//! A business's webhook: a small HTTP server that keeps what it was sent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
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
            loop {
                let (mut socket, _) = listener.accept().await.expect("accept");
                let mut text = String::new();
                let mut bytes = [0; 4096];
                while !text.ends_with('}') {
                    let read = socket.read(&mut bytes).await.expect("a request");
                    assert!(read > 0, "half a request: {text}");
                    text.push_str(&String::from_utf8_lossy(&bytes[..read]));
                }
                kept.lock().expect("no panic under the lock").push(text);
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.expect("answer");
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
