//! gRPC-Web on the HTTP listener: the services of the gRPC listener in the form that browsers speak,
//! in bytes and in base64, over HTTP/1.1 and HTTP/2, with the same guard, request ids and errors. A
//! drain treats it as it does the gRPC listener, although the HTTP listener answers to the end.

use std::net::SocketAddr;

use http::{HeaderMap, Method, StatusCode};
use im::pb::{
    GetUserReq, GetUserResp, RegisterDeviceReq, RegisterDeviceResp, SendMessageResp, SignInReq,
    SignInResp,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status};

use crate::support::{
    Device, Process, Server, Transport,
    api::{TEST_CODE, random_phone_number},
    errors::{BAD_REQUEST, SIGN_IN_AGAIN, TRY_AGAIN_LATER, WRONG_CODE, assert_fails, code},
    grpc_web::GrpcWeb,
    http::{ask, assert_ready, get, try_get},
    messages::{sized, text, words},
    wait::{eventually, soon},
};

const REGISTER_DEVICE: &str = "/pb.LogicExt/RegisterDevice";
const SEND_MESSAGE: &str = "/pb.LogicExt/SendMessage";
const SIGN_IN: &str = "/pb.UserExt/SignIn";
const GET_USER: &str = "/pb.UserExt/GetUser";

/// As metadata.
fn credential(device: &Device) -> [(&'static str, String); 3] {
    [
        ("user_id", device.user_id.to_string()),
        ("device_id", device.device_id.to_string()),
        ("token", device.token.clone()),
    ]
}

fn borrowed<'a>(pairs: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let pairs = pairs.iter().map(|(name, value)| (*name, value.as_str()));
    pairs.collect()
}

fn request_id(metadata: &HeaderMap) -> &str {
    let id = metadata.get("request_id").expect("request_id comes back");
    id.to_str().expect("ASCII")
}

#[tokio::test]
async fn a_browser_comes_from_registration_to_a_message_in_every_form() {
    let server = Server::start().await;
    let bob = server.new_user().await;
    let mut bobs = server.connect(Transport::WebSocket, &bob).await;
    for web in GrpcWeb::all(server.addresses.http) {
        let device = RegisterDeviceReq {
            r#type: 5,
            ..Default::default()
        };
        let registered = web.call(REGISTER_DEVICE, &device, &[]).await;
        let (RegisterDeviceResp { device_id }, _) = registered.expect("RegisterDevice");
        let sign_in = SignInReq {
            phone_number: random_phone_number(),
            code: TEST_CODE.into(),
            device_id,
            password: String::new(),
        };
        let (signed_in, _): (SignInResp, _) =
            web.call(SIGN_IN, &sign_in, &[]).await.expect("SignIn");
        let own = [
            ("user_id", &*signed_in.user_id.to_string()),
            ("device_id", &*device_id.to_string()),
            ("token", &*signed_in.token),
            ("request_id", "from-a-page"),
        ];
        let hello = text(bob.user_id, web.content_type);
        let sent = web.call(SEND_MESSAGE, &hello, &own).await;
        let (sent, metadata): (SendMessageResp, _) = sent.expect("SendMessage");
        assert_eq!(request_id(&metadata), "from-a-page");
        let pushed = bobs.push().await;
        assert_eq!(words(&pushed), web.content_type);
        assert_eq!(pushed.message_id, sent.message_id);
    }
}

#[tokio::test]
async fn an_error_has_its_code_its_words_and_its_request_id_in_every_form() {
    let server = Server::start().await;
    let device_id = server.register_device().await;
    for web in GrpcWeb::all(server.addresses.http) {
        let sign_in = SignInReq {
            phone_number: random_phone_number(),
            code: "000000".into(),
            device_id,
            password: String::new(),
        };
        let named = [("request_id", "a-wrong-code")];
        let refused = web.call::<SignInResp>(SIGN_IN, &sign_in, &named).await;
        let refused = refused.expect_err("a wrong code");
        assert_eq!(
            request_id(&refused.metadata().clone().into_headers()),
            "a-wrong-code"
        );
        assert!(!assert_fails(Err::<(), _>(refused), WRONG_CODE).is_empty());
    }
}

#[tokio::test]
async fn a_call_needs_the_credential_that_it_needs_over_grpc() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let bob = server.new_user().await;
    let web = GrpcWeb::new(server.addresses.http);
    let ask = async |metadata: &[(&'static str, String)]| -> Result<GetUserResp, Status> {
        let request = GetUserReq { user_id: 0 };
        let answer = web.call(GET_USER, &request, &borrowed(metadata)).await;
        answer.map(|(answer, _)| answer)
    };
    let found = ask(&credential(&alice)).await.expect("GetUser");
    assert_eq!(found.user.expect("a user").user_id, alice.user_id);
    assert_fails(ask(&[]).await, SIGN_IN_AGAIN);
    let [user, device, token] = credential(&alice);
    assert_fails(ask(&[user.clone(), device.clone()]).await, SIGN_IN_AGAIN);
    let [_, _, others] = credential(&bob);
    assert_fails(ask(&[user, device, others]).await, SIGN_IN_AGAIN);
    assert_fails(ask(&[token]).await, SIGN_IN_AGAIN);
}

#[tokio::test]
async fn a_request_that_is_too_long_or_no_message_is_refused_in_every_form() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let own = credential(&alice);
    for web in GrpcWeb::all(server.addresses.http) {
        let long = sized(alice.user_id, 200_000);
        let own = borrowed(&own);
        let refused = web.call::<SendMessageResp>(SEND_MESSAGE, &long, &own).await;
        assert_fails(refused, BAD_REQUEST);
        let cut_off = web.body(&text(alice.user_id, "hello"))[..8].to_vec();
        for body in [vec![], b"?".to_vec(), b"????????".to_vec(), cut_off] {
            let answer = web.post(SEND_MESSAGE, body, &own).await;
            assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
            let status = Status::from_header_map(answer.headers()).expect("a status");
            assert_eq!(code(&status), BAD_REQUEST, "{web:?}: {status:?}");
        }
    }
    // Nothing of it stands anywhere, and the server goes on.
    assert!(server.timeline(&alice).await.is_empty());
}

#[tokio::test]
async fn the_http_listener_has_the_services_for_devices_as_grpc_web_and_nothing_else() {
    let server = Server::start().await;
    for mut web in GrpcWeb::all(server.addresses.http) {
        let unknown = web.call::<()>("/pb.LogicExt/Fly", &(), &[]).await;
        assert_eq!(unknown.expect_err("no rpc").code(), Code::Unimplemented);
        for path in [
            "/pb.LogicInt/PushToAll",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            let answer = web.post(path, web.body(&()), &[]).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        }
        // What every page may send without leave is not taken for a call.
        for other in ["application/grpc", "application/grpc+proto", "text/plain"] {
            web.content_type = other;
            let answer = web.post(REGISTER_DEVICE, web.body(&()), &[]).await;
            assert_eq!(
                answer.status(),
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{other}"
            );
        }
    }
    for method in [Method::GET, Method::OPTIONS, Method::PUT] {
        let answer = ask(server.addresses.http, method, REGISTER_DEVICE, &[]).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(get(server.addresses.http, "/healthz").await.status, 200);
    assert_ready(server.addresses.http).await;
}

/// A call whose request has not come in full when the drain begins; the server says that it waits
/// for the rest.
#[tokio::test]
async fn a_drain_finishes_the_calls_under_way_and_refuses_new_ones() {
    let mut server = Process::start().await;
    let alice = server.new_user().await;
    let own = credential(&alice);
    let web = GrpcWeb::new(server.addresses.http);
    let body = web.body(&text(alice.user_id, "just in time"));
    let mut under_way = begin_call(server.addresses.http, &own, body.len()).await;

    server.signal("TERM");
    eventually("it drains", async || {
        let answer = try_get(server.addresses.http, "/readyz").await;
        let is_draining = |answer: crate::support::http::Answer| answer.body.contains("draining");
        answer.is_ok_and(is_draining).then_some(())
    })
    .await;
    for web in GrpcWeb::all(server.addresses.http) {
        let hello = text(alice.user_id, "too late");
        let own = borrowed(&own);
        let refused = web
            .call::<SendMessageResp>(SEND_MESSAGE, &hello, &own)
            .await;
        let refused = refused.expect_err("it drains");
        assert_eq!(code(&refused), TRY_AGAIN_LATER, "{refused:?}");
        request_id(&refused.metadata().clone().into_headers());
    }

    under_way.write_all(&body).await.expect("sent");
    let mut answer = Vec::new();
    let read = soon("the answer", under_way.read_to_end(&mut answer));
    read.await.expect("the answer");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.contains("grpc-status:0\r\n"), "{text}");
    assert_eq!(server.ended().await.code(), Some(0));

    server.start_again().await;
    let stored = server.timeline(&alice).await;
    let stored: Vec<_> = stored.iter().map(words).collect();
    assert_eq!(stored, ["just in time"]);
}

/// Sends the head of a call, and waits until the server asks for its body.
async fn begin_call(
    server: SocketAddr,
    credential: &[(&'static str, String)],
    length: usize,
) -> TcpStream {
    let mut socket = TcpStream::connect(server).await.expect("connected");
    let mut head = format!(
        "POST {SEND_MESSAGE} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\n\
         Content-Type: application/grpc-web+proto\r\nConnection: close\r\n\
         Expect: 100-continue\r\n"
    );
    for (name, value) in credential {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    let read = soon("100 Continue", socket.read_exact(&mut interim));
    read.await.expect("100 Continue");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket
}
