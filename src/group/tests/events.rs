//! Who is told what, and where.

use super::*;
use crate::id::MessageId;

/// The event that user `by` added these users in these roles.
fn added(scene: &Scene, group: GroupId, by: usize, members: &[(usize, Role)]) -> Push {
    let members = members.iter().map(|(n, role)| pb::GroupMember {
        user_id: scene.user(*n).get(),
        nickname: format!("user {n}"),
        sex: 1,
        avatar_url: "https://a".into(),
        member_type: role.column().into(),
        ..Default::default()
    });
    Push::Added(pb::AddGroupMembersPush {
        opt_id: scene.user(by).get(),
        opt_name: format!("user {by}"),
        members: members.collect(),
        group_id: group.get(),
    })
}

fn removed(scene: &Scene, group: GroupId, by: usize, user: usize) -> Push {
    Push::Removed(pb::RemoveGroupMemberPush {
        opt_id: scene.user(by).get(),
        opt_name: format!("user {by}"),
        deleted_user_id: scene.user(user).get(),
        group_id: group.get(),
    })
}

fn to_small(group: GroupId, push: Push) -> Event {
    let receiver = (ReceiverType::RtSmallGroup, group.get());
    Event { receiver, push }
}

fn to_large(group: GroupId, push: Push) -> Event {
    let receiver = (ReceiverType::RtLargeGroup, group.get());
    Event { receiver, push }
}

fn to_user(push: Push) -> Event {
    let receiver = (ReceiverType::RtUser, 0);
    Event { receiver, push }
}

#[tokio::test]
async fn small_group_tells_everybody_on_his_own_timeline() {
    let scene = Scene::new(4).await;
    let groups = &scene.world.groups;
    let [one, two] = [1, 2].map(|n| scene.user(n));
    let group = scene.group(GroupType::GtSmall, &[2]).await;
    let created = added(&scene, group, 1, &[(1, Role::Admin), (2, Role::Member)]);
    let created = to_small(group, created);
    assert_eq!(scene.told_user(1).await, [(1, created.clone())]);
    assert_eq!(scene.told_user(2).await, [(1, created.clone())]);

    groups.add(one, group, scene.ids(&[3, 2])).await.unwrap();
    let joined = to_small(group, added(&scene, group, 1, &[(3, Role::Member)]));
    groups.update(one, group, details("new")).await.unwrap();
    let updated = Push::Updated(pb::UpdateGroupPush {
        opt_id: one.get(),
        opt_name: "user 1".into(),
        name: "new".into(),
        avatar_url: "avatar of new".into(),
        introduction: "introduction of new".into(),
        extra: "extra of new".into(),
    });
    let updated = to_small(group, updated);
    groups.remove(one, group, two).await.unwrap();
    let left = to_small(group, removed(&scene, group, 1, 2));
    let all = [
        (1, created),
        (2, joined.clone()),
        (3, updated.clone()),
        (4, left.clone()),
    ];
    assert_eq!(scene.told_user(1).await, all);
    assert_eq!(scene.told_user(2).await, all, "he is told that he is out");
    let since_joining = [(1, joined), (2, updated), (3, left)];
    assert_eq!(scene.told_user(3).await, since_joining);
    assert_eq!(scene.told_user(4).await, []);
    assert_eq!(scene.told(Owner::Group(group)).await, []);
}

#[tokio::test]
async fn large_group_tells_on_its_timeline_and_those_it_is_about_on_theirs() {
    let scene = Scene::new(4).await;
    let groups = &scene.world.groups;
    let [one, two] = [1, 2].map(|n| scene.user(n));
    let group = scene.group(GroupType::GtLarge, &[2]).await;
    let created = added(&scene, group, 1, &[(1, Role::Admin), (2, Role::Member)]);
    groups.add(one, group, scene.ids(&[3, 2])).await.unwrap();
    let joined = added(&scene, group, 1, &[(3, Role::Member)]);
    groups.update(one, group, details("new")).await.unwrap();
    groups.remove(two, group, two).await.unwrap();
    let left = removed(&scene, group, 2, 2);

    let told = scene.told(Owner::Group(group)).await;
    assert_eq!(told[0], (1, to_large(group, created.clone())));
    assert_eq!(told[1], (2, to_large(group, joined.clone())));
    assert!(matches!(told[2].1.push, Push::Updated(_)));
    assert_eq!(told[3], (4, to_large(group, left.clone())));
    assert_eq!(told.len(), 4);
    let created = to_user(created);
    assert_eq!(scene.told_user(1).await, [(1, created.clone())]);
    assert_eq!(scene.told_user(2).await, [(1, created), (2, to_user(left))]);
    assert_eq!(scene.told_user(3).await, [(1, to_user(joined))]);
}

/// A session finds by it where its user joined, even if he has been removed since.
#[tokio::test]
async fn notice_of_joining_has_the_message_id_after_the_event_s() {
    let scene = Scene::new(3).await;
    let one = scene.user(1);
    let group = scene.group(GroupType::GtLarge, &[]).await;
    for n in [2, 3] {
        let groups = &scene.world.groups;
        groups.add(one, group, scene.ids(&[n])).await.unwrap();
        let notices = scene.world.timeline(scene.user(n)).await;
        let event = MessageId(notices[0].message.id - 1);
        let reader = scene.world.store.reader();
        let at = store::timeline::seq_of(reader, event, Owner::Group(group)).await;
        assert_eq!(at.unwrap(), Some(Seq(n as i64)));
    }
}

/// I4: from joining on.
#[tokio::test]
async fn member_of_a_large_group_joins_before_the_event_that_names_him() {
    let scene = Scene::new(3).await;
    let groups = &scene.world.groups;
    let one = scene.user(1);
    let group = scene.group(GroupType::GtLarge, &[]).await;
    for _ in 0..2 {
        scene
            .send(1, ReceiverType::RtLargeGroup, group)
            .await
            .unwrap();
    }
    groups.add(one, group, scene.ids(&[2])).await.unwrap();
    groups.add(one, group, scene.ids(&[2, 3])).await.unwrap();
    let members = scene.members(group).await;
    let expected = [
        (1, Role::Admin, Some(0)),
        (2, Role::Member, Some(3)),
        (3, Role::Member, Some(4)),
    ];
    assert_eq!(members, expected);

    groups.remove(one, group, scene.user(2)).await.unwrap();
    groups.add(one, group, scene.ids(&[2])).await.unwrap();
    assert_eq!(scene.members(group).await[1], (2, Role::Member, Some(6)));
    let small = scene.group(GroupType::GtSmall, &[2]).await;
    let joined = scene
        .members(small)
        .await
        .into_iter()
        .map(|member| member.2);
    assert!(joined.eq([None, None]));
}

#[tokio::test]
async fn removal_of_the_last_member_is_told_him() {
    for kind in [GroupType::GtSmall, GroupType::GtLarge] {
        let scene = Scene::new(1).await;
        let groups = &scene.world.groups;
        let one = scene.user(1);
        let group = scene.group(kind, &[]).await;
        groups.remove(one, group, one).await.unwrap();
        let (seq, last) = scene.told_user(1).await.pop().unwrap();
        assert_eq!((seq, last.push), (2, removed(&scene, group, 1, 1)));
        assert_eq!(scene.state(group).await, None);
        assert_eq!(scene.members(group).await, []);
        assert_eq!(code(&groups.get(one, group).await), Some(Code::NoSuchGroup));
        let again = groups.remove(one, group, one).await;
        assert_eq!(code(&again), Some(Code::NoSuchGroup));
        assert_ne!(scene.group(kind, &[]).await, group, "an id is used once");
    }
}

/// The largest profiles that can be, and as many of them as one call may name.
#[tokio::test]
async fn event_too_large_for_one_message_is_split() {
    let others = GROUP_CALL_USERS_MAX;
    let nickname = |_| "n".repeat(crate::limits::NICKNAME_BYTES_MAX);
    let scene = Scene::with(others + 1, nickname, &"e".repeat(EXTRA_BYTES_MAX)).await;
    let members: Vec<i64> = scene.users[1..].iter().map(|user| user.get()).collect();
    let large = new_group(GroupType::GtLarge, members.clone());
    let group = scene.world.groups.create(scene.user(1), large).await;
    let group = group.unwrap();
    let told = scene.told(Owner::Group(group)).await;
    assert!(told.len() > 50, "{} parts", told.len());
    let named = told.iter().flat_map(|(_, event)| match &event.push {
        Push::Added(push) => push.members.iter().map(|member| UserId(member.user_id)),
        other => panic!("{other:?}"),
    });
    assert!(named.eq(scene.users.iter().copied()), "each once, in order");
    for (n, user) in scene.users.iter().enumerate().step_by(97) {
        let [(1, own)] = &scene.told_user(n + 1).await[..] else {
            panic!("one part for {user}");
        };
        let Push::Added(push) = &own.push else {
            panic!("{own:?}");
        };
        assert!(
            push.members
                .iter()
                .any(|member| member.user_id == user.get())
        );
        let of_group = to_large(group, own.push.clone());
        assert!(told.iter().any(|(_, event)| *event == of_group));
    }

    // In a small group every member is given every part.
    let small = new_group(GroupType::GtSmall, members[..50].to_vec());
    scene
        .world
        .groups
        .create(scene.user(1), small)
        .await
        .unwrap();
    for n in [1, 2, 51] {
        assert_eq!(scene.told_user(n).await.len(), 1 + 3, "of user {n}");
    }
}
