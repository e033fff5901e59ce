//! Which rows somebody else has locked, found out without waiting.

use std::collections::HashSet;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, QueryFilter, QuerySelect,
    TransactionTrait,
    sea_query::{LockBehavior, LockType},
};

use crate::{
    id::{GroupId, Owner},
    store::{
        Outcome,
        append::Lock,
        entity::{group, timeline_head},
        ids::padded,
        timeline::owned_by,
    },
};

/// Rows of one statement.
const STATEMENT_ROWS: usize = 500;

/// Those of `locks` whose rows are there and cannot be locked. Not told of are rows that are about to
/// be inserted; whoever waits for one of these has to wait.
pub(in crate::store) async fn held(
    write: &DatabaseConnection,
    locks: HashSet<Lock>,
) -> Outcome<HashSet<Lock>> {
    let locks: Vec<Lock> = locks.into_iter().collect();
    let mut held = HashSet::new();
    for locks in locks.chunks(STATEMENT_ROWS) {
        let there = rows(write, locks, None).await?;
        let tx = write.begin().await?;
        let free = rows(&tx, locks, Some(LockBehavior::SkipLocked)).await?;
        tx.rollback().await?;
        held.extend(there.difference(&free).copied());
    }
    Ok(held)
}

/// Those of `locks` whose rows are there; with `behavior` they are locked.
async fn rows(
    conn: &impl ConnectionTrait,
    locks: &[Lock],
    behavior: Option<LockBehavior>,
) -> Outcome<HashSet<Lock>> {
    let (mut groups, mut owners) = (Vec::new(), Vec::new());
    for lock in locks {
        match lock {
            Lock::Group(group) => groups.push(group.get()),
            Lock::Head(owner) => owners.push(*owner),
        }
    }
    let mut found = HashSet::new();
    if !groups.is_empty() {
        let mut select = group::Entity::find()
            .select_only()
            .column(group::Column::Id);
        select = select.filter(group::Column::Id.is_in(padded(groups)));
        if let Some(behavior) = behavior {
            select = select.lock_with_behavior(LockType::Update, behavior);
        }
        let ids: Vec<i64> = select.into_tuple().all(conn).await?;
        found.extend(ids.into_iter().map(|id| Lock::Group(GroupId(id))));
    }
    if !owners.is_empty() {
        use timeline_head::Column as C;

        let mut select = timeline_head::Entity::find().select_only();
        select = select
            .columns([C::OwnerType, C::OwnerId])
            .filter(owned_by(&owners));
        if let Some(behavior) = behavior {
            select = select.lock_with_behavior(LockType::Update, behavior);
        }
        let keys: Vec<(i16, i64)> = select.into_tuple().all(conn).await?;
        let heads = keys
            .into_iter()
            .filter_map(|(kind, id)| Owner::from_columns(kind, id));
        found.extend(heads.map(Lock::Head));
    }
    Ok(found)
}
