//! `LogicInt` as a business server calls it.

use bytes::Bytes;
use im::pb::{
    Command, IntSendMessageReq, MessageType, PushToAllReq, PushToRoomReq, PushToUsersReq,
    SendMessageReq, SendMessageResp, SenderType, Text,
};
use prost::Message as _;
use tonic::Status;

use super::{Api, wait::soon};

/// A command of the business, told apart by its data.
pub fn command(data: &str) -> Command {
    Command {
        code: 1_000,
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

impl Api {
    /// Sends as the system or the business.
    pub async fn send_as(
        &self,
        sender_type: SenderType,
        sender_id: i64,
        message: SendMessageReq,
    ) -> Result<SendMessageResp, Status> {
        let request = IntSendMessageReq {
            sender_type: sender_type.into(),
            sender_id,
            message: Some(message),
        };
        let mut internal = self.internal();
        let answer = soon("LogicInt.SendMessage", internal.send_message(request)).await?;
        Ok(answer.into_inner())
    }

    /// Pushes to many users; the message id.
    pub async fn push_to_users(&self, request: PushToUsersReq) -> Result<i64, Status> {
        let mut internal = self.internal();
        let answer = soon("PushToUsers", internal.push_to_users(request)).await?;
        Ok(answer.into_inner().message_id)
    }

    /// Pushes to every device that is online.
    pub async fn push_to_all(&self, command: Option<Command>) -> Result<(), Status> {
        let mut internal = self.internal();
        soon("PushToAll", internal.push_to_all(PushToAllReq { command })).await?;
        Ok(())
    }

    /// Pushes to whoever is in a room.
    pub async fn push_to_room(&self, request: PushToRoomReq) -> Result<(), Status> {
        let mut internal = self.internal();
        soon("PushToRoom", internal.push_to_room(request)).await?;
        Ok(())
    }

    /// Pushes a text to whoever is in a room.
    pub async fn push_text_to_room(&self, room_id: i64, words: &str) {
        let content = Text { text: words.into() }.encode_to_vec();
        let request = PushToRoomReq {
            room_id,
            message_type: MessageType::MtText.into(),
            message_content: content.into(),
        };
        self.push_to_room(request).await.expect("PushToRoom");
    }
}
