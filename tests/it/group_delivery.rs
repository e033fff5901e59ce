//! Who is given a message to a group: every device of every member, each once, but for the device
//! that sent it. The same for small and for large groups.

use im::pb::{MessageStatus, SendMessageReq, SenderType, UpdateUserReq};

use crate::support::{
    Connection, Device, Server, Transport,
    crowd::ids,
    groups::{Group, KINDS},
    messages::{text, words},
};

on_each_transport!(
    every_device_of_every_member_is_given_a_message,
    the_sending_device_is_not_given_its_own_message,
    a_group_message_arrives_as_it_was_sent,
    an_ephemeral_message_reaches_members_who_are_online_and_is_not_stored,
    pipelined_sends_to_a_group_keep_their_order,
    messages_to_many_groups_reach_their_own_members,
);

/// Alice's group with Bob and Carol.
async fn with_group(server: &Server, kind: im::pb::GroupType) -> (Vec<Device>, Group) {
    let users = server.new_users(3).await;
    let group = server
        .create_group(&users[0], kind, &ids(&users[1..]))
        .await;
    (users, group)
}

async fn every_device_of_every_member_is_given_a_message(transport: Transport) {
    let server = Server::start().await;
    for kind in KINDS {
        let (users, group) = with_group(&server, kind).await;
        let stranger = server.new_user().await;
        let mut outside = server.connect(transport, &stranger).await;
        let mut devices = Vec::new();
        for user in &users {
            devices.push(user.clone());
            devices.push(server.another_device_of(user).await);
        }
        let mut connections = Vec::new();
        for device in &devices {
            connections.push(server.connect(transport, device).await);
        }
        let sent = connections[0].send(&group.text("hello")).await;
        assert!(sent.message_id > 0 && sent.seq > 0);
        for connection in &mut connections[1..] {
            let message = connection.push().await;
            assert_eq!(words(&message), "hello");
            assert_eq!(message.message_id, sent.message_id, "one message");
            assert!(group.got(&message), "{message:?}");
            assert!(message.seq > 0);
        }
        server
            .send(&users[0], text(stranger.user_id, "to you"))
            .await;
        assert_eq!(words(&outside.push().await), "to you");
    }
}

async fn the_sending_device_is_not_given_its_own_message(transport: Transport) {
    let server = Server::start().await;
    for kind in KINDS {
        let (users, group) = with_group(&server, kind).await;
        let other = server.another_device_of(&users[1]).await;
        let mut phone = server.connect(transport, &users[1]).await;
        let mut tablet = server.connect(transport, &other).await;
        phone.send(&group.text("over the connection")).await;
        server.send(&users[1], group.text("over gRPC")).await;
        server.send(&other, group.text("from the tablet")).await;
        server.send(&users[0], group.text("from Alice")).await;
        let expected = ["from the tablet", "from Alice"];
        assert_eq!(next_words(&mut phone, 2).await, expected);
        let expected = ["over the connection", "over gRPC", "from Alice"];
        assert_eq!(next_words(&mut tablet, 3).await, expected);
    }
}

async fn next_words(connection: &mut Connection, count: usize) -> Vec<String> {
    connection.pushed(count).await.iter().map(words).collect()
}

async fn a_group_message_arrives_as_it_was_sent(transport: Transport) {
    let server = Server::start().await;
    for kind in KINDS {
        let (users, group) = with_group(&server, kind).await;
        let profile = UpdateUserReq {
            nickname: "Alice".into(),
            sex: 2,
            avatar_url: "https://example.com/a.png".into(),
            extra: "{\"mood\":\"fine\"}".into(),
        };
        let mut alice = server.users(&users[0]);
        alice.update_user(profile.clone()).await.expect("updated");
        let mut receiver = server.connect(transport, &users[1]).await;
        let mut sender = server.connect(transport, &users[0]).await;
        let request = SendMessageReq {
            to_user_ids: ids(&users),
            send_time: 1_700_000_000_123,
            ..group.text_with_id("with everything", "id-1")
        };
        let sent = sender.send(&request).await;
        assert_eq!(sent.send_time, request.send_time);
        let pushed = receiver.push().await;
        assert!(group.got(&pushed));
        assert_eq!(pushed.message_id, sent.message_id);
        assert_eq!(pushed.to_user_ids, request.to_user_ids);
        assert_eq!(pushed.message_type, request.message_type);
        assert_eq!(pushed.message_content, request.message_content);
        assert_eq!(pushed.send_time, request.send_time);
        assert_eq!(pushed.client_message_id, request.client_message_id);
        assert_eq!(pushed.status, i32::from(MessageStatus::MsNormal));
        let from = pushed.sender.clone().expect("a sender");
        assert_eq!(from.sender_type, i32::from(SenderType::StUser));
        assert_eq!(from.sender_id, users[0].user_id);
        assert_eq!(from.nickname, profile.nickname);
        assert_eq!(from.avatar_url, profile.avatar_url);
        assert_eq!(from.extra, profile.extra);
        // Synced it is the same message.
        let mut pulled = receiver.pull(0, &[(group.id, 0)]).await;
        let synced = match pulled.groups.remove(&group.id) {
            Some(messages) => messages,
            None => pulled.messages,
        };
        assert_eq!(synced.last(), Some(&pushed));
    }
}

async fn an_ephemeral_message_reaches_members_who_are_online_and_is_not_stored(
    transport: Transport,
) {
    let server = Server::start().await;
    for kind in KINDS {
        let (users, group) = with_group(&server, kind).await;
        let other = server.another_device_of(&users[0]).await;
        let mut sender = server.connect(transport, &users[0]).await;
        let mut own_other = server.connect(transport, &other).await;
        let mut receiver = server.connect(transport, &users[1]).await;
        let before = server.send(&users[1], group.text("before")).await;
        let sent = sender.send(&group.ephemeral("typing")).await;
        assert_eq!((sent.seq, sent.message_id), (0, 0));
        assert!(sent.send_time > 0);
        for connection in [&mut own_other, &mut receiver] {
            let message = loop {
                let message = connection.push().await;
                if words(&message) != "before" {
                    break message;
                }
            };
            assert_eq!(words(&message), "typing");
            assert_eq!((message.seq, message.message_id), (0, 0));
            assert!(group.got(&message));
            let from = message.sender.expect("a sender");
            assert_eq!(from.sender_id, users[0].user_id);
        }
        // The next stored message follows the one before, and the sender is not given its own.
        let after = server.send(&users[1], group.text("after")).await;
        assert_eq!(after.seq, before.seq + 1);
        assert_eq!(next_words(&mut sender, 2).await, ["before", "after"]);
        // Whoever comes later never learns of it.
        let mut late = server.connect(transport, &users[2]).await;
        let pulled = late.pull(0, &[(group.id, 0)]).await;
        let mut all = pulled.groups.into_values().flatten().collect::<Vec<_>>();
        all.extend(pulled.messages);
        assert!(all.iter().all(|m| m.seq > 0 && m.message_id > 0));
        let texts = all.iter().filter(|m| m.message_type == 1);
        assert_eq!(texts.map(words).collect::<Vec<_>>(), ["before", "after"]);
    }
}

async fn pipelined_sends_to_a_group_keep_their_order(transport: Transport) {
    const COUNT: i64 = 200;
    let server = Server::start().await;
    for kind in KINDS {
        let (users, group) = with_group(&server, kind).await;
        let mut receiver = server.connect(transport, &users[1]).await;
        let mut sender = server.connect(transport, &users[0]).await;
        let package = im::pb::PackageType::PtSendMessage;
        let mut requests = Vec::new();
        for n in 0..COUNT {
            let request = group.text(&n.to_string());
            requests.push(sender.start(package, &request).await);
        }
        let mut last = 1;
        for request in requests {
            let sent = crate::support::connection::sent(&sender.answer(request).await);
            assert_eq!(sent.seq, last + 1, "after the creation, one by one");
            last = sent.seq;
        }
        let received = next_words(&mut receiver, COUNT as usize).await;
        let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
        assert_eq!(received, expected);
    }
}

/// Groups of one user do not mix: each message is for the members of its own.
async fn messages_to_many_groups_reach_their_own_members(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(4).await;
    let alice = &users[0];
    let mut groups = Vec::new();
    for kind in KINDS {
        for member in &users[1..] {
            let group = server.create_group(alice, kind, &[member.user_id]).await;
            groups.push((group, member));
        }
    }
    let mut connections = Vec::new();
    for user in &users[1..] {
        connections.push(server.connect(transport, user).await);
    }
    let mut sender = server.connect(transport, alice).await;
    for (group, member) in &groups {
        let words = format!("{:?} of {}", group.kind, member.user_id);
        sender.send(&group.text(&words)).await;
        sender.send(&group.ephemeral(&words)).await;
    }
    for (user, connection) in users[1..].iter().zip(&mut connections) {
        let mut received = next_words(connection, 4).await;
        received.sort_unstable();
        let own = |kind| format!("{kind:?} of {}", user.user_id);
        let [small, large] = KINDS.map(own);
        let expected = [large.clone(), large, small.clone(), small];
        assert_eq!(received, expected);
        connection.heartbeat().await;
        assert!(connection.take_pushes().is_empty());
    }
}
