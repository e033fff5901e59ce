//! `PushToUsers`: one command to each of many users, which a retry with the same id completes and
//! never repeats.

use std::time::Duration;

use im::{
    config::SqliteSynchronous,
    pb::{Message, MessageType, PushToUsersReq, ReceiverType, Sender, SenderType},
};
use prost::Message as _;

use crate::support::{
    Api, Device, Process, Server, Transport,
    crowd::{all, ids},
    errors::{BAD_REQUEST, NO_SUCH_USER, assert_fails, assert_names},
    internal::command,
    messages::{text, words},
    wait::within,
};

on_each_transport!(
    each_user_is_given_the_command_as_his_own,
    a_push_that_is_not_stored_reaches_who_is_online,
    a_retried_push_is_given_once,
);

const NOBODY: i64 = 1_000_000_000;

/// A stored command to users.
fn push(user_ids: &[i64], data: &str, id: &str) -> PushToUsersReq {
    PushToUsersReq {
        user_ids: user_ids.into(),
        command: Some(command(data)),
        is_persist: true,
        client_message_id: id.into(),
    }
}

/// The command is the business's, and it is to this user alone.
fn assert_pushed(message: &Message, user_id: i64, data: &str) {
    let business = Sender {
        sender_type: SenderType::StBusiness.into(),
        ..Default::default()
    };
    assert_eq!(message.sender, Some(business));
    let to = (message.receiver_type(), message.receiver_id);
    assert_eq!(to, (ReceiverType::RtUser, user_id));
    assert_eq!(message.message_type(), MessageType::MtCommand);
    assert_eq!(message.message_content, command(data).encode_to_vec());
    assert!(message.send_time > 0);
}

async fn each_user_is_given_the_command_as_his_own(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(4).await;
    // Their timelines are at different places.
    server.send(&users[0], text(users[1].user_id, "x")).await;
    let mut connections = Vec::new();
    for user in &users[..3] {
        connections.push(server.connect(transport, user).await);
    }
    // Who is named twice is one, and who does not exist is passed over.
    let mut named = ids(&users);
    named.extend([NOBODY, users[2].user_id, NOBODY + 1]);
    let message_id = server.push_to_users(push(&named, "sale", "1")).await;
    let message_id = message_id.expect("PushToUsers");
    assert!(message_id > 0);
    for ((user, connection), seq) in users.iter().zip(&mut connections).zip([2, 2, 1]) {
        let message = connection.push().await;
        assert_pushed(&message, user.user_id, "sale");
        assert_eq!((message.seq, message.message_id), (seq, message_id));
        assert_eq!(connection.sync_after(seq - 1).await.messages, [message]);
        connection.heartbeat().await;
        assert!(connection.take_pushes().is_empty());
    }
    let timeline = server.timeline(&users[3]).await;
    assert_eq!(timeline.len(), 1, "also who was away");
    assert_pushed(&timeline[0], users[3].user_id, "sale");
}

async fn a_push_that_is_not_stored_reaches_who_is_online(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let other = server.another_device_of(&users[0]).await;
    let mut connections = [
        server.connect(transport, &users[0]).await,
        server.connect(transport, &other).await,
        server.connect(transport, &users[1]).await,
    ];
    let mut named = ids(&users);
    named.push(NOBODY);
    let request = PushToUsersReq {
        is_persist: false,
        ..push(&named, "now", "")
    };
    let message_id = server.push_to_users(request).await;
    assert_eq!(message_id.expect("PushToUsers"), 0);
    let owners = [&users[0], &users[0], &users[1]];
    for (connection, owner) in connections.iter_mut().zip(owners) {
        let message = connection.push().await;
        assert_pushed(&message, owner.user_id, "now");
        assert_eq!((message.seq, message.message_id), (0, 0));
    }
    for user in &users {
        assert!(server.timeline(user).await.is_empty());
    }
}

async fn a_retried_push_is_given_once(transport: Transport) {
    let mut server = Server::start().await;
    let users = server.new_users(3).await;
    let named = ids(&users);
    let mut connection = server.connect(transport, &users[0]).await;
    let request = push(&named, "once", "the id");
    let first = server.push_to_users(request.clone()).await;
    let first = first.expect("PushToUsers");
    let again = tokio::join!(
        server.push_to_users(request.clone()),
        server.push_to_users(request.clone()),
    );
    assert_eq!(
        (again.0.expect("again"), again.1.expect("again")),
        (first, first)
    );
    // The same id for another command is refused.
    let other = server.push_to_users(push(&named, "other", "the id")).await;
    assert_fails(other, BAD_REQUEST);
    server
        .push_to_users(push(&named, "next", "next"))
        .await
        .expect("next");
    assert_pushed(&connection.push().await, named[0], "once");
    assert_pushed(&connection.push().await, named[0], "next");
    server.restart().await;
    let after_restart = server.push_to_users(request).await;
    assert_eq!(after_restart.expect("again"), first);
    for user in &users {
        assert_eq!(server.timeline(user).await.len(), 2);
    }
    // Without an id each call is a push of its own.
    for _ in 0..2 {
        let pushed = server.push_to_users(push(&named, "again", "")).await;
        pushed.expect("PushToUsers");
    }
    assert_eq!(server.timeline(&users[1]).await.len(), 4);
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let me = [alice.user_id];
    let many: Vec<_> = (1..=100_001).collect();
    for (field, request) in [
        ("user_ids", push(&[alice.user_id, 0], "x", "")),
        ("user_ids", push(&[-1], "x", "")),
        ("user_ids", push(&many, "x", "")),
        ("client_message_id", push(&me, "x", &"i".repeat(65))),
        (
            "command",
            PushToUsersReq {
                command: None,
                ..push(&me, "", "")
            },
        ),
    ] {
        for is_persist in [true, false] {
            let request = PushToUsersReq {
                is_persist,
                ..request.clone()
            };
            assert_names(server.push_to_users(request).await, field);
        }
    }
    let too_long = push(&me, &"x".repeat(60_001), "");
    assert_fails(server.push_to_users(too_long).await, BAD_REQUEST);
    for is_persist in [true, false] {
        let request = PushToUsersReq {
            is_persist,
            ..push(&[NOBODY, NOBODY + 1], "x", "")
        };
        assert_fails(server.push_to_users(request).await, NO_SUCH_USER);
    }
    assert!(server.timeline(&alice).await.is_empty());
    // As many as may be, most of whom do not exist.
    let mut most: Vec<_> = (NOBODY..NOBODY + 99_999).collect();
    most.push(alice.user_id);
    let mut internal = server.internal();
    let pushed = internal.push_to_users(push(&most, "x", "")).await;
    pushed.expect("100,000 ids");
    assert_eq!(server.timeline(&alice).await.len(), 1);
}

/// How often each of `users` has a command on the timeline.
async fn copies(server: &Api, users: &[Device]) -> Vec<usize> {
    all(users.iter().map(async |user| {
        let timeline = server.timeline(user).await;
        for message in &timeline {
            assert_pushed(message, user.user_id, "to all of you");
        }
        timeline.len()
    }))
    .await
}

/// Every `step`-th of the users.
fn sample(users: &[Device], step: usize) -> Vec<Device> {
    users.iter().step_by(step).cloned().collect()
}

/// Callers that give up, again and again, and one that does not.
#[tokio::test]
async fn three_thousand_users_are_given_it_once_whatever_the_caller_does() {
    const USERS: usize = 3_000;
    const ONLINE: usize = 100;
    let server = Server::with(|config| {
        config.database.sqlite_synchronous = SqliteSynchronous::Normal;
    })
    .await;
    let online = server.new_users(ONLINE).await;
    let absent = server.new_absent_users(USERS - ONLINE).await;
    let mut connections = server.connect_all(&online).await;
    let everybody = ids(online.iter().chain(&absent));
    let request = push(&everybody, "to all of you", "campaign");
    for round in 0..8 {
        let patience = Duration::from_millis(5 << round);
        let call = server.push_to_users(request.clone());
        let _given_up = tokio::time::timeout(patience, call).await;
    }
    let first = server.push_to_users(request.clone()).await;
    let first = first.expect("the one that waits");
    assert_eq!(server.push_to_users(request).await.expect("again"), first);
    for (user, connection) in online.iter().zip(&mut connections) {
        server.send(&online[0], text(user.user_id, "marker")).await;
        let message = connection.push().await;
        assert_pushed(&message, user.user_id, "to all of you");
        assert_eq!((message.seq, message.message_id), (1, first));
        if user.user_id != online[0].user_id {
            assert_eq!(words(&connection.push().await), "marker", "only once");
        }
    }
    let sampled = sample(&absent, 97);
    assert_eq!(copies(&server, &sampled).await, vec![1; sampled.len()]);
}

/// A crash in the middle: the retry goes on where the first attempt stopped.
#[tokio::test]
async fn a_push_cut_off_by_a_crash_is_completed_by_its_retry() {
    const USERS: usize = 3_000;
    let mut server = Process::with(&[("IM_DATABASE__SQLITE_SYNCHRONOUS", "normal")]).await;
    let users = server.new_absent_users(USERS).await;
    let first = server.sign_in(&users[0].phone_number, users[0].device_id);
    let first = first.await;
    let mut witness = server.connect(Transport::Tcp, &first).await;
    let request = push(&ids(&users), "to all of you", "campaign");
    let call = {
        let (api, request) = (Api::new(server.addresses), request.clone());
        tokio::spawn(async move { api.push_to_users(request).await })
    };
    // As soon as one has it, others may not.
    let message = witness.push().await;
    assert_pushed(&message, first.user_id, "to all of you");
    server.kill();
    let _answered_or_not = call.await.expect("no panic");
    server.start_again().await;
    let retried = within(
        Duration::from_secs(60),
        "the retry",
        server.push_to_users(request.clone()),
    );
    assert_eq!(retried.await.expect("completed"), message.message_id);
    let again = server.push_to_users(request).await;
    assert_eq!(again.expect("nothing to do"), message.message_id);
    let sampled = sample(&users, 61);
    assert_eq!(copies(&server, &sampled).await, vec![1; sampled.len()]);
}
