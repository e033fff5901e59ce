//! Reading groups and their members.

use super::*;

#[tokio::test]
async fn pages_of_members_go_on_where_they_ended() {
    let scene = Scene::new(7).await;
    let groups = &scene.world.groups;
    let group = scene.group(GroupType::GtLarge, &[7, 3, 5, 2]).await;
    let two = scene.user(2);
    let page = async |after: UserId, limit| {
        let page = groups.members(two, group, after, limit).await.unwrap();
        let users = page.members.iter().map(|member| member.user_id);
        (users.collect::<Vec<i64>>(), page.has_more)
    };
    assert_eq!(page(UserId(0), 2).await, (scene.ids(&[1, 2]), true));
    assert_eq!(page(two, 2).await, (scene.ids(&[3, 5]), true));
    assert_eq!(
        page(two, 3).await,
        (scene.ids(&[3, 5, 7]), false),
        "exactly the rest"
    );
    assert_eq!(
        page(scene.user(4), 1).await,
        (scene.ids(&[5]), true),
        "after no member"
    );
    assert_eq!(page(scene.user(7), 1).await, (Vec::new(), false));
    for all in [0, 5, i32::MAX] {
        assert_eq!(
            page(UserId(0), all).await,
            (scene.ids(&[1, 2, 3, 5, 7]), false)
        );
    }
}

#[tokio::test]
async fn page_of_members_is_bounded() {
    let others: Vec<usize> = (2..=MEMBERS_PAGE_MAX + 1).collect();
    let scene = Scene::new(others.len() + 1).await;
    let groups = &scene.world.groups;
    let group = scene.group(GroupType::GtLarge, &others).await;
    for limit in [0, i32::MAX, MEMBERS_PAGE_MAX as i32] {
        let page = groups.members(scene.user(1), group, UserId(0), limit).await;
        let page = page.unwrap();
        assert_eq!(
            (page.members.len(), page.has_more),
            (MEMBERS_PAGE_MAX, true)
        );
    }
}

#[tokio::test]
async fn member_is_shown_with_his_profile_as_it_is_now() {
    let scene = Scene::new(2).await;
    let groups = &scene.world.groups;
    let two = scene.user(2);
    let group = scene.group(GroupType::GtSmall, &[2]).await;
    let changes = Changes {
        nickname: "new name".into(),
        sex: 2,
        avatar_url: "new avatar".into(),
        extra: "new extra".into(),
    };
    scene.world.accounts.update(two, changes).await.unwrap();
    let page = groups.members(two, group, scene.user(1), 0).await.unwrap();
    let expected = pb::GroupMember {
        user_id: two.get(),
        nickname: "new name".into(),
        sex: 2,
        avatar_url: "new avatar".into(),
        user_extra: "new extra".into(),
        member_type: MemberType::GmtMember as i32,
        ..Default::default()
    };
    assert_eq!(page.members, [expected]);
}

#[tokio::test]
async fn users_groups_are_those_of_both_kinds_he_is_in() {
    let scene = Scene::new(2).await;
    let groups = &scene.world.groups;
    let small = scene.group(GroupType::GtSmall, &[2]).await;
    let large = scene.group(GroupType::GtLarge, &[2]).await;
    let foreign = scene.group(GroupType::GtLarge, &[]).await;
    let of_user = async |n: usize| {
        let found = groups.of_user(scene.user(n)).await.unwrap();
        found
            .into_iter()
            .map(|group| GroupId(group.id))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_user(1).await, [small, large, foreign]);
    assert_eq!(of_user(2).await, [small, large]);
    let two = scene.user(2);
    groups.remove(two, small, two).await.unwrap();
    assert_eq!(of_user(2).await, [large]);
}
