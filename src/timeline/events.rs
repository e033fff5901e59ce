//! What the business server is told of messages: in whose order, and whether a person is to be
//! notified of one. The rows themselves are `store::outbox`'s.

use prost::Message as _;

use super::append::NewMessage;
use crate::{
    pb::{self, MessageType, PushCode, ReceiverType, SenderType},
    store::outbox::{OfMessage, Outbox},
};

impl NewMessage {
    /// What is written beside the message when it is stored, if anything.
    pub(super) fn events(&self, outbox: &Outbox) -> Option<OfMessage> {
        outbox.of_message(self.events_owner(), || self.may_notify())
    }

    /// With whose events it keeps its order: a user's own; what the system or the business sends, with
    /// those of the user or the group it goes to. Groups have negative numbers there.
    fn events_owner(&self) -> i64 {
        const USER: i16 = ReceiverType::RtUser as i16;

        match self.receiver_type {
            _ if self.is_of_user() => self.sender_id,
            USER => self.receiver_id,
            _ => self.receiver_id.saturating_neg(),
        }
    }

    /// Whether a person is to be notified of it whose devices are all away. Commands are for programs,
    /// but for the system's word that somebody wants to be, or is, a friend.
    fn may_notify(&self) -> bool {
        if self.message_type != MessageType::MtCommand as i16 {
            return true;
        }
        self.sender_type == SenderType::StSystem as i16
            && pb::Command::decode(&*self.content).is_ok_and(|command| {
                let code = PushCode::try_from(command.code);
                matches!(code, Ok(PushCode::PcAddFriend | PushCode::PcAgreeAddFriend))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Manual,
        store::outbox::Kind,
        testing::{START_MS, send},
    };

    fn command(sender: SenderType, code: i32) -> NewMessage {
        let content = pb::Command {
            code,
            data: Default::default(),
        };
        NewMessage {
            sender_type: sender as i16,
            message_type: MessageType::MtCommand as i16,
            content: content.encode_to_vec().into(),
            ..send(1, &[2], "", b"").message
        }
    }

    #[test]
    fn people_are_notified_of_what_people_write_and_of_friends() {
        let text = send(1, &[1, 2], "", b"x").message;
        assert!(text.may_notify());
        let system = |code: PushCode| command(SenderType::StSystem, code as i32);
        assert!(system(PushCode::PcAddFriend).may_notify());
        assert!(system(PushCode::PcAgreeAddFriend).may_notify());
        assert!(!system(PushCode::PcAddGroupMembers).may_notify());
        assert!(!command(SenderType::StBusiness, 100).may_notify());
        assert!(!command(SenderType::StUser, 1_000).may_notify());
    }

    #[test]
    fn nothing_is_written_where_nothing_is_told() {
        let text = send(1, &[1, 2], "", b"x").message;
        assert_eq!(text.events(&Outbox::default()), None);
        let clock = Arc::new(Manual::at(START_MS));
        let online = Outbox::telling([Kind::UserOnline], 1, clock.clone());
        assert_eq!(text.events(&online), None);
        let undelivered = Outbox::telling([Kind::MessageUndelivered], 5, clock);
        let events = text.events(&undelivered).unwrap();
        assert_eq!(
            (events.is_told, events.check_at),
            (false, Some(START_MS + 5))
        );
        assert_eq!(
            command(SenderType::StUser, 1_000).events(&undelivered),
            None
        );
    }

    #[test]
    fn events_keep_the_order_of_a_user() {
        let text = send(1, &[1, 2], "", b"x").message;
        assert_eq!(text.events_owner(), 1);
        let of_business = NewMessage {
            sender_type: SenderType::StBusiness as i16,
            ..text
        };
        assert_eq!(of_business.events_owner(), 2);
        let to_group = NewMessage {
            receiver_type: ReceiverType::RtLargeGroup as i16,
            ..of_business
        };
        assert_eq!(to_group.events_owner(), -2);
    }
}
