//! A send to a group is applied at most once: a retry gets the first result, whatever has become of
//! the sender's membership since (I3).

use im::pb::SendMessageReq;

use crate::support::{
    Server, Transport,
    connection::sent,
    crowd::ids,
    errors::{BAD_REQUEST, NO_SUCH_GROUP, NOT_IN_GROUP, assert_code, assert_fails},
    groups::{Group, KINDS},
    messages::{text_with_id, words},
};

on_each_transport!(
    a_retried_group_send_gets_the_first_result,
    a_storm_of_one_group_send_is_one_message,
    a_retry_after_removal_gets_the_first_result,
    the_same_id_with_other_content_is_refused,
);

async fn a_retried_group_send_gets_the_first_result(transport: Transport) {
    let mut server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let mut receiver = server.connect(transport, &alice).await;
        let mut sender = server.connect(transport, &bob).await;
        let request = group.text_with_id("once", &format!("{kind:?}"));
        let first = sender.send(&request).await;
        assert_eq!(sender.send(&request).await, first);
        assert_eq!(server.send(&bob, request.clone()).await, first, "gRPC");
        let next = sender.send(&group.text("next")).await;
        assert_eq!(next.seq, first.seq + 1);
        assert_eq!(words(&receiver.said().await), "once");
        assert_eq!(words(&receiver.said().await), "next");
        server.restart().await;
        assert_eq!(server.send(&bob, request).await, first, "after a restart");
    }
}

async fn a_storm_of_one_group_send_is_one_message(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let mut receiver = server.connect(transport, &alice).await;
        let mut connection = server.connect(transport, &bob).await;
        let request = group.text_with_id("once", &format!("storm {kind:?}"));
        let (mut calls, mut packages) = (Vec::new(), Vec::new());
        for _ in 0..30 {
            let (api, bob, again) = (server.clone_api(), bob.clone(), request.clone());
            calls.push(tokio::spawn(async move { api.send(&bob, again).await }));
            let package = im::pb::PackageType::PtSendMessage;
            packages.push(connection.start(package, &request).await);
        }
        let mut results = Vec::new();
        for call in calls {
            results.push(call.await.expect("no panic"));
        }
        for package in packages {
            results.push(sent(&connection.answer(package).await));
        }
        assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
        let next = server.send(&bob, group.text("next")).await;
        assert_eq!(next.seq, results[0].seq + 1);
        assert_eq!(words(&receiver.said().await), "once");
        assert_eq!(words(&receiver.said().await), "next");
    }
}

async fn a_retry_after_removal_gets_the_first_result(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let mut sender = server.connect(transport, &bob).await;
        let id = format!("before {kind:?}");
        let request = group.text_with_id("once", &id);
        let first = sender.send(&request).await;
        let removed = server.remove_member(&alice, group.id, bob.user_id).await;
        removed.expect("removed");
        assert_eq!(sender.send(&request).await, first);
        assert_eq!(server.send(&bob, request.clone()).await, first);
        // Only that one: with another id or other words he is a stranger.
        let new = group.text_with_id("once", &format!("after {kind:?}"));
        assert_code(&sender.try_send(&new).await, NOT_IN_GROUP);
        assert_fails(server.try_send(&bob, new).await, NOT_IN_GROUP);
        let other = group.text_with_id("other words", &id);
        assert_code(&sender.try_send(&other).await, BAD_REQUEST);

        server.leave(&alice, group.id).await.expect("the last one");
        assert_eq!(sender.send(&request).await, first, "the group is no more");
        let new = group.text("anybody?");
        assert_code(&sender.try_send(&new).await, NO_SUCH_GROUP);
    }
}

async fn the_same_id_with_other_content_is_refused(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let members = ids([&bob]);
        let group = server.create_group(&alice, kind, &members).await;
        let other_group = server.create_group(&alice, kind, &members).await;
        let mut connection = server.connect(transport, &alice).await;
        let id = format!("the id {kind:?}");
        let first = group.text_with_id("once", &id);
        let result = connection.send(&first).await;
        let others = [
            group.text_with_id("other words", &id),
            other_group.text_with_id("once", &id),
            text_with_id(bob.user_id, "once", &id),
            SendMessageReq {
                to_user_ids: vec![1],
                ..first.clone()
            },
        ];
        for other in others {
            assert_code(&connection.try_send(&other).await, BAD_REQUEST);
            assert_fails(server.try_send(&alice, other).await, BAD_REQUEST);
        }
        assert_eq!(connection.send(&first).await, result);
    }
}

/// Members share a group and not their ids.
#[tokio::test]
async fn another_members_id_is_another_id() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group: Group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let request = group.text_with_id("the same", &format!("{kind:?}"));
        let from_alice = server.send(&alice, request.clone()).await;
        let from_bob = server.send(&bob, request).await;
        assert_ne!(from_alice.message_id, from_bob.message_id);
    }
}
