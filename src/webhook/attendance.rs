//! Who is online, for those who are told of it. Sign-ins write themselves down in their own
//! transaction; here sessions are struck off when they have ended, and now and then what is written is
//! compared with who is here: whatever got lost in between is put right. Instances say that they live,
//! and whoever delivers strikes off the devices of one that does not any more.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::delivery;
use crate::{
    clock::Clock,
    delivery::{departures::Departures, registry::Registry},
    error::Result,
    id::{DeviceId, UserId},
    limits::{
        ATTENDANCE_CHUNK, ATTENDANCE_SWEEP_INTERVAL, INSTANCE_BEAT_INTERVAL, INSTANCE_DEAD_AFTER,
    },
    store::{
        self, Outcome, Store,
        online::{self, Attendance, Instance, Row, Session},
    },
};

/// What writing down who is online works with.
#[derive(Debug)]
pub struct Attendant {
    /// Where it is written.
    pub store: Store,
    /// Under which number.
    pub attendance: Attendance,
    /// Who is here.
    pub registry: Arc<Registry>,
    /// Who has left.
    pub departures: Arc<Departures>,
    /// When it happens.
    pub clock: Arc<dyn Clock>,
}

impl Attendant {
    /// Lists the instance: before anybody signs in.
    ///
    /// # Errors
    /// 10004 when the database does not answer.
    pub async fn list(&self) -> Result<()> {
        let listed = self.attendance.beat(&self.store).await;
        listed.map(drop).map_err(Into::into)
    }

    /// Writes down who leaves until `stop`, and then that everybody has left.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            tokio::join!(self.strike_off(), self.beat(), self.sweep());
        };
        if stop.run_until_cancelled(work).await.is_none()
            && let Err(error) = strike_all_off(&self.store, &self.attendance, &*self.clock).await
        {
            tracing::warn!(%error, "it could not be written down that everybody has left");
        }
    }

    /// Strikes off who leaves. Whoever cannot be, or was one too many to be noted, is found by the
    /// sweep.
    async fn strike_off(&self) {
        loop {
            self.departures.noted().await;
            for some in self.departures.take().chunks(ATTENDANCE_CHUNK) {
                if let Err(error) = self.left(some).await {
                    tracing::warn!(%error, "who has left could not be written down yet");
                }
            }
        }
    }

    async fn left(&self, sessions: &[Session]) -> Outcome<()> {
        let now_ms = self.clock.now_ms();
        store::attempt(self.attendance.left(&self.store, sessions, now_ms)).await
    }

    async fn beat(&self) {
        let mut beats = interval(INSTANCE_BEAT_INTERVAL);
        loop {
            beats.tick().await;
            match store::attempt(self.attendance.beat(&self.store)).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!("this instance was taken for dead");
                    self.compare().await;
                }
                Err(error) => tracing::debug!(%error, "the instance's sign of life is late"),
            }
        }
    }

    async fn sweep(&self) {
        loop {
            sleep(ATTENDANCE_SWEEP_INTERVAL).await;
            self.compare().await;
        }
    }

    async fn compare(&self) {
        let compared = async {
            self.strike_ghosts_off().await?;
            self.write_missing_down().await
        };
        let compared: Outcome<()> = compared.await;
        if let Err(error) = compared {
            tracing::debug!(%error, "who is online could not be compared");
        }
    }

    /// Strikes off what is written of sessions that are not here: their end was not written, or their
    /// sign-in was never completed.
    async fn strike_ghosts_off(&self) -> Outcome<()> {
        let mut after = DeviceId(0);
        loop {
            let reader = self.store.reader();
            let instance = self.attendance.instance();
            let page = online::of_instance(reader, instance, after, ATTENDANCE_CHUNK as u64);
            let page = store::attempt(page).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = DeviceId(last.device_id);
            let ghosts: Vec<Session> = page
                .iter()
                .map(session)
                .filter(|s| !self.is_here(s))
                .collect();
            if !ghosts.is_empty() {
                self.left(&ghosts).await?;
            }
        }
    }

    /// Whether a session is here, or one of its device is on its way in.
    fn is_here(&self, session: &Session) -> bool {
        let here = self.registry.sessions(session.device);
        here.iter().any(|handle| {
            let credential = handle.credential();
            credential.is_none_or(|credential| credential.generation == session.generation)
        })
    }

    /// Writes down the sessions that are here and were struck off all the same.
    async fn write_missing_down(&self) -> Outcome<()> {
        let here = self.registry.all();
        let here = here.iter().filter_map(|handle| {
            let credential = handle.credential()?;
            handle.eviction().is_none().then(|| Session {
                user: credential.user,
                device: handle.device(),
                generation: credential.generation,
            })
        });
        let here: Vec<Session> = here.collect();
        for chunk in here.chunks(ATTENDANCE_CHUNK) {
            let devices: Vec<DeviceId> = chunk.iter().map(|session| session.device).collect();
            let reader = self.store.reader();
            let written = store::attempt(online::of_devices(reader, &devices)).await?;
            let written: HashSet<i64> = written.iter().map(|row| row.device_id).collect();
            let is_missing = |session: &&Session| !written.contains(&session.device.get());
            let missing: Vec<Session> = chunk.iter().filter(is_missing).copied().collect();
            if !missing.is_empty() {
                store::attempt(self.write_down(&missing)).await?;
            }
        }
        Ok(())
    }

    async fn write_down(&self, sessions: &[Session]) -> Outcome<()> {
        let tx = self.store.begin_raw().await?;
        let (sessions, now_ms) = (sessions.iter().copied(), self.clock.now_ms());
        self.attendance.came(tx.conn(), sessions, now_ms).await?;
        tx.commit_raw().await?;
        self.attendance.written();
        Ok(())
    }
}

/// Strikes off all devices of this instance, and the instance.
async fn strike_all_off(store: &Store, at: &Attendance, clock: &dyn Clock) -> Outcome<()> {
    let listed = store::attempt(online::instances(store.reader())).await?;
    let own = listed
        .into_iter()
        .filter(|instance| instance.id == at.instance());
    for instance in own {
        strike_instance_off(store, at, &instance, clock).await?;
    }
    Ok(())
}

/// Strikes off the devices of an instance, and then the instance itself unless it lives.
async fn strike_instance_off(
    store: &Store,
    at: &Attendance,
    instance: &Instance,
    clock: &dyn Clock,
) -> Outcome<()> {
    loop {
        let max = ATTENDANCE_CHUNK as u64;
        let page = online::of_instance(store.reader(), instance.id, DeviceId(0), max);
        let page: Vec<Session> = store::attempt(page).await?.iter().map(session).collect();
        if page.is_empty() {
            return store::attempt(online::forget(store, instance.clone())).await;
        }
        store::attempt(at.left(store, &page, clock.now_ms())).await?;
    }
}

/// Strikes off the devices of instances that have died; never returns. An instance that is alone knows
/// that there is no other.
pub(super) async fn strike_dead_off(options: &delivery::Options) {
    let Some(at) = &options.attendance else {
        return std::future::pending().await;
    };
    let mut seen: HashMap<i64, (i64, Instant)> = HashMap::new();
    let mut unlisted = None;
    loop {
        match listed(&options.store, &mut unlisted).await {
            Ok(instances) => {
                let others = instances.into_iter().filter(|i| i.id != at.instance());
                let dead = silent(&mut seen, others.collect(), options.is_alone);
                for instance in dead {
                    tracing::info!(
                        instance = instance.id,
                        "an instance is gone with its devices"
                    );
                    let (store, clock) = (&options.store, &*options.clock);
                    if let Err(error) = strike_instance_off(store, at, &instance, clock).await {
                        tracing::warn!(%error, "the devices of an instance that is gone are listed");
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "which instances live could not be seen");
                // Nobody is taken for dead by that.
                seen.clear();
            }
        }
        sleep(INSTANCE_BEAT_INTERVAL).await;
    }
}

/// The instances that are listed and, once, those that are not and have devices all the same.
async fn listed(store: &Store, unlisted: &mut Option<Vec<i64>>) -> Outcome<Vec<Instance>> {
    if unlisted.is_none() {
        *unlisted = Some(store::attempt(online::with_devices(store.reader())).await?);
    }
    let mut instances = store::attempt(online::instances(store.reader())).await?;
    for id in unlisted.iter().flatten() {
        if !instances.iter().any(|instance| instance.id == *id) {
            instances.push(Instance { id: *id, beat: 0 });
        }
    }
    Ok(instances)
}

/// Those that have not counted on for long enough; at once where there can be no other.
fn silent(
    seen: &mut HashMap<i64, (i64, Instant)>,
    others: Vec<Instance>,
    is_alone: bool,
) -> Vec<Instance> {
    let now = Instant::now();
    let former = mem::take(seen);
    let mut silent = others;
    silent.retain(|instance| {
        let known = former.get(&instance.id);
        let known = known.filter(|(beat, _)| *beat == instance.beat);
        let since = known.map_or(now, |(_, since)| *since);
        seen.insert(instance.id, (instance.beat, since));
        is_alone || now >= since + INSTANCE_DEAD_AFTER
    });
    silent
}

fn session(row: &Row) -> Session {
    Session {
        user: UserId(row.user_id),
        device: DeviceId(row.device_id),
        generation: row.generation,
    }
}
