//! Who is given a message: every device of the receiver and the sender's other devices, each once.

use im::pb::{Command, Message, MessageStatus, MessageType, SendMessageReq, SenderType};
use prost::Message as _;

use crate::support::{
    Server, Transport,
    messages::{ephemeral, seqs, text, text_with_id, words},
};

on_each_transport!(
    every_device_of_the_receiver_gets_a_message,
    the_senders_other_devices_get_it_and_the_sending_device_does_not,
    a_send_over_grpc_is_not_pushed_to_the_device_that_called,
    a_message_to_oneself_is_one_entry,
    a_message_arrives_as_it_was_sent,
    a_changed_profile_shows_on_the_next_message,
    every_message_type_is_carried,
);

async fn every_device_of_the_receiver_gets_a_message(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut receivers = Vec::new();
    for _ in 0..3 {
        let device = server.another_device_of(&bob).await;
        receivers.push(server.connect(transport, &device).await);
    }
    receivers.push(server.connect(Transport::Tcp, &bob).await);
    let sent = server.send(&alice, text(bob.user_id, "to all")).await;
    for receiver in &mut receivers {
        let message = receiver.push().await;
        assert_eq!((message.seq, message.message_id), (1, sent.message_id));
    }
}

async fn the_senders_other_devices_get_it_and_the_sending_device_does_not(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&alice).await;
    let mut phone = server.connect(transport, &alice).await;
    let mut tablet = server.connect(transport, &other).await;
    let sent = phone.send(&text(bob.user_id, "mine")).await;
    let message = tablet.push().await;
    assert_eq!(
        (message.seq, message.message_id),
        (sent.seq, sent.message_id)
    );
    // What comes next is the first thing the phone is pushed.
    server.send(&bob, text(alice.user_id, "yours")).await;
    let message = phone.push().await;
    assert_eq!((words(&message).as_str(), message.seq), ("yours", 2));
    // Its own sends are on the timeline like any other.
    assert_eq!(seqs(&phone.sync_after(0).await.messages), [1, 2]);
}

async fn a_send_over_grpc_is_not_pushed_to_the_device_that_called(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut phone = server.connect(transport, &alice).await;
    let sent = server.send(&alice, text(bob.user_id, "mine")).await;
    assert_eq!(sent.seq, 1);
    server.send(&bob, text(alice.user_id, "yours")).await;
    assert_eq!(phone.push().await.seq, 2);
}

async fn a_message_to_oneself_is_one_entry(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let other = server.another_device_of(&alice).await;
    let mut phone = server.connect(transport, &alice).await;
    let mut tablet = server.connect(transport, &other).await;
    for seq in 1..=3 {
        let sent = phone.send(&text(alice.user_id, "a note")).await;
        assert_eq!(sent.seq, seq);
        assert_eq!(tablet.push().await.seq, seq);
    }
    assert_eq!(seqs(&server.timeline(&alice).await), [1, 2, 3]);
    assert!(phone.take_pushes().is_empty());
}

async fn a_message_arrives_as_it_was_sent(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let profile = im::pb::UpdateUserReq {
        nickname: "Alice".into(),
        sex: 2,
        avatar_url: "https://example.com/a.png".into(),
        extra: "{\"mood\":\"fine\"}".into(),
    };
    let mut users = server.users(&alice);
    users
        .update_user(profile.clone())
        .await
        .expect("UpdateUser");
    let mut receiver = server.connect(transport, &bob).await;
    let mut sender = server.connect(transport, &alice).await;
    let request = SendMessageReq {
        to_user_ids: (1..=100).collect(), // as many as may be, whether they exist or not
        send_time: 1_700_000_000_123,
        ..text_with_id(bob.user_id, "with everything", "id-1")
    };
    let sent = sender.send(&request).await;
    assert_eq!(sent.send_time, request.send_time);

    let pushed = receiver.push().await;
    assert_same(&pushed, &request);
    assert_eq!((pushed.seq, pushed.message_id), (1, sent.message_id));
    let from = pushed.sender.clone().expect("a sender");
    assert_eq!(from.sender_type, i32::from(SenderType::StUser));
    assert_eq!(from.sender_id, alice.user_id);
    assert_eq!(from.nickname, profile.nickname);
    assert_eq!(from.avatar_url, profile.avatar_url);
    assert_eq!(from.extra, profile.extra);
    // Synced it is the same message.
    assert_eq!(receiver.sync_after(0).await.messages, [pushed]);
}

fn assert_same(message: &Message, request: &SendMessageReq) {
    assert_eq!(message.receiver_type, request.receiver_type);
    assert_eq!(message.receiver_id, request.receiver_id);
    assert_eq!(message.to_user_ids, request.to_user_ids);
    assert_eq!(message.message_type, request.message_type);
    assert_eq!(message.message_content, request.message_content);
    assert_eq!(message.send_time, request.send_time);
    assert_eq!(message.client_message_id, request.client_message_id);
    assert_eq!(message.status, i32::from(MessageStatus::MsNormal));
}

async fn a_changed_profile_shows_on_the_next_message(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut receiver = server.connect(transport, &bob).await;
    for nickname in ["Alice", "Alicia"] {
        server.set_nickname(&alice, nickname).await;
        server.send(&alice, text(bob.user_id, "who am I?")).await;
        let sender = receiver.push().await.sender.expect("a sender");
        assert_eq!(sender.nickname, nickname);
    }
}

async fn every_message_type_is_carried(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut sender = server.connect(transport, &alice).await;
    let mut receiver = server.connect(transport, &bob).await;
    let command = Command {
        code: 1000,
        data: "business".into(),
    };
    let contents = [
        (
            MessageType::MtText,
            im::pb::Text { text: "t".into() }.encode_to_vec(),
        ),
        (
            MessageType::MtFace,
            im::pb::Face {
                face_id: 1,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            MessageType::MtVoice,
            im::pb::Voice {
                duration: 3,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            MessageType::MtImage,
            im::pb::Image {
                width: 3,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            MessageType::MtFile,
            im::pb::File {
                name: "f".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            MessageType::MtLocation,
            im::pb::Location {
                latitude: 1.5,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (MessageType::MtCommand, command.encode_to_vec()),
        (
            MessageType::MtCustom,
            im::pb::Custom { data: "c".into() }.encode_to_vec(),
        ),
    ];
    for (message_type, content) in contents {
        for persisted in [text(bob.user_id, ""), ephemeral(bob.user_id, "")] {
            let request = SendMessageReq {
                message_type: message_type.into(),
                message_content: content.clone().into(),
                ..persisted
            };
            sender.send(&request).await;
            let pushed = receiver.push().await;
            assert_eq!(pushed.message_type, i32::from(message_type));
            assert_eq!(pushed.message_content, content, "{message_type:?}");
        }
    }
}

/// A send time of 0 is replaced by the server's.
#[tokio::test]
async fn a_message_without_a_send_time_gets_the_servers() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let before = now_ms();
    let sent = server.send(&alice, text(bob.user_id, "now")).await;
    assert!((before..=now_ms()).contains(&sent.send_time), "{sent:?}");
    let timeline = server.timeline(&bob).await;
    assert_eq!(timeline[0].send_time, sent.send_time);
}

fn now_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292,000,000")
}
