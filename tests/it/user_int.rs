//! `UserInt` on the internal listener: what a business server asks of accounts that are kept here.

use std::collections::HashMap;

use im::pb::{AuthReq, GetUserReq, GetUsersReq, UserChangedReq, user_int_client::UserIntClient};
use tonic::transport::Channel;

use crate::support::{
    Api, Device, Server,
    api::with_metadata,
    errors::{NO_SUCH_USER, SIGN_IN_AGAIN, assert_fails, assert_names},
};

fn users(server: &Api) -> UserIntClient<Channel> {
    UserIntClient::new(server.internal_channel())
}

fn auth(device: &Device) -> AuthReq {
    AuthReq {
        user_id: device.user_id,
        device_id: device.device_id,
        token: device.token.clone(),
    }
}

fn many(ids: impl IntoIterator<Item = i64>) -> GetUsersReq {
    GetUsersReq {
        user_ids: ids.into_iter().map(|id| (id, 0)).collect(),
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_user_on_its_device() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut client = users(&server);
    client.auth(auth(&alice)).await.expect("her own token");
    let bobs_token = alice.with_token(&bob.token);
    let bobs_device = Device {
        device_id: bob.device_id,
        ..alice.clone()
    };
    for wrong in [bobs_token, bobs_device, alice.with_token("")] {
        assert_fails(client.auth(auth(&wrong)).await, SIGN_IN_AGAIN);
    }
    let nobody = AuthReq {
        user_id: 0,
        ..auth(&alice)
    };
    assert_names(client.auth(nobody).await, "user_id");
    // Of accounts that are kept here there is nothing to forget but what is remembered of them.
    let changed = UserChangedReq {
        user_id: alice.user_id,
    };
    server
        .internal()
        .user_changed(changed)
        .await
        .expect("UserChanged");
    client.auth(auth(&alice)).await.expect("it is good still");
}

#[tokio::test]
async fn users_are_described_as_they_describe_themselves() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.set_nickname(&alice, "Alice").await;
    let mut client = users(&server);
    let get = |user_id| GetUserReq { user_id };
    let found = client.get_user(get(alice.user_id)).await.expect("GetUser");
    let found = found.into_inner().user.expect("a user");
    assert_eq!((found.user_id, &*found.nickname), (alice.user_id, "Alice"));
    assert_fails(client.get_user(get(i64::MAX)).await, NO_SUCH_USER);
    // There is no caller whom it could mean.
    assert_names(client.get_user(get(0)).await, "user_id");

    let asked = many([alice.user_id, bob.user_id, i64::MAX]);
    let found = client.get_users(asked).await.expect("GetUsers");
    let found: HashMap<_, _> = found.into_inner().users;
    assert_eq!(found.len(), 2);
    assert_eq!(found[&alice.user_id].nickname, "Alice");
    assert_eq!(found[&bob.user_id].user_id, bob.user_id);
}

#[tokio::test]
async fn too_many_users_at_once_are_refused() {
    let server = Server::start().await;
    let mut client = users(&server);
    let found = client.get_users(many(1..=1_000)).await;
    assert!(found.expect("1,000").into_inner().users.is_empty());
    assert_names(client.get_users(many(1..=1_001)).await, "user_ids");
    assert_names(client.get_users(many([0])).await, "user_ids");
}

#[tokio::test]
async fn the_token_of_the_listener_is_asked_for() {
    let server = Server::with(|config| config.internal.token = "s3cret".into()).await;
    let alice = server.new_user().await;
    let mut client = users(&server);
    let get = GetUserReq {
        user_id: alice.user_id,
    };
    assert_fails(client.get_user(get).await, SIGN_IN_AGAIN);
    assert_fails(client.auth(auth(&alice)).await, SIGN_IN_AGAIN);
    let right = with_metadata(get, &[("authorization", "Bearer s3cret")]);
    client.get_user(right).await.expect("the right token");
}
