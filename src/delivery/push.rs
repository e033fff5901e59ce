//! What a device is pushed: an `Output` of type `PT_MESSAGE`, encoded.
//!
//! A message stands on many timelines and differs there only in its seq, and where it is for many
//! users in its receiver. So everything else is encoded once and shared, and each session writes
//! that between the lengths before it and the fields that differ. Field order is free in protobuf
//! (<https://protobuf.dev/programming-guides/encoding/#order>), so these go last.

use std::sync::{Arc, OnceLock};

use bytes::BufMut;
use prost::{Message as _, encoding::encode_varint, encoding::encoded_len_varint};

use super::budget::Budget;
use crate::{
    id::{DeviceId, GroupId, MessageId, Seq, UserId},
    pb::{self, MessageType, PushCode, ReceiverType, SenderType},
    telemetry::Cause,
};

/// `Output.type = PT_MESSAGE`.
const OUTPUT_TYPE: [u8; 2] = [1 << 3, pb::PackageType::PtMessage as u8];
/// `Output.data`, length-delimited.
const OUTPUT_DATA_KEY: u8 = (5 << 3) | 2;
/// `MessageSend.message`, length-delimited.
const MESSAGE_KEY: u8 = (1 << 3) | 2;
/// `Message.receiver_id`, a varint.
const RECEIVER_KEY: u8 = 3 << 3;
/// `Message.seq`, a varint.
const SEQ_KEY: u8 = 7 << 3;

/// Longest varint.
const VARINT_MAX: usize = 10;
/// Longest head: the type, and two keys with a length each.
const HEAD_MAX: usize = OUTPUT_TYPE.len() + 2 * (1 + VARINT_MAX);
/// Longest tail: the receiver and the seq.
const TAIL_MAX: usize = 2 * (1 + VARINT_MAX);

/// One entry as it is pushed.
#[derive(Clone, Debug)]
pub struct Push {
    /// Its position in the timeline; [`Seq::ZERO`] when it is ephemeral.
    pub seq: Seq,
    /// The message, shared with all the other timelines it stands on.
    pub template: Arc<Template>,
}

/// A message encoded but for what differs from timeline to timeline.
#[derive(Debug)]
pub struct Template {
    origin: DeviceId,
    mark: Mark,
    /// It is for many users: each reads himself as the receiver.
    is_for_many: bool,
    message: Box<[u8]>,
    /// The request it comes from; of what was read from the database that is not known.
    cause: Option<Arc<Cause>>,
    /// The budget it counts in, from when a ring first held it.
    counted: OnceLock<Arc<Budget>>,
}

/// What a message says of the large groups that sessions follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    None,
    /// On a user's timeline: he was added to a large group.
    Joined {
        /// Which one.
        group: GroupId,
        /// The message on the group's timeline that tells the same: the one written before it.
        event: MessageId,
    },
    /// On a user's timeline: he was removed from a large group.
    Removed,
    /// On a large group's timeline: this user is a member no longer.
    Left(UserId),
}

/// A push as it goes on the wire, in three pieces.
#[derive(Debug)]
pub struct Encoded<'a> {
    head: Short<HEAD_MAX>,
    message: &'a [u8],
    tail: Short<TAIL_MAX>,
}

/// A few bytes.
#[derive(Debug)]
struct Short<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

impl Push {
    /// The body of the frame for a session of `reader`.
    #[must_use]
    pub fn encode(&self, reader: UserId) -> Encoded<'_> {
        let template = &*self.template;
        let tail = Short::new(|mut out| {
            if template.is_for_many {
                out.put_u8(RECEIVER_KEY);
                encode_varint(reader.get() as u64, &mut out);
            }
            if self.seq != Seq::ZERO {
                out.put_u8(SEQ_KEY);
                encode_varint(self.seq.get() as u64, &mut out);
            }
            out.len()
        });
        let message_len = (template.message.len() + tail.len) as u64;
        let head = Short::new(|mut out| {
            out.put_slice(&OUTPUT_TYPE);
            out.put_u8(OUTPUT_DATA_KEY);
            let data_len = 1 + encoded_len_varint(message_len) as u64 + message_len;
            encode_varint(data_len, &mut out);
            out.put_u8(MESSAGE_KEY);
            encode_varint(message_len, &mut out);
            out.len()
        });
        Encoded {
            head,
            message: &template.message,
            tail,
        }
    }

    /// The device that sent it, which is not given it back; 0 for none.
    #[must_use]
    pub fn origin(&self) -> DeviceId {
        self.template.origin
    }

    /// What it says of memberships.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.template.mark
    }

    /// The bytes a ring keeps alive with it.
    pub(super) fn bytes(&self) -> usize {
        self.template.message.len()
    }
}

impl Template {
    /// Encodes `message`; a seq it may bear is left out. A message to a user whose id is 0 is for
    /// many users.
    #[must_use]
    pub fn new(mut message: pb::Message, origin: DeviceId) -> Self {
        message.seq = 0;
        Self {
            origin,
            mark: Mark::of(&message),
            is_for_many: is_for_many(&message),
            message: message.encode_to_vec().into_boxed_slice(),
            cause: None,
            counted: OnceLock::new(),
        }
    }

    /// The message as one that comes from a request.
    #[must_use]
    pub fn caused_by(mut self, cause: Option<Arc<Cause>>) -> Self {
        self.cause = cause;
        self
    }

    /// The request it comes from, where that is known and somebody wants to know.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_deref()
    }

    /// As another instance has encoded it.
    #[must_use]
    pub(super) fn received(
        origin: DeviceId,
        mark: Mark,
        is_for_many: bool,
        message: Box<[u8]>,
    ) -> Self {
        Self {
            origin,
            mark,
            is_for_many,
            message,
            cause: None,
            counted: OnceLock::new(),
        }
    }

    /// Whether each of its readers reads himself as the receiver.
    pub(super) const fn is_for_many(&self) -> bool {
        self.is_for_many
    }

    /// The message without its seq.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The push for one timeline, or an ephemeral one with [`Seq::ZERO`].
    #[must_use]
    pub fn push(self: &Arc<Self>, seq: Seq) -> Push {
        Push {
            seq,
            template: Arc::clone(self),
        }
    }

    /// A ring holds it: its bytes count from here on until the last holder lets it go, and once,
    /// however many rings hold it.
    pub(super) fn count_in(&self, budget: &Arc<Budget>) {
        self.counted.get_or_init(|| {
            budget.take(self.message.len());
            Arc::clone(budget)
        });
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        if let Some(budget) = self.counted.get() {
            budget.give_back(self.message.len());
        }
    }
}

impl Mark {
    /// What `message` says. Only the system's commands say something, and a small group's are not
    /// of interest: its messages stand on the members' own timelines.
    #[must_use]
    pub fn of(message: &pb::Message) -> Self {
        let is_from_system = message
            .sender
            .as_ref()
            .is_some_and(|sender| sender.sender_type == SenderType::StSystem as i32);
        if !is_from_system || message.message_type != MessageType::MtCommand as i32 {
            return Self::None;
        }
        let Ok(command) = pb::Command::decode(message.message_content.clone()) else {
            return Self::None;
        };
        let receiver = ReceiverType::try_from(message.receiver_type);
        match (PushCode::try_from(command.code), receiver) {
            (Ok(PushCode::PcAddGroupMembers), Ok(ReceiverType::RtUser)) => {
                let news = pb::AddGroupMembersPush::decode(command.data);
                news.map_or(Self::None, |push| Self::Joined {
                    group: GroupId(push.group_id),
                    event: MessageId(message.message_id - 1),
                })
            }
            (Ok(PushCode::PcRemoveGroupMember), Ok(ReceiverType::RtUser)) => Self::Removed,
            (Ok(PushCode::PcRemoveGroupMember), Ok(ReceiverType::RtLargeGroup)) => {
                let removal = pb::RemoveGroupMemberPush::decode(command.data);
                removal.map_or(Self::None, |push| Self::Left(UserId(push.deleted_user_id)))
            }
            _ => Self::None,
        }
    }
}

impl Mark {
    /// Whether the large groups that a user is in have changed.
    #[must_use]
    pub const fn changes_memberships(self) -> bool {
        matches!(self, Self::Joined { .. } | Self::Removed)
    }
}

/// Whether a message is for many users, each of whom reads himself as its receiver.
#[must_use]
pub fn is_for_many(message: &pb::Message) -> bool {
    message.receiver_type == ReceiverType::RtUser as i32 && message.receiver_id == 0
}

impl Encoded<'_> {
    /// The pieces, which belong one after the other.
    #[must_use]
    pub fn pieces(&self) -> [&[u8]; 3] {
        [self.head.as_slice(), self.message, self.tail.as_slice()]
    }
}

impl<const MAX: usize> Short<MAX> {
    /// What `write` puts into a buffer of `MAX` bytes; it returns how many it left.
    fn new(write: impl FnOnce(&mut [u8]) -> usize) -> Self {
        let mut bytes = [0; MAX];
        let len = MAX - write(&mut bytes);
        Self { bytes, len }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READER: UserId = UserId(77);

    fn message(content: Vec<u8>, id: i64, receiver_id: i64) -> pb::Message {
        pb::Message {
            sender: Some(pb::Sender {
                sender_type: pb::SenderType::StUser as i32,
                sender_id: 7,
                nickname: "né".into(),
                ..Default::default()
            }),
            receiver_type: ReceiverType::RtUser as i32,
            receiver_id,
            to_user_ids: vec![1, 2, 300],
            message_content: content.into(),
            message_id: id,
            client_message_id: "c".into(),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn a_push_decodes_to_the_message_with_its_seq_and_its_reader(
            content in proptest::collection::vec(any::<u8>(), 0..300),
            seq in 0_i64..=i64::MAX,
            id in any::<i64>(),
            receiver in 0..3_i64,
            reader in 1..=i64::MAX,
        ) {
            let message = message(content, id, receiver);
            let push = Arc::new(Template::new(message.clone(), DeviceId(3))).push(Seq(seq));
            let body = push.encode(UserId(reader)).pieces().concat();
            let output = pb::Output::decode(&*body).unwrap();
            prop_assert_eq!(output.r#type, pb::PackageType::PtMessage as i32);
            let sent = pb::MessageSend::decode(output.data).unwrap().message.unwrap();
            let receiver_id = if receiver == 0 { reader } else { receiver };
            prop_assert_eq!(sent, pb::Message { seq, receiver_id, ..message });
        }
    }

    #[test]
    fn shared_message_counts_once_and_until_the_last_holder_lets_go() {
        let budget = Arc::new(Budget::default());
        let template = Arc::new(Template::new(message(vec![1; 100], 1, 0), DeviceId(3)));
        let (one, other) = (template.push(Seq(1)), template.push(Seq(9)));
        for push in [&one, &other] {
            push.template.count_in(&budget);
        }
        assert_eq!(budget.taken(), one.bytes());
        drop((one, template));
        assert_eq!(budget.taken(), other.bytes());
        drop(other);
        assert_eq!(budget.taken(), 0);
    }

    fn command(sender: SenderType, receiver: ReceiverType, code: PushCode) -> pb::Message {
        let news = pb::AddGroupMembersPush {
            group_id: 5,
            ..Default::default()
        };
        let removal = pb::RemoveGroupMemberPush {
            deleted_user_id: READER.get(),
            ..Default::default()
        };
        let data = match code {
            PushCode::PcAddGroupMembers => news.encode_to_vec(),
            _ => removal.encode_to_vec(),
        };
        let command = pb::Command {
            code: code as i32,
            data: data.into(),
        };
        pb::Message {
            sender: Some(pb::Sender {
                sender_type: sender as i32,
                ..Default::default()
            }),
            receiver_type: receiver as i32,
            message_type: MessageType::MtCommand as i32,
            message_content: command.encode_to_vec().into(),
            message_id: 8,
            ..Default::default()
        }
    }

    #[test]
    fn only_the_systems_news_of_large_groups_is_a_mark() {
        use {PushCode as P, ReceiverType as R, SenderType as S};

        let mark = |sender, receiver, code| Mark::of(&command(sender, receiver, code));
        let (add, remove) = (P::PcAddGroupMembers, P::PcRemoveGroupMember);
        let joined = Mark::Joined {
            group: GroupId(5),
            event: MessageId(7),
        };
        assert_eq!(mark(S::StSystem, R::RtUser, add), joined);
        assert_eq!(mark(S::StSystem, R::RtUser, remove), Mark::Removed);
        assert_eq!(
            mark(S::StSystem, R::RtLargeGroup, remove),
            Mark::Left(READER)
        );
        for none in [
            mark(S::StSystem, R::RtLargeGroup, add),
            mark(S::StSystem, R::RtSmallGroup, remove),
            mark(S::StSystem, R::RtUser, P::PcAddFriend),
            mark(S::StUser, R::RtUser, add),
            mark(S::StBusiness, R::RtLargeGroup, remove),
        ] {
            assert_eq!(none, Mark::None);
        }
        let text = pb::Message {
            message_type: MessageType::MtText as i32,
            ..command(S::StSystem, R::RtUser, add)
        };
        assert_eq!(Mark::of(&text), Mark::None);
    }
}
