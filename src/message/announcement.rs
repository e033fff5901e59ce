//! What the system tells of the changes it has made: the commands of `push.ext.proto`.

use std::sync::Arc;

use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::{
    id::{DeviceId, Owner},
    pb::{self, MessageType, PushCode, ReceiverType, SenderType},
    store::append::To,
    timeline::{Append, NewMessage},
};

/// To whom a change is told, and when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// `ReceiverType` of the contract.
    pub receiver_type: ReceiverType,
    /// The receiver; 0 for the user of each timeline.
    pub receiver_id: i64,
    /// In unix milliseconds.
    pub now_ms: i64,
}

/// A message of the system on the timelines of `owners`, to be appended with the change it tells of.
#[must_use]
pub fn announcement(
    address: Address,
    owners: Vec<Owner>,
    code: PushCode,
    data: &impl prost::Message,
) -> Append {
    let command = pb::Command {
        code: code as i32,
        data: data.encode_to_vec().into(),
    };
    let content = command.encode_to_vec();
    Append {
        message: NewMessage {
            sender_type: SenderType::StSystem as i16,
            sender_id: 0,
            device: DeviceId(0),
            receiver_type: address.receiver_type as i16,
            receiver_id: address.receiver_id,
            to_user_ids: Vec::new(),
            message_type: MessageType::MtCommand as i16,
            digest: Sha256::digest(&content).into(),
            content: content.into(),
            send_time: address.now_ms,
            client_message_id: String::new(),
        },
        to: To::Owners(owners),
        answer_owner: None,
        profile: Arc::default(),
    }
}
