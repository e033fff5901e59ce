//! Ending: say why, as far as the peer still listens, and close without losing what was said.

use std::io;

use bytes::BytesMut;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Connection, READ_BYTES};
use crate::{
    delivery::handle::Eviction,
    gateway::{close::Close, dispatch::Head},
    limits::{CLOSE_LINGER_MAX, DRAIN_LINGER_MAX},
    pb::{self, PackageType},
};

impl Connection {
    /// Says why, as far as the peer still listens, and closes.
    pub(super) async fn end(&mut self, why: Close) {
        if why == Close::Evicted(Eviction::Draining) {
            // Who was promised an answer should not have to ask again.
            self.settle().await;
        }
        self.session.close();
        if self.link.take().is_some() {
            self.sessions().dec();
            self.gateway.acks.hurry();
        }
        if why == Close::PeerGone || why == Close::WriteStalled {
            return;
        }
        let retry_after_ms = self.gateway.retry_after_ms();
        if let Some(notice) = why.notice(retry_after_ms) {
            self.answer(&pb::Output {
                r#type: PackageType::PtNotice as i32,
                data: notice.encode_to_vec().into(),
                ..Default::default()
            });
        }
        if let Some(error) = why.error() {
            let head = Head {
                r#type: PackageType::PtUnknown as i32,
                request_id: 0,
            };
            self.answer(&head.error(&error));
        }
        self.framing
            .put_close(why.websocket_code(), &mut self.outbox);
        // A peer that hangs must not hold the connection, and a drain less than any.
        let linger = match why {
            Close::Evicted(Eviction::Draining) => DRAIN_LINGER_MAX,
            _ => CLOSE_LINGER_MAX,
        };
        let _ = tokio::time::timeout(linger, self.say_goodbye()).await;
    }

    /// Waits for what is under way and answers it: each within its own deadline.
    pub(super) async fn settle(&mut self) {
        while let Some(working) = self.working.take() {
            // Nothing that ends the connection matters any more.
            let _ = self.finish(working.await);
        }
        while let Some(sending) = self.receipts.front_mut() {
            let sent = sending.receipt.done().await;
            self.answer_stored(sent);
        }
    }

    /// Writes the rest and waits for the peer to close: closing a socket with unread bytes would
    /// reset it, and the peer might lose what was written last (RFC 1122 §4.2.2.13).
    pub(super) async fn say_goodbye(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.outbox).await?;
        self.stream.shutdown().await?;
        let mut rest = BytesMut::with_capacity(READ_BYTES);
        while self.stream.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        Ok(())
    }
}
