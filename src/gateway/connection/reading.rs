//! Reading: bytes from the socket, frames from the bytes, packages from the frames, as long as what they
//! can lead to has room.

use std::{io, time::Instant};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::io::Interest;

use super::{Connection, READ_BYTES, Waiting};
use crate::{
    error::Error,
    gateway::{
        close::Close,
        dispatch::Head,
        frame::{Frame, FrameError},
    },
    limits::{BACKLOG_BYTES_MAX, BACKLOG_FRAMES_MAX, READ_AHEAD_BYTES_MAX, WRITE_BUFFER_BYTES_MAX},
    pb::{self, PackageType},
};

impl Connection {
    /// What of the socket is worth waiting for.
    pub(super) fn interest(&self) -> Option<Interest> {
        let may_read = !self.at_end && self.has_room() && self.paused_until.is_none();
        match (may_read, !self.outbox.is_empty()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    /// Whether another frame may be taken: everything it can lead to is bounded.
    pub(super) fn has_room(&self) -> bool {
        self.backlog_has_room()
            && self.outbox.len() < WRITE_BUFFER_BYTES_MAX
            && self.inbox.len() < READ_AHEAD_BYTES_MAX
    }

    pub(super) fn backlog_has_room(&self) -> bool {
        self.backlog.len() < BACKLOG_FRAMES_MAX && (self.backlog_bytes as usize) < BACKLOG_BYTES_MAX
    }

    pub(super) fn read(&mut self) -> Result<(), Close> {
        while self.inbox.len() < READ_AHEAD_BYTES_MAX {
            self.inbox.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.inbox) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                // Less than there was room for: the socket is empty.
                Ok(_) if self.inbox.len() < self.inbox.capacity() => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Close::PeerGone),
            }
        }
        Ok(())
    }

    /// Takes whole frames from the inbox for as long as they may be taken; true when packages may
    /// be left that wait for nothing but the answers to be written.
    pub(super) fn take_frames(&mut self) -> Result<bool, Close> {
        self.take_backlog()?;
        self.paused_until = None;
        while self.backlog_has_room() && self.outbox.len() < WRITE_BUFFER_BYTES_MAX {
            let now = Instant::now();
            if !self.inbox.is_empty() {
                self.paused_until = self.rate.resume_at(now);
                if self.paused_until.is_some() {
                    return Ok(false);
                }
            }
            match self.framing.next(&mut self.inbox) {
                Ok(Some(frame)) => self.take_frame(frame, now)?,
                Ok(None) => {
                    // Everything the peer has sent was taken: it does not send in excess.
                    self.rate.keeps_up();
                    break;
                }
                Err(error) => return Err(self.refuse_frame(error)),
            }
        }
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        Ok(self.outbox.len() >= WRITE_BUFFER_BYTES_MAX)
    }

    pub(super) fn take_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Close> {
        self.rate.count(now);
        match frame {
            Frame::Body(body) => {
                self.last_frame = now;
                self.take_body(body)
            }
            Frame::Ping(payload) => {
                self.framing.put_pong(&payload, &mut self.outbox);
                Ok(())
            }
            Frame::Pong | Frame::Fragment => Ok(()),
            Frame::Close(code) => Err(Close::PeerClosed(code)),
        }
    }

    pub(super) fn take_body(&mut self, body: Bytes) -> Result<(), Close> {
        let frame_bytes = body.len() as u32;
        let input = match pb::Input::decode(body) {
            Ok(input) => input,
            Err(error) => {
                let head = Head {
                    r#type: PackageType::PtUnknown as i32,
                    request_id: 0,
                };
                self.answer(&head.error(&Error::bad_request("frame", error)));
                return Err(Close::BadFrame);
            }
        };
        let is_heartbeat = input.r#type == PackageType::PtHeartbeat as i32;
        if (is_heartbeat && self.link.is_some()) || self.is_idle() {
            self.serve(input)
        } else {
            self.backlog_bytes += frame_bytes;
            self.backlog.push_back(Waiting { input, frame_bytes });
            Ok(())
        }
    }

    pub(super) fn refuse_frame(&mut self, error: FrameError) -> Close {
        match error {
            FrameError::Text => Close::TextMessage,
            FrameError::TooLong if self.framing.is_websocket() => Close::TooLarge,
            FrameError::Protocol => Close::BadWebSocket,
            FrameError::Empty | FrameError::TooLong => {
                let head = Head {
                    r#type: PackageType::PtUnknown as i32,
                    request_id: 0,
                };
                self.answer(&head.error(&Error::bad_request("frame", "empty or too long")));
                Close::BadFrame
            }
        }
    }
}
