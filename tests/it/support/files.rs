//! Uploads and downloads by a raw HTTP client, which sends exactly what a test says.

use std::{collections::HashMap, fs::Metadata, net::SocketAddr, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Device, wait::soon};

/// What separates the parts of the forms here.
pub const BOUNDARY: &str = "----a-boundary";

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// An upload before it is sent.
#[derive(Clone)]
pub struct Form {
    pub name: String,
    pub content_type: String,
    pub headers: Vec<(String, String)>,
    pub chunked: bool,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The business code in the body.
    pub fn code(&self) -> i64 {
        self.json()["code"].as_i64().expect("a code")
    }

    /// A header that must be there.
    pub fn header(&self, name: &str) -> &str {
        match self.headers.get(name) {
            Some(value) => value,
            None => panic!("no {name} in {self:?}"),
        }
    }

    /// The path of the file that an upload was answered with.
    pub fn path(&self) -> String {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let json = self.json();
        assert_eq!(
            (&json["code"], &json["message"]),
            (&0.into(), &"success".into())
        );
        let url = json["data"]["url"].as_str().expect("a URL");
        let (_, key) = url.rsplit_once('/').expect("a path");
        format!("/file/{key}")
    }
}

impl Default for Form {
    fn default() -> Self {
        Self {
            name: "a.bin".into(),
            content_type: "application/octet-stream".into(),
            headers: Vec::new(),
            chunked: false,
        }
    }
}

impl Form {
    pub fn named(name: &str, content_type: &str) -> Self {
        Self {
            name: name.into(),
            content_type: content_type.into(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Uploads `content` as `device`.
    pub async fn upload(&self, at: SocketAddr, device: &Device, content: &[u8]) -> Answer {
        self.send(at, device, &self.body(content)).await
    }

    /// The whole form.
    pub fn body(&self, content: &[u8]) -> Vec<u8> {
        let mut body = part(&self.name, &self.content_type, content);
        body.extend(format!("--{BOUNDARY}--\r\n").bytes());
        body
    }

    /// Sends `body` as a form.
    pub async fn send(&self, at: SocketAddr, device: &Device, body: &[u8]) -> Answer {
        let (head, body) = if self.chunked {
            let mut chunks = Vec::new();
            for chunk in body.chunks(10_000) {
                chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
                chunks.extend(chunk);
                chunks.extend(b"\r\n");
            }
            chunks.extend(b"0\r\n\r\n");
            (self.head(at, device, "Transfer-Encoding: chunked"), chunks)
        } else {
            let length = format!("Content-Length: {}", body.len());
            (self.head(at, device, &length), body.to_vec())
        };
        exchange(at, &head, &body).await
    }

    /// The head of the request, with `length` as the header that says how long it is.
    pub fn head(&self, at: SocketAddr, device: &Device, length: &str) -> String {
        let mut head = format!(
            "POST /upload HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{}{length}\r\n\
             Content-Type: multipart/form-data; boundary=\"{BOUNDARY}\"\r\n",
            credential(device)
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }
}

/// The headers that say who uploads.
pub fn credential(device: &Device) -> String {
    format!(
        "user_id: {}\r\ndevice_id: {}\r\ntoken: {}\r\n",
        device.user_id, device.device_id, device.token
    )
}

/// One field `file` of a form.
pub fn part(name: &str, content_type: &str, content: &[u8]) -> Vec<u8> {
    let mut part = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: {content_type}\r\n\r\n"
    )
    .into_bytes();
    part.extend(content);
    part.extend(b"\r\n");
    part
}

/// Uploads some bytes, and returns the path of the file.
pub async fn upload(at: SocketAddr, device: &Device, content: &[u8]) -> String {
    Form::default().upload(at, device, content).await.path()
}

/// Asks for `path` with some headers.
pub async fn fetch(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    exchange(at, &(head + "\r\n"), b"").await
}

/// Gets `path`.
pub async fn get(at: SocketAddr, path: &str) -> Answer {
    fetch(at, "GET", path, &[]).await
}

/// Posts JSON as `device`.
pub async fn post(at: SocketAddr, device: &Device, path: &str, json: &serde_json::Value) -> Answer {
    let body = json.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{}Content-Length: {}\r\n\
         Content-Type: application/json\r\n\r\n",
        credential(device),
        body.len()
    );
    exchange(at, &head, body.as_bytes()).await
}

/// Sends a request and reads its answer; the answer may come before all is sent.
pub async fn exchange(at: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let socket = TcpStream::connect(at).await.expect("connected");
    let (mut from, mut to) = socket.into_split();
    let sending = async {
        // The server may have answered and closed meanwhile.
        let _sent = to.write_all(head.as_bytes()).await;
        let _sent = to.write_all(body).await;
        std::future::pending::<()>().await;
    };
    let mut bytes = Vec::new();
    let reading = soon("an HTTP answer", from.read_to_end(&mut bytes));
    tokio::select! {
        read = reading => { read.expect("an answer up to its end"); }
        () = sending => {}
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Answer {
        status: status.expect("a status"),
        headers: headers.collect(),
        body: bytes[end + 4..].to_vec(),
    }
}

/// How many files are in a folder and all that are in it.
pub fn files_in(folder: &Path) -> usize {
    sizes_in(folder).len()
}

/// How long these files are.
pub fn sizes_in(folder: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let sizes = |entry: std::fs::DirEntry| match entry.path() {
        path if path.is_dir() => sizes_in(&path),
        // One that was removed meanwhile is none.
        path => path.metadata().iter().map(Metadata::len).collect(),
    };
    let entries = entries.map(|entry| entry.expect("an entry"));
    entries.flat_map(sizes).collect()
}

/// Bytes that do not repeat soon.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}
