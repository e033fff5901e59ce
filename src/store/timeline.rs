//! Heads and entries of timelines, as they are read. Only `append` writes them.

use std::collections::HashMap;

use rusqlite::{Connection, params};
use sea_orm::{ColumnTrait, Condition, EntityTrait, ExprTrait, QueryFilter};

use super::{
    Conn, Outcome, Store,
    entity::{message, timeline_entry, timeline_head},
};
use crate::{
    error::{Error, Result},
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

/// Messages of a timeline after a position, ascending: at most `rows_max` of them and, but for
/// the first, at most `bytes_max` bytes of content. The second value tells whether it goes on.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn page(
    store: &Store,
    owner: Owner,
    after: Seq,
    rows_max: usize,
    bytes_max: usize,
) -> Result<(Vec<Row>, bool)> {
    let read =
        move |connection: &mut Connection| read_page(connection, owner, after, rows_max, bytes_max);
    let page = store.page_readers.run(read).await;
    Ok(page.ok_or_else(|| Error::try_again("the database is closed"))??)
}

fn read_page(
    connection: &Connection,
    owner: Owner,
    after: Seq,
    rows_max: usize,
    bytes_max: usize,
) -> rusqlite::Result<(Vec<Row>, bool)> {
    let mut select = connection.prepare_cached(
        "SELECT e.seq, m.id, m.sender_type, m.sender_id, m.sender_device_id, m.receiver_type, \
         m.receiver_id, m.to_user_ids, m.type, m.content, m.send_time, m.status, \
         m.client_message_id, m.digest \
         FROM timeline_entry e JOIN message m ON m.id = e.message_id \
         WHERE e.owner_type = ?1 AND e.owner_id = ?2 AND e.seq > ?3 ORDER BY e.seq",
    )?;
    let mut found = select.query(params![owner.kind(), owner.id(), after.get()])?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        bytes += row.get_ref(9)?.as_blob()?.len();
        if rows.len() == rows_max || (bytes > bytes_max && !rows.is_empty()) {
            return Ok((rows, true));
        }
        rows.push(Row {
            seq: Seq(row.get(0)?),
            message: super::message::from_columns(row, 1)?,
        });
    }
    Ok((rows, false))
}
