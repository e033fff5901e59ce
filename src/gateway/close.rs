//! Why a connection ends, and how that reads on the wire, in the metrics and in the log.

use crate::{delivery::handle::Eviction, error::Error, pb};

/// The reasons a connection ends for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer went away, or the connection broke.
    PeerGone,
    /// A WebSocket peer said goodbye, with this code if it gave one.
    PeerClosed(Option<u16>),
    /// Nothing was signed in within the time for it.
    SignInTimeout,
    /// The credential was refused, or something was sent before signing in.
    SignInRefused,
    /// No frame came within the idle timeout.
    Idle,
    /// The peer did not take bytes within the write timeout.
    WriteStalled,
    /// It sent faster than allowed for too long.
    TooFast,
    /// A frame that cannot be read.
    BadFrame,
    /// A WebSocket frame against RFC 6455.
    BadWebSocket,
    /// A WebSocket text message.
    TextMessage,
    /// A WebSocket message larger than a body may be.
    TooLarge,
    /// The server ended a session that did nothing wrong.
    Evicted(Eviction),
}

impl Close {
    /// The label in the metrics and the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerGone => "peer_gone",
            Self::PeerClosed(_) => "peer_closed",
            Self::SignInTimeout => "sign_in_timeout",
            Self::SignInRefused => "sign_in_refused",
            Self::Idle => "idle",
            Self::WriteStalled => "write_stalled",
            Self::TooFast => "too_fast",
            Self::BadFrame => "bad_frame",
            Self::BadWebSocket => "bad_websocket",
            Self::TextMessage => "text_message",
            Self::TooLarge => "too_large",
            Self::Evicted(Eviction::Replaced) => "replaced",
            Self::Evicted(Eviction::SignedOut) => "signed_out",
            Self::Evicted(Eviction::Draining) => "draining",
        }
    }

    /// The WebSocket close code (RFC 6455 §7.4; from 4000 on, this protocol's own).
    #[must_use]
    pub const fn websocket_code(self) -> u16 {
        match self {
            Self::PeerGone => 1000,
            Self::PeerClosed(code) => match code {
                Some(code) => code,
                None => 1000,
            },
            Self::Evicted(Eviction::Draining) => 1001,
            Self::BadWebSocket => 1002,
            Self::TextMessage => 1003,
            Self::SignInTimeout
            | Self::SignInRefused
            | Self::BadFrame
            | Self::TooFast
            | Self::WriteStalled => 1008,
            Self::TooLarge => 1009,
            Self::Evicted(Eviction::Replaced) => 4001,
            Self::Evicted(Eviction::SignedOut) => 4002,
            Self::Idle => 4003,
        }
    }

    /// The notice the device is given before the connection ends, if the server ends it for a
    /// reason of its own.
    #[must_use]
    pub fn notice(self, retry_after_ms: i64) -> Option<pb::Notice> {
        let Self::Evicted(why) = self else {
            return None;
        };
        let (code, message, retry_after_ms) = match why {
            Eviction::Replaced => (
                pb::NoticeCode::NcReplaced,
                "the same device opened a newer connection",
                0,
            ),
            Eviction::SignedOut => (
                pb::NoticeCode::NcSignedOut,
                "the token was revoked or has expired",
                0,
            ),
            Eviction::Draining => (
                pb::NoticeCode::NcDraining,
                "this instance is shutting down, reconnect",
                retry_after_ms,
            ),
        };
        Some(pb::Notice {
            code: code as i32,
            message: message.into(),
            retry_after_ms,
        })
    }

    /// The error the device is answered before the connection ends, where the reason is an error
    /// that no request of its own was answered with.
    #[must_use]
    pub fn error(self) -> Option<Error> {
        match self {
            Self::SignInTimeout => Some(Error::sign_in_again()),
            Self::TooFast => Some(Error::business(
                crate::error::Code::TooManyRequests,
                "too many frames a second for too long",
            )),
            _ => None,
        }
    }
}
