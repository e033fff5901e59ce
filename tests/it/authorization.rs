//! Every rpc that needs a token refuses whoever has none, a wrong one or a foreign one; the list of
//! those that need none is short and known (I8). The rpcs are read from the descriptors, so that
//! none is forgotten.

use im::pb::{EXTERNAL_DESCRIPTORS, INTERNAL_DESCRIPTORS};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Status, transport::Channel};
use tonic_prost::ProstCodec;

use crate::support::{
    Device, Server,
    api::with_metadata,
    errors::{SIGN_IN_AGAIN, assert_fails, code},
};

/// The calls that need no token (design §7).
const OPEN: [&str; 3] = [
    "/pb.LogicExt/RegisterDevice",
    "/pb.UserExt/SendCode",
    "/pb.UserExt/SignIn",
];

/// Every rpc that a descriptor set has, as a path.
fn rpcs(descriptors: &[u8]) -> Vec<String> {
    let set = FileDescriptorSet::decode(descriptors).expect("descriptors");
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                paths.push(path);
            }
        }
    }
    assert!(paths.len() > 5, "{paths:?}");
    paths
}

/// Calls `path` with an empty message and `metadata`.
async fn call(
    channel: Channel,
    path: &str,
    metadata: &[(&'static str, &str)],
) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("connected");
    let path = path.parse().expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    let answer = grpc.unary(with_metadata((), metadata), path, codec).await;
    answer.map(|_| ())
}

#[tokio::test]
async fn every_rpc_refuses_whoever_is_not_signed_in() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&alice).await;
    let own = |device: &Device| (device.user_id.to_string(), device.device_id.to_string());
    let ((user, device), (bobs_user, bobs_device)) = (own(&alice), own(&bob));
    let (_, other_device) = own(&other);
    let wrong: [&[(&'static str, &str)]; 11] = [
        &[],
        &[("token", &alice.token)],
        &[("user_id", &user), ("device_id", &device)],
        &[("user_id", &user), ("token", &alice.token)],
        &[("device_id", &device), ("token", &alice.token)],
        &[("user_id", &user), ("device_id", &device), ("token", "")],
        &[
            ("user_id", &user),
            ("device_id", &device),
            ("token", "wrong"),
        ],
        &[
            ("user_id", &user),
            ("device_id", &device),
            ("token", &bob.token),
        ],
        &[
            ("user_id", &bobs_user),
            ("device_id", &device),
            ("token", &alice.token),
        ],
        &[
            ("user_id", &user),
            ("device_id", &bobs_device),
            ("token", &alice.token),
        ],
        &[
            ("user_id", &user),
            ("device_id", &other_device),
            ("token", &alice.token),
        ],
    ];
    let mut checked = 0;
    for path in rpcs(EXTERNAL_DESCRIPTORS) {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        for metadata in wrong {
            let refused = call(server.grpc_channel(), &path, metadata).await;
            println!("{path} with {metadata:?}");
            assert_fails(refused, SIGN_IN_AGAIN);
        }
        checked += 1;
    }
    assert!(checked >= 18, "{checked} rpcs need a token");
    assert!(server.token_lives(&alice).await, "refusals change nothing");
}

#[tokio::test]
async fn garbage_in_the_metadata_is_refused() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let device = alice.device_id.to_string();
    for user in ["alice", "", "-1", "0", "9223372036854775808", "1 "] {
        let metadata = [
            ("user_id", user),
            ("device_id", &device),
            ("token", &alice.token),
        ];
        let refused = call(server.grpc_channel(), "/pb.UserExt/GetUser", &metadata).await;
        assert_fails(refused, SIGN_IN_AGAIN);
    }
}

#[tokio::test]
async fn open_rpcs_ask_for_no_token() {
    let server = Server::start().await;
    let descriptors = rpcs(EXTERNAL_DESCRIPTORS);
    for path in OPEN {
        assert!(
            descriptors.iter().any(|p| p == path),
            "{path} is in the contract"
        );
        if let Err(status) = call(server.grpc_channel(), path, &[]).await {
            // An empty request may be wrong, but not for want of a token.
            assert_ne!(code(&status), SIGN_IN_AGAIN, "{path}: {status:?}");
        }
    }
}

/// What a business may do no device may, and the other way round.
#[tokio::test]
async fn each_listener_serves_its_own_services_only() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let (user, device) = (alice.user_id.to_string(), alice.device_id.to_string());
    let good = [
        ("user_id", user.as_str()),
        ("device_id", device.as_str()),
        ("token", alice.token.as_str()),
    ];
    let cases = [
        (server.grpc_channel(), rpcs(INTERNAL_DESCRIPTORS), "Int/"),
        (
            server.internal_channel(),
            rpcs(EXTERNAL_DESCRIPTORS),
            "Ext/",
        ),
    ];
    for (channel, paths, theirs) in cases {
        // The descriptors of one side import some of the other's.
        for path in paths.into_iter().filter(|path| path.contains(theirs)) {
            let refused = call(channel.clone(), &path, &good).await;
            let status = refused.expect_err("not served here");
            assert_eq!(
                status.code(),
                tonic::Code::Unimplemented,
                "{path}: {status:?}"
            );
        }
    }
}
