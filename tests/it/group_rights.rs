//! Who may do what in a group (I8): every rpc by every role, in small and in large groups. Whoever
//! is not signed in is in `authorization.rs`.

use im::pb::{
    CreateGroupReq, GetGroupMembersReq, GroupType, MemberType, UpdateGroupMemberReq, UpdateGroupReq,
};
use tonic::Status;

use crate::support::{
    Api, Device, Server, Transport,
    errors::{
        BAD_REQUEST, NO_SUCH_GROUP, NOT_ALLOWED, NOT_IN_GROUP, assert_code, assert_fails, code,
    },
    groups::{Group, KINDS},
    messages::text,
};

const OK: i32 = 0;

/// What one can try to do with a group.
#[derive(Clone, Copy, Debug)]
enum Attempt {
    Update,
    Get,
    List,
    Add,
    NoteOnOther,
    Promote,
    Demote,
    NoteOnOneself,
    PromoteOneself,
    Remove,
    Leave,
    Send,
    SendEphemeral,
}

/// The answers to an admin, a member, a former member and a stranger. The admin is the only one.
const TABLE: [(Attempt, [i32; 4]); 13] = [
    (
        Attempt::Update,
        [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (Attempt::Get, [OK, OK, NOT_IN_GROUP, NOT_IN_GROUP]),
    (Attempt::List, [OK, OK, NOT_IN_GROUP, NOT_IN_GROUP]),
    (Attempt::Add, [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP]),
    (
        Attempt::NoteOnOther,
        [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (
        Attempt::Promote,
        [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (
        Attempt::Demote,
        [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (Attempt::NoteOnOneself, [OK, OK, NOT_IN_GROUP, NOT_IN_GROUP]),
    (
        Attempt::PromoteOneself,
        [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (
        Attempt::Remove,
        [OK, NOT_ALLOWED, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (
        Attempt::Leave,
        [NOT_ALLOWED, OK, NOT_IN_GROUP, NOT_IN_GROUP],
    ),
    (Attempt::Send, [OK, OK, NOT_IN_GROUP, NOT_IN_GROUP]),
    (Attempt::SendEphemeral, [OK, OK, NOT_IN_GROUP, NOT_IN_GROUP]),
];

impl Attempt {
    /// Tries it; `other` is a member, `newcomer` is not.
    async fn by(
        self,
        who: &Device,
        server: &Api,
        group: Group,
        other: i64,
        newcomer: i64,
    ) -> Result<(), Status> {
        let member = |user_id, member_type: MemberType| UpdateGroupMemberReq {
            group_id: group.id,
            user_id,
            member_type: member_type.into(),
            remarks: "changed".into(),
            extra: "changed".into(),
        };
        let change = async |request| server.update_member(who, request).await;
        match self {
            Self::Update => {
                let request = UpdateGroupReq {
                    group_id: group.id,
                    name: "changed".into(),
                    ..Default::default()
                };
                server.update_group(who, request).await
            }
            Self::Get => server.group(who, group.id).await.map(drop),
            Self::List => {
                let request = GetGroupMembersReq {
                    group_id: group.id,
                    ..Default::default()
                };
                server.members_page(who, request).await.map(drop)
            }
            Self::Add => {
                let added = server.add_members(who, group.id, &[newcomer]).await;
                added.map(drop)
            }
            Self::NoteOnOther => change(member(other, MemberType::GmtUnknown)).await,
            Self::Promote => change(member(other, MemberType::GmtAdmin)).await,
            Self::Demote => change(member(other, MemberType::GmtMember)).await,
            Self::NoteOnOneself => change(member(who.user_id, MemberType::GmtUnknown)).await,
            Self::PromoteOneself => change(member(who.user_id, MemberType::GmtAdmin)).await,
            Self::Remove => server.remove_member(who, group.id, other).await,
            Self::Leave => server.leave(who, group.id).await,
            Self::Send => server.try_send(who, group.text("x")).await.map(drop),
            Self::SendEphemeral => server.try_send(who, group.ephemeral("x")).await.map(drop),
        }
    }
}

async fn the_table_holds(kind: GroupType) {
    let server = Server::start().await;
    let users = server.new_users(6).await;
    let [admin, member, former, stranger, other, newcomer] = &users[..] else {
        panic!("six users");
    };
    let members = [member.user_id, former.user_id, other.user_id];
    for (attempt, expected) in TABLE {
        for (who, expected) in [admin, member, former, stranger].into_iter().zip(expected) {
            let group = server.create_group(admin, kind, &members).await;
            let removed = server.remove_member(admin, group.id, former.user_id).await;
            removed.expect("removed");
            let before = everything(&server, admin, group).await;
            let result = attempt
                .by(who, &server, group, other.user_id, newcomer.user_id)
                .await;
            let answered = result.as_ref().map_or_else(code, |()| OK);
            assert_eq!(
                answered, expected,
                "{attempt:?} by {} of {users:?}: {result:?}",
                who.user_id
            );
            if expected != OK {
                assert_fails(result, expected);
                let after = everything(&server, admin, group).await;
                assert_eq!(after, before, "{attempt:?} was refused and changed things");
            }
        }
    }
}

/// All that its members can see of a group.
async fn everything(
    server: &Api,
    admin: &Device,
    group: Group,
) -> (im::pb::Group, Vec<im::pb::GroupMember>) {
    let description = server.group(admin, group.id).await.expect("GetGroup");
    (description, server.members(admin, group.id).await)
}

#[tokio::test]
async fn each_role_may_do_what_the_table_says_in_a_small_group() {
    the_table_holds(GroupType::GtSmall).await;
}

#[tokio::test]
async fn each_role_may_do_what_the_table_says_in_a_large_group() {
    the_table_holds(GroupType::GtLarge).await;
}

on_each_transport!(who_is_not_a_member_cannot_send_on_a_connection);

async fn who_is_not_a_member_cannot_send_on_a_connection(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut connection = server.connect(transport, &bob).await;
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[]).await;
        for request in [group.text("let me in"), group.ephemeral("let me in")] {
            assert_code(&connection.try_send(&request).await, NOT_IN_GROUP);
        }
        let added = server.add_members(&alice, group.id, &[bob.user_id]).await;
        added.expect("added");
        for request in [group.text("thanks"), group.ephemeral("thanks")] {
            assert_code(&connection.try_send(&request).await, 0);
        }
        let removed = server.remove_member(&alice, group.id, bob.user_id).await;
        removed.expect("removed");
        for request in [group.text("why?"), group.ephemeral("why?")] {
            assert_code(&connection.try_send(&request).await, NOT_IN_GROUP);
        }
    }
}

#[tokio::test]
async fn an_unknown_group_is_not_found_by_any_rpc() {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let [alice, bob, carol] = &users[..] else {
        panic!("three users");
    };
    for kind in KINDS {
        let known = server.create_group(alice, kind, &[bob.user_id]).await;
        for id in [known.id + 1_000, i64::MAX] {
            let group = Group { id, kind };
            for (attempt, _) in TABLE {
                println!("{attempt:?}");
                let result = attempt
                    .by(alice, &server, group, bob.user_id, carol.user_id)
                    .await;
                assert_fails(result, NO_SUCH_GROUP);
            }
        }
    }
}

/// A group is of one kind; a message that names the other kind is not for it.
#[tokio::test]
async fn a_group_is_not_reached_under_the_other_kind() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    for (kind, other) in [(KINDS[0], KINDS[1]), (KINDS[1], KINDS[0])] {
        let group = server.create_group(&alice, kind, &[]).await;
        let wrong = Group {
            kind: other,
            ..group
        };
        let before = server.timeline(&alice).await;
        for request in [wrong.text("x"), wrong.ephemeral("x")] {
            let refused = server.try_send(&alice, request).await;
            let refused = code(&refused.expect_err("refused"));
            assert!([BAD_REQUEST, NO_SUCH_GROUP].contains(&refused), "{refused}");
        }
        assert_eq!(server.timeline(&alice).await, before, "nothing is stored");
    }
}

#[tokio::test]
async fn a_user_sees_his_own_groups_and_no_others() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut shared = Vec::new();
    for kind in KINDS {
        server.create_group(&alice, kind, &[]).await;
        shared.push(server.create_group(&alice, kind, &[bob.user_id]).await);
    }
    assert_eq!(server.groups(&alice).await.len(), 4);
    let ids: Vec<_> = shared.iter().map(|group| group.id).collect();
    assert_eq!(server.groups(&bob).await, ids);
    server.leave(&bob, ids[0]).await.expect("left");
    assert_eq!(server.groups(&bob).await, ids[1..]);
    let request = CreateGroupReq {
        name: "Bob's".into(),
        r#type: GroupType::GtSmall.into(),
        ..Default::default()
    };
    let own = server.try_create_group(&bob, request).await.expect("made");
    assert_eq!(server.groups(&bob).await, [ids[1], own]);
}

#[tokio::test]
async fn what_is_refused_is_stored_nowhere() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[]).await;
        let before = server.timeline(&alice).await.len();
        assert_fails(server.try_send(&bob, group.text("x")).await, NOT_IN_GROUP);
        assert_eq!(server.timeline(&alice).await.len(), before);
        assert!(server.timeline(&bob).await.is_empty());
        if kind == GroupType::GtLarge {
            assert_eq!(server.group_timeline(&alice, group).await.len(), 1);
        }
    }
    // A stranger of the group is no stranger to its members.
    let sent = server.send(&bob, text(alice.user_id, "hello")).await;
    assert_eq!(sent.seq, 1);
}
