//! The transaction that appends: the hot path of the whole server, and the only code that hands
//! out seqs.
//!
//! Invariant I1 rests here: a seq is taken by raising the timeline's head row inside the
//! transaction that inserts the entry, and the write lock is held until that commits. On SQLite
//! a batch of sends is appended on one thread with a connection of its own; what announces a change
//! is appended [within](within) the change's transaction.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Conn, Engine, FailureKind, Outcome, Store, Tx, attempt,
    group::Roster,
    message,
    outbox::{self, OfMessage},
    server, timeline, undelivered,
};
use crate::id::{GroupId, MessageId, Owner, Seq, UserId};

pub use super::timeline::Entry;

/// One message and the timelines it goes to.
#[derive(Clone, Debug)]
pub struct Send {
    /// The message, with the id it gets if it is new.
    pub row: message::Row,
    /// Where it goes.
    pub to: To,
    /// Who must be a member where it goes to a group; `None` for those who need not be.
    pub member: Option<UserId>,
    /// In whose timeline the seq of a repeat is looked up.
    pub answer_owner: Option<Owner>,
    /// What is written beside the message, if it is stored.
    pub events: Option<OfMessage>,
}

/// Where a message goes. Who is a member of a group is settled in the transaction that takes the
/// positions, so a message is given to exactly those who are members at its position.
#[derive(Clone, Debug)]
pub enum To {
    /// To these timelines, without repeats.
    Owners(Vec<Owner>),
    /// To every member of a small group; the roster may be out of date.
    Members(Arc<Roster>),
    /// To a large group's own timeline.
    Group(GroupId),
    /// To those of these timelines that do not have it yet: part of a large job. The message may
    /// be stored already, by an earlier part or an earlier try.
    Rest {
        /// These timelines, without repeats.
        owners: Box<[Owner]>,
        /// Under which id an earlier part stored it, where that is known. A job without a client
        /// message id is found again by nothing else.
        message: Option<MessageId>,
    },
}

impl Send {
    /// Rows that it writes, about.
    pub(super) fn rows(&self) -> usize {
        1 + self.to.count() + self.events.map_or(0, |_| 2)
    }
}

impl To {
    /// How many timelines it is, as far as that is known beforehand.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Owners(_) | Self::Rest { .. } => self.fixed().len(),
            Self::Members(roster) => roster.members.len(),
            Self::Group(_) => 1,
        }
    }

    /// The group that must be there.
    pub(super) fn group(&self) -> Option<GroupId> {
        match self {
            Self::Members(roster) => Some(roster.group),
            Self::Group(group) => Some(*group),
            Self::Owners(_) | Self::Rest { .. } => None,
        }
    }

    /// Under which id the message is stored already, as far as that is known beforehand.
    #[must_use]
    pub const fn message(&self) -> Option<MessageId> {
        match self {
            Self::Rest { message, .. } => *message,
            Self::Owners(_) | Self::Members(_) | Self::Group(_) => None,
        }
    }

    /// The timelines, where they are known beforehand.
    #[must_use]
    pub fn fixed(&self) -> &[Owner] {
        match self {
            Self::Owners(owners) => owners,
            Self::Rest { owners, .. } => owners,
            Self::Members(_) | Self::Group(_) => &[],
        }
    }
}

/// What became of one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Stored, at these positions.
    New {
        /// Under this id, which is an earlier one for a [rest](To::Rest).
        id: MessageId,
        /// When, in unix milliseconds.
        send_time: i64,
        /// On which timelines.
        entries: Vec<Entry>,
    },
    /// Stored before, by this batch or an earlier one.
    Repeat {
        /// Under this id.
        id: MessageId,
        /// At this position of the timeline that was asked for.
        seq: Seq,
        /// When, in unix milliseconds.
        send_time: i64,
    },
    /// Its client message id is taken by another message.
    Conflict,
    /// There is no such group.
    NoSuchGroup,
    /// Its sender is not a member of the group.
    NotInGroup,
}

impl Placed {
    /// One of the timelines on which it took a position.
    #[must_use]
    pub fn an_owner(&self) -> Option<Owner> {
        match self {
            Self::New { entries, .. } => entries.first().map(|(owner, _)| *owner),
            Self::Repeat { .. } | Self::Conflict | Self::NoSuchGroup | Self::NotInGroup => None,
        }
    }
}

/// A row that an append locks until its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lock {
    /// A group's, for its members.
    Group(GroupId),
    /// A timeline's head.
    Head(Owner),
}

/// A batch that is stored.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The database's epoch, read in the same transaction.
    pub epoch: i64,
    /// What became of each send.
    pub placed: Vec<Placed>,
}

/// A batch that is not known to be stored.
#[derive(Debug)]
pub struct Failed {
    /// What can be done about it.
    pub kind: FailureKind,
    /// The failure came while committing: it may be stored all the same, and this is then what it
    /// led to.
    pub in_doubt: Option<Committed>,
    /// What the database said.
    pub error: Box<dyn std::error::Error + std::marker::Send + Sync>,
}

/// Appends messages within an open transaction, beside what else it writes: each to fixed
/// timelines, none known before. For the writer alone.
///
/// # Errors
/// What the database answers.
pub(crate) async fn within(conn: &impl Conn, sends: &[Send]) -> Outcome<Vec<Vec<Entry>>> {
    if sends.is_empty() {
        return Ok(Vec::new());
    }
    let mut increments: BTreeMap<Owner, i64> = BTreeMap::new();
    for owner in sends.iter().flat_map(|send| send.to.fixed()) {
        *increments.entry(*owner).or_default() += 1;
    }
    let mut next = timeline::raise_heads(conn, increments).await?;
    let mut placed = Vec::with_capacity(sends.len());
    let mut rows = Vec::new();
    for send in sends {
        let entries = take_positions(send.to.fixed(), &mut next);
        rows.extend(entries.iter().map(|entry| (*entry, MessageId(send.row.id))));
        placed.push(entries);
    }
    let messages = sends.iter().map(|send| send.row.clone());
    message::insert(conn, messages.collect()).await?;
    timeline::insert_entries(conn, rows).await?;
    insert_events(conn, sends).await?;
    Ok(placed)
}

/// Writes what stands beside messages that are stored in this transaction.
pub(super) async fn insert_events<'a>(
    conn: &impl Conn,
    stored: impl IntoIterator<Item = &'a Send>,
) -> Outcome<()> {
    let (events, checks) = beside(stored);
    outbox::insert(conn, &events).await?;
    undelivered::insert(conn, &checks).await
}

/// What is written beside messages that are stored.
pub(super) fn beside<'a>(
    stored: impl IntoIterator<Item = &'a Send>,
) -> (Vec<outbox::New>, Vec<undelivered::Check>) {
    let (mut events, mut checks) = (Vec::new(), Vec::new());
    for send in stored {
        if let Some(of_message) = &send.events {
            let id = MessageId(send.row.id);
            events.extend(of_message.event(id));
            checks.extend(of_message.check(id));
        }
    }
    (events, checks)
}

/// Takes the next position of each timeline; `next` has where each stands.
pub(super) fn take_positions(owners: &[Owner], next: &mut HashMap<Owner, Seq>) -> Vec<Entry> {
    let take = |owner: &Owner| {
        let seq = next.entry(*owner).or_default();
        *seq = seq.next();
        (*owner, *seq)
    };
    owners.iter().map(take).collect()
}

impl Store {
    /// Appends a batch in one transaction. A send whose client message id is known is not stored
    /// again.
    ///
    /// # Errors
    /// [`Failed`]; nothing is stored unless it is `in_doubt`.
    pub async fn append(&self, sends: Vec<Send>) -> Result<Committed, Failed> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.append(sends).await,
            Engine::Server(server) => server.append(&self.write, &sends).await,
        }
    }

    /// Which of some messages are stored, when nobody knows whether the transaction that wrote them and
    /// took a position of `owner` was committed. The answer is final: it waits for the end of that
    /// transaction, which may still be at work: in a database server whose connection was lost, or
    /// on a disk that hangs. Nothing is written.
    ///
    /// # Errors
    /// What the database answers; that it has not ended yet is one.
    pub(crate) async fn settle(
        &self,
        ids: &[MessageId],
        owner: Owner,
    ) -> Outcome<Vec<message::Known>> {
        let settle = async {
            let tx = self.settled(owner).await?;
            message::stored(tx.conn(), ids).await
        };
        attempt(settle).await
    }

    /// As [`Store::settle`], for a transaction that put a message on these timelines that was stored
    /// before: whether it stands at all of these positions.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub(crate) async fn settle_entries(
        &self,
        message: MessageId,
        entries: &[Entry],
    ) -> Outcome<bool> {
        let Some((owner, _)) = entries.first() else {
            return Ok(false);
        };
        let settle = async {
            let tx = self.settled(*owner).await?;
            let pairs: Vec<_> = entries.iter().map(|(owner, _)| (message, *owner)).collect();
            let seqs = timeline::seqs_of(tx.conn(), &pairs).await?;
            let stands =
                |(owner, seq): &Entry| seqs.get(&(message, *owner)).is_some_and(|at| at == seq);
            Ok(entries.iter().all(stands))
        };
        attempt(settle).await
    }

    /// A transaction that begins when every other one that took a position of `owner` has ended.
    async fn settled(&self, owner: Owner) -> Outcome<Tx> {
        let tx = self.begin_raw().await?;
        // They hold the lock of this row to their end, also where they insert it; on SQLite they hold
        // the right to write.
        timeline::lock_heads(tx.conn(), [owner]).await?;
        Ok(tx)
    }

    /// Which of `locks` somebody else holds right now. On SQLite nobody does: there is one writer.
    ///
    /// # Errors
    /// What the database answers.
    pub(crate) async fn held(&self, locks: HashSet<Lock>) -> Outcome<HashSet<Lock>> {
        match &*self.engine {
            Engine::Sqlite(_) => Ok(HashSet::new()),
            Engine::Server(_) => attempt(server::held(&self.write, locks)).await,
        }
    }
}
