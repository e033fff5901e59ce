//! Writing: answers, and what the feeds have, in as few writes as the socket takes; and the deadlines,
//! most of which are about a peer that takes nothing or sends nothing.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use prost::Message as _;

use super::Connection;
use crate::{
    config::seconds,
    delivery::handle::Eviction,
    gateway::{close::Close, dispatch::Sending},
    pb,
};

impl Connection {
    pub(super) fn answer(&mut self, output: &pb::Output) {
        self.framing.put(&output.encode_to_vec(), &mut self.outbox);
    }

    /// Takes from the feeds what there is room for; true when they have more.
    pub(super) fn pull(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let given = link.pull(&self.gateway, &self.framing, &mut self.outbox);
        if given > 0 {
            self.gateway.metrics.deliveries.inc_by(given.into());
        }
        link.is_ready()
    }

    /// Writes what the socket takes. Everything pending goes in one write.
    pub(super) fn flush(&mut self) -> Result<(), Close> {
        while !self.outbox.is_empty() {
            match self.stream.try_write(&self.outbox) {
                Ok(0) => return Err(Close::PeerGone),
                Ok(written) => {
                    self.outbox.advance(written);
                    self.blocked_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(_) => return Err(Close::PeerGone),
            }
        }
        self.outbox = BytesMut::new();
        Ok(())
    }

    /// When something has to be looked at, whatever happens.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        let config = &self.gateway.config;
        let quiet = match self.session.identity() {
            Some(_) => config.idle_timeout_s,
            None => config.sign_in_timeout_s,
        };
        [
            Some(self.last_frame + seconds(quiet)),
            self.session.held_until(),
            self.blocked_since
                .map(|since| since + seconds(config.write_timeout_s)),
            self.receipts
                .front()
                .and_then(|sending| sending.receipt.deadline()),
            self.paused_until,
            self.time_left()
                .filter(|left| self.working.is_none() || !left.is_zero())
                .map(|left| now + left),
        ]
        .into_iter()
        .flatten()
        .fold(now + seconds(config.idle_timeout_s), Instant::min)
    }

    /// How long the token holds that the session lives by, where the sweep would come too late.
    fn time_left(&self) -> Option<Duration> {
        let handle = self.link.as_ref()?.handle();
        self.gateway.authenticator.time_left(handle)
    }

    pub(super) fn check_deadlines(&mut self, now: Instant) -> Result<(), Close> {
        let config = &self.gateway.config;
        let quiet = now.saturating_duration_since(self.last_frame);
        let is_signed_in = self.session.identity().is_some();
        if is_signed_in && quiet >= seconds(config.idle_timeout_s) {
            return Err(Close::Idle);
        }
        if !is_signed_in && quiet >= seconds(config.sign_in_timeout_s) {
            return Err(Close::SignInTimeout);
        }
        // One that is being renewed has the time that takes.
        let is_busy = self.working.is_some();
        if !is_busy && self.time_left().is_some_and(|left| left.is_zero()) {
            return Err(Close::Evicted(Eviction::SignedOut));
        }
        let stalled =
            |since| now.saturating_duration_since(since) >= seconds(config.write_timeout_s);
        if self.blocked_since.is_some_and(stalled) {
            return Err(Close::WriteStalled);
        }
        if self.paused_until.is_some() && self.rate.is_abused(now) {
            return Err(Close::TooFast);
        }
        if self.session.release_expired(now) {
            self.release();
        }
        while let Some(Sending { receipt, .. }) = self.receipts.front_mut()
            && receipt.deadline().is_some_and(|deadline| deadline <= now)
        {
            let overdue = receipt.give_up();
            self.answer_stored(overdue);
        }
        Ok(())
    }
}
