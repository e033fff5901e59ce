//! A business sends as itself or as the system: to users, groups and rooms, without belonging
//! anywhere, and as safely as a user does.

use im::pb::{
    GroupType, IntSendMessageReq, IntSignOutReq, Message, PushToAllReq, PushToRoomReq,
    PushToUsersReq, ReceiverType, SendMessageReq, Sender, SenderType,
    logic_int_client::LogicIntClient,
};

use crate::support::{
    Server, Transport,
    api::with_metadata,
    errors::{BAD_REQUEST, NO_SUCH_GROUP, NO_SUCH_USER, SIGN_IN_AGAIN, assert_fails, assert_names},
    groups::{Group, KINDS},
    internal::command,
    messages::{ephemeral, sized, text, text_with_id, words},
    rooms::room_text,
};

on_each_transport!(
    a_user_is_sent_a_message_by_the_system_or_the_business,
    a_group_is_sent_a_message_without_membership,
    a_room_is_sent_a_message_without_subscription,
    a_business_send_is_applied_once,
);

const SENDERS: [SenderType; 2] = [SenderType::StSystem, SenderType::StBusiness];
const SHOP: i64 = 4_711;

/// Who a message is from, without a profile.
fn assert_from(message: &Message, sender_type: SenderType, sender_id: i64) {
    let expected = Sender {
        sender_type: sender_type.into(),
        sender_id,
        ..Default::default()
    };
    assert_eq!(message.sender, Some(expected), "{message:?}");
}

async fn a_user_is_sent_a_message_by_the_system_or_the_business(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let other = server.another_device_of(&bob).await;
    let mut devices = [
        server.connect(transport, &bob).await,
        server.connect(transport, &other).await,
    ];
    let mut expected = Vec::new();
    // A number that is also a user's does not make him the sender.
    for (sender_type, sender_id) in SENDERS.into_iter().zip([SHOP, alice.user_id]) {
        let request = SendMessageReq {
            to_user_ids: vec![bob.user_id],
            send_time: 1_700_000_000_123,
            ..text(bob.user_id, "an offer")
        };
        let sent = server.send_as(sender_type, sender_id, request).await;
        let sent = sent.expect("LogicInt.SendMessage");
        assert_eq!(sent.seq, 0, "it has no timeline");
        assert!(sent.message_id > 0);
        assert_eq!(sent.send_time, 1_700_000_000_123);
        for device in &mut devices {
            let message = device.push().await;
            assert_from(&message, sender_type, sender_id);
            assert_eq!(words(&message), "an offer");
            assert_eq!(message.seq, expected.len() as i64 + 1);
            assert_eq!(message.message_id, sent.message_id);
            assert_eq!(message.to_user_ids, [bob.user_id]);
            let to = (message.receiver_type(), message.receiver_id);
            assert_eq!(to, (ReceiverType::RtUser, bob.user_id));
        }
        expected.push(sent.message_id);
        let passing = ephemeral(bob.user_id, "right now");
        let sent = server.send_as(sender_type, sender_id, passing).await;
        let sent = sent.expect("LogicInt.SendMessage");
        assert_eq!((sent.seq, sent.message_id), (0, 0));
        for device in &mut devices {
            let message = device.push().await;
            assert_from(&message, sender_type, sender_id);
            assert_eq!((&*words(&message), message.seq), ("right now", 0));
        }
    }
    let timeline = server.timeline(&bob).await;
    let stored: Vec<_> = timeline.iter().map(|m| m.message_id).collect();
    assert_eq!(stored, expected);
    assert!(server.timeline(&alice).await.is_empty(), "it was not Alice");
}

async fn a_group_is_sent_a_message_without_membership(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group: Group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let mut members = [
            server.connect(transport, &alice).await,
            server.connect(transport, &bob).await,
        ];
        for (n, sender_type) in SENDERS.into_iter().enumerate() {
            let sent = server.send_as(sender_type, SHOP, group.text("news")).await;
            let sent = sent.expect("LogicInt.SendMessage");
            let seq = match kind {
                GroupType::GtLarge => n as i64 + 2,
                _ => 0,
            };
            assert_eq!(sent.seq, seq, "the large group's, or none");
            let passing = server.send_as(sender_type, SHOP, group.ephemeral("now"));
            let passing = passing.await.expect("LogicInt.SendMessage");
            assert_eq!((passing.seq, passing.message_id), (0, 0));
            for member in &mut members {
                let message = member.push().await;
                assert_from(&message, sender_type, SHOP);
                assert_eq!(words(&message), "news");
                assert!(group.got(&message) && message.seq > 0);
                assert_eq!(message.message_id, sent.message_id);
                let message = member.push().await;
                assert_from(&message, sender_type, SHOP);
                assert_eq!((&*words(&message), message.seq), ("now", 0));
            }
        }
    }
}

async fn a_room_is_sent_a_message_without_subscription(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(transport, &alice).await;
    connection.subscribe(9).await;
    for sender_type in SENDERS {
        let request = SendMessageReq {
            is_persist: true, // ignored
            ..room_text(9, "goal!")
        };
        let sent = server.send_as(sender_type, SHOP, request).await;
        let sent = sent.expect("LogicInt.SendMessage");
        assert_eq!((sent.seq, sent.message_id), (0, 0));
        let message = connection.push().await;
        assert_from(&message, sender_type, SHOP);
        let to = (message.receiver_type(), message.receiver_id);
        assert_eq!(to, (ReceiverType::RtRoom, 9));
        assert_eq!((&*words(&message), message.seq), ("goal!", 0));
    }
    assert!(server.timeline(&alice).await.is_empty());
}

async fn a_business_send_is_applied_once(transport: Transport) {
    let mut server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let business = SenderType::StBusiness;
    let small = server.create_group(&alice, KINDS[0], &[]).await;
    let large = server.create_group(&alice, KINDS[1], &[]).await;
    let mut connection = server.connect(transport, &bob).await;
    for (n, request) in [
        text_with_id(bob.user_id, "once", "user"),
        small.text_with_id("once", "small"),
        large.text_with_id("once", "large"),
    ]
    .into_iter()
    .enumerate()
    {
        let send = async || {
            let sent = server.send_as(business, SHOP, request.clone()).await;
            sent.expect("LogicInt.SendMessage")
        };
        let first = send().await;
        let again = tokio::join!(send(), send(), send());
        assert_eq!(again, (first, first, first));
        let other = SendMessageReq {
            message_content: text(1, "other words").message_content,
            ..request.clone()
        };
        let refused = server.send_as(business, SHOP, other).await;
        assert_fails(refused, BAD_REQUEST);
        if n == 0 {
            // Another sender's id is another id; so is a user's of the same number.
            let others = [
                server.send_as(business, SHOP + 1, request.clone()).await,
                server
                    .send_as(SenderType::StSystem, SHOP, request.clone())
                    .await,
                server
                    .send_as(business, alice.user_id, request.clone())
                    .await,
                server.try_send(&alice, request.clone()).await,
            ];
            let mut ids = vec![first.message_id];
            ids.extend(others.map(|sent| sent.expect("sent").message_id));
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 5, "five messages");
            assert_eq!(connection.pushed(5).await.len(), 5);
            connection.heartbeat().await;
            assert!(connection.take_pushes().is_empty());
        }
    }
    assert_eq!(server.group_timeline(&alice, large).await.len(), 2);
    server.restart().await;
    let request = text_with_id(bob.user_id, "once", "user");
    let sent = server.send_as(business, SHOP, request).await;
    sent.expect("the first result");
    assert_eq!(server.timeline(&bob).await.len(), 5);
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name() {
    let server = Server::start().await;
    let bob = server.new_user().await;
    let good = text(bob.user_id, "x");
    let send = async |sender_type: i32, sender_id, message| {
        let request = IntSendMessageReq {
            sender_type,
            sender_id,
            message,
        };
        server.internal().send_message(request).await
    };
    let business = i32::from(SenderType::StBusiness);
    for wrong in [0, SenderType::StUser.into(), 4, -1] {
        let refused = send(wrong, bob.user_id, Some(good.clone())).await;
        assert_names(refused, "sender_type");
    }
    let refused = send(business, -1, Some(good.clone())).await;
    assert_names(refused, "sender_id");
    assert_names(send(business, SHOP, None).await, "message");
    let with = |change: &dyn Fn(&mut SendMessageReq)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (field, request) in [
        ("receiver_type", with(&|r| r.receiver_type = 0)),
        ("receiver_id", with(&|r| r.receiver_id = 0)),
        ("message_type", with(&|r| r.message_type = 99)),
        ("to_user_ids", with(&|r| r.to_user_ids = vec![1; 101])),
        ("send_time", with(&|r| r.send_time = -1)),
        (
            "client_message_id",
            with(&|r| r.client_message_id = "i".repeat(65)),
        ),
        ("message_content", sized(bob.user_id, 60_001)),
    ] {
        assert_names(send(business, SHOP, Some(request)).await, field);
    }
    assert!(server.timeline(&bob).await.is_empty());
}

#[tokio::test]
async fn a_receiver_that_does_not_exist_is_refused() {
    let server = Server::start().await;
    let nobody = 1_000_000_000;
    let unknown = KINDS.map(|kind| Group { id: nobody, kind });
    for (request, code) in [
        (text(nobody, "x"), NO_SUCH_USER),
        (ephemeral(nobody, "x"), NO_SUCH_USER),
        (unknown[0].text("x"), NO_SUCH_GROUP),
        (unknown[0].ephemeral("x"), NO_SUCH_GROUP),
        (unknown[1].text("x"), NO_SUCH_GROUP),
        (unknown[1].ephemeral("x"), NO_SUCH_GROUP),
    ] {
        for sender_type in SENDERS {
            let refused = server.send_as(sender_type, SHOP, request.clone()).await;
            assert_fails(refused, code);
        }
    }
}

/// The token guards every rpc of the listener, not only those that `internal.rs` tries.
#[tokio::test]
async fn a_set_token_guards_everything_a_business_pushes() {
    let server = Server::with(|config| config.internal.token = "s3cret".into()).await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::Tcp, &alice).await;
    connection.subscribe(1).await;
    let send = IntSendMessageReq {
        sender_type: SenderType::StBusiness.into(),
        sender_id: SHOP,
        message: Some(text(alice.user_id, "x")),
    };
    let to_users = PushToUsersReq {
        user_ids: vec![alice.user_id],
        command: Some(command("x")),
        ..Default::default()
    };
    let to_all = PushToAllReq {
        command: Some(command("x")),
    };
    let to_room = PushToRoomReq {
        room_id: 1,
        message_type: 1,
        ..Default::default()
    };
    let mut internal = LogicIntClient::new(server.internal_channel());
    for wrong in [&[][..], &[("authorization", "Bearer wrong")][..]] {
        let refused = internal.send_message(with_metadata(send.clone(), wrong));
        assert_fails(refused.await, SIGN_IN_AGAIN);
        let refused = internal.push_to_users(with_metadata(to_users.clone(), wrong));
        assert_fails(refused.await, SIGN_IN_AGAIN);
        let refused = internal.push_to_all(with_metadata(to_all.clone(), wrong));
        assert_fails(refused.await, SIGN_IN_AGAIN);
        let refused = internal.push_to_room(with_metadata(to_room.clone(), wrong));
        assert_fails(refused.await, SIGN_IN_AGAIN);
        let sign_out = IntSignOutReq {
            user_id: alice.user_id,
            device_id: 0,
        };
        let refused = internal.sign_out(with_metadata(sign_out, wrong));
        assert_fails(refused.await, SIGN_IN_AGAIN);
    }
    let right = [("authorization", "Bearer s3cret")];
    let sent = internal.send_message(with_metadata(send, &right)).await;
    sent.expect("the right token");
    assert_eq!(words(&connection.push().await), "x", "and nothing before");
}
