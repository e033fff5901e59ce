//! Framing, without I/O: bytes in, frames out.
//!
//! TCP: a 2-byte big-endian length and that many bytes of body. WebSocket (RFC 6455): every binary
//! message is a body. The WebSocket side is read and written here, on the header codec of
//! tungstenite, because a whole WebSocket library keeps buffers of its own for every connection
//! and does not give them back; with this one an idle connection holds no buffer at all.

use std::io::Cursor;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::limits::FRAME_BODY_BYTES_MAX;

/// How bodies are told apart on the wire.
#[derive(Debug)]
pub enum Framing {
    /// Length-prefixed.
    Tcp,
    /// The server's side of a WebSocket after its handshake.
    WebSocket(Fragments),
}

/// A WebSocket message of which not every fragment has come.
#[derive(Debug, Default)]
pub struct Fragments(Option<BytesMut>);

/// What was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A body: an encoded `Input`.
    Body(Bytes),
    /// A WebSocket ping, to be answered with the same payload.
    Ping(Bytes),
    /// A WebSocket pong, which needs no answer.
    Pong,
    /// A part of a WebSocket message, kept until the rest has come.
    Fragment,
    /// A WebSocket close, with its code if it has one.
    Close(Option<u16>),
}

/// Why nothing more can be read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A body without a byte.
    Empty,
    /// Longer than a body may be.
    TooLong,
    /// A WebSocket text message.
    Text,
    /// Against RFC 6455.
    Protocol,
}

/// Bytes of a TCP frame's length prefix.
const PREFIX: usize = 2;
/// Longest payload of a WebSocket control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: u64 = 125;

impl Framing {
    /// Takes the next whole frame from `buffer`, or `None` when bytes are missing.
    ///
    /// # Errors
    /// After an error the rest of the stream means nothing: the connection must be closed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self {
            Self::Tcp => next_tcp(buffer),
            Self::WebSocket(fragments) => next_websocket(fragments, buffer),
        }
    }

    /// Appends a body as a frame of its own.
    pub fn put(&self, body: &[u8], out: &mut BytesMut) {
        self.put_pieces(&[body], out);
    }

    /// Appends a body that consists of pieces, one after the other.
    pub fn put_pieces(&self, pieces: &[&[u8]], out: &mut BytesMut) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        debug_assert!(length <= FRAME_BODY_BYTES_MAX, "a body fits a frame");
        let Ok(prefix) = u16::try_from(length) else {
            return;
        };
        match self {
            Self::Tcp => {
                out.reserve(PREFIX + length);
                out.put_u16(prefix);
                for piece in pieces {
                    out.put_slice(piece);
                }
            }
            Self::WebSocket(_) => put_websocket(OpCode::Data(Data::Binary), pieces, out),
        }
    }

    /// Appends the answer to a ping.
    pub fn put_pong(&self, payload: &[u8], out: &mut BytesMut) {
        if let Self::WebSocket(_) = self {
            put_websocket(OpCode::Control(Control::Pong), &[payload], out);
        }
    }

    /// Appends a goodbye, where the framing has one.
    pub fn put_close(&self, code: u16, out: &mut BytesMut) {
        if let Self::WebSocket(_) = self {
            put_websocket(OpCode::Control(Control::Close), &[&code.to_be_bytes()], out);
        }
    }

    /// True for the framing of WebSockets.
    #[must_use]
    pub const fn is_websocket(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }
}

fn next_tcp(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(Frame::Body(buffer.split_to(length).freeze())))
}

fn next_websocket(
    fragments: &mut Fragments,
    buffer: &mut BytesMut,
) -> Result<Option<Frame>, FrameError> {
    let mut cursor = Cursor::new(&buffer[..]);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| FrameError::Protocol)?;
    let Some((header, length)) = parsed else {
        return Ok(None);
    };
    let header_len = cursor.position() as usize;
    check_header(&header, length, fragments)?;
    let Some(mask) = header.mask else {
        return Err(FrameError::Protocol);
    };
    let length = length as usize;
    if buffer.len() < header_len + length {
        return Ok(None);
    }
    buffer.advance(header_len);
    let mut payload = buffer.split_to(length);
    unmask(&mut payload, mask);
    match header.opcode {
        OpCode::Control(Control::Ping) => Ok(Some(Frame::Ping(payload.freeze()))),
        OpCode::Control(Control::Pong) => Ok(Some(Frame::Pong)),
        OpCode::Control(_) => Ok(Some(Frame::Close(close_code(&payload)?))),
        OpCode::Data(_) => fragments.add(payload, header.is_final).map(Some),
    }
}

/// The rules of RFC 6455 §5 that a header alone can break.
fn check_header(
    header: &FrameHeader,
    length: u64,
    fragments: &Fragments,
) -> Result<(), FrameError> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(FrameError::Protocol);
    }
    let gathered = fragments.0.as_ref().map_or(0, BytesMut::len) as u64;
    match header.opcode {
        OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
            Err(FrameError::Protocol)
        }
        OpCode::Control(_) if !header.is_final || length > CONTROL_BYTES_MAX => {
            Err(FrameError::Protocol)
        }
        OpCode::Control(_) => Ok(()),
        OpCode::Data(Data::Text) => Err(FrameError::Text),
        OpCode::Data(Data::Continue) if fragments.0.is_none() => Err(FrameError::Protocol),
        OpCode::Data(Data::Binary) if fragments.0.is_some() => Err(FrameError::Protocol),
        OpCode::Data(_) if gathered.saturating_add(length) > FRAME_BODY_BYTES_MAX as u64 => {
            Err(FrameError::TooLong)
        }
        OpCode::Data(_) => Ok(()),
    }
}

impl Fragments {
    fn add(&mut self, payload: BytesMut, is_final: bool) -> Result<Frame, FrameError> {
        let whole = match self.0.take() {
            Some(mut gathered) => {
                gathered.extend_from_slice(&payload);
                gathered
            }
            None => payload,
        };
        if !is_final {
            self.0 = Some(whole);
            return Ok(Frame::Fragment);
        }
        if whole.is_empty() {
            return Err(FrameError::Empty);
        }
        Ok(Frame::Body(whole.freeze()))
    }
}

/// A close frame has no payload, or a code and a reason in UTF-8 (RFC 6455 §5.5.1).
fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    match payload {
        [] => Ok(None),
        [_] => Err(FrameError::Protocol),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            if may_be_sent && std::str::from_utf8(reason).is_ok() {
                Ok(Some(code))
            } else {
                Err(FrameError::Protocol)
            }
        }
    }
}

/// RFC 6455 §5.3, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends an unmasked final frame, as servers send them (RFC 6455 §5.1).
#[expect(clippy::expect_used, reason = "the error type is that of any writer")]
fn put_websocket(opcode: OpCode, payload: &[&[u8]], out: &mut BytesMut) {
    const HEADER_MAX: usize = 10;
    let length: usize = payload.iter().map(|piece| piece.len()).sum();
    out.reserve(HEADER_MAX + length);
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    header
        .format(length as u64, &mut out.writer())
        .expect("writing to a buffer in memory cannot fail");
    for piece in payload {
        out.put_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masked(opcode: OpCode, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let header = FrameHeader {
            is_final,
            opcode,
            mask: Some(mask),
            ..FrameHeader::default()
        };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).unwrap();
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        bytes
    }

    /// Feeds `wire` in pieces of the given sizes, over and over, and gathers the frames.
    fn decode(
        mut framing: Framing,
        wire: &[u8],
        pieces: &[usize],
    ) -> Result<Vec<Frame>, FrameError> {
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        let mut rest = wire;
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            buffer.extend_from_slice(now);
            while let Some(frame) = framing.next(&mut buffer)? {
                frames.extend((frame != Frame::Fragment).then_some(frame));
            }
            rest = later;
            if rest.is_empty() {
                return Ok(frames);
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn tcp_bodies_come_out_as_they_went_in_however_they_are_split(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2_000), 0..8),
            pieces in proptest::collection::vec(1_usize..300, 1..5),
        ) {
            let mut wire = BytesMut::new();
            for body in &bodies {
                Framing::Tcp.put(body, &mut wire);
            }
            let frames = decode(Framing::Tcp, &wire, &pieces).unwrap();
            let expected: Vec<Frame> = bodies.into_iter().map(|b| Frame::Body(b.into())).collect();
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn websocket_messages_come_out_whole_however_they_are_fragmented(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2_000), 0..6),
            cut in 0_usize..2_000,
            mask in any::<[u8; 4]>(),
            pieces in proptest::collection::vec(1_usize..300, 1..5),
        ) {
            let mut wire = Vec::new();
            for body in &bodies {
                let (first, second) = body.split_at(cut.min(body.len()));
                wire.extend(masked(OpCode::Data(Data::Binary), false, first, mask));
                wire.extend(masked(OpCode::Control(Control::Ping), true, b"hi", mask));
                wire.extend(masked(OpCode::Data(Data::Continue), true, second, mask));
            }
            let frames = decode(Framing::WebSocket(Fragments::default()), &wire, &pieces).unwrap();
            let expected: Vec<Frame> = bodies
                .into_iter()
                .flat_map(|b| [Frame::Ping(Bytes::from_static(b"hi")), Frame::Body(b.into())])
                .collect();
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn no_bytes_make_the_decoders_panic_or_stall(wire in proptest::collection::vec(any::<u8>(), 0..4_000)) {
            let _ = decode(Framing::Tcp, &wire, &[7]);
            let _ = decode(Framing::WebSocket(Fragments::default()), &wire, &[7]);
        }
    }

    fn refusal(wire: &[u8]) -> Option<FrameError> {
        decode(
            Framing::WebSocket(Fragments::default()),
            wire,
            &[wire.len().max(1)],
        )
        .err()
    }

    #[test]
    fn what_rfc_6455_forbids_is_refused() {
        let mask = [1, 2, 3, 4];
        let binary = OpCode::Data(Data::Binary);
        assert_eq!(
            refusal(&[0x82, 0x01, 0x00]),
            Some(FrameError::Protocol),
            "unmasked"
        );
        assert_eq!(
            refusal(&[0xc2, 0x81, 0, 0, 0, 0, 1]),
            Some(FrameError::Protocol),
            "reserved bit"
        );
        let orphan = masked(OpCode::Data(Data::Continue), true, b"x", mask);
        assert_eq!(refusal(&orphan), Some(FrameError::Protocol));
        let long_ping = masked(OpCode::Control(Control::Ping), true, &[0; 126], mask);
        assert_eq!(refusal(&long_ping), Some(FrameError::Protocol));
        let text = masked(OpCode::Data(Data::Text), true, b"x", mask);
        assert_eq!(refusal(&text), Some(FrameError::Text));
        assert_eq!(
            refusal(&masked(binary, true, b"", mask)),
            Some(FrameError::Empty)
        );
        let too_long = masked(binary, true, &vec![0; FRAME_BODY_BYTES_MAX + 1], mask);
        assert_eq!(refusal(&too_long), Some(FrameError::TooLong));
        assert_eq!(
            refusal(&masked(binary, true, &vec![0; FRAME_BODY_BYTES_MAX], mask)),
            None
        );
    }

    #[test]
    fn a_message_that_grows_too_long_by_fragments_is_refused() {
        let half = vec![0; FRAME_BODY_BYTES_MAX / 2 + 1];
        let mut wire = masked(OpCode::Data(Data::Binary), false, &half, [9; 4]);
        wire.extend(masked(OpCode::Data(Data::Continue), true, &half, [9; 4]));
        assert_eq!(refusal(&wire), Some(FrameError::TooLong));
    }

    #[test]
    fn an_empty_tcp_body_is_refused() {
        assert_eq!(decode(Framing::Tcp, &[0, 0], &[2]), Err(FrameError::Empty));
    }
}
