//! Tools find their way without our proto files: health and reflection need no token.

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::Server;

#[tokio::test]
async fn the_health_service_says_serving() {
    let server = Server::start().await;
    for channel in [server.grpc_channel(), server.internal_channel()] {
        let request = HealthCheckRequest::default();
        let answer = HealthClient::new(channel).check(request).await;
        let status = answer.expect("health").into_inner().status;
        assert_eq!(status, i32::from(ServingStatus::Serving));
    }
}

#[tokio::test]
async fn reflection_lists_what_devices_call_and_nothing_internal() {
    let server = Server::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(server.grpc_channel());
    let stream = futures_util::stream::iter([request]);
    let answers = client.server_reflection_info(stream).await;
    let mut answers = answers.expect("reflection").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    for expected in ["pb.LogicExt", "pb.UserExt"] {
        assert!(names.contains(&expected), "{names:?}");
    }
    for hidden in ["pb.LogicInt", "pb.UserInt"] {
        assert!(!names.contains(&hidden), "{names:?}");
    }
}

/// What grpcurl does before it can call `SendMessage`.
#[tokio::test]
async fn reflection_describes_a_service_with_all_it_imports() {
    use prost::Message as _;
    let server = Server::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("pb.LogicExt".into())),
    };
    let mut client = ServerReflectionClient::new(server.grpc_channel());
    let stream = futures_util::stream::iter([request]);
    let answers = client.server_reflection_info(stream).await;
    let mut answers = answers.expect("reflection").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("not a file: {answer:?}");
    };
    let file = prost_types::FileDescriptorProto::decode(&*files.file_descriptor_proto[0]);
    let file = file.expect("a descriptor");
    assert!(file.service.iter().any(|s| s.name() == "LogicExt"));
}
