//! What every benchmark message carries in its text: whose it is, which one, and when it was due.
//! A receiver needs nothing else to check completeness, order and latency.
//!
//! The stamp is fixed-width ASCII at the start of a `Text`, so that any server takes it for an
//! ordinary text message and the receiver parses it without allocating.

use prost::Message as _;

use crate::pb;

/// Bytes of a stamp: a mark, four numbers in hexadecimal, a space after each.
const STAMP_BYTES: usize = MARK.len() + 8 + 1 + 8 + 1 + 8 + 1 + 16 + 1;
const MARK: &str = "bench ";

/// Smallest `message_content` that has room for a stamp.
pub const CONTENT_BYTES_MIN: usize = 64;
const _: () = assert!(STAMP_BYTES + 2 <= CONTENT_BYTES_MIN);

/// Identifies one message of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run it belongs to, so that what an earlier run left behind is not counted.
    pub run: u32,
    /// Index of the sender within the run.
    pub sender: u32,
    /// 1, 2, 3 … per sender (and receiver, where one sender has several).
    pub counter: u32,
    /// When the send was due, in nanoseconds since the run began.
    pub due_ns: u64,
}

impl Stamp {
    /// A `Text` that carries the stamp and is `size` bytes long (one less where no text has that
    /// encoded length); never shorter than `CONTENT_BYTES_MIN`.
    pub fn content(&self, size: usize) -> Vec<u8> {
        let text_bytes = text_bytes(size.max(CONTENT_BYTES_MIN));
        let mut text = String::with_capacity(text_bytes);
        text.push_str(&format!(
            "{MARK}{:08x} {:08x} {:08x} {:016x} ",
            self.run, self.sender, self.counter, self.due_ns
        ));
        text.extend(std::iter::repeat_n('x', text_bytes - text.len()));
        pb::Text { text }.encode_to_vec()
    }

    /// The stamp in `content`, or `None` when it is no benchmark message.
    pub fn parse(content: &[u8]) -> Option<Self> {
        const TEXT_TAG: u8 = 0x0a;
        let mut rest = content.strip_prefix(&[TEXT_TAG])?;
        prost::decode_length_delimiter(&mut rest).ok()?;
        let text = std::str::from_utf8(rest.get(..STAMP_BYTES)?).ok()?;
        let mut fields = text.strip_prefix(MARK)?.split(' ');
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        Some(Self {
            run: number()?.try_into().ok()?,
            sender: number()?.try_into().ok()?,
            counter: number()?.try_into().ok()?,
            due_ns: number()?,
        })
    }
}

/// The longest text whose `Text` is at most `size` bytes.
fn text_bytes(size: usize) -> usize {
    let encoded = |text: usize| 1 + prost::length_delimiter_len(text) + text;
    let mut text = size - 2;
    while encoded(text) > size {
        text -= 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_from_content_of_every_size() {
        let stamp = Stamp {
            run: 0xdead_beef,
            sender: 17,
            counter: u32::MAX,
            due_ns: 123_456_789_012,
        };
        for size in [0, 64, 129, 130, 131, 200, 16_386, 60_000] {
            let content = stamp.content(size);
            let wanted = size.max(CONTENT_BYTES_MIN);
            assert!(content.len() == wanted || content.len() + 1 == wanted);
            assert_eq!(Stamp::parse(&content), Some(stamp));
            assert!(pb::Text::decode(&content[..]).is_ok());
        }
    }

    #[test]
    fn other_content_has_no_stamp() {
        let hello = pb::Text {
            text: "hello".repeat(20),
        }
        .encode_to_vec();
        for content in [&[][..], &[0x0a], &[0x0a, 0xff], &hello] {
            assert_eq!(Stamp::parse(content), None);
        }
    }
}
