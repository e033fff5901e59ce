//! The internal listener: devices as a business sees them, and the token rule.

use im::pb::{GetDeviceReq, IntSignOutReq, logic_int_client::LogicIntClient};
use tonic::Status;

use crate::support::{
    Api, Server, Transport,
    api::with_metadata,
    errors::{NO_SUCH_DEVICE, SIGN_IN_AGAIN, assert_fails},
    wait::eventually,
};

on_each_transport!(a_device_is_online_while_it_is_connected);

async fn get_device(server: &Api, device_id: i64) -> Result<im::pb::Device, Status> {
    let request = GetDeviceReq { device_id };
    let answer = server.internal().get_device(request).await?;
    Ok(answer.into_inner().device.expect("a device"))
}

async fn a_device_is_online_while_it_is_connected(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let status = async || {
        get_device(&server, alice.device_id)
            .await
            .expect("known")
            .status
    };
    assert_eq!(status().await, 0);
    let connection = server.connect(transport, &alice).await;
    assert_eq!(status().await, 1, "online once it is signed in");
    // A newer connection keeps it online when the older has gone.
    let mut newer = server.connect(transport, &alice).await;
    drop(connection);
    newer.heartbeat().await;
    assert_eq!(status().await, 1);
    drop(newer);
    eventually("offline", async || (status().await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_device_is_described_as_it_registered() {
    let server = Server::start().await;
    let device_id = server.register_device().await;
    let device = get_device(&server, device_id).await.expect("known");
    assert_eq!(
        (device.device_id, device.user_id, device.status),
        (device_id, 0, 0)
    );
    assert_eq!((device.r#type, device.brand.as_str()), (1, "Acme"));
    assert_eq!(
        (device.model.as_str(), device.system_version.as_str()),
        ("One", "14")
    );
    assert_eq!(device.sdk_version, "1.0");
    assert!(device.create_time > 1_600_000_000 && device.create_time < 10_000_000_000);
    let phone = crate::support::api::random_phone_number();
    let alice = server.sign_in(&phone, device_id).await;
    let device = get_device(&server, device_id).await.expect("known");
    assert_eq!(device.user_id, alice.user_id);
}

#[tokio::test]
async fn a_device_that_does_not_exist_is_not_found() {
    let server = Server::start().await;
    for unknown in [i64::MAX, 999] {
        assert_fails(get_device(&server, unknown).await, NO_SUCH_DEVICE);
    }
}

#[tokio::test]
async fn a_set_token_is_asked_for() {
    let server = Server::with(|config| config.internal.token = "s3cret".into()).await;
    let alice = server.new_user().await;
    let get = GetDeviceReq {
        device_id: alice.device_id,
    };
    let sign_out = IntSignOutReq {
        user_id: alice.user_id,
        device_id: 0,
    };
    let mut internal = LogicIntClient::new(server.internal_channel());
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer s3cret2",
        "s3cret",
        "Basic s3cret",
    ] {
        let metadata = [("authorization", wrong)];
        let refused = internal.get_device(with_metadata(get, &metadata)).await;
        assert_fails(refused, SIGN_IN_AGAIN);
        let refused = internal.sign_out(with_metadata(sign_out, &metadata)).await;
        assert_fails(refused, SIGN_IN_AGAIN);
    }
    assert_fails(internal.get_device(get).await, SIGN_IN_AGAIN);
    assert!(server.token_lives(&alice).await, "nobody was signed out");
    let right = with_metadata(get, &[("authorization", "Bearer s3cret")]);
    internal.get_device(right).await.expect("the right token");
}
