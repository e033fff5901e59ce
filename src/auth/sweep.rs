//! The sweep over live sessions: each one's user, generation, token and expiry are compared with
//! the database once per reconcile interval, in chunks spread over it, and at once where there is
//! doubt. That is how I7 and I8 hold when a revocation came by a way that reached this instance late
//! or not at all.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    delivery::{
        handle::{Credential, Eviction, Handle},
        registry::Registry,
    },
    error::Result,
    id::DeviceId,
    limits::{COMPARE_AGAIN_MAX, DOUBT_INTERVAL, DOUBTED_DEVICES_MAX, SWEEP_CHUNK},
    store::{self, Store, session::TokenRow},
};

/// Whose sessions must be compared with the database before the sweep comes to them.
#[derive(Debug, Default)]
pub struct Doubts {
    state: Mutex<Doubted>,
    raised: Notify,
}

#[derive(Debug, Default)]
struct Doubted {
    devices: HashSet<DeviceId>,
    /// Not only those.
    all: bool,
}

impl Doubts {
    /// Sessions of these devices, those on their way in included.
    pub fn raise(&self, devices: &[DeviceId]) {
        let mut doubted = self.lock();
        doubted.devices.extend(devices);
        if doubted.devices.len() > DOUBTED_DEVICES_MAX {
            doubted.devices = HashSet::new();
            doubted.all = true;
        }
        drop(doubted);
        self.raised.notify_one();
    }

    /// All sessions.
    pub fn raise_all(&self) {
        self.lock().all = true;
        self.raised.notify_one();
    }

    fn take(&self) -> Doubted {
        mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Doubted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the sweep works with.
#[derive(Debug)]
pub struct Sweep {
    /// The sessions.
    pub registry: Arc<Registry>,
    /// What they are compared with.
    pub store: Store,
    /// What tokens expire by.
    pub clock: Arc<dyn Clock>,
    /// Which cannot wait.
    pub doubts: Arc<Doubts>,
    /// In which all are compared once.
    pub interval: Duration,
}

impl Sweep {
    /// Compares all sessions until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            tokio::join!(self.go_round(), self.settle_doubts());
        })
        .await;
    }

    /// In every round a session has its turn at about the same time.
    async fn go_round(&self) {
        loop {
            let begun = Instant::now();
            let mut sessions = self.registry.all();
            sessions.sort_unstable_by_key(|handle| handle.device());
            let chunks = sessions.chunks(SWEEP_CHUNK);
            let count = chunks.len().max(1) as u32;
            for (done, chunk) in (1..).zip(chunks) {
                self.compare(chunk).await;
                sleep_until(begun + self.interval * done / count).await;
            }
            sleep_until(begun + self.interval).await;
        }
    }

    async fn settle_doubts(&self) {
        let mut pause = DOUBT_INTERVAL;
        loop {
            self.doubts.raised.notified().await;
            let doubted = self.doubts.take();
            let Unsettled { devices, failed } = self.settle(doubted).await;
            pause = if failed {
                (2 * pause).min(COMPARE_AGAIN_MAX)
            } else {
                DOUBT_INTERVAL
            };
            if !devices.is_empty() {
                sleep(pause).await;
                self.doubts.raise(&devices);
            }
        }
    }

    /// Compares the sessions of doubted devices. Returns those that must be looked at again, because
    /// a session is on its way in, with a token that was checked before it was revoked perhaps, or
    /// because the database does not answer.
    async fn settle(&self, doubted: Doubted) -> Unsettled {
        let sessions = if doubted.all {
            self.registry.all()
        } else {
            let devices = doubted.devices.iter();
            devices
                .flat_map(|device| self.registry.sessions(*device))
                .collect()
        };
        let mut unsettled = Unsettled::default();
        for chunk in sessions.chunks(SWEEP_CHUNK) {
            // Once it does not answer the rest is not asked for.
            let compared = match unsettled.failed {
                true => None,
                false => self.compare(chunk).await,
            };
            unsettled.failed = compared.is_none();
            let all = || chunk.iter().map(|handle| handle.device()).collect();
            unsettled.devices.extend(compared.unwrap_or_else(all));
        }
        unsettled
    }

    /// Returns what must be looked at again, or `None` where the database did not answer.
    async fn compare(&self, sessions: &[Arc<Handle>]) -> Option<Vec<DeviceId>> {
        let comparison = Comparison::of(sessions);
        match comparison.against(&self.store, self.clock.now_ms()).await {
            Ok(changing) => Some(changing),
            Err(error) => {
                tracing::warn!(%error, trace = ?error.trace(), "comparing sessions with the database failed");
                None
            }
        }
    }
}

/// What must be looked at again.
#[derive(Debug, Default)]
struct Unsettled {
    devices: Vec<DeviceId>,
    /// The database did not answer.
    failed: bool,
}

/// Sessions as they were before the database is asked about them.
pub(super) struct Comparison<'a> {
    sessions: &'a [Arc<Handle>],
    before: Vec<Option<Credential>>,
}

impl<'a> Comparison<'a> {
    pub(super) fn of(sessions: &'a [Arc<Handle>]) -> Self {
        let before = sessions.iter().map(|handle| handle.credential()).collect();
        Self { sessions, before }
    }

    /// Ends those that the database does not know any more. Gives the devices whose sessions were on
    /// their way in, or went on with another token, while it was asked: nothing can be said of them.
    pub(super) async fn against(self, store: &Store, now_ms: i64) -> Result<Vec<DeviceId>> {
        let devices: Vec<DeviceId> = self.sessions.iter().map(|handle| handle.device()).collect();
        let tokens = store::session::tokens(store.reader(), &devices).await?;
        let generations = store::session::generations(store.reader(), &devices).await?;
        let mut changing = Vec::new();
        for (handle, before) in self.sessions.iter().zip(self.before) {
            let Some(credential) = before.filter(|_| handle.credential() == before) else {
                changing.push(handle.device());
                continue;
            };
            let token = tokens.get(&handle.device());
            let token = token.filter(|token| handle.goes_by(&token.token_hash));
            let generation = generations.get(&handle.device()).copied();
            if let Some(why) = verdict(&credential, token, generation, now_ms) {
                handle.evict(why);
            }
        }
        Ok(changing)
    }
}

/// Why a session must end, if it must. `token` is its own, where it is still stored.
fn verdict(
    session: &Credential,
    token: Option<&TokenRow>,
    generation: Option<i64>,
    now_ms: i64,
) -> Option<Eviction> {
    let holds =
        token.is_some_and(|token| token.user_id == session.user.get() && token.expires_at > now_ms);
    if generation.is_some_and(|newest| newest > session.generation) {
        // Its new session may have another token.
        return Some(Eviction::Replaced);
    }
    (!holds).then_some(Eviction::SignedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::UserId, testing::Timelines};

    /// I8: as when a token was revoked elsewhere while the database does not answer here.
    #[tokio::test]
    async fn doubt_that_the_database_did_not_answer_stays() {
        let world = Timelines::new().await;
        let registry = Arc::new(Registry::default());
        let handle = Arc::new(Handle::new(DeviceId(2)));
        registry.enter(&handle);
        let credential = Credential {
            user: UserId(1),
            generation: 1,
            token_hash: [0; 32],
            expires_at: i64::MAX,
        };
        registry.sign_in(&handle, credential);
        let sweep = Sweep {
            registry,
            store: world.store.clone(),
            clock: Arc::new(crate::clock::System),
            doubts: Arc::default(),
            interval: Duration::from_secs(3_600),
        };
        let doubted = || Doubted {
            all: true,
            ..Doubted::default()
        };
        world.store.close().await;
        let unsettled = sweep.settle(doubted()).await;
        assert!(unsettled.failed);
        assert_eq!(unsettled.devices, [DeviceId(2)]);
        assert_eq!(handle.eviction(), None);
    }

    #[test]
    fn only_the_newest_sign_in_with_a_token_that_holds_stays() {
        let session = Credential {
            user: UserId(1),
            generation: 5,
            token_hash: [7; 32],
            expires_at: 100,
        };
        let token = TokenRow {
            device_id: 2,
            user_id: 1,
            token_hash: vec![7; 32],
            expires_at: 100,
        };
        let foreign = TokenRow {
            user_id: 3,
            ..token.clone()
        };
        let verdict = |token, generation, now| verdict(&session, token, generation, now);
        assert_eq!(verdict(Some(&token), Some(5), 99), None);
        assert_eq!(verdict(Some(&token), Some(6), 99), Some(Eviction::Replaced));
        assert_eq!(
            verdict(Some(&token), Some(5), 100),
            Some(Eviction::SignedOut)
        );
        assert_eq!(
            verdict(Some(&foreign), Some(5), 99),
            Some(Eviction::SignedOut)
        );
        assert_eq!(verdict(None, Some(5), 99), Some(Eviction::SignedOut));
        assert_eq!(verdict(None, Some(6), 99), Some(Eviction::Replaced));
    }

    #[test]
    fn session_goes_by_its_token_and_by_the_one_it_is_renewing_to() {
        let handle = Handle::new(DeviceId(2));
        assert!(!handle.goes_by(&[7; 32]), "it has not signed in");
        let registry = Registry::default();
        let credential = Credential {
            user: UserId(1),
            generation: 5,
            token_hash: [7; 32],
            expires_at: 100,
        };
        registry.sign_in(&handle, credential);
        assert!(handle.goes_by(&[7; 32]) && !handle.goes_by(&[8; 32]));
        handle.renewing([8; 32]);
        assert!(handle.goes_by(&[7; 32]) && handle.goes_by(&[8; 32]));
        handle.renewed([8; 32], 200);
        assert!(!handle.goes_by(&[7; 32]) && handle.goes_by(&[8; 32]));
        assert_eq!(handle.credential().map(|own| own.expires_at), Some(200));
    }
}
