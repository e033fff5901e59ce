//! What is out of its bounds in a request about a group is refused with 10001 and a sentence that
//! names the field, before anything else is looked at.

use im::pb::{
    AddGroupMembersReq, CreateGroupReq, DeleteGroupMemberReq, GetGroupMembersReq, GetGroupReq,
    GroupType, MemberType, UpdateGroupMemberReq, UpdateGroupReq,
};

use crate::support::{
    Server,
    errors::{BAD_REQUEST, assert_fails, assert_names},
    groups::KINDS,
};

/// Most ids in one call.
const IDS_MAX: i64 = 1_000;
/// No group has this id, so a wrong field is found first.
const UNKNOWN: i64 = i64::MAX;

/// Ids that are no ids.
const BAD_IDS: [i64; 3] = [0, -1, i64::MIN];

/// Lists of ids that are refused.
fn bad_lists() -> Vec<Vec<i64>> {
    vec![vec![1, 0], vec![-1], (1..=IDS_MAX + 1).collect()]
}

/// Texts that are refused where at most `bytes` bytes are allowed.
fn bad_texts(bytes: usize) -> [String; 3] {
    // Two bytes a letter: it is bytes that count.
    let umlauts = "ü".repeat(bytes / 2 + 1);
    ["x".repeat(bytes + 1), umlauts, "a\0b".into()]
}

#[tokio::test]
async fn create_group_names_the_field() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    for kind in KINDS {
        let good = CreateGroupReq {
            name: "good".into(),
            r#type: kind.into(),
            ..Default::default()
        };
        let mut requests = Vec::new();
        let mut wrong = |field, change: &dyn Fn(&mut CreateGroupReq)| {
            let mut request = good.clone();
            change(&mut request);
            requests.push((field, request));
        };
        for text in bad_texts(256) {
            wrong("name", &|r| r.name = text.clone());
        }
        for text in bad_texts(1_024) {
            wrong("avatar_url", &|r| r.avatar_url = text.clone());
        }
        for text in bad_texts(2_048) {
            wrong("introduction", &|r| r.introduction = text.clone());
            wrong("extra", &|r| r.extra = text.clone());
        }
        for unknown in [0, 3, -1] {
            wrong("type", &|r| r.r#type = unknown);
        }
        for ids in bad_lists() {
            wrong("member_ids", &|r| r.member_ids = ids.clone());
        }
        for (field, request) in requests {
            assert_names(server.try_create_group(&alice, request).await, field);
        }
    }
    assert!(server.groups(&alice).await.is_empty(), "nothing was made");
}

#[tokio::test]
async fn update_group_names_the_field() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let good = UpdateGroupReq {
        group_id: UNKNOWN,
        name: "good".into(),
        ..Default::default()
    };
    let mut requests = Vec::new();
    let mut wrong = |field, change: &dyn Fn(&mut UpdateGroupReq)| {
        let mut request = good.clone();
        change(&mut request);
        requests.push((field, request));
    };
    for id in BAD_IDS {
        wrong("group_id", &|r| r.group_id = id);
    }
    for text in bad_texts(256) {
        wrong("name", &|r| r.name = text.clone());
    }
    for text in bad_texts(1_024) {
        wrong("avatar_url", &|r| r.avatar_url = text.clone());
    }
    for text in bad_texts(2_048) {
        wrong("introduction", &|r| r.introduction = text.clone());
        wrong("extra", &|r| r.extra = text.clone());
    }
    for (field, request) in requests {
        assert_names(server.update_group(&alice, request).await, field);
    }
}

#[tokio::test]
async fn the_rpcs_about_members_name_the_field() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let me = alice.user_id;
    for group_id in BAD_IDS {
        let get = server.group(&alice, group_id).await;
        assert_names(get, "group_id");
        let add = server.add_members(&alice, group_id, &[me]).await;
        assert_names(add, "group_id");
        let remove = server.remove_member(&alice, group_id, me).await;
        assert_names(remove, "group_id");
    }
    for ids in bad_lists() {
        let add = server.add_members(&alice, UNKNOWN, &ids).await;
        assert_names(add, "user_ids");
    }
    for user_id in BAD_IDS {
        let remove = server.remove_member(&alice, UNKNOWN, user_id).await;
        assert_names(remove, "user_id");
    }
    let page = |group_id, after_user_id, limit| GetGroupMembersReq {
        group_id,
        after_user_id,
        limit,
    };
    for (field, request) in [
        ("group_id", page(0, 0, 0)),
        ("group_id", page(-1, 0, 0)),
        ("after_user_id", page(UNKNOWN, -1, 0)),
        ("limit", page(UNKNOWN, 0, -1)),
        ("limit", page(UNKNOWN, 0, i32::MIN)),
    ] {
        assert_names(server.members_page(&alice, request).await, field);
    }
}

#[tokio::test]
async fn update_group_member_names_the_field() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let good = UpdateGroupMemberReq {
        group_id: UNKNOWN,
        user_id: alice.user_id,
        member_type: MemberType::GmtMember.into(),
        ..Default::default()
    };
    let mut requests = Vec::new();
    let mut wrong = |field, change: &dyn Fn(&mut UpdateGroupMemberReq)| {
        let mut request = good.clone();
        change(&mut request);
        requests.push((field, request));
    };
    for id in BAD_IDS {
        wrong("group_id", &|r| r.group_id = id);
        wrong("user_id", &|r| r.user_id = id);
    }
    for unknown in [3, -1] {
        wrong("member_type", &|r| r.member_type = unknown);
    }
    for text in bad_texts(512) {
        wrong("remarks", &|r| r.remarks = text.clone());
    }
    for text in bad_texts(2_048) {
        wrong("extra", &|r| r.extra = text.clone());
    }
    for (field, request) in requests {
        assert_names(server.update_member(&alice, request).await, field);
    }
}

/// The bounds themselves are allowed, and everything comes back as it was given.
#[tokio::test]
async fn a_group_may_have_texts_up_to_their_bounds() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    for kind in KINDS {
        let request = CreateGroupReq {
            name: "n".repeat(256),
            avatar_url: "a".repeat(1_024),
            introduction: "i".repeat(2_048),
            extra: "ü".repeat(1_024),
            r#type: kind.into(),
            member_ids: Vec::new(),
        };
        let id = server.try_create_group(&alice, request.clone()).await;
        let group = server.group(&alice, id.expect("made")).await;
        let group = group.expect("GetGroup");
        assert_eq!(group.name, request.name);
        assert_eq!(group.avatar_url, request.avatar_url);
        assert_eq!(group.introduction, request.introduction);
        assert_eq!(group.extra, request.extra);
        assert_eq!((group.r#type(), group.user_mum), (kind, 1));
        assert!(group.create_time > 1_600_000_000 && group.create_time < 10_000_000_000);
        assert!(group.update_time >= group.create_time);
        let member = UpdateGroupMemberReq {
            group_id: group.group_id,
            user_id: alice.user_id,
            remarks: "r".repeat(512),
            extra: "e".repeat(2_048),
            ..Default::default()
        };
        let changed = server.update_member(&alice, member.clone()).await;
        changed.expect("UpdateGroupMember");
        let members = server.members(&alice, group.group_id).await;
        assert_eq!(members[0].remarks, member.remarks);
        assert_eq!(members[0].extra, member.extra);
    }
}

#[tokio::test]
async fn update_group_replaces_every_field_but_the_type() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for kind in KINDS {
        let request = CreateGroupReq {
            name: "before".into(),
            avatar_url: "before".into(),
            introduction: "before".into(),
            extra: "before".into(),
            r#type: kind.into(),
            member_ids: vec![bob.user_id],
        };
        let id = server.try_create_group(&alice, request).await;
        let group_id = id.expect("made");
        let changes = [
            UpdateGroupReq {
                group_id,
                name: "after".into(),
                avatar_url: "url".into(),
                introduction: "intro".into(),
                extra: "extra".into(),
            },
            UpdateGroupReq {
                group_id,
                name: "bare".into(),
                ..Default::default()
            },
        ];
        for change in changes {
            let updated = server.update_group(&alice, change.clone()).await;
            updated.expect("UpdateGroup");
            for who in [&alice, &bob] {
                let group = server.group(who, group_id).await.expect("GetGroup");
                assert_eq!(group.name, change.name);
                assert_eq!(group.avatar_url, change.avatar_url);
                assert_eq!(group.introduction, change.introduction);
                assert_eq!(group.extra, change.extra);
                assert_eq!((group.r#type(), group.user_mum), (kind, 2));
            }
        }
    }
}

/// Bounds are on bytes and numbers; whether the ids exist is another question.
#[tokio::test]
async fn a_thousand_ids_may_be_given_at_once() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let nobody: Vec<i64> = (1..=IDS_MAX).map(|n| 1_000_000_000 + n).collect();
    for kind in KINDS {
        let group = server.create_group(&alice, kind, &nobody).await;
        let added = server.add_members(&alice, group.id, &nobody).await;
        assert!(added.expect("none of them is there").is_empty());
        assert_eq!(server.member_ids(&alice, group.id).await, [alice.user_id]);
    }
}

/// The requests as they stand on the wire, with nothing in them at all.
#[tokio::test]
async fn empty_requests_are_bad_requests() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut logic = server.logic(&alice);
    let create = CreateGroupReq::default();
    assert_eq!(create.r#type(), GroupType::GtUnknown);
    assert_names(logic.create_group(create).await, "type");
    let update = logic.update_group(UpdateGroupReq::default()).await;
    assert_names(update, "group_id");
    let get = logic.get_group(GetGroupReq::default()).await;
    assert_names(get, "group_id");
    let add = logic.add_group_members(AddGroupMembersReq::default()).await;
    assert_fails(add, BAD_REQUEST);
    let change = logic
        .update_group_member(UpdateGroupMemberReq::default())
        .await;
    assert_fails(change, BAD_REQUEST);
    let remove = logic
        .delete_group_member(DeleteGroupMemberReq::default())
        .await;
    assert_fails(remove, BAD_REQUEST);
    let list = logic.get_group_members(GetGroupMembersReq::default()).await;
    assert_names(list, "group_id");
}
