//! Messages. Only `append` writes them.

use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect};

use super::{Conn, Outcome, entity::message, ids::padded};
use crate::id::MessageId;

pub use super::entity::message::Model as Row;

/// What is read of a message that may be a repeat.
#[derive(Clone, Debug)]
pub struct Known {
    /// The message.
    pub id: MessageId,
    /// Who sent it.
    pub sender_type: i16,
    /// Who sent it.
    pub sender_id: i64,
    /// Under which id the sender knows it.
    pub client_message_id: Vec<u8>,
    /// What it says; a repeat says the same.
    pub digest: Vec<u8>,
    /// When, in unix milliseconds.
    pub send_time: i64,
}

/// A sender and the id it gave a message.
pub type ClientKey<'a> = (i16, i64, &'a [u8]);

/// Inserts messages, few enough for one statement.
///
/// # Errors
/// What the database answers.
pub(super) async fn insert(conn: &impl Conn, rows: impl Iterator<Item = Row>) -> Outcome<()> {
    let rows = rows.map(message::ActiveModel::from);
    message::Entity::insert_many(rows)
        .exec_without_returning(conn)
        .await?;
    Ok(())
}

/// The columns of a message from `at` on, in the order of the entity.
pub(super) fn from_columns(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Row> {
    Ok(Row {
        id: row.get(at)?,
        sender_type: row.get(at + 1)?,
        sender_id: row.get(at + 2)?,
        sender_device_id: row.get(at + 3)?,
        receiver_type: row.get(at + 4)?,
        receiver_id: row.get(at + 5)?,
        to_user_ids: row.get(at + 6)?,
        r#type: row.get(at + 7)?,
        content: row.get(at + 8)?,
        send_time: row.get(at + 9)?,
        status: row.get(at + 10)?,
        client_message_id: row.get(at + 11)?,
        digest: row.get(at + 12)?,
    })
}

/// Which of the given client message ids are stored already.
///
/// # Errors
/// What the database answers.
pub(crate) async fn known(conn: &impl Conn, keys: &[ClientKey<'_>]) -> Outcome<Vec<Known>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let any = keys
        .iter()
        .fold(Condition::any(), |any, (sender_type, sender_id, id)| {
            any.add(
                Condition::all()
                    .add(message::Column::SenderType.eq(*sender_type))
                    .add(message::Column::SenderId.eq(*sender_id))
                    .add(message::Column::ClientMessageId.eq(id.to_vec())),
            )
        });
    select_known(conn, any).await
}

/// Which of the given messages are stored.
///
/// # Errors
/// What the database answers.
pub(crate) async fn stored(conn: &impl Conn, ids: &[MessageId]) -> Outcome<Vec<Known>> {
    let by_id = message::Column::Id.is_in(padded(ids.iter().map(|id| id.get())));
    select_known(conn, Condition::all().add(by_id)).await
}

async fn select_known(conn: &impl Conn, filter: Condition) -> Outcome<Vec<Known>> {
    type Columns = (i64, i16, i64, Option<Vec<u8>>, Vec<u8>, i64);
    let rows: Vec<Columns> = message::Entity::find()
        .select_only()
        .columns([
            message::Column::Id,
            message::Column::SenderType,
            message::Column::SenderId,
            message::Column::ClientMessageId,
            message::Column::Digest,
            message::Column::SendTime,
        ])
        .filter(filter)
        .into_tuple()
        .all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(
            |(id, sender_type, sender_id, client_message_id, digest, send_time)| Known {
                id: MessageId(id),
                sender_type,
                sender_id,
                client_message_id: client_message_id.unwrap_or_default(),
                digest,
                send_time,
            },
        )
        .collect())
}
