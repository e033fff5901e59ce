//! Large groups with many members: each of those who are online is given every message once and in
//! order, and one who does not read delays nobody and loses nothing (I6).

use std::time::{Duration, Instant};

use im::{
    config::{Config, SqliteSynchronous},
    pb::{GroupType, Message},
};

use crate::support::{
    Connection, Device, Server, Transport,
    crowd::{all, ids},
    events::event,
    groups::Group,
    messages::{seqs, sized, text, words},
    wait::within,
    wire::BOTH,
};

/// Most ids in one call.
const IDS_MAX: usize = 1_000;
/// Long for a machine that does other things as well.
const LONG: Duration = Duration::from_secs(120);

/// Creating the crowd is not what is shown here.
fn quick_disk(config: &mut Config) {
    config.database.sqlite_synchronous = SqliteSynchronous::Normal;
    // How long the machine takes for the others is no reason to close the slow one.
    config.session.write_timeout_s = 600;
}

/// A large group of `admin` and `members`, made in pages.
async fn make_group(server: &Server, admin: &Device, members: &[i64]) -> Group {
    let mut pages = members.chunks(IDS_MAX);
    let first = pages.next().unwrap_or_default();
    let group = server.create_group(admin, GroupType::GtLarge, first).await;
    for page in pages {
        let known = server.add_members(admin, group.id, page).await;
        assert!(known.expect("added").is_empty());
    }
    group
}

#[tokio::test]
async fn each_of_three_hundred_online_members_of_two_thousand_gets_every_message_once() {
    const MEMBERS: usize = 2_000;
    const ONLINE: usize = 300;
    const SENDERS: usize = 10;
    const EACH: usize = 5;
    let server = Server::with(quick_disk).await;
    let online = server.new_users(ONLINE).await;
    let absent = server.new_absent_users(MEMBERS - ONLINE).await;
    let (admin, others) = online.split_first().expect("somebody");
    let members: Vec<_> = ids(others).into_iter().chain(ids(&absent)).collect();
    let group = make_group(&server, admin, &members).await;
    let description = server.group(admin, group.id).await.expect("GetGroup");
    assert_eq!(description.user_mum, MEMBERS as i32);
    let mut everybody = members;
    everybody.push(admin.user_id);
    everybody.sort_unstable();
    assert_eq!(
        server
            .member_ids(others.last().expect("one"), group.id)
            .await,
        everybody
    );

    let mut connections = within(LONG, "all connect", server.connect_all(&online)).await;
    let head = server.group_timeline(admin, group).await.len();
    // Devices of their own send, so that everybody online is given everything.
    let senders = all(online[..SENDERS]
        .iter()
        .map(async |user| server.another_device_of(user).await))
    .await;
    let sends = senders.iter().map(async |sender| {
        let mut connection = server.connect(Transport::Tcp, sender).await;
        for n in 0..EACH {
            connection.send(&group.text(&n.to_string())).await;
        }
    });
    all(sends).await;

    let total = SENDERS * EACH;
    let expected: Vec<_> = (head + 1..=head + total).map(|seq| seq as i64).collect();
    let mut first: Vec<Message> = Vec::new();
    for connection in &mut connections {
        let messages = within(LONG, "every message", connection.pushed(total)).await;
        assert_eq!(seqs(&messages), expected, "each once and in order");
        if first.is_empty() {
            first = messages;
        } else {
            assert_eq!(messages, first, "the same for everybody");
        }
    }
    for connection in &mut connections {
        connection.heartbeat().await;
        assert!(connection.take_pushes().is_empty(), "nothing twice");
    }
    // A member who was away finds the same.
    let found = server
        .group_timeline(&absent[MEMBERS - ONLINE - 1], group)
        .await;
    assert!(found.ends_with(&first));
}

/// The slow one's socket is full of messages of his own before the group begins to talk.
#[tokio::test]
async fn a_slow_reader_delays_none_of_a_thousand_members_and_loses_nothing() {
    const ONLINE: usize = 1_000;
    const STUFFING: usize = 300; // of 60,000 bytes: more than the sockets' buffers take
    const MESSAGES: usize = 30;
    let server = Server::with(quick_disk).await;
    let users = server.new_users(ONLINE + 1).await;
    let (admin, members) = users.split_first().expect("somebody");
    let group = make_group(&server, admin, &ids(members)).await;
    let mut connections = within(LONG, "all connect", server.connect_all(members)).await;
    // One over each transport does not read.
    let slow: Vec<_> = BOTH.into_iter().zip(connections.drain(..2)).collect();
    for ((transport, connection), user) in slow.iter().zip(members) {
        assert_eq!(connection.transport(), *transport);
        let mut sender = server.connect(Transport::Tcp, admin).await;
        for _ in 0..STUFFING {
            sender.send(&sized(user.user_id, 60_000)).await;
        }
    }

    let mut sender = server.connect(Transport::Tcp, admin).await;
    for n in 0..MESSAGES {
        let started = Instant::now();
        let sent = sender.send(&group.text(&n.to_string())).await;
        let round = all(connections.iter_mut().map(async |connection| {
            let message = connection.push().await;
            assert_eq!(message.message_id, sent.message_id);
            assert_eq!(words(&message), n.to_string());
        }));
        within(LONG, "everybody who reads has it", round).await;
        println!("{n}: everybody had it after {:?}", started.elapsed());
    }

    // Then they read, and nothing is missing.
    for (transport, mut connection) in slow {
        let read = read_all(&mut connection, STUFFING, MESSAGES, group);
        let of_group = within(LONG, "the slow one reads", read).await;
        let texts: Vec<_> = of_group.iter().map(words).collect();
        let expected: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
        assert_eq!(texts, expected, "{transport:?}");
        let first = of_group[0].seq;
        let gapless: Vec<_> = (first..first + MESSAGES as i64).collect();
        assert_eq!(seqs(&of_group), gapless, "{transport:?}");
        connection.heartbeat().await;
        assert!(connection.take_pushes().is_empty());
    }
}

/// Reads so many messages of the user's own and of the group; those of the group.
async fn read_all(
    connection: &mut Connection,
    own: usize,
    of_group: usize,
    group: Group,
) -> Vec<Message> {
    let messages = connection.pushed(own + of_group).await;
    let (ours, his): (Vec<_>, Vec<_>) = messages.into_iter().partition(|m| group.got(m));
    assert_eq!((ours.len(), his.len()), (of_group, own));
    let seqs = seqs(&his);
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1));
    ours
}

/// Large groups cost their members nothing while nobody speaks: one user may be in very many.
#[tokio::test]
async fn a_member_of_many_groups_is_given_what_each_says() {
    const GROUPS: usize = 500;
    let server = Server::with(quick_disk).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let members = [bob.user_id];
    let create = async |_| {
        server
            .create_group(&alice, GroupType::GtLarge, &members)
            .await
    };
    let groups = all((0..GROUPS).map(create)).await;
    let mut connection = server.connect(Transport::WebSocket, &bob).await;
    assert_eq!(server.groups(&bob).await.len(), GROUPS);
    all(groups.iter().map(async |group| {
        server.send(&alice, group.text("x")).await;
    }))
    .await;
    let mut given: Vec<_> = connection.pushed(GROUPS).await;
    assert!(given.iter().all(|m| m.seq == 2 && event(m).is_none()));
    given.sort_by_key(|message| message.receiver_id);
    given.dedup_by_key(|message| message.receiver_id);
    assert_eq!(given.len(), GROUPS, "one of each");
    // By sync all of them at once, page by page.
    let cursors: Vec<_> = groups.iter().map(|group| (group.id, 0)).collect();
    let pulled = connection.pull(GROUPS as i64, &cursors).await;
    assert_eq!(pulled.groups.len(), GROUPS);
    assert!(
        pulled
            .groups
            .values()
            .all(|messages| seqs(messages) == [1, 2])
    );
    let sent = server.send(&bob, text(alice.user_id, "done")).await;
    assert_eq!(sent.seq, GROUPS as i64 + 1);
}
