//! Every answer names its request: over gRPC in the metadata, the caller's id or a new one.

use im::pb::{GetUserReq, logic_ext_client::LogicExtClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Request, metadata::MetadataMap};

use crate::support::{Server, errors::SIGN_IN_AGAIN, wait::soon};

fn request_id(metadata: &MetadataMap) -> String {
    let value = metadata.get("request_id").expect("request_id comes back");
    value.to_str().expect("ASCII").to_owned()
}

#[tokio::test]
async fn the_callers_request_id_comes_back() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut request = Request::new(GetUserReq { user_id: 0 });
    let id = "0af7651916cd43dd";
    request
        .metadata_mut()
        .insert("request_id", id.parse().expect("ASCII"));
    let answer = server
        .users(&alice)
        .get_user(request)
        .await
        .expect("GetUser");
    assert_eq!(request_id(answer.metadata()), id);
}

#[tokio::test]
async fn a_call_without_a_request_id_gets_a_new_one() {
    let server = Server::start().await;
    let mut logic = LogicExtClient::new(server.grpc_channel());
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = logic
            .register_device(im::pb::RegisterDeviceReq {
                r#type: 1,
                ..Default::default()
            })
            .await;
        ids.push(request_id(answer.expect("RegisterDevice").metadata()));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each its own");
    assert!(ids.iter().all(|id| !id.is_empty()));
}

#[tokio::test]
async fn an_error_names_its_request_too() {
    let server = Server::start().await;
    let stranger = server.new_user().await.with_token("wrong");
    let mut request = Request::new(GetUserReq { user_id: 0 });
    request
        .metadata_mut()
        .insert("request_id", "abc".parse().expect("ASCII"));
    let status = server.users(&stranger).get_user(request).await;
    let status = status.expect_err("a wrong token");
    assert_eq!(crate::support::errors::code(&status), SIGN_IN_AGAIN);
    assert_eq!(request_id(status.metadata()), "abc");
    let found = server.new_user().await;
    let status = server.get_user(&found, i64::MAX).await.expect_err("nobody");
    assert!(!request_id(status.metadata()).is_empty());
}

/// The head of the answer to a GET with a request id.
async fn head(server: &Server, path: &str) -> String {
    let mut socket = TcpStream::connect(server.addresses.http)
        .await
        .expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: im\r\nrequest_id: abc\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("an answer", socket.read_u8()).await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test]
async fn a_websocket_that_is_refused_names_its_request() {
    let server = Server::start().await;
    for path in ["/ws", "/ws?user_id=1&device_id=1&token=x"] {
        let head = head(&server, path).await;
        assert!(head.contains("\r\nrequest_id: abc\r\n"), "{head}");
    }
}
