//! Which large groups users are in, as sessions and syncs ask for it. Everything else about members
//! stands in `group`.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use super::{
    Conn, Outcome,
    entity::{group_member, timeline_head},
    ids::padded,
};
use crate::id::{GroupId, Owner, Seq, UserId};

/// A large group that a user is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: GroupId,
    /// He is given what comes after this position.
    pub joined: Seq,
    /// The head of its timeline.
    pub head: Seq,
}

/// The large groups of users, with the heads of their timelines, each user's by group.
///
/// # Errors
/// What the database answers.
pub(crate) async fn of_users(
    conn: &impl Conn,
    users: &[UserId],
) -> Outcome<HashMap<UserId, Vec<Membership>>> {
    let users = padded(users.iter().map(|user| user.get()));
    let rows = select(conn, group_member::Column::UserId.is_in(users)).await?;
    let mut memberships: HashMap<UserId, Vec<Membership>> = HashMap::new();
    for (user, membership) in rows {
        memberships.entry(user).or_default().push(membership);
    }
    Ok(memberships)
}

/// Those of `groups` that are large and that a user is in, with the heads of their timelines, by
/// group.
///
/// # Errors
/// What the database answers.
pub(crate) async fn among(
    conn: &impl Conn,
    user: UserId,
    groups: &[GroupId],
) -> Outcome<Vec<Membership>> {
    use group_member::Column as C;

    let groups = padded(groups.iter().map(|group| group.get()));
    let is_asked_for = C::UserId.eq(user.get()).and(C::GroupId.is_in(groups));
    let rows = select(conn, is_asked_for).await?;
    Ok(rows.into_iter().map(|(_, membership)| membership).collect())
}

async fn select(conn: &impl Conn, condition: Expr) -> Outcome<Vec<(UserId, Membership)>> {
    use group_member::Column as C;

    let group_kind = Owner::Group(GroupId(0)).kind();
    let head = Expr::col((timeline_head::Entity, timeline_head::Column::OwnerId))
        .equals((group_member::Entity, C::GroupId))
        .and(Expr::col((timeline_head::Entity, timeline_head::Column::OwnerType)).eq(group_kind));
    let mut select = group_member::Entity::find()
        .select_only()
        .columns([C::UserId, C::GroupId, C::JoinSeq])
        .column_as(timeline_head::Column::Seq, "head")
        .filter(condition)
        .filter(C::JoinSeq.is_not_null())
        .order_by_asc(C::UserId)
        .order_by_asc(C::GroupId);
    QuerySelect::query(&mut select).left_join(timeline_head::Entity, head);
    let rows: Vec<(i64, i64, i64, Option<i64>)> = select.into_tuple().all(conn).await?;
    let memberships = rows.into_iter().map(|(user, group, joined, head)| {
        let membership = Membership {
            group: GroupId(group),
            joined: Seq(joined),
            head: Seq(head.unwrap_or_default()),
        };
        (UserId(user), membership)
    });
    Ok(memberships.collect())
}
