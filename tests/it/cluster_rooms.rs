//! Rooms, pushes of the business and what is not stored reach devices on every instance, once; what is
//! not stored does so while Redis is well.

use im::pb::{PushToUsersReq, ReceiverType};

use crate::support::{
    Cluster, Connection, Device, Transport,
    crowd::ids,
    groups::KINDS,
    internal::command,
    messages::{ephemeral, text, words},
    rooms::room_text,
};

const ROOM: i64 = 77;
const INSTANCES: usize = 3;
const EACH: usize = 25;

on_each_transport!(
    a_room_spans_all_instances,
    who_left_a_room_elsewhere_is_given_nothing_more,
    what_is_not_stored_crosses_too,
    a_push_to_all_reaches_every_instance,
    a_push_to_users_reaches_every_instance,
);

/// A user with a connection on each instance.
async fn one_on_each(cluster: &Cluster, transport: Transport) -> Vec<(Device, Connection)> {
    let mut there = Vec::new();
    for at in 0..INSTANCES {
        let user = cluster[at].new_user().await;
        let connection = cluster[at].connect(transport, &user).await;
        there.push((user, connection));
    }
    there
}

/// Asserts that nothing but a message to the user himself comes next.
async fn assert_given_nothing(cluster: &Cluster, user: &Device, connection: &mut Connection) {
    let stranger = cluster[1].new_user().await;
    cluster[1]
        .send(&stranger, text(user.user_id, "marker"))
        .await;
    assert_eq!(words(&connection.push().await), "marker");
    connection.heartbeat().await;
    assert!(connection.take_pushes().is_empty());
}

async fn a_room_spans_all_instances(transport: Transport) {
    let plan = Cluster::plan(INSTANCES);
    plan.undisturbed(async |cluster| {
        let mut there = one_on_each(cluster, transport).await;
        for (_, connection) in &mut there {
            connection.subscribe(ROOM).await;
        }
        for n in 0..EACH {
            for at in 0..INSTANCES {
                let words_sent = format!("{at}-{n}");
                there[at].1.send(&room_text(ROOM, &words_sent)).await;
                for other in (0..INSTANCES).filter(|other| *other != at) {
                    let message = there[other].1.push().await;
                    assert_eq!(words(&message), words_sent);
                    assert_eq!(message.receiver_type(), ReceiverType::RtRoom);
                    assert_eq!((message.seq, message.message_id), (0, 0));
                }
            }
            cluster[n % INSTANCES]
                .push_text_to_room(ROOM, "business")
                .await;
            for (_, connection) in &mut there {
                assert_eq!(words(&connection.push().await), "business");
            }
        }
        for (_, connection) in &mut there {
            connection.heartbeat().await;
            assert!(connection.take_pushes().is_empty(), "each came once");
        }
    })
    .await;
}

async fn who_left_a_room_elsewhere_is_given_nothing_more(transport: Transport) {
    let plan = Cluster::plan(INSTANCES);
    plan.undisturbed(async |cluster| {
        let mut there = one_on_each(cluster, transport).await;
        for (_, connection) in &mut there {
            connection.subscribe(ROOM).await;
        }
        there[0].1.send(&room_text(ROOM, "all")).await;
        for (_, connection) in &mut there[1..] {
            assert_eq!(words(&connection.push().await), "all");
        }
        there[2].1.subscribe(ROOM + 1).await;
        there[0].1.send(&room_text(ROOM, "without her")).await;
        assert_eq!(words(&there[1].1.push().await), "without her");
        let (user, mut connection) = there.pop().expect("the third");
        assert_given_nothing(cluster, &user, &mut connection).await;
    })
    .await;
}

async fn what_is_not_stored_crosses_too(transport: Transport) {
    let plan = Cluster::plan(INSTANCES);
    plan.undisturbed(async |cluster| {
        let users = cluster[0].new_users(INSTANCES).await;
        let mut groups = Vec::new();
        for kind in KINDS {
            let others = ids(&users[1..]);
            groups.push(cluster[0].create_group(&users[0], kind, &others).await);
        }
        let mut connections = Vec::new();
        for (at, user) in users.iter().enumerate() {
            connections.push(cluster[at].connect(transport, user).await);
        }
        for n in 0..EACH {
            let words_sent = n.to_string();
            let sent = ephemeral(users[1].user_id, &words_sent);
            cluster[0].send(&users[0], sent).await;
            let message = connections[1].push().await;
            assert_eq!((words(&message), message.seq), (words_sent, 0));
        }
        for group in groups {
            for n in 0..EACH {
                let words_sent = n.to_string();
                connections[0].send(&group.ephemeral(&words_sent)).await;
                for connection in &mut connections[1..] {
                    let message = connection.push().await;
                    assert!(group.got(&message), "{message:?}");
                    assert_eq!((words(&message), message.seq), (words_sent.clone(), 0));
                }
            }
        }
    })
    .await;
}

async fn a_push_to_all_reaches_every_instance(transport: Transport) {
    let plan = Cluster::plan(INSTANCES);
    plan.undisturbed(async |cluster| {
        let mut there = one_on_each(cluster, transport).await;
        for n in 0..EACH {
            let from = &cluster[n % INSTANCES];
            let data = n.to_string();
            from.push_to_all(Some(command(&data)))
                .await
                .expect("pushed");
            for (_, connection) in &mut there {
                let message = connection.push().await;
                let content = prost::Message::decode(message.message_content.clone());
                let content: im::pb::Command = content.expect("a command");
                assert_eq!(content, command(&data));
            }
        }
        for (_, connection) in &mut there {
            connection.heartbeat().await;
            assert!(connection.take_pushes().is_empty(), "each came once");
        }
    })
    .await;
}

async fn a_push_to_users_reaches_every_instance(transport: Transport) {
    let cluster = Cluster::start(INSTANCES).await;
    let mut there = one_on_each(&cluster, transport).await;
    let users: Vec<_> = there.iter().map(|(user, _)| user.user_id).collect();
    for n in 1..=EACH {
        let request = PushToUsersReq {
            user_ids: users.clone(),
            is_persist: true,
            command: Some(command(&n.to_string())),
            client_message_id: format!("push-{n}"),
        };
        let from = &cluster[n % INSTANCES];
        let id = from.push_to_users(request.clone()).await.expect("pushed");
        let again = cluster[(n + 1) % INSTANCES].push_to_users(request).await;
        assert_eq!(again.expect("a retry elsewhere"), id);
        for (_, connection) in &mut there {
            let message = connection.push().await;
            assert_eq!((message.seq, message.message_id), (n as i64, id));
        }
    }
}
