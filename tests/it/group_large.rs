//! Large groups have one timeline, which every member reads: what is sent is appended once, those
//! who are online are given it by push, and a change of membership counts on open connections at
//! once.

use im::pb::{GroupType, Message};

use crate::support::{
    Connection, Server, Transport,
    crowd::ids,
    errors::{NOT_IN_GROUP, assert_code},
    events::{Event, added, event, removed, said},
    groups::Group,
    messages::{seqs, text, words},
};

on_each_transport!(
    the_answer_bears_the_groups_seq,
    members_who_are_online_are_pushed_every_message,
    a_member_added_while_online_is_given_everything_from_joining,
    the_open_session_of_a_removed_member_is_given_nothing_more,
    who_leaves_and_comes_back_misses_what_was_sent_between,
    a_session_opened_before_many_groups_follows_all_of_them,
    whoever_connects_is_pushed_from_the_head,
);

const KIND: GroupType = GroupType::GtLarge;

/// The next `count` pushes of the group's timeline; others are passed over.
async fn of_group(connection: &mut Connection, group: Group, count: usize) -> Vec<Message> {
    let mut messages = Vec::with_capacity(count);
    while messages.len() < count {
        let message = connection.push().await;
        if group.got(&message) {
            messages.push(message);
        }
    }
    messages
}

/// Reads up to the direct message `words`, and returns what came before it.
async fn until(connection: &mut Connection, marker: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let message = connection.push().await;
        if event(&message).is_none() && words(&message) == marker {
            connection.heartbeat().await;
            messages.extend(connection.take_pushes());
            return messages;
        }
        messages.push(message);
    }
}

async fn the_answer_bears_the_groups_seq(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    // Long timelines of their own, of which the group knows nothing.
    for _ in 0..5 {
        server.send(&users[0], text(users[1].user_id, "x")).await;
    }
    let group = server
        .create_group(&users[0], KIND, &ids(&users[1..]))
        .await;
    let own_before = server.timeline(&users[1]).await;
    for turn in 0..3 {
        for (at, user) in users.iter().enumerate() {
            let mut connection = server.connect(transport, user).await;
            let sent = connection.send(&group.text("x")).await;
            assert_eq!(sent.seq, 2 * (turn * 3 + at as i64) + 2, "after the event");
            let sent = server.send(user, group.text("x")).await;
            assert_eq!(sent.seq, 2 * (turn * 3 + at as i64) + 3);
        }
    }
    assert_eq!(server.timeline(&users[1]).await, own_before);
    let timeline = server.group_timeline(&users[2], group).await;
    assert_eq!(seqs(&timeline), (1..=19).collect::<Vec<_>>());
    assert_eq!(added(&timeline[0]), ids(&users));
    assert_eq!(server.group_timeline(&users[0], group).await, timeline);
}

async fn members_who_are_online_are_pushed_every_message(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let group = server
        .create_group(&users[0], KIND, &ids(&users[1..]))
        .await;
    let mut connections = Vec::new();
    for user in &users {
        let device = server.another_device_of(user).await;
        connections.push(server.connect(transport, &device).await);
    }
    let mut sent = Vec::new();
    for n in 0..40 {
        let sender = &users[n % 3];
        sent.push(server.send(sender, group.text(&n.to_string())).await);
    }
    for connection in &mut connections {
        let messages = connection.pushed(40).await;
        for (message, sent) in messages.iter().zip(&sent) {
            assert!(group.got(message));
            let position = (message.seq, message.message_id);
            assert_eq!(position, (sent.seq, sent.message_id));
        }
    }
}

async fn a_member_added_while_online_is_given_everything_from_joining(transport: Transport) {
    const AFTER: usize = 30;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[]).await;
    let mut connection = server.connect(transport, &bob).await;
    let mut last = 0;
    for _ in 0..5 {
        last = server.send(&alice, group.text("before")).await.seq;
    }
    let result = server.add_members(&alice, group.id, &[bob.user_id]).await;
    result.expect("added");
    for _ in 0..AFTER {
        server.send(&alice, group.text("after")).await;
    }
    // Nothing but the open connection was needed.
    let messages = of_group(&mut connection, group, AFTER + 1).await;
    let expected: Vec<_> = (last + 1..=last + 1 + AFTER as i64).collect();
    assert_eq!(seqs(&messages), expected, "from the event that names him");
    assert_eq!(added(&messages[0]), [bob.user_id]);
    assert!(messages[1..].iter().all(|m| words(m) == "after"));
    // He may say something himself.
    let sent = connection.send(&group.text("thanks")).await;
    assert_eq!(sent.seq, last + 2 + AFTER as i64);
    assert_eq!(server.group_timeline(&bob, group).await.len(), AFTER + 2);
}

async fn the_open_session_of_a_removed_member_is_given_nothing_more(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let [alice, bob, carol] = &users[..] else {
        panic!("three users");
    };
    for by in [alice, carol] {
        let group = server.create_group(alice, KIND, &ids([bob, carol])).await;
        let mut carols = server.connect(transport, carol).await;
        let mut bobs = server.connect(transport, bob).await;
        server.send(alice, group.text("before")).await;
        assert_eq!(words(&carols.said().await), "before");
        let result = server.remove_member(by, group.id, carol.user_id).await;
        result.expect("removed");
        for n in 0..10 {
            server.send(alice, group.text(&format!("secret {n}"))).await;
            server.send(bob, group.ephemeral("secret")).await;
        }
        server.send(alice, text(carol.user_id, "marker")).await;
        let seen = until(&mut carols, "marker").await;
        assert!(said(&seen).is_empty(), "nothing of what was said: {seen:?}");
        let told = seen.iter().filter(|m| !group.got(m)).map(removed);
        assert_eq!(told.collect::<Vec<_>>(), [Some(carol.user_id)]);

        let refused = carols.try_send(&group.text("let me in")).await;
        assert_code(&refused, NOT_IN_GROUP);
        for cursor in [0, 1, 2, 3, 5, 1_000_000] {
            let page = carols.sync_groups(0, &[(group.id, cursor)]).await;
            assert!(page.groups.is_empty(), "{cursor}: {page:?}");
        }
        assert_eq!(words(&bobs.said().await), "before");
        for n in 0..10 {
            assert_eq!(words(&bobs.said().await), format!("secret {n}"));
        }
    }
}

async fn who_leaves_and_comes_back_misses_what_was_sent_between(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[bob.user_id]).await;
    let mut connection = server.connect(transport, &bob).await;
    server.send(&alice, group.text("first time")).await; // 2
    let before = connection.said().await;
    assert_eq!((&*words(&before), before.seq), ("first time", 2));
    server.leave(&bob, group.id).await.expect("left"); // 3
    for _ in 0..60 {
        server.send(&alice, group.text("between")).await; // 4 to 63
    }
    let result = server.add_members(&alice, group.id, &[bob.user_id]).await; // 64
    result.expect("added");
    server.send(&alice, group.text("second time")).await; // 65
    server.send(&alice, text(bob.user_id, "marker")).await;

    // On the connection that saw it all.
    let again = connection.said().await;
    let again = match words(&again).as_str() {
        "marker" => connection.said().await,
        _ => again,
    };
    assert_eq!((&*words(&again), again.seq), ("second time", 65));
    // By sync, whatever cursor he has.
    for cursor in [0, 1, 2, 3, 40, 63] {
        let mut pulled = connection.pull(0, &[(group.id, cursor)]).await;
        assert!(pulled.resets.is_empty(), "{cursor} is no wrong cursor");
        let messages = pulled.groups.remove(&group.id).expect("two messages");
        assert_eq!(seqs(&messages), [64, 65], "from {cursor}");
        assert_eq!(added(&messages[0]), [bob.user_id]);
    }
    let timeline = server.timeline(&bob).await;
    let told: Vec<_> = timeline.iter().filter_map(event).collect();
    assert!(matches!(
        told[..],
        [Event::Added(_), Event::Removed(_), Event::Added(_)]
    ));
}

async fn a_session_opened_before_many_groups_follows_all_of_them(transport: Transport) {
    const GROUPS: usize = 40;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &bob).await;
    let mut groups = Vec::new();
    for _ in 0..GROUPS {
        groups.push(server.create_group(&alice, KIND, &[bob.user_id]).await);
    }
    for group in groups.iter().rev() {
        server.send(&alice, group.text("x")).await;
    }
    let mut heads = std::collections::BTreeMap::new();
    while heads.len() < GROUPS || heads.values().any(|seq| *seq < 2) {
        let message = connection.push().await;
        if let Some(group) = groups.iter().find(|group| group.got(&message)) {
            let head = heads.entry(group.id).or_insert(0);
            assert_eq!(message.seq, *head + 1, "each timeline in its order");
            *head = message.seq;
        }
    }
}

async fn whoever_connects_is_pushed_from_the_head(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[bob.user_id]).await;
    server.send(&alice, group.text("while away")).await;
    let mut connection = server.connect(transport, &bob).await;
    server.send(&alice, group.text("live")).await;
    let live = connection.push().await;
    assert_eq!((&*words(&live), live.seq), ("live", 3));
    // What was missed is asked for; asking again gives again, and then pushes go on.
    for _ in 0..2 {
        let mut pulled = connection.pull(1, &[(group.id, 1)]).await;
        assert_eq!(seqs(&pulled.groups.remove(&group.id).expect("two")), [2, 3]);
    }
    server.send(&alice, group.text("next")).await;
    assert_eq!(connection.push().await.seq, 4);
}
