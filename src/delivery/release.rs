//! Letting sessions go in a drain: one after the other, in random order, so that their devices do not
//! come back to the other instances all at once. A session serves its device until it is told; nothing
//! here waits for what it still has to do.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::time::{Instant, sleep_until};

use super::{handle::Eviction, registry::Registry};
use crate::limits::{DRAIN_RESERVE, RELEASE_INTERVAL_MAX};

/// Tells every session that is listed now to go, so that all of a drain that may take `timeout` ends in
/// time. Completes when the last one was told. Cancel safe: who was told goes.
pub async fn release(registry: &Registry, timeout: Duration) {
    let mut sessions = registry.all();
    sessions.shuffle(&mut rand::rng());
    let interval = interval(sessions.len(), timeout);
    let begun = Instant::now();
    for (turn, session) in sessions.into_iter().enumerate() {
        // Anywhere within its own interval: neither in step nor in bursts.
        let share = turn as f64 + rand::random::<f64>();
        sleep_until(begun + interval.mul_f64(share)).await;
        session.evict(Eviction::Draining);
    }
}

/// Time between two sessions: short enough for a few to be gone in a moment, shorter where so many
/// would not be told in time.
fn interval(sessions: usize, timeout: Duration) -> Duration {
    let share = window(timeout).as_secs_f64() / sessions.max(1) as f64;
    Duration::from_secs_f64(share).min(RELEASE_INTERVAL_MAX)
}

/// The part of a drain within which the last session is told.
///
/// Whoever is told last may still wait for the answer to a send, and gets it: everything but
/// `DRAIN_RESERVE` can be used where the timeout is long. Where it is shorter than that or little
/// longer, not every wait can be sat out; then a third of it is used, which leaves two thirds for sends
/// (they take milliseconds unless the database is in trouble), and still does not send all devices away
/// in one moment.
fn window(timeout: Duration) -> Duration {
    timeout.saturating_sub(DRAIN_RESERVE).max(timeout / 3)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{delivery::handle::Handle, id::DeviceId};

    fn registry_of(sessions: i64) -> (Registry, Vec<Arc<Handle>>) {
        let registry = Registry::default();
        let handles: Vec<_> = (1..=sessions)
            .map(|id| Arc::new(Handle::new(DeviceId(id))))
            .collect();
        handles.iter().for_each(|handle| registry.enter(handle));
        (registry, handles)
    }

    fn told(handles: &[Arc<Handle>]) -> Vec<i64> {
        let told = handles.iter().filter(|handle| handle.eviction().is_some());
        told.map(|handle| handle.device().get()).collect()
    }

    proptest! {
        #[test]
        fn the_last_is_told_in_time_and_few_are_told_soon(
            sessions in 0..100_000_usize,
            timeout_s in 1..300_u64,
        ) {
            let timeout = Duration::from_secs(timeout_s);
            let all = interval(sessions, timeout).mul_f64(sessions as f64);
            prop_assert!(all <= window(timeout) + Duration::from_millis(1));
            prop_assert!(window(timeout) < timeout);
            prop_assert!(timeout - window(timeout) >= DRAIN_RESERVE.min(timeout * 2 / 3));
            prop_assert!(interval(sessions, timeout) <= RELEASE_INTERVAL_MAX, "50 a second");
            if sessions <= 100 {
                prop_assert!(all <= Duration::from_secs(2));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_told_at_an_even_rate_in_random_order() {
        let (registry, handles) = registry_of(1_000);
        let release = release(&registry, Duration::from_secs(31));
        tokio::pin!(release);
        let begun = Instant::now();
        for second in 1..20_u32 {
            let until = begun + Duration::from_secs(second.into());
            if tokio::time::timeout_at(until, release.as_mut())
                .await
                .is_ok()
            {
                assert_eq!(second, 20, "told too soon");
            }
            let told = told(&handles);
            let expected = 50 * second as usize;
            assert!(
                told.len().abs_diff(expected) <= 1,
                "{} of {expected}",
                told.len()
            );
            let in_order: Vec<i64> = (1..=told.len() as i64).collect();
            assert_ne!(told, in_order);
        }
        release.await;
        assert_eq!(told(&handles).len(), 1_000);
        assert!(
            begun.elapsed() <= Duration::from_millis(20_010),
            "{:?}",
            begun.elapsed()
        );
    }
}
