//! Bounds: of groups, of users, of fields.

use super::*;

#[tokio::test]
async fn group_takes_as_many_as_it_may_and_no_more() {
    let scene = Scene::new(5).await;
    let groups = scene.bounded(3, 4, 100);
    let one = scene.user(1);
    for (kind, max) in [(GroupType::GtSmall, 3), (GroupType::GtLarge, 4)] {
        let others: Vec<usize> = (2..=max + 1).collect();
        let too_many = new_group(kind, scene.ids(&others));
        let refused = groups.create(one, too_many).await;
        assert_eq!(code(&refused), Some(Code::GroupFull), "{kind:?}");
        let group = new_group(kind, scene.ids(&others[1..]));
        let group = groups.create(one, group).await.unwrap();
        let state = scene.state(group).await;
        let one_more = groups.add(one, group, scene.ids(&[2, 3])).await;
        assert_eq!(code(&one_more), Some(Code::GroupFull), "{kind:?}");
        assert_eq!(scene.state(group).await, state, "none is added");
        let present = groups.add(one, group, scene.ids(&[3])).await.unwrap();
        assert_eq!(present, [scene.user(3)], "nobody new fits");
        groups.remove(one, group, scene.user(3)).await.unwrap();
        groups.add(one, group, scene.ids(&[2])).await.unwrap();
        assert_eq!(scene.members(group).await.len(), max);
    }
    assert_eq!(groups.of_user(one).await.unwrap().len(), 2);
}

#[tokio::test]
async fn user_is_in_so_many_large_groups_at_most() {
    let scene = Scene::new(3).await;
    let groups = scene.bounded(10, 10, 2);
    let [one, two, three] = [1, 2, 3].map(|n| scene.user(n));
    for _ in 0..2 {
        let full = new_group(GroupType::GtLarge, Vec::new());
        groups.create(one, full).await.unwrap();
    }
    let large = || new_group(GroupType::GtLarge, Vec::new());
    assert_eq!(
        code(&groups.create(one, large()).await),
        Some(Code::GroupFull)
    );
    let small = new_group(GroupType::GtSmall, scene.ids(&[2]));
    groups.create(one, small).await.unwrap();

    let group = groups.create(two, large()).await.unwrap();
    let added = groups.add(two, group, scene.ids(&[1, 3])).await;
    assert_eq!(code(&added), Some(Code::GroupFull));
    assert_eq!(scene.members(group).await.len(), 1, "all or none");
    groups.add(two, group, scene.ids(&[2, 3])).await.unwrap();
    assert_eq!(groups.of_user(three).await.unwrap()[0].id, group.get());
}

#[tokio::test]
async fn fields_out_of_bounds_are_named() {
    let scene = Scene::new(1).await;
    let groups = &scene.world.groups;
    let (one, group) = (scene.user(1), GroupId(99));
    let long = |bytes: usize| "x".repeat(bytes + 1);
    let wrong_details = [
        (
            "name",
            Details {
                name: long(GROUP_NAME_BYTES_MAX),
                ..Details::default()
            },
        ),
        (
            "avatar_url",
            Details {
                avatar_url: long(AVATAR_URL_BYTES_MAX),
                ..Details::default()
            },
        ),
        (
            "introduction",
            Details {
                introduction: long(INTRODUCTION_BYTES_MAX),
                ..Details::default()
            },
        ),
        (
            "extra",
            Details {
                extra: long(EXTRA_BYTES_MAX),
                ..Details::default()
            },
        ),
        (
            "name",
            Details {
                name: "\0".into(),
                ..Details::default()
            },
        ),
    ];
    let mut refused = Vec::new();
    for (field, details) in wrong_details {
        let new = NewGroup {
            details: details.clone(),
            ..new_group(GroupType::GtSmall, Vec::new())
        };
        refused.push((field, groups.create(one, new).await.map(drop)));
        refused.push((field, groups.update(one, group, details).await));
    }
    for kind in [0, 3, -1] {
        let new = NewGroup {
            kind,
            ..NewGroup::default()
        };
        refused.push(("type", groups.create(one, new).await.map(drop)));
    }
    for users in [vec![1; GROUP_CALL_USERS_MAX + 1], vec![1, 0], vec![-1]] {
        let new = new_group(GroupType::GtSmall, users.clone());
        refused.push(("member_ids", groups.create(one, new).await.map(drop)));
        refused.push(("user_ids", groups.add(one, group, users).await.map(drop)));
    }
    for (field, details) in [
        (
            "member_type",
            MemberDetails {
                member_type: 3,
                ..Default::default()
            },
        ),
        (
            "remarks",
            MemberDetails {
                remarks: long(REMARKS_BYTES_MAX),
                ..Default::default()
            },
        ),
        (
            "extra",
            MemberDetails {
                extra: long(EXTRA_BYTES_MAX),
                ..Default::default()
            },
        ),
    ] {
        refused.push((field, groups.update_member(one, group, one, details).await));
    }
    let (nobody, nothing) = (UserId(0), GroupId(-1));
    refused.push(("user_id", groups.remove(one, group, nobody).await));
    let change = groups.update_member(one, group, nobody, MemberDetails::default());
    refused.push(("user_id", change.await));
    refused.push(("group_id", groups.remove(one, nothing, one).await));
    let change = groups.update_member(one, nothing, one, MemberDetails::default());
    refused.push(("group_id", change.await));
    refused.push((
        "group_id",
        groups.update(one, nothing, Details::default()).await,
    ));
    refused.push(("group_id", groups.get(one, nothing).await.map(drop)));
    refused.push((
        "group_id",
        groups.add(one, nothing, Vec::new()).await.map(drop),
    ));
    let pages = [
        ("group_id", nothing, UserId(0), 0),
        ("after_user_id", group, UserId(-1), 0),
        ("limit", group, UserId(0), -1),
    ];
    for (field, group, after, limit) in pages {
        let page = groups.members(one, group, after, limit).await;
        refused.push((field, page.map(drop)));
    }
    for (at, (field, result)) in refused.into_iter().enumerate() {
        let error = result.expect_err(field);
        assert!(error.is(Code::BadRequest), "{at}: {error}");
        let named = error.public_message().starts_with(&format!("{field}: "));
        assert!(named, "{at}: {error} for {field}");
    }
}
