//! Messages that have reached nobody: when the time for acks has passed, those of a message's receivers
//! of whom no device has acknowledged it are told to the business server, which may notify them.
//! Of a message in a large group only those whom it mentions are.

use std::collections::HashMap;

use tokio::time::sleep;

use crate::{
    clock::Clock,
    id::{MessageId, UserId},
    limits::{
        UNDELIVERED_CHECKS_MAX, UNDELIVERED_EVENTS_CHUNK, WEBHOOK_DATABASE_PAUSE,
        WEBHOOK_POLL_INTERVAL,
    },
    store::{
        self, Conn, Outcome, Store,
        outbox::{Kind, New, Outbox},
        undelivered::{self, Check},
    },
    timeline::mentions,
};

/// Looks at messages as they become due; never returns.
pub(super) async fn run(store: &Store, clock: &dyn Clock, outbox: &Outbox) {
    loop {
        match look(store, clock.now_ms(), outbox).await {
            // There may be more.
            Ok(UNDELIVERED_CHECKS_MAX..) => {}
            Ok(_) => sleep(WEBHOOK_POLL_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "whether messages have arrived could not be seen");
                sleep(WEBHOOK_DATABASE_PAUSE).await;
            }
        }
    }
}

/// Looks at some that are due; how many, or none where another instance is about the same.
async fn look(store: &Store, now_ms: i64, outbox: &Outbox) -> Outcome<usize> {
    let max = UNDELIVERED_CHECKS_MAX as u64;
    let due = store::attempt(undelivered::due(store.reader(), now_ms, max)).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut receivers = if outbox.tells(Kind::MessageUndelivered) {
        store::attempt(receivers_of(store.reader(), &due)).await?
    } else {
        // They were written when it was told.
        HashMap::new()
    };
    let (mut checks, mut events) = (Vec::new(), Vec::new());
    for check in &due {
        let message = MessageId(check.message_id);
        let users = receivers.remove(&message).unwrap_or_default();
        let is_full = events.len() + users.len() > UNDELIVERED_EVENTS_CHUNK;
        if is_full && !events.is_empty() && !replace(store, &mut checks, &mut events).await? {
            return Ok(0);
        }
        checks.push(check.clone());
        events.extend(users.into_iter().map(|user| New {
            kind: Kind::MessageUndelivered,
            owner: user.get(),
            message,
            device: 0,
            created_at: now_ms,
        }));
    }
    if !replace(store, &mut checks, &mut events).await? {
        return Ok(0);
    }
    outbox.written();
    Ok(due.len())
}

async fn replace(store: &Store, checks: &mut Vec<Check>, events: &mut Vec<New>) -> Outcome<bool> {
    let is_replaced = store::attempt(undelivered::replace(store, checks, events)).await?;
    if !is_replaced {
        tracing::debug!("another instance has seen to messages that were looked at");
    }
    checks.clear();
    events.clear();
    Ok(is_replaced)
}

/// Who was to be given messages and has not acknowledged them.
async fn receivers_of(conn: &impl Conn, due: &[Check]) -> Outcome<HashMap<MessageId, Vec<UserId>>> {
    let messages: Vec<MessageId> = due
        .iter()
        .map(|check| MessageId(check.message_id))
        .collect();
    let mut receivers = undelivered::of_users(conn, &messages).await?;
    for of_group in undelivered::of_groups(conn, &messages).await? {
        let mentioned = mentions::decode(&of_group.to_user_ids);
        let mut mentioned: Vec<UserId> = mentioned.into_iter().map(UserId).collect();
        mentioned.retain(|user| Some(*user) != of_group.sender);
        let (group, seq) = (of_group.group, of_group.seq);
        let behind = undelivered::members_behind(conn, group, seq, &mentioned).await?;
        receivers
            .entry(of_group.message)
            .or_default()
            .extend(behind);
    }
    Ok(receivers)
}
