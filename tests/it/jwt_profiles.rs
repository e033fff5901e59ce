//! With users.provider = "jwt" profiles come from the business's UserInt where there is one. Where there
//! is none, whoever is written to exists and nobody has a profile.

use im::pb::GetUserReq;
use tonic::Code;

use crate::support::{
    Business, Server, Transport,
    errors::{NO_SUCH_USER, assert_fails},
    jwt::{by_secret, start},
    messages::{text, words},
};

#[tokio::test]
async fn profiles_come_from_the_business_where_it_has_an_endpoint() {
    let business = Business::start().await;
    let server = Server::with(|config| {
        by_secret(config);
        config.users.endpoint = business.endpoint();
    })
    .await;
    let ada = server.device_of_business(1).await;
    let bob = server.device_of_business(2).await;
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    server.send(&ada, text(2, "hello")).await;
    let pushed = bobs.push().await;
    assert_eq!(words(&pushed), "hello");
    let sender = pushed.sender.expect("a sender");
    assert_eq!((&*sender.nickname, &*sender.extra), ("Ada", "account 1"));
    let refused = server.try_send(&ada, text(99, "to nobody")).await;
    assert_fails(refused, NO_SUCH_USER);
    assert_eq!(business.calls("Auth 1"), 0, "tokens are checked here");
}

#[tokio::test]
async fn without_an_endpoint_everybody_is_there_and_tells_nothing_of_himself() {
    let server = start().await;
    let alice = server.device_of_business(7_001).await;
    let bob = server.device_of_business(7_002).await;
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    server.send(&alice, text(7_003, "who never came")).await;
    server.send(&alice, text(7_002, "hello")).await;
    let sender = bobs.push().await.sender.expect("a sender");
    assert_eq!((sender.sender_id, &*sender.nickname), (7_001, ""));
    let own = GetUserReq { user_id: 0 };
    let refused = server.users(&alice).get_user(own).await;
    assert_eq!(refused.expect_err("no UserExt").code(), Code::Unimplemented);
}
