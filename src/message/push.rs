//! What a business server pushes to many at once.
//!
//! A push to many users is one message on many timelines: its row names no receiver, each reads
//! himself there. It is stored by parts, one transaction each, in the writer's lane for large jobs;
//! a retry with the same client message id goes on where the first attempt stopped, and however
//! many run at the same time, nobody is given it twice.

use std::{mem, sync::Arc, time::Instant};

use bytes::Bytes;
use prost::Message as _;

use super::{
    content,
    send::{Author, Messages},
};
use crate::{
    check,
    delivery::{push::Template, topic::Topic},
    error::{Code, Error, Result},
    id::{DeviceId, MessageId, Owner, Seq, UserId},
    limits::{
        BUSINESS_USERS_AT_ONCE_MAX, CONTENT_BYTES_MAX, LARGE_JOB_CHUNK, PUSH_USERS_MAX,
        SEND_DEADLINE,
    },
    pb::{self, MessageType, ReceiverType},
    store::{self, append::To, within_deadline},
    telemetry::Cause,
    timeline::{Append, NewMessage, append, pages},
};

/// Who pushes, as receivers see it.
const AUTHOR: Author = Author::Business(0);

/// How a push ended.
#[derive(Clone, Copy)]
struct Pushed {
    message: MessageId,
    /// Everybody had it before.
    repeated: bool,
}

/// What was not persisted.
const EPHEMERAL: Pushed = Pushed {
    message: MessageId(0),
    repeated: false,
};

impl Messages {
    /// Gives each of many users a command; those who are unknown are skipped. The id is 0 when it
    /// is not persisted.
    ///
    /// # Errors
    /// 10001 naming the field, also when the client message id was used for other users or another
    /// command; 10016 when none of the users is known; 10003 when too many wait and nobody was given
    /// it; 10004 when some may have it and others not.
    pub async fn push_to_users(&self, push: pb::PushToUsersReq) -> Result<MessageId> {
        let since = Instant::now();
        let deadline = since + SEND_DEADLINE;
        let pushing = tokio::time::timeout_at(deadline.into(), self.to_users(push, since));
        let pushed = pushing.await.unwrap_or_else(|_| Err(cut_off()));
        self.counted(pushed, since).map(|pushed| pushed.message)
    }

    /// Gives a command to every device that is online. Nothing is stored.
    ///
    /// # Errors
    /// 10001 naming the field.
    pub fn push_to_all(&self, push: pb::PushToAllReq) -> Result<()> {
        let since = Instant::now();
        let pushed = encode(push.command).map(|content| {
            let message = self.compose_push(content, Vec::new(), String::new());
            let router = &self.options.router;
            router.publish(Topic::Everyone, Seq::ZERO, &ephemeral(&message));
            EPHEMERAL
        });
        self.counted(pushed, since).map(drop)
    }

    /// Gives a message to whoever is subscribed to a room. Nothing is stored.
    ///
    /// # Errors
    /// 10001 naming the field.
    pub async fn push_to_room(&self, push: pb::PushToRoomReq) -> Result<()> {
        check::id("room_id", push.room_id)?;
        let request = pb::SendMessageReq {
            receiver_type: ReceiverType::RtRoom as i32,
            receiver_id: push.room_id,
            message_type: push.message_type,
            message_content: push.message_content,
            ..Default::default()
        };
        self.send(AUTHOR, request).await.map(drop)
    }

    async fn to_users(&self, push: pb::PushToUsersReq, since: Instant) -> Result<Pushed> {
        let user_ids = check_users(push.user_ids)?;
        let content = encode(push.command)?;
        content::check_client_message_id(&push.client_message_id)?;
        let mut message = self.compose_push(content, user_ids, push.client_message_id);
        // It was composed as if it mentioned them, so that its digest covers them.
        let user_ids = mem::take(&mut message.to_user_ids);
        let users = user_ids.into_iter().map(UserId).collect();
        if push.is_persist {
            self.store_for(message, users, since).await
        } else {
            self.show_to(&message, users).await
        }
    }

    fn compose_push(
        &self,
        content: Bytes,
        to_user_ids: Vec<i64>,
        client_message_id: String,
    ) -> NewMessage {
        let request = pb::SendMessageReq {
            receiver_type: ReceiverType::RtUser as i32,
            to_user_ids,
            message_type: MessageType::MtCommand as i32,
            message_content: content,
            client_message_id,
            ..Default::default()
        };
        self.compose(AUTHOR, request)
    }

    /// Appends a message to the timelines of those of `users` that lack it.
    async fn store_for(
        &self,
        message: NewMessage,
        users: Vec<UserId>,
        since: Instant,
    ) -> Result<Pushed> {
        let store = &self.options.store;
        let mut lacking = users;
        let (mut stored, lacking) = within_deadline(async {
            let first = append::find_repeat(store, &message, None).await?;
            let first = first.map(|first| first.message_id);
            // What an earlier attempt has done takes no turn of the writer again, and nobody is asked
            // about it.
            if let Some(first) = first {
                let have = store::timeline::users_with(store.reader(), first).await?;
                lacking.retain(|user| have.binary_search(user).is_err());
            }
            Ok((first, lacking))
        })
        .await?;
        let mut repeated = true;
        // Whether they exist is asked by parts too: what takes too long for one attempt is done by
        // several.
        for asked in lacking.chunks(BUSINESS_USERS_AT_ONCE_MAX) {
            let existing = self.options.directory.existing(asked).await?;
            for part in existing.chunks(LARGE_JOB_CHUNK) {
                self.options.router.has_room().await;
                let part = Append {
                    message: message.clone(),
                    to: To::Rest {
                        owners: part.iter().copied().map(Owner::User).collect(),
                        message: stored,
                    },
                    answer_owner: None,
                    profile: Arc::default(),
                };
                let is_first = stored.is_none();
                let placed = self.append_part(part, since).await;
                let placed = placed.map_err(|error| if is_first { error } else { not_all(error) });
                stored = Some(placed?);
                repeated = false;
            }
        }
        let message = stored.ok_or_else(no_such_user)?;
        Ok(Pushed { message, repeated })
    }

    async fn append_part(&self, part: Append, since: Instant) -> Result<MessageId> {
        let mut waiting = self.options.writer.append_part(part, since)?;
        Ok(waiting.stored().await?.message_id)
    }

    /// Gives a message to those of `users` that are online.
    async fn show_to(&self, message: &NewMessage, users: Vec<UserId>) -> Result<Pushed> {
        let users = self.options.directory.existing(&users).await?;
        if users.is_empty() {
            return Err(no_such_user());
        }
        let template = ephemeral(message);
        for part in users.chunks(LARGE_JOB_CHUNK) {
            self.options.router.has_room().await;
            for user in part {
                let topic = Topic::User(*user);
                self.options.router.publish(topic, Seq::ZERO, &template);
            }
            // Others have their turn in between.
            tokio::task::yield_now().await;
        }
        Ok(EPHEMERAL)
    }

    fn counted(&self, pushed: Result<Pushed>, since: Instant) -> Result<Pushed> {
        let metrics = &self.options.metrics;
        match &pushed {
            Ok(pushed) => metrics.send_done(pushed.repeated, since.elapsed()),
            Err(error) => metrics.send_refused(error),
        }
        pushed
    }
}

/// The users of a push, ascending and without repeats.
fn check_users(mut user_ids: Vec<i64>) -> Result<Vec<i64>> {
    if user_ids.is_empty() || user_ids.len() > PUSH_USERS_MAX {
        let why = format_args!("1 to {PUSH_USERS_MAX} users");
        return Err(Error::bad_request("user_ids", why));
    }
    user_ids.sort_unstable();
    user_ids.dedup();
    check::id("user_ids", user_ids[0])?;
    Ok(user_ids)
}

/// A command as the content of a message.
fn encode(command: Option<pb::Command>) -> Result<Bytes> {
    let command = command.ok_or_else(|| Error::bad_request("command", "missing"))?;
    if command.encoded_len() > CONTENT_BYTES_MAX {
        let why = format_args!("at most {CONTENT_BYTES_MAX} bytes");
        return Err(Error::bad_request("command", why));
    }
    Ok(command.encode_to_vec().into())
}

fn ephemeral(message: &NewMessage) -> Arc<Template> {
    let message = pages::new_message(message, MessageId(0), &Arc::default());
    Arc::new(Template::new(message, DeviceId(0)).caused_by(Cause::current()))
}

/// Why a part that is not the first was not stored: whatever is to blame, some have the message.
fn not_all(error: Error) -> Error {
    if error.is(Code::TooManyRequests) {
        cut_off()
    } else {
        error
    }
}

fn cut_off() -> Error {
    Error::try_again("some may not have it yet, try again with the same client_message_id")
}

fn no_such_user() -> Error {
    Error::business(Code::NoSuchUser, "none of the users exists")
}

#[cfg(test)]
mod tests;
