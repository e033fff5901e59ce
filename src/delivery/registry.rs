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
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    const DEVICE: DeviceId = DeviceId(1);
    const USER: UserId = UserId(10);

    fn session(registry: &Registry) -> Arc<Handle> {
        let handle = Arc::new(Handle::new(DEVICE));
        registry.enter(&handle);
        handle
    }

    fn credential(user: UserId, generation: i64) -> Credential {
        Credential {
            user,
            generation,
            token_hash: [0; 32],
            expires_at: 0,
        }
    }

    fn is_listed(registry: &Registry, handle: &Arc<Handle>) -> bool {
        registry.all().iter().any(|h| Arc::ptr_eq(h, handle))
    }

    proptest! {
        /// I7: whatever the order in which the sessions of a device sign in and die.
        #[test]
        fn newest_generation_wins_and_the_dying_remove_nobody_else(
            generations in (2..6_i64).prop_flat_map(|n| Just((1..=n).collect::<Vec<_>>()).prop_shuffle()),
            deaths in vec(any::<Option<Index>>(), 6),
        ) {
            let registry = Registry::default();
            let mut entered: Vec<_> = generations.iter().map(|_| session(&registry)).collect();
            let mut live: Vec<(i64, Arc<Handle>)> = Vec::new();
            for (generation, death) in generations.into_iter().zip(deaths) {
                let handle = entered.pop().unwrap();
                registry.sign_in(&handle, credential(USER, generation));
                live.push((generation, handle));
                let newest = live.iter().map(|(generation, _)| *generation).max();
                for (generation, handle) in &live {
                    let replaced = (Some(*generation) != newest).then_some(Eviction::Replaced);
                    prop_assert_eq!(handle.eviction(), replaced, "generation {}", generation);
                }
                prop_assert_eq!(registry.online(DEVICE), Some(USER));
                // One of them dies, then those that were told to go.
                let Some(index) = death else { continue };
                let mut dying = vec![live.remove(index.index(live.len())).1];
                let is_replaced = |(_, handle): &mut (i64, Arc<Handle>)| handle.eviction().is_some();
                dying.extend(live.extract_if(.., is_replaced).map(|(_, handle)| handle));
                let online = !live.is_empty();
                for dead in dying {
                    registry.leave(&dead);
                    prop_assert!(!is_listed(&registry, &dead));
                    prop_assert_eq!(registry.online(DEVICE), online.then_some(USER));
                }
                let signed_in = live.iter().map(|(_, handle)| handle);
                for handle in signed_in.chain(&entered) {
                    prop_assert!(is_listed(&registry, handle));
                    prop_assert_eq!(handle.eviction(), None);
                }
            }
        }
    }

    #[test]
    fn session_on_its_way_in_is_not_online_but_can_be_evicted() {
        let registry = Registry::default();
        let (signed_in, on_its_way) = (session(&registry), session(&registry));
        let elsewhere = Arc::new(Handle::new(DeviceId(2)));
        registry.enter(&elsewhere);
        assert_eq!(registry.online(DEVICE), None);
        registry.sign_in(&signed_in, credential(USER, 1));
        assert_eq!(registry.online(DEVICE), Some(USER));

        registry.evict_device(DEVICE, Eviction::SignedOut);
        assert_eq!(signed_in.eviction(), Some(Eviction::SignedOut));
        assert_eq!(on_its_way.eviction(), Some(Eviction::SignedOut));
        assert_eq!(elsewhere.eviction(), None);
        assert_eq!(registry.online(DEVICE), None);
        registry.sign_in(&on_its_way, credential(USER, 2));
        assert_eq!(registry.online(DEVICE), None, "it was told to go before");
    }

    #[test]
    fn device_that_changed_its_user_is_online_as_the_new_one() {
        let registry = Registry::default();
        let (former, new) = (session(&registry), session(&registry));
        registry.sign_in(&former, credential(USER, 1));
        registry.sign_in(&new, credential(UserId(11), 2));
        assert_eq!(registry.online(DEVICE), Some(UserId(11)));
        assert_eq!(former.eviction(), Some(Eviction::Replaced));
    }

    #[test]
    fn room_of_a_device_is_that_of_its_live_session() {
        let registry = Registry::default();
        let former = session(&registry);
        assert_eq!(registry.room(DEVICE), None);
        registry.sign_in(&former, credential(USER, 1));
        assert_eq!(registry.room(DEVICE), None);
        former.enter_room(Some(RoomId(7)));
        assert_eq!(registry.room(DEVICE), Some(RoomId(7)));
        let new = session(&registry);
        new.enter_room(Some(RoomId(8)));
        assert_eq!(registry.room(DEVICE), Some(RoomId(7)), "not signed in yet");
        registry.sign_in(&new, credential(USER, 2));
        assert_eq!(registry.room(DEVICE), Some(RoomId(8)));
        new.enter_room(None);
        assert_eq!(registry.room(DEVICE), None);
        registry.leave(&new);
        assert_eq!(registry.room(DEVICE), None, "the former was told to go");
        let (user, room) = (USER, RoomId(7));
        assert!(registry.is_in_room(user, DEVICE, room), "it may have sent");
        assert!(!registry.is_in_room(UserId(11), DEVICE, room));
        assert!(!registry.is_in_room(user, DEVICE, RoomId(8)));
        registry.leave(&former);
        assert!(!registry.is_in_room(user, DEVICE, room));
    }

    #[test]
    fn changes_that_nobody_takes_are_bounded() {
        let registry = Registry::watched();
        registry.sign_in(&session(&registry), credential(USER, 1));
        for device in 0..3 * PRESENCE_CHANGES_MAX as i64 {
            registry.touch(&[DeviceId(device)]);
            let state = registry.lock();
            assert!(state.changes.as_ref().map(HashMap::len) <= Some(1 + PRESENCE_CHANGES_MAX));
        }
        let (_, version) = registry.take_changes(usize::MAX);
        assert_eq!(version, None, "not all");
        assert!(registry.take_overflow() && !registry.take_overflow());
        let (changes, version) = registry.take_changes(usize::MAX);
        assert_eq!(version, Some(registry.version()));
        let [change] = &*changes else {
            panic!("{changes:?}");
        };
        assert_eq!(change.device, DEVICE);
        assert_eq!(change.now.map(|now| now.user), Some(USER));
    }

    #[test]
    fn first_reason_of_an_eviction_stays() {
        let registry = Registry::default();
        let handle = session(&registry);
        registry.evict_device(DEVICE, Eviction::Replaced);
        registry.evict_all(Eviction::Draining);
        assert_eq!(handle.eviction(), Some(Eviction::Replaced));
    }

    #[test]
    fn nothing_is_left_of_devices_whose_sessions_have_gone() {
        let registry = Registry::default();
        let (one, other) = (session(&registry), session(&registry));
        registry.leave(&one);
        assert_eq!((registry.len(), registry.is_empty()), (1, false));
        registry.leave(&one);
        registry.leave(&other);
        assert_eq!((registry.len(), registry.is_empty()), (0, true));
    }
}
