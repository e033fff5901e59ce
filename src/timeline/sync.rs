//! Sync: what a device asks for that was away, page by page, of its user's timeline and of large
//! groups.
//!
//! Invariant: of a group nothing is given but what stands after the user joined and at or before
//! the head that was read together with his membership. So whoever was removed is given nothing
//! that came later, whatever cursor he presents.

use super::{
    ack::Acks,
    pages::{Page, Pages, len_as_field},
};
use crate::{
    delivery::push::Mark,
    error::{Error, Result},
    id::{GroupId, Owner, Seq, UserId},
    limits::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX, SYNC_GROUPS_MAX},
    pb,
    store::{self, Store, membership::Membership, within_deadline},
};

/// A page.
#[derive(Debug)]
pub struct Synced {
    /// The answer.
    pub output: pb::SyncOutput,
    /// Where it ends.
    pub ends: Ends,
}

/// Where a page ends on each timeline.
#[derive(Debug)]
pub struct Ends {
    /// On the user's.
    pub user: UserEnd,
    /// On those of the large groups that were asked for and that he is in, ascending.
    pub groups: Vec<GroupEnd>,
}

/// What a page has of the user's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserEnd {
    /// It begins after this position.
    pub after: Seq,
    /// The last position that the device has after it.
    pub end: Seq,
    /// The timeline goes on.
    pub is_unfinished: bool,
    /// Its last entry that tells of a change of the user's memberships.
    pub mark: Option<Seq>,
}

/// What a page has of a large group's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEnd {
    /// Which group.
    pub group: GroupId,
    /// Its part begins after this position.
    pub after: Seq,
    /// The last position that the device has after it; `None` when there was no room for the group.
    pub end: Option<Seq>,
    /// The timeline goes on.
    pub is_unfinished: bool,
}

/// What a `GroupSync` takes beside its messages: its key and length in the output, `group_id`,
/// `has_more` and `reset`.
const GROUP_HEADER_BYTES_MAX: usize = (1 + 3) + (1 + 10) + 2 + 2;
const _: () = assert!(
    crate::limits::DELIVERED_BYTES_MAX + GROUP_HEADER_BYTES_MAX <= PAGE_BYTES_MAX,
    "the largest message of a group fits a page of its own"
);

/// Groups that are looked up by their ids; who asks for more has all of his read.
const GROUPS_LOOKED_UP_MAX: usize = 64;

impl Ends {
    /// Something that was asked for goes on after this page.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.user.is_unfinished || self.groups.iter().any(|group| group.is_unfinished)
    }
}

/// Answers one `SyncInput` of a device of `user`.
///
/// # Errors
/// 10001 when a cursor is negative or there are too many; 10004 when the database does not answer.
pub async fn sync(
    pages: &Pages,
    acks: &Acks,
    user: UserId,
    input: &pb::SyncInput,
) -> Result<Synced> {
    check(input)?;
    within_deadline(read(pages, acks, user, input)).await
}

async fn read(pages: &Pages, acks: &Acks, user: UserId, input: &pb::SyncInput) -> Result<Synced> {
    // Before the heads: those of a newer epoch than this one are reset at the next sync.
    let known_epoch = store::cluster::epoch(pages.store().reader()).await?;
    let is_other_epoch = input.epoch != 0 && input.epoch != known_epoch;
    let asked = asked_groups(pages.store(), user, input, is_other_epoch).await?;
    let (page, after, reset) = read_user(pages, acks, user, input, is_other_epoch).await?;
    let end = end_of(&page, after);
    let user = UserEnd {
        after,
        end,
        is_unfinished: page.has_more,
        mark: last_mark(&page),
    };

    let mut filling = Filling::after(&page);
    for asked in &asked {
        filling.add(pages, asked).await?;
    }
    let ends = Ends {
        user,
        groups: filling.ends,
    };
    Ok(Synced {
        output: pb::SyncOutput {
            messages: page.messages.into_iter().map(|d| d.message).collect(),
            has_more: ends.is_unfinished(),
            groups: filling.groups,
            epoch: known_epoch,
            reset,
        },
        ends,
    })
}

/// The page of the user's own timeline, the position it begins after, and whether the device must
/// drop what it holds.
async fn read_user(
    pages: &Pages,
    acks: &Acks,
    user: UserId,
    input: &pb::SyncInput,
    is_other_epoch: bool,
) -> Result<(Page, Seq, bool)> {
    let owner = Owner::User(user);
    let heads = store::timeline::heads(pages.store().reader(), &[owner]).await?;
    let head = heads.get(&owner).copied().unwrap_or_default();
    let reset = is_other_epoch || (!input.from_start && Seq(input.seq) > head);
    let after = if reset || input.from_start {
        Seq::ZERO
    } else if input.seq == 0 {
        acks.highest(pages.store(), user, owner).await?
    } else {
        Seq(input.seq)
    };
    let page = pages.read(owner, after, PAGE_MESSAGES_MAX, PAGE_BYTES_MAX);
    Ok((page.await?, after, reset))
}

fn end_of(page: &Page, after: Seq) -> Seq {
    let last = page.messages.last();
    last.map_or(after, |last| Seq(last.message.seq))
}

fn last_mark(page: &Page) -> Option<Seq> {
    let messages = page.messages.iter().rev().map(|d| &d.message);
    let mut marks = messages.filter(|m| Mark::of(m).changes_memberships());
    marks.next().map(|message| Seq(message.seq))
}

/// A group that was asked for and that the user is in.
struct Asked {
    group: GroupId,
    /// The page begins after this position, …
    after: Seq,
    /// … and ends here at the latest.
    head: Seq,
    reset: bool,
}

/// Ascending; groups that the user is not in are left out.
async fn asked_groups(
    store: &Store,
    user: UserId,
    input: &pb::SyncInput,
    is_other_epoch: bool,
) -> Result<Vec<Asked>> {
    if input.group_seqs.is_empty() {
        return Ok(Vec::new());
    }
    let mine = memberships(store, user, input).await?.into_iter();
    let asked = |membership: Membership| {
        let Membership {
            group,
            joined,
            head,
        } = membership;
        let cursor = Seq(*input.group_seqs.get(&group.get())?);
        let reset = is_other_epoch || cursor > head;
        let after = if reset { joined } else { cursor.max(joined) };
        Some(Asked {
            group,
            after,
            head,
            reset,
        })
    };
    Ok(mine.filter_map(asked).collect())
}

/// The user's memberships, those that were asked for among them. Who asks for few is spared the
/// others: he may be in thousands of groups, and ask for many pages.
async fn memberships(
    store: &Store,
    user: UserId,
    input: &pb::SyncInput,
) -> Result<Vec<Membership>> {
    let conn = store.reader();
    if input.group_seqs.len() <= GROUPS_LOOKED_UP_MAX {
        let groups: Vec<GroupId> = input.group_seqs.keys().copied().map(GroupId).collect();
        return Ok(store::membership::among(conn, user, &groups).await?);
    }
    let mut memberships = store::membership::of_users(conn, &[user]).await?;
    Ok(memberships.remove(&user).unwrap_or_default())
}

/// The groups' part of a page, while it grows.
struct Filling {
    groups: Vec<pb::GroupSync>,
    ends: Vec<GroupEnd>,
    /// Messages for which there is room.
    rows: usize,
    /// Bytes for which there is room.
    bytes: usize,
}

impl Filling {
    /// What is left of a page after the user's messages: nothing while these go on.
    fn after(user: &Page) -> Self {
        let messages = user.messages.iter().map(|d| &d.message);
        let used: usize = messages.map(len_as_field).sum();
        let rows = match user.has_more {
            true => 0,
            false => PAGE_MESSAGES_MAX - user.messages.len(),
        };
        Self {
            groups: Vec::new(),
            ends: Vec::new(),
            rows,
            bytes: PAGE_BYTES_MAX.saturating_sub(used),
        }
    }

    /// Adds what there is room for. A device that must drop what it holds is told so even where
    /// there is no room for messages.
    async fn add(&mut self, pages: &Pages, asked: &Asked) -> Result<()> {
        let has_newer = asked.head > asked.after;
        let mut end = asked.after;
        if has_newer || asked.reset {
            let messages = self.read(pages, asked).await?;
            let has_room = self.bytes >= GROUP_HEADER_BYTES_MAX;
            if !has_room || (messages.is_empty() && !asked.reset) {
                self.ends.push(GroupEnd {
                    group: asked.group,
                    after: asked.after,
                    end: None,
                    is_unfinished: true,
                });
                return Ok(());
            }
            end = messages.last().map_or(end, |last| Seq(last.seq));
            self.take(asked, end, messages);
        }
        self.ends.push(GroupEnd {
            group: asked.group,
            after: asked.after,
            end: Some(end),
            is_unfinished: end < asked.head,
        });
        Ok(())
    }

    /// The messages of a group that have room. The first that has none ends the page: groups after
    /// it are not even read.
    async fn read(&mut self, pages: &Pages, asked: &Asked) -> Result<Vec<pb::Message>> {
        let Some(bytes_max) = self.bytes.checked_sub(GROUP_HEADER_BYTES_MAX) else {
            self.rows = 0;
            return Ok(Vec::new());
        };
        if self.rows == 0 || asked.head <= asked.after {
            return Ok(Vec::new());
        }
        let owner = Owner::Group(asked.group);
        let page = pages.read(owner, asked.after, self.rows, bytes_max).await?;
        let mut messages = Vec::with_capacity(page.messages.len());
        let mut bytes = 0;
        for delivered in page.messages {
            let message = delivered.message;
            bytes += len_as_field(&message);
            // What came since the membership was read may be after its end.
            if bytes > bytes_max || Seq(message.seq) > asked.head {
                break;
            }
            messages.push(message);
        }
        let end = messages.last().map_or(asked.after, |last| Seq(last.seq));
        if end < asked.head {
            self.rows = 0;
        }
        Ok(messages)
    }

    fn take(&mut self, asked: &Asked, end: Seq, messages: Vec<pb::Message>) {
        let bytes: usize = messages.iter().map(len_as_field).sum();
        self.bytes -= GROUP_HEADER_BYTES_MAX + bytes;
        self.rows = self.rows.saturating_sub(messages.len());
        self.groups.push(pb::GroupSync {
            group_id: asked.group.get(),
            messages,
            has_more: end < asked.head,
            reset: asked.reset,
        });
    }
}

fn check(input: &pb::SyncInput) -> Result<()> {
    if input.seq < 0 {
        return Err(Error::bad_request("seq", "must not be negative"));
    }
    if input.epoch < 0 {
        return Err(Error::bad_request("epoch", "must not be negative"));
    }
    if input.group_seqs.len() > SYNC_GROUPS_MAX {
        let why = format_args!("at most {SYNC_GROUPS_MAX} groups");
        return Err(Error::bad_request("group_seqs", why));
    }
    let is_negative = |(group, seq): (&i64, &i64)| *group < 0 || *seq < 0;
    if input.group_seqs.iter().any(is_negative) {
        return Err(Error::bad_request("group_seqs", "must not be negative"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
