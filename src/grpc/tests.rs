//! The two listeners' services over real sockets, with the generated clients.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::{
    Code as GrpcCode, Request, Status,
    client::Grpc,
    metadata::{MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use super::{External, Health, Internal, Services};
use crate::{
    delivery::handle::{self, Handle},
    error::Code,
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    limits::GRPC_REQUEST_BYTES_MAX,
    pb::{
        self, GetDeviceReq, GetUserReq, IntSignOutReq, PushToAllReq, RegisterDeviceReq,
        SendMessageReq, SignInReq, logic_ext_client::LogicExtClient,
        logic_int_client::LogicIntClient, user_ext_client::UserExtClient,
    },
    store::{auth_token, entity},
    testing::World,
};

mod business;
mod friends;

async fn serve(services: &Services) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = services.router.clone();
    let make = router.into_make_service_with_connect_info::<SocketAddr>();
    Tasks::default().spawn(std::future::IntoFuture::into_future(axum::serve(
        listener, make,
    )));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

async fn external(world: &World) -> (Channel, Health) {
    let services = super::external(External {
        authenticator: world.authenticator.clone(),
        accounts: Some(world.accounts.clone()),
        devices: world.devices.clone(),
        messages: world.messages.clone(),
        friends: world.friends.clone(),
        groups: world.groups.clone(),
    });
    let services = services.await.unwrap();
    (serve(&services).await, services.health)
}

async fn internal(world: &World, token: &str) -> Channel {
    let services = super::internal(Internal {
        authenticator: world.authenticator.clone(),
        accounts: world.accounts.clone(),
        devices: world.devices.clone(),
        directory: world.directory.clone(),
        presence: world.sending.presence.clone(),
        messages: world.messages.clone(),
        token: token.into(),
    });
    serve(&services.await.unwrap()).await
}

fn with_metadata<T>(message: T, pairs: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in pairs {
        let value = MetadataValue::try_from(*value).unwrap();
        request.metadata_mut().insert(*name, value);
    }
    request
}

/// The request id that came back.
fn request_id(metadata: &MetadataMap) -> &str {
    metadata.get("request_id").unwrap().to_str().unwrap()
}

fn assert_business(status: &Status, code: Code, grpc: GrpcCode) {
    assert_eq!(status.code(), grpc, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((&*info.domain, &*info.reason), ("im", code.reason()));
    assert_eq!(info.metadata["code"], code.number().to_string());
    assert!(!request_id(status.metadata()).is_empty());
}

fn assert_sign_in_again(status: &Status) {
    assert_business(status, Code::SignInAgain, GrpcCode::Unauthenticated);
}

/// Registers a device and signs a user in on it; returns user, device and token.
async fn sign_in(channel: &Channel) -> [String; 3] {
    let device = RegisterDeviceReq {
        r#type: 1,
        ..Default::default()
    };
    let mut logic = LogicExtClient::new(channel.clone());
    let registered = logic.register_device(device).await;
    let device_id = registered.unwrap().into_inner().device_id;
    let sign_in = SignInReq {
        phone_number: "1000000".into(),
        code: "999999".into(),
        device_id,
        ..Default::default()
    };
    let signed_in = UserExtClient::new(channel.clone()).sign_in(sign_in).await;
    let signed_in = signed_in.unwrap().into_inner();
    [
        signed_in.user_id.to_string(),
        device_id.to_string(),
        signed_in.token,
    ]
}

#[tokio::test]
async fn call_needs_the_credential_of_its_caller() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let [user, device, token] = sign_in(&channel).await;
    let mut users = UserExtClient::new(channel.clone());
    for (user, device, token) in [
        (&*user, &*device, "0".repeat(64)),
        (&user, &device, String::new()),
        (&user, "99", token.clone()),
        ("99", &device, token.clone()),
        ("0", &device, token.clone()),
        ("-1", &device, token.clone()),
    ] {
        let pairs = [("user_id", user), ("device_id", device), ("token", &*token)];
        let refused = users.get_user(with_metadata(GetUserReq::default(), &pairs));
        assert_sign_in_again(&refused.await.unwrap_err());
    }
    assert_sign_in_again(&users.get_user(GetUserReq::default()).await.unwrap_err());
    let mut logic = LogicExtClient::new(channel.clone());
    let sent = logic.send_message(SendMessageReq::default());
    assert_sign_in_again(&sent.await.unwrap_err());

    let pairs = [
        ("user_id", &*user),
        ("device_id", &device),
        ("token", &token),
    ];
    for _cached in [false, true] {
        let found = users.get_user(with_metadata(GetUserReq::default(), &pairs));
        let found = found.await.unwrap().into_inner().user.unwrap();
        assert_eq!(found.user_id.to_string(), user);
        assert_eq!(found.create_time, crate::testing::START_MS / 1_000);
    }
    users
        .sign_out(with_metadata(crate::pb::SignOutReq {}, &pairs))
        .await
        .unwrap();
    let after = users.get_user(with_metadata(GetUserReq::default(), &pairs));
    assert_sign_in_again(&after.await.unwrap_err());
}

#[tokio::test]
async fn request_id_comes_back_with_answers_and_errors() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let mut logic = LogicExtClient::new(channel);
    let ids = [("request_id", "order-17")];
    for (kind, good) in [(1, true), (6, false)] {
        let device = RegisterDeviceReq {
            r#type: kind,
            ..Default::default()
        };
        let answer = logic
            .register_device(with_metadata(device.clone(), &ids))
            .await;
        assert_eq!(answer.is_ok(), good);
        let metadata = answer.map_or_else(|e| e.metadata().clone(), |a| a.metadata().clone());
        assert_eq!(request_id(&metadata), "order-17");
        let answer = logic.register_device(device).await;
        let metadata = answer.map_or_else(|e| e.metadata().clone(), |a| a.metadata().clone());
        assert!(!matches!(request_id(&metadata), "" | "order-17"));
    }
}

#[tokio::test]
async fn what_nothing_answers_is_unimplemented() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    for path in [
        "/pb.LogicInt/PushToAll",
        "/pb.UserExt/Nothing",
        "/no.Such/Thing",
    ] {
        let status = raw(&channel, path, PushToAllReq::default()).await;
        assert_eq!(status.code(), GrpcCode::Unimplemented, "{path}");
        assert!(!request_id(status.metadata()).is_empty());
    }
    let business = internal(&world, "").await;
    let status = raw(&business, "/pb.UserExt/SignIn", PushToAllReq::default()).await;
    assert_eq!(status.code(), GrpcCode::Unimplemented);
}

#[tokio::test]
async fn fields_of_a_group_arrive_where_they_belong() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let [user, device, token] = sign_in(&channel).await;
    let pairs = [
        ("user_id", &*user),
        ("device_id", &device),
        ("token", &token),
    ];
    let user_id = user.parse().unwrap();
    let mut logic = LogicExtClient::new(channel);
    let create = pb::CreateGroupReq {
        name: "name".into(),
        avatar_url: "avatar".into(),
        introduction: "introduction".into(),
        r#type: pb::GroupType::GtLarge as i32,
        extra: "extra".into(),
        member_ids: Vec::new(),
    };
    let created = logic.create_group(with_metadata(create, &pairs)).await;
    let group_id = created.unwrap().into_inner().group_id;
    let mut expected = pb::Group {
        group_id,
        name: "name".into(),
        avatar_url: "avatar".into(),
        introduction: "introduction".into(),
        user_mum: 1,
        r#type: pb::GroupType::GtLarge as i32,
        extra: "extra".into(),
        create_time: crate::testing::START_MS / 1_000,
        update_time: crate::testing::START_MS / 1_000,
    };
    let get = with_metadata(pb::GetGroupReq { group_id }, &pairs);
    let found = logic.get_group(get).await.unwrap().into_inner();
    assert_eq!(found.group.as_ref(), Some(&expected));

    world.clock.advance_ms(1_000);
    let update = pb::UpdateGroupReq {
        group_id,
        avatar_url: "new avatar".into(),
        name: "new name".into(),
        introduction: "new introduction".into(),
        extra: "new extra".into(),
    };
    let updated = logic.update_group(with_metadata(update, &pairs)).await;
    updated.unwrap();
    expected.name = "new name".into();
    expected.avatar_url = "new avatar".into();
    expected.introduction = "new introduction".into();
    expected.extra = "new extra".into();
    expected.update_time += 1;
    let list = with_metadata(pb::GetGroupsReq {}, &pairs);
    let listed = logic.get_groups(list).await.unwrap().into_inner();
    assert_eq!(listed.groups, [expected]);

    let own = pb::UpdateGroupMemberReq {
        group_id,
        user_id,
        member_type: 0,
        remarks: "remarks".into(),
        extra: "own extra".into(),
    };
    let changed = logic.update_group_member(with_metadata(own, &pairs)).await;
    changed.unwrap();
    let add = pb::AddGroupMembersReq {
        group_id,
        user_ids: vec![user_id],
    };
    let added = logic.add_group_members(with_metadata(add, &pairs)).await;
    assert_eq!(added.unwrap().into_inner().user_ids, [user_id]);
    let page = pb::GetGroupMembersReq {
        group_id,
        ..Default::default()
    };
    let page = logic.get_group_members(with_metadata(page, &pairs)).await;
    let page = page.unwrap().into_inner();
    let member = &page.members[0];
    assert_eq!((page.members.len(), page.has_more), (1, false));
    assert_eq!((&*member.remarks, &*member.extra), ("remarks", "own extra"));
    assert_eq!(member.member_type(), pb::MemberType::GmtAdmin);

    let leave = pb::DeleteGroupMemberReq { group_id, user_id };
    let left = logic
        .delete_group_member(with_metadata(leave, &pairs))
        .await;
    left.unwrap();
    let get = with_metadata(pb::GetGroupReq { group_id }, &pairs);
    let ended = logic.get_group(get).await.unwrap_err();
    assert_business(&ended, Code::NoSuchGroup, GrpcCode::NotFound);
}

/// Calls `path` with whatever message, and returns the error.
async fn raw<M: prost::Message + Default + 'static>(
    channel: &Channel,
    path: &'static str,
    message: M,
) -> Status {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<M, M>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = grpc.unary(Request::new(message), path, codec).await;
    answer.err().expect("an error")
}

/// `RegisterDeviceReq` with bytes where a text belongs.
#[derive(Clone, PartialEq, prost::Message)]
struct BytesForText {
    #[prost(bytes = "vec", tag = "3")]
    brand: Vec<u8>,
}

#[tokio::test]
async fn request_that_cannot_be_read_is_a_bad_request() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let path = "/pb.LogicExt/RegisterDevice";
    let brand = vec![0xff, 0xfe];
    let no_utf8 = raw(&channel, path, BytesForText { brand }).await;
    assert_business(&no_utf8, Code::BadRequest, GrpcCode::InvalidArgument);
    assert!(no_utf8.message().contains("brand"), "{}", no_utf8.message());
    let brand = vec![b'x'; GRPC_REQUEST_BYTES_MAX + 1];
    let too_long = raw(&channel, path, BytesForText { brand }).await;
    assert_business(&too_long, Code::BadRequest, GrpcCode::InvalidArgument);
}

#[tokio::test]
async fn internal_error_tells_devices_only_the_request_id() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let [user, device, token] = sign_in(&channel).await;
    let broken = entity::auth_token::Model {
        device_id: device.parse().unwrap(),
        user_id: user.parse().unwrap(),
        token_hash: vec![1],
        expires_at: i64::MAX,
    };
    let tx = world.store.begin().await.unwrap();
    auth_token::replace(tx.conn(), broken).await.unwrap();
    tx.commit().await.unwrap();
    let pairs = [
        ("user_id", &*user),
        ("device_id", &device),
        ("token", &token),
        ("request_id", "order-17"),
    ];
    let mut users = UserExtClient::new(channel);
    let failed = users.get_user(with_metadata(GetUserReq::default(), &pairs));
    let status = failed.await.unwrap_err();
    assert_eq!(status.code(), GrpcCode::Internal);
    assert_eq!(
        status.message(),
        "internal error, logged under request id order-17"
    );
    assert_eq!(request_id(status.metadata()), "order-17");
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn business_server_shows_its_token_for_everything_but_health() {
    let world = World::new().await;
    let channel = internal(&world, "secret").await;
    let mut logic = LogicIntClient::new(channel.clone());
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();

    let device_id = world.device().await.get();
    let ask = |pairs| with_metadata(GetDeviceReq { device_id }, pairs);
    for pairs in [&[][..], &[("authorization", "Bearer wrong")]] {
        let refused = logic.get_device(ask(pairs)).await;
        assert_sign_in_again(&refused.unwrap_err());
    }
    let good = [("authorization", "Bearer secret")];
    logic.get_device(ask(&good)).await.unwrap();
    assert_sign_in_again(&raw(&channel, "/no.Such/Thing", PushToAllReq::default()).await);
}

#[tokio::test]
async fn business_server_sees_who_is_online_and_signs_out() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let [user, device, _] = sign_in(&channel).await;
    let (user_id, device_id) = (user.parse().unwrap(), device.parse().unwrap());
    let mut logic = LogicIntClient::new(internal(&world, "").await);
    let mut seen = async || {
        let answer = logic.get_device(GetDeviceReq { device_id }).await.unwrap();
        let device = answer.into_inner().device.unwrap();
        assert_eq!((device.user_id, device.r#type), (user_id, 1));
        device.status
    };
    assert_eq!(seen().await, 0);
    let handle = std::sync::Arc::new(Handle::new(DeviceId(device_id)));
    world.registry.enter(&handle);
    let credential = handle::Credential {
        user: UserId(user_id),
        generation: 1,
        token_hash: [0; 32],
        expires_at: i64::MAX,
    };
    world.registry.sign_in(&handle, credential);
    assert_eq!(seen().await, 1);

    let sign_out = IntSignOutReq { user_id, device_id };
    let mut logic = LogicIntClient::new(internal(&world, "").await);
    logic.sign_out(sign_out).await.unwrap();
    assert_eq!(handle.eviction(), Some(handle::Eviction::SignedOut));
    let unknown = logic
        .get_device(GetDeviceReq { device_id: 99 })
        .await
        .unwrap_err();
    assert_business(&unknown, Code::NoSuchDevice, GrpcCode::NotFound);
}

#[tokio::test]
async fn health_follows_the_server_and_reflection_names_its_services() {
    let world = World::new().await;
    let (channel, reported) = external(&world).await;
    let mut health = HealthClient::new(channel.clone());
    let mut status = async |service: &str| {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        answer.into_inner().status().as_str_name()
    };
    for service in ["", "pb.LogicExt", "pb.UserExt"] {
        assert_eq!(status(service).await, "SERVING");
    }
    reported.stop_serving().await;
    for service in ["", "pb.LogicExt", "pb.UserExt"] {
        assert_eq!(status(service).await, "NOT_SERVING");
    }

    assert_eq!(
        reflected(channel).await,
        ["grpc.health.v1.Health", "pb.LogicExt", "pb.UserExt"]
    );
    assert_eq!(
        reflected(internal(&world, "").await).await,
        ["grpc.health.v1.Health", "pb.LogicInt", "pb.UserInt"]
    );
}

/// The services that reflection lists.
async fn reflected(channel: Channel) -> Vec<String> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(requests).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    names
}
