//! What a device is pushed: an `Output` of type `PT_MESSAGE`, encoded.
//!
//! A message stands on many timelines and differs only in its seq, so everything else is encoded
//! once and each push is that plus one field. Field order is free in protobuf
//! (<https://protobuf.dev/programming-guides/encoding/#order>), so the seq goes last.

use prost::{Message as _, encoding::encode_varint, encoding::encoded_len_varint};

use crate::{
    id::{DeviceId, Seq},
    pb,
};

/// `Output.type = PT_MESSAGE`.
const OUTPUT_TYPE: [u8; 2] = [1 << 3, pb::PackageType::PtMessage as u8];
/// `Output.data`, length-delimited.
const OUTPUT_DATA_KEY: u8 = (5 << 3) | 2;
/// `MessageSend.message`, length-delimited.
const MESSAGE_KEY: u8 = (1 << 3) | 2;
/// `Message.seq`, a varint.
const SEQ_KEY: u8 = 7 << 3;

/// One entry as it is pushed: the body of a frame and what a feed must know of it.
#[derive(Debug, Clone)]
pub struct Push {
    /// Its position in the timeline; [`Seq::ZERO`] when it is ephemeral.
    pub seq: Seq,
    /// The device that sent it, which is not given it back; 0 for none.
    pub origin: DeviceId,
    /// The encoded `Output`.
    pub body: Box<[u8]>,
}

/// A message encoded but for its seq.
#[derive(Debug)]
pub struct Template {
    origin: DeviceId,
    message: Vec<u8>,
}

impl Template {
    /// Encodes `message`; a seq it may bear is left out.
    #[must_use]
    pub fn new(mut message: pb::Message, origin: DeviceId) -> Self {
        message.seq = 0;
        Self {
            origin,
            message: message.encode_to_vec(),
        }
    }

    /// The push for one timeline, or an ephemeral one with [`Seq::ZERO`].
    #[must_use]
    pub fn push(&self, seq: Seq) -> Push {
        let seq_len = match seq {
            Seq::ZERO => 0,
            Seq(n) => 1 + encoded_len_varint(n as u64),
        };
        let message_len = self.message.len() + seq_len;
        let data_len = 1 + encoded_len_varint(message_len as u64) + message_len;
        let body_len = OUTPUT_TYPE.len() + 1 + encoded_len_varint(data_len as u64) + data_len;

        let mut body = Vec::with_capacity(body_len);
        body.extend_from_slice(&OUTPUT_TYPE);
        body.push(OUTPUT_DATA_KEY);
        encode_varint(data_len as u64, &mut body);
        body.push(MESSAGE_KEY);
        encode_varint(message_len as u64, &mut body);
        body.extend_from_slice(&self.message);
        if seq != Seq::ZERO {
            body.push(SEQ_KEY);
            encode_varint(seq.get() as u64, &mut body);
        }
        Push {
            seq,
            origin: self.origin,
            body: body.into_boxed_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(content: Vec<u8>, id: i64) -> pb::Message {
        pb::Message {
            sender: Some(pb::Sender {
                sender_type: pb::SenderType::StUser as i32,
                sender_id: 7,
                nickname: "né".into(),
                ..Default::default()
            }),
            receiver_type: pb::ReceiverType::RtUser as i32,
            receiver_id: 9,
            to_user_ids: vec![1, 2, 300],
            message_content: content.into(),
            message_id: id,
            client_message_id: "c".into(),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn a_push_decodes_to_the_message_with_its_seq(
            content in proptest::collection::vec(any::<u8>(), 0..300),
            seq in 0_i64..=i64::MAX,
            id in any::<i64>(),
        ) {
            let message = message(content, id);
            let push = Template::new(message.clone(), DeviceId(3)).push(Seq(seq));
            let output = pb::Output::decode(&*push.body).unwrap();
            prop_assert_eq!(output.r#type, pb::PackageType::PtMessage as i32);
            let sent = pb::MessageSend::decode(output.data).unwrap().message.unwrap();
            prop_assert_eq!(sent, pb::Message { seq, ..message });
        }
    }
}
