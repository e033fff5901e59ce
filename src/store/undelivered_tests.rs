use test_servers::{Database, Engine};

use super::*;
use crate::{
    store::group::{self, Details, GroupKind, Member},
    testing::{on_each_server, open_store_at},
};

fn check(message: i64) -> Check {
    Check {
        due_at: 5,
        message_id: message,
    }
}

fn event(message: i64) -> New {
    New {
        kind: outbox::Kind::MessageUndelivered,
        owner: 7,
        message: MessageId(message),
        device: 0,
        created_at: 9,
    }
}

async fn told(store: &Store) -> Vec<i64> {
    let page = outbox::page(store.reader(), None, 0, 1_000).await.unwrap();
    page.into_iter().map(|row| row.message_id).collect()
}

/// Of two instances that look at the same, one is too late and tells nothing.
async fn what_another_has_seen_to_is_not_told_again(engine: Engine) {
    let database = Database::of(engine).await;
    sees_once(open_store_at(database.url().into()).await).await;
}

async fn sees_once(store: Store) {
    let tx = store.begin_raw().await.unwrap();
    insert(tx.conn(), &[1, 2, 3].map(check)).await.unwrap();
    tx.commit_raw().await.unwrap();
    let first = replace(&store, &[check(1)], &[event(1)]).await.unwrap();
    assert!(first);
    let late = replace(&store, &[1, 2].map(check), &[1, 2].map(event)).await;
    assert!(!late.unwrap());
    assert_eq!(told(&store).await, [1]);
    let left = due(store.reader(), 5, 10).await.unwrap();
    assert_eq!(left, [2, 3].map(check), "nothing is changed");
    let rest = replace(&store, &[2, 3].map(check), &[event(2)]).await;
    assert!(rest.unwrap());
    assert_eq!(told(&store).await, [1, 2]);
    store.close().await;
}

/// Who cannot read a message is not told of as one whom it has not reached.
async fn later_members_are_not_behind(engine: Engine) {
    let database = Database::of(engine).await;
    sees_members(open_store_at(database.url().into()).await).await;
}

async fn sees_members(store: Store) {
    let tx = store.begin_raw().await.unwrap();
    let made = group::insert(tx.conn(), GroupKind::Large, Details::default(), 0);
    let group = GroupId(made.await.unwrap().id);
    let member = |(user_id, join_seq)| Member {
        group_id: group.get(),
        user_id,
        member_type: 1,
        remarks: String::new(),
        extra: String::new(),
        join_seq: Some(join_seq),
        created_at: 0,
        updated_at: 0,
    };
    let members = [(1, 0), (2, 4), (3, 5), (4, 9)].map(member).to_vec();
    group::insert_members(tx.conn(), members).await.unwrap();
    tx.commit_raw().await.unwrap();
    let users = [1, 2, 3, 4, 5].map(UserId);
    let behind = members_behind(store.reader(), group, Seq(5), &users).await;
    assert_eq!(behind.unwrap(), [1, 2].map(UserId));
    store.close().await;
}

on_each_server!(
    what_another_has_seen_to_is_not_told_again,
    later_members_are_not_behind,
);

#[tokio::test]
async fn the_same_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name| open_store_at(format!("sqlite://{}", folder.path().join(name).display()));
    sees_once(open("checks.db").await).await;
    sees_members(open("members.db").await).await;
}
