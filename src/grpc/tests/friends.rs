//! The rpcs about friends.

use super::*;
use crate::pb::{AddFriendReq, AgreeAddFriendReq, Friend, GetFriendsReq, SetFriendReq};

#[tokio::test]
async fn friends_are_made_and_listed_by_their_rpcs() {
    let world = World::new().await;
    let other = world.users(1).await[0];
    let (channel, _) = external(&world).await;
    let [user, device, token] = sign_in(&channel).await;
    let pairs = [
        ("user_id", &*user),
        ("device_id", &device),
        ("token", &token),
    ];
    let user = UserId(user.parse().unwrap());
    let mut logic = LogicExtClient::new(channel);
    let friend_id = other.get();
    let add = AddFriendReq {
        friend_id,
        remarks: "first".into(),
        ..Default::default()
    };
    logic.add_friend(with_metadata(add, &pairs)).await.unwrap();
    let agreed = world.friends.agree(other, user, String::new());
    agreed.await.unwrap();
    let agree = AgreeAddFriendReq {
        user_id: friend_id,
        ..Default::default()
    };
    let agree = logic.agree_add_friend(with_metadata(agree, &pairs));
    agree.await.unwrap();
    let set = SetFriendReq {
        friend_id,
        remarks: "second".into(),
        extra: "{}".into(),
    };
    let set = logic.set_friend(with_metadata(set, &pairs)).await.unwrap();
    let set = set.into_inner();
    assert_eq!(
        (set.friend_id, &*set.remarks, &*set.extra),
        (friend_id, "second", "{}")
    );

    let listed = logic.get_friends(with_metadata(GetFriendsReq {}, &pairs));
    let expected = Friend {
        user_id: friend_id,
        phone_number: "+000000000".into(),
        remarks: "second".into(),
        extra: "{}".into(),
        ..Default::default()
    };
    assert_eq!(listed.await.unwrap().into_inner().friends, [expected]);
}

#[tokio::test]
async fn refusals_among_friends_travel_with_their_codes() {
    let world = World::new().await;
    let (channel, _) = external(&world).await;
    let [user, device, token] = sign_in(&channel).await;
    let pairs = [
        ("user_id", &*user),
        ("device_id", &device),
        ("token", &token),
    ];
    let mut logic = LogicExtClient::new(channel);
    let myself = AgreeAddFriendReq {
        user_id: user.parse().unwrap(),
        ..Default::default()
    };
    let refused = logic.agree_add_friend(with_metadata(myself, &pairs)).await;
    assert_business(
        &refused.unwrap_err(),
        Code::BadRequest,
        GrpcCode::InvalidArgument,
    );
    let other = world.users(1).await[0];
    let stranger = SetFriendReq {
        friend_id: other.get(),
        ..Default::default()
    };
    let refused = logic.set_friend(with_metadata(stranger, &pairs)).await;
    assert_business(
        &refused.unwrap_err(),
        Code::NotFriends,
        GrpcCode::PermissionDenied,
    );
    let unsigned = logic.get_friends(GetFriendsReq {}).await;
    assert_sign_in_again(&unsigned.unwrap_err());
}
