//! The append transaction on SQLite, row by row: every statement is prepared once, and none
//! crosses a thread.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    append::{Committed, Failed, Placed, Send},
    message::Row,
    sqlite,
};
use crate::id::{MessageId, Owner, Seq};

/// Appends a batch in one transaction.
pub(super) fn append(
    connection: &mut Connection,
    sends: &[Send],
) -> std::result::Result<Committed, Failed> {
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| failed(error, false))?;
    let committed = fill(&tx, sends).map_err(|error| failed(error, false))?;
    tx.commit().map_err(|error| failed(error, true))?;
    Ok(committed)
}

fn fill(tx: &Transaction<'_>, sends: &[Send]) -> rusqlite::Result<Committed> {
    let epoch = tx
        .prepare_cached("SELECT epoch FROM cluster")?
        .query_one([], |row| row.get(0))?;
    let placed = sends.iter().map(|send| place(tx, send));
    Ok(Committed {
        epoch,
        placed: placed.collect::<rusqlite::Result<_>>()?,
    })
}

/// Stores one send unless it is stored already. Earlier sends of the batch are seen like those of
/// earlier batches.
fn place(tx: &Transaction<'_>, send: &Send) -> rusqlite::Result<Placed> {
    if let Some(id) = &send.row.client_message_id
        && let Some(known) = find_known(tx, send, id)?
    {
        return Ok(known);
    }
    insert_message(tx, &send.row)?;
    let seqs = send.owners.iter().map(|owner| {
        let seq = raise_head(tx, *owner)?;
        insert_entry(tx, *owner, seq, send.row.id)?;
        Ok(seq)
    });
    Ok(Placed::New(seqs.collect::<rusqlite::Result<_>>()?))
}

fn find_known(
    tx: &Transaction<'_>,
    send: &Send,
    client_message_id: &[u8],
) -> rusqlite::Result<Option<Placed>> {
    let known: Option<(i64, Vec<u8>, i64)> = tx
        .prepare_cached(
            "SELECT id, digest, send_time FROM message \
             WHERE sender_type = ?1 AND sender_id = ?2 AND client_message_id = ?3",
        )?
        .query_row(
            params![send.row.sender_type, send.row.sender_id, client_message_id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((id, digest, send_time)) = known else {
        return Ok(None);
    };
    if digest != send.row.digest {
        return Ok(Some(Placed::Conflict));
    }
    let owner = send.answer_owner;
    let seq: Option<i64> = tx
        .prepare_cached(
            "SELECT seq FROM timeline_entry \
             WHERE message_id = ?1 AND owner_type = ?2 AND owner_id = ?3",
        )?
        .query_row(params![id, owner.kind(), owner.id()], |row| row.get(0))
        .optional()?;
    Ok(Some(Placed::Repeat {
        id: MessageId(id),
        seq: Seq(seq.unwrap_or_default()),
        send_time,
    }))
}

fn raise_head(tx: &Transaction<'_>, owner: Owner) -> rusqlite::Result<Seq> {
    tx.prepare_cached(
        "INSERT INTO timeline_head (owner_type, owner_id, seq) VALUES (?1, ?2, 1) \
         ON CONFLICT DO UPDATE SET seq = seq + 1 RETURNING seq",
    )?
    .query_one(params![owner.kind(), owner.id()], |row| row.get(0).map(Seq))
}

fn insert_entry(
    tx: &Transaction<'_>,
    owner: Owner,
    seq: Seq,
    message_id: i64,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO timeline_entry (owner_type, owner_id, seq, message_id) \
         VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![owner.kind(), owner.id(), seq.get(), message_id])
    .map(drop)
}

fn insert_message(tx: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO message (id, sender_type, sender_id, sender_device_id, receiver_type, \
         receiver_id, to_user_ids, type, content, send_time, status, client_message_id, digest) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        row.id,
        row.sender_type,
        row.sender_id,
        row.sender_device_id,
        row.receiver_type,
        row.receiver_id,
        row.to_user_ids,
        row.r#type,
        row.content,
        row.send_time,
        row.status,
        row.client_message_id,
        row.digest,
    ])
    .map(drop)
}

fn failed(error: rusqlite::Error, in_commit: bool) -> Failed {
    Failed {
        kind: sqlite::kind(&error),
        in_commit,
        error: error.into(),
    }
}
