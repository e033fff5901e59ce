//! The append transaction on SQLite, row by row: every statement is prepared once, and none
//! crosses a thread.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::threads;
use crate::{
    id::{GroupId, MessageId, Owner, Seq, UserId},
    store::{
        append::{Committed, Entry, Failed, Placed, Send, To},
        group::{GroupKind, Roster},
        message::Row,
        outbox::OfMessage,
    },
};

/// Appends a batch in one transaction.
pub(super) fn append(
    connection: &mut Connection,
    sends: &[Send],
) -> std::result::Result<Committed, Failed> {
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| failed(error, None))?;
    let committed = fill(&tx, sends).map_err(|error| failed(error, None))?;
    match tx.commit() {
        Ok(()) => Ok(committed),
        Err(error) => Err(failed(error, Some(committed))),
    }
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

/// Stores one send unless it is stored already, which comes before any permission. Earlier sends of
/// the batch are seen like those of earlier batches.
fn place(tx: &Transaction<'_>, send: &Send) -> rusqlite::Result<Placed> {
    let known = find_known(tx, send)?;
    if let Some(known) = &known
        && known.digest != send.row.digest
    {
        return Ok(Placed::Conflict);
    }
    match (&send.to, known) {
        (To::Rest { owners, .. }, known) => place_rest(tx, send, owners, known),
        (_, Some(known)) => repeat(tx, send, &known),
        (To::Owners(owners), None) => insert(tx, send, owners.iter().copied()),
        (To::Members(roster), None) => place_to_members(tx, send, roster),
        (To::Group(group), None) => place_in_group(tx, send, *group),
    }
}

fn place_to_members(
    tx: &Transaction<'_>,
    send: &Send,
    roster: &Roster,
) -> rusqlite::Result<Placed> {
    let Some(version) = version_of(tx, roster.group, GroupKind::Small)? else {
        return Ok(Placed::NoSuchGroup);
    };
    let current;
    let roster = if version == roster.version {
        roster
    } else {
        current = Roster {
            group: roster.group,
            version,
            members: members_of(tx, roster.group)?,
        };
        &current
    };
    if send.member.is_some_and(|member| !roster.contains(member)) {
        return Ok(Placed::NotInGroup);
    }
    let owners = roster.members.iter().map(|user| Owner::User(*user));
    insert(tx, send, owners)
}

fn place_in_group(tx: &Transaction<'_>, send: &Send, group: GroupId) -> rusqlite::Result<Placed> {
    if version_of(tx, group, GroupKind::Large)?.is_none() {
        return Ok(Placed::NoSuchGroup);
    }
    if let Some(member) = send.member
        && !is_member(tx, group, member)?
    {
        return Ok(Placed::NotInGroup);
    }
    insert(tx, send, [Owner::Group(group)])
}

/// Stores a part of a large job: the message unless an earlier part did, and the entries that are
/// missing.
fn place_rest(
    tx: &Transaction<'_>,
    send: &Send,
    owners: &[Owner],
    known: Option<Known>,
) -> rusqlite::Result<Placed> {
    let Some(known) = known else {
        return insert(tx, send, owners.iter().copied());
    };
    let mut entries = Vec::with_capacity(owners.len());
    for owner in owners {
        if seq_of(tx, known.id, *owner)?.is_none() {
            entries.push(insert_next(tx, *owner, known.id)?);
        }
    }
    Ok(Placed::New {
        id: MessageId(known.id),
        send_time: known.send_time,
        entries,
    })
}

fn insert(
    tx: &Transaction<'_>,
    send: &Send,
    owners: impl IntoIterator<Item = Owner>,
) -> rusqlite::Result<Placed> {
    let row = &send.row;
    insert_message(tx, row)?;
    if let Some(events) = &send.events {
        insert_events(tx, MessageId(row.id), events)?;
    }
    let entries = owners
        .into_iter()
        .map(|owner| insert_next(tx, owner, row.id));
    Ok(Placed::New {
        id: MessageId(row.id),
        send_time: row.send_time,
        entries: entries.collect::<rusqlite::Result<_>>()?,
    })
}

fn insert_next(tx: &Transaction<'_>, owner: Owner, message_id: i64) -> rusqlite::Result<Entry> {
    let seq = raise_head(tx, owner)?;
    insert_entry(tx, owner, seq, message_id)?;
    Ok((owner, seq))
}

fn repeat(tx: &Transaction<'_>, send: &Send, known: &Known) -> rusqlite::Result<Placed> {
    let seq = match send.answer_owner {
        Some(owner) => seq_of(tx, known.id, owner)?,
        None => None,
    };
    Ok(Placed::Repeat {
        id: MessageId(known.id),
        seq: seq.unwrap_or_default(),
        send_time: known.send_time,
    })
}

/// A message that is stored already.
struct Known {
    id: i64,
    digest: Vec<u8>,
    send_time: i64,
}

fn find_known(tx: &Transaction<'_>, send: &Send) -> rusqlite::Result<Option<Known>> {
    let known = |row: &rusqlite::Row<'_>| {
        Ok(Known {
            id: row.get(0)?,
            digest: row.get(1)?,
            send_time: row.get(2)?,
        })
    };
    let row = &send.row;
    match (&row.client_message_id, &send.to) {
        (Some(id), _) => tx
            .prepare_cached(
                "SELECT id, digest, send_time FROM message \
                 WHERE sender_type = ?1 AND sender_id = ?2 AND client_message_id = ?3",
            )?
            .query_row(params![row.sender_type, row.sender_id, id], known)
            .optional(),
        (None, To::Rest { .. }) => tx
            .prepare_cached("SELECT id, digest, send_time FROM message WHERE id = ?1")?
            .query_row([row.id], known)
            .optional(),
        (None, _) => Ok(None),
    }
}

fn seq_of(tx: &Transaction<'_>, message_id: i64, owner: Owner) -> rusqlite::Result<Option<Seq>> {
    tx.prepare_cached(
        "SELECT seq FROM timeline_entry \
         WHERE message_id = ?1 AND owner_type = ?2 AND owner_id = ?3",
    )?
    .query_row(params![message_id, owner.kind(), owner.id()], |row| {
        row.get(0).map(Seq)
    })
    .optional()
}

/// The version of a group; `None` when there is no such group of this kind.
fn version_of(
    tx: &Transaction<'_>,
    group: GroupId,
    kind: GroupKind,
) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached("SELECT version FROM \"group\" WHERE id = ?1 AND type = ?2")?
        .query_row(params![group.get(), kind.column()], |row| row.get(0))
        .optional()
}

fn members_of(tx: &Transaction<'_>, group: GroupId) -> rusqlite::Result<Vec<UserId>> {
    let mut select =
        tx.prepare_cached("SELECT user_id FROM group_member WHERE group_id = ?1 ORDER BY user_id")?;
    let members = select.query_map([group.get()], |row| row.get(0).map(UserId))?;
    members.collect()
}

fn is_member(tx: &Transaction<'_>, group: GroupId, user: UserId) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT 1 FROM group_member WHERE group_id = ?1 AND user_id = ?2")?
        .exists([group.get(), user.get()])
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

fn insert_events(
    tx: &Transaction<'_>,
    message: MessageId,
    events: &OfMessage,
) -> rusqlite::Result<()> {
    if let Some(event) = events.event(message) {
        tx.prepare_cached(
            "INSERT INTO outbox (kind, owner_id, message_id, device_id, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            event.kind.column(),
            event.owner,
            event.message.get(),
            event.device,
            event.created_at,
        ])?;
    }
    if let Some(check) = events.check(message) {
        tx.prepare_cached("INSERT INTO undelivered_check (due_at, message_id) VALUES (?1, ?2)")?
            .execute([check.due_at, check.message_id])?;
    }
    Ok(())
}

fn failed(error: rusqlite::Error, in_doubt: Option<Committed>) -> Failed {
    Failed {
        kind: threads::kind(&error),
        in_doubt,
        error: error.into(),
    }
}
