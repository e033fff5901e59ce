//! What the server itself tells users: the commands of `push.ext.proto`, decoded.

use im::pb::{
    AddFriendPush, AddGroupMembersPush, AgreeAddFriendPush, Command, Message, MessageStatus,
    MessageType, PushCode, RemoveGroupMemberPush, Sender, SenderType, UpdateGroupPush,
};
use prost::Message as _;

use super::Connection;

/// A command of the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    FriendAsked(AddFriendPush),
    FriendAgreed(AgreeAddFriendPush),
    Updated(UpdateGroupPush),
    Added(AddGroupMembersPush),
    Removed(RemoveGroupMemberPush),
}

/// What the server says in `message`; `None` where it comes from a user or a business.
pub fn event(message: &Message) -> Option<Event> {
    let sender = message.sender.as_ref().expect("a sender");
    let system = Sender {
        sender_type: SenderType::StSystem.into(),
        ..Default::default()
    };
    if sender.sender_type != system.sender_type {
        return None;
    }
    assert_eq!(*sender, system, "the server has no id and no profile");
    assert_eq!(message.message_type, i32::from(MessageType::MtCommand));
    assert_eq!(message.status, i32::from(MessageStatus::MsNormal));
    assert!(
        message.seq > 0 && message.message_id > 0,
        "it is persisted: {message:?}"
    );
    let command = Command::decode(message.message_content.clone()).expect("a Command");
    let data = command.data;
    let decoded = match PushCode::try_from(command.code) {
        Ok(PushCode::PcAddFriend) => AddFriendPush::decode(data).map(Event::FriendAsked),
        Ok(PushCode::PcAgreeAddFriend) => AgreeAddFriendPush::decode(data).map(Event::FriendAgreed),
        Ok(PushCode::PcUpdateGroup) => UpdateGroupPush::decode(data).map(Event::Updated),
        Ok(PushCode::PcAddGroupMembers) => AddGroupMembersPush::decode(data).map(Event::Added),
        Ok(PushCode::PcRemoveGroupMember) => {
            RemoveGroupMemberPush::decode(data).map(Event::Removed)
        }
        _ => panic!("a code that no test knows: {}", command.code),
    };
    Some(decoded.expect("the push that the code names"))
}

/// The ids of those whom `message` says were added, ascending; nobody for any other message.
pub fn added(message: &Message) -> Vec<i64> {
    let Some(Event::Added(push)) = event(message) else {
        return Vec::new();
    };
    let mut ids: Vec<_> = push.members.iter().map(|m| m.user_id).collect();
    ids.sort_unstable();
    ids
}

/// Whom `message` says was removed.
pub fn removed(message: &Message) -> Option<i64> {
    match event(message) {
        Some(Event::Removed(push)) => Some(push.deleted_user_id),
        _ => None,
    }
}

/// The messages that are not the server's own.
pub fn said(messages: &[Message]) -> Vec<&Message> {
    messages.iter().filter(|m| event(m).is_none()).collect()
}

impl Connection {
    /// The next push that is not the server's own; events before it are passed over.
    pub async fn said(&mut self) -> Message {
        loop {
            let message = self.push().await;
            if event(&message).is_none() {
                return message;
            }
        }
    }

    /// The next event that is pushed, which must be the next push.
    pub async fn told(&mut self) -> (Message, Event) {
        let message = self.push().await;
        let event = event(&message);
        let event = event.unwrap_or_else(|| panic!("not an event: {message:?}"));
        (message, event)
    }
}
