//! The state machine of one device on one connection, without I/O: what it may do now, whether its
//! timeline is held for a sync, and which of its acks count.
//!
//! ```text
//! Connected --sign-in ok--> Live --SyncInput--> Syncing --last page--> Live
//!     |                      |                    |  (hold time over: Live, from its position)
//!     +-----------> Closing <+--------------------+
//! ```
//!
//! Invariants: nothing but a sign-in is served before one succeeded (I8); an ack moves nothing
//! back or beyond the head, and none hides what the device may lack (I10).

use std::time::{Duration, Instant};

use crate::{
    error::Error,
    id::{DeviceId, Seq, UserId},
    pb::PackageType,
};

/// One device on one connection.
#[derive(Debug)]
pub struct Session {
    state: State,
    hold: Duration,
}

#[derive(Debug)]
enum State {
    Connected,
    Live(Live),
    Closing,
}

#[derive(Debug)]
struct Live {
    user: UserId,
    device: DeviceId,
    acks: AckRule,
    /// While syncing, and no page is being read: when the hold ends by itself.
    held_until: Option<Instant>,
}

/// What is to be done with a package.
#[derive(Debug)]
pub enum Admission {
    /// Sign in.
    SignIn,
    /// A further sign-in on an open session: it must be for the same user and device.
    SignInAgain,
    /// Answer at once.
    Heartbeat,
    /// Give a page.
    Sync,
    /// Note an ack.
    Ack,
    /// Switch rooms.
    SubscribeRoom,
    /// Take a message in.
    Send,
    /// Answer the error; the connection stays.
    Refuse(Error),
    /// Answer the error and close.
    End(Error),
}

impl Session {
    /// A session of a connection on which nothing was signed in yet. `hold` is how long pushes
    /// wait for the next `SyncInput` of an unfinished sync.
    #[must_use]
    pub const fn new(hold: Duration) -> Self {
        Self {
            state: State::Connected,
            hold,
        }
    }

    /// What to do with a package of type `package`, as it stands on the wire.
    #[must_use]
    pub fn admit(&self, package: i32) -> Admission {
        let package = PackageType::try_from(package).unwrap_or(PackageType::PtUnknown);
        match (&self.state, package) {
            (State::Connected, PackageType::PtSignIn) => Admission::SignIn,
            (State::Connected | State::Closing, _) => Admission::End(Error::sign_in_again()),
            (State::Live(_), PackageType::PtSignIn) => Admission::SignInAgain,
            (State::Live(_), PackageType::PtSync) => Admission::Sync,
            (State::Live(_), PackageType::PtHeartbeat) => Admission::Heartbeat,
            (State::Live(_), PackageType::PtMessage) => Admission::Ack,
            (State::Live(_), PackageType::PtSubscribeRoom) => Admission::SubscribeRoom,
            (State::Live(_), PackageType::PtSendMessage) => Admission::Send,
            (State::Live(_), PackageType::PtUnknown | PackageType::PtNotice) => {
                Admission::Refuse(Error::bad_request("type", "not a package a device sends"))
            }
        }
    }

    /// The sign-in succeeded. `head` is the user's head then, `acked` what the device had
    /// acknowledged by then. A session that is closing stays so.
    pub fn signed_in(&mut self, user: UserId, device: DeviceId, head: Seq, acked: Seq) {
        if let State::Connected = self.state {
            self.state = State::Live(Live {
                user,
                device,
                acks: AckRule::new(head, acked),
                held_until: None,
            });
        }
    }

    /// Who is signed in on which device; `None` before and after.
    #[must_use]
    pub fn identity(&self) -> Option<(UserId, DeviceId)> {
        match &self.state {
            State::Live(live) => Some((live.user, live.device)),
            State::Connected | State::Closing => None,
        }
    }

    /// Nothing is served from here on.
    pub fn close(&mut self) {
        self.state = State::Closing;
    }

    /// A `SyncInput` came: the hold cannot end while its page is being read.
    pub fn begin_sync(&mut self) {
        if let State::Live(live) = &mut self.state {
            live.held_until = None;
        }
    }

    /// A page was given that ends at `end`. While `has_more`, pushes go on waiting for the next
    /// `SyncInput`. Returns an ack that counts from here on.
    pub fn page_given(&mut self, end: Seq, has_more: bool, now: Instant) -> Option<Seq> {
        let hold = self.hold;
        let State::Live(live) = &mut self.state else {
            return None;
        };
        live.held_until = has_more.then_some(now + hold);
        live.acks.holds_up_to(end)
    }

    /// The sync failed: pushing goes on from where the device was.
    pub fn abandon_sync(&mut self) {
        if let State::Live(live) = &mut self.state {
            live.held_until = None;
        }
    }

    /// When the hold ends by itself; `None` while nothing is held, or a page is being read.
    #[must_use]
    pub fn held_until(&self) -> Option<Instant> {
        match &self.state {
            State::Live(live) => live.held_until,
            State::Connected | State::Closing => None,
        }
    }

    /// Ends a hold whose time is over; true when there was one.
    pub fn release_expired(&mut self, now: Instant) -> bool {
        let is_over = self.held_until().is_some_and(|until| until <= now);
        if is_over {
            self.abandon_sync();
        }
        is_over
    }

    /// The device acknowledges `seq` while its timeline is known to reach `head`. Returns what is
    /// to be noted, if anything.
    pub fn ack(&mut self, seq: Seq, head: Seq) -> Option<Seq> {
        match &mut self.state {
            State::Live(live) if seq <= head => live.acks.ack(seq),
            _ => None,
        }
    }
}

/// Which acks count.
///
/// An ack up to the head at sign-in is taken as the device says. One beyond it counts only once
/// the device is known to hold everything up to that head: a device that is pushed 101 while it
/// lacks 51 to 100 must not hide them by acknowledging 101.
#[derive(Debug)]
struct AckRule {
    head: Seq,
    reached: bool,
    /// The highest ack beyond the head that does not count yet.
    waiting: Seq,
}

impl AckRule {
    fn new(head: Seq, acked: Seq) -> Self {
        Self {
            head,
            reached: acked >= head,
            waiting: Seq::ZERO,
        }
    }

    fn ack(&mut self, seq: Seq) -> Option<Seq> {
        if seq <= self.head {
            let waited = self.holds_up_to(seq);
            return waited.or((seq > Seq::ZERO).then_some(seq));
        }
        if self.reached {
            return Some(seq);
        }
        self.waiting = self.waiting.max(seq);
        None
    }

    /// The device holds everything up to `seq`: an ack that waited may count now.
    fn holds_up_to(&mut self, seq: Seq) -> Option<Seq> {
        self.reached |= seq >= self.head;
        let waiting = self.reached && self.waiting > Seq::ZERO;
        waiting.then(|| std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn live(head: i64, acked: i64) -> Session {
        let mut session = Session::new(HOLD);
        session.signed_in(UserId(1), DeviceId(2), Seq(head), Seq(acked));
        session
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Ack(i64),
        /// The last page of a sync that ends here.
        Synced(i64),
        Grow(i64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0_i64..60).prop_map(Op::Ack),
            (0_i64..60).prop_map(Op::Synced),
            (0_i64..5).prop_map(Op::Grow),
        ]
    }

    proptest! {
        /// The model says it in words: an ack counts if it is not beyond the head, and if either
        /// it is not beyond the head at sign-in or that head was reached, then or later.
        #[test]
        fn acks_count_as_the_model_says(
            head in 0_i64..30,
            acked in 0_i64..30,
            ops in proptest::collection::vec(op(), 0..40),
        ) {
            let acked = acked.min(head);
            let now = Instant::now();
            let mut session = live(head, acked);
            let (mut known, mut reached, mut beyond, mut expected) = (head, acked == head, 0, acked);
            let mut noted = acked;
            for op in ops {
                let answer = match op {
                    Op::Grow(by) => { known += by; continue; }
                    Op::Ack(seq) => {
                        if seq <= known {
                            if seq <= head { expected = expected.max(seq); reached |= seq == head; }
                            else { beyond = beyond.max(seq); }
                        }
                        session.ack(Seq(seq), Seq(known))
                    }
                    Op::Synced(end) => {
                        let end = end.min(known);
                        reached |= end >= head;
                        session.page_given(Seq(end), false, now)
                    }
                };
                if reached { expected = expected.max(beyond); }
                noted = noted.max(answer.map_or(0, Seq::get));
                prop_assert_eq!(noted, expected);
                prop_assert!(noted <= known);
            }
        }

        #[test]
        fn before_sign_in_nothing_but_a_sign_in_is_served(package in any::<i32>()) {
            let session = Session::new(HOLD);
            match session.admit(package) {
                Admission::SignIn => prop_assert_eq!(package, PackageType::PtSignIn as i32),
                other => prop_assert!(matches!(other, Admission::End(_))),
            }
        }
    }

    #[test]
    fn a_hold_ends_with_the_last_page_or_by_itself() {
        let now = Instant::now();
        let mut session = live(10, 0);
        session.begin_sync();
        assert_eq!(session.held_until(), None, "not while a page is read");
        session.page_given(Seq(5), true, now + HOLD / 2);
        assert!(!session.release_expired(now + HOLD));
        assert!(session.release_expired(now + HOLD / 2 + HOLD));
        assert_eq!(session.held_until(), None);
        session.begin_sync();
        session.page_given(Seq(10), false, now);
        assert_eq!(session.held_until(), None);
    }

    #[test]
    fn what_only_the_server_sends_is_refused_and_the_connection_stays() {
        let session = live(0, 0);
        for package in [0, PackageType::PtNotice as i32, 99, -1] {
            assert!(
                matches!(session.admit(package), Admission::Refuse(_)),
                "{package}"
            );
        }
    }

    #[test]
    fn a_closing_session_serves_nothing() {
        let mut session = live(0, 0);
        session.close();
        assert!(session.identity().is_none());
        assert!(matches!(
            session.admit(PackageType::PtHeartbeat as i32),
            Admission::End(_)
        ));
    }
}
