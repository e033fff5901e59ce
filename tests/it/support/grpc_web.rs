//! gRPC-Web by hand, as a browser sends and reads it.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

use super::{http, wait::soon};

const MESSAGE: u8 = 0;
const TRAILERS: u8 = 0x80;

/// A client for one form of the protocol on one version of HTTP.
#[derive(Clone, Debug)]
pub struct GrpcWeb {
    client: reqwest::Client,
    url: String,
    pub content_type: &'static str,
}

impl GrpcWeb {
    /// Every way in which `server` can be called.
    pub fn all(server: SocketAddr) -> Vec<Self> {
        let [http1, http2] = [false, true].map(|is_http2| {
            let client = if is_http2 {
                http::client().http2_prior_knowledge()
            } else {
                http::client().http1_only()
            };
            client.build().expect("a client")
        });
        let mut all = Vec::new();
        for content_type in [
            "application/grpc-web+proto",
            "application/grpc-web-text+proto",
            "application/grpc-web",
            "application/grpc-web-text",
        ] {
            all.extend([&http1, &http2].map(|client| Self {
                client: client.clone(),
                url: format!("http://{server}"),
                content_type,
            }));
        }
        all
    }

    /// The commonest way: HTTP/1.1 and bytes.
    pub fn new(server: SocketAddr) -> Self {
        Self::all(server).swap_remove(0)
    }

    /// Calls `path`, and returns the answer and its headers.
    pub async fn call<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        metadata: &[(&'static str, &str)],
    ) -> Result<(A, HeaderMap), Status> {
        let response = self.post(path, self.body(request), metadata).await;
        assert_eq!(response.status(), StatusCode::OK, "{response:?}");
        let headers = response.headers().clone();
        let content_type = headers.get(CONTENT_TYPE).expect("a content type");
        let expected = if self.is_text() {
            "application/grpc-web-text+proto"
        } else {
            "application/grpc-web+proto"
        };
        assert_eq!(content_type, expected);
        let body = soon("a body", response.bytes()).await.expect("a body");
        let (message, trailers) = self.read(body);
        // An error that comes instead of an answer stands in the headers.
        let status = trailers.as_ref().unwrap_or(&headers);
        let status = Status::from_header_map(status).expect("a status");
        if status.code() != tonic::Code::Ok {
            return Err(status);
        }
        let message = message.expect("a message");
        Ok((A::decode(message).expect("an answer"), headers))
    }

    /// Posts a body as it is.
    pub async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        metadata: &[(&'static str, &str)],
    ) -> reqwest::Response {
        let mut request = self.client.post(format!("{}{path}", self.url)).body(body);
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let request = request
            .header("x-grpc-web", "1")
            .header("content-type", self.content_type)
            .header("accept", self.content_type);
        let answer = soon("an answer over gRPC-Web", request.send()).await;
        answer.expect("an answer over gRPC-Web")
    }

    /// A request as it stands on the wire.
    pub fn body(&self, request: &impl Message) -> Vec<u8> {
        let message = request.encode_to_vec();
        let mut frame = vec![MESSAGE];
        frame.put_u32(message.len().try_into().expect("a sane length"));
        frame.extend(message);
        if self.is_text() {
            frame = BASE64_STANDARD.encode(frame).into();
        }
        frame
    }

    fn is_text(&self) -> bool {
        self.content_type.contains("text")
    }

    fn read(&self, body: Bytes) -> (Option<Bytes>, Option<HeaderMap>) {
        if self.is_text() {
            read_frames(decode_pieces(&body))
        } else {
            read_frames(body)
        }
    }
}

/// Base64 in pieces, each of which may end in padding.
fn decode_pieces(text: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    for four in text.chunks(4) {
        bytes.extend(BASE64_STANDARD.decode(four).expect("base64"));
    }
    bytes.freeze()
}

/// The message and the trailers of a body.
fn read_frames(mut body: Bytes) -> (Option<Bytes>, Option<HeaderMap>) {
    let (mut message, mut trailers) = (None, None);
    while body.has_remaining() {
        let (flag, length) = (body.get_u8(), body.get_u32());
        let content = body.split_to(length.try_into().expect("a sane length"));
        match flag {
            MESSAGE => assert!(message.replace(content).is_none(), "one message"),
            TRAILERS => assert!(trailers.replace(parse(&content)).is_none(), "one end"),
            other => panic!("a frame with the flag {other}"),
        }
    }
    (message, trailers)
}

fn parse(trailers: &[u8]) -> HeaderMap {
    let text = std::str::from_utf8(trailers).expect("ASCII");
    let pairs = text.split_terminator("\r\n").map(|line| {
        let (name, value) = line.split_once(':').expect("a name and a value");
        let name: HeaderName = name.parse().expect("a name");
        (name, value.trim().parse().expect("a value"))
    });
    pairs.collect()
}
