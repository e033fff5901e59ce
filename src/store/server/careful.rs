//! The append transaction on a database server, step by step and for every case: repeats, groups that
//! have changed, parts of large jobs. The same decisions as on SQLite, taken for the whole batch at
//! once, so that the number of round trips does not grow with it.

use std::collections::{BTreeMap, HashMap, HashSet};

use sea_orm::{DatabaseConnection, DatabaseTransaction, TransactionTrait};

use super::super::{
    Conn, Failure, Outcome,
    append::{Committed, Entry, Failed, Placed, Send, To, insert_events, take_positions},
    attempt, cluster, failure,
    group::{self, GroupKind, Roster},
    message::{self, ClientKey},
    timeline,
};
use crate::id::{GroupId, MessageId, Owner, Seq, UserId};

/// What is decided about a send, before positions are taken.
enum Decision {
    /// Nothing is written.
    Placed(Placed),
    /// It goes to these timelines, under this id; the message is stored unless it is already.
    New {
        id: MessageId,
        send_time: i64,
        owners: Vec<Owner>,
        is_stored: bool,
    },
    /// It repeats an earlier one of the batch.
    Same(usize),
}

/// A message that is stored, or is about to be by an earlier send of the batch.
#[derive(Clone)]
struct Known {
    id: MessageId,
    digest: Vec<u8>,
    send_time: i64,
    /// Which send of the batch it is.
    index: Option<usize>,
}

/// What was read before anything is decided.
#[derive(Default)]
struct Read<'a> {
    known: HashMap<ClientKey<'a>, Known>,
    /// Parts that no client message id finds again.
    known_by_id: HashMap<MessageId, Known>,
    /// On which timelines messages of large jobs stand.
    standing: HashMap<MessageId, HashSet<Owner>>,
    /// Where messages that are repeated stand, for their senders.
    seqs: HashMap<(MessageId, Owner), Seq>,
    groups: HashMap<GroupId, (GroupKind, i64)>,
    /// Members of small groups that this instance remembered otherwise.
    rosters: HashMap<GroupId, Roster>,
    /// Members of large groups, of those who send to them.
    members: HashSet<(GroupId, UserId)>,
}

/// Appends a batch in one transaction.
pub(super) async fn append(
    write: &DatabaseConnection,
    sends: &[Send],
) -> Result<Committed, Failed> {
    let fill = async {
        let tx = write.begin().await?;
        let committed = fill(&tx, sends).await?;
        Ok::<_, Failure>((tx, committed))
    };
    let (tx, committed) = attempt(fill).await.map_err(|error| failed(error, None))?;
    match attempt(tx.commit()).await {
        Ok(()) => Ok(committed),
        Err(error) => Err(failed(error, Some(committed))),
    }
}

fn failed(error: Failure, in_doubt: Option<Committed>) -> Failed {
    Failed {
        kind: failure::kind(&error),
        in_doubt,
        error: error.into(),
    }
}

async fn fill(tx: &DatabaseTransaction, sends: &[Send]) -> Outcome<Committed> {
    let epoch = cluster::epoch_raw(tx).await?;
    let mut read = read(tx, sends).await?;
    let decisions = decide(sends, &mut read);
    let owners = decisions.iter().flat_map(Decision::owners).copied();
    let mut increments: BTreeMap<Owner, i64> = BTreeMap::new();
    for owner in owners {
        *increments.entry(owner).or_default() += 1;
    }
    let mut next = timeline::raise_heads(tx, increments).await?;

    let mut placed: Vec<Placed> = Vec::with_capacity(sends.len());
    let (mut rows, mut stored, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (send, decision) in sends.iter().zip(decisions) {
        placed.push(match decision {
            Decision::Placed(placed) => placed,
            Decision::Same(first) => repeat_of(&placed[first], send),
            Decision::New {
                id,
                send_time,
                owners,
                is_stored,
            } => {
                let taken = take_positions(&owners, &mut next);
                entries.extend(taken.iter().map(|entry| (*entry, id)));
                if !is_stored {
                    rows.push(send.row.clone());
                    stored.push(send);
                }
                Placed::New {
                    id,
                    send_time,
                    entries: taken,
                }
            }
        });
    }
    message::insert(tx, rows).await?;
    timeline::insert_entries(tx, entries).await?;
    insert_events(tx, stored).await?;
    Ok(Committed { epoch, placed })
}

/// The answer to a send that repeats one of the batch.
fn repeat_of(first: &Placed, send: &Send) -> Placed {
    let Placed::New {
        id,
        send_time,
        entries,
    } = first
    else {
        return first.clone();
    };
    let seq = entries
        .iter()
        .find(|(owner, _): &&Entry| Some(*owner) == send.answer_owner);
    Placed::Repeat {
        id: *id,
        seq: seq.map_or(Seq::ZERO, |(_, seq)| *seq),
        send_time: *send_time,
    }
}

/// Locks the groups, then reads what decides about the sends.
async fn read<'a>(conn: &impl Conn, sends: &'a [Send]) -> Outcome<Read<'a>> {
    let mut read = Read::default();
    let ids: HashSet<GroupId> = sends.iter().filter_map(|send| send.to.group()).collect();
    for (id, kind, version) in group::lock_all(conn, ids).await? {
        read.groups.insert(id, (kind, version));
    }
    read.find_known(conn, sends).await?;
    read.find_standing(conn, sends).await?;
    read.find_members(conn, sends).await?;
    Ok(read)
}

impl<'a> Read<'a> {
    async fn find_known(&mut self, conn: &impl Conn, sends: &'a [Send]) -> Outcome<()> {
        let keys: Vec<ClientKey<'_>> = sends.iter().filter_map(|s| s.row.client_key()).collect();
        let found: HashMap<(i16, i64, Vec<u8>), Known> = message::known(conn, &keys)
            .await?
            .into_iter()
            .map(|known| {
                let key = (
                    known.sender_type,
                    known.sender_id,
                    known.client_message_id.clone(),
                );
                (key, Known::from(known))
            })
            .collect();
        for key in keys {
            if let Some(known) = found.get(&(key.0, key.1, key.2.to_vec())) {
                self.known.insert(key, known.clone());
            }
        }
        let is_part = |send: &&Send| matches!(send.to, To::Rest { .. });
        let parts = sends.iter().filter(is_part);
        let parts = parts.filter(|part| part.row.client_message_id.is_none());
        let ids: Vec<MessageId> = parts.map(|part| MessageId(part.row.id)).collect();
        for known in message::stored(conn, &ids).await? {
            self.known_by_id.insert(known.id, known.into());
        }
        Ok(())
    }

    async fn find_standing(&mut self, conn: &impl Conn, sends: &'a [Send]) -> Outcome<()> {
        let mut repeats = Vec::new();
        for send in sends {
            let Some(known) = self.find(send) else {
                continue;
            };
            let id = known.id;
            if let To::Rest { owners, .. } = &send.to {
                let standing = timeline::owners_with(conn, id, owners).await?;
                self.standing.entry(id).or_default().extend(standing);
            } else if let Some(owner) = send.answer_owner {
                repeats.push((id, owner));
            }
        }
        self.seqs = timeline::seqs_of(conn, &repeats).await?;
        Ok(())
    }

    async fn find_members(&mut self, conn: &impl Conn, sends: &'a [Send]) -> Outcome<()> {
        let mut senders: HashMap<GroupId, Vec<UserId>> = HashMap::new();
        for send in sends {
            match &send.to {
                To::Members(remembered) => {
                    let (group, current) = (remembered.group, self.groups.get(&remembered.group));
                    let is_outdated = |(kind, version): &&(GroupKind, i64)| {
                        *kind == GroupKind::Small && *version != remembered.version
                    };
                    if let Some((_, version)) = current.filter(is_outdated)
                        && !self.rosters.contains_key(&group)
                    {
                        let roster = Roster {
                            group,
                            version: *version,
                            members: group::member_ids(conn, group).await?,
                        };
                        self.rosters.insert(group, roster);
                    }
                }
                To::Group(group) => senders.entry(*group).or_default().extend(send.member),
                To::Owners(_) | To::Rest { .. } => {}
            }
        }
        for (group, users) in senders {
            let members = group::members_among(conn, group, &users).await?;
            self.members
                .extend(members.into_iter().map(|user| (group, user)));
        }
        Ok(())
    }

    fn find(&self, send: &'a Send) -> Option<&Known> {
        match send.row.client_key() {
            Some(key) => self.known.get(&key),
            None => self.known_by_id.get(&MessageId(send.row.id)),
        }
    }

    /// Whether a group of this kind is there; its version.
    fn group(&self, id: GroupId, kind: GroupKind) -> Option<i64> {
        let (found, version) = self.groups.get(&id)?;
        (*found == kind).then_some(*version)
    }
}

/// Decides about each send, in their order; a send is seen by those after it.
fn decide<'a>(sends: &'a [Send], read: &mut Read<'a>) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(sends.len());
    for (index, send) in sends.iter().enumerate() {
        let decision = read.decide(send);
        if let Decision::New { id, owners, .. } = &decision {
            read.note(index, send, *id, owners);
        }
        decisions.push(decision);
    }
    decisions
}

impl<'a> Read<'a> {
    /// A repeat is known before any permission is asked for.
    fn decide(&self, send: &'a Send) -> Decision {
        let known = self.find(send);
        if let Some(known) = known {
            if known.digest != send.row.digest {
                return Decision::Placed(Placed::Conflict);
            }
            return match &send.to {
                To::Rest { owners, .. } => self.rest(known, owners),
                _ => self.repeat(known, send),
            };
        }
        let owners: Vec<Owner> = match &send.to {
            To::Owners(owners) => owners.clone(),
            To::Rest { owners, .. } => owners.to_vec(),
            To::Members(remembered) => {
                if self.group(remembered.group, GroupKind::Small).is_none() {
                    return Decision::Placed(Placed::NoSuchGroup);
                }
                let roster = self.rosters.get(&remembered.group).unwrap_or(remembered);
                if send.member.is_some_and(|member| !roster.contains(member)) {
                    return Decision::Placed(Placed::NotInGroup);
                }
                roster
                    .members
                    .iter()
                    .map(|user| Owner::User(*user))
                    .collect()
            }
            To::Group(group) => {
                if self.group(*group, GroupKind::Large).is_none() {
                    return Decision::Placed(Placed::NoSuchGroup);
                }
                let is_stranger = |member| !self.members.contains(&(*group, member));
                if send.member.is_some_and(is_stranger) {
                    return Decision::Placed(Placed::NotInGroup);
                }
                vec![Owner::Group(*group)]
            }
        };
        Decision::New {
            id: MessageId(send.row.id),
            send_time: send.row.send_time,
            owners,
            is_stored: false,
        }
    }

    /// What a part of a large job still has to write.
    fn rest(&self, known: &Known, owners: &[Owner]) -> Decision {
        let standing = self.standing.get(&known.id);
        let lacks = |owner: &&Owner| standing.is_none_or(|standing| !standing.contains(owner));
        Decision::New {
            id: known.id,
            send_time: known.send_time,
            owners: owners.iter().filter(lacks).copied().collect(),
            is_stored: true,
        }
    }

    fn repeat(&self, known: &Known, send: &Send) -> Decision {
        if let Some(index) = known.index {
            return Decision::Same(index);
        }
        let seq = send
            .answer_owner
            .and_then(|owner| self.seqs.get(&(known.id, owner)));
        Decision::Placed(Placed::Repeat {
            id: known.id,
            seq: seq.copied().unwrap_or_default(),
            send_time: known.send_time,
        })
    }

    /// Notes what is about to be stored, for the sends after it.
    fn note(&mut self, index: usize, send: &'a Send, id: MessageId, owners: &[Owner]) {
        let known = Known {
            id,
            digest: send.row.digest.clone(),
            send_time: send.row.send_time,
            index: Some(index),
        };
        match send.row.client_key() {
            Some(key) => drop(self.known.entry(key).or_insert(known)),
            None => drop(self.known_by_id.entry(id).or_insert(known)),
        }
        if matches!(send.to, To::Rest { .. }) {
            self.standing.entry(id).or_default().extend(owners);
        }
    }
}

impl Decision {
    fn owners(&self) -> &[Owner] {
        match self {
            Self::New { owners, .. } => owners,
            Self::Placed(_) | Self::Same(_) => &[],
        }
    }
}

impl From<message::Known> for Known {
    fn from(known: message::Known) -> Self {
        Self {
            id: known.id,
            digest: known.digest,
            send_time: known.send_time,
            index: None,
        }
    }
}
