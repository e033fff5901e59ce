//! A group and a user may have the same number. Their timelines, cursors, acks and messages have
//! nothing to do with each other.

use im::pb::{GroupType, ReceiverType};

use crate::support::{
    Device, Server, Transport,
    crowd::ids,
    groups::Group,
    messages::{ephemeral, seqs, text, words},
};

on_each_transport!(
    a_large_group_and_a_user_of_one_number_have_timelines_of_their_own,
    a_small_group_and_a_user_of_one_number_are_two_receivers,
);

/// Users, one of whom has the number of a group of all of them; the group, and that user's place.
async fn of_one_number(server: &Server, kind: GroupType) -> (Vec<Device>, Group, usize) {
    const TRIES_MAX: usize = 300;
    let mut users = server.new_users(3).await;
    for _ in 0..TRIES_MAX {
        let group = server
            .create_group(&users[0], kind, &ids(&users[1..]))
            .await;
        // Bob or a later one: Alice is the admin.
        let same = users[1..].iter().position(|u| u.user_id == group.id);
        if let Some(at) = same {
            return (users, group, at + 1);
        }
        // Whichever of the two counts is behind must catch up.
        let newest = users.last().map_or(0, |u| u.user_id);
        if group.id > newest {
            users.push(server.new_user().await);
        }
        end(server, &users[0], group).await;
    }
    panic!("ids of users and groups never meet: {users:?}");
}

/// Ends a group that is of no use.
async fn end(server: &Server, admin: &Device, group: Group) {
    for user_id in server.member_ids(admin, group.id).await {
        if user_id != admin.user_id {
            let removed = server.remove_member(admin, group.id, user_id).await;
            removed.expect("removed");
        }
    }
    server.leave(admin, group.id).await.expect("the last one");
}

async fn a_large_group_and_a_user_of_one_number_have_timelines_of_their_own(transport: Transport) {
    const COUNT: i64 = 20;
    let server = Server::start().await;
    let (users, group, at) = of_one_number(&server, GroupType::GtLarge).await;
    let (alice, bob) = (&users[0], &users[at]);
    assert_eq!(group.id, bob.user_id);
    let own_before = server.timeline(bob).await.len() as i64;
    let mut connection = server.connect(transport, bob).await;
    let mut sender = server.connect(transport, alice).await;
    for n in 0..COUNT {
        let to_group = sender.send(&group.text(&format!("group {n}"))).await;
        assert_eq!(to_group.seq, n + 2, "the group's timeline");
        sender.send(&text(bob.user_id, &format!("user {n}"))).await;
        sender.send(&group.ephemeral("group")).await;
        sender.send(&ephemeral(bob.user_id, "user")).await;
    }
    // Each timeline in its own order, whatever the order between them.
    let (mut of_group, mut of_user, mut passing) = (Vec::new(), Vec::new(), [0, 0]);
    for message in connection.pushed(4 * COUNT as usize).await {
        assert_eq!(message.receiver_id, group.id);
        let to_group = group.got(&message);
        let kind = if to_group { "group" } else { "user" };
        assert!(words(&message).starts_with(kind), "{message:?}");
        match (message.seq, to_group) {
            (0, _) => passing[usize::from(to_group)] += 1,
            (_, true) => of_group.push(message),
            (_, false) => of_user.push(message),
        }
    }
    assert_eq!(passing, [COUNT, COUNT]);
    assert_eq!(seqs(&of_group), (2..2 + COUNT).collect::<Vec<_>>());
    let expected = own_before + 1..=own_before + COUNT;
    assert_eq!(seqs(&of_user), expected.clone().collect::<Vec<_>>());

    // An ack of the one is none of the other's.
    connection.ack_group(group.id, COUNT + 1).await;
    let user_head = own_before + COUNT;
    let mut pulled = connection.pull(0, &[(group.id, 0)]).await;
    assert_eq!(pulled.messages.len() as i64, user_head, "nothing is hidden");
    let all = pulled.groups.remove(&group.id).expect("all of it");
    assert_eq!(seqs(&all), (1..2 + COUNT).collect::<Vec<_>>());
    connection.ack_and_wait(user_head).await;
    let page = connection
        .sync_groups(user_head, &[(group.id, COUNT)])
        .await;
    assert!(page.messages.is_empty() && !page.reset);
    assert_eq!(seqs(&page.groups[0].messages), [COUNT + 1]);
    // A cursor that is right for the one may be beyond the head of the other.
    let ahead = user_head.max(COUNT + 1) + 1;
    let page = connection
        .sync_groups(user_head, &[(group.id, ahead)])
        .await;
    assert!(!page.reset && page.groups[0].reset);

    // Who is removed from the group goes on getting his own.
    let removed = server.remove_member(alice, group.id, bob.user_id).await;
    removed.expect("removed");
    sender.send(&group.text("group, without him")).await;
    sender.send(&text(bob.user_id, "user, as ever")).await;
    let next = connection.said().await;
    assert_eq!(words(&next), "user, as ever");
}

async fn a_small_group_and_a_user_of_one_number_are_two_receivers(transport: Transport) {
    let server = Server::start().await;
    let (users, group, at) = of_one_number(&server, GroupType::GtSmall).await;
    let (alice, bob) = (&users[0], &users[at]);
    let other = users.iter().enumerate().skip(1).find(|(n, _)| *n != at);
    let other = other.expect("three users at least").1;
    let mut bobs = server.connect(transport, bob).await;
    let mut others = server.connect(transport, other).await;
    server.send(alice, text(bob.user_id, "for Bob")).await;
    server.send(alice, group.text("for all")).await;
    let message = others.push().await;
    assert_eq!(words(&message), "for all");
    assert!(group.got(&message));
    for (expected, receiver) in [
        ("for Bob", ReceiverType::RtUser),
        ("for all", ReceiverType::RtSmallGroup),
    ] {
        let message = bobs.push().await;
        let to = (message.receiver_type(), message.receiver_id);
        assert_eq!((&*words(&message), to), (expected, (receiver, group.id)));
    }
}
