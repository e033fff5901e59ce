//! What is appended, and how a send that may be stored already is found again (I3). The
//! transaction is `store::append`; what is retried, split or looked up again after a failure is
//! decided in `writer`.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::mentions;
use crate::{
    error::{Error, Result},
    id::{DeviceId, MessageId, Owner, Seq},
    pb,
    store::{
        self, Conn, Outcome, Store,
        append::Placed,
        message::{ClientKey, Known},
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

/// The result of an earlier send with the same client message id, looked up outside a batch.
///
/// # Errors
/// 10001 when the id was used for another message; 10004 when the database does not answer.
pub async fn find_repeat(store: &Store, send: &Append) -> Result<Option<Appended>> {
    let Some(key) = send.client_key() else {
        return Ok(None);
    };
    let known = store::message::known(store.reader(), &[key]).await?;
    let entries = positions(store.reader(), &known).await?;
    match known.first().map(|first| send.repeat_of(first, &entries)) {
        Some(Placed::Repeat { id, seq, send_time }) => Ok(Some(Appended {
            seq,
            message_id: id,
            send_time,
            repeated: true,
        })),
        Some(_) => Err(conflict()),
        None => Ok(None),
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
    let stored: HashMap<MessageId, Known> = stored.into_iter().map(|k| (k.id, k)).collect();
    let is_stored = |index: usize| {
        let known = stored.get(&ids[index]);
        known.is_some_and(|known| batch[index].is_stored_as(known))
    };
    // One transaction: all of it is stored, or nothing.
    if !(0..batch.len()).any(is_stored) {
        return Ok(None);
    }
    let keys: Vec<_> = batch.iter().filter_map(|send| send.client_key()).collect();
    let repeats = store::message::known(conn, &keys).await?;
    let known: Vec<Known> = stored.values().chain(&repeats).cloned().collect();
    let entries = positions(conn, &known).await?;
    let place = |index: usize| {
        let send = batch[index];
        if is_stored(index) {
            let position = |owner| entries.get(&(ids[index], owner)).copied();
            let seqs = send.owners.iter().map(|owner| position(*owner));
            return seqs.collect::<Option<_>>().map(Placed::New);
        }
        let first = repeats
            .iter()
            .find(|known| Some(known.key()) == send.client_key());
        first.map(|first| send.repeat_of(first, &entries))
    };
    Ok((0..batch.len()).map(place).collect())
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

    /// The send as it is stored if it is new.
    pub(super) fn as_stored(&self, id: MessageId) -> store::append::Send {
        let message = &self.message;
        let client_message_id = message.client_message_id.as_bytes();
        store::append::Send {
            owners: self.owners.clone(),
            answer_owner: self.answer_owner,
            row: store::message::Row {
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
                client_message_id: (!client_message_id.is_empty())
                    .then(|| client_message_id.to_vec()),
                digest: message.digest.to_vec(),
            },
        }
    }

    fn client_key(&self) -> Option<ClientKey<'_>> {
        let message = &self.message;
        let id = message.client_message_id.as_bytes();
        (!id.is_empty()).then_some((message.sender_type, message.sender_id, id))
    }

    fn is_stored_as(&self, known: &Known) -> bool {
        let message = &self.message;
        known.digest == message.digest
            && (known.sender_type, known.sender_id) == (message.sender_type, message.sender_id)
    }

    fn repeat_of(&self, first: &Known, entries: &HashMap<(MessageId, Owner), Seq>) -> Placed {
        if first.digest != self.message.digest {
            return Placed::Conflict;
        }
        let position = entries.get(&(first.id, self.answer_owner));
        Placed::Repeat {
            id: first.id,
            seq: position.copied().unwrap_or_default(),
            send_time: first.send_time,
        }
    }
}

impl Known {
    fn key(&self) -> ClientKey<'_> {
        (self.sender_type, self.sender_id, &self.client_message_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::BATCH_SENDS_MAX,
        testing::{Timelines, send},
    };

    /// Commits a batch as an instance does that never hears of it.
    async fn commit(world: &Timelines, batch: &[Append], first_id: i64) -> Vec<Placed> {
        let sends = batch.iter().zip(first_id..);
        let sends = sends.map(|(send, id)| send.as_stored(MessageId(id)));
        world.store.append(sends.collect()).await.unwrap().placed
    }

    async fn look_up(world: &Timelines, batch: &[Append], first_id: i64) -> Option<Vec<Placed>> {
        let ids: Vec<MessageId> = (first_id..).map(MessageId).take(batch.len()).collect();
        let batch: Vec<&Append> = batch.iter().collect();
        find_committed(&world.store, &batch, &ids).await.unwrap()
    }

    #[tokio::test]
    async fn lost_commit_is_found_with_what_it_led_to() {
        let world = Timelines::new().await;
        let earlier = [send(1, &[1, 2], "earlier", b"x")];
        commit(&world, &earlier, 1).await;
        let batch = [
            send(1, &[1, 2], "a", b"x"),
            send(3, &[3], "", b"to himself, without an id"),
            send(1, &[1, 2], "a", b"x"),
            send(1, &[1, 2], "a", b"conflict"),
            send(1, &[1, 2], "earlier", b"x"),
            send(2, &[2, 1], "a", b"y"),
        ];
        assert_eq!(look_up(&world, &batch, 10).await, None);
        let placed = commit(&world, &batch, 10).await;
        let repeat = |id, seq| Placed::Repeat {
            id: MessageId(id),
            seq: Seq(seq),
            send_time: batch[0].message.send_time,
        };
        let expected = [
            Placed::New(vec![Seq(2), Seq(2)]),
            Placed::New(vec![Seq(1)]),
            repeat(10, 2),
            Placed::Conflict,
            repeat(1, 1),
            Placed::New(vec![Seq(3), Seq(3)]),
        ];
        assert_eq!(placed, expected);
        assert_eq!(look_up(&world, &batch, 10).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn batch_of_repeats_is_run_again() {
        let world = Timelines::new().await;
        let batch = [send(1, &[1, 2], "a", b"x")];
        commit(&world, &batch, 1).await;
        assert_eq!(look_up(&world, &batch, 2).await, None);
        let again = commit(&world, &batch, 2).await;
        assert!(matches!(again[..], [Placed::Repeat { seq: Seq(1), .. }]));
    }

    #[tokio::test]
    async fn ids_of_other_messages_are_not_taken_for_the_batch() {
        let world = Timelines::new().await;
        commit(&world, &[send(1, &[1, 2], "a", b"x")], 1).await;
        for other in [
            send(1, &[1, 2], "b", b"another text"),
            send(3, &[3, 2], "a", b"x"),
        ] {
            assert_eq!(look_up(&world, &[other], 1).await, None);
        }
    }

    #[tokio::test]
    async fn largest_batch_can_be_looked_up() {
        let world = Timelines::new().await;
        let ids = 0..BATCH_SENDS_MAX as i64;
        let batch = ids.map(|n| send(1 + n % 7, &[1 + n % 7, 100], &n.to_string(), b"x"));
        let batch: Vec<Append> = batch.collect();
        let placed = commit(&world, &batch, 1).await;
        assert_eq!(look_up(&world, &batch, 1).await, Some(placed));
    }
}
