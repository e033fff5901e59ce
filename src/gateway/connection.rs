//! The driver of a connection, one for both transports: it reads frames, hands packages to the
//! session and to `dispatch`, pulls pushes from the feeds, writes, and keeps the deadlines.
//!
//! One task per connection, and no queue between it and anything: what is not written yet stays in
//! the feeds (I6). Invariant: buffers exist only while they hold something.

use std::{collections::VecDeque, io, pin::Pin, sync::Arc, time::Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, Ready},
    net::TcpStream,
    time::Sleep,
};

use super::{
    Gateway,
    close::Close,
    dispatch::{self, Done, Head},
    frame::{Frame, FrameError, Framing},
    link::{self, Link},
    rate::Rate,
    session::{Admission, Session},
};
use crate::{
    config::seconds,
    delivery::handle::Eviction,
    error::{Error, Result as ImResult},
    id::Seq,
    limits::{
        BACKLOG_BYTES_MAX, BACKLOG_FRAMES_MAX, CLOSE_LINGER_MAX, READ_AHEAD_BYTES_MAX,
        SENDS_IN_FLIGHT_MAX, WRITE_BUFFER_BYTES_MAX,
    },
    message::{Origin, Receipt, Sent},
    pb::{self, PackageType},
    timeline::ack::Key,
};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 4 * 1024;
/// Full write buffers written before other connections have their turn.
const ROUNDS_MAX: usize = 8;

/// A connection and everything it holds.
pub(super) struct Connection {
    gateway: Arc<Gateway>,
    stream: TcpStream,
    framing: Framing,
    session: Session,
    link: Option<Box<Link>>,
    /// Bytes received that are not a whole frame yet, or wait for their turn.
    inbox: BytesMut,
    /// Bytes to be written.
    outbox: BytesMut,
    /// Packages that wait behind `working`.
    backlog: VecDeque<Waiting>,
    backlog_bytes: usize,
    /// The package that is being served.
    working: Option<BoxFuture<'static, Done>>,
    /// Messages that wait for their commit, in the order they were sent in.
    receipts: VecDeque<(Head, Receipt)>,
    rate: Rate,
    last_frame: Instant,
    /// Since when the peer takes no bytes.
    blocked_since: Option<Instant>,
    /// The peer sends nothing more.
    at_end: bool,
}

/// A package in the backlog. Its frame is kept as long as it is, whatever part of it was asked for.
struct Waiting {
    input: pb::Input,
    frame_bytes: usize,
}

/// What a connection waits for.
enum Event {
    Ready(io::Result<Ready>),
    Link(link::Event),
    Worked(Done),
    Stored(ImResult<Sent>),
    Deadline,
    Draining,
}

impl Connection {
    /// A connection over `stream`, of which `received` was read already. `link` is there when the
    /// sign-in came before the connection, in a WebSocket's URL.
    pub(super) fn new(
        gateway: Arc<Gateway>,
        stream: TcpStream,
        framing: Framing,
        received: BytesMut,
        link: Option<Box<Link>>,
    ) -> Self {
        let now = Instant::now();
        let session = Session::new(seconds(gateway.config.sync_hold_s));
        let rate = Rate::new(gateway.config.frames_per_s_max, now);
        let mut connection = Self {
            gateway,
            stream,
            framing,
            session,
            link: None,
            inbox: received,
            outbox: BytesMut::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            working: None,
            receipts: VecDeque::new(),
            rate,
            last_frame: now,
            blocked_since: None,
            at_end: false,
        };
        if let Some(link) = link {
            connection.go_live(link);
        }
        connection
    }

    /// Drives the connection to its end.
    ///
    /// The future is all that an idle connection is, besides what it follows, so it is kept small:
    /// a block, because an `async fn` would hold `self` twice, and its end is boxed.
    #[expect(clippy::manual_async_fn, reason = "said above")]
    pub(super) fn run(mut self) -> impl Future<Output = ()> {
        async move {
            let why = self.drive().await;
            tracing::debug!(reason = why.label(), "connection ended");
            self.gateway.metrics.closed(why.label());
            Box::pin(self.end(why)).await;
        }
    }

    async fn drive(&mut self) -> Close {
        let sleep = tokio::time::sleep_until(self.deadline(Instant::now()).into());
        tokio::pin!(sleep);
        loop {
            if let Err(why) = self.advance() {
                return why;
            }
            if self.at_end && self.is_quiet() {
                return Close::PeerGone;
            }
            let deadline = self.deadline(Instant::now());
            if deadline < sleep.deadline().into_std() {
                sleep.as_mut().reset(deadline.into());
            }
            let event = self.next_event(sleep.as_mut()).await;
            if let Err(why) = self.handle(event, sleep.as_mut()) {
                return why;
            }
        }
    }

    /// Does everything that can be done without waiting, but leaves the thread to others after
    /// some rounds.
    fn advance(&mut self) -> Result<(), Close> {
        if let Some(why) = self.link.as_ref().and_then(|link| link.handle().eviction()) {
            return Err(Close::Evicted(why));
        }
        self.take_frames()?;
        for _ in 0..ROUNDS_MAX {
            let has_more = self.pull();
            self.flush()?;
            if !has_more || !self.outbox.is_empty() {
                return Ok(());
            }
        }
        if let Some(link) = &self.link {
            link.handle().wake_again();
        }
        Ok(())
    }

    /// Waits for whatever comes first. Cancel safe, as everything it waits for is.
    async fn next_event(&mut self, sleep: Pin<&mut Sleep>) -> Event {
        let interest = self.interest(Instant::now());
        let is_signed_in = self.link.is_some();
        tokio::select! {
            event = link_event(&mut self.link) => Event::Link(event),
            ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => {
                Event::Ready(ready)
            }
            done = worked(&mut self.working) => Event::Worked(done),
            sent = stored(&mut self.receipts) => Event::Stored(sent),
            () = self.gateway.draining.cancelled(), if !is_signed_in => Event::Draining,
            () = sleep => Event::Deadline,
        }
    }

    fn handle(&mut self, event: Event, sleep: Pin<&mut Sleep>) -> Result<(), Close> {
        match event {
            Event::Ready(Ok(ready)) => {
                if ready.is_writable() {
                    self.flush()?;
                }
                if ready.is_readable() {
                    self.read()?;
                }
                Ok(())
            }
            Event::Ready(Err(_)) => Err(Close::PeerGone),
            Event::Worked(done) => self.finish(done),
            Event::Stored(sent) => {
                self.answer_stored(sent);
                Ok(())
            }
            Event::Link(link::Event::Woken) => {
                if let Some(link) = &mut self.link {
                    link.take_ready();
                }
                Ok(())
            }
            Event::Link(link::Event::CaughtUp(slot, pushes)) => {
                if let Some(link) = &mut self.link {
                    let given = link.take_caught_up(slot, &pushes, &self.framing, &mut self.outbox);
                    self.gateway.metrics.deliveries.inc_by(given.into());
                }
                Ok(())
            }
            Event::Deadline => {
                let now = Instant::now();
                self.check_deadlines(now)?;
                sleep.reset(self.deadline(now).into());
                Ok(())
            }
            Event::Draining => Err(Close::Evicted(Eviction::Draining)),
        }
    }

    // Reading.

    /// What of the socket is worth waiting for.
    fn interest(&self, now: Instant) -> Option<Interest> {
        let may_read = !self.at_end && self.has_room() && self.rate.resume_at(now).is_none();
        match (may_read, !self.outbox.is_empty()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    /// Whether another frame may be taken: everything it can lead to is bounded.
    fn has_room(&self) -> bool {
        self.backlog_has_room()
            && self.outbox.len() < WRITE_BUFFER_BYTES_MAX
            && self.inbox.len() < READ_AHEAD_BYTES_MAX
    }

    fn backlog_has_room(&self) -> bool {
        self.backlog.len() < BACKLOG_FRAMES_MAX && self.backlog_bytes < BACKLOG_BYTES_MAX
    }

    fn read(&mut self) -> Result<(), Close> {
        while self.inbox.len() < READ_AHEAD_BYTES_MAX {
            self.inbox.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.inbox) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                // Less than there was room for: the socket is empty.
                Ok(_) if self.inbox.len() < self.inbox.capacity() => {
                    self.rate.idle();
                    break;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.rate.idle();
                    break;
                }
                Err(_) => return Err(Close::PeerGone),
            }
        }
        Ok(())
    }

    /// Takes whole frames from the inbox for as long as they may be taken.
    fn take_frames(&mut self) -> Result<(), Close> {
        self.take_backlog()?;
        loop {
            let now = Instant::now();
            if self.inbox.is_empty()
                || !self.backlog_has_room()
                || self.outbox.len() >= WRITE_BUFFER_BYTES_MAX
                || self.rate.resume_at(now).is_some()
            {
                break;
            }
            match self.framing.next(&mut self.inbox) {
                Ok(Some(frame)) => self.take_frame(frame, now)?,
                Ok(None) => break,
                Err(error) => return Err(self.refuse_frame(error)),
            }
        }
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Close> {
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

    fn take_body(&mut self, body: Bytes) -> Result<(), Close> {
        let frame_bytes = body.len();
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

    fn refuse_frame(&mut self, error: FrameError) -> Close {
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

    // Serving.

    /// Nothing is under way that a package would have to wait for.
    fn is_idle(&self) -> bool {
        self.working.is_none()
            && self.backlog.is_empty()
            && self.receipts.len() < SENDS_IN_FLIGHT_MAX
    }

    /// Nothing is left to do for the peer.
    fn is_quiet(&self) -> bool {
        self.working.is_none()
            && self.backlog.is_empty()
            && self.receipts.is_empty()
            && self.outbox.is_empty()
    }

    fn take_backlog(&mut self) -> Result<(), Close> {
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

    fn serve(&mut self, input: pb::Input) -> Result<(), Close> {
        let head = Head::of(&input);
        match (self.session.admit(input.r#type), self.session.identity()) {
            (Admission::SignIn, _) => {
                self.working = Some(dispatch::sign_in(&self.gateway, input));
            }
            (Admission::SignInAgain, Some((user, device))) => {
                let again = dispatch::sign_in_again(&self.gateway, user, device, input);
                self.working = Some(again);
            }
            (Admission::Sync, Some((user, _))) => {
                self.session.begin_sync();
                if let Some(link) = &mut self.link {
                    link.hold();
                }
                self.working = Some(dispatch::sync(&self.gateway, user, input));
            }
            (Admission::Send, Some((user, device))) => {
                let from = Origin { user, device };
                self.working = Some(dispatch::send(&self.gateway, from, input));
            }
            (Admission::Heartbeat, _) => self.answer(&head.empty()),
            (Admission::Ack, _) => {
                if let Err(error) = self.ack(input.data) {
                    self.answer(&head.error(&error));
                }
            }
            (Admission::SubscribeRoom, _) => {
                let error = Error::bad_request("type", "this version has no rooms");
                self.answer(&head.error(&error));
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

    fn finish(&mut self, done: Done) -> Result<(), Close> {
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
            Done::Accepted(head, receipt) => self.receipts.push_back((head, receipt)),
            Done::Synced {
                answer,
                end,
                has_more,
            } => {
                self.answer(&answer);
                self.page_given(end, has_more);
            }
            Done::SyncFailed(answer) => {
                self.answer(&answer);
                self.session.abandon_sync();
                self.release();
            }
        }
        Ok(())
    }

    fn go_live(&mut self, link: Box<Link>) {
        let (user, device) = (link.user, link.device());
        self.session
            .signed_in(user, device, link.signed_in_at, link.acked);
        self.link = Some(link);
        self.sessions().inc();
    }

    /// The gauge that counts this connection while it is signed in.
    fn sessions(&self) -> &Gauge {
        let sessions = &self.gateway.metrics.sessions;
        if self.framing.is_websocket() {
            &sessions.websocket
        } else {
            &sessions.tcp
        }
    }

    fn page_given(&mut self, end: Seq, has_more: bool) {
        let counts = self.session.page_given(end, has_more, Instant::now());
        if let Some(link) = &mut self.link {
            link.synced(end);
        }
        self.note_ack(counts);
        if !has_more {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(link) = &mut self.link {
            link.release();
        }
    }

    fn ack(&mut self, data: Bytes) -> ImResult<()> {
        let ack: pb::MessageAck = dispatch::decode(data)?;
        if ack.device_ack < 0 {
            return Err(Error::bad_request("device_ack", "must not be negative"));
        }
        if ack.group_id < 0 {
            return Err(Error::bad_request("group_id", "must not be negative"));
        }
        // A group the user is not in is ignored, like a cursor for it.
        if ack.group_id == 0
            && let Some(link) = &self.link
        {
            let counts = self.session.ack(Seq(ack.device_ack), link.head());
            self.note_ack(counts);
        }
        Ok(())
    }

    fn note_ack(&self, seq: Option<Seq>) {
        if let (Some(link), Some(seq)) = (&self.link, seq) {
            let key = Key {
                user: link.user,
                owner: link.owner(),
                device: link.device(),
            };
            self.gateway.acks.note(key, seq);
        }
    }

    fn answer_stored(&mut self, sent: ImResult<Sent>) {
        if let Some((head, _)) = self.receipts.pop_front() {
            let answer = match sent {
                Ok(sent) => head.ok(&pb::SendMessageResp::from(sent)),
                Err(error) => head.error(&error),
            };
            self.answer(&answer);
        }
        if self.receipts.is_empty() {
            self.receipts = VecDeque::new();
        }
    }

    // Writing.

    fn answer(&mut self, output: &pb::Output) {
        self.framing.put(&output.encode_to_vec(), &mut self.outbox);
    }

    /// Takes from the feeds what there is room for; true when they have more.
    fn pull(&mut self) -> bool {
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
    fn flush(&mut self) -> Result<(), Close> {
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

    // Deadlines.

    /// When something has to be looked at, whatever happens.
    fn deadline(&self, now: Instant) -> Instant {
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
                .and_then(|(_, receipt)| receipt.deadline()),
            self.rate.resume_at(now),
        ]
        .into_iter()
        .flatten()
        .fold(now + seconds(config.idle_timeout_s), Instant::min)
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<(), Close> {
        let config = &self.gateway.config;
        let quiet = now.saturating_duration_since(self.last_frame);
        let is_signed_in = self.session.identity().is_some();
        if is_signed_in && quiet >= seconds(config.idle_timeout_s) {
            return Err(Close::Idle);
        }
        if !is_signed_in && quiet >= seconds(config.sign_in_timeout_s) {
            return Err(Close::SignInTimeout);
        }
        let stalled =
            |since| now.saturating_duration_since(since) >= seconds(config.write_timeout_s);
        if self.blocked_since.is_some_and(stalled) {
            return Err(Close::WriteStalled);
        }
        if self.rate.is_abused(now) {
            return Err(Close::TooFast);
        }
        if self.session.release_expired(now) {
            self.release();
        }
        while let Some((_, receipt)) = self.receipts.front_mut()
            && receipt.deadline().is_some_and(|deadline| deadline <= now)
        {
            let overdue = receipt.give_up();
            self.answer_stored(overdue);
        }
        Ok(())
    }

    // Ending.

    /// Says why, as far as the peer still listens, and closes.
    async fn end(&mut self, why: Close) {
        if why == Close::Evicted(Eviction::Draining) {
            // Who was promised an answer should not have to ask again.
            let _ = tokio::time::timeout(CLOSE_LINGER_MAX, self.settle()).await;
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
        // A peer that hangs must not hold the connection.
        let _ = tokio::time::timeout(CLOSE_LINGER_MAX, self.say_goodbye()).await;
    }

    /// Waits for what is under way and answers it.
    async fn settle(&mut self) {
        if let Some(working) = self.working.take() {
            // Nothing that ends the connection matters any more.
            let _ = self.finish(working.await);
        }
        while !self.receipts.is_empty() {
            let sent = stored(&mut self.receipts).await;
            self.answer_stored(sent);
        }
    }

    /// Writes the rest and waits for the peer to close: closing a socket with unread bytes would
    /// reset it, and the peer might lose what was written last (RFC 1122 §4.2.2.13).
    async fn say_goodbye(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.outbox).await?;
        self.stream.shutdown().await?;
        let mut rest = BytesMut::with_capacity(READ_BYTES);
        while self.stream.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        Ok(())
    }
}

/// Waits for what the feeds and other sessions do; for ever before the sign-in.
async fn link_event(link: &mut Option<Box<Link>>) -> link::Event {
    match link {
        Some(link) => link.event().await,
        None => std::future::pending().await,
    }
}

/// Waits for the package that is being served; for ever when none is.
async fn worked(working: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match working {
        Some(future) => {
            let done = future.await;
            *working = None;
            done
        }
        None => std::future::pending().await,
    }
}

/// Waits for the oldest message that waits for its commit; for ever when none does.
async fn stored(receipts: &mut VecDeque<(Head, Receipt)>) -> ImResult<Sent> {
    match receipts.front_mut() {
        Some((_, receipt)) => receipt.stored().await,
        None => std::future::pending().await,
    }
}
