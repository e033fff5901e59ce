//! What became of every message of a run: sent, acknowledged, given to so many devices. Receivers
//! count here, senders wait here. No I/O.
//!
//! The message with the number `n` is the `n / senders + 1`th of the sender `n % senders`, so that
//! a stamp says which one it is and each sender's counters have no holes.

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use crate::bench::{
    ranges::Ranges,
    stamp::Stamp,
    stats::{Latencies, lock},
    tally::{Clock, count},
};

/// What one sender has sent.
#[derive(Debug, Default)]
struct Sends {
    begun: u32,
    acknowledged: Ranges,
}

#[derive(Debug, Default)]
struct Sender {
    sends: Mutex<Sends>,
    /// One of its messages has reached everybody.
    complete: Notify,
}

/// The messages of a run.
#[derive(Debug)]
pub struct Ledger {
    clock: Clock,
    senders: Vec<Sender>,
    /// By number: devices that have not got the message.
    missing: Vec<AtomicU32>,
    last_delivery_ns: AtomicU64,
    /// From when a send was due until the last device has it, but for the first `unmeasured`.
    pub complete_latency: Latencies,
    unmeasured: u32,
    /// Messages that reached everybody, those before the measuring included.
    pub complete: AtomicU64,
}

impl Ledger {
    /// Of `unmeasured + measured` messages by `senders`, each to be given to `receivers` devices.
    pub fn new(
        clock: Clock,
        senders: u32,
        receivers: u32,
        (unmeasured, measured): (u32, u32),
    ) -> Self {
        let all = unmeasured as usize + measured as usize;
        Self {
            clock,
            senders: (0..senders).map(|_| Sender::default()).collect(),
            missing: (0..all).map(|_| AtomicU32::new(receivers)).collect(),
            last_delivery_ns: AtomicU64::new(0),
            complete_latency: Latencies::default(),
            unmeasured,
            complete: AtomicU64::new(0),
        }
    }

    /// The counters of the messages that `sender` sends of those with the `numbers`.
    pub fn counters(&self, numbers: Range<u32>, sender: u32) -> impl Iterator<Item = u32> + use<> {
        let senders = self.senders.len() as u32;
        let skip = (sender + senders - numbers.start % senders) % senders;
        numbers
            .skip(skip as usize)
            .step_by(senders as usize)
            .map(move |number| number / senders + 1)
    }

    /// Notes that a send is begun.
    pub fn begun(&self, sender: u32) {
        lock(&self.senders[sender as usize].sends).begun += 1;
    }

    /// Notes that a send was answered with success.
    pub fn acknowledged(&self, sender: u32, counter: u32) {
        let mut sends = lock(&self.senders[sender as usize].sends);
        sends.acknowledged.insert(counter.into());
    }

    /// Notes that one more device has the message; to be called once for each device.
    pub fn delivered(&self, stamp: &Stamp) {
        let Some(number) = self.number(stamp.sender, stamp.counter) else {
            return;
        };
        let now_ns = self.clock.now_ns();
        self.last_delivery_ns.store(now_ns, Ordering::Relaxed);
        if self.missing[number].fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        count(&self.complete);
        if number >= self.unmeasured as usize {
            let latency = self.clock.since(stamp.due_ns);
            self.complete_latency.record(stamp.sender, latency);
        }
        self.senders[stamp.sender as usize].complete.notify_one();
    }

    /// Waits until every device has the message. Cancel-safe; for one waiter of each sender.
    pub async fn until_complete(&self, sender: u32, counter: u32) {
        let Some(number) = self.number(sender, counter) else {
            return;
        };
        while self.missing[number].load(Ordering::Acquire) > 0 {
            self.senders[sender as usize].complete.notified().await;
        }
    }

    /// When a device was last given a message, on the run's clock; 0: never.
    pub fn last_delivery_ns(&self) -> u64 {
        self.last_delivery_ns.load(Ordering::Relaxed)
    }

    /// What of `sender` was acknowledged, and how many of its sends were not.
    pub fn sent(&self, sender: u32) -> (Ranges, u64) {
        let Some(sender) = self.senders.get(sender as usize) else {
            return Default::default();
        };
        let sends = lock(&sender.sends);
        let failed = u64::from(sends.begun) - sends.acknowledged.len();
        (sends.acknowledged.clone(), failed)
    }

    fn number(&self, sender: u32, counter: u32) -> Option<usize> {
        let senders = self.senders.len();
        let number = (counter as usize).checked_sub(1)? * senders + sender as usize;
        ((sender as usize) < senders && number < self.missing.len()).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn ledger(senders: u32, receivers: u32, messages: (u32, u32)) -> Ledger {
        Ledger::new(Clock::start(), senders, receivers, messages)
    }

    fn stamp(sender: u32, counter: u32) -> Stamp {
        Stamp {
            run: 1,
            sender,
            counter,
            due_ns: 0,
        }
    }

    async fn is_complete(ledger: &Ledger, sender: u32, counter: u32) -> bool {
        let wait = ledger.until_complete(sender, counter);
        timeout(Duration::ZERO, wait).await.is_ok()
    }

    #[test]
    fn each_message_has_one_sender_and_counters_have_no_holes() {
        for (senders, unmeasured, measured) in [(1, 0, 5), (3, 4, 10), (7, 100, 1), (64, 10, 1000)]
        {
            let ledger = ledger(senders, 9, (unmeasured, measured));
            let mut numbers = BTreeSet::new();
            for sender in 0..senders {
                let phases = [0..unmeasured, unmeasured..unmeasured + measured];
                let counters = phases
                    .into_iter()
                    .flat_map(|phase| ledger.counters(phase, sender));
                for (at, counter) in counters.enumerate() {
                    assert_eq!(counter as usize, at + 1);
                    assert!(numbers.insert(ledger.number(sender, counter).unwrap()));
                }
            }
            assert!(numbers.into_iter().eq(0..(unmeasured + measured) as usize));
        }
    }

    #[tokio::test]
    async fn a_message_is_complete_when_the_last_device_has_it() {
        let ledger = ledger(2, 3, (2, 2));
        for _ in 0..2 {
            ledger.delivered(&stamp(1, 2));
        }
        assert!(!is_complete(&ledger, 1, 2).await);
        ledger.delivered(&stamp(1, 2));
        assert!(is_complete(&ledger, 1, 2).await);
        assert!(!is_complete(&ledger, 0, 2).await);
        assert_eq!(ledger.complete_latency.summary().count, 1);
    }

    #[tokio::test]
    async fn what_came_before_the_measuring_is_not_in_the_latency() {
        let ledger = ledger(2, 1, (2, 2));
        for sender in 0..2 {
            ledger.delivered(&stamp(sender, 1));
        }
        assert!(is_complete(&ledger, 0, 1).await);
        assert_eq!(ledger.complete_latency.summary().count, 0);
    }

    #[tokio::test]
    async fn a_waiting_sender_is_woken_by_its_own_message_only() {
        let ledger = ledger(1, 1, (0, 2));
        // The first was not waited for; that does not end the wait for the second.
        ledger.delivered(&stamp(0, 1));
        let wait = ledger.until_complete(0, 2);
        tokio::pin!(wait);
        assert!(timeout(Duration::ZERO, &mut wait).await.is_err());
        ledger.delivered(&stamp(0, 2));
        assert!(timeout(Duration::from_secs(5), wait).await.is_ok());
    }

    #[test]
    fn what_no_message_can_be_is_not_counted() {
        let ledger = ledger(2, 1, (0, 3));
        for (sender, counter) in [(0, 0), (2, 1), (1, 2), (0, 9), (u32::MAX, u32::MAX)] {
            ledger.delivered(&stamp(sender, counter));
        }
        assert_eq!(ledger.last_delivery_ns(), 0);
    }

    #[test]
    fn sends_without_success_are_told_apart() {
        let ledger = ledger(2, 1, (0, 4));
        for counter in 1..=2 {
            ledger.begun(1);
            if counter == 2 {
                ledger.acknowledged(1, counter);
            }
        }
        let (acknowledged, failed) = ledger.sent(1);
        assert_eq!((acknowledged.first(), failed), (Some(2), 1));
        assert_eq!(ledger.sent(0).1, 0);
        assert_eq!(ledger.sent(9).1, 0);
    }
}
