//! The client's side of WebSocket: the upgrade and the framing, without a buffer of its own, so
//! that an idle connection costs the tool nothing. Fragmented messages are refused: the server
//! sends every body in one frame.

use std::io::Cursor;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tungstenite::{
    handshake::{client::generate_key, derive_accept_key},
    protocol::frame::{
        FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

use super::{accounts::Account, failure::Failure};
use crate::limits;

/// Longest answer to the upgrade in bytes.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// What one frame was.
pub enum Frame {
    /// One body.
    Body(Bytes),
    /// A ping, to be answered with the same bytes.
    Ping(Bytes),
    /// A pong, or something else that needs nothing.
    Nothing,
    /// The server closes, with this code.
    Close(u16),
}

/// Upgrades `stream` and signs in by the URL; returns what came behind the answer.
pub async fn upgrade(stream: &mut TcpStream, account: &Account) -> Result<BytesMut, Failure> {
    let key = generate_key();
    let request = format!(
        "GET /ws?user_id={}&device_id={}&token={} HTTP/1.1\r\nhost: im\r\nupgrade: websocket\r\n\
         connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n",
        account.user_id,
        account.device_id,
        percent_encoded(&account.token),
    );
    let failed = |error| Failure::io("upgrade", &error);
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = BytesMut::new();
    let end = loop {
        if let Some(at) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        let read = stream.read_buf(&mut answer).await.map_err(failed)?;
        if read == 0 || answer.len() > RESPONSE_BYTES_MAX {
            return Err(Failure::closed("during the upgrade"));
        }
    };
    let head = answer.split_to(end);
    check_answer(&String::from_utf8_lossy(&head), &key)?;
    Ok(answer)
}

fn check_answer(head: &str, key: &str) -> Result<(), Failure> {
    match head.split(' ').nth(1) {
        Some("101") => {}
        Some("401") => return Err(Failure::answer(10000, "HTTP 401")),
        status => {
            return Err(Failure::closed(format_args!(
                "HTTP {}",
                status.unwrap_or("?")
            )));
        }
    }
    let accept = head.lines().filter_map(|line| line.split_once(':'));
    let accepted = accept
        .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"))
        .any(|(_, value)| value.trim() == derive_accept_key(key.as_bytes()));
    if accepted {
        Ok(())
    } else {
        Err(Failure::protocol("wrong sec-websocket-accept"))
    }
}

fn percent_encoded(token: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    token
        .bytes()
        .map(|b| match unreserved(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

/// Appends a body as one masked binary message; `encode` writes exactly `length` bytes.
pub fn put_body(output: &mut BytesMut, length: usize, encode: impl FnOnce(&mut BytesMut)) {
    put_frame(output, OpCode::Data(Data::Binary), length, encode);
}

/// Appends the answer to a ping.
pub fn put_pong(output: &mut BytesMut, payload: &[u8]) {
    let pong = OpCode::Control(Control::Pong);
    put_frame(output, pong, payload.len(), |output| {
        output.put_slice(payload)
    });
}

#[expect(clippy::expect_used, reason = "writing to memory does not fail")]
fn put_frame(
    output: &mut BytesMut,
    opcode: OpCode,
    length: usize,
    encode: impl FnOnce(&mut BytesMut),
) {
    let mask: [u8; 4] = rand::random();
    let header = FrameHeader {
        opcode,
        mask: Some(mask),
        ..FrameHeader::default()
    };
    header
        .format(length as u64, &mut output.writer())
        .expect("writing to memory does not fail");
    let start = output.len();
    encode(output);
    for (byte, key) in output[start..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Takes the next whole frame from `input`, or `None` when more bytes are needed.
pub fn take_frame(input: &mut BytesMut) -> Result<Option<Frame>, Failure> {
    let mut cursor = Cursor::new(&input[..]);
    let parsed = FrameHeader::parse(&mut cursor);
    let Some((header, length)) = parsed.map_err(|_| Failure::protocol("bad WebSocket frame"))?
    else {
        return Ok(None);
    };
    let header_bytes = cursor.position() as usize;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limits::FRAME_BODY_BYTES_MAX || header.mask.is_some() || !header.is_final {
        return Err(Failure::protocol(
            "long, masked or fragmented WebSocket frame",
        ));
    }
    if input.len() < header_bytes + length {
        return Ok(None);
    }
    input.advance(header_bytes);
    let mut payload = input.split_to(length).freeze();
    Ok(Some(match header.opcode {
        OpCode::Data(Data::Binary) => Frame::Body(payload),
        OpCode::Control(Control::Ping) => Frame::Ping(payload),
        OpCode::Control(Control::Close) => Frame::Close(payload.try_get_u16().unwrap_or(1005)),
        OpCode::Control(_) => Frame::Nothing,
        OpCode::Data(_) => return Err(Failure::protocol("WebSocket text message")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_masked_and_only_whole_frames_are_taken() {
        let mut sent = BytesMut::new();
        put_body(&mut sent, 300, |output| output.put_bytes(7, 300));
        // A server's frame is the same without the mask.
        let mut cursor = Cursor::new(&sent[..]);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        let mask = header.mask.unwrap();
        let body: Vec<u8> = sent[cursor.position() as usize..]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key)
            .collect();
        assert_eq!((body, length), (vec![7; 300], 300));

        let mut bytes = BytesMut::new();
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Binary),
            ..FrameHeader::default()
        };
        header.format(3, &mut (&mut bytes).writer()).unwrap();
        bytes.put_slice(b"abcnext");
        let mut part = BytesMut::from(&bytes[..4]);
        assert!(take_frame(&mut part).unwrap().is_none());
        let Some(Frame::Body(body)) = take_frame(&mut bytes).unwrap() else {
            panic!("a whole frame is there");
        };
        assert_eq!((&body[..], &bytes[..]), (&b"abc"[..], &b"next"[..]));
        assert!(
            take_frame(&mut sent).is_err(),
            "a masked frame is not from a server"
        );
    }

    #[test]
    fn only_a_proper_upgrade_is_accepted() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = "HTTP/1.1 101 Switching Protocols\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(check_answer(good, key).is_ok());
        assert!(check_answer(&good.replace("s3p", "S3P"), key).is_err());
        let refused = check_answer("HTTP/1.1 401 Unauthorized\r\n\r\n", key).unwrap_err();
        assert_eq!(refused.code(), Some(10000));
    }

    #[test]
    fn a_token_is_safe_in_a_url() {
        assert_eq!(percent_encoded("aZ0-_+/="), "aZ0-_%2B%2F%3D");
    }
}
