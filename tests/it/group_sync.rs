//! Sync of large groups: pages over the user's timeline and several groups, and what a cursor means
//! that is before joining, beyond the head, of another epoch, or of a group one is not in.

use im::pb::{GroupType, MessageAck, PackageType, SyncInput};

use crate::support::{
    Api, Connection, Device, Server, Transport,
    connection::sent,
    errors::{BAD_REQUEST, assert_code},
    events::added,
    groups::Group,
    messages::{seqs, sized, text},
};

on_each_transport!(
    one_page_serves_all_timelines,
    pages_take_the_users_timeline_first_and_then_groups_by_id,
    exactly_fifty_messages_are_one_page,
    pages_of_large_group_messages_fit_a_frame,
    only_groups_with_something_new_are_in_a_page,
    a_cursor_before_joining_begins_at_joining,
    a_group_cursor_beyond_the_head_is_reset,
    a_group_cursor_of_another_epoch_is_reset,
    cursors_of_groups_one_is_not_in_are_ignored,
    acks_of_groups_are_taken,
    wrong_cursors_and_acks_are_refused_by_name,
);

const KIND: GroupType = GroupType::GtLarge;

/// Alice's groups with Bob, in the order of their ids.
async fn groups_with(server: &Api, alice: &Device, bob: &Device, count: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(server.create_group(alice, KIND, &[bob.user_id]).await);
    }
    groups.sort_by_key(|group| group.id);
    groups
}

/// Sends to the group until its head is `head`, which is beyond the event of its making.
async fn fill_to(sender: &mut Connection, group: Group, head: i64) {
    let mut last = 0;
    while last < head {
        let answer = sender.try_send(&group.text("x")).await;
        last = sent(&answer).seq;
    }
}

/// Sends to the user until his timeline's head is `head`.
async fn fill_user_to(server: &Api, sender: &Device, user: &Device, head: i64) {
    let mut last = server.timeline(user).await.len() as i64;
    while last < head {
        server.send(sender, text(user.user_id, "x")).await;
        last += 1;
    }
}

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..=to).collect()
}

async fn one_page_serves_all_timelines(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let groups = groups_with(&server, &alice, &bob, 2).await;
    let mut sender = server.connect(transport, &alice).await;
    fill_to(&mut sender, groups[0], 10).await;
    fill_to(&mut sender, groups[1], 5).await;
    fill_user_to(&server, &alice, &bob, 7).await;
    let mut connection = server.connect(transport, &bob).await;
    let cursors = [(groups[0].id, 0), (groups[1].id, 3)];
    let page = connection.sync_groups(2, &cursors).await;
    assert!(!page.has_more && !page.reset);
    assert_eq!(seqs(&page.messages), range(3, 7));
    let [first, second] = &page.groups[..] else {
        panic!("two groups: {page:?}");
    };
    assert_eq!(
        (first.group_id, second.group_id),
        (groups[0].id, groups[1].id)
    );
    assert_eq!(seqs(&first.messages), range(1, 10));
    assert_eq!(seqs(&second.messages), range(4, 5));
    assert!(!first.has_more && !second.has_more);
    assert!(!first.reset && !second.reset);
}

async fn pages_take_the_users_timeline_first_and_then_groups_by_id(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let groups = groups_with(&server, &alice, &bob, 4).await;
    let mut sender = server.connect(transport, &alice).await;
    for (group, head) in groups.iter().zip([45, 2, 120, 30]) {
        fill_to(&mut sender, *group, head).await;
    }
    fill_user_to(&server, &alice, &bob, 70).await;
    let mut connection = server.connect(transport, &bob).await;
    let mut user = 0;
    let mut cursors: Vec<_> = groups.iter().map(|group| (group.id, 0)).collect();
    let heads = [45, 2, 120, 30];
    loop {
        let page = connection.sync_groups(user, &cursors).await;
        user = page.messages.last().map_or(user, |m| m.seq);
        let given = page.groups.iter().filter(|g| !g.messages.is_empty());
        for group in given {
            assert_eq!(user, 70, "the user's timeline comes first: {page:?}");
            let at = cursors.iter().position(|(id, _)| *id == group.group_id);
            let at = at.expect("asked for");
            let before = cursors[..at].iter().zip(heads);
            assert!(
                before.into_iter().all(|((_, seq), head)| *seq == head),
                "groups by ascending id: {cursors:?}, {page:?}"
            );
            assert_eq!(group.messages[0].seq, cursors[at].1 + 1);
            cursors[at].1 = group.messages.last().expect("not empty").seq;
            assert_eq!(group.has_more, cursors[at].1 < heads[at], "{page:?}");
        }
        let finished = user == 70 && cursors.iter().zip(heads).all(|((_, s), h)| *s == h);
        assert_eq!(page.has_more, !finished, "{user}, {cursors:?}");
        if finished {
            break;
        }
    }
    // At the heads there is nothing more.
    let page = connection.sync_groups(user, &cursors).await;
    assert!(page.messages.is_empty() && page.groups.is_empty() && !page.has_more);
    // In one go, with the checks of every page.
    let cursors: Vec<_> = groups.iter().map(|group| (group.id, 0)).collect();
    let pulled = connection.pull(0, &cursors).await;
    assert!(pulled.pages >= 6, "266 messages in {} pages", pulled.pages);
    for (group, head) in groups.iter().zip(heads) {
        assert_eq!(seqs(&pulled.groups[&group.id]), range(1, head));
    }
}

async fn exactly_fifty_messages_are_one_page(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let groups = groups_with(&server, &alice, &bob, 2).await;
    let mut sender = server.connect(transport, &alice).await;
    fill_to(&mut sender, groups[0], 25).await;
    fill_to(&mut sender, groups[1], 20).await;
    fill_user_to(&server, &alice, &bob, 5).await;
    let mut connection = server.connect(transport, &bob).await;
    let cursors = [(groups[0].id, 0), (groups[1].id, 0)];
    let page = connection.sync_groups(0, &cursors).await;
    let total = page.messages.len() + page.groups.iter().map(|g| g.messages.len()).sum::<usize>();
    assert_eq!((total, page.has_more), (50, false), "{page:?}");
    // One more, and something is left over.
    fill_to(&mut sender, groups[1], 21).await;
    let page = connection.sync_groups(0, &cursors).await;
    assert!(page.has_more, "{page:?}");
    let last = page.groups.iter().find(|g| g.group_id == groups[1].id);
    assert!(last.is_none_or(|group| group.has_more), "{page:?}");
}

async fn pages_of_large_group_messages_fit_a_frame(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let groups = groups_with(&server, &alice, &bob, 2).await;
    let sizes = [60_000, 60_000, 5, 30_000, 30_000, 100, 60_000];
    let mut sender = server.connect(transport, &alice).await;
    for group in &groups {
        for size in sizes {
            let request = im::pb::SendMessageReq {
                receiver_type: group.receiver_type().into(),
                ..sized(group.id, size)
            };
            sender.send(&request).await;
        }
    }
    let mut connection = server.connect(transport, &bob).await;
    let cursors: Vec<_> = groups.iter().map(|group| (group.id, 1)).collect();
    let pulled = connection.pull(0, &cursors).await;
    for group in &groups {
        let lengths = pulled.groups[&group.id].iter();
        let lengths: Vec<_> = lengths.map(|m| m.message_content.len()).collect();
        assert_eq!(lengths, sizes);
    }
}

async fn only_groups_with_something_new_are_in_a_page(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let groups = groups_with(&server, &alice, &bob, 3).await;
    let mut connection = server.connect(transport, &bob).await;
    let ids = |page: im::pb::SyncOutput| -> Vec<i64> {
        assert!(!page.has_more);
        page.groups.iter().map(|g| g.group_id).collect()
    };
    let [a, b, c] = [groups[0].id, groups[1].id, groups[2].id];
    let page = connection.sync_groups(3, &[]).await;
    assert!(ids(page).is_empty(), "none was asked for");
    let page = connection.sync_groups(3, &[(b, 0)]).await;
    assert_eq!(ids(page), [b], "only what is asked for");
    let page = connection.sync_groups(3, &[(a, 0), (b, 1), (c, 0)]).await;
    assert_eq!(ids(page), [a, c], "B is held up to its head");
    let page = connection.sync_groups(3, &[(a, 1), (b, 1), (c, 1)]).await;
    assert!(ids(page).is_empty());
}

async fn a_cursor_before_joining_begins_at_joining(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[]).await;
    let mut sender = server.connect(transport, &alice).await;
    fill_to(&mut sender, group, 30).await;
    let result = server.add_members(&alice, group.id, &[bob.user_id]).await;
    result.expect("added"); // 31
    fill_to(&mut sender, group, 35).await;
    let mut connection = server.connect(transport, &bob).await;
    for (cursor, first) in [(0, 31), (1, 31), (15, 31), (30, 31), (31, 32), (34, 35)] {
        let page = connection.sync_groups(0, &[(group.id, cursor)]).await;
        let of_group = &page.groups[0];
        assert_eq!(seqs(&of_group.messages), range(first, 35), "{cursor}");
        assert!(!of_group.reset, "{cursor} is no wrong cursor");
        if first == 31 {
            assert_eq!(added(&of_group.messages[0]), [bob.user_id]);
        }
    }
    // Nobody comes before Alice: she has it from the first.
    assert_eq!(server.group_timeline(&alice, group).await.len(), 35);
}

async fn a_group_cursor_beyond_the_head_is_reset(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[]).await;
    let mut sender = server.connect(transport, &alice).await;
    fill_to(&mut sender, group, 10).await;
    let result = server.add_members(&alice, group.id, &[bob.user_id]).await;
    result.expect("added"); // 11
    fill_to(&mut sender, group, 20).await;
    let mut connection = server.connect(transport, &bob).await;
    for ahead in [21, 1_000_000, i64::MAX] {
        let page = connection.sync_groups(1, &[(group.id, ahead)]).await;
        assert!(!page.reset, "the user's own cursor is right");
        let of_group = &page.groups[0];
        assert!(of_group.reset, "{ahead}");
        assert_eq!(seqs(&of_group.messages), range(11, 20), "from joining");
        assert!(!page.has_more && !of_group.has_more);
    }
    let page = connection.sync_groups(1, &[(group.id, 20)]).await;
    assert!(page.groups.is_empty(), "the head itself is right");
    // The user's wrong cursor is his timeline's affair.
    let page = connection.sync_groups(1_000, &[(group.id, 15)]).await;
    assert!(page.reset && seqs(&page.messages) == [1]);
    let of_group = &page.groups[0];
    assert_eq!((of_group.reset, of_group.messages.len()), (false, 5));
}

async fn a_group_cursor_of_another_epoch_is_reset(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let groups = groups_with(&server, &alice, &bob, 2).await;
    let mut sender = server.connect(transport, &alice).await;
    for group in &groups {
        fill_to(&mut sender, *group, 6).await;
    }
    let mut connection = server.connect(transport, &bob).await;
    let epoch = connection.sync_after(0).await.epoch;
    for (given, reset) in [(0, false), (epoch, false), (epoch.wrapping_add(1), true)] {
        let input = SyncInput {
            seq: 1,
            group_seqs: groups.iter().map(|group| (group.id, 4)).collect(),
            epoch: given,
            ..Default::default()
        };
        let page = connection.sync(input).await;
        assert_eq!((page.reset, page.epoch), (reset, epoch));
        assert_eq!(page.groups.len(), 2);
        for group in &page.groups {
            assert_eq!(group.reset, reset, "{given} against {epoch}");
            let first = if reset { 1 } else { 5 };
            assert_eq!(seqs(&group.messages), range(first, 6));
        }
    }
}

async fn cursors_of_groups_one_is_not_in_are_ignored(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let others = server.create_group(&alice, KIND, &[]).await;
    let ended = server.create_group(&alice, KIND, &[]).await;
    server.leave(&alice, ended.id).await.expect("left");
    let left = server.create_group(&alice, KIND, &[bob.user_id]).await;
    server.leave(&bob, left.id).await.expect("left");
    let own = server.create_group(&bob, KIND, &[]).await;
    let mut connection = server.connect(transport, &bob).await;
    let unknown = own.id + 1_000;
    for cursor in [0, 1, 1_000] {
        let cursors = [others.id, ended.id, left.id, unknown, i64::MAX];
        let mut cursors: Vec<_> = cursors.into_iter().map(|id| (id, cursor)).collect();
        cursors.push((own.id, 0));
        let page = connection.sync_groups(0, &cursors).await;
        let ids: Vec<_> = page.groups.iter().map(|g| g.group_id).collect();
        assert_eq!(ids, [own.id], "{page:?}");
        assert!(!page.has_more && !page.reset);
    }
}

async fn acks_of_groups_are_taken(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[bob.user_id]).await;
    let members = [bob.user_id];
    let small = server.create_group(&alice, GroupType::GtSmall, &members);
    let small = small.await;
    let mut sender = server.connect(transport, &alice).await;
    fill_to(&mut sender, group, 20).await;
    let mut connection = server.connect(transport, &bob).await;
    connection.pull(0, &[(group.id, 0)]).await;
    // Right, repeated, lower, beyond the head, and of groups that do not count: never answered.
    for ack in [5, 20, 20, 3, 21, i64::MAX] {
        connection.ack_group(group.id, ack).await;
    }
    for other in [small.id, group.id + 1_000, i64::MAX] {
        connection.ack_group(other, 1).await;
    }
    // What was acknowledged of a group hides nothing of the user's timeline, nor of the group's.
    let page = connection.sync_groups(0, &[(group.id, 0)]).await;
    assert_eq!(seqs(&page.messages), [1, 2], "two events of his own");
    assert_eq!(seqs(&page.groups[0].messages), range(1, 20));
}

async fn wrong_cursors_and_acks_are_refused_by_name(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let group = server.create_group(&alice, KIND, &[]).await;
    let mut connection = server.connect(transport, &alice).await;
    let many = (1..=5_001).map(|id| (id, 0)).collect();
    for group_seqs in [
        [(group.id, -1)].into(),
        [(-1, 0)].into(),
        [(group.id, 0), (7, i64::MIN)].into(),
        many,
    ] {
        let input = SyncInput {
            group_seqs,
            ..Default::default()
        };
        let answer = connection.request(PackageType::PtSync, &input).await;
        assert_code(&answer, BAD_REQUEST);
        assert!(answer.message.contains("group_seqs"), "{answer:?}");
    }
    for (field, group_id, device_ack) in [
        ("device_ack", group.id, -1),
        ("device_ack", group.id, i64::MIN),
        ("group_id", -1, 1),
    ] {
        let ack = MessageAck {
            device_ack,
            receive_time: 1,
            group_id,
        };
        let answer = connection.request(PackageType::PtMessage, &ack).await;
        assert_code(&answer, BAD_REQUEST);
        assert!(answer.message.contains(field), "{answer:?}");
    }
    // As many groups as may be asked for.
    let others = (1_000_001..1_005_000).map(|id| (id, 0));
    let input = SyncInput {
        group_seqs: others.chain([(group.id, 0)]).collect(),
        ..Default::default()
    };
    let page = connection.sync(input).await;
    assert!(page.groups.iter().any(|g| g.group_id == group.id));
}
