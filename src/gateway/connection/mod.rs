//! The driver of a connection, one for both transports: it reads frames, hands packages to the
//! session and to `dispatch`, pulls pushes from the feeds, writes, and keeps the deadlines.
//!
//! One task per connection, and no queue between it and anything: what is not written yet stays in
//! the feeds (I6). Invariant: buffers exist only while they hold something. What a connection holds and
//! waits for stands here; what it does then, in the files beside this.

use std::{
    collections::VecDeque, future::Future, io, net::IpAddr, pin::Pin, sync::Arc, time::Instant,
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
    time::Sleep,
};

use super::{
    Gateway,
    close::Close,
    dispatch::{Done, Sending},
    frame::Framing,
    link::{self, Link},
    rate::Rate,
    session::Session,
};
use crate::{
    config::seconds, delivery::handle::Eviction, error::Result as ImResult, message::Sent, pb,
};

mod ending;
mod reading;
mod serving;
mod writing;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 4 * 1024;
/// Full write buffers written before the thread is left to others.
const ROUNDS_MAX: usize = 8;

/// A connection and everything it holds.
pub(super) struct Connection {
    gateway: Arc<Gateway>,
    stream: TcpStream,
    /// Where the device is, as far as is known.
    client: IpAddr,
    framing: Framing,
    session: Session,
    link: Option<Box<Link>>,
    /// Bytes received that are not a whole frame yet, or wait for their turn.
    inbox: BytesMut,
    /// Bytes to be written.
    outbox: BytesMut,
    /// Packages that wait behind `working`.
    backlog: VecDeque<Waiting>,
    /// 32 bits hold it, and an idle connection is small.
    backlog_bytes: u32,
    /// The package that is being served.
    working: Option<BoxFuture<'static, Done>>,
    /// Messages that wait for their commit, in the order they were sent in.
    receipts: VecDeque<Sending>,
    rate: Rate,
    /// While frames wait for the rate: when the next one may be taken.
    paused_until: Option<Instant>,
    last_frame: Instant,
    /// Since when the peer takes no bytes.
    blocked_since: Option<Instant>,
    /// The peer sends nothing more.
    at_end: bool,
}

/// A package in the backlog. Its frame is kept as long as it is, whatever part of it was asked for.
struct Waiting {
    input: pb::Input,
    frame_bytes: u32,
}

/// What a connection waits for.
enum Event {
    Ready(io::Result<Ready>),
    Link(link::Event),
    Worked(Done),
    Stored(ImResult<Sent>),
    Deadline,
    Draining,
    /// There is more to do.
    GoOn,
}

impl Connection {
    /// A connection of `client` over `stream`, of which `received` was read already. `link` is there when the
    /// sign-in came before the connection, in a WebSocket's URL.
    pub(super) fn new(
        gateway: Arc<Gateway>,
        stream: TcpStream,
        client: IpAddr,
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
            client,
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
            paused_until: None,
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
            tracing::debug!(client = %self.client, reason = why.label(), "connection ended");
            self.gateway.metrics.closed(why.label());
            Box::pin(self.end(why)).await;
        }
    }

    async fn drive(&mut self) -> Close {
        let sleep = tokio::time::sleep_until(self.deadline(Instant::now()).into());
        tokio::pin!(sleep);
        loop {
            let has_more = match self.advance() {
                Ok(has_more) => has_more,
                Err(why) => return why,
            };
            if has_more {
                // Nothing that it finds ready below would ever make it leave the thread.
                tokio::task::yield_now().await;
            } else if self.at_end && self.is_quiet() {
                return Close::PeerGone;
            }
            let deadline = self.deadline(Instant::now());
            if deadline < sleep.deadline().into_std() {
                sleep.as_mut().reset(deadline.into());
            }
            let event = self.next_event(sleep.as_mut(), has_more).await;
            if let Err(why) = self.handle(event, sleep.as_mut()) {
                return why;
            }
        }
    }

    /// Does what can be done without waiting, some rounds of it; true when there is more, and
    /// others should have their turn before.
    fn advance(&mut self) -> Result<bool, Close> {
        if let Some(why) = self.link.as_ref().and_then(|link| link.handle().eviction()) {
            return Err(Close::Evicted(why));
        }
        for _ in 0..ROUNDS_MAX {
            let has_packages = self.take_frames()?;
            let has_pushes = self.pull();
            self.flush()?;
            let has_more = has_packages || has_pushes;
            if !has_more || !self.outbox.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for whatever comes first, and not at all when there is more to do. Cancel safe, as
    /// everything it waits for is.
    async fn next_event(&mut self, sleep: Pin<&mut Sleep>, has_more: bool) -> Event {
        let interest = self.interest();
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
            () = std::future::ready(()), if has_more => Event::GoOn,
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
            Event::Link(link::Event::Loaded(loaded)) => {
                if let Some(link) = &mut self.link {
                    link.take_loaded(*loaded);
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
            Event::GoOn => Ok(()),
        }
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
async fn stored(receipts: &mut VecDeque<Sending>) -> ImResult<Sent> {
    match receipts.front_mut() {
        Some(sending) => sending.receipt.stored().await,
        None => std::future::pending().await,
    }
}
