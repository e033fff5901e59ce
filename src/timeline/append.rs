//! What is appended, and one attempt to append a batch: a single transaction that finds repeats,
//! raises heads, inserts messages and entries, and commits.
//!
//! Invariants: I1, because seqs are handed out by the heads' row locks inside the transaction; I3,
//! because a send is looked up by its client message id in the same transaction, under a unique
//! key. What is retried, split or looked up again after a failure is decided in `writer`.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
};

use bytes::Bytes;

use super::mentions;
use crate::{
    error::{Error, Result},
    id::{DeviceId, MessageId, Owner, Seq},
    pb,
    store::{
        self, Conn, FailureKind, Outcome, Store, failure_kind,
        message::{ClientKey, Known},
        timeline::Entry,
    },
    user::Profile,
};

/// A message that has been checked and is to be appended.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// `SenderType` of the contract.
    pub sender_type: i16,
    /// Who sends it.
    pub sender_id: i64,
    /// From which device; it is not given it back.
    pub device: DeviceId,
    /// `ReceiverType` of the contract.
    pub receiver_type: i16,
    /// To whom.
    pub receiver_id: i64,
    /// Who is mentioned.
    pub to_user_ids: Vec<i64>,
    /// `MessageType` of the contract.
    pub message_type: i16,
    /// The content message, encoded.
    pub content: Bytes,
    /// Unix milliseconds.
    pub send_time: i64,
    /// Under which id the sender knows it; empty for none.
    pub client_message_id: String,
    /// SHA-256 of what it says, to tell a repeat from another message with the same id.
    pub digest: [u8; 32],
}

/// One send: a message and the timelines it goes to.
#[derive(Debug)]
pub struct Append {
    /// The message.
    pub message: NewMessage,
    /// The timelines it goes to, without repeats.
    pub owners: Vec<Owner>,
    /// In whose timeline the answered seq is.
    pub answer_owner: Owner,
    /// The sender as receivers see him.
    pub profile: Arc<Profile>,
}

/// What an append led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The position in the timeline that was asked for.
    pub seq: Seq,
    /// The message's id.
    pub message_id: MessageId,
    /// As stored, in unix milliseconds.
    pub send_time: i64,
    /// It was stored before: this is the first result again.
    pub repeated: bool,
}

/// What became of one send of a batch.
#[derive(Debug)]
pub(super) enum Placed {
    /// Appended at these positions, in the order of [`Append::owners`].
    New(MessageId, Vec<Seq>),
    /// A repeat of a message that is stored.
    Repeat(Appended),
    /// The client message id is taken by another message.
    Conflict,
}

/// How an attempt failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: FailureKind,
    /// The failure came while committing: whether it was stored is unknown.
    pub(super) in_commit: bool,
    pub(super) error: store::Failure,
}

/// A batch that was committed.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) epoch: i64,
    pub(super) placed: Vec<Placed>,
}

/// Appends `batch` in one transaction. `ids` are the ids the messages get, the same ones at every
/// attempt.
pub(super) async fn append(
    store: &Store,
    batch: &[&Append],
    ids: &[MessageId],
) -> std::result::Result<Committed, Failed> {
    let failed = |in_commit| {
        move |error| Failed {
            kind: failure_kind(&error),
            in_commit,
            error,
        }
    };
    let tx = store.begin_raw().await.map_err(failed(false))?;
    let committed = fill(&tx, batch, ids).await.map_err(failed(false))?;
    tx.commit_raw().await.map_err(failed(true))?;
    Ok(committed)
}

#[expect(clippy::expect_used, reason = "each of the three kinds was placed")]
async fn fill(tx: &store::Tx, batch: &[&Append], ids: &[MessageId]) -> Outcome<Committed> {
    let conn = tx.conn();
    let epoch = store::cluster::epoch_raw(conn).await?;
    let mut placed = find_stored(conn, batch).await?;
    let twins = find_twins(batch, &placed);
    let fresh: Vec<usize> = (0..batch.len())
        .filter(|index| placed[*index].is_none() && !twins.contains_key(index))
        .collect();
    for (index, seqs) in insert(conn, batch, ids, &fresh).await? {
        placed[index] = Some(Placed::New(ids[index], seqs));
    }
    for (index, first) in twins {
        placed[index] = Some(repeat_in_batch(batch, ids, &placed, index, first));
    }
    Ok(Committed {
        epoch,
        placed: placed
            .into_iter()
            .map(|placed| placed.expect("every send is stored, a twin or fresh"))
            .collect(),
    })
}

/// Inserts the sends at the indices `fresh` and answers the positions each got.
async fn insert(
    conn: &impl Conn,
    batch: &[&Append],
    ids: &[MessageId],
    fresh: &[usize],
) -> Outcome<Vec<(usize, Vec<Seq>)>> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let mut increments: BTreeMap<Owner, i64> = BTreeMap::new();
    for owner in fresh.iter().flat_map(|&index| &batch[index].owners) {
        *increments.entry(*owner).or_default() += 1;
    }
    let increments: Vec<(Owner, i64)> = increments.into_iter().collect();
    let heads = store::timeline::raise_heads(conn, &increments).await?;
    let mut last: HashMap<Owner, Seq> = increments
        .iter()
        .map(|(owner, by)| (*owner, Seq(heads[owner].get() - by)))
        .collect();

    let mut placed = Vec::with_capacity(fresh.len());
    let mut entries = Vec::with_capacity(2 * fresh.len());
    let mut rows = Vec::with_capacity(fresh.len());
    for &index in fresh {
        let send = batch[index];
        let message = ids[index];
        let mut seqs = Vec::with_capacity(send.owners.len());
        for owner in &send.owners {
            let seq = last.entry(*owner).or_default();
            *seq = seq.next();
            seqs.push(*seq);
            entries.push(Entry {
                owner: *owner,
                seq: *seq,
                message,
            });
        }
        placed.push((index, seqs));
        rows.push(row(&send.message, message));
    }
    store::message::insert(conn, rows).await?;
    store::timeline::insert_entries(conn, &entries).await?;
    Ok(placed)
}

/// The sends that are stored already, or whose id another message has taken.
async fn find_stored(conn: &impl Conn, batch: &[&Append]) -> Outcome<Vec<Option<Placed>>> {
    let keys: Vec<_> = batch.iter().filter_map(|send| send.client_key()).collect();
    let known = store::message::known(conn, &keys).await?;
    if known.is_empty() {
        return Ok(batch.iter().map(|_| None).collect());
    }
    let entries = positions(conn, &known).await?;
    let known: HashMap<ClientKey<'_>, &Known> = known.iter().map(|k| (k.key(), k)).collect();
    Ok(batch
        .iter()
        .map(|send| {
            let known = known.get(&send.client_key()?)?;
            Some(send.repeat_of(known, &entries))
        })
        .collect())
}

/// Where the given messages stand.
async fn positions(
    conn: &impl Conn,
    messages: &[Known],
) -> Outcome<HashMap<(MessageId, Owner), Seq>> {
    let ids: Vec<MessageId> = messages.iter().map(|known| known.id).collect();
    let entries = store::timeline::entries_of(conn, &ids).await?;
    Ok(entries
        .into_iter()
        .map(|entry| ((entry.message, entry.owner), entry.seq))
        .collect())
}

/// Sends that repeat an earlier send of the same batch, with the index of that one.
fn find_twins(batch: &[&Append], placed: &[Option<Placed>]) -> BTreeMap<usize, usize> {
    let mut first: HashMap<ClientKey<'_>, usize> = HashMap::new();
    let mut twins = BTreeMap::new();
    for (index, send) in batch.iter().enumerate() {
        let Some(key) = send.client_key() else {
            continue;
        };
        if placed[index].is_some() {
            continue;
        }
        match first.entry(key) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(index);
            }
            hash_map::Entry::Occupied(entry) => {
                twins.insert(index, *entry.get());
            }
        }
    }
    twins
}

fn repeat_in_batch(
    batch: &[&Append],
    ids: &[MessageId],
    placed: &[Option<Placed>],
    index: usize,
    first: usize,
) -> Placed {
    if batch[index].message.digest != batch[first].message.digest {
        return Placed::Conflict;
    }
    let owners = &batch[first].owners;
    let seq = match &placed[first] {
        Some(Placed::New(_, seqs)) => owners
            .iter()
            .position(|owner| *owner == batch[index].answer_owner)
            .map_or(Seq::ZERO, |at| seqs[at]),
        _ => Seq::ZERO,
    };
    Placed::Repeat(Appended {
        seq,
        message_id: ids[first],
        send_time: batch[first].message.send_time,
        repeated: true,
    })
}

/// The result of an earlier send with the same client message id, looked up outside a batch.
///
/// # Errors
/// 10001 when the id was used for another message; 10004 when the database does not answer.
pub async fn find_repeat(store: &Store, send: &Append) -> Result<Option<Appended>> {
    let Some(key) = send.client_key() else {
        return Ok(None);
    };
    let known = store::message::known(store.reader(), &[key]).await?;
    let Some(first) = known.first() else {
        return Ok(None);
    };
    let entries = positions(store.reader(), &known).await?;
    match send.repeat_of(first, &entries) {
        Placed::Repeat(appended) => Ok(Some(appended)),
        _ => Err(conflict()),
    }
}

/// After a commit whose outcome is unknown: what the batch led to if it was stored, or `None`
/// if it was not.
pub(super) async fn find_committed(
    store: &Store,
    batch: &[&Append],
    ids: &[MessageId],
) -> Outcome<Option<Vec<Placed>>> {
    let conn = store.reader();
    let stored = store::message::stored(conn, ids).await?;
    let by_id: HashMap<MessageId, &Known> = stored.iter().map(|known| (known.id, known)).collect();
    let is_ours = |(send, id): (&&Append, &MessageId)| {
        by_id
            .get(id)
            .is_some_and(|known| known.digest == send.message.digest && known.is_from(send))
    };
    if !batch.iter().zip(ids).any(is_ours) {
        return Ok(None);
    }
    let entries = positions(conn, &stored).await?;
    let mut placed = find_stored(conn, batch).await?;
    for (index, send) in batch.iter().enumerate() {
        if by_id.contains_key(&ids[index]) {
            let seqs = send.owners.iter().map(|owner| {
                let position = entries.get(&(ids[index], *owner));
                position.copied().unwrap_or_default()
            });
            placed[index] = Some(Placed::New(ids[index], seqs.collect()));
        }
    }
    // Whoever is neither stored under its id nor a repeat was not part of what was committed.
    Ok(placed.into_iter().collect())
}

/// The answer to an id that was used for another message.
pub(super) fn conflict() -> Error {
    Error::bad_request(
        "client_message_id",
        "it was used before for another message",
    )
}

impl Append {
    /// Rows of the transaction that this send takes.
    #[must_use]
    pub fn rows(&self) -> usize {
        1 + self.owners.len()
    }

    fn client_key(&self) -> Option<ClientKey<'_>> {
        let message = &self.message;
        let id = message.client_message_id.as_bytes();
        (!id.is_empty()).then_some((message.sender_type, message.sender_id, id))
    }

    fn repeat_of(&self, first: &Known, entries: &HashMap<(MessageId, Owner), Seq>) -> Placed {
        if first.digest != self.message.digest {
            return Placed::Conflict;
        }
        let position = entries.get(&(first.id, self.answer_owner));
        Placed::Repeat(Appended {
            seq: position.copied().unwrap_or_default(),
            message_id: first.id,
            send_time: first.send_time,
            repeated: true,
        })
    }
}

impl Known {
    fn key(&self) -> ClientKey<'_> {
        (self.sender_type, self.sender_id, &self.client_message_id)
    }

    fn is_from(&self, send: &Append) -> bool {
        self.sender_type == send.message.sender_type && self.sender_id == send.message.sender_id
    }
}

fn row(message: &NewMessage, id: MessageId) -> store::message::Row {
    let client_message_id = message.client_message_id.as_bytes();
    store::message::Row {
        id: id.get(),
        sender_type: message.sender_type,
        sender_id: message.sender_id,
        sender_device_id: message.device.get(),
        receiver_type: message.receiver_type,
        receiver_id: message.receiver_id,
        to_user_ids: mentions::encode(&message.to_user_ids),
        r#type: message.message_type,
        content: message.content.to_vec(),
        send_time: message.send_time,
        status: pb::MessageStatus::MsNormal as i16,
        client_message_id: (!client_message_id.is_empty()).then(|| client_message_id.to_vec()),
        digest: message.digest.to_vec(),
    }
}
