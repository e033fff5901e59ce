//! Rooms: whoever is subscribed on a connection is given what is sent while he is there, and nothing
//! of it is stored.

use im::pb::{
    MessageType, PackageType, PushToRoomReq, ReceiverType, SendMessageReq, Sender, SenderType,
    SubscribeRoomInput,
};

use crate::support::{
    Connection, Device, Server, Transport,
    errors::{BAD_REQUEST, NOT_ALLOWED, assert_code, assert_fails, assert_names, code},
    messages::{text, words},
    rooms::room_text,
    wait::eventually,
};

on_each_transport!(
    subscribers_are_given_what_is_sent_to_their_room,
    a_device_is_in_one_room_at_a_time,
    who_has_left_is_given_nothing_more,
    only_a_subscribed_device_may_send,
    whether_to_persist_is_ignored_and_nothing_is_stored,
    the_business_pushes_to_a_room,
    a_room_ends_with_its_connection,
    wrong_room_ids_are_refused_by_name,
);

const ROOM: i64 = 77;
const OTHER_ROOM: i64 = 78;

/// Users, each with a connection that is in `ROOM`.
async fn in_room(server: &Server, transport: Transport, count: usize) -> Vec<(Device, Connection)> {
    let mut there = Vec::new();
    for _ in 0..count {
        let user = server.new_user().await;
        let mut connection = server.connect(transport, &user).await;
        connection.subscribe(ROOM).await;
        there.push((user, connection));
    }
    there
}

/// Asserts that nothing but a message to the user himself comes next.
async fn assert_given_nothing(server: &Server, user: &Device, connection: &mut Connection) {
    let stranger = server.new_user().await;
    server.send(&stranger, text(user.user_id, "marker")).await;
    assert_eq!(words(&connection.push().await), "marker");
    connection.heartbeat().await;
    assert!(connection.take_pushes().is_empty());
}

async fn subscribers_are_given_what_is_sent_to_their_room(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 3).await;
    let tablet = server.another_device_of(&there[0].0).await;
    let mut tablets = server.connect(transport, &tablet).await;
    tablets.subscribe(ROOM).await;
    server.set_nickname(&there[0].0, "Alice").await;
    for n in 0..10 {
        let request = room_text(ROOM, &n.to_string());
        let sent = if n % 2 == 0 {
            there[0].1.send(&request).await
        } else {
            server.send(&there[0].0, request).await
        };
        assert_eq!((sent.seq, sent.message_id), (0, 0));
        assert!(sent.send_time > 0);
    }
    let sender_id = there[0].0.user_id;
    let others = there[1..].iter_mut().map(|(_, connection)| connection);
    for connection in others.chain([&mut tablets]) {
        for (n, message) in connection.pushed(10).await.iter().enumerate() {
            assert_eq!(words(message), n.to_string(), "in order");
            let to = (message.receiver_type(), message.receiver_id);
            assert_eq!(to, (ReceiverType::RtRoom, ROOM));
            assert_eq!((message.seq, message.message_id), (0, 0));
            let from = message.sender.clone().expect("a sender");
            assert_eq!(from.sender_type, i32::from(SenderType::StUser));
            assert_eq!((from.sender_id, &*from.nickname), (sender_id, "Alice"));
        }
    }
    // The device that sent is given none of it.
    let (alice, mut phone) = there.remove(0);
    assert_given_nothing(&server, &alice, &mut phone).await;
}

async fn a_device_is_in_one_room_at_a_time(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 3).await;
    let (carol, mut carols) = there.pop().expect("Carol");
    carols.subscribe(OTHER_ROOM).await;
    let refused = carols.try_send(&room_text(ROOM, "still here?")).await;
    assert_code(&refused, NOT_ALLOWED);
    there[0].1.send(&room_text(ROOM, "to the first room")).await;
    assert_eq!(words(&there[1].1.push().await), "to the first room");
    assert_given_nothing(&server, &carol, &mut carols).await;
    // The other way round, and back again.
    server.push_text_to_room(OTHER_ROOM, "to the other").await;
    assert_eq!(words(&carols.push().await), "to the other");
    carols.subscribe(ROOM).await;
    carols.subscribe(ROOM).await;
    there[0].1.send(&room_text(ROOM, "welcome back")).await;
    assert_eq!(words(&carols.push().await), "welcome back");
    server.push_text_to_room(OTHER_ROOM, "anybody?").await;
    assert_given_nothing(&server, &carol, &mut carols).await;
    let (bob, mut bobs) = there.pop().expect("Bob");
    assert_eq!(words(&bobs.push().await), "welcome back");
    assert_given_nothing(&server, &bob, &mut bobs).await;
}

async fn who_has_left_is_given_nothing_more(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 3).await;
    let (carol, mut carols) = there.pop().expect("Carol");
    carols.subscribe(0).await;
    carols.subscribe(0).await; // there is nothing to leave any more
    there[0].1.send(&room_text(ROOM, "without her")).await;
    server.push_text_to_room(ROOM, "without her").await;
    for _ in 0..2 {
        assert_eq!(words(&there[1].1.push().await), "without her");
    }
    assert_given_nothing(&server, &carol, &mut carols).await;
    let refused = carols.try_send(&room_text(ROOM, "hello?")).await;
    assert_code(&refused, NOT_ALLOWED);
}

async fn only_a_subscribed_device_may_send(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 2).await;
    let (alice, mut phone) = there.remove(0);
    let stranger = server.new_user().await;
    let tablet = server.another_device_of(&alice).await;
    let mut strangers = server.connect(transport, &stranger).await;
    let mut tablets = server.connect(transport, &tablet).await;
    for persist in [false, true] {
        let request = SendMessageReq {
            is_persist: persist,
            ..room_text(ROOM, "from outside")
        };
        for connection in [&mut strangers, &mut tablets] {
            let answer = connection.try_send(&request).await;
            assert_code(&answer, NOT_ALLOWED);
        }
        // The room is the device's, not the user's; with or without a connection.
        let away = server.another_device_of(&alice).await;
        for device in [&stranger, &tablet, &away] {
            let refused = server.try_send(device, request.clone()).await;
            assert_fails(refused, NOT_ALLOWED);
        }
    }
    phone.send(&room_text(ROOM, "from inside")).await;
    server.send(&alice, room_text(ROOM, "over gRPC")).await;
    let (_bob, bobs) = &mut there[0];
    assert_eq!(words(&bobs.push().await), "from inside");
    assert_eq!(words(&bobs.push().await), "over gRPC");
    let other = phone.try_send(&room_text(OTHER_ROOM, "elsewhere")).await;
    assert_code(&other, NOT_ALLOWED);
}

async fn whether_to_persist_is_ignored_and_nothing_is_stored(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 2).await;
    let persisted = SendMessageReq {
        is_persist: true,
        client_message_id: "with an id".into(),
        ..room_text(ROOM, "keep this")
    };
    let sent = there[0].1.send(&persisted).await;
    assert_eq!((sent.seq, sent.message_id), (0, 0));
    let sent = server.send(&there[0].0, persisted).await;
    assert_eq!((sent.seq, sent.message_id), (0, 0));
    server.push_text_to_room(ROOM, "from the business").await;
    let message = there[1].1.push().await;
    assert_eq!(words(&message), "keep this");
    assert_eq!((message.seq, message.message_id), (0, 0));
    for (user, connection) in &mut there {
        let page = connection.sync_groups(0, &[(ROOM, 0)]).await;
        assert!(page.messages.is_empty() && page.groups.is_empty());
        assert!(server.timeline(user).await.is_empty());
    }
    // Whoever comes later missed it.
    let late = server.new_user().await;
    let mut lates = server.connect(transport, &late).await;
    lates.subscribe(ROOM).await;
    assert_given_nothing(&server, &late, &mut lates).await;
}

async fn the_business_pushes_to_a_room(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 3).await;
    for n in 0..5 {
        server.push_text_to_room(ROOM, &n.to_string()).await;
    }
    for (_, connection) in &mut there {
        for n in 0..5 {
            let message = connection.push().await;
            assert_eq!(words(&message), n.to_string());
            let business = Sender {
                sender_type: SenderType::StBusiness.into(),
                ..Default::default()
            };
            assert_eq!(message.sender, Some(business));
            let to = (message.receiver_type(), message.receiver_id);
            assert_eq!(to, (ReceiverType::RtRoom, ROOM));
            assert_eq!((message.seq, message.message_id), (0, 0));
            assert!(message.send_time > 0);
        }
    }
    // A room with nobody in it is a room.
    server.push_text_to_room(i64::MAX, "anybody?").await;
    let (bob, mut bobs) = there.remove(0);
    assert_given_nothing(&server, &bob, &mut bobs).await;
}

async fn a_room_ends_with_its_connection(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 3).await;
    let (carol, carols) = there.pop().expect("Carol");
    drop(carols);
    eventually("her room has ended", async || {
        let sent = server
            .try_send(&carol, room_text(ROOM, "am I there?"))
            .await;
        sent.is_err_and(|status| code(&status) == NOT_ALLOWED)
            .then_some(())
    })
    .await;
    // A new connection begins outside, also one that replaces another.
    let (bob, old) = there.pop().expect("Bob");
    for (user, old) in [(&carol, None), (&bob, Some(old))] {
        let mut new = server.connect(transport, user).await;
        if let Some(mut old) = old {
            // Until it has gone, what it sent before that may be on its way.
            old.closed().await;
        }
        let refused = new.try_send(&room_text(ROOM, "am I there?")).await;
        assert_code(&refused, NOT_ALLOWED);
        assert_fails(
            server.try_send(user, room_text(ROOM, "am I there?")).await,
            NOT_ALLOWED,
        );
        there[0].1.send(&room_text(ROOM, "just me")).await;
        assert_given_nothing(&server, user, &mut new).await;
    }
}

async fn wrong_room_ids_are_refused_by_name(transport: Transport) {
    let server = Server::start().await;
    let mut there = in_room(&server, transport, 2).await;
    let (alice, mut phone) = there.remove(0);
    for room_id in [-1, i64::MIN] {
        let answer = phone.try_subscribe(room_id).await;
        assert_code(&answer, BAD_REQUEST);
        assert!(answer.message.contains("room_id"), "{answer:?}");
    }
    for room_id in [0, -1] {
        let answer = phone.try_send(&room_text(room_id, "x")).await;
        assert_code(&answer, BAD_REQUEST);
        assert!(answer.message.contains("receiver_id"), "{answer:?}");
        let sent = server.try_send(&alice, room_text(room_id, "x")).await;
        assert_names(sent, "receiver_id");
    }
    let push = |room_id, message_type: i32, length| PushToRoomReq {
        room_id,
        message_type,
        message_content: vec![b'x'; length].into(),
    };
    let custom = i32::from(MessageType::MtCustom);
    for (field, request) in [
        ("room_id", push(0, custom, 1)),
        ("room_id", push(-1, custom, 1)),
        ("message_type", push(ROOM, 0, 1)),
        ("message_type", push(ROOM, 9, 1)),
        ("message_content", push(ROOM, custom, 60_001)),
    ] {
        assert_names(server.push_to_room(request).await, field);
    }
    // It stays open and where it was.
    let (_bob, bobs) = &mut there[0];
    phone.send(&room_text(ROOM, "still here")).await;
    assert_eq!(words(&bobs.push().await), "still here");
    let garbage = phone
        .input(PackageType::PtSubscribeRoom.into(), vec![0xFF])
        .await;
    assert_code(&phone.answer(garbage).await, BAD_REQUEST);
}

/// The answer to a subscription has nothing in it.
#[tokio::test]
async fn a_subscription_is_answered_with_nothing() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut connection = server.connect(Transport::Tcp, &alice).await;
    for room_id in [1, i64::MAX, 0] {
        let input = SubscribeRoomInput { room_id };
        let answer = connection.request(PackageType::PtSubscribeRoom, &input);
        let answer = answer.await;
        assert_code(&answer, 0);
        assert!(answer.data.is_empty());
    }
}
