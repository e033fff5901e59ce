//! However bytes are cut or joined on the way, the packages in them are the same.

use im::pb::{Input, Output, PackageType};
use prost::Message as _;

use crate::support::{
    Api, Connection, Device, Server, Transport,
    connection::sent,
    messages::{sized, text, words},
    wait::soon,
    wire::{Incoming, framed, opcode, web_socket_frame},
};

on_each_transport!(
    a_conversation_cut_at_every_byte_is_understood,
    a_conversation_byte_by_byte_is_understood,
    packages_joined_in_one_write_are_answered_in_order,
    answers_that_do_not_fit_the_output_at_once_all_come,
    what_was_sent_before_a_half_close_is_answered,
    the_largest_message_passes,
    request_ids_come_back_as_they_are,
);

/// What a whole conversation looks like on the wire: sign-in, heartbeat, a send.
fn conversation(transport: Transport, device: &Device, to: i64) -> Vec<u8> {
    let sign_in = device.sign_in_input().encode_to_vec();
    let send = text(to, "cut").encode_to_vec();
    [
        (PackageType::PtSignIn, sign_in),
        (PackageType::PtHeartbeat, Vec::new()),
        (PackageType::PtSendMessage, send),
    ]
    .into_iter()
    .zip(1..)
    .flat_map(|((package, data), request_id)| framed(transport, &input(package, request_id, data)))
    .collect()
}

fn input(package: PackageType, request_id: i64, data: Vec<u8>) -> Vec<u8> {
    let input = Input {
        r#type: package.into(),
        request_id,
        data: data.into(),
    };
    input.encode_to_vec()
}

/// The answers to [`conversation`].
async fn assert_understood(connection: &mut Connection) {
    for request_id in 1..=3 {
        let answer = connection.any_answer().await.expect("it stays open");
        assert_eq!(
            (answer.request_id, answer.code),
            (request_id, 0),
            "{answer:?}"
        );
    }
}

/// Gives the server time to read what was sent so far, without a clock: a whole round trip.
async fn let_the_server_read(api: &Api) {
    let health = crate::support::http::get(api.addresses.http, "/healthz").await;
    assert_eq!(health.status, 200);
}

async fn a_conversation_cut_at_every_byte_is_understood(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let bytes = conversation(transport, &alice, bob.user_id);
    for cut in 1..bytes.len() {
        let mut connection = server.open(transport).await;
        connection.raw(&bytes[..cut]).await;
        let_the_server_read(&server).await;
        connection.raw(&bytes[cut..]).await;
        assert_understood(&mut connection).await;
    }
    let timeline = server.timeline(&bob).await;
    assert_eq!(timeline.len(), bytes.len() - 1, "each send once");
    assert!(timeline.iter().all(|m| words(m) == "cut"));
}

async fn a_conversation_byte_by_byte_is_understood(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.open(transport).await;
    for byte in conversation(transport, &alice, bob.user_id) {
        connection.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_understood(&mut connection).await;
    assert_eq!(server.timeline(&bob).await.len(), 1);
}

async fn packages_joined_in_one_write_are_answered_in_order(transport: Transport) {
    const COUNT: i64 = 200;
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    let note = text(alice.user_id, "x").encode_to_vec();
    let bytes: Vec<u8> = (1..=COUNT)
        .flat_map(|n| {
            framed(
                transport,
                &input(PackageType::PtSendMessage, n, note.clone()),
            )
        })
        .collect();
    connection.raw(&bytes).await;
    for n in 1..=COUNT {
        let answer = connection.any_answer().await.expect("it stays open");
        assert_eq!((answer.request_id, sent(&answer).seq), (n, n));
    }
}

/// Acks whose seq is no varint: the answers that say so are longer, and do not fit the
/// server's output together.
fn refused(transport: Transport) -> Vec<u8> {
    let package = |n| {
        let data = vec![(2 << 3) | 5, 0, 0, 0, 0];
        framed(transport, &input(PackageType::PtMessage, n, data))
    };
    (1..=REFUSED).flat_map(package).collect()
}

/// A connection may send twice as many a second.
const REFUSED: i64 = 1_900;

async fn answers_that_do_not_fit_the_output_at_once_all_come(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    connection.raw(&refused(transport)).await;
    let mut bytes = 0;
    for n in 1..=REFUSED {
        let answer = connection.any_answer().await.expect("it stays open");
        assert_eq!((answer.request_id, answer.code), (n, 10001));
        bytes += answer.encoded_len();
    }
    assert!(bytes > 2 * 64 * 1024, "{bytes}");
}

async fn what_was_sent_before_a_half_close_is_answered(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let connection = server.connect(transport, &alice).await;
    let (mut reader, mut writer) = connection.into_halves();
    writer.raw(&refused(transport)).await.expect("it is open");
    drop(writer);
    for n in 1..=REFUSED {
        let Incoming::Body(answer) = soon("an answer", reader.next()).await else {
            panic!("it ends before answer {n}");
        };
        let answer = Output::decode(answer).expect("an Output");
        assert_eq!((answer.request_id, answer.code), (n, 10001));
    }
}

async fn the_largest_message_passes(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let profile = im::pb::UpdateUserReq {
        nickname: "n".repeat(128),
        sex: 1,
        avatar_url: "a".repeat(1024),
        extra: "e".repeat(2048),
    };
    let mut users = server.users(&alice);
    users.update_user(profile).await.expect("UpdateUser");
    let request = im::pb::SendMessageReq {
        to_user_ids: vec![i64::MAX; 100],
        send_time: i64::MAX,
        client_message_id: "i".repeat(64),
        ..sized(bob.user_id, 60_000)
    };
    let mut receiver = server.connect(transport, &bob).await;
    let mut sender = server.connect(transport, &alice).await;
    for _ in 0..2 {
        sender.send(&request).await;
    }
    let pushed = receiver.push().await;
    assert_eq!(pushed.message_content, request.message_content);
    assert_eq!(pushed.to_user_ids, request.to_user_ids);
    let page = receiver.sync_after(0).await;
    assert_eq!(page.messages, [pushed], "synced as well");
}

async fn request_ids_come_back_as_they_are(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    for request_id in [0, 1, -1, i64::MAX, i64::MIN, 0] {
        let heartbeat = input(PackageType::PtHeartbeat, request_id, Vec::new());
        connection.body(&heartbeat).await;
        let answer = connection.any_answer().await.expect("it stays open");
        assert_eq!((answer.request_id, answer.code), (request_id, 0));
    }
}

/// A WebSocket message may come in fragments, with control frames between them.
#[tokio::test]
async fn a_fragmented_websocket_message_is_one_package() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::WebSocket, &alice).await;
    let note = text(alice.user_id, "in pieces").encode_to_vec();
    let body = input(PackageType::PtSendMessage, 9, note);
    let mut bytes = Vec::new();
    for (at, byte) in body.iter().enumerate() {
        let opcode = if at == 0 {
            opcode::BINARY
        } else {
            opcode::CONTINUATION
        };
        bytes.extend(web_socket_frame(opcode, at + 1 == body.len(), &[*byte]));
        if at == body.len() / 2 {
            bytes.extend(web_socket_frame(opcode::PING, true, b"still there?"));
        }
    }
    connection.raw(&bytes).await;
    connection.pong().await;
    let answer = connection.any_answer().await.expect("it stays open");
    assert_eq!((answer.request_id, sent(&answer).seq), (9, 1));
}
