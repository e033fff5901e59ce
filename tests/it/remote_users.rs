//! Accounts at a business server: it is asked who may sign in and who is who, not more often than
//! needed, and what it says counts.

use im::pb::{
    AddFriendReq, AgreeAddFriendReq, GetFriendsReq, GetUserReq, IntSignOutReq, NoticeCode,
    PushToUsersReq, SignInReq, UserChangedReq,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Api, Business, Server, Transport,
    errors::{NO_SUCH_USER, SIGN_IN_AGAIN, TRY_AGAIN_LATER, assert_code, assert_fails},
    internal::command,
    messages::{text, words},
};

#[path = "../../examples/business.rs"]
mod example;

on_each_transport!(
    a_token_signs_in_where_the_business_accepts_it,
    a_business_that_answers_too_late_is_answered_10004,
    a_sign_out_by_the_business_ends_the_session,
);

async fn a_token_signs_in_where_the_business_accepts_it(transport: Transport) {
    let business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    let mut to_bob = server.connect(transport, &bob).await;
    server.send(&ada, text(2, "hello")).await;
    let message = to_bob.push().await;
    let sender = message.sender.clone().expect("a sender");
    assert_eq!(words(&message), "hello");
    assert_eq!(
        (sender.nickname.as_str(), sender.extra.as_str()),
        ("Ada", "account 1")
    );
    for wrong in [ada.with_token("token-of-2"), ada.with_token("")] {
        let answer = server.open(transport).await.sign_in(&wrong).await;
        assert_code(&answer, SIGN_IN_AGAIN);
        let refused = server.try_send(&wrong, text(2, "x")).await;
        assert_fails(refused, SIGN_IN_AGAIN);
    }
}

async fn a_business_that_answers_too_late_is_answered_10004(transport: Transport) {
    let business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let slow = server.device_of(1).await.with_token("slow");
    let answer = server.open(transport).await.sign_in(&slow).await;
    assert_code(&answer, TRY_AGAIN_LATER);
    business.called("Auth 1", 1).await;
}

async fn a_sign_out_by_the_business_ends_the_session(transport: Transport) {
    let business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let ada = server.device_of(1).await;
    let mut session = server.connect(transport, &ada).await;
    business.called("Auth 1", 1).await;
    let sign_out = IntSignOutReq {
        user_id: 1,
        device_id: ada.device_id,
    };
    server.internal().sign_out(sign_out).await.expect("SignOut");
    session
        .assert_ends_with(NoticeCode::NcSignedOut, 4002)
        .await;
    // What was remembered counts no more; the business, which is asked anew, still accepts it.
    server.connect(transport, &ada).await;
    business.called("Auth 1", 2).await;
}

#[tokio::test]
async fn the_business_is_not_asked_again_while_its_answer_is_remembered() {
    let mut business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let ada = server.device_of(1).await;
    for transport in crate::support::wire::BOTH {
        server.connect(transport, &ada).await;
        server.send(&ada, text(2, "x")).await;
    }
    // One more call comes after all those that were made for her.
    let bob = server.device_of(2).await;
    let mut to_bob = server.connect(Transport::Tcp, &bob).await;
    business.called("Auth 2", 1).await;
    business.called("Auth 1", 1).await;
    business.called("GetUser 1", 1).await;

    business.rename(1, "Countess of Lovelace").await;
    server.send(&ada, text(2, "still Ada")).await;
    assert_eq!(to_bob.push().await.sender.expect("one").nickname, "Ada");
    let changed = UserChangedReq { user_id: 1 };
    server
        .internal()
        .user_changed(changed)
        .await
        .expect("UserChanged");
    server.send(&ada, text(2, "now")).await;
    let sender = to_bob.push().await.sender.expect("one");
    assert_eq!(sender.nickname, "Countess of Lovelace");
    business.called("Auth 1", 2).await;
    business.called("GetUser 1", 2).await;
}

#[tokio::test]
async fn users_exist_where_the_business_knows_them() {
    let business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    assert_fails(server.try_send(&ada, text(99, "x")).await, NO_SUCH_USER);
    let push = |user_ids: &[i64]| PushToUsersReq {
        user_ids: user_ids.to_vec(),
        command: Some(command("for many")),
        is_persist: true,
        ..Default::default()
    };
    assert_fails(server.push_to_users(push(&[98, 99])).await, NO_SUCH_USER);
    let mut to_bob = server.connect(Transport::Tcp, &bob).await;
    server
        .push_to_users(push(&[2, 3, 99]))
        .await
        .expect("PushToUsers");
    assert_eq!(to_bob.push().await.receiver_id, 2);
}

#[tokio::test]
async fn friends_bear_the_profiles_of_the_business() {
    let business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    let add = AddFriendReq {
        friend_id: 2,
        remarks: "Bobby".into(),
        ..Default::default()
    };
    let (mut as_ada, mut as_bob) = (server.logic(&ada), server.logic(&bob));
    let stranger = AddFriendReq {
        friend_id: 99,
        ..add.clone()
    };
    assert_fails(as_ada.add_friend(stranger).await, NO_SUCH_USER);
    as_ada.add_friend(add).await.expect("AddFriend");
    let agree = AgreeAddFriendReq {
        user_id: 1,
        ..Default::default()
    };
    as_bob
        .agree_add_friend(agree)
        .await
        .expect("AgreeAddFriend");
    let friends = as_ada.get_friends(GetFriendsReq {}).await;
    let friends = friends.expect("GetFriends").into_inner().friends;
    let [bob] = &friends[..] else {
        panic!("{friends:?}");
    };
    assert_eq!(
        (bob.user_id, &*bob.nickname, &*bob.remarks, &*bob.user_extra),
        (2, "Bob", "Bobby", "account 2")
    );
}

#[tokio::test]
async fn accounts_are_not_served_here_too() {
    let business = Business::start().await;
    let server = Server::with(|config| business.keeps_users(config)).await;
    let ada = server.device_of(1).await;
    let sign_in = SignInReq::default();
    let refused = server.anyones_users().sign_in(sign_in).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let request = GetUserReq { user_id: 0 };
    let refused = server.users(&ada).get_user(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    for (channel, service) in [
        (server.grpc_channel(), "pb.UserExt"),
        (server.internal_channel(), "pb.UserInt"),
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let unknown = HealthClient::new(channel).check(request).await;
        assert_eq!(unknown.unwrap_err().code(), Code::NotFound, "{service}");
    }
    assert_user_int_is_unimplemented(&server).await;
}

async fn assert_user_int_is_unimplemented(server: &Api) {
    let channel = server.internal_channel();
    let mut users = im::pb::user_int_client::UserIntClient::new(channel);
    let refused = users.get_user(GetUserReq { user_id: 1 }).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
}

/// The other example does what the one in Python does.
#[tokio::test]
async fn the_example_in_rust_is_a_business_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let users = example::Users::named(&["Ada", "Bob"]);
    tokio::spawn(example::serve(listener, users));
    let server = Server::with(|config| {
        config.users.provider = im::config::UserProvider::Remote;
        config.users.endpoint = endpoint;
    })
    .await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    let mut to_bob = server.connect(Transport::Tcp, &bob).await;
    server.send(&ada, text(2, "hello")).await;
    assert_eq!(to_bob.push().await.sender.expect("one").nickname, "Ada");
    let wrong = ada.with_token("token-of-2");
    assert_fails(server.try_send(&wrong, text(2, "x")).await, SIGN_IN_AGAIN);
    assert_fails(server.try_send(&ada, text(3, "x")).await, NO_SUCH_USER);
}
