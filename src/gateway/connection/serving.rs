//! Serving: one package after the other, in the order they came in; heartbeats pass the line, and
//! sends leave it when they are queued.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

use super::{Connection, Waiting};
use crate::{
    error::{Error, Result as ImResult},
    gateway::{
        close::Close,
        dispatch::{self, Done, Head, Sending},
        link::Link,
        session::Admission,
    },
    id::{DeviceId, GroupId, Owner, Seq, UserId},
    limits::{SENDS_IN_FLIGHT_MAX, WRITE_BUFFER_BYTES_MAX},
    message::{Origin, Sent},
    pb,
    timeline::{ack::Key, sync::Ends},
};

impl Connection {
    /// Nothing is under way that a package would have to wait for.
    pub(super) fn is_idle(&self) -> bool {
        self.working.is_none()
            && self.backlog.is_empty()
            && self.receipts.len() < SENDS_IN_FLIGHT_MAX
    }

    /// Nothing is left to do for the peer.
    pub(super) fn is_quiet(&self) -> bool {
        self.working.is_none()
            && self.backlog.is_empty()
            && self.receipts.is_empty()
            && self.outbox.is_empty()
            && self.paused_until.is_none()
    }

    pub(super) fn take_backlog(&mut self) -> Result<(), Close> {
        while self.working.is_none()
            && self.receipts.len() < SENDS_IN_FLIGHT_MAX
            && self.outbox.len() < WRITE_BUFFER_BYTES_MAX
            && let Some(Waiting { input, frame_bytes }) = self.backlog.pop_front()
        {
            self.backlog_bytes -= frame_bytes;
            self.serve(input)?;
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
        Ok(())
    }

    pub(super) fn serve(&mut self, input: pb::Input) -> Result<(), Close> {
        let head = Head::of(&input);
        match (self.session.admit(input.r#type), self.session.identity()) {
            (Admission::SignIn, _) => {
                self.working = Some(dispatch::sign_in(&self.gateway, self.client, input));
            }
            (Admission::SignInAgain, Some((user, _))) => {
                self.working = self.link.as_ref().map(|link| {
                    dispatch::sign_in_again(&self.gateway, user, link.shared_handle(), input)
                });
            }
            (Admission::Sync, Some((user, device))) => {
                self.begin_sync(Origin { user, device }, head, input.data);
            }
            (Admission::Send, Some((user, device))) => {
                let from = Origin { user, device };
                self.working = Some(dispatch::send(&self.gateway, from, input));
            }
            (Admission::Heartbeat, _) => self.answer(&head.empty()),
            (Admission::Ack, from) => {
                let (user, device) = from.unzip();
                // Nothing of it is logged but at debug level, and there are very many.
                let span = tracing::debug_span!("ack", request_id = %head.request_id, user = user.map(UserId::get), device = device.map(DeviceId::get));
                let _span = span.entered();
                if let Err(error) = self.ack(input.data) {
                    self.answer(&head.error(&error));
                }
            }
            (Admission::SubscribeRoom, Some((user, device))) => {
                let from = Origin { user, device };
                self.working = Some(dispatch::subscribe_room(&self.gateway, from, input));
            }
            (Admission::Refuse(error), _) => self.answer(&head.error(&error)),
            (Admission::End(error), _) => {
                self.answer(&head.error(&error));
                return Err(Close::SignInRefused);
            }
            (_, None) => {
                self.answer(&head.error(&Error::sign_in_again()));
                return Err(Close::SignInRefused);
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, done: Done) -> Result<(), Close> {
        match done {
            Done::SignedIn(head, link) => {
                self.answer(&head.empty());
                self.go_live(link);
            }
            Done::SignInRefused(answer) => {
                self.answer(&answer);
                return Err(Close::SignInRefused);
            }
            Done::Answered(answer) => self.answer(&answer),
            Done::Accepted(sending) => self.receipts.push_back(sending),
            Done::Synced(answer, ends) => {
                self.answer(&answer);
                self.page_given(&ends);
            }
            Done::SyncFailed(answer) => self.sync_failed(&answer),
            Done::RoomFound(head, lease) => {
                if let Some(link) = &mut self.link {
                    link.enter_room(lease);
                }
                self.working = Some(dispatch::enter_room(&self.gateway, head));
            }
        }
        Ok(())
    }

    pub(super) fn go_live(&mut self, link: Box<Link>) {
        let (user, device) = (link.user, link.device());
        self.session
            .signed_in(user, device, link.signed_in_at, link.acked);
        self.link = Some(link);
        self.sessions().inc();
    }

    /// The gauge that counts this connection while it is signed in.
    pub(super) fn sessions(&self) -> &Gauge {
        let sessions = &self.gateway.metrics.sessions;
        if self.framing.is_websocket() {
            &sessions.websocket
        } else {
            &sessions.tcp
        }
    }

    /// What is asked for is held at once, before anything is read.
    fn begin_sync(&mut self, from: Origin, head: Head, data: Bytes) {
        match dispatch::decode::<pb::SyncInput>(data) {
            Ok(asked) => {
                self.session.begin_sync();
                if let Some(link) = &mut self.link {
                    link.hold(asked.group_seqs.keys().copied().map(GroupId));
                }
                self.working = Some(dispatch::sync(&self.gateway, from, head, asked));
            }
            Err(error) => self.sync_failed(&head.error(&error)),
        }
    }

    fn sync_failed(&mut self, answer: &pb::Output) {
        self.answer(answer);
        self.session.abandon_sync();
        self.release();
    }

    pub(super) fn page_given(&mut self, ends: &Ends) {
        let now = Instant::now();
        let counts = self
            .session
            .page_given(ends.user.end, ends.is_unfinished(), now);
        if let Some(link) = &mut self.link {
            link.synced(ends);
            let owner = link.owner();
            self.note_ack(owner, counts);
        }
    }

    pub(super) fn release(&mut self) {
        if let Some(link) = &mut self.link {
            link.release();
        }
    }

    pub(super) fn ack(&mut self, data: Bytes) -> ImResult<()> {
        let ack: pb::MessageAck = dispatch::decode(data)?;
        if ack.device_ack < 0 {
            return Err(Error::bad_request("device_ack", "must not be negative"));
        }
        if ack.group_id < 0 {
            return Err(Error::bad_request("group_id", "must not be negative"));
        }
        let Some(link) = &self.link else {
            return Ok(());
        };
        let owner = match ack.group_id {
            0 => link.owner(),
            group => Owner::Group(GroupId(group)),
        };
        // A group the user is not in is ignored, like a cursor for it.
        if let Some(head) = link.head(owner) {
            let seq = Seq(ack.device_ack);
            let counts = match owner {
                Owner::User(_) => self.session.ack(seq, head),
                Owner::Group(_) => (Seq::ZERO < seq && seq <= head).then_some(seq),
            };
            self.note_ack(owner, counts);
        }
        Ok(())
    }

    pub(super) fn note_ack(&self, owner: Owner, seq: Option<Seq>) {
        if let (Some(link), Some(seq)) = (&self.link, seq) {
            let key = Key {
                user: link.user,
                owner,
                device: link.device(),
            };
            self.gateway.acks.note(key, seq);
        }
    }

    pub(super) fn answer_stored(&mut self, sent: ImResult<Sent>) {
        if let Some(Sending { head, span, .. }) = self.receipts.pop_front() {
            let answer = match sent {
                Ok(sent) => head.ok(&pb::SendMessageResp::from(sent)),
                Err(error) => span.in_scope(|| head.error(&error)),
            };
            self.answer(&answer);
        }
        if self.receipts.is_empty() {
            self.receipts = VecDeque::new();
        }
    }
}
