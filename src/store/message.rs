//! Messages. Only `append` writes them.

use std::collections::VecDeque;

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

/// Keys of one condition: an optimizer that gives up on a longer one reads the whole table.
const CONDITION_KEYS: usize = 64;

impl Row {
    /// By what its sender finds it again.
    pub(super) fn client_key(&self) -> Option<ClientKey<'_>> {
        let id = self.client_message_id.as_deref()?;
        Some((self.sender_type, self.sender_id, id))
    }
}

/// Bytes of content after which another statement is begun: a fourth of what servers take by default.
const STATEMENT_BYTES: usize = 4 * 1024 * 1024;

/// Inserts messages, few enough for the parameters of one statement.
///
/// # Errors
/// What the database answers.
pub(super) async fn insert(conn: &impl Conn, rows: Vec<Row>) -> Outcome<()> {
    let mut rows: VecDeque<Row> = rows.into();
    while !rows.is_empty() {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while bytes < STATEMENT_BYTES
            && let Some(row) = rows.pop_front()
        {
            bytes += row.content.len();
            some.push(message::ActiveModel::from(row));
        }
        message::Entity::insert_many(some)
            .exec_without_returning(conn)
            .await?;
    }
    Ok(())
}

/// Which of the given client message ids are stored already.
///
/// # Errors
/// What the database answers.
pub(crate) async fn known(conn: &impl Conn, keys: &[ClientKey<'_>]) -> Outcome<Vec<Known>> {
    let mut found = Vec::new();
    for keys in keys.chunks(CONDITION_KEYS) {
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
        found.extend(select_known(conn, any).await?);
    }
    Ok(found)
}

/// Which of the given messages are stored.
///
/// # Errors
/// What the database answers.
pub(crate) async fn stored(conn: &impl Conn, ids: &[MessageId]) -> Outcome<Vec<Known>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
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
