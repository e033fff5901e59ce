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
        let stored = store::ack::highest(store.reader(), user, owner).await?;
        let of = |device| Key {
            user,
            owner,
            device: DeviceId(device),
        };
        let state = self.lock();
        let unwritten = [&state.waiting, &state.flushing]
            .into_iter()
            .flat_map(|acks| acks.range(of(i64::MIN)..=of(i64::MAX)))
            .map(|(_, seq)| *seq);
        Ok(unwritten.fold(stored, Seq::max))
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
        self.lock().waiting.clear();
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
            let written = store::ack::raise(store, &batch).await;
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
            state.flushing.insert(key, seq);
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
