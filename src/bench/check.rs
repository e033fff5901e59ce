//! The checker: decides from what devices were given whether anything was lost, doubled, skipped or
//! out of order. No I/O and no clock.
//!
//! What a reply acknowledged must arrive exactly once; what failed may have been stored all the
//! same, so it may arrive, once, and may explain one position its sender was never told of.

use std::collections::HashMap;

use super::{ranges::Ranges, stamp::Stamp};

/// Whether one sender's messages must come in the order of their counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderOrder {
    /// Each was sent after the one before was answered, or pipelined on one connection.
    Kept,
    /// Several were under way at once.
    Free,
}

/// What one device was given by one sender.
#[derive(Debug, Default)]
struct Sender {
    counters: Ranges,
    last: u32,
}

/// What one device was given, and what was wrong with it.
#[derive(Debug)]
pub struct Inbox {
    receiver_id: i64,
    run: u32,
    order: SenderOrder,
    seqs: Ranges,
    last_seq: i64,
    senders: HashMap<u32, Sender>,
    faults: Faults,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// One of this run, for the first time.
    New(Stamp),
    /// Seen before: the message or its position.
    Repeated,
    /// Not of this run.
    Foreign,
}

/// What one device found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages, or positions, given more than once.
    pub duplicates: u64,
    /// Messages given after one with a higher position, or after a later one of the same sender.
    pub disorder: u64,
    /// Messages addressed to someone else.
    pub misdelivered: u64,
    /// Messages that are not of this run; no fault.
    pub foreign: u64,
}

impl Inbox {
    /// The empty inbox for messages to `receiver_id`, the device's user or a group or room, in the
    /// run `run`.
    pub fn new(receiver_id: i64, run: u32, order: SenderOrder) -> Self {
        Self {
            receiver_id,
            run,
            order,
            seqs: Ranges::default(),
            last_seq: 0,
            senders: HashMap::new(),
            faults: Faults::default(),
        }
    }

    /// Notes a message the device was given, pushed or in a page. The seq 0 is no position: the
    /// message was not stored, or stands on another timeline.
    pub fn given(&mut self, receiver_id: i64, seq: i64, content: &[u8]) -> Arrival {
        let stamp = Stamp::parse(content).filter(|stamp| stamp.run == self.run);
        if stamp.is_some() && receiver_id != self.receiver_id {
            self.faults.misdelivered += 1;
        }
        let new_seq = seq == 0 || self.seqs.insert(seq);
        let new_counter = stamp.is_none_or(|s| {
            let sender = self.senders.entry(s.sender).or_default();
            sender.counters.insert(s.counter.into())
        });
        if !new_seq || !new_counter {
            self.faults.duplicates += 1;
            return Arrival::Repeated;
        }
        self.check_order(seq, stamp);
        let Some(stamp) = stamp else {
            self.faults.foreign += 1;
            return Arrival::Foreign;
        };
        Arrival::New(stamp)
    }

    fn check_order(&mut self, seq: i64, stamp: Option<Stamp>) {
        let mut in_order = seq == 0 || seq > self.last_seq;
        self.last_seq = self.last_seq.max(seq);
        if let Some(stamp) = stamp
            && let Some(sender) = self.senders.get_mut(&stamp.sender)
        {
            in_order &= self.order == SenderOrder::Free || stamp.counter > sender.last;
            sender.last = sender.last.max(stamp.counter);
        }
        if !in_order {
            self.faults.disorder += 1;
        }
    }

    /// Notes the position a reply gave to one of the user's own sends; 0: none.
    pub fn replied(&mut self, seq: i64) {
        if seq != 0 && !self.seqs.insert(seq) {
            self.faults.duplicates += 1;
        }
    }

    /// What was found wrong so far; gaps and losses show only at the end.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// The positions the device knows of.
    pub fn seqs(&self) -> &Ranges {
        &self.seqs
    }

    /// How many of the acknowledged sends `acked` of `sender` have not arrived.
    pub fn lacks(&self, sender: u32, acked: &Ranges) -> u64 {
        match self.senders.get(&sender) {
            Some(sender) => acked.missing_from(&sender.counters),
            None => acked.len(),
        }
    }
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Sends that were answered with success.
    pub acknowledged: u64,
    /// Sends that were answered with an error, or not at all.
    pub failed: u64,
    /// Messages of this run that arrived, each counted once.
    pub delivered: u64,
    /// Acknowledged messages that did not arrive.
    pub lost: u64,
    /// Acknowledged messages whose receiver's connection had ended, so that nothing can be said.
    pub unverified: u64,
    /// Messages, or positions, given more than once.
    pub duplicates: u64,
    /// Positions that were skipped and that no send without an answer explains.
    pub gaps: u64,
    /// Messages out of order.
    pub disorder: u64,
    /// Messages given to someone they were not addressed to.
    pub misdelivered: u64,
    /// Messages that are not of this run.
    pub foreign: u64,
}

impl Verdict {
    /// Adds one device's inbox. `unanswered` is how many of the user's own sends have no reply.
    pub fn add_inbox(&mut self, inbox: &Inbox, unanswered: u64) {
        let faults = inbox.faults();
        self.duplicates += faults.duplicates;
        self.disorder += faults.disorder;
        self.misdelivered += faults.misdelivered;
        self.foreign += faults.foreign;
        self.gaps += inbox.seqs.holes().saturating_sub(unanswered);
        self.delivered += inbox
            .senders
            .values()
            .map(|s| s.counters.len())
            .sum::<u64>();
    }

    /// Adds what was found of other devices.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.unverified += other.unverified;
        self.duplicates += other.duplicates;
        self.gaps += other.gaps;
        self.disorder += other.disorder;
        self.misdelivered += other.misdelivered;
        self.foreign += other.foreign;
    }

    /// What broke a promise, in words; `None` when nothing did.
    pub fn complaint(&self) -> Option<String> {
        let found = [
            (self.lost, "lost"),
            (self.duplicates, "given twice"),
            (self.gaps, "positions skipped"),
            (self.disorder, "out of order"),
            (self.misdelivered, "given to the wrong user"),
        ];
        let words: Vec<String> = found
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!words.is_empty()).then(|| format!("messages: {}", words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 7;
    const ME: i64 = 100;

    fn inbox() -> Inbox {
        Inbox::new(ME, RUN, SenderOrder::Kept)
    }

    fn content(sender: u32, counter: u32) -> Vec<u8> {
        Stamp {
            run: RUN,
            sender,
            counter,
            due_ns: 0,
        }
        .content(100)
    }

    fn give(inbox: &mut Inbox, seq: i64, sender: u32, counter: u32) -> Arrival {
        inbox.given(ME, seq, &content(sender, counter))
    }

    fn ranges(numbers: impl IntoIterator<Item = i64>) -> Ranges {
        let mut ranges = Ranges::default();
        for n in numbers {
            ranges.insert(n);
        }
        ranges
    }

    /// The verdict of one receiver to whom sender 1 sent `acked` counters.
    fn verdict(inbox: &Inbox, acked: impl IntoIterator<Item = i64>) -> Verdict {
        let mut verdict = Verdict {
            lost: inbox.lacks(1, &ranges(acked)),
            ..Verdict::default()
        };
        verdict.add_inbox(inbox, 0);
        verdict
    }

    #[test]
    fn a_perfect_run_is_clean() {
        let mut inbox = inbox();
        for n in 1..=100 {
            // Every second position is an own send, told by its reply, sometimes late.
            assert!(matches!(
                give(&mut inbox, 2 * i64::from(n), 1, n),
                Arrival::New(_)
            ));
            inbox.replied(2 * i64::from(n) - 1);
        }
        let verdict = verdict(&inbox, 1..=100);
        assert_eq!(
            verdict,
            Verdict {
                delivered: 100,
                ..Verdict::default()
            }
        );
        assert_eq!(verdict.complaint(), None);
        assert_eq!(inbox.seqs().held(), Some(200));
    }

    #[test]
    fn a_loss_is_found() {
        let mut inbox = inbox();
        give(&mut inbox, 1, 1, 1);
        give(&mut inbox, 2, 1, 3);
        let verdict = verdict(&inbox, 1..=4);
        assert_eq!((verdict.lost, verdict.gaps, verdict.duplicates), (2, 0, 0));
        assert!(verdict.complaint().is_some());
    }

    #[test]
    fn a_sender_nothing_came_from_is_a_loss() {
        assert_eq!(verdict(&inbox(), 1..=5).lost, 5);
    }

    #[test]
    fn a_message_given_twice_is_found() {
        let mut same_place = inbox();
        give(&mut same_place, 1, 1, 1);
        assert_eq!(give(&mut same_place, 1, 1, 1), Arrival::Repeated);
        assert_eq!(verdict(&same_place, [1]).duplicates, 1);

        let mut appended_twice = inbox();
        give(&mut appended_twice, 1, 1, 1);
        assert_eq!(give(&mut appended_twice, 2, 1, 1), Arrival::Repeated);
        assert_eq!(verdict(&appended_twice, [1]).duplicates, 1);
    }

    #[test]
    fn a_position_used_twice_is_found() {
        let mut inbox = inbox();
        give(&mut inbox, 1, 1, 1);
        give(&mut inbox, 1, 1, 2);
        assert_eq!(verdict(&inbox, 1..=2).duplicates, 1);
        inbox.replied(1);
        assert_eq!(verdict(&inbox, 1..=2).duplicates, 2);
    }

    #[test]
    fn a_gap_is_found_unless_an_unanswered_send_explains_it() {
        let mut inbox = inbox();
        give(&mut inbox, 1, 1, 1);
        give(&mut inbox, 4, 1, 2);
        for (unanswered, gaps) in [(0, 2), (1, 1), (2, 0), (3, 0)] {
            let mut verdict = Verdict::default();
            verdict.add_inbox(&inbox, unanswered);
            assert_eq!(verdict.gaps, gaps);
        }
        assert_eq!(inbox.seqs().held(), Some(1));
    }

    #[test]
    fn disorder_of_positions_is_found_and_is_no_gap() {
        let mut inbox = inbox();
        for (seq, counter) in [(1, 1), (3, 2), (2, 3)] {
            give(&mut inbox, seq, 1, counter);
        }
        let verdict = verdict(&inbox, 1..=3);
        assert_eq!((verdict.disorder, verdict.gaps, verdict.lost), (1, 0, 0));
    }

    #[test]
    fn disorder_within_a_sender_is_found_where_order_is_kept() {
        for (order, disorder) in [(SenderOrder::Kept, 1), (SenderOrder::Free, 0)] {
            let mut inbox = Inbox::new(ME, RUN, order);
            give(&mut inbox, 1, 1, 2);
            give(&mut inbox, 2, 1, 1);
            give(&mut inbox, 3, 2, 1);
            assert_eq!(verdict(&inbox, 1..=2).disorder, disorder);
        }
    }

    #[test]
    fn messages_without_a_position_are_told_apart_by_their_counters() {
        let mut inbox = inbox();
        for counter in [1, 2, 4, 3] {
            assert!(matches!(give(&mut inbox, 0, 1, counter), Arrival::New(_)));
        }
        assert_eq!(give(&mut inbox, 0, 1, 2), Arrival::Repeated);
        inbox.replied(0);
        let verdict = verdict(&inbox, 1..=5);
        assert_eq!((verdict.lost, verdict.duplicates), (1, 1));
        assert_eq!((verdict.disorder, verdict.gaps), (1, 0));
    }

    #[test]
    fn what_an_earlier_run_left_counts_for_positions_only() {
        let mut inbox = inbox();
        let old = Stamp {
            run: RUN + 1,
            sender: 1,
            counter: 1,
            due_ns: 0,
        }
        .content(64);
        assert_eq!(inbox.given(ME, 1, &old), Arrival::Foreign);
        assert_eq!(inbox.given(5, 2, b"hello"), Arrival::Foreign);
        give(&mut inbox, 3, 1, 1);
        let verdict = verdict(&inbox, [1]);
        assert_eq!(
            (verdict.foreign, verdict.gaps, verdict.complaint()),
            (2, 0, None)
        );
    }

    #[test]
    fn a_message_for_someone_else_is_found() {
        let mut inbox = inbox();
        inbox.given(ME + 1, 1, &content(1, 1));
        assert_eq!(verdict(&inbox, [1]).misdelivered, 1);
    }
}
