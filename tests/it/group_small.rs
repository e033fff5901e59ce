//! Small groups are written to every member's own timeline: each member has the messages of his
//! membership among his others, in the order of the group, and nothing from before or after.

use crate::support::{
    Server, Transport,
    crowd::ids,
    events::{added, removed, said},
    groups::Group,
    messages::{seqs, text, words},
};
use im::pb::{GroupType, ReceiverType};

on_each_transport!(
    the_answer_bears_the_senders_own_seq,
    a_member_who_was_away_finds_everything_by_sync,
    a_removed_member_is_given_the_removal_and_nothing_after,
    a_newcomer_is_given_nothing_from_before,
    a_small_group_has_no_timeline_of_its_own,
);

const KIND: GroupType = GroupType::GtSmall;

async fn the_answer_bears_the_senders_own_seq(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let [alice, bob, carol] = &users[..] else {
        panic!("three users");
    };
    // The timelines have different lengths before the group is made.
    for _ in 0..3 {
        server.send(alice, text(carol.user_id, "x")).await;
    }
    server.send(bob, text(carol.user_id, "x")).await;
    let group = server.create_group(alice, KIND, &ids([bob, carol])).await;
    let mut connections = Vec::new();
    for user in &users {
        connections.push(server.connect(transport, user).await);
    }
    // Alice holds 3 and the event, Bob 1 and the event, Carol 4 and the event.
    let heads = [4, 2, 5];
    for (sender, before) in heads.into_iter().enumerate() {
        let turn = sender as i64 + 1;
        let sent = connections[sender].send(&group.text("x")).await;
        assert_eq!(sent.seq, before + turn, "the position at the sender");
        for (other, head) in heads.into_iter().enumerate() {
            if other != sender {
                let message = connections[other].push().await;
                assert_eq!(message.seq, head + turn, "the position at the receiver");
                assert_eq!(message.message_id, sent.message_id, "the same message");
            }
        }
    }
    let over_grpc = server.send(alice, group.text("x")).await;
    assert_eq!(over_grpc.seq, heads[0] + 4);
}

async fn a_member_who_was_away_finds_everything_by_sync(transport: Transport) {
    const COUNT: usize = 70;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[bob.user_id]).await;
    let mut sender = server.connect(transport, &alice).await;
    for n in 0..COUNT {
        sender.send(&group.text(&n.to_string())).await;
        if n == 20 {
            sender.send(&text(bob.user_id, "to Bob alone")).await;
        }
    }
    let mut receiver = server.connect(transport, &bob).await;
    let all = receiver.sync_from_start().await;
    assert_eq!(seqs(&all), (1..=COUNT as i64 + 2).collect::<Vec<_>>());
    assert_eq!(added(&all[0]), ids([&alice, &bob]));
    let alone = all
        .iter()
        .filter(|m| m.receiver_type() == ReceiverType::RtUser);
    assert_eq!(alone.map(words).collect::<Vec<_>>(), ["to Bob alone"]);
    let of_group = all[1..].iter().filter(|m| group.got(m)).map(words);
    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    assert_eq!(of_group.collect::<Vec<_>>(), expected);
    // What comes now is pushed, once.
    sender.send(&group.text("live")).await;
    let live = receiver.push().await;
    assert_eq!((&*words(&live), live.seq), ("live", COUNT as i64 + 3));
}

async fn a_removed_member_is_given_the_removal_and_nothing_after(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let [alice, bob, carol] = &users[..] else {
        panic!("three users");
    };
    let group = server.create_group(alice, KIND, &ids([bob, carol])).await;
    let mut bobs = server.connect(transport, bob).await;
    let mut carols = server.connect(transport, carol).await;
    server.send(alice, group.text("before")).await;
    let result = server.remove_member(alice, group.id, carol.user_id).await;
    result.expect("removed");
    server.send(alice, group.text("after")).await;
    server.send(alice, group.ephemeral("after, too")).await;
    server.send(bob, group.text("after, from Bob")).await;
    server.send(alice, text(carol.user_id, "goodbye")).await;

    assert_eq!(words(&carols.push().await), "before");
    assert_eq!(removed(&carols.push().await), Some(carol.user_id));
    assert_eq!(words(&carols.push().await), "goodbye", "nothing between");
    carols.heartbeat().await;
    assert!(carols.take_pushes().is_empty());
    for expected in ["before", "after", "after, too"] {
        assert_eq!(words(&bobs.said().await), expected);
    }
    let timeline = server.timeline(carol).await;
    assert_eq!(timeline.len(), 4, "added, before, removed, goodbye");
    let texts = said(&timeline);
    let texts: Vec<_> = texts.into_iter().map(words).collect();
    assert_eq!(texts, ["before", "goodbye"]);
}

async fn a_newcomer_is_given_nothing_from_before(transport: Transport) {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let [alice, bob, carol] = &users[..] else {
        panic!("three users");
    };
    let group: Group = server.create_group(alice, KIND, &[bob.user_id]).await;
    let mut carols = server.connect(transport, carol).await;
    server.send(alice, group.text("before")).await;
    let result = server.add_members(alice, group.id, &[carol.user_id]).await;
    result.expect("added");
    server.send(bob, group.text("welcome")).await;
    assert_eq!(added(&carols.push().await), [carol.user_id]);
    let welcome = carols.push().await;
    assert_eq!((&*words(&welcome), welcome.seq), ("welcome", 2));

    // Away and back: what was said in between is not hers.
    server.leave(carol, group.id).await.expect("left");
    server.send(alice, group.text("between")).await;
    let result = server.add_members(alice, group.id, &[carol.user_id]).await;
    result.expect("added");
    server.send(bob, group.text("again")).await;
    assert_eq!(removed(&carols.push().await), Some(carol.user_id));
    assert_eq!(added(&carols.push().await), [carol.user_id]);
    assert_eq!(words(&carols.push().await), "again");
    let timeline = server.timeline(carol).await;
    assert_eq!(timeline.len(), 5);
    let texts: Vec<_> = said(&timeline).into_iter().map(words).collect();
    assert_eq!(texts, ["welcome", "again"]);
}

async fn a_small_group_has_no_timeline_of_its_own(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[bob.user_id]).await;
    server.send(&alice, group.text("x")).await;
    let mut connection = server.connect(transport, &bob).await;
    for cursor in [0, 1, 1_000] {
        let page = connection.sync_groups(0, &[(group.id, cursor)]).await;
        assert!(page.groups.is_empty(), "cursors for it are ignored");
        assert_eq!(page.messages.len(), 2, "it is all on his own timeline");
        assert!(!page.has_more);
    }
}
