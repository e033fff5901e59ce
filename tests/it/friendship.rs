//! `[messages] require_friendship`: where it is set, users who are not friends cannot write to each
//! other. Groups, rooms and the business are not concerned.

use im::pb::{GroupType, SenderType};

use crate::support::{
    Process, Server, Transport,
    errors::{NO_SUCH_USER, NOT_FRIENDS, assert_code, assert_fails},
    messages::{ephemeral, text, text_with_id, words},
};

on_each_transport!(strangers_cannot_write_to_each_other_where_friendship_is_required);

const SET: [(&str, &str); 1] = [("IM_MESSAGES__REQUIRE_FRIENDSHIP", "true")];

async fn strangers_cannot_write_to_each_other_where_friendship_is_required(transport: Transport) {
    let server = Process::with(&SET).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut alices = server.connect(transport, &alice).await;
    let mut bobs = server.connect(transport, &bob).await;
    let refuses = async |connection: &mut crate::support::Connection| {
        for request in [text(bob.user_id, "x"), ephemeral(bob.user_id, "x")] {
            assert_code(&connection.try_send(&request).await, NOT_FRIENDS);
            assert_fails(server.try_send(&alice, request).await, NOT_FRIENDS);
        }
    };
    refuses(&mut alices).await;
    server
        .ask_plainly(&alice, bob.user_id)
        .await
        .expect("asked");
    refuses(&mut alices).await;
    let back = server.try_send(&bob, text(alice.user_id, "x")).await;
    assert_fails(back, NOT_FRIENDS);
    bobs.told().await;

    server.agree(&bob, alice.user_id, "").await.expect("agreed");
    alices.send(&text(bob.user_id, "hello")).await;
    alices.send(&ephemeral(bob.user_id, "typing")).await;
    server.send(&bob, text(alice.user_id, "hello, too")).await;
    assert_eq!(words(&bobs.push().await), "hello", "and nothing before");
    assert_eq!(words(&bobs.push().await), "typing");
    assert_eq!(words(&alices.said().await), "hello, too");
}

#[tokio::test]
async fn oneself_groups_and_the_business_need_no_friendship() {
    let server = Process::with(&SET).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.send(&alice, text(alice.user_id, "a note")).await;
    server
        .send(&alice, ephemeral(alice.user_id, "a note"))
        .await;
    let nobody = server.try_send(&alice, text(1_000_000_000, "x")).await;
    assert_fails(nobody, NO_SUCH_USER);
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    for kind in [GroupType::GtSmall, GroupType::GtLarge] {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        server.send(&alice, group.text("to the group")).await;
        assert_eq!(words(&bobs.said().await), "to the group");
    }
    let request = text_with_id(bob.user_id, "from the business", "1");
    let sent = server.send_as(SenderType::StBusiness, 7, request).await;
    sent.expect("it asks nobody");
    assert_eq!(words(&bobs.said().await), "from the business");
}

#[tokio::test]
async fn friendship_is_not_required_by_default() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let sent = server.send(&alice, text(bob.user_id, "hello")).await;
    assert_eq!(sent.seq, 1);
}
