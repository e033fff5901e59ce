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
        UNLISTED_LOOK_INTERVAL,
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

/// Strikes off the devices of an instance, and then the instance itself unless it lives; how many
/// devices there were.
async fn strike_instance_off(
    store: &Store,
    at: &Attendance,
    instance: &Instance,
    clock: &dyn Clock,
) -> Outcome<usize> {
    let mut devices = 0;
    loop {
        let max = ATTENDANCE_CHUNK as u64;
        let page = online::of_instance(store.reader(), instance.id, DeviceId(0), max);
        let page: Vec<Session> = store::attempt(page).await?.iter().map(session).collect();
        if page.is_empty() {
            store::attempt(online::forget(store, instance.clone())).await?;
            return Ok(devices);
        }
        store::attempt(at.left(store, &page, clock.now_ms())).await?;
        devices += page.len();
    }
}

/// Strikes off the devices of instances that have died; never returns. An instance that is alone knows
/// that there is no other.
pub(super) async fn strike_dead_off(options: &delivery::Options) {
    let Some(at) = &options.attendance else {
        return std::future::pending().await;
    };
    let mut seen: HashMap<i64, (i64, Instant)> = HashMap::new();
    let mut unlisted = Unlisted::default();
    loop {
        match unlisted.with_listed(&options.store).await {
            Ok(instances) => {
                let others = instances.into_iter().filter(|i| i.id != at.instance());
                let dead = silent(&mut seen, others.collect(), options.is_alone);
                for instance in dead {
                    let (store, clock) = (&options.store, &*options.clock);
                    match strike_instance_off(store, at, &instance, clock).await {
                        Ok(devices) => {
                            unlisted.struck_off(instance.id);
                            log_gone(&instance, devices);
                        }
                        Err(error) => tracing::warn!(
                            %error,
                            "the devices of an instance that is gone are listed"
                        ),
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

fn log_gone(instance: &Instance, devices: usize) {
    if devices > 0 {
        let instance = instance.id;
        tracing::info!(instance, devices, "an instance is gone with its devices");
    }
}

/// Instances that have devices and are not listed, looked for now and then: one that was taken for
/// dead wrote them down, and died before it was listed again.
#[derive(Debug, Default)]
struct Unlisted {
    ids: Vec<i64>,
    looked_at: Option<Instant>,
}

impl Unlisted {
    /// The instances that are listed, and these.
    async fn with_listed(&mut self, store: &Store) -> Outcome<Vec<Instance>> {
        let is_recent = |at: Instant| at.elapsed() < UNLISTED_LOOK_INTERVAL;
        if !self.looked_at.is_some_and(is_recent) {
            self.ids = store::attempt(online::with_devices(store.reader())).await?;
            self.looked_at = Some(Instant::now());
        }
        let mut instances = store::attempt(online::instances(store.reader())).await?;
        let listed: HashSet<i64> = instances.iter().map(|instance| instance.id).collect();
        self.ids.retain(|id| !listed.contains(id));
        let unlisted = self.ids.iter().map(|id| Instance { id: *id, beat: 0 });
        instances.extend(unlisted);
        Ok(instances)
    }

    /// It has no devices any more.
    fn struck_off(&mut self, id: i64) {
        self.ids.retain(|unlisted| *unlisted != id);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Manual,
        store::outbox::{Kind, Outbox},
        testing::open_store_at,
    };

    #[tokio::test]
    async fn devices_of_an_unlisted_instance_are_struck_off_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("im.db").display());
        let store = open_store_at(url).await;
        let clock = Arc::new(Manual::at(0));
        let outbox = Outbox::telling([Kind::UserOffline], 0, clock.clone());
        let (here, gone) = (
            Attendance::at(1, &outbox).unwrap(),
            Attendance::at(9, &outbox).unwrap(),
        );
        here.beat(&store).await.unwrap();
        let come = async |at: &Attendance, device, generation| {
            let session = Session {
                user: UserId(7),
                device: DeviceId(device),
                generation,
            };
            let tx = store.begin_raw().await.unwrap();
            let sessions = [session].into_iter();
            at.came(tx.conn(), sessions, 0).await.unwrap();
            tx.commit_raw().await.unwrap();
        };
        come(&here, 70, 1).await;
        come(&gone, 90, 1).await;

        let mut unlisted = Unlisted::default();
        let ids = async |unlisted: &mut Unlisted| {
            let found = unlisted.with_listed(&store).await.unwrap();
            let mut ids: Vec<i64> = found.iter().map(|instance| instance.id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(&mut unlisted).await, [1, 9]);
        assert!(unlisted.ids == [9], "who is listed is seen to otherwise");
        let instance = Instance { id: 9, beat: 0 };
        let struck = strike_instance_off(&store, &here, &instance, &*clock).await;
        assert_eq!(struck.unwrap(), 1);
        unlisted.struck_off(9);
        assert_eq!(ids(&mut unlisted).await, [1]);

        come(&gone, 90, 2).await;
        assert_eq!(ids(&mut unlisted).await, [1], "not before the next look");
        unlisted.looked_at = None;
        assert_eq!(ids(&mut unlisted).await, [1, 9]);
        store.close().await;
    }
}
