//! Heads and entries of timelines. Only `append` writes them.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict, Query},
};

use super::{
    Conn, Outcome, Store,
    entity::{message, timeline_entry, timeline_head},
    ids::padded,
};
use crate::{
    error::{Error, Result},
    id::{MessageId, Owner, Seq, UserId},
};

/// A position of a timeline that was taken.
pub type Entry = (Owner, Seq);

/// A message as it stands at a position.
#[derive(Clone, Debug)]
pub struct Row {
    /// The position.
    pub seq: Seq,
    /// The message.
    pub message: message::Model,
}

/// Rows of one statement: far below what any engine takes as parameters.
const STATEMENT_ROWS: usize = 500;

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
    // Sorted by kind: the same owners make the same statement.
    let mut by_kind: BTreeMap<i16, Vec<i64>> = BTreeMap::new();
    for owner in owners {
        by_kind.entry(owner.kind()).or_default().push(owner.id());
    }
    by_kind
        .into_iter()
        .fold(Condition::any(), |any, (kind, ids)| {
            any.add(
                timeline_head::Column::OwnerType
                    .eq(kind)
                    .and(timeline_head::Column::OwnerId.is_in(padded(ids))),
            )
        })
}

/// Raises the head of each owner by its increment and returns the heads from before. In the order of
/// the owners, so that two transactions lock in the same order.
///
/// # Errors
/// What the database answers.
pub(super) async fn raise_heads(
    conn: &impl Conn,
    increments: BTreeMap<Owner, i64>,
) -> Outcome<HashMap<Owner, Seq>> {
    use timeline_head::Column as C;

    let increments: Vec<(Owner, i64)> = increments.into_iter().collect();
    let mut before = HashMap::with_capacity(increments.len());
    for chunk in increments.chunks(STATEMENT_ROWS) {
        let mut upsert = Query::insert();
        upsert
            .into_table(timeline_head::Entity)
            .columns([C::OwnerType, C::OwnerId, C::Seq]);
        for (owner, by) in chunk {
            upsert.values_panic([owner.kind().into(), owner.id().into(), (*by).into()]);
        }
        let raised = Expr::col((timeline_head::Entity, C::Seq)).add(Expr::cust("excluded.\"seq\""));
        upsert.on_conflict(
            OnConflict::columns([C::OwnerType, C::OwnerId])
                .value(C::Seq, raised)
                .to_owned(),
        );
        conn.execute(&upsert).await?;
        // The rows are locked: nobody else has raised them.
        let owners: Vec<Owner> = chunk.iter().map(|(owner, _)| *owner).collect();
        let heads = heads_raw(conn, &owners).await?;
        before.extend(chunk.iter().map(|(owner, by)| {
            let head = heads.get(owner).copied().unwrap_or_default();
            (*owner, Seq(head.get() - by))
        }));
    }
    Ok(before)
}

/// Inserts entries at positions that [`raise_heads`] has made room for.
///
/// # Errors
/// What the database answers.
pub(super) async fn insert_entries(
    conn: &impl Conn,
    entries: Vec<(Entry, MessageId)>,
) -> Outcome<()> {
    use timeline_entry::Column as C;

    for chunk in entries.chunks(STATEMENT_ROWS) {
        let mut insert = Query::insert();
        insert.into_table(timeline_entry::Entity).columns([
            C::OwnerType,
            C::OwnerId,
            C::Seq,
            C::MessageId,
        ]);
        for ((owner, seq), message) in chunk {
            insert.values_panic([
                owner.kind().into(),
                owner.id().into(),
                seq.get().into(),
                message.get().into(),
            ]);
        }
        conn.execute(&insert).await?;
    }
    Ok(())
}

/// At which position of `owner`'s timeline a message stands, if it does.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn seq_of(conn: &impl Conn, message: MessageId, owner: Owner) -> Result<Option<Seq>> {
    let seq: Option<i64> = timeline_entry::Entity::find()
        .select_only()
        .column(timeline_entry::Column::Seq)
        .filter(timeline_entry::Column::MessageId.eq(message.get()))
        .filter(timeline_entry::Column::OwnerType.eq(owner.kind()))
        .filter(timeline_entry::Column::OwnerId.eq(owner.id()))
        .into_tuple()
        .one(conn)
        .await?;
    Ok(seq.map(Seq))
}

/// The users on whose timelines a message stands, ascending.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn users_with(conn: &impl Conn, message: MessageId) -> Result<Vec<UserId>> {
    let ids: Vec<i64> = timeline_entry::Entity::find()
        .select_only()
        .column(timeline_entry::Column::OwnerId)
        .filter(timeline_entry::Column::MessageId.eq(message.get()))
        .filter(timeline_entry::Column::OwnerType.eq(Owner::User(UserId(0)).kind()))
        .order_by_asc(timeline_entry::Column::OwnerId)
        .into_tuple()
        .all(conn)
        .await?;
    Ok(ids.into_iter().map(UserId).collect())
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
