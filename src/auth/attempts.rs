//! Counting wrong codes and passwords in memory, per network address and per known device, and
//! letting attempts on one key be made one after the other. The count per phone number is not
//! here but in the database, where other instances see it.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use crate::limits::{ATTEMPT_COUNTERS_MAX, ATTEMPT_WINDOW};

/// [`ATTEMPT_WINDOW`] in milliseconds.
pub const WINDOW_MS: i64 = ATTEMPT_WINDOW.as_millis() as i64;

/// Counts wrong attempts per key, within a window that begins with the first.
#[derive(Debug)]
pub struct Attempts<K> {
    max: u32,
    counters: Mutex<Counters<K>>,
}

/// Two generations, so that forgetting costs nothing: a counter that was not touched during a
/// whole generation is dropped with it. A generation lasts a window, or until it is full.
#[derive(Debug)]
struct Counters<K> {
    recent: HashMap<K, Counter>,
    older: HashMap<K, Counter>,
    begun_at: i64,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    wrong: u32,
    since: i64,
}

impl<K: Eq + Hash> Attempts<K> {
    /// Allows `max` wrong attempts per key and window.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self {
            max,
            counters: Mutex::new(Counters {
                recent: HashMap::new(),
                older: HashMap::new(),
                begun_at: 0,
            }),
        }
    }

    /// Whether the wrong attempts of `key` are used up.
    pub fn exhausted(&self, key: &K, now_ms: i64) -> bool {
        self.lock().wrong(key, now_ms).wrong >= self.max
    }

    /// Counts a wrong attempt; false when they were used up before it, so that it must be
    /// answered as if it had not been looked at.
    #[must_use]
    pub fn count(&self, key: K, now_ms: i64) -> bool {
        let mut counters = self.lock();
        let mut counter = counters.wrong(&key, now_ms);
        if counter.wrong >= self.max {
            return false;
        }
        counter.wrong += 1;
        counters.put(key, counter, now_ms);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Counters<K>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Counters<K> {
    fn wrong(&self, key: &K, now_ms: i64) -> Counter {
        let counter = self.recent.get(key).or_else(|| self.older.get(key));
        match counter {
            Some(counter) if now_ms - counter.since < WINDOW_MS => *counter,
            _ => Counter {
                wrong: 0,
                since: now_ms,
            },
        }
    }

    fn put(&mut self, key: K, counter: Counter, now_ms: i64) {
        let over = now_ms - self.begun_at >= WINDOW_MS;
        if over || self.recent.len() >= ATTEMPT_COUNTERS_MAX {
            self.older = std::mem::take(&mut self.recent);
            self.begun_at = now_ms;
        }
        self.recent.insert(key, counter);
    }
}

/// Whom an address stands for: an IPv4 address itself, an IPv6 address its /64, which is what one
/// customer gets.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d, 0, 0, 0, 0].into()
        }
    }
}

/// Lets attempts on one key be made one after the other, so that many at once cost no more than
/// the wrong ones that are allowed.
#[derive(Debug)]
pub struct Turns<K: Clone + Eq + Hash> {
    /// The keys being tried; bounded by the requests being answered.
    queues: Mutex<HashMap<K, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    places: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The right to make an attempt, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a, K: Clone + Eq + Hash> {
    _turn: OwnedMutexGuard<()>,
    _place: Place<'a, K>,
}

#[derive(Debug)]
struct Place<'a, K: Clone + Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Waits until nobody else tries `key`. Cancel safe.
    pub async fn take(&self, key: K) -> Turn<'_, K> {
        let turn = {
            let mut queues = self.lock();
            let queue = queues.entry(key.clone()).or_default();
            queue.places += 1;
            Arc::clone(&queue.turn)
        };
        let place = Place { turns: self, key };
        Turn {
            _turn: turn.lock_owned().await,
            _place: place,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<'_, K> {
    fn drop(&mut self) {
        let mut queues = self.turns.lock();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.places -= 1;
            if queue.places == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempts, Turns, WINDOW_MS, network};
    use crate::limits::ATTEMPT_COUNTERS_MAX;

    #[test]
    fn attempts_are_allowed_again_when_the_window_has_passed() {
        let attempts = Attempts::new(2);
        assert!(attempts.count("a", 1_000));
        assert!(attempts.count("a", 2_000));
        assert!(attempts.exhausted(&"a", 2_000));
        assert!(!attempts.count("a", 1_000 + WINDOW_MS - 1));
        assert!(!attempts.exhausted(&"b", 2_000));
        assert!(!attempts.exhausted(&"a", 1_000 + WINDOW_MS));
        assert!(attempts.count("a", 1_000 + WINDOW_MS));
    }

    #[test]
    fn counters_are_bounded_and_the_active_ones_stay() {
        let attempts = Attempts::new(2);
        for key in 0..3 * ATTEMPT_COUNTERS_MAX {
            assert!(attempts.count(key, 1));
        }
        let last = 3 * ATTEMPT_COUNTERS_MAX - 1;
        assert!(attempts.count(last, 1));
        assert!(attempts.exhausted(&last, 1));
        let counters = attempts.lock();
        assert!(counters.recent.len() + counters.older.len() <= 2 * ATTEMPT_COUNTERS_MAX);
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[tokio::test]
    async fn turns_on_one_key_follow_each_other_and_leave_nothing() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        drop(turns.take("b").await);
        let mut second = std::pin::pin!(turns.take("a"));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        {
            let mut given_up = std::pin::pin!(turns.take("a"));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending());
        }
        drop(first);
        drop(second.await);
        assert!(turns.lock().is_empty());
    }
}
