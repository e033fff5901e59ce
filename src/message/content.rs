//! What a message may look like, before anything is looked up. Content is carried as it is; only
//! what receivers' decoders would choke on is refused.

use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::{
    error::{Error, Result},
    limits::{CLIENT_MESSAGE_ID_BYTES_MAX, CONTENT_BYTES_MAX, MENTIONS_MAX},
    pb::{self, MessageType, ReceiverType},
};

/// Command codes below this belong to the server.
pub const BUSINESS_COMMAND_MIN: i32 = 1_000;

/// Checks the fields of a send, whoever sends it.
///
/// # Errors
/// 10001 naming the field.
pub fn check(request: &pb::SendMessageReq) -> Result<(ReceiverType, MessageType)> {
    let receiver_type = match ReceiverType::try_from(request.receiver_type) {
        Ok(ReceiverType::RtUnknown) | Err(_) => {
            return Err(Error::bad_request("receiver_type", "unknown"));
        }
        Ok(known) => known,
    };
    if request.receiver_id <= 0 {
        return Err(Error::bad_request("receiver_id", "must be positive"));
    }
    if request.to_user_ids.len() > MENTIONS_MAX {
        let why = format_args!("at most {MENTIONS_MAX} users");
        return Err(Error::bad_request("to_user_ids", why));
    }
    if request.to_user_ids.iter().any(|id| *id <= 0) {
        return Err(Error::bad_request("to_user_ids", "must be positive"));
    }
    let message_type = match MessageType::try_from(request.message_type) {
        Ok(MessageType::MtUnknown) | Err(_) => {
            return Err(Error::bad_request("message_type", "unknown"));
        }
        Ok(known) => known,
    };
    check_content(message_type, &request.message_content)?;
    if request.send_time < 0 {
        return Err(Error::bad_request("send_time", "must not be negative"));
    }
    check_client_message_id(&request.client_message_id)?;
    Ok((receiver_type, message_type))
}

/// Checks the content of a message, whoever wrote it.
///
/// # Errors
/// 10001 naming the field.
pub fn check_content(message_type: MessageType, content: &[u8]) -> Result<()> {
    if content.len() > CONTENT_BYTES_MAX {
        let why = format_args!("at most {CONTENT_BYTES_MAX} bytes");
        return Err(Error::bad_request("message_content", why));
    }
    if !strings_are_utf8(message_type, content) {
        return Err(Error::bad_request("message_content", "invalid UTF-8"));
    }
    Ok(())
}

/// Checks the content of a message that a device sends.
///
/// # Errors
/// 10001 naming the field.
pub fn check_device_content(message_type: MessageType, content: &[u8]) -> Result<()> {
    check_content(message_type, content)?;
    match message_type {
        MessageType::MtCommand => check_device_command(content),
        _ => Ok(()),
    }
}

/// Checks the id that a sender gives a message.
///
/// # Errors
/// 10001 naming the field.
pub fn check_client_message_id(id: &str) -> Result<()> {
    if id.len() > CLIENT_MESSAGE_ID_BYTES_MAX {
        let why = format_args!("at most {CLIENT_MESSAGE_ID_BYTES_MAX} bytes");
        return Err(Error::bad_request("client_message_id", why));
    }
    Ok(())
}

/// Checks that a device does not speak with the server's own command codes.
///
/// # Errors
/// 10001 naming the field.
pub fn check_device_command(content: &[u8]) -> Result<()> {
    match pb::Command::decode(content) {
        Ok(command) if command.code >= BUSINESS_COMMAND_MIN => Ok(()),
        Ok(_) => {
            let why = format_args!("codes below {BUSINESS_COMMAND_MIN} belong to the server");
            Err(Error::bad_request("message_content", why))
        }
        Err(_) => Err(Error::bad_request("message_content", "not a Command")),
    }
}

/// False when a string field of the content message is not UTF-8. Bytes that are not a message at
/// all are the business's own format and pass.
fn strings_are_utf8(message_type: MessageType, mut content: &[u8]) -> bool {
    let string_fields: &[u32] = match message_type {
        MessageType::MtText | MessageType::MtLocation | MessageType::MtCustom => &[1],
        MessageType::MtFace => &[2],
        MessageType::MtVoice => &[1, 4],
        MessageType::MtImage => &[1, 4, 5],
        MessageType::MtFile => &[13, 15],
        MessageType::MtCommand | MessageType::MtUnknown => &[],
    };
    while !content.is_empty() {
        let Ok((field, wire_type)) = decode_key(&mut content) else {
            return true;
        };
        if wire_type != WireType::LengthDelimited || !string_fields.contains(&field) {
            let context = DecodeContext::default();
            if skip_field(wire_type, field, &mut content, context).is_err() {
                return true;
            }
            continue;
        }
        let Ok(len) = decode_varint(&mut content) else {
            return true;
        };
        let Some((text, rest)) = usize::try_from(len)
            .ok()
            .and_then(|len| content.split_at_checked(len))
        else {
            return true;
        };
        if std::str::from_utf8(text).is_err() {
            return false;
        }
        content = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        assert!(!strings_are_utf8(
            MessageType::MtText,
            &[0x0a, 2, 0xff, 0xfe]
        ));
        assert!(!strings_are_utf8(
            MessageType::MtImage,
            &[0x10, 3, 0x2a, 1, 0x80]
        ));
    }

    #[test]
    fn content_in_a_format_of_its_own_is_carried() {
        assert!(strings_are_utf8(MessageType::MtText, b"hello"));
        assert!(strings_are_utf8(MessageType::MtCustom, &[0x0a, 200, 1]));
    }

    #[test]
    fn a_device_may_only_use_the_businesss_command_codes() {
        let command = |code| {
            pb::Command {
                code,
                data: Default::default(),
            }
            .encode_to_vec()
        };
        assert!(check_device_command(&command(1_000)).is_ok());
        assert!(check_device_command(&command(999)).is_err());
        assert!(check_device_command(&command(-5)).is_err());
        assert!(check_device_command(&[]).is_err());
        assert!(check_device_command(&[0xff]).is_err());
    }
}
