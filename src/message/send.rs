//! Sending: check, append, route. Every way a message comes in ends here.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    content,
    receipt::{Receipt, Sent, State},
};
use crate::{
    clock::Clock,
    delivery::{bridge::presence::Presence, push::Template, router::Router, topic::Topic},
    error::{Code, Error, Result},
    friendships::Friendships,
    id::{DeviceId, GroupId, MessageId, Owner, RoomId, Seq, UserId},
    limits::SEND_DEADLINE,
    members::Members,
    pb::{self, MessageType, ReceiverType, SenderType},
    store::{self, Store, append::To, group::Roster, within_deadline},
    telemetry::{Cause, Metrics},
    timeline::{Append, Appended, NewMessage, Writer, append, pages},
    user::{Directory, Profile},
    webhook::BeforeSend,
};

/// The device a message comes from, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The sender.
    pub user: UserId,
    /// His device.
    pub device: DeviceId,
}

/// Who writes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// A user, on one of his devices.
    User(Origin),
    /// The system. It needs no membership and no friendship, and has no timeline.
    System(i64),
    /// The business, likewise.
    Business(i64),
}

impl Author {
    const fn user(self) -> Option<UserId> {
        match self {
            Self::User(origin) => Some(origin.user),
            Self::System(_) | Self::Business(_) => None,
        }
    }

    const fn device(self) -> DeviceId {
        match self {
            Self::User(origin) => origin.device,
            Self::System(_) | Self::Business(_) => DeviceId(0),
        }
    }

    /// `SenderType` of the contract, and the id.
    const fn columns(self) -> (SenderType, i64) {
        match self {
            Self::User(origin) => (SenderType::StUser, origin.user.get()),
            Self::System(id) => (SenderType::StSystem, id),
            Self::Business(id) => (SenderType::StBusiness, id),
        }
    }
}

/// Where a message may go.
enum Route {
    /// To timelines, or to whoever follows them.
    Timelines(To),
    /// To a room, which has none.
    Room(RoomId),
}

/// A message that its author may send.
pub(super) struct Draft {
    pub(super) message: NewMessage,
    pub(super) message_type: MessageType,
    profile: Arc<Profile>,
    pub(super) answer_owner: Option<Owner>,
    route: Route,
    pub(super) is_persist: bool,
}

/// What is known of a message once it was checked.
enum Checked {
    Fit(Draft),
    /// It was stored before.
    Repeat(Appended),
}

/// What [`Messages`] works with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub store: Store,
    /// Appends what is persisted.
    pub writer: Writer,
    /// Takes what is not.
    pub router: Arc<Router>,
    /// Who there is.
    pub directory: Arc<Directory>,
    /// Who is in which group.
    pub members: Arc<Members>,
    /// Who is whose friend, where only friends may write to each other.
    pub friendships: Option<Arc<Friendships>>,
    /// Which device is in which room.
    pub presence: Arc<Presence>,
    /// Stamps messages.
    pub clock: Arc<dyn Clock>,
    /// Who is asked before a message of a user is taken, if anybody.
    pub before_send: Option<Arc<BeforeSend>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Takes messages in.
#[derive(Debug)]
pub struct Messages {
    pub(super) options: Options,
}

impl Messages {
    /// Sends with the given parts.
    #[must_use]
    pub const fn new(options: Options) -> Self {
        Self { options }
    }

    /// Sends a message and waits until it is stored.
    ///
    /// # Errors
    /// As [`Messages::accept`] and [`Receipt::done`].
    pub async fn send(&self, author: Author, request: pb::SendMessageReq) -> Result<Sent> {
        self.accept(author, request).await?.done().await
    }

    /// Checks a message and puts it in line.
    ///
    /// # Errors
    /// 10001 naming the field; 10002, 10011, 10012, 10013 or 10016 when it may not be sent or there
    /// is no such receiver; 10003 when too many wait; 10004 when the database does not answer.
    pub async fn accept(&self, author: Author, request: pb::SendMessageReq) -> Result<Receipt> {
        let since = Instant::now();
        let metrics = &self.options.metrics;
        match self.check_and_queue(author, request, since).await {
            Ok(state) => Ok(Receipt {
                state,
                since,
                metrics: Arc::clone(metrics),
            }),
            Err(error) => {
                metrics.send_refused(&error);
                Err(error)
            }
        }
    }

    async fn check_and_queue(
        &self,
        author: Author,
        request: pb::SendMessageReq,
        since: Instant,
    ) -> Result<State> {
        let mut draft = match within_deadline(self.check(author, request)).await? {
            Checked::Repeat(first) => return Ok(repeated(first)),
            Checked::Fit(draft) => draft,
        };
        if let Some(before_send) = &self.options.before_send
            && author.user().is_some()
            && let Some(first) = self.ask_in_time(before_send, &mut draft, since).await?
        {
            return Ok(repeated(first));
        }
        let Draft {
            message,
            profile,
            answer_owner,
            route,
            is_persist,
            ..
        } = draft;
        match route {
            Route::Timelines(to) if is_persist => {
                let send = Append {
                    message,
                    to,
                    answer_owner,
                    profile,
                };
                Ok(State::Waiting(self.options.writer.append(send, since)?))
            }
            route => {
                let push = within_deadline(self.push_ephemeral(&message, &profile, &route));
                // The check and the question have had their part of the time.
                let deadline = since + SEND_DEADLINE;
                let pushed = tokio::time::timeout_at(deadline.into(), push).await;
                let late = |_| Error::try_again("the message could not be sent in time");
                Ok(State::Done {
                    sent: pushed.map_err(late)??,
                    repeated: false,
                })
            }
        }
    }

    /// Checks the fields of a message, and that its author may send it.
    async fn check(&self, author: Author, request: pb::SendMessageReq) -> Result<Checked> {
        let (receiver_type, message_type) = content::check(&request)?;
        if message_type == MessageType::MtCommand && author.user().is_some() {
            content::check_device_command(&request.message_content)?;
        }
        let is_persist = request.is_persist && receiver_type != ReceiverType::RtRoom;
        let profile = self.profile_of(author).await?;
        let answer_owner = answer_owner(author, receiver_type, request.receiver_id);
        let message = self.compose(author, request);
        match self.route(author, receiver_type, message.receiver_id).await {
            Ok(route) => Ok(Checked::Fit(Draft {
                message,
                message_type,
                profile,
                answer_owner,
                route,
                is_persist,
            })),
            Err(refusal) => {
                let store = &self.options.store;
                // A retry is answered with the first result, whatever has changed since.
                if is_persist
                    && let Some(first) = append::find_repeat(store, &message, answer_owner).await?
                {
                    return Ok(Checked::Repeat(first));
                }
                Err(refusal)
            }
        }
    }

    /// How receivers see the author.
    async fn profile_of(&self, author: Author) -> Result<Arc<Profile>> {
        match author.user() {
            Some(user) => {
                let profile = self.options.directory.profile(user).await?;
                profile.ok_or_else(Error::sign_in_again)
            }
            None => Ok(Arc::default()),
        }
    }

    pub(super) fn compose(&self, author: Author, request: pb::SendMessageReq) -> NewMessage {
        let digest = digest(&request);
        let (sender_type, sender_id) = author.columns();
        NewMessage {
            sender_type: sender_type as i16,
            sender_id,
            device: author.device(),
            receiver_type: request.receiver_type as i16,
            receiver_id: request.receiver_id,
            to_user_ids: request.to_user_ids,
            message_type: request.message_type as i16,
            // A copy: the original keeps the whole request alive.
            content: Bytes::copy_from_slice(&request.message_content),
            send_time: match request.send_time {
                0 => self.options.clock.now_ms(),
                given => given,
            },
            client_message_id: request.client_message_id,
            digest,
        }
    }

    /// Where the message goes, if its author may send it there.
    async fn route(
        &self,
        author: Author,
        receiver_type: ReceiverType,
        receiver_id: i64,
    ) -> Result<Route> {
        let to = match receiver_type {
            ReceiverType::RtUser => self.to_user(author, UserId(receiver_id)).await?,
            ReceiverType::RtSmallGroup => self.to_members(author, GroupId(receiver_id)).await?,
            ReceiverType::RtLargeGroup => self.to_group(author, GroupId(receiver_id)).await?,
            ReceiverType::RtRoom | ReceiverType::RtUnknown => {
                return self.to_room(author, RoomId(receiver_id)).await;
            }
        };
        Ok(Route::Timelines(to))
    }

    async fn to_user(&self, author: Author, receiver: UserId) -> Result<To> {
        if self.options.directory.profile(receiver).await?.is_none() {
            return Err(Error::business(Code::NoSuchUser, "no such user"));
        }
        let mut owners = vec![Owner::User(receiver)];
        if let Some(sender) = author.user().filter(|sender| *sender != receiver) {
            self.refuse_strangers(sender, receiver).await?;
            owners.insert(0, Owner::User(sender));
        }
        Ok(To::Owners(owners))
    }

    /// Refuses what one user writes to another where they ought to be friends.
    async fn refuse_strangers(&self, sender: UserId, receiver: UserId) -> Result<()> {
        if let Some(friendships) = &self.options.friendships
            && !friendships.exists(sender, receiver).await?
        {
            return Err(Error::business(Code::NotFriends, "not friends"));
        }
        Ok(())
    }

    async fn to_members(&self, author: Author, group: GroupId) -> Result<To> {
        let members = &self.options.members;
        let roster = members
            .roster(group)
            .await?
            .ok_or_else(Error::no_such_group)?;
        let is_refused = |roster: &Roster| author.user().is_some_and(|user| !roster.contains(user));
        if !is_refused(&roster) {
            return Ok(To::Members(roster));
        }
        // His own row first: a stranger costs no more than that.
        if let Some(user) = author.user() {
            is_in(members.is_in_small(group, user).await?)?;
        }
        let fresh = members.fresh_roster(group).await?;
        Ok(To::Members(fresh.ok_or_else(Error::no_such_group)?))
    }

    async fn to_group(&self, author: Author, group: GroupId) -> Result<To> {
        let members = &self.options.members;
        let may_send = match author.user() {
            Some(user) => members.is_in_large(group, user).await?,
            None => members.is_large(group).await?.then_some(true),
        };
        is_in(may_send)?;
        Ok(To::Group(group))
    }

    async fn to_room(&self, author: Author, room: RoomId) -> Result<Route> {
        let presence = &self.options.presence;
        if let Author::User(Origin { user, device }) = author
            && !presence.is_in_room(user, device, room).await?
        {
            return Err(Error::business(
                Code::NotAllowed,
                "subscribe to the room first",
            ));
        }
        Ok(Route::Room(room))
    }

    /// Gives a message to whoever is online.
    async fn push_ephemeral(
        &self,
        message: &NewMessage,
        profile: &Arc<Profile>,
        route: &Route,
    ) -> Result<Sent> {
        let output = pages::new_message(message, MessageId(0), profile);
        let template = Template::new(output, message.device).caused_by(Cause::current());
        let template = Arc::new(template);
        let publish = |topic| {
            let router = &self.options.router;
            router.publish(topic, Seq::ZERO, &template);
        };
        match route {
            Route::Timelines(to @ (To::Owners(_) | To::Rest { .. })) => {
                let owners = to.fixed().iter().copied();
                owners.map(Topic::from).for_each(publish);
            }
            Route::Timelines(To::Members(roster)) => {
                roster
                    .members
                    .iter()
                    .copied()
                    .map(Topic::User)
                    .for_each(publish);
            }
            Route::Timelines(To::Group(group)) => {
                let after = self.head_of(*group).await?;
                let router = &self.options.router;
                router.publish_after(Topic::Group(*group), after, &template);
            }
            Route::Room(room) => publish(Topic::Room(*room)),
        }
        Ok(Sent {
            seq: Seq::ZERO,
            message_id: MessageId(0),
            send_time: message.send_time,
        })
    }

    /// The last entry of a large group that other instances must have passed before they give on
    /// what is sent now: it may have removed somebody. One instance alone has passed it.
    async fn head_of(&self, group: GroupId) -> Result<Seq> {
        let router = &self.options.router;
        if router.is_alone() {
            return Ok(Seq::ZERO);
        }
        let feed = router.feed(Topic::Group(group));
        if let Some(head) = feed.and_then(|feed| feed.head()) {
            return Ok(head);
        }
        let owner = Owner::Group(group);
        let heads = store::timeline::heads(self.options.store.reader(), &[owner]).await?;
        Ok(heads.get(&owner).copied().unwrap_or_default())
    }
}

fn repeated(first: Appended) -> State {
    State::Done {
        sent: first.into(),
        repeated: true,
    }
}

/// Refuses who is not in a group, or a group that is not there.
fn is_in(found: Option<bool>) -> Result<()> {
    match found {
        Some(true) => Ok(()),
        Some(false) => Err(Error::not_in_group()),
        None => Err(Error::no_such_group()),
    }
}

/// In whose timeline the seq stands that the author is answered: in his own, or in the large
/// group's.
const fn answer_owner(
    author: Author,
    receiver_type: ReceiverType,
    receiver_id: i64,
) -> Option<Owner> {
    match (receiver_type, author.user()) {
        (ReceiverType::RtLargeGroup, _) => Some(Owner::Group(GroupId(receiver_id))),
        (_, Some(user)) => Some(Owner::User(user)),
        (_, None) => None,
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
