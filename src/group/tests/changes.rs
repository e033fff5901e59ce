//! What changes, and what a refused call leaves as it was.

use futures_util::future::{join, join_all};

use super::*;

#[tokio::test]
async fn creator_is_the_admin_and_is_counted_once() {
    let scene = Scene::new(3).await;
    let [one, two] = [1, 2].map(|n| scene.user(n));
    let mut named = scene.ids(&[2, 1, 2]);
    named.push(999);
    for kind in [GroupType::GtSmall, GroupType::GtLarge] {
        let new = new_group(kind, named.clone());
        let group = scene.world.groups.create(one, new).await.unwrap();
        let found = scene.world.groups.get(two, group).await.unwrap();
        assert_eq!((found.id, found.member_count), (group.get(), 2));
        assert_eq!(i32::from(found.r#type), kind as i32);
        assert_eq!((&*found.name, &*found.extra), ("group", "extra of group"));
        let roles = scene.members(group).await;
        let roles = roles.into_iter().map(|(n, role, _)| (n, role));
        assert!(roles.eq([(1, Role::Admin), (2, Role::Member)]));
    }
}

#[tokio::test]
async fn members_are_added_once_and_those_present_are_named() {
    let scene = Scene::new(5).await;
    let groups = &scene.world.groups;
    let one = scene.user(1);
    let group = scene.group(GroupType::GtSmall, &[2, 3]).await;
    let (version, _) = scene.state(group).await.unwrap();
    let mut asked = scene.ids(&[4, 3, 1, 4]);
    asked.push(999);
    let present = groups.add(one, group, asked).await.unwrap();
    assert_eq!(present, [one, scene.user(3)]);
    assert_eq!(scene.state(group).await, Some((version + 1, 4)));

    let told = scene.told_user(1).await.len();
    for nobody_new in [scene.ids(&[4]), vec![998, 999], Vec::new()] {
        let known = nobody_new.iter().filter(|id| **id < 900).count();
        let present = groups.add(one, group, nobody_new).await.unwrap();
        assert_eq!(present.len(), known);
    }
    assert_eq!(scene.state(group).await, Some((version + 1, 4)));
    assert_eq!(scene.told_user(1).await.len(), told, "nothing to tell");
}

#[tokio::test]
async fn update_replaces_all_and_keeps_the_version() {
    let scene = Scene::new(2).await;
    let groups = &scene.world.groups;
    let group = scene.group(GroupType::GtSmall, &[2]).await;
    let before = scene.row(group).await.unwrap();
    scene.world.clock.advance_ms(5_000);
    let update = groups.update(scene.user(1), group, Details::default());
    update.await.unwrap();
    let expected = Group {
        name: String::new(),
        avatar_url: String::new(),
        introduction: String::new(),
        extra: String::new(),
        updated_at: START_MS + 5_000,
        ..before
    };
    assert_eq!(scene.row(group).await, Some(expected));
}

#[tokio::test]
async fn members_details_are_replaced_and_told_nobody() {
    let scene = Scene::new(2).await;
    let groups = &scene.world.groups;
    let [one, two] = [1, 2].map(|n| scene.user(n));
    let group = scene.group(GroupType::GtLarge, &[2]).await;
    let told = scene.told(Owner::Group(group)).await;
    let mut details = MemberDetails {
        member_type: MemberType::GmtUnknown as i32,
        remarks: "remarks".into(),
        extra: "extra".into(),
    };
    let shown = async || {
        let page = groups.members(one, group, one, 1).await.unwrap();
        let member = page.members.into_iter().next().unwrap();
        (member.member_type(), member.remarks, member.extra)
    };
    let change = groups.update_member(two, group, two, details.clone());
    change.await.unwrap();
    let expected = (MemberType::GmtMember, "remarks".into(), "extra".into());
    assert_eq!(shown().await, expected);
    details.member_type = MemberType::GmtMember as i32;
    groups
        .update_member(two, group, two, details.clone())
        .await
        .unwrap();

    details.member_type = MemberType::GmtAdmin as i32;
    let own = groups.update_member(two, group, two, details.clone()).await;
    assert_eq!(code(&own), Some(Code::NotAllowed));
    groups
        .update_member(one, group, two, details)
        .await
        .unwrap();
    let expected = (MemberType::GmtAdmin, "remarks".into(), "extra".into());
    assert_eq!(shown().await, expected);
    assert_eq!(
        scene.members(group).await[1].2,
        Some(0),
        "he did not join anew"
    );
    assert_eq!(scene.told(Owner::Group(group)).await, told);
}

#[tokio::test]
async fn last_admin_stays_until_there_is_another() {
    let scene = Scene::new(2).await;
    let groups = &scene.world.groups;
    let [one, two] = [1, 2].map(|n| scene.user(n));
    let member_type = |kind: MemberType| MemberDetails {
        member_type: kind as i32,
        ..Default::default()
    };
    let group = scene.group(GroupType::GtSmall, &[]).await;
    let alone = groups.update_member(one, group, one, member_type(MemberType::GmtMember));
    assert_eq!(code(&alone.await), Some(Code::NotAllowed));
    groups.add(one, group, scene.ids(&[2])).await.unwrap();
    let left = groups.remove(one, group, one).await;
    assert_eq!(code(&left), Some(Code::NotAllowed));
    assert_eq!(scene.members(group).await.len(), 2);

    let named = groups.update_member(one, group, two, member_type(MemberType::GmtAdmin));
    named.await.unwrap();
    let demoted = groups.update_member(one, group, one, member_type(MemberType::GmtMember));
    demoted.await.unwrap();
    groups.remove(one, group, one).await.unwrap();
    assert_eq!(scene.members(group).await, [(2, Role::Admin, None)]);
}

/// I8: what this instance remembers does not outlive a change made on it.
#[tokio::test]
async fn members_send_and_others_do_not_from_the_answer_on() {
    let scene = Scene::new(3).await;
    let groups = &scene.world.groups;
    let [one, two] = [1, 2].map(|n| scene.user(n));
    for (kind, receiver) in [
        (GroupType::GtSmall, ReceiverType::RtSmallGroup),
        (GroupType::GtLarge, ReceiverType::RtLargeGroup),
    ] {
        let group = scene.group(kind, &[]).await;
        for _ in 0..3 {
            let stranger = scene.send(2, receiver, group).await;
            assert_eq!(code(&stranger), Some(Code::NotInGroup));
            groups.add(one, group, scene.ids(&[2])).await.unwrap();
            scene.send(2, receiver, group).await.unwrap();
            groups.remove(one, group, two).await.unwrap();
        }
        groups.remove(one, group, one).await.unwrap();
        let ended = scene.send(1, receiver, group).await;
        assert_eq!(code(&ended), Some(Code::NoSuchGroup));
    }
}

/// The answers of every call to an admin, a member, a stranger and in a group that is not there.
#[tokio::test]
async fn rights_are_those_of_the_role() {
    let (yes, stranger, member) = (None, Some(Code::NotInGroup), Some(Code::NotAllowed));
    for (n, there, [add, update, admin_name, remove, own, see]) in [
        (1, true, [yes; 6]),
        (2, true, [member, member, member, member, yes, yes]),
        (3, true, [stranger; 6]),
        (3, false, [Some(Code::NoSuchGroup); 6]),
    ] {
        let scene = Scene::new(4).await;
        let groups = &scene.world.groups;
        let mut group = scene.group(GroupType::GtSmall, &[2, 4]).await;
        if !there {
            group.0 += 1;
        }
        let by = scene.user(n);
        let four = scene.user(4);
        let details_of = |kind: MemberType| MemberDetails {
            member_type: kind as i32,
            ..Default::default()
        };
        let added = groups.add(by, group, scene.ids(&[2])).await;
        assert_eq!(code(&added), add, "{n} adds");
        let updated = groups.update(by, group, details("x")).await;
        assert_eq!(code(&updated), update, "{n} updates");
        let named = details_of(MemberType::GmtAdmin);
        let named = groups.update_member(by, group, four, named).await;
        assert_eq!(code(&named), admin_name, "{n} names an admin");
        let removed = groups.remove(by, group, four).await;
        assert_eq!(code(&removed), remove, "{n} removes");
        let kept = details_of(MemberType::GmtUnknown);
        let kept = groups.update_member(by, group, by, kept).await;
        assert_eq!(code(&kept), own, "{n} changes what is his");
        assert_eq!(code(&groups.get(by, group).await), see, "{n} sees it");
        let listed = groups.members(by, group, UserId(0), 0).await;
        assert_eq!(code(&listed), see, "{n} lists members");
        if n == 1 {
            let gone = groups.remove(by, group, four).await;
            assert_eq!(code(&gone), stranger, "he is none any more");
            let gone = details_of(MemberType::GmtUnknown);
            let gone = groups.update_member(by, group, four, gone).await;
            assert_eq!(code(&gone), stranger);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_leave_counts_and_admins_right() {
    let scene = Scene::new(12).await;
    let groups = &scene.bounded(6, 6, 100);
    let one = scene.user(1);
    for kind in [GroupType::GtSmall, GroupType::GtLarge] {
        let new = new_group(kind, scene.ids(&[2, 3]));
        let group = groups.create(one, new).await.unwrap();
        let adding = (2..=12).map(|n| groups.add(one, group, scene.ids(&[n, 1 + n % 12])));
        let leaving = (2..=12).map(|n| groups.remove(scene.user(n), group, scene.user(n)));
        let (added, left) = join(join_all(adding), join_all(leaving)).await;
        for result in &added {
            assert!(
                matches!(code(result), None | Some(Code::GroupFull)),
                "{result:?}"
            );
        }
        let left = left.iter().filter(|result| result.is_ok()).count() as i64;
        let members = scene.members(group).await;
        let (version, count) = scene.state(group).await.unwrap();
        assert_eq!(count, members.len() as i64);
        assert!((1..=6).contains(&count));
        assert_eq!(members[0].1, Role::Admin);
        assert!(version >= 2 + left, "each change raised it");
        let told = scene.told_user(1).await;
        let in_group = told.iter().filter_map(|(_, event)| match &event.push {
            Push::Added(push) if push.group_id == group.get() => Some(push.members.len() as i64),
            Push::Removed(push) if push.group_id == group.get() => Some(-1),
            _ => None,
        });
        if kind == GroupType::GtSmall {
            assert_eq!(in_group.sum::<i64>(), count, "all was told");
        }
    }
}
