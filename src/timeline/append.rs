//! What is appended, and how a send that may be stored already is found again (I3). The
//! transaction is `store::append`; what is retried, split or looked up again after a failure is
//! decided in `writer`.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::mentions;
use crate::{
    error::{Error, Result},
    id::{DeviceId, MessageId, Owner, Seq, UserId},
    pb,
    store::{
        self, Outcome, Store,
        append::{Placed, To},
        message::ClientKey,
        outbox::Outbox,
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

/// One send: a message and where it goes.
#[derive(Debug)]
pub struct Append {
    /// The message.
    pub message: NewMessage,
    /// Where it goes.
    pub to: To,
    /// In whose timeline the answered seq is; `None` for a sender that has no timeline.
    pub answer_owner: Option<Owner>,
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
pub async fn find_repeat(
    store: &Store,
    message: &NewMessage,
    answer_owner: Option<Owner>,
) -> Result<Option<Appended>> {
    let Some(key) = message.client_key() else {
        return Ok(None);
    };
    let known = store::message::known(store.reader(), &[key]).await?;
    let Some(first) = known.first() else {
        return Ok(None);
    };
    if first.digest != message.digest {
        return Err(conflict());
    }
    let seq = match answer_owner {
        Some(owner) => store::timeline::seq_of(store.reader(), first.id, owner).await?,
        None => None,
    };
    Ok(Some(Appended {
        seq: seq.unwrap_or_default(),
        message_id: first.id,
        send_time: first.send_time,
        repeated: true,
    }))
}

/// After a commit whose outcome is unknown: whether the batch, which would have led to `placed`, was
/// stored. One transaction: all of it is, or nothing. A batch that took no position counts as not
/// stored, as it can be run again.
pub(super) async fn is_stored(
    store: &Store,
    batch: &[&Append],
    ids: &[MessageId],
    placed: &[Placed],
) -> Outcome<bool> {
    let is_new = |at: &usize| matches!(placed[*at], Placed::New { id, .. } if id == ids[*at]);
    let new: Vec<usize> = (0..batch.len()).filter(is_new).collect();
    if new.is_empty() {
        return is_part_stored(store, placed).await;
    }
    let new_ids: Vec<MessageId> = new.iter().map(|at| ids[*at]).collect();
    let Some(owner) = new.iter().find_map(|at| placed[*at].an_owner()) else {
        return Ok(false);
    };
    let stored = store.settle(&new_ids, owner).await?;
    let stored: HashSet<_> = stored
        .iter()
        .map(|known| (known.id, &*known.digest))
        .collect();
    Ok(new
        .into_iter()
        .any(|at| stored.contains(&(ids[at], &batch[at].message.digest[..]))))
}

/// As [`is_stored`], for a batch that stored no message of its own: a part of a large job only adds
/// entries to what an earlier one stored. Run again it would find them standing, and nobody would be
/// told of them.
async fn is_part_stored(store: &Store, placed: &[Placed]) -> Outcome<bool> {
    for placed in placed {
        if let Placed::New { id, entries, .. } = placed
            && !entries.is_empty()
        {
            return store.settle_entries(*id, entries).await;
        }
    }
    Ok(false)
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
        1 + self.to.count()
    }

    /// The send as it is stored if it is new, under `id` unless an earlier part of it has one.
    pub(super) fn as_stored(&self, id: MessageId, outbox: &Outbox) -> store::append::Send {
        let message = &self.message;
        let client_message_id = message.client_message_id.as_bytes();
        store::append::Send {
            events: self.message.events(outbox),
            to: self.to.clone(),
            member: message.is_of_user().then_some(UserId(message.sender_id)),
            answer_owner: self.answer_owner,
            row: store::message::Row {
                id: self.to.message().unwrap_or(id).get(),
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
}

impl NewMessage {
    /// A user sent it, not the system or the business.
    #[must_use]
    pub const fn is_of_user(&self) -> bool {
        self.sender_type == pb::SenderType::StUser as i16
    }

    fn client_key(&self) -> Option<ClientKey<'_>> {
        let id = self.client_message_id.as_bytes();
        (!id.is_empty()).then_some((self.sender_type, self.sender_id, id))
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
        let sends = sends.map(|(send, id)| send.as_stored(MessageId(id), &Outbox::default()));
        world.store.append(sends.collect()).await.unwrap().placed
    }

    async fn look_up(
        world: &Timelines,
        batch: &[Append],
        first_id: i64,
        placed: &[Placed],
    ) -> bool {
        let ids: Vec<MessageId> = (first_id..).map(MessageId).take(batch.len()).collect();
        let batch: Vec<&Append> = batch.iter().collect();
        is_stored(&world.store, &batch, &ids, placed).await.unwrap()
    }

    fn new(id: i64, entries: &[(i64, i64)]) -> Placed {
        let entries = entries.iter();
        Placed::New {
            id: MessageId(id),
            send_time: crate::testing::START_MS,
            entries: entries
                .map(|(user, seq)| (Owner::User(UserId(*user)), Seq(*seq)))
                .collect(),
        }
    }

    #[tokio::test]
    async fn lost_commit_is_found() {
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
        let repeat = |id, seq| Placed::Repeat {
            id: MessageId(id),
            seq: Seq(seq),
            send_time: batch[0].message.send_time,
        };
        let expected = [
            new(10, &[(1, 2), (2, 2)]),
            new(11, &[(3, 1)]),
            repeat(10, 2),
            Placed::Conflict,
            repeat(1, 1),
            new(15, &[(2, 3), (1, 3)]),
        ];
        assert!(!look_up(&world, &batch, 10, &expected).await);
        assert_eq!(commit(&world, &batch, 10).await, expected);
        assert!(look_up(&world, &batch, 10, &expected).await);
    }

    #[tokio::test]
    async fn batch_of_repeats_is_run_again() {
        let world = Timelines::new().await;
        let batch = [send(1, &[1, 2], "a", b"x")];
        commit(&world, &batch, 1).await;
        let again = commit(&world, &batch, 2).await;
        assert!(matches!(again[..], [Placed::Repeat { seq: Seq(1), .. }]));
        assert!(!look_up(&world, &batch, 2, &again).await);
    }

    #[tokio::test]
    async fn ids_of_other_messages_are_not_taken_for_the_batch() {
        let world = Timelines::new().await;
        commit(&world, &[send(1, &[1, 2], "a", b"x")], 1).await;
        let other = [send(1, &[1, 2], "b", b"another text")];
        assert!(!look_up(&world, &other, 1, &[new(1, &[(1, 1), (2, 1)])]).await);
    }

    #[tokio::test]
    async fn largest_batch_can_be_looked_up() {
        let world = Timelines::new().await;
        let ids = 0..BATCH_SENDS_MAX as i64;
        let batch = ids.map(|n| send(1 + n % 7, &[1 + n % 7, 100], &n.to_string(), b"x"));
        let batch: Vec<Append> = batch.collect();
        let placed = commit(&world, &batch, 1).await;
        assert!(look_up(&world, &batch, 1, &placed).await);
    }

    /// A part of a large job.
    fn part(users: &[i64], client_id: &str, message: Option<i64>) -> [Append; 1] {
        let mut part = send(9, users, client_id, client_id.as_bytes());
        let owners = users.iter().map(|user| Owner::User(UserId(*user)));
        part.to = To::Rest {
            owners: owners.collect(),
            message: message.map(MessageId),
        };
        part.answer_owner = None;
        [part]
    }

    #[tokio::test]
    async fn lost_commit_of_a_part_that_is_not_the_first_is_found_by_its_entries() {
        let world = Timelines::new().await;
        for (client_id, base) in [("job", 10), ("", 20)] {
            let before = world.timeline(1).await.len() as i64;
            commit(&world, &part(&[1, 2], client_id, None), base).await;
            // Somebody else's attempt has given it to the fourth.
            commit(&world, &part(&[4], client_id, Some(base)), base + 1).await;
            let second = part(&[2, 3, 5], client_id, Some(base));
            let expected = [new(base, &[(3, before + 1), (5, before + 1)])];
            assert!(!look_up(&world, &second, base + 2, &expected).await);
            assert_eq!(commit(&world, &second, base + 2).await, expected);
            assert!(look_up(&world, &second, base + 2, &expected).await);
            // What stands there is another's.
            let mixed = [new(base, &[(4, before + 1), (6, before + 1)])];
            assert!(!look_up(&world, &second, base + 3, &mixed).await);
            let elsewhere = [new(base, &[(3, before + 2), (5, before + 2)])];
            assert!(!look_up(&world, &second, base + 3, &elsewhere).await);
            // One that would have written nothing is run again.
            assert!(!look_up(&world, &second, base + 3, &[new(base, &[])]).await);
        }
    }

    /// I3, for a job that was cut off half-way.
    #[tokio::test]
    async fn rest_of_a_large_job_goes_to_those_who_lack_it() {
        let world = Timelines::new().await;
        for client_id in ["job", ""] {
            let part = |users: &[i64], message| part(users, client_id, message);
            // With an id of its sender's it is found whatever id it would get now.
            let (base, known) = match client_id {
                "" => (20, Some(20)),
                _ => (10, None),
            };
            let before = world.timeline(1).await.len() as i64;
            let first = commit(&world, &part(&[1, 2], None), base).await;
            assert_eq!(first, [new(base, &[(1, before + 1), (2, before + 1)])]);
            let second = commit(&world, &part(&[2, 3], known), base + 1).await;
            assert_eq!(second, [new(base, &[(3, before + 1)])]);
            let third = commit(&world, &part(&[1, 2, 3], known), base + 2).await;
            assert_eq!(third, [new(base, &[])]);
        }
    }
}
