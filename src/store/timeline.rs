//! Heads and entries of timelines. Only `append` writes them.

use std::collections::{BTreeMap, HashMap};

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict, Query},
};

use super::{
    Conn, Engine, Outcome, Store, attempt,
    entity::{message, timeline_entry, timeline_head},
    ids::padded,
    incoming, server,
};
use crate::{
    error::Result,
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
/// Pairs of one condition: an optimizer that gives up on a longer one reads the whole table.
const CONDITION_PAIRS: usize = 64;

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
pub(super) fn owned_by(owners: &[Owner]) -> Condition {
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

/// Locks the heads of owners, those of timelines that nothing stands on yet too, and returns them.
///
/// # Errors
/// What the database answers.
pub(crate) async fn lock_heads(
    conn: &impl Conn,
    owners: impl IntoIterator<Item = Owner>,
) -> Outcome<HashMap<Owner, Seq>> {
    raise_heads(conn, owners.into_iter().map(|owner| (owner, 0)).collect()).await
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
        let raised = Expr::col((timeline_head::Entity, C::Seq)).add(incoming(conn, C::Seq));
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

/// At which positions messages stand, each on one timeline; a pair that is not there is missing.
///
/// # Errors
/// What the database answers.
pub(super) async fn seqs_of(
    conn: &impl Conn,
    pairs: &[(MessageId, Owner)],
) -> Outcome<HashMap<(MessageId, Owner), Seq>> {
    use timeline_entry::Column as C;

    let mut seqs = HashMap::with_capacity(pairs.len());
    for pairs in pairs.chunks(CONDITION_PAIRS) {
        let any = pairs.iter().fold(Condition::any(), |any, (id, owner)| {
            any.add(
                Condition::all()
                    .add(C::MessageId.eq(id.get()))
                    .add(C::OwnerType.eq(owner.kind()))
                    .add(C::OwnerId.eq(owner.id())),
            )
        });
        let found = timeline_entry::Entity::find().filter(any).all(conn).await?;
        for row in found {
            if let Some(owner) = Owner::from_columns(row.owner_type, row.owner_id) {
                seqs.insert((MessageId(row.message_id), owner), Seq(row.seq));
            }
        }
    }
    Ok(seqs)
}

/// On which of `owners`' timelines a message stands.
///
/// # Errors
/// What the database answers.
pub(super) async fn owners_with(
    conn: &impl Conn,
    message: MessageId,
    owners: &[Owner],
) -> Outcome<Vec<Owner>> {
    use timeline_entry::Column as C;

    let mut standing = Vec::new();
    for owners in owners.chunks(STATEMENT_ROWS) {
        let found: Vec<(i16, i64)> = timeline_entry::Entity::find()
            .select_only()
            .columns([C::OwnerType, C::OwnerId])
            .filter(C::MessageId.eq(message.get()))
            .filter(C::OwnerId.is_in(padded(owners.iter().map(|owner| owner.id()))))
            .into_tuple()
            .all(conn)
            .await?;
        standing.extend(
            found
                .into_iter()
                .filter_map(|(kind, id)| Owner::from_columns(kind, id)),
        );
    }
    Ok(standing)
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
    match &*store.engine {
        Engine::Sqlite(sqlite) => sqlite.page(owner, after, rows_max, bytes_max).await,
        Engine::Server(_) => {
            let page = server::page(&store.read.0, owner, after, rows_max, bytes_max);
            Ok(attempt(page).await?)
        }
    }
}
