//! Sends as the tests make them.

use bytes::Bytes;
use im::pb::{Message, MessageType, ReceiverType, SendMessageReq, Text};
use prost::Message as _;

/// A persisted text to a user.
pub fn text(receiver: i64, words: &str) -> SendMessageReq {
    let content = Text { text: words.into() }.encode_to_vec();
    SendMessageReq {
        receiver_type: ReceiverType::RtUser.into(),
        receiver_id: receiver,
        message_type: MessageType::MtText.into(),
        message_content: content.into(),
        is_persist: true,
        ..Default::default()
    }
}

/// A persisted text with a `client_message_id`.
pub fn text_with_id(receiver: i64, words: &str, id: &str) -> SendMessageReq {
    SendMessageReq {
        client_message_id: id.into(),
        ..text(receiver, words)
    }
}

/// A text that is not stored.
pub fn ephemeral(receiver: i64, words: &str) -> SendMessageReq {
    SendMessageReq {
        is_persist: false,
        ..text(receiver, words)
    }
}

/// A persisted message whose content has exactly `bytes` bytes.
pub fn sized(receiver: i64, bytes: usize) -> SendMessageReq {
    SendMessageReq {
        message_type: MessageType::MtCustom.into(),
        message_content: custom_content(bytes),
        ..text(receiver, "")
    }
}

/// A valid `Custom` that encodes to exactly `bytes` bytes.
fn custom_content(bytes: usize) -> Bytes {
    let mut content = im::pb::Custom {
        data: "x".repeat(bytes),
    };
    while content.encoded_len() > bytes {
        content.data.pop();
    }
    assert_eq!(
        content.encoded_len(),
        bytes,
        "a content of that size exists"
    );
    content.encode_to_vec().into()
}

/// The words of a text message.
pub fn words(message: &Message) -> String {
    Text::decode(message.message_content.clone())
        .expect("a text")
        .text
}

/// The seqs of messages, in their order.
pub fn seqs(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|m| m.seq).collect()
}
