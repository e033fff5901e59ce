//! Acks: how far each device has come. They are kept in memory and written in batches; a crash
//! loses at most the last second of them, and then a message is synced once more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

pub use crate::store::ack::Key;
use crate::{
    error::Result,
    id::{DeviceId, Owner, Seq, UserId},
    lifecycle::Tasks,
    limits::{ACK_BATCH_MAX, ACK_FLUSH_INTERVAL},
    store::{self, Store},
};

/// Acks that are not in the database yet.
#[derive(Debug, Default)]
pub struct Acks {
    state: Mutex<State>,
    /// A session has closed: its acks should not wait for the interval.
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Key, Seq>,
    /// Those a transaction is writing right now.
    flushing: BTreeMap<Key, Seq>,
}

impl Acks {
    /// Notes an ack; one that is lower than a former one changes nothing.
    pub fn note(&self, key: Key, seq: Seq) {
        let mut state = self.lock();
        let waiting = state.waiting.entry(key).or_default();
        *waiting = seq.max(*waiting);
    }

    /// Asks for the acks to be written now.
    pub fn hurry(&self) {
        if !self.lock().waiting.is_empty() {
            self.hurry.notify_one();
        }
    }

    /// The highest ack of one timeline over all devices of a user, those not written yet included.
    ///
    /// # Errors
    /// 10004 when the database does not answer.
    pub async fn highest(&self, store: &Store, user: UserId, owner: Owner) -> Result<Seq> {
        // In this order: an ack that is written meanwhile is seen here or there.
        let unwritten = self.highest_unwritten(user, owner);
        let stored = store::ack::highest(store.reader(), user, owner).await?;
        Ok(stored.max(unwritten))
    }

    fn highest_unwritten(&self, user: UserId, owner: Owner) -> Seq {
        let of = |device| Key {
            user,
            owner,
            device: DeviceId(device),
        };
        let state = self.lock();
        [&state.waiting, &state.flushing]
            .into_iter()
            .flat_map(|acks| acks.range(of(i64::MIN)..=of(i64::MAX)))
            .map(|(_, seq)| *seq)
            .fold(Seq::ZERO, Seq::max)
    }

    /// What one device has acknowledged of one timeline and is not written yet.
    #[must_use]
    pub fn unwritten(&self, key: &Key) -> Seq {
        let state = self.lock();
        let of = |acks: &BTreeMap<Key, Seq>| acks.get(key).copied().unwrap_or_default();
        of(&state.waiting).max(of(&state.flushing))
    }

    /// Forgets what is not written: after a restore it may be ahead of the timelines.
    pub fn forget(&self) {
        let mut state = self.lock();
        state.waiting.clear();
        state.flushing.clear();
    }

    /// Writes acks until the server stops; [`Acks::flush`] must be called once after that.
    pub async fn run(self: Arc<Self>, store: Store, tasks: Tasks) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(ACK_FLUSH_INTERVAL) => {}
                () = self.hurry.notified() => {}
                () = tasks.stop().cancelled() => return,
            }
            self.flush(&store).await;
        }
    }

    /// Writes what is waiting. What cannot be written stays waiting.
    pub async fn flush(&self, store: &Store) {
        loop {
            let batch = self.begin_flush();
            if batch.is_empty() {
                return;
            }
            let written = store::attempt(store::ack::raise(store, &batch)).await;
            self.end_flush(written.is_err());
            if let Err(error) = written {
                tracing::warn!(%error, "acks could not be written yet");
                return;
            }
        }
    }

    fn begin_flush(&self) -> Vec<(Key, Seq)> {
        let mut state = self.lock();
        while state.flushing.len() < ACK_BATCH_MAX
            && let Some((key, seq)) = state.waiting.pop_first()
        {
            // What a flush that was cut off has left is flushed again.
            let flushing = state.flushing.entry(key).or_default();
            *flushing = seq.max(*flushing);
        }
        state
            .flushing
            .iter()
            .map(|(key, seq)| (*key, *seq))
            .collect()
    }

    fn end_flush(&self, keep: bool) {
        let mut state = self.lock();
        let flushed = std::mem::take(&mut state.flushing);
        if keep {
            for (key, seq) in flushed {
                let waiting = state.waiting.entry(key).or_default();
                *waiting = seq.max(*waiting);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::testing::Timelines;

    const USER: UserId = UserId(1);
    const OWN: Owner = Owner::User(USER);

    fn key(device: i64) -> Key {
        Key {
            user: USER,
            owner: OWN,
            device: DeviceId(device),
        }
    }

    async fn stored(world: &Timelines) -> Seq {
        let reader = world.store.reader();
        store::ack::highest(reader, USER, OWN).await.unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Note { device: i64, seq: i64 },
        BeginFlush,
        EndFlush { fails: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..4_i64, 1..9_i64).prop_map(|(device, seq)| Step::Note { device, seq }),
            1 => Just(Step::BeginFlush),
            1 => any::<bool>().prop_map(|fails| Step::EndFlush { fails }),
        ]
    }

    proptest! {
        /// I10, also while a flush is under way and when it fails.
        #[test]
        fn highest_ack_of_a_device_is_in_memory_or_written(steps in vec(step(), 0..60)) {
            let acks = Acks::default();
            let mut noted = [Seq::ZERO; 4];
            let mut written = [Seq::ZERO; 4];
            let mut flushing = Vec::new();
            for step in steps {
                match step {
                    Step::Note { device, seq } => {
                        acks.note(key(device), Seq(seq));
                        let noted = &mut noted[device as usize];
                        *noted = Seq(seq).max(*noted);
                    }
                    Step::BeginFlush => flushing = acks.begin_flush(),
                    Step::EndFlush { fails } => {
                        for (key, seq) in flushing.drain(..).filter(|_| !fails) {
                            let written = &mut written[key.device.get() as usize];
                            *written = seq.max(*written);
                        }
                        acks.end_flush(fails);
                    }
                }
                for device in 1..4 {
                    let known = acks.unwritten(&key(device as i64)).max(written[device]);
                    prop_assert_eq!(known, noted[device], "device {}", device);
                }
            }
        }
    }

    #[tokio::test]
    async fn ack_never_moves_back() {
        let world = Timelines::new().await;
        let acks = Acks::default();
        for (given, highest) in [(5, 5), (3, 5), (7, 7), (6, 7)] {
            acks.note(key(1), Seq(given));
            acks.note(key(1), Seq(given - 1));
            acks.flush(&world.store).await;
            assert_eq!(acks.unwritten(&key(1)), Seq::ZERO);
            assert_eq!(stored(&world).await, Seq(highest));
        }
    }

    #[tokio::test]
    async fn highest_counts_all_devices_of_one_timeline_written_or_not() {
        let world = Timelines::new().await;
        let acks = Acks::default();
        acks.note(key(1), Seq(5));
        acks.flush(&world.store).await;
        acks.note(key(2), Seq(4));
        let other_user = UserId(2);
        let others = [
            Key {
                user: other_user,
                owner: Owner::User(other_user),
                device: DeviceId(3),
            },
            Key {
                owner: Owner::Group(crate::id::GroupId(1)),
                ..key(1)
            },
        ];
        for other in others {
            acks.note(other, Seq(100));
        }
        assert_eq!(acks.highest(&world.store, USER, OWN).await.unwrap(), Seq(5));
        acks.note(key(3), Seq(9));
        assert_eq!(acks.highest(&world.store, USER, OWN).await.unwrap(), Seq(9));
        acks.flush(&world.store).await;
        assert_eq!(acks.highest(&world.store, USER, OWN).await.unwrap(), Seq(9));
        assert_eq!(stored(&world).await, Seq(9));
    }

    #[tokio::test]
    async fn highest_does_not_miss_an_ack_that_is_written_meanwhile() {
        let world = Timelines::new().await;
        let acks = Acks::default();
        for seq in (1..=2000).map(Seq) {
            acks.note(key(1), seq);
            let asked = acks.highest(&world.store, USER, OWN);
            let (highest, ()) = join(asked, acks.flush(&world.store)).await;
            assert_eq!(highest.unwrap(), seq);
        }
    }

    #[tokio::test]
    async fn failed_flush_keeps_the_acks() {
        let world = Timelines::new().await;
        let foreign = world.foreign_connection();
        let acks = Acks::default();
        acks.note(key(1), Seq(5));
        foreign
            .execute_batch("ALTER TABLE device_ack RENAME TO away")
            .unwrap();
        acks.flush(&world.store).await;
        assert_eq!(acks.unwritten(&key(1)), Seq(5));
        acks.note(key(1), Seq(4));
        foreign
            .execute_batch("ALTER TABLE away RENAME TO device_ack")
            .unwrap();
        acks.flush(&world.store).await;
        assert_eq!(acks.unwritten(&key(1)), Seq::ZERO);
        assert_eq!(stored(&world).await, Seq(5));
    }

    #[tokio::test]
    async fn more_acks_than_one_batch_are_all_written() {
        let world = Timelines::new().await;
        let acks = Acks::default();
        let devices = 1..=(2 * ACK_BATCH_MAX as i64 + 3);
        for device in devices.clone().rev() {
            acks.note(key(device), Seq(device));
        }
        acks.flush(&world.store).await;
        assert!(
            devices
                .clone()
                .all(|device| acks.unwritten(&key(device)) == Seq::ZERO)
        );
        let sessions: Vec<_> = devices.map(|device| (USER, DeviceId(device))).collect();
        let own = store::ack::own(world.store.reader(), &sessions)
            .await
            .unwrap();
        assert_eq!(own.len(), sessions.len());
        assert!(
            own.iter()
                .all(|((_, device), seq)| device.get() == seq.get())
        );
    }

    #[test]
    fn hurry_is_asked_for_only_when_something_waits() {
        let acks = Acks::default();
        acks.hurry();
        assert!(acks.hurry.notified().now_or_never().is_none());
        acks.note(key(1), Seq(1));
        acks.hurry();
        assert!(acks.hurry.notified().now_or_never().is_some());
    }
}
