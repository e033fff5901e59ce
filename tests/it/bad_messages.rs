//! The bad-input table (design §9), the rows about messages, over gRPC and on the long connection:
//! each is refused with a sentence that names the field, and nothing is stored.

use im::pb::{Command, MessageType, PackageType, ReceiverType, SendMessageReq};
use prost::Message as _;
use tonic_prost::ProstCodec;

use crate::support::{
    Server, Transport,
    errors::{BAD_REQUEST, NO_SUCH_GROUP, NO_SUCH_USER, assert_code, assert_fails, assert_names},
    messages::{sized, text, text_with_id},
};

on_each_transport!(
    a_field_out_of_its_bounds_is_refused_by_name,
    fields_are_checked_before_existence,
    a_receiver_that_does_not_exist_is_refused,
    text_that_is_not_utf8_is_refused_by_name,
);

/// Requests that are wrong in one field, and that field.
fn wrong_requests(to: i64) -> Vec<(&'static str, SendMessageReq)> {
    let good = text(to, "x");
    let command = |code| Command {
        code,
        data: Default::default(),
    };
    let with = |change: &dyn Fn(&mut SendMessageReq)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let mut requests = vec![
        ("message_content", sized(to, 60_001)),
        ("client_message_id", text_with_id(to, "x", &"i".repeat(65))),
        ("to_user_ids", with(&|r| r.to_user_ids = vec![1; 101])),
        ("to_user_ids", with(&|r| r.to_user_ids = vec![1, -1])),
        ("receiver_id", with(&|r| r.receiver_id = -1)),
        ("receiver_id", with(&|r| r.receiver_id = i64::MIN)),
    ];
    for unknown in [0, 5, 99, -1] {
        requests.push(("receiver_type", with(&|r| r.receiver_type = unknown)));
    }
    for unknown in [0, 9, 99, -1] {
        requests.push(("message_type", with(&|r| r.message_type = unknown)));
    }
    for reserved in [0, 1, 100, 999, -1] {
        let content = command(reserved).encode_to_vec();
        requests.push((
            "message_content",
            SendMessageReq {
                message_type: MessageType::MtCommand.into(),
                message_content: content.into(),
                ..good.clone()
            },
        ));
    }
    requests
}

async fn a_field_out_of_its_bounds_is_refused_by_name(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &alice).await;
    for persist in [true, false] {
        for (field, mut request) in wrong_requests(bob.user_id) {
            request.is_persist = persist;
            let answer = connection.try_send(&request).await;
            assert_code(&answer, BAD_REQUEST);
            assert!(answer.message.contains(field), "{field}: {answer:?}");
            assert_names(server.try_send(&alice, request).await, field);
        }
    }
    // The connection stays, nothing was stored, and what is right passes.
    assert_eq!(connection.send(&text(bob.user_id, "right")).await.seq, 1);
}

async fn fields_are_checked_before_existence(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    let nobody = i64::MAX;
    for (field, request) in wrong_requests(nobody) {
        let answer = connection.try_send(&request).await;
        assert_code(&answer, BAD_REQUEST);
        assert!(answer.message.contains(field), "{field}: {answer:?}");
    }
}

async fn a_receiver_that_does_not_exist_is_refused(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    let cases = [
        (ReceiverType::RtUser, NO_SUCH_USER),
        (ReceiverType::RtSmallGroup, NO_SUCH_GROUP),
        (ReceiverType::RtLargeGroup, NO_SUCH_GROUP),
    ];
    for (receiver_type, code) in cases {
        for persist in [true, false] {
            let request = SendMessageReq {
                receiver_type: receiver_type.into(),
                is_persist: persist,
                ..text(i64::MAX, "x")
            };
            assert_code(&connection.try_send(&request).await, code);
            assert_fails(server.try_send(&alice, request).await, code);
        }
    }
    assert!(server.timeline(&alice).await.is_empty());
}

/// `SendMessageReq` with bytes where the contract has a string.
#[derive(Clone, PartialEq, prost::Message)]
struct NotUtf8 {
    #[prost(int32, tag = "1")]
    receiver_type: i32,
    #[prost(int64, tag = "2")]
    receiver_id: i64,
    #[prost(int32, tag = "4")]
    message_type: i32,
    #[prost(bool, tag = "7")]
    is_persist: bool,
    #[prost(bytes = "vec", tag = "8")]
    client_message_id: Vec<u8>,
}

async fn text_that_is_not_utf8_is_refused_by_name(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &alice).await;
    let message = NotUtf8 {
        receiver_type: 1,
        receiver_id: bob.user_id,
        message_type: 1,
        is_persist: true,
        client_message_id: vec![0xFF, 0xFE],
    };
    let answer = connection
        .request(PackageType::PtSendMessage, &message)
        .await;
    assert_code(&answer, BAD_REQUEST);
    assert!(answer.message.contains("client_message_id"), "{answer:?}");

    let mut grpc = tonic::client::Grpc::new(server.grpc_channel());
    grpc.ready().await.expect("connected");
    let mut request = tonic::Request::new(message);
    alice.authorize(&mut request);
    let path = http::uri::PathAndQuery::from_static("/pb.LogicExt/SendMessage");
    let codec = ProstCodec::<NotUtf8, im::pb::SendMessageResp>::default();
    assert_names(grpc.unary(request, path, codec).await, "client_message_id");
}
