//! Rooms: subscriptions of a connection, and sends to a room.

use im::pb::{Output, PackageType, ReceiverType, SendMessageReq, SubscribeRoomInput};

use super::{Connection, errors::assert_code, messages::ephemeral};

/// A text to a room.
pub fn room_text(room_id: i64, words: &str) -> SendMessageReq {
    SendMessageReq {
        receiver_type: ReceiverType::RtRoom.into(),
        ..ephemeral(room_id, words)
    }
}

impl Connection {
    /// Asks to follow a room instead of the one before; 0 asks for none.
    pub async fn try_subscribe(&mut self, room_id: i64) -> Output {
        let input = SubscribeRoomInput { room_id };
        self.request(PackageType::PtSubscribeRoom, &input).await
    }

    /// Follows a room instead of the one before; 0 follows none.
    pub async fn subscribe(&mut self, room_id: i64) {
        let answer = self.try_subscribe(room_id).await;
        assert_code(&answer, 0);
    }
}
