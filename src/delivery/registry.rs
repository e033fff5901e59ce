//! This instance's sessions, by device. A device has at most one that is signed in (I7); others
//! may be on their way in, and are listed too, so that a revocation between their token check and
//! their first push reaches them.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::handle::{Credential, Eviction, Handle};
use crate::id::{DeviceId, UserId};

/// The sessions of this instance.
#[derive(Debug, Default)]
pub struct Registry {
    devices: Mutex<HashMap<DeviceId, Vec<Arc<Handle>>>>,
}

impl Registry {
    /// Lists a session before its credential is checked: from here on it can be evicted.
    pub fn enter(&self, handle: &Arc<Handle>) {
        let mut devices = self.lock();
        let sessions = devices.entry(handle.device()).or_default();
        sessions.reserve_exact(1);
        sessions.push(Arc::clone(handle));
    }

    /// Records that a listed session has signed in. Of two sessions of one device the one with
    /// the higher generation stays and the other is evicted as replaced, whichever comes first.
    pub fn sign_in(&self, handle: &Handle, credential: Credential) {
        let devices = self.lock();
        let generation = credential.generation;
        handle.signed_in(credential);
        for other in devices.get(&handle.device()).into_iter().flatten() {
            match other.credential().map(|c| c.generation) {
                Some(theirs) if theirs < generation => other.evict(Eviction::Replaced),
                Some(theirs) if theirs > generation => handle.evict(Eviction::Replaced),
                _ => {}
            }
        }
    }

    /// Takes a session off the list; another session of the same device stays.
    pub fn leave(&self, handle: &Arc<Handle>) {
        let mut devices = self.lock();
        if let Entry::Occupied(mut sessions) = devices.entry(handle.device()) {
            sessions
                .get_mut()
                .retain(|other| !Arc::ptr_eq(other, handle));
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
    }

    /// Evicts every session of a device, those on their way in included.
    pub fn evict_device(&self, device: DeviceId, why: Eviction) {
        for handle in self.lock().get(&device).into_iter().flatten() {
            handle.evict(why);
        }
    }

    /// Evicts every session.
    pub fn evict_all(&self, why: Eviction) {
        for handle in self.lock().values().flatten() {
            handle.evict(why);
        }
    }

    /// Who is signed in on a device at this instance, if anybody.
    #[must_use]
    pub fn online(&self, device: DeviceId) -> Option<UserId> {
        let devices = self.lock();
        let handle = devices
            .get(&device)?
            .iter()
            .find(|h| h.eviction().is_none() && h.credential().is_some())?;
        Some(handle.credential()?.user)
    }

    /// All sessions, for the sweep and the drain.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.lock().values().flatten().cloned().collect()
    }

    /// How many devices have a session.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True when no device has a session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Vec<Arc<Handle>>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
