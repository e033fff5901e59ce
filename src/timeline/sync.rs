//! Sync: what a device asks for that was away, page by page.

use super::{ack::Acks, epoch::Epoch, pages::Pages};
use crate::{
    error::{Error, Result},
    id::{Owner, Seq, UserId},
    limits::{PAGE_BYTES_MAX, SYNC_GROUPS_MAX},
    pb,
    store::{self, within_deadline},
};

/// A page and where it ends.
#[derive(Debug)]
pub struct Synced {
    /// The answer.
    pub output: pb::SyncOutput,
    /// The last position of the user's timeline that the device has after this page.
    pub user_end: Seq,
}

/// Answers one `SyncInput` of a device of `user`.
///
/// # Errors
/// 10001 when a cursor is negative or there are too many; 10004 when the database does not answer.
pub async fn sync(
    pages: &Pages,
    acks: &Acks,
    epoch: &Epoch,
    user: UserId,
    input: &pb::SyncInput,
) -> Result<Synced> {
    check(input)?;
    within_deadline(read(pages, acks, epoch, user, input)).await
}

async fn read(
    pages: &Pages,
    acks: &Acks,
    epoch: &Epoch,
    user: UserId,
    input: &pb::SyncInput,
) -> Result<Synced> {
    let owner = Owner::User(user);
    let known_epoch = epoch.get();
    let heads = store::timeline::heads(pages.store().reader(), &[owner]).await?;
    let head = heads.get(&owner).copied().unwrap_or_default();

    let is_other_epoch = input.epoch != 0 && input.epoch != known_epoch;
    let reset = is_other_epoch || (!input.from_start && Seq(input.seq) > head);
    let after = if reset || input.from_start {
        Seq::ZERO
    } else if input.seq == 0 {
        acks.highest(pages.store(), user, owner).await?
    } else {
        Seq(input.seq)
    };

    let page = pages.read(owner, after, PAGE_BYTES_MAX).await?;
    let user_end = page
        .messages
        .last()
        .map_or(after, |last| Seq(last.message.seq));
    Ok(Synced {
        user_end,
        output: pb::SyncOutput {
            messages: page.messages.into_iter().map(|d| d.message).collect(),
            has_more: page.has_more,
            groups: Vec::new(),
            epoch: known_epoch,
            reset,
        },
    })
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
