//! The bad-input table (design §9), the rows about frames and packages: what is answered, what is
//! closed, and that nobody else notices (I9).

use im::pb::{Input, PackageType, SyncInput};
use prost::Message as _;

use crate::support::{
    Server, Transport,
    errors::{BAD_REQUEST, SIGN_IN_AGAIN, assert_code},
    wire::{opcode, web_socket_frame},
};

on_each_transport!(
    an_empty_body_is_answered_then_closed,
    an_undecodable_body_is_answered_then_closed,
    an_undecodable_body_before_the_sign_in_is_answered_then_closed,
    an_unknown_package_type_is_answered_and_the_connection_stays,
    a_package_only_the_server_sends_is_answered_and_the_connection_stays,
    undecodable_data_of_a_package_is_answered,
    a_package_before_the_sign_in_is_answered_then_closed,
);

/// Bodies that no protobuf decoder takes for an `Input`.
const UNDECODABLE: [&[u8]; 4] = [
    &[0x07],             // wire type 7
    &[0x1A, 0x05, 0x01], // five bytes announced, one there
    &[0x08, 0xFF, 0xFF], // a number that does not end
    &[0x0A, 0x01, 0x00], // `type` as bytes
];

async fn an_empty_body_is_answered_then_closed(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    connection.body(&[]).await;
    let answer = connection.any_answer().await.expect("an answer");
    assert_code(&answer, BAD_REQUEST);
    assert_eq!(answer.r#type, i32::from(PackageType::PtUnknown));
    connection.assert_closes(1008).await;
}

async fn an_undecodable_body_is_answered_then_closed(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut other = server.connect(transport, &bob).await;
    for body in UNDECODABLE {
        let mut connection = server.connect(transport, &alice).await;
        connection.body(body).await;
        let answer = connection.any_answer().await.expect("an answer");
        assert_code(&answer, BAD_REQUEST);
        assert_eq!(answer.r#type, i32::from(PackageType::PtUnknown));
        connection.assert_closes(1008).await;
        other.heartbeat().await;
    }
}

async fn an_undecodable_body_before_the_sign_in_is_answered_then_closed(transport: Transport) {
    let server = Server::start().await;
    for body in UNDECODABLE {
        let mut connection = server.open(transport).await;
        connection.body(body).await;
        let answer = connection.any_answer().await.expect("an answer");
        assert_code(&answer, BAD_REQUEST);
        connection.assert_closes(1008).await;
    }
}

async fn an_unknown_package_type_is_answered_and_the_connection_stays(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    for unknown in [0, 8, 99, -1, i32::MAX, i32::MIN] {
        let request_id = connection.input(unknown, b"whatever".to_vec()).await;
        let answer = connection.answer(request_id).await;
        assert_code(&answer, BAD_REQUEST);
        assert_eq!(answer.r#type, unknown, "an answer bears its Input's type");
        connection.heartbeat().await;
    }
}

async fn a_package_only_the_server_sends_is_answered_and_the_connection_stays(
    transport: Transport,
) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    let notice = im::pb::Notice::default();
    let answer = connection.request(PackageType::PtNotice, &notice).await;
    assert_code(&answer, BAD_REQUEST);
    connection.heartbeat().await;
}

async fn undecodable_data_of_a_package_is_answered(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let packages = [
        PackageType::PtSync,
        PackageType::PtMessage,
        PackageType::PtSendMessage,
    ];
    for package in packages {
        let mut connection = server.connect(transport, &alice).await;
        let request_id = connection.input(package.into(), vec![0x07]).await;
        let answer = connection.answer(request_id).await;
        assert_code(&answer, BAD_REQUEST);
        assert_eq!(answer.r#type, i32::from(package));
    }
}

async fn a_package_before_the_sign_in_is_answered_then_closed(transport: Transport) {
    let server = Server::start().await;
    let sync = SyncInput::default();
    let packages = [
        PackageType::PtSync,
        PackageType::PtHeartbeat,
        PackageType::PtMessage,
        PackageType::PtSendMessage,
        PackageType::PtSubscribeRoom,
    ];
    for package in packages {
        let mut connection = server.open(transport).await;
        let answer = connection.request(package, &sync).await;
        assert_code(&answer, SIGN_IN_AGAIN);
        assert!(answer.data.is_empty(), "an error and no data (I8)");
        connection.assert_closes(1008).await;
    }
}

/// The longest body there may be is a body like any other.
#[tokio::test]
async fn a_body_of_the_limit_is_read_on_both_transports() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    for transport in crate::support::wire::BOTH {
        let mut connection = server.connect(transport, &alice).await;
        let mut input = Input {
            r#type: PackageType::PtHeartbeat.into(),
            request_id: 5,
            data: vec![0; 65_000].into(),
        };
        let missing = 65_535 - input.encoded_len();
        input.data = vec![0; 65_000 + missing].into();
        assert_eq!(input.encoded_len(), 65_535);
        connection.body(&input.encode_to_vec()).await;
        let answer = connection.any_answer().await.expect("an answer");
        assert_eq!(answer.request_id, 5);
    }
}

#[tokio::test]
async fn a_websocket_text_message_is_closed_with_1003() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::WebSocket, &alice).await;
    connection
        .raw(&web_socket_frame(opcode::TEXT, true, b"hello"))
        .await;
    connection.assert_closes(1003).await;
}

#[tokio::test]
async fn a_websocket_message_over_the_limit_is_closed_with_1009() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let whole = web_socket_frame(opcode::BINARY, true, &vec![0; 65_536]);
    let mut parts = web_socket_frame(opcode::BINARY, false, &vec![0; 40_000]);
    parts.extend(web_socket_frame(
        opcode::CONTINUATION,
        true,
        &vec![0; 40_000],
    ));
    // A header alone is enough to know.
    let announced = web_socket_frame(opcode::BINARY, true, &vec![0; 1 << 20])[..14].to_vec();
    for bytes in [whole, parts, announced] {
        let mut connection = server.connect(Transport::WebSocket, &alice).await;
        connection.raw(&bytes).await;
        connection.assert_closes(1009).await;
    }
}

/// Frames that no WebSocket client may send end that connection and no other.
#[tokio::test]
async fn a_broken_websocket_frame_ends_its_connection_only() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut other = server.connect(Transport::WebSocket, &bob).await;
    let broken: [&[u8]; 5] = [
        &[0x82, 0x01, 0x00],                   // not masked
        &[0xC2, 0x80, 0, 0, 0, 0],             // a reserved bit
        &[0x83, 0x80, 0, 0, 0, 0],             // a reserved opcode
        &[0x80, 0x80, 0, 0, 0, 0],             // a continuation of nothing
        &[0x89, 0xFE, 0x01, 0x00, 0, 0, 0, 0], // a ping of 256 bytes
    ];
    for bytes in broken {
        let mut connection = server.connect(Transport::WebSocket, &alice).await;
        connection.raw(bytes).await;
        connection.closed().await;
        other.heartbeat().await;
    }
}
