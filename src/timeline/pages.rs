//! Reading timelines by pages, as messages for a sync or as pushes for whoever left a ring.
//!
//! A page holds at most [`PAGE_MESSAGES_MAX`] messages and fits one frame. The store bounds how many
//! are read at once, and those who miss the same page of the same timeline share one read.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use prost::Message as _;

use super::{append::NewMessage, mentions};
use crate::{
    delivery::push::{Push, Template, is_for_many},
    error::{Error, Result},
    id::{DeviceId, MessageId, Owner, Seq, UserId},
    lifecycle::Tasks,
    limits::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX},
    pb,
    store::{self, Store, within_deadline},
    telemetry::Metrics,
    user::{Directory, Profile},
};

/// A message as it stands on a timeline.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// With its seq and its sender's profile.
    pub message: pb::Message,
    /// The device that sent it.
    pub origin: DeviceId,
}

/// Messages of one timeline after a position.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Ascending and without gaps.
    pub messages: Vec<Delivered>,
    /// The timeline goes on after them.
    pub has_more: bool,
}

/// Pushes of one timeline after a position, shared by all who miss them.
pub type Pushes = Arc<[Push]>;

type Reading = Shared<BoxFuture<'static, Result<Pushes, Arc<Error>>>>;

/// Reads pages.
#[derive(Debug)]
pub struct Pages {
    store: Store,
    directory: Arc<Directory>,
    readings: Mutex<HashMap<(Owner, Seq), Reading>>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Pages {
    /// A reader of `store` that asks `directory` for the senders.
    #[must_use]
    pub fn new(
        store: Store,
        directory: Arc<Directory>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            directory,
            readings: Mutex::default(),
            tasks,
            metrics,
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The page of `owner`'s timeline that begins after `after`, of at most `rows_max` messages in
    /// at most `bytes_max` bytes; it has at least one message if there is any.
    ///
    /// # Errors
    /// 10004 when the database does not answer.
    pub async fn read(
        &self,
        owner: Owner,
        after: Seq,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Page> {
        let (rows, has_more) =
            store::timeline::page(&self.store, owner, after, rows_max, bytes_max).await?;
        let profiles = self.profiles(&rows).await?;
        let mut page = Page {
            messages: Vec::with_capacity(rows.len()),
            has_more,
        };
        let mut bytes = 0;
        for row in rows {
            let delivered = delivered(row, owner, &profiles);
            bytes += len_as_field(&delivered.message);
            if bytes > bytes_max && !page.messages.is_empty() {
                page.has_more = true;
                break;
            }
            page.messages.push(delivered);
        }
        Ok(page)
    }

    /// The pushes that follow `after` on `owner`'s timeline. Whoever asks for the same page while
    /// it is being read shares the read.
    ///
    /// # Errors
    /// 10004 when the database does not answer.
    pub async fn catch_up(self: &Arc<Self>, owner: Owner, after: Seq) -> Result<Pushes> {
        let reading = {
            let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
            let reading = readings.entry((owner, after));
            reading
                .or_insert_with(|| self.begin_reading(owner, after))
                .clone()
        };
        reading.await.map_err(|error| error.duplicate())
    }

    /// Reads in a task of its own, so that the page is read and forgotten whoever goes away.
    fn begin_reading(self: &Arc<Self>, owner: Owner, after: Seq) -> Reading {
        let this = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            this.metrics.catch_up_reads.inc();
            let _entry = Entry(&this, (owner, after));
            let reading = this.read(owner, after, PAGE_MESSAGES_MAX, PAGE_BYTES_MAX);
            let page = within_deadline(reading).await;
            page.map(|page| page.messages.into_iter().map(push).collect())
        });
        async move {
            match task.await {
                Ok(pushes) => pushes.map_err(Arc::new),
                Err(_) => Err(Arc::new(Error::internal("a page read was cut off"))),
            }
        }
        .boxed()
        .shared()
    }

    async fn profiles(&self, rows: &[store::timeline::Row]) -> Result<Profiles> {
        let senders: HashSet<UserId> = rows
            .iter()
            .filter(|row| i32::from(row.message.sender_type) == pb::SenderType::StUser as i32)
            .map(|row| UserId(row.message.sender_id))
            .collect();
        let senders: Vec<UserId> = senders.into_iter().collect();
        self.directory.senders(&senders).await
    }
}

/// A read under way, listed until this is dropped.
struct Entry<'a>(&'a Pages, (Owner, Seq));

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let readings = self.0.readings.lock();
        readings
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.1);
    }
}

type Profiles = HashMap<UserId, Arc<Profile>>;

fn push(delivered: Delivered) -> Push {
    let seq = Seq(delivered.message.seq);
    Arc::new(Template::new(delivered.message, delivered.origin)).push(seq)
}

/// What a message takes as an element of a repeated field.
pub(super) fn len_as_field(message: &pb::Message) -> usize {
    let len = message.encoded_len();
    1 + prost::length_delimiter_len(len) + len
}

/// A row as it is given to `owner`; on a timeline of his own he is the receiver of what is for many
/// users.
fn delivered(row: store::timeline::Row, owner: Owner, profiles: &Profiles) -> Delivered {
    let message = row.message;
    let client_message_id = message.client_message_id.unwrap_or_default();
    let profile = profiles.get(&UserId(message.sender_id));
    let mut delivered = Delivered {
        origin: DeviceId(message.sender_device_id),
        message: pb::Message {
            sender: Some(sender(message.sender_type, message.sender_id, profile)),
            receiver_type: message.receiver_type.into(),
            receiver_id: message.receiver_id,
            to_user_ids: mentions::decode(&message.to_user_ids),
            message_type: message.r#type.into(),
            message_content: message.content.into(),
            seq: row.seq.get(),
            send_time: message.send_time,
            status: message.status.into(),
            message_id: message.id,
            client_message_id: String::from_utf8_lossy(&client_message_id).into_owned(),
        },
    };
    if let Owner::User(user) = owner
        && is_for_many(&delivered.message)
    {
        delivered.message.receiver_id = user.get();
    }
    delivered
}

/// A message that has just been appended, or with id 0 an ephemeral one, without a seq.
#[must_use]
pub fn new_message(message: &NewMessage, id: MessageId, profile: &Arc<Profile>) -> pb::Message {
    pb::Message {
        sender: Some(sender(
            message.sender_type,
            message.sender_id,
            Some(profile),
        )),
        receiver_type: message.receiver_type.into(),
        receiver_id: message.receiver_id,
        to_user_ids: message.to_user_ids.clone(),
        message_type: message.message_type.into(),
        message_content: message.content.clone(),
        seq: 0,
        send_time: message.send_time,
        status: pb::MessageStatus::MsNormal as i32,
        message_id: id.get(),
        client_message_id: message.client_message_id.clone(),
    }
}

fn sender(sender_type: i16, sender_id: i64, profile: Option<&Arc<Profile>>) -> pb::Sender {
    let mut sender = pb::Sender {
        sender_type: sender_type.into(),
        sender_id,
        ..Default::default()
    };
    // The system and the business have ids of their own, which may equal a user's.
    if let Some(profile) = profile
        && sender.sender_type == pb::SenderType::StUser as i32
    {
        sender.avatar_url.clone_from(&profile.avatar_url);
        sender.nickname.clone_from(&profile.nickname);
        sender.extra.clone_from(&profile.extra);
    }
    sender
}

#[cfg(test)]
mod tests;
