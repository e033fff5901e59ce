//! Queries on groups and their members. Who may change what is decided in `group`; this only reads
//! and writes rows.
//!
//! A member's `join_seq` is the position of a large group's timeline after which he is given
//! entries; it is null in a small group, which has no timeline.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, Query},
};

use super::{
    Conn, Failure, Outcome,
    entity::{group, group_member},
    ids::padded,
};
use crate::id::{GroupId, UserId};

pub use super::entity::{group::Model as Group, group_member::Model as Member};

/// How a group's messages are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// On every member's timeline: write fan-out.
    Small,
    /// On a timeline of the group's own: read fan-out.
    Large,
}

impl GroupKind {
    /// The column `type`, which is `GroupType` of the contract.
    #[must_use]
    pub const fn column(self) -> i16 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
        }
    }

    const fn from_column(column: i16) -> Self {
        match column {
            2 => Self::Large,
            _ => Self::Small,
        }
    }
}

impl Group {
    /// How its messages are stored.
    #[must_use]
    pub const fn kind(&self) -> GroupKind {
        GroupKind::from_column(self.r#type)
    }
}

impl Member {
    /// Of what kind his group is: only in a large one he has joined at a position.
    #[must_use]
    pub const fn kind(&self) -> GroupKind {
        match self.join_seq {
            Some(_) => GroupKind::Large,
            None => GroupKind::Small,
        }
    }
}

/// What describes a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// What it is called.
    pub name: String,
    /// Where its picture is.
    pub avatar_url: String,
    /// What it says of itself.
    pub introduction: String,
    /// Whatever the business keeps with it.
    pub extra: String,
}

impl Details {
    /// Bytes of all texts.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.name.len() + self.avatar_url.len() + self.introduction.len() + self.extra.len()
    }
}

/// The members of a small group as they were at some version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The group.
    pub group: GroupId,
    /// Raised by every change of its members.
    pub version: i64,
    /// The members, ascending.
    pub members: Vec<UserId>,
}

impl Roster {
    /// Whether a user is a member.
    #[must_use]
    pub fn contains(&self, user: UserId) -> bool {
        self.members.binary_search(&user).is_ok()
    }
}

/// Rows of one insert: well below what any engine takes as parameters of one statement.
const INSERT_ROWS: usize = 500;

/// A group.
///
/// # Errors
/// What the database answers; so do all functions here.
pub(crate) async fn by_id(conn: &impl Conn, id: GroupId) -> Outcome<Option<Group>> {
    group::Entity::find_by_id(id.get()).one(conn).await
}

/// A group, its row locked until the transaction ends.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn lock(conn: &impl Conn, id: GroupId) -> Outcome<Option<Group>> {
    group::Entity::find_by_id(id.get())
        .lock_exclusive()
        .one(conn)
        .await
}

/// Those of `ids` that are groups, with kind and version, their rows locked until the transaction
/// ends. In the order of their ids, so that two transactions lock in the same order.
///
/// # Errors
/// See [`by_id`].
pub(super) async fn lock_all(
    conn: &impl Conn,
    ids: impl IntoIterator<Item = GroupId>,
) -> Outcome<Vec<(GroupId, GroupKind, i64)>> {
    let ids = padded(ids.into_iter().map(GroupId::get));
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, i16, i64)> = group::Entity::find()
        .select_only()
        .columns([
            group::Column::Id,
            group::Column::Type,
            group::Column::Version,
        ])
        .filter(group::Column::Id.is_in(ids))
        .order_by_asc(group::Column::Id)
        .lock_exclusive()
        .into_tuple()
        .all(conn)
        .await?;
    let locked = rows.into_iter();
    Ok(locked
        .map(|(id, kind, version)| (GroupId(id), GroupKind::from_column(kind), version))
        .collect())
}

/// The groups a user is in, by id.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn of_user(conn: &impl Conn, user: UserId) -> Outcome<Vec<Group>> {
    let mine = Query::select()
        .column(group_member::Column::GroupId)
        .from(group_member::Entity)
        .and_where(group_member::Column::UserId.eq(user.get()))
        .to_owned();
    group::Entity::find()
        .filter(group::Column::Id.in_subquery(mine))
        .order_by_asc(group::Column::Id)
        .all(conn)
        .await
}

/// Creates a group without members.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn insert(
    conn: &impl Conn,
    kind: GroupKind,
    details: Details,
    now_ms: i64,
) -> Outcome<Group> {
    let inserted = group::Entity::insert(group::ActiveModel {
        name: Set(details.name.clone()),
        avatar_url: Set(details.avatar_url.clone()),
        introduction: Set(details.introduction.clone()),
        r#type: Set(kind.column()),
        member_count: Set(0),
        version: Set(1),
        extra: Set(details.extra.clone()),
        created_at: Set(now_ms),
        updated_at: Set(now_ms),
        ..Default::default()
    })
    .exec(conn)
    .await?;
    Ok(Group {
        id: inserted.last_insert_id,
        name: details.name,
        avatar_url: details.avatar_url,
        introduction: details.introduction,
        r#type: kind.column(),
        member_count: 0,
        version: 1,
        extra: details.extra,
        created_at: now_ms,
        updated_at: now_ms,
    })
}

/// Replaces what describes a group.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn describe(
    conn: &impl Conn,
    id: GroupId,
    details: Details,
    now_ms: i64,
) -> Outcome<()> {
    group::Entity::update_many()
        .col_expr(group::Column::Name, Expr::value(details.name))
        .col_expr(group::Column::AvatarUrl, Expr::value(details.avatar_url))
        .col_expr(
            group::Column::Introduction,
            Expr::value(details.introduction),
        )
        .col_expr(group::Column::Extra, Expr::value(details.extra))
        .col_expr(group::Column::UpdatedAt, Expr::value(now_ms))
        .filter(group::Column::Id.eq(id.get()))
        .exec(conn)
        .await
        .and_then(|updated| one(updated.rows_affected))
}

/// Records that the members have changed: raises the version, and the count by `more`.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn touch(conn: &impl Conn, id: GroupId, more: i64, now_ms: i64) -> Outcome<()> {
    use group::Column as C;

    group::Entity::update_many()
        .col_expr(C::MemberCount, Expr::col(C::MemberCount).add(more))
        .col_expr(C::Version, Expr::col(C::Version).add(1))
        .col_expr(C::UpdatedAt, Expr::value(now_ms))
        .filter(C::Id.eq(id.get()))
        .exec(conn)
        .await
        .and_then(|updated| one(updated.rows_affected))
}

/// Ends a group that has no members any more.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn delete(conn: &impl Conn, id: GroupId) -> Outcome<()> {
    let deleted = group::Entity::delete_by_id(id.get()).exec(conn).await?;
    one(deleted.rows_affected)
}

/// A member of a group.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn member(
    conn: &impl Conn,
    group: GroupId,
    user: UserId,
) -> Outcome<Option<Member>> {
    group_member::Entity::find_by_id((group.get(), user.get()))
        .one(conn)
        .await
}

/// Which of `users` are members of a group.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn members_among(
    conn: &impl Conn,
    group: GroupId,
    users: &[UserId],
) -> Outcome<Vec<UserId>> {
    let ids: Vec<i64> = group_member::Entity::find()
        .select_only()
        .column(group_member::Column::UserId)
        .filter(group_member::Column::GroupId.eq(group.get()))
        .filter(group_member::Column::UserId.is_in(padded(users.iter().map(|user| user.get()))))
        .into_tuple()
        .all(conn)
        .await?;
    Ok(ids.into_iter().map(UserId).collect())
}

/// The ids of all members of a group, ascending.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn member_ids(conn: &impl Conn, group: GroupId) -> Outcome<Vec<UserId>> {
    let ids: Vec<i64> = group_member::Entity::find()
        .select_only()
        .column(group_member::Column::UserId)
        .filter(group_member::Column::GroupId.eq(group.get()))
        .order_by_asc(group_member::Column::UserId)
        .into_tuple()
        .all(conn)
        .await?;
    Ok(ids.into_iter().map(UserId).collect())
}

/// Members of a group after a user, ascending by user, at most `rows_max`.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn members_page(
    conn: &impl Conn,
    group: GroupId,
    after: UserId,
    rows_max: u64,
) -> Outcome<Vec<Member>> {
    group_member::Entity::find()
        .filter(group_member::Column::GroupId.eq(group.get()))
        .filter(group_member::Column::UserId.gt(after.get()))
        .order_by_asc(group_member::Column::UserId)
        .limit(rows_max)
        .all(conn)
        .await
}

/// Whether a group has a member of a type besides `user`.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn has_other(
    conn: &impl Conn,
    group: GroupId,
    member_type: i16,
    user: UserId,
) -> Outcome<bool> {
    let other: Option<i64> = group_member::Entity::find()
        .select_only()
        .column(group_member::Column::UserId)
        .filter(group_member::Column::GroupId.eq(group.get()))
        .filter(group_member::Column::MemberType.eq(member_type))
        .filter(group_member::Column::UserId.ne(user.get()))
        .into_tuple()
        .one(conn)
        .await?;
    Ok(other.is_some())
}

/// How many large groups each of `users` is in; those that are in none are missing.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn large_counts(
    conn: &impl Conn,
    users: &[UserId],
) -> Outcome<HashMap<UserId, u64>> {
    let counts: Vec<(i64, i64)> = group_member::Entity::find()
        .select_only()
        .column(group_member::Column::UserId)
        .column_as(group_member::Column::GroupId.count(), "groups")
        .filter(group_member::Column::UserId.is_in(padded(users.iter().map(|user| user.get()))))
        .filter(group_member::Column::JoinSeq.is_not_null())
        .group_by(group_member::Column::UserId)
        .into_tuple()
        .all(conn)
        .await?;
    Ok(counts
        .into_iter()
        .map(|(user, groups)| (UserId(user), groups.unsigned_abs()))
        .collect())
}

/// Adds members.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn insert_members(conn: &impl Conn, members: Vec<Member>) -> Outcome<()> {
    let mut members = members.into_iter().map(group_member::ActiveModel::from);
    loop {
        let chunk: Vec<_> = members.by_ref().take(INSERT_ROWS).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        group_member::Entity::insert_many(chunk)
            .exec_without_returning(conn)
            .await?;
    }
}

/// Replaces what is kept of a member.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn update_member(conn: &impl Conn, member: &Member, now_ms: i64) -> Outcome<()> {
    use group_member::Column as C;

    group_member::Entity::update_many()
        .col_expr(C::MemberType, Expr::value(member.member_type))
        .col_expr(C::Remarks, Expr::value(member.remarks.clone()))
        .col_expr(C::Extra, Expr::value(member.extra.clone()))
        .col_expr(C::UpdatedAt, Expr::value(now_ms))
        .filter(C::GroupId.eq(member.group_id))
        .filter(C::UserId.eq(member.user_id))
        .exec(conn)
        .await
        .and_then(|updated| one(updated.rows_affected))
}

/// Removes a member.
///
/// # Errors
/// See [`by_id`].
pub(crate) async fn delete_member(conn: &impl Conn, group: GroupId, user: UserId) -> Outcome<()> {
    let deleted = group_member::Entity::delete_by_id((group.get(), user.get()))
        .exec(conn)
        .await?;
    one(deleted.rows_affected)
}

/// Whoever writes a row has read it under the group's lock: it must be there.
fn one(rows_affected: u64) -> Outcome<()> {
    if rows_affected == 1 {
        Ok(())
    } else {
        Err(Failure::RecordNotUpdated)
    }
}
