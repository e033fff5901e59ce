//! This instance's sessions, by device. A device has at most one that is signed in (I7); others
//! may be on their way in, and are listed too, so that a revocation between their token check and
//! their first push reaches them. In a cluster it also keeps which devices have changed, for
//! presence, which writes down where they are.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    departures::Departures,
    handle::{Credential, Eviction, Handle},
};
use crate::{
    id::{DeviceId, RoomId, UserId},
    limits::PRESENCE_CHANGES_MAX,
};

/// The sessions of this instance.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
    changed: Notify,
    /// Where it is noted who has left, if that matters.
    departures: Option<Arc<Departures>>,
}

#[derive(Debug, Default)]
struct State {
    devices: HashMap<DeviceId, Vec<Arc<Handle>>>,
    /// Devices whose state was not taken since it changed, each with the highest generation that
    /// left; `None` when nobody takes them.
    changes: Option<HashMap<DeviceId, i64>>,
    /// There were so many that they were forgotten.
    has_overflowed: bool,
    /// How many changes there were.
    version: u64,
}

/// Where a device is, if it is at this instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Who is signed in on it.
    pub user: UserId,
    /// The sign-in counter of the device.
    pub generation: i64,
    /// The room its session has subscribed to.
    pub room: Option<RoomId>,
}

/// What has become of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub device: DeviceId,
    /// The highest generation of a session of it that has left; 0 for none.
    pub left: i64,
    /// Where it is now.
    pub now: Option<Whereabouts>,
}

impl Registry {
    /// A registry that keeps which devices have changed: somebody must [take](Self::take_changes)
    /// them.
    #[must_use]
    pub fn watched() -> Self {
        let state = State {
            changes: Some(HashMap::new()),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            departures: None,
        }
    }

    /// The same, noting who has left.
    #[must_use]
    pub fn noting(mut self, departures: Option<Arc<Departures>>) -> Self {
        self.departures = departures;
        self
    }

    /// Lists a session before its credential is checked: from here on it can be evicted.
    pub fn enter(&self, handle: &Arc<Handle>) {
        let mut state = self.lock();
        let sessions = state.devices.entry(handle.device()).or_default();
        sessions.reserve_exact(1);
        sessions.push(Arc::clone(handle));
    }

    /// Records that a listed session has signed in. Of two sessions of one device the one with
    /// the higher generation stays and the other is evicted as replaced, whichever comes first.
    pub fn sign_in(&self, handle: &Handle, credential: Credential) {
        let state = self.lock();
        let generation = credential.generation;
        handle.signed_in(credential);
        if handle.is_outdone() {
            handle.evict(Eviction::Replaced);
        }
        for other in state.of(handle.device()) {
            match other.credential().map(|c| c.generation) {
                Some(theirs) if theirs < generation => other.evict(Eviction::Replaced),
                Some(theirs) if theirs > generation => handle.evict(Eviction::Replaced),
                _ => {}
            }
        }
        self.mark(state, handle.device(), 0);
    }

    /// Takes note that a device has signed in on another instance: its sessions with a lower
    /// generation end as replaced, one on its way in as soon as it has its own.
    pub fn signed_in_elsewhere(&self, device: DeviceId, generation: i64) {
        for handle in self.lock().of(device) {
            handle.hear(generation);
            if handle.is_outdone() {
                handle.evict(Eviction::Replaced);
            }
        }
    }

    /// Takes a session off the list; another session of the same device stays.
    pub fn leave(&self, handle: &Arc<Handle>) {
        let mut state = self.lock();
        if let Entry::Occupied(mut sessions) = state.devices.entry(handle.device()) {
            sessions
                .get_mut()
                .retain(|other| !Arc::ptr_eq(other, handle));
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
        if let Some(departures) = &self.departures {
            departures.note(handle);
        }
        if let Some(credential) = handle.credential() {
            self.mark(state, handle.device(), credential.generation);
        }
    }

    /// Records that a session has subscribed to a room, or to none.
    pub fn enter_room(&self, handle: &Handle, room: Option<RoomId>) {
        let state = self.lock();
        handle.enter_room(room);
        self.mark(state, handle.device(), 0);
    }

    fn mark(&self, mut state: MutexGuard<'_, State>, device: DeviceId, left: i64) {
        let here = state.devices.len();
        let Some(changes) = &mut state.changes else {
            return;
        };
        let known = changes.entry(device).or_default();
        *known = left.max(*known);
        if changes.len() > here + PRESENCE_CHANGES_MAX {
            *changes = HashMap::new();
            state.has_overflowed = true;
        }
        state.version += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// Takes up to `max` devices that have changed, as they are now, and how many changes there
    /// were by then if these are all.
    #[must_use]
    pub fn take_changes(&self, max: usize) -> (Vec<Change>, Option<u64>) {
        let mut state = self.lock();
        let State {
            devices,
            changes: Some(changes),
            has_overflowed,
            version,
        } = &mut *state
        else {
            return (Vec::new(), Some(0));
        };
        let taken: Vec<DeviceId> = changes.keys().copied().take(max).collect();
        let taken = taken.into_iter().map(|device| Change {
            device,
            left: changes.remove(&device).unwrap_or_default(),
            now: whereabouts(devices, device),
        });
        let taken = taken.collect();
        if changes.is_empty() {
            // Room that a burst needed is given back.
            changes.shrink_to(max);
        }
        let is_all = changes.is_empty() && !*has_overflowed;
        (taken, is_all.then_some(*version))
    }

    /// Whether there were more changes than are kept since the last call. Those are forgotten: what
    /// was written down before counts no longer, and all that are here count as changed.
    #[must_use]
    pub fn take_overflow(&self) -> bool {
        let mut state = self.lock();
        let State {
            devices,
            changes: Some(changes),
            has_overflowed,
            ..
        } = &mut *state
        else {
            return false;
        };
        if std::mem::take(has_overflowed) {
            for device in devices.keys() {
                changes.entry(*device).or_default();
            }
            return true;
        }
        false
    }

    /// Gives back changes that could not be written down.
    pub fn give_back(&self, changes: &[Change]) {
        for change in changes {
            self.mark(self.lock(), change.device, change.left);
        }
    }

    /// Counts devices as changed, although they are not.
    pub fn touch(&self, devices: &[DeviceId]) {
        for device in devices {
            self.mark(self.lock(), *device, 0);
        }
    }

    /// How many changes there were.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Completes when something has changed since it was last taken. Cancel safe, for one who
    /// waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Where the devices are that are signed in at this instance.
    #[must_use]
    pub fn everybody(&self) -> Vec<(DeviceId, Whereabouts)> {
        let state = self.lock();
        let devices = state.devices.keys();
        devices
            .filter_map(|device| Some((*device, whereabouts(&state.devices, *device)?)))
            .collect()
    }

    /// Evicts every session of a device, those on their way in included.
    pub fn evict_device(&self, device: DeviceId, why: Eviction) {
        for handle in self.lock().of(device) {
            handle.evict(why);
        }
    }

    /// Evicts every session.
    pub fn evict_all(&self, why: Eviction) {
        for handle in self.lock().devices.values().flatten() {
            handle.evict(why);
        }
    }

    /// Who is signed in on a device at this instance, if anybody.
    #[must_use]
    pub fn online(&self, device: DeviceId) -> Option<UserId> {
        Some(whereabouts(&self.lock().devices, device)?.user)
    }

    /// The room that a device's session has subscribed to, if there is one.
    #[must_use]
    pub fn room(&self, device: DeviceId) -> Option<RoomId> {
        whereabouts(&self.lock().devices, device)?.room
    }

    /// Whether a session of `user` on a device, told to go or not, has subscribed to `room`.
    #[must_use]
    pub fn is_in_room(&self, user: UserId, device: DeviceId, room: RoomId) -> bool {
        let state = self.lock();
        let mut of_user = state
            .of(device)
            .filter(|handle| handle.credential().is_some_and(|own| own.user == user));
        of_user.any(|handle| handle.room() == Some(room))
    }

    /// All sessions, for the sweep and the drain.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.lock().devices.values().flatten().cloned().collect()
    }

    /// The sessions of a device, those on their way in included.
    #[must_use]
    pub fn sessions(&self, device: DeviceId) -> Vec<Arc<Handle>> {
        self.lock().of(device).cloned().collect()
    }

    /// How many devices have a session.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().devices.len()
    }

    /// True when no device has a session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().devices.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, device: DeviceId) -> impl Iterator<Item = &Arc<Handle>> {
        self.devices.get(&device).into_iter().flatten()
    }
}

/// Where a device is whose session is signed in and was not told to go.
fn whereabouts(
    devices: &HashMap<DeviceId, Vec<Arc<Handle>>>,
    device: DeviceId,
) -> Option<Whereabouts> {
    let mut sessions = devices.get(&device)?.iter();
    let live = sessions.find_map(|handle| {
        let credential = handle.credential()?;
        handle.eviction().is_none().then_some((handle, credential))
    });
    let (handle, credential) = live?;
    Some(Whereabouts {
        user: credential.user,
        generation: credential.generation,
        room: handle.room(),
    })
}

#[cfg(test)]
mod tests;
