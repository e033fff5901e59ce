//! What the business server reads: JSON as protobuf's own mapping writes it. Ids are strings, because
//! a program in JavaScript would round them; enums bear the names of the contract, bytes are base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    id::MessageId,
    pb::{self, MessageType, ReceiverType, SenderType},
    store::message::Row,
    timeline::{NewMessage, mentions},
};

/// A message, stored or about to be.
pub(super) struct Told<'a> {
    id: Option<MessageId>,
    sender: (i16, i64),
    device: i64,
    receiver: (i16, i64),
    to_user_ids: Vec<i64>,
    message_type: i16,
    content: &'a [u8],
    send_time: i64,
    client_message_id: String,
}

/// A whole body: what happened, when in unix milliseconds, and to what.
pub(super) fn body(name: &str, at_ms: i64, data: &Value) -> String {
    json!({ "type": name, "timestamp": timestamp(at_ms), "data": data }).to_string()
}

impl Told<'_> {
    pub(super) fn json(&self) -> Value {
        let (sender_type, sender_id) = self.sender;
        let (receiver_type, receiver_id) = self.receiver;
        let mut json = json!({
            "sender": {
                "type": SenderType::try_from(i32::from(sender_type)).unwrap_or_default().as_str_name(),
                "id": sender_id.to_string(),
                "device_id": self.device.to_string(),
            },
            "receiver": {
                "type": ReceiverType::try_from(i32::from(receiver_type))
                    .unwrap_or_default()
                    .as_str_name(),
                "id": receiver_id.to_string(),
            },
            "to_user_ids": self.to_user_ids.iter().map(i64::to_string).collect::<Vec<_>>(),
            "type": self.message_type().as_str_name(),
            "content": STANDARD.encode(self.content),
            "send_time": self.send_time.to_string(),
            "client_message_id": self.client_message_id,
        });
        if let Some(id) = self.id {
            json["id"] = id.get().to_string().into();
        }
        if let Some(text) = self.text() {
            json["text"] = text.into();
        }
        json
    }

    fn message_type(&self) -> MessageType {
        MessageType::try_from(i32::from(self.message_type)).unwrap_or_default()
    }

    /// What a text says, so that nobody needs a decoder for the commonest message.
    fn text(&self) -> Option<String> {
        let is_text = self.message_type() == MessageType::MtText;
        let text = is_text.then(|| pb::Text::decode(self.content).ok())?;
        text.map(|text| text.text)
    }
}

impl<'a> From<&'a Row> for Told<'a> {
    fn from(row: &'a Row) -> Self {
        let client_message_id = row.client_message_id.as_deref().unwrap_or_default();
        Self {
            id: Some(MessageId(row.id)),
            sender: (row.sender_type, row.sender_id),
            device: row.sender_device_id,
            receiver: (row.receiver_type, row.receiver_id),
            to_user_ids: mentions::decode(&row.to_user_ids),
            message_type: row.r#type,
            content: &row.content,
            send_time: row.send_time,
            client_message_id: String::from_utf8_lossy(client_message_id).into_owned(),
        }
    }
}

impl<'a> From<&'a NewMessage> for Told<'a> {
    fn from(message: &'a NewMessage) -> Self {
        Self {
            id: None,
            sender: (message.sender_type, message.sender_id),
            device: message.device.get(),
            receiver: (message.receiver_type, message.receiver_id),
            to_user_ids: message.to_user_ids.clone(),
            message_type: message.message_type,
            content: &message.content,
            send_time: message.send_time,
            client_message_id: message.client_message_id.clone(),
        }
    }
}

/// A time in unix milliseconds as RFC 3339 writes it, in UTC.
fn timestamp(at_ms: i64) -> String {
    let (days, ms) = (at_ms.div_euclid(86_400_000), at_ms.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date that is so many days after 1970-01-01; years begin in March here, so that a leap day is
/// the last of one (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + 400 * era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START_MS, send};

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (START_MS + 7, "2023-11-14T22:13:20.007Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(ms), expected);
        }
    }

    #[test]
    fn message_is_told_as_protobuf_writes_json() {
        let text = pb::Text { text: "hi".into() }.encode_to_vec();
        let mut message = send(1, &[1, 9_007_199_254_740_993], "c", &text).message;
        message.to_user_ids = vec![3];
        let expected = json!({
            "sender": {"type": "ST_USER", "id": "1", "device_id": "10"},
            "receiver": {"type": "RT_USER", "id": "9007199254740993"},
            "to_user_ids": ["3"],
            "type": "MT_TEXT",
            "content": "CgJoaQ==",
            "text": "hi",
            "send_time": START_MS.to_string(),
            "client_message_id": "c",
        });
        assert_eq!(Told::from(&message).json(), expected);
    }
}
