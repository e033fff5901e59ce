//! Messages of which is still to be seen whether they have reached their receivers, each once, when it
//! is due. Then events take the check's place, in one transaction: one for each receiver of whom no
//! device has acknowledged the message.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, JoinType, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, Query},
};

use super::{
    Conn, Outcome, Store,
    entity::{device_ack, group_member, message, timeline_entry, undelivered_check},
    ids::padded,
    outbox::{self, New},
};
use crate::{
    id::{GroupId, MessageId, Owner, Seq, UserId},
    pb::SenderType,
};

pub use super::entity::undelivered_check::Model as Check;

/// Rows of one statement: far below what any engine takes as parameters.
const STATEMENT_ROWS: usize = 500;

/// A message on a large group's timeline, whose receivers are those it mentions.
#[derive(Clone, Debug)]
pub struct OfGroup {
    /// The message.
    pub message: MessageId,
    /// The group.
    pub group: GroupId,
    /// Where it stands there.
    pub seq: Seq,
    /// The user who sent it, if one did.
    pub sender: Option<UserId>,
    /// Who is mentioned, packed.
    pub to_user_ids: Vec<u8>,
}

/// Writes checks.
///
/// # Errors
/// What the database answers.
pub(crate) async fn insert(conn: &impl Conn, checks: &[Check]) -> Outcome<()> {
    use undelivered_check::Column as C;

    for chunk in checks.chunks(STATEMENT_ROWS) {
        let mut insert = Query::insert();
        insert
            .into_table(undelivered_check::Entity)
            .columns([C::DueAt, C::MessageId]);
        for check in chunk {
            insert.values_panic([check.due_at.into(), check.message_id.into()]);
        }
        conn.execute(&insert).await?;
    }
    Ok(())
}

/// Checks that are due at `now_ms`, the oldest first, at most `max`.
///
/// # Errors
/// What the database answers.
pub(crate) async fn due(conn: &impl Conn, now_ms: i64, max: u64) -> Outcome<Vec<Check>> {
    let due = undelivered_check::Entity::find()
        .filter(undelivered_check::Column::DueAt.lte(now_ms))
        .order_by_asc(undelivered_check::Column::DueAt)
        .order_by_asc(undelivered_check::Column::MessageId)
        .limit(max);
    due.all(conn).await
}

/// The users on whose own timelines messages stand that none of their devices has acknowledged, but
/// for those who sent them.
///
/// # Errors
/// What the database answers.
pub(crate) async fn of_users(
    conn: &impl Conn,
    messages: &[MessageId],
) -> Outcome<HashMap<MessageId, Vec<UserId>>> {
    use timeline_entry::Column as C;

    let is_sender = Condition::all()
        .add(message::Column::SenderType.eq(SenderType::StUser as i16))
        .add(Expr::col((message::Entity, message::Column::SenderId)).equals(C::OwnerId));
    let acknowledged = Query::select()
        .expr(Expr::val(1))
        .from(device_ack::Entity)
        .and_where(Expr::col((device_ack::Entity, device_ack::Column::UserId)).equals(C::OwnerId))
        .and_where(
            Expr::col((device_ack::Entity, device_ack::Column::OwnerType))
                .equals((timeline_entry::Entity, C::OwnerType)),
        )
        .and_where(
            Expr::col((device_ack::Entity, device_ack::Column::OwnerId))
                .equals((timeline_entry::Entity, C::OwnerId)),
        )
        .and_where(
            Expr::col((device_ack::Entity, device_ack::Column::Seq))
                .gte(Expr::col((timeline_entry::Entity, C::Seq))),
        )
        .to_owned();
    let of_message = Expr::col((timeline_entry::Entity, C::MessageId))
        .equals((message::Entity, message::Column::Id));
    let mut select = timeline_entry::Entity::find()
        .select_only()
        .columns([C::MessageId, C::OwnerId])
        .filter(C::MessageId.is_in(padded(messages.iter().map(|id| id.get()))))
        .filter(C::OwnerType.eq(Owner::User(UserId(0)).kind()))
        .filter(is_sender.not())
        .filter(Expr::exists(acknowledged).not())
        .order_by_asc(C::MessageId)
        .order_by_asc(C::OwnerId);
    QuerySelect::query(&mut select).join(JoinType::InnerJoin, message::Entity, of_message);
    let found: Vec<(i64, i64)> = select.into_tuple().all(conn).await?;
    let mut receivers: HashMap<MessageId, Vec<UserId>> = HashMap::new();
    for (message, user) in found {
        let of_message = receivers.entry(MessageId(message)).or_default();
        of_message.push(UserId(user));
    }
    Ok(receivers)
}

/// Those of `messages` that stand on a large group's timeline and mention somebody.
///
/// # Errors
/// What the database answers.
pub(crate) async fn of_groups(conn: &impl Conn, messages: &[MessageId]) -> Outcome<Vec<OfGroup>> {
    use timeline_entry::Column as C;

    type Columns = (i64, i64, i64, i16, i64, Vec<u8>);
    let of_message = Expr::col((timeline_entry::Entity, C::MessageId))
        .equals((message::Entity, message::Column::Id));
    let mut select = timeline_entry::Entity::find()
        .select_only()
        .columns([C::MessageId, C::OwnerId, C::Seq])
        .column_as(message::Column::SenderType, "sender_type")
        .column_as(message::Column::SenderId, "sender_id")
        .column_as(message::Column::ToUserIds, "to_user_ids")
        .filter(C::MessageId.is_in(padded(messages.iter().map(|id| id.get()))))
        .filter(C::OwnerType.eq(Owner::Group(GroupId(0)).kind()))
        .order_by_asc(C::MessageId);
    QuerySelect::query(&mut select).join(JoinType::InnerJoin, message::Entity, of_message);
    let found: Vec<Columns> = select.into_tuple().all(conn).await?;
    let of_group = |(id, group, seq, sender_type, sender, to_user_ids): Columns| OfGroup {
        message: MessageId(id),
        group: GroupId(group),
        seq: Seq(seq),
        sender: (sender_type == SenderType::StUser as i16).then_some(UserId(sender)),
        to_user_ids,
    };
    let mentions = |of: &OfGroup| !of.to_user_ids.is_empty();
    Ok(found.into_iter().map(of_group).filter(mentions).collect())
}

/// Those of `users` who are in a large group, were in it before `seq`, and of whom no device has
/// acknowledged its timeline up to there, ascending. Who joined later cannot read what stands there.
///
/// # Errors
/// What the database answers.
pub(crate) async fn members_behind(
    conn: &impl Conn,
    group: GroupId,
    seq: Seq,
    users: &[UserId],
) -> Outcome<Vec<UserId>> {
    use group_member::Column as C;

    let owner = Owner::Group(group);
    let acknowledged = Query::select()
        .expr(Expr::val(1))
        .from(device_ack::Entity)
        .and_where(
            Expr::col((device_ack::Entity, device_ack::Column::UserId))
                .equals((group_member::Entity, C::UserId)),
        )
        .and_where(device_ack::Column::OwnerType.eq(owner.kind()))
        .and_where(device_ack::Column::OwnerId.eq(owner.id()))
        .and_where(device_ack::Column::Seq.gte(seq.get()))
        .to_owned();
    let ids: Vec<i64> = group_member::Entity::find()
        .select_only()
        .column(C::UserId)
        .filter(C::GroupId.eq(group.get()))
        .filter(C::JoinSeq.lt(seq.get()))
        .filter(C::UserId.is_in(padded(users.iter().map(|user| user.get()))))
        .filter(Expr::exists(acknowledged).not())
        .order_by_asc(C::UserId)
        .into_tuple()
        .all(conn)
        .await?;
    Ok(ids.into_iter().map(UserId).collect())
}

/// Puts events in the place of checks. False, and nothing is changed, when not all of those are there
/// any more: another instance has seen to them.
///
/// # Errors
/// What the database answers.
pub(crate) async fn replace(store: &Store, checks: &[Check], events: &[New]) -> Outcome<bool> {
    let mut deleted = 0;
    let mut tx = store.begin_raw().await?;
    tx.wrote(checks.len() + events.len());
    for some in checks.chunks(STATEMENT_ROWS) {
        // By both columns, which are the key; no two messages have one id.
        let due = some.iter().map(|check| check.due_at);
        let messages = some.iter().map(|check| check.message_id);
        let result = undelivered_check::Entity::delete_many()
            .filter(undelivered_check::Column::DueAt.is_in(padded(due)))
            .filter(undelivered_check::Column::MessageId.is_in(padded(messages)))
            .exec(tx.conn())
            .await?;
        deleted += result.rows_affected;
    }
    if deleted != checks.len() as u64 {
        return Ok(false);
    }
    outbox::insert(tx.conn(), events).await?;
    tx.commit_raw().await?;
    Ok(true)
}

#[cfg(test)]
#[path = "undelivered_tests.rs"]
mod tests;
