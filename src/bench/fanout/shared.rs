//! What the devices and senders of one run share: to whom messages go, and what is counted.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{ledger::Ledger, member::Member, options::Kind};
use crate::{
    bench::{
        check::Verdict,
        tally::{Tally, get},
    },
    pb,
};

/// The group or room that messages are sent to.
#[derive(Clone, Copy, Debug)]
pub struct Audience {
    /// What it is.
    pub kind: Kind,
    /// Its id in the contract.
    pub id: i64,
}

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// To whom messages go.
    pub audience: Audience,
    /// Whether the first devices are the senders, who are not given their own messages.
    pub devices_send: bool,
    /// Devices each message is given to.
    pub receivers: u32,
    /// Messages a device receives before it acknowledges them; 0: it never does.
    pub ack_every: u32,
}

/// What all devices and senders of one run share.
#[derive(Debug)]
pub struct Shared {
    /// What the run is made of.
    pub plan: Plan,
    /// What is counted.
    pub tally: Arc<Tally>,
    /// What became of each message.
    pub ledger: Ledger,
    /// One permit for each device that is subscribed.
    pub subscribed: Semaphore,
    /// Something happened that makes going on senseless.
    pub stop: CancellationToken,
    /// Messages that came back to the device that sent them.
    pub echoes: AtomicU64,
    /// Messages that were waited for in vain.
    pub overdue: AtomicU64,
}

impl Shared {
    /// Nothing has happened.
    pub fn new(plan: Plan, tally: Arc<Tally>, ledger: Ledger) -> Self {
        Self {
            plan,
            tally,
            ledger,
            subscribed: Semaphore::new(0),
            stop: CancellationToken::new(),
            echoes: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
        }
    }

    /// The run in one line.
    pub fn progress(&self) -> String {
        format!("{}, complete {}", self.tally, get(&self.ledger.complete))
    }

    /// What the checker found in what `members` were given of `senders`.
    pub fn verdict(&self, members: &[Arc<Member>], senders: u32) -> Verdict {
        let mut verdict = Verdict::default();
        for sender in 0..senders {
            let (acknowledged, failed) = self.ledger.sent(sender);
            verdict.acknowledged += acknowledged.len();
            verdict.failed += failed;
            for member in members {
                let lacks = member.lacks(sender, &acknowledged);
                match member.is_closed() {
                    true => verdict.unverified += lacks,
                    false => verdict.lost += lacks,
                }
            }
        }
        for member in members {
            member.add_to(&mut verdict);
        }
        verdict
    }
}

impl Audience {
    /// To whom `message` says it goes (0 where that is nothing of this kind), and its position on
    /// the timeline that is checked: the user's for small groups, the group's own for large ones.
    pub fn place(&self, message: &pb::Message) -> (i64, i64) {
        let to = match message.receiver_type() == self.kind.receiver_type() {
            true => message.receiver_id,
            false => 0,
        };
        match self.kind {
            Kind::Large if to != self.id => (to, 0),
            Kind::Small | Kind::Large | Kind::Room => (to, message.seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::ReceiverType::{RtLargeGroup, RtRoom, RtSmallGroup, RtUser};

    fn place(kind: Kind, receiver_type: pb::ReceiverType, receiver_id: i64) -> (i64, i64) {
        let message = pb::Message {
            receiver_type: receiver_type.into(),
            receiver_id,
            seq: 5,
            ..pb::Message::default()
        };
        Audience { kind, id: 7 }.place(&message)
    }

    #[test]
    fn positions_of_another_timeline_are_not_mixed_in() {
        // All that a user in a small group is given stands on his own timeline.
        assert_eq!(place(Kind::Small, RtSmallGroup, 7), (7, 5));
        assert_eq!(place(Kind::Small, RtSmallGroup, 8), (8, 5));
        assert_eq!(place(Kind::Small, RtUser, 7), (0, 5));
        // Of a large group only its own messages count, also where a user has the same id.
        assert_eq!(place(Kind::Large, RtLargeGroup, 7), (7, 5));
        assert_eq!(place(Kind::Large, RtLargeGroup, 8), (8, 0));
        assert_eq!(place(Kind::Large, RtUser, 7), (0, 0));
        assert_eq!(place(Kind::Room, RtRoom, 7), (7, 5));
    }
}
