//! `PushToAll`: one command to every device that is online, as a message to its own user, and stored
//! nowhere.

use im::pb::{Command, MessageType, ReceiverType, Sender, SenderType};
use prost::Message as _;

use crate::support::{
    Server, Transport,
    crowd::all,
    errors::{BAD_REQUEST, assert_fails, assert_names},
    internal::command,
    messages::{text, words},
};

on_each_transport!(every_device_that_is_online_is_given_it_as_its_users_own);

async fn every_device_that_is_online_is_given_it_as_its_users_own(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let mut devices = users.clone();
    devices.push(server.another_device_of(&users[0]).await);
    let away = server.new_user().await;
    let mut connections = Vec::new();
    for device in &devices {
        connections.push(server.connect(transport, device).await);
    }
    let not_signed_in = server.open(transport).await;
    for data in ["first", "second"] {
        let pushed = server.push_to_all(Some(command(data))).await;
        pushed.expect("PushToAll");
    }
    for (device, connection) in devices.iter().zip(&mut connections) {
        for data in ["first", "second"] {
            let message = connection.push().await;
            let business = Sender {
                sender_type: SenderType::StBusiness.into(),
                ..Default::default()
            };
            assert_eq!(message.sender, Some(business));
            let to = (message.receiver_type(), message.receiver_id);
            assert_eq!(to, (ReceiverType::RtUser, device.user_id));
            assert_eq!((message.seq, message.message_id), (0, 0));
            assert_eq!(message.message_type(), MessageType::MtCommand);
            assert_eq!(message.message_content, command(data).encode_to_vec());
            assert!(message.send_time > 0);
        }
    }
    drop(not_signed_in);
    // Who comes later missed it, and nothing was stored.
    let mut late = server.connect(transport, &away).await;
    server.send(&users[0], text(away.user_id, "marker")).await;
    assert_eq!(words(&late.push().await), "marker");
    for user in &users[1..] {
        assert!(server.timeline(user).await.is_empty());
    }
}

#[tokio::test]
async fn many_devices_over_both_transports_are_given_it_once() {
    const DEVICES: usize = 300;
    let server = Server::start().await;
    let users = server.new_users(DEVICES).await;
    let mut connections = server.connect_all(&users).await;
    for n in 0..5 {
        let pushed = server.push_to_all(Some(command(&n.to_string()))).await;
        pushed.expect("PushToAll");
    }
    all(connections
        .iter_mut()
        .zip(&users)
        .map(async |(connection, user)| {
            for n in 0..5 {
                let message = connection.push().await;
                assert_eq!(message.receiver_id, user.user_id);
                let expected = command(&n.to_string()).encode_to_vec();
                assert_eq!(message.message_content, expected);
            }
            connection.heartbeat().await;
            assert!(connection.take_pushes().is_empty());
        }))
    .await;
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let server = Server::start().await;
    assert_names(server.push_to_all(None).await, "command");
    let too_long = Command {
        code: 1_000,
        data: vec![0; 60_001].into(),
    };
    assert_fails(server.push_to_all(Some(too_long)).await, BAD_REQUEST);
    // With nobody online there is nobody to tell.
    let pushed = server.push_to_all(Some(command("x"))).await;
    pushed.expect("PushToAll");
}
