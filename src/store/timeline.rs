//! Heads and entries of timelines, as they are read. Only `append` writes them.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, Iterable, Order, QueryFilter,
    sea_query::{Expr, Query},
};

use super::{
    Conn, Outcome,
    entity::{message, timeline_entry, timeline_head},
};
use crate::{
    error::Result,
    id::{MessageId, Owner, Seq},
};

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose timeline.
    pub owner: Owner,
    /// Which position.
    pub seq: Seq,
    /// Which message stands there.
    pub message: MessageId,
}

/// A message as it stands at a position.
#[derive(Clone, Debug)]
pub struct Row {
    /// The position.
    pub seq: Seq,
    /// The message.
    pub message: message::Model,
}

/// The heads of those `owners` that have a timeline.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn heads(conn: &impl Conn, owners: &[Owner]) -> Result<HashMap<Owner, Seq>> {
    Ok(heads_raw(conn, owners).await?)
}

/// As [`heads`], for those who handle each kind of failure themselves.
pub(crate) async fn heads_raw(conn: &impl Conn, owners: &[Owner]) -> Outcome<HashMap<Owner, Seq>> {
    if owners.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = timeline_head::Entity::find()
        .filter(owned_by(owners))
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let owner = Owner::from_columns(row.owner_type, row.owner_id)?;
            Some((owner, Seq(row.seq)))
        })
        .collect())
}

/// Rows of `timeline_head` that belong to one of `owners`, by the primary key.
fn owned_by(owners: &[Owner]) -> Condition {
    let mut by_kind: HashMap<i16, Vec<i64>> = HashMap::new();
    for owner in owners {
        by_kind.entry(owner.kind()).or_default().push(owner.id());
    }
    by_kind
        .into_iter()
        .fold(Condition::any(), |any, (kind, ids)| {
            any.add(
                timeline_head::Column::OwnerType
                    .eq(kind)
                    .and(timeline_head::Column::OwnerId.is_in(ids)),
            )
        })
}

/// At which positions the given messages stand.
///
/// # Errors
/// What the database answers.
pub(crate) async fn entries_of(conn: &impl Conn, messages: &[MessageId]) -> Outcome<Vec<Entry>> {
    let ids = messages.iter().map(|id| id.get());
    let rows = timeline_entry::Entity::find()
        .filter(timeline_entry::Column::MessageId.is_in(ids))
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Entry {
                owner: Owner::from_columns(row.owner_type, row.owner_id)?,
                seq: Seq(row.seq),
                message: MessageId(row.message_id),
            })
        })
        .collect())
}

/// Up to `limit` messages of a timeline after a position, ascending.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn page(conn: &impl Conn, owner: Owner, after: Seq, limit: u64) -> Result<Vec<Row>> {
    use timeline_entry::Column as Entry;

    let of_entry = |column: Entry| (timeline_entry::Entity, column);
    let mut select = Query::select();
    select
        .column(of_entry(Entry::Seq))
        .columns(message::Column::iter().map(|column| (message::Entity, column)))
        .from(timeline_entry::Entity)
        .inner_join(
            message::Entity,
            Expr::col((message::Entity, message::Column::Id)).equals(of_entry(Entry::MessageId)),
        )
        .and_where(Expr::col(of_entry(Entry::OwnerType)).eq(owner.kind()))
        .and_where(Expr::col(of_entry(Entry::OwnerId)).eq(owner.id()))
        .and_where(Expr::col(of_entry(Entry::Seq)).gt(after.get()))
        .order_by(of_entry(Entry::Seq), Order::Asc)
        .limit(limit);
    let mut rows = Vec::new();
    for row in conn.query_all(&select).await? {
        rows.push(Row {
            seq: Seq(row.try_get_by_index(0)?),
            message: super::message::from_columns(&row, 1)?,
        });
    }
    Ok(rows)
}
