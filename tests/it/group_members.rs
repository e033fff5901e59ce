//! The rules of membership: who is in, who is counted, and what the last ones may not do. The same
//! for small and for large groups.

use im::pb::{
    CreateGroupReq, GetGroupMembersReq, GroupType, MemberType, UpdateGroupMemberReq, UpdateUserReq,
};

use crate::support::{
    Api, Device, Server,
    crowd::ids,
    errors::{GROUP_IS_FULL, NO_SUCH_GROUP, NOT_ALLOWED, NOT_IN_GROUP, assert_fails},
    groups::{Group, KINDS},
};

/// Nobody has this id.
const NOBODY: i64 = 1_000_000_000;

fn sorted(mut ids: Vec<i64>) -> Vec<i64> {
    ids.sort_unstable();
    ids
}

async fn make_admin(server: &Api, by: &Device, group: Group, user_id: i64, role: MemberType) {
    let request = role_change(group, user_id, role);
    server.update_member(by, request).await.expect("changed");
}

fn role_change(group: Group, user_id: i64, role: MemberType) -> UpdateGroupMemberReq {
    UpdateGroupMemberReq {
        group_id: group.id,
        user_id,
        member_type: role.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_creator_is_admin_and_the_others_are_members() {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    for kind in KINDS {
        // Whoever is named twice, is the creator, or does not exist, makes no difference.
        let named = [
            users[1].user_id,
            users[0].user_id,
            NOBODY,
            users[2].user_id,
            users[1].user_id,
        ];
        let group = server.create_group(&users[0], kind, &named).await;
        let members = server.members(&users[1], group.id).await;
        assert_eq!(members.len(), 3);
        for (member, user) in members.iter().zip(&users) {
            let role = match user.user_id == users[0].user_id {
                true => MemberType::GmtAdmin,
                false => MemberType::GmtMember,
            };
            assert_eq!((member.user_id, member.member_type()), (user.user_id, role));
        }
        let description = server.group(&users[2], group.id).await.expect("GetGroup");
        assert_eq!((description.user_mum, description.r#type()), (3, kind));
    }
}

#[tokio::test]
async fn adding_answers_who_was_a_member_and_skips_who_does_not_exist() {
    let server = Server::start().await;
    let users = server.new_users(4).await;
    let admin = &users[0];
    for kind in KINDS {
        let group = server.create_group(admin, kind, &[users[1].user_id]).await;
        let named = [
            NOBODY,
            users[1].user_id,
            users[2].user_id,
            admin.user_id,
            NOBODY + 1,
            users[2].user_id,
        ];
        let known = server.add_members(admin, group.id, &named).await;
        let known = sorted(known.expect("added"));
        assert_eq!(known, ids(&users[..2]), "those who were in before");
        assert_eq!(server.member_ids(admin, group.id).await, ids(&users[..3]));
        // Once more: all of them are members, and nothing changes.
        let known = server.add_members(admin, group.id, &ids(&users[..3])).await;
        assert_eq!(sorted(known.expect("fine")), ids(&users[..3]));
        assert_eq!(server.member_ids(admin, group.id).await, ids(&users[..3]));
        let description = server.group(admin, group.id).await.expect("GetGroup");
        assert_eq!(description.user_mum, 3);
    }
}

#[tokio::test]
async fn a_group_takes_all_of_a_call_or_none() {
    let server = Server::with(|config| {
        config.groups.small_members_max = 4;
        config.groups.large_members_max = 4;
    })
    .await;
    let users = server.new_users(7).await;
    let admin = &users[0];
    let all = ids(&users);
    for kind in KINDS {
        // At creation.
        let request = CreateGroupReq {
            name: "too many".into(),
            r#type: kind.into(),
            member_ids: all[1..5].into(),
            ..Default::default()
        };
        let before = server.groups(admin).await;
        let refused = server.try_create_group(admin, request).await;
        assert_fails(refused, GROUP_IS_FULL);
        assert_eq!(server.groups(admin).await, before, "none was made");
        assert!(server.groups(&users[4]).await.is_empty());
        // When adding.
        let group = server.create_group(admin, kind, &all[1..3]).await;
        let refused = server.add_members(admin, group.id, &all[3..5]).await;
        assert_fails(refused, GROUP_IS_FULL);
        assert_eq!(server.member_ids(admin, group.id).await, all[..3]);
        assert_fails(server.group(&users[3], group.id).await, NOT_IN_GROUP);
        // Members and unknown ids take no room.
        let named = [all[1], NOBODY, all[3], NOBODY + 1, all[2]];
        let added = server.add_members(admin, group.id, &named).await;
        assert_eq!(sorted(added.expect("there is room")), all[1..3]);
        assert_eq!(server.member_ids(admin, group.id).await, all[..4]);
        let known = server.add_members(admin, group.id, &all[..4]).await;
        assert_eq!(sorted(known.expect("nobody is new")), all[..4]);
        assert_fails(
            server.add_members(admin, group.id, &[all[6]]).await,
            GROUP_IS_FULL,
        );
        // Who leaves makes room.
        server.leave(&users[1], group.id).await.expect("left");
        let added = server.add_members(admin, group.id, &[all[6]]).await;
        added.expect("there is room again");
        assert_eq!(
            server.member_ids(admin, group.id).await,
            [all[0], all[2], all[3], all[6]]
        );
    }
}

#[tokio::test]
async fn the_last_admin_names_another_before_he_goes() {
    let server = Server::start().await;
    let users = server.new_users(3).await;
    let [alice, bob, carol] = &users[..] else {
        panic!("three users");
    };
    for kind in KINDS {
        let group = server.create_group(alice, kind, &ids([bob, carol])).await;
        let demote = role_change(group, alice.user_id, MemberType::GmtMember);
        assert_fails(server.leave(alice, group.id).await, NOT_ALLOWED);
        assert_fails(server.update_member(alice, demote).await, NOT_ALLOWED);
        make_admin(&server, alice, group, bob.user_id, MemberType::GmtAdmin).await;
        // Two admins: each may make the other a member again, or go.
        make_admin(&server, bob, group, alice.user_id, MemberType::GmtMember).await;
        assert_fails(server.leave(bob, group.id).await, NOT_ALLOWED);
        assert_fails(
            server.remove_member(alice, group.id, carol.user_id).await,
            NOT_ALLOWED,
        );
        make_admin(&server, bob, group, alice.user_id, MemberType::GmtAdmin).await;
        server.leave(alice, group.id).await.expect("Bob is there");
        assert_eq!(server.member_ids(bob, group.id).await, ids([bob, carol]));
        // When the others have gone, the last admin may go too.
        let removed = server.remove_member(bob, group.id, carol.user_id).await;
        removed.expect("removed");
        server.leave(bob, group.id).await.expect("the last one");
        assert_fails(server.group(bob, group.id).await, NO_SUCH_GROUP);
    }
}

#[tokio::test]
async fn the_last_member_ends_the_group() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        server.leave(&bob, group.id).await.expect("left");
        server.leave(&alice, group.id).await.expect("left");
        assert!(server.groups(&alice).await.is_empty());
        for who in [&alice, &bob] {
            assert_fails(server.group(who, group.id).await, NO_SUCH_GROUP);
            let added = server.add_members(who, group.id, &[bob.user_id]).await;
            assert_fails(added, NO_SUCH_GROUP);
            assert_fails(server.leave(who, group.id).await, NO_SUCH_GROUP);
            for request in [group.text("x"), group.ephemeral("x")] {
                assert_fails(server.try_send(who, request).await, NO_SUCH_GROUP);
            }
        }
        let next = server.create_group(&alice, kind, &[]).await;
        assert_ne!(next.id, group.id, "ids are never used again");
        server.leave(&alice, next.id).await.expect("left");
    }
}

#[tokio::test]
async fn who_is_no_member_cannot_be_changed_or_removed() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[]).await;
        for target in [bob.user_id, NOBODY] {
            let change = role_change(group, target, MemberType::GmtAdmin);
            assert_fails(server.update_member(&alice, change).await, NOT_IN_GROUP);
            let removed = server.remove_member(&alice, group.id, target).await;
            assert_fails(removed, NOT_IN_GROUP);
        }
        assert_eq!(server.member_ids(&alice, group.id).await, [alice.user_id]);
    }
}

#[tokio::test]
async fn a_members_change_replaces_remarks_and_extra_and_keeps_an_unnamed_role() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let bobs = async |group: Group| server.members(&bob, group.id).await.remove(1);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &[bob.user_id]).await;
        let by_himself = UpdateGroupMemberReq {
            remarks: "Bobby".into(),
            extra: "red".into(),
            ..role_change(group, bob.user_id, MemberType::GmtUnknown)
        };
        let changed = server.update_member(&bob, by_himself).await;
        changed.expect("his own");
        let member = bobs(group).await;
        assert_eq!((&*member.remarks, &*member.extra), ("Bobby", "red"));
        assert_eq!(member.member_type(), MemberType::GmtMember);
        make_admin(&server, &alice, group, bob.user_id, MemberType::GmtAdmin).await;
        let member = bobs(group).await;
        assert_eq!((&*member.remarks, &*member.extra), ("", ""), "replaced");
        make_admin(&server, &bob, group, bob.user_id, MemberType::GmtUnknown).await;
        assert_eq!(bobs(group).await.member_type(), MemberType::GmtAdmin);
    }
}

#[tokio::test]
async fn members_are_listed_by_pages_with_their_profiles() {
    let server = Server::start().await;
    let users = server.new_users(7).await;
    let all = ids(&users);
    let profile = UpdateUserReq {
        nickname: "Bob".into(),
        sex: 1,
        avatar_url: "https://example.com/b.png".into(),
        extra: "{}".into(),
    };
    let mut bob = server.users(&users[1]);
    bob.update_user(profile).await.expect("UpdateUser");
    for kind in KINDS {
        let group = server.create_group(&users[0], kind, &all[1..]).await;
        let page = async |after_user_id, limit| {
            let request = GetGroupMembersReq {
                group_id: group.id,
                after_user_id,
                limit,
            };
            let page = server.members_page(&users[3], request).await;
            let page = page.expect("GetGroupMembers");
            let ids: Vec<_> = page.members.iter().map(|m| m.user_id).collect();
            (ids, page.has_more)
        };
        for (after, limit, expected, more) in [
            (0, 3, &all[..3], true),
            (all[2], 3, &all[3..6], true),
            (all[5], 3, &all[6..], false),
            (all[3], 3, &all[4..], false),
            (0, 7, &all[..], false),
            (0, 0, &all[..], false),
            (0, i32::MAX, &all[..], false),
            (all[6], 3, &[], false),
            (i64::MAX, 0, &[], false),
        ] {
            let (listed, has_more) = page(after, limit).await;
            assert_eq!(listed, expected, "after {after}, at most {limit}");
            assert_eq!(has_more, more, "after {after}, at most {limit}");
        }
        let listed = server.members(&users[0], group.id).await.remove(1);
        assert_eq!((&*listed.nickname, listed.sex), ("Bob", 1));
        assert_eq!(listed.avatar_url, "https://example.com/b.png");
        assert_eq!(listed.user_extra, "{}");
        assert_eq!((&*listed.remarks, &*listed.extra), ("", ""));
    }
}

#[tokio::test]
async fn a_page_has_at_most_five_hundred_members() {
    let server = Server::with(|config| config.groups.small_members_max = 600).await;
    let alice = server.new_user().await;
    let crowd = ids(&server.new_absent_users(550).await);
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &crowd).await;
        for limit in [0, 500, 501, i32::MAX] {
            let request = GetGroupMembersReq {
                group_id: group.id,
                after_user_id: 0,
                limit,
            };
            let page = server.members_page(&alice, request).await;
            let page = page.expect("GetGroupMembers");
            assert_eq!((page.members.len(), page.has_more), (500, true), "{limit}");
        }
        let mut everybody = crowd.clone();
        everybody.push(alice.user_id);
        let listed = server.member_ids(&alice, group.id).await;
        assert_eq!(listed, sorted(everybody));
    }
}

/// What was true before a restart is true after it.
#[tokio::test]
async fn groups_survive_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let members = [bob.user_id];
    let small = server.create_group(&alice, GroupType::GtSmall, &members);
    let small = small.await;
    let large = server.create_group(&alice, GroupType::GtLarge, &members);
    let large = large.await;
    server.send(&alice, small.text("x")).await;
    server.send(&alice, large.text("x")).await;
    server.restart().await;
    for group in [small, large] {
        let members = server.member_ids(&bob, group.id).await;
        assert_eq!(members, ids([&alice, &bob]));
    }
    let sent = server.send(&bob, large.text("y")).await;
    assert_eq!(sent.seq, 3, "the creation, the first, this one");
    server.send(&bob, small.text("y")).await;
    let timeline = server.group_timeline(&alice, large).await;
    assert_eq!(timeline.len(), 3);
}
