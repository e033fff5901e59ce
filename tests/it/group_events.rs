//! What a group is told of itself: who came, who went, and what it is called now. Every event is a
//! stored message of the server; one that is too large for a frame is several.

use std::collections::BTreeSet;

use im::pb::{
    AddGroupMembersPush, GroupMember, GroupType, MemberType, Message, ReceiverType,
    RemoveGroupMemberPush, UpdateGroupPush, UpdateGroupReq, UpdateUserReq,
};

use crate::support::{
    Api, Connection, Device, Server, Transport,
    crowd::{all, ids},
    events::{Event, added, event, removed},
    groups::{Group, KINDS},
};

on_each_transport!(
    members_are_told_what_happens_in_a_small_group,
    members_are_told_what_happens_in_a_large_group,
    who_is_added_to_or_removed_from_a_large_group_is_told_himself,
);

/// Alice, Bob, Carol and Dave, by these names.
async fn named_users(server: &Api) -> Vec<Device> {
    let users = server.new_users(4).await;
    for (user, name) in users.iter().zip(["Alice", "Bob", "Carol", "Dave"]) {
        server.set_nickname(user, name).await;
    }
    users
}

fn member(user: &Device, nickname: &str, role: MemberType) -> GroupMember {
    GroupMember {
        user_id: user.user_id,
        nickname: nickname.into(),
        member_type: role.into(),
        ..Default::default()
    }
}

/// An event in a group of Alice's, Bob's and Carol's, and what it says.
struct Step {
    what: &'static str,
    expected: Event,
}

/// Takes the group through its events, and says after each step what is to be seen.
async fn live_through(
    server: &Api,
    users: &[Device],
    kind: GroupType,
    mut seen: impl AsyncFnMut(Group, Step),
) -> Group {
    let [alice, bob, carol, dave] = users else {
        panic!("four users");
    };
    let group = server.create_group(alice, kind, &ids([bob, carol])).await;
    let by_alice = AddGroupMembersPush {
        opt_id: alice.user_id,
        opt_name: "Alice".into(),
        members: Vec::new(),
        group_id: group.id,
    };
    let expected = Event::Added(AddGroupMembersPush {
        members: vec![
            member(alice, "Alice", MemberType::GmtAdmin),
            member(bob, "Bob", MemberType::GmtMember),
            member(carol, "Carol", MemberType::GmtMember),
        ],
        ..by_alice.clone()
    });
    let what = "CreateGroup";
    seen(group, Step { what, expected }).await;

    let change = UpdateGroupReq {
        group_id: group.id,
        name: "renamed".into(),
        avatar_url: "https://example.com/g.png".into(),
        introduction: "all of us".into(),
        extra: "{}".into(),
    };
    let updated = server.update_group(alice, change.clone()).await;
    updated.expect("UpdateGroup");
    let expected = Event::Updated(UpdateGroupPush {
        opt_id: alice.user_id,
        opt_name: "Alice".into(),
        name: change.name,
        avatar_url: change.avatar_url,
        introduction: change.introduction,
        extra: change.extra,
    });
    let what = "UpdateGroup";
    seen(group, Step { what, expected }).await;

    // Who is a member already is not announced again.
    let known = server.add_members(alice, group.id, &ids([bob, dave])).await;
    assert_eq!(known.expect("added"), [bob.user_id]);
    let expected = Event::Added(AddGroupMembersPush {
        members: vec![member(dave, "Dave", MemberType::GmtMember)],
        ..by_alice
    });
    let what = "AddGroupMembers";
    seen(group, Step { what, expected }).await;

    for (who, gone, name) in [(alice, carol, "Alice"), (dave, dave, "Dave")] {
        let result = server.remove_member(who, group.id, gone.user_id).await;
        result.expect("DeleteGroupMember");
        let expected = Event::Removed(RemoveGroupMemberPush {
            opt_id: who.user_id,
            opt_name: name.into(),
            deleted_user_id: gone.user_id,
            group_id: group.id,
        });
        let what = "DeleteGroupMember";
        seen(group, Step { what, expected }).await;
    }
    group
}

async fn members_are_told_what_happens_in_a_small_group(transport: Transport) {
    let server = Server::start().await;
    let users = named_users(&server).await;
    let mut connections = Vec::new();
    for user in &users {
        connections.push(server.connect(transport, user).await);
    }
    // Who is told of each step: Dave from the third on, Carol until she is removed.
    let mut told = [
        vec![0, 1, 2],
        vec![0, 1, 2],
        vec![0, 1, 2, 3],
        vec![0, 1, 2, 3],
        vec![0, 1, 3],
    ]
    .into_iter();
    let group = live_through(&server, &users, GroupType::GtSmall, async |group, step| {
        let mut message_ids = BTreeSet::new();
        for at in told.next().expect("five steps") {
            let (message, event) = connections[at].told().await;
            assert!(group.got(&message), "{}: {message:?}", step.what);
            assert_eq!(event, step.expected, "{}", step.what);
            message_ids.insert(message.message_id);
        }
        assert_eq!(message_ids.len(), 1, "one message for all: {}", step.what);
    })
    .await;
    for (user, events) in users.iter().zip([5, 5, 4, 3]) {
        let timeline = server.timeline(user).await;
        assert_eq!(timeline.len(), events, "and nothing else");
        assert!(timeline.iter().all(|m| group.got(m) && event(m).is_some()));
    }
}

async fn members_are_told_what_happens_in_a_large_group(transport: Transport) {
    let server = Server::start().await;
    let users = named_users(&server).await;
    let mut alice = server.connect(transport, &users[0]).await;
    let mut bob = server.connect(transport, &users[1]).await;
    let mut seq = 0;
    let group = live_through(&server, &users, GroupType::GtLarge, async |group, step| {
        seq += 1;
        for connection in [&mut alice, &mut bob] {
            let message = next_of_group(connection, group).await;
            assert_eq!(event(&message), Some(step.expected.clone()));
            assert_eq!(message.seq, seq, "the group's own timeline");
        }
    })
    .await;
    let timeline = server.group_timeline(&users[1], group).await;
    assert_eq!(timeline.len(), 5);
}

/// The next push of the group's timeline; those of the user's own are passed over.
async fn next_of_group(connection: &mut Connection, group: Group) -> Message {
    loop {
        let message = connection.push().await;
        if group.got(&message) {
            return message;
        }
        assert_eq!(message.receiver_type, i32::from(ReceiverType::RtUser));
    }
}

async fn who_is_added_to_or_removed_from_a_large_group_is_told_himself(transport: Transport) {
    let server = Server::start().await;
    let users = named_users(&server).await;
    let group = live_through(&server, &users, GroupType::GtLarge, async |_, _| {}).await;
    // Alice, Bob, Carol and Dave: how many events are about each of them.
    for (user, about) in users.iter().zip([1, 1, 2, 2]) {
        let mut connection = server.connect(transport, user).await;
        let timeline = connection.sync_from_start().await;
        assert_eq!(timeline.len(), about, "{timeline:?}");
        for message in &timeline {
            let to = (message.receiver_type(), message.receiver_id);
            assert_eq!(to, (ReceiverType::RtUser, user.user_id));
        }
        assert!(added(&timeline[0]).contains(&user.user_id));
        let Some(Event::Added(push)) = event(&timeline[0]) else {
            panic!("an event");
        };
        assert_eq!((push.group_id, push.opt_id), (group.id, users[0].user_id));
        assert_eq!(push.opt_name, "Alice");
        for message in &timeline[1..] {
            assert_eq!(removed(message), Some(user.user_id));
        }
    }
}

/// A profile of the largest size, so that twenty of them fill a frame.
async fn fatten(server: &Api, user: &Device) {
    let profile = UpdateUserReq {
        nickname: "n".repeat(128),
        sex: 1,
        avatar_url: "a".repeat(1_024),
        extra: "e".repeat(2_048),
    };
    let updated = server.users(user).update_user(profile).await;
    updated.expect("UpdateUser");
}

/// Who is announced in `events`, each once, and in how many messages.
fn announced(events: &[Message]) -> (Vec<i64>, usize) {
    let parts: Vec<_> = events.iter().map(added).filter(|p| !p.is_empty()).collect();
    for message in events {
        assert!(message.message_content.len() <= 60_000);
    }
    let mut everyone = parts.concat();
    everyone.sort_unstable();
    (everyone, parts.len())
}

#[tokio::test]
async fn an_event_too_large_for_a_frame_is_split() {
    const EACH: usize = 50;
    let server = Server::start().await;
    let alice = server.new_user().await;
    let users = server.new_users(2 * EACH).await;
    all(users.iter().map(|user| fatten(&server, user))).await;
    let (first, second) = users.split_at(EACH);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &ids(first)).await;
        let mut witness = server.connect(Transport::Tcp, &first[0]).await;
        let known = server.add_members(&alice, group.id, &ids(second)).await;
        assert!(known.expect("added").is_empty());

        // Whoever was there before sees all of it, by sync and by push.
        let timeline = match kind {
            GroupType::GtLarge => server.group_timeline(&alice, group).await,
            _ => own_part(&server.timeline(&alice).await, group),
        };
        let (everyone, parts) = announced(&timeline);
        let mut expected = ids(&users);
        expected.push(alice.user_id);
        expected.sort_unstable();
        assert_eq!(everyone, expected, "each of them once");
        assert!(parts > 4, "100 members of 3 KB each in {parts} parts");
        let mut pushed = Vec::new();
        while announced(&pushed).0.len() < EACH {
            pushed.push(next_of_group(&mut witness, group).await);
        }
        assert_eq!(announced(&pushed).0, ids(second));

        // Whoever came is told at least that he did, on his own timeline.
        for user in [&first[0], &first[EACH - 1], &second[0], &second[EACH - 1]] {
            let own = server.timeline(user).await;
            let mentions = own.iter().filter(|m| {
                let Some(Event::Added(push)) = event(m) else {
                    return false;
                };
                push.group_id == group.id && added(m).contains(&user.user_id)
            });
            assert_eq!(mentions.count(), 1, "{kind:?}");
        }
    }
}

/// What of a user's timeline was sent to the group.
fn own_part(timeline: &[Message], group: Group) -> Vec<Message> {
    timeline.iter().filter(|m| group.got(m)).cloned().collect()
}

/// Nobody is disturbed when nothing has changed.
#[tokio::test]
async fn adding_nobody_tells_nothing() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let before = server.timeline(&bob).await;
        for nobody in [vec![alice.user_id, bob.user_id], vec![1_000_000_000]] {
            let added = server.add_members(&alice, group.id, &nobody).await;
            added.expect("nothing to do");
        }
        assert_eq!(server.timeline(&bob).await, before);
        let sent = server.send(&alice, group.text("next")).await;
        let next = match kind {
            GroupType::GtLarge => 2,
            _ => server.timeline(&alice).await.len() as i64,
        };
        assert_eq!(sent.seq, next);
    }
}
