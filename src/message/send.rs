//! Sending: check, append, route. Every way a message comes in ends here.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::content;
use crate::{
    clock::Clock,
    delivery::{push::Template, router::Router, topic::Topic},
    error::{Code, Error, Result},
    id::{DeviceId, GroupId, MessageId, Owner, Seq, UserId},
    pb::{self, MessageType, ReceiverType, SenderType},
    store::{Store, within_deadline},
    telemetry::Metrics,
    timeline::{Append, Appended, NewMessage, Writer, append, pages, writer::Waiting},
    user::{Directory, Profile},
};

/// The device a message comes from, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The sender.
    pub user: UserId,
    /// His device.
    pub device: DeviceId,
}

/// The answer to a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Position in the sender's timeline; 0 when not persisted.
    pub seq: Seq,
    /// 0 when not persisted.
    pub message_id: MessageId,
    /// As stored, in unix milliseconds.
    pub send_time: i64,
}

/// A send that has been accepted. Those of one device are appended in the order they were
/// accepted in.
#[derive(Debug)]
pub struct Receipt {
    state: State,
    since: Instant,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum State {
    Done { sent: Sent, repeated: bool },
    Waiting(Waiting),
}

/// Takes messages in.
#[derive(Debug)]
pub struct Messages {
    store: Store,
    writer: Writer,
    router: Arc<Router>,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Messages {
    /// Sends through `writer` and `router`.
    #[must_use]
    pub fn new(
        store: Store,
        writer: Writer,
        router: Arc<Router>,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            writer,
            router,
            directory,
            clock,
            metrics,
        }
    }

    /// Sends a device's message and waits until it is stored.
    ///
    /// # Errors
    /// As [`Messages::accept`] and [`Receipt::done`].
    pub async fn send(&self, from: Origin, request: pb::SendMessageReq) -> Result<Sent> {
        self.accept(from, request).await?.done().await
    }

    /// Checks a device's message and puts it in line.
    ///
    /// # Errors
    /// 10001 naming the field; 10002, 10013 or 10016 when it may not be sent or there is no such
    /// receiver; 10003 when too many wait; 10004 when the database does not answer.
    pub async fn accept(&self, from: Origin, request: pb::SendMessageReq) -> Result<Receipt> {
        let since = Instant::now();
        match within_deadline(self.check_and_queue(from, request, since)).await {
            Ok(state) => Ok(Receipt {
                state,
                since,
                metrics: Arc::clone(&self.metrics),
            }),
            Err(error) => {
                self.metrics.send_refused(&error);
                Err(error)
            }
        }
    }

    async fn check_and_queue(
        &self,
        from: Origin,
        request: pb::SendMessageReq,
        since: Instant,
    ) -> Result<State> {
        let (receiver_type, message_type) = content::check(&request)?;
        if message_type == MessageType::MtCommand {
            content::check_device_command(&request.message_content)?;
        }
        let is_persist = request.is_persist && receiver_type != ReceiverType::RtRoom;
        let profile = self.sender_profile(from.user).await?;
        let send = self.compose(from, receiver_type, request, profile);
        if let Err(refusal) = self.permit(receiver_type, &send).await {
            // A retry is answered with the first result, whatever has changed since.
            if is_persist && let Some(first) = append::find_repeat(&self.store, &send).await? {
                return Ok(State::Done {
                    sent: first.into(),
                    repeated: true,
                });
            }
            return Err(refusal);
        }
        if is_persist {
            Ok(State::Waiting(self.writer.append(send, since)?))
        } else {
            Ok(State::Done {
                sent: self.push_ephemeral(&send),
                repeated: false,
            })
        }
    }

    async fn sender_profile(&self, user: UserId) -> Result<Arc<Profile>> {
        let profile = self.directory.profile(user).await?;
        profile.ok_or_else(Error::sign_in_again)
    }

    fn compose(
        &self,
        from: Origin,
        receiver_type: ReceiverType,
        request: pb::SendMessageReq,
        profile: Arc<Profile>,
    ) -> Append {
        let sender = Owner::User(from.user);
        let mut owners = vec![sender];
        if receiver_type == ReceiverType::RtUser {
            let receiver = Owner::User(UserId(request.receiver_id));
            if receiver != sender {
                owners.push(receiver);
            }
        }
        let digest = digest(&request);
        let send_time = match request.send_time {
            0 => self.clock.now_ms(),
            given => given,
        };
        Append {
            owners,
            answer_owner: sender,
            profile,
            message: NewMessage {
                sender_type: SenderType::StUser as i16,
                sender_id: from.user.get(),
                device: from.device,
                receiver_type: receiver_type as i16,
                receiver_id: request.receiver_id,
                to_user_ids: request.to_user_ids,
                message_type: request.message_type as i16,
                // A copy: the original keeps the whole request alive.
                content: Bytes::copy_from_slice(&request.message_content),
                send_time,
                client_message_id: request.client_message_id,
                digest,
            },
        }
    }

    /// May this be sent to that receiver?
    async fn permit(&self, receiver_type: ReceiverType, send: &Append) -> Result<()> {
        match receiver_type {
            ReceiverType::RtUser => {
                let receiver = UserId(send.message.receiver_id);
                match self.directory.profile(receiver).await? {
                    Some(_) => Ok(()),
                    None => Err(Error::business(Code::NoSuchUser, "no such user")),
                }
            }
            ReceiverType::RtSmallGroup | ReceiverType::RtLargeGroup => {
                let group = GroupId(send.message.receiver_id);
                Err(Error::business(
                    Code::NoSuchGroup,
                    format!("no such group: {group}"),
                ))
            }
            ReceiverType::RtRoom | ReceiverType::RtUnknown => Err(Error::business(
                Code::NotAllowed,
                "subscribe to the room first",
            )),
        }
    }

    /// Gives a message to whoever is online.
    fn push_ephemeral(&self, send: &Append) -> Sent {
        let message = pages::new_message(&send.message, MessageId(0), &send.profile);
        let template = Template::new(message, send.message.device);
        for owner in &send.owners {
            self.router
                .publish(Topic::from(*owner), Seq::ZERO, &template);
        }
        Sent {
            seq: Seq::ZERO,
            message_id: MessageId(0),
            send_time: send.message.send_time,
        }
    }
}

impl Receipt {
    /// Waits until the message is stored, but not beyond its deadline; dropping the future does not
    /// take it back.
    ///
    /// # Errors
    /// 10004 when it could not be stored or its outcome is unknown; 10001 when its client message
    /// id was used for another message.
    pub async fn done(&mut self) -> Result<Sent> {
        let Some(deadline) = self.deadline() else {
            return self.stored().await;
        };
        match tokio::time::timeout_at(deadline.into(), self.stored()).await {
            Ok(result) => result,
            Err(_) => self.give_up(),
        }
    }

    /// Waits however long it takes, for whoever keeps the [deadline](Receipt::deadline) himself.
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Receipt::done`].
    pub async fn stored(&mut self) -> Result<Sent> {
        match &mut self.state {
            State::Done { sent, repeated } => {
                let done = (*sent, *repeated);
                self.counted(Ok(done))
            }
            State::Waiting(waiting) => {
                let appended = waiting.stored().await;
                self.counted(appended.map(|appended| (appended.into(), appended.repeated)))
            }
        }
    }

    /// When the send must be answered; `None` when its answer is there.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Done { .. } => None,
            State::Waiting(waiting) => Some(waiting.deadline()),
        }
    }

    /// The answer to a send that is not known to be stored by its deadline.
    ///
    /// # Errors
    /// 10004, but for a send whose answer is there.
    pub fn give_up(&self) -> Result<Sent> {
        match &self.state {
            State::Done { sent, repeated } => self.counted(Ok((*sent, *repeated))),
            State::Waiting(waiting) => {
                let appended = waiting.give_up();
                self.counted(appended.map(|appended| (appended.into(), appended.repeated)))
            }
        }
    }

    /// Counts the outcome, which is a result and whether it is a repeated one.
    fn counted(&self, outcome: Result<(Sent, bool)>) -> Result<Sent> {
        match outcome {
            Ok((sent, repeated)) => {
                self.metrics.send_done(repeated, self.since.elapsed());
                Ok(sent)
            }
            Err(error) => {
                self.metrics.send_refused(&error);
                Err(error)
            }
        }
    }
}

impl From<Appended> for Sent {
    fn from(appended: Appended) -> Self {
        Self {
            seq: appended.seq,
            message_id: appended.message_id,
            send_time: appended.send_time,
        }
    }
}

impl From<Sent> for pb::SendMessageResp {
    fn from(sent: Sent) -> Self {
        Self {
            seq: sent.seq.get(),
            message_id: sent.message_id.get(),
            send_time: sent.send_time,
        }
    }
}

/// What makes two sends with one id the same message. The send time is not part of it: a retry
/// may have been stamped anew.
fn digest(request: &pb::SendMessageReq) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(request.receiver_type.to_be_bytes());
    hash.update(request.receiver_id.to_be_bytes());
    hash.update(request.message_type.to_be_bytes());
    hash.update((request.to_user_ids.len() as u64).to_be_bytes());
    for user in &request.to_user_ids {
        hash.update(user.to_be_bytes());
    }
    hash.update(&request.message_content);
    hash.finalize().into()
}
