//! What the rest of the server holds of a session: a way to wake it and a way to end it. Neither
//! ever waits, and a handle's memory does not grow with what is sent to the session.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicI64, AtomicU8, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

use crate::id::{DeviceId, RoomId, UserId};

/// Why the server ends a session that did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Eviction {
    /// The same device opened a newer connection.
    Replaced = 1,
    /// The token was revoked or has expired.
    SignedOut = 2,
    /// The instance is shutting down.
    Draining = 3,
}

/// With what a session signed in; the sweep compares it with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Who signed in.
    pub user: UserId,
    /// The device's sign-in counter; the higher one wins (I7).
    pub generation: i64,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// When the token expires, in unix milliseconds.
    pub expires_at: i64,
}

/// A session as others see it.
#[derive(Debug)]
pub struct Handle {
    device: DeviceId,
    signed_in: Mutex<SignedIn>,
    notify: Notify,
    eviction: AtomicU8,
    /// The room it has subscribed to, 0 for none.
    room: AtomicI64,
    /// The highest generation of its device that another instance has told of, 0 for none.
    heard: AtomicI64,
    /// The slots of the followed feeds that have something new; each at most once.
    ready: Mutex<Vec<u32>>,
}

/// With the counts of its `Arc` that is a size that the allocator has.
const _: () = assert!(size_of::<Handle>() <= 176);

#[derive(Debug, Default)]
struct SignedIn {
    credential: Option<Credential>,
    /// The hash of the token that the session is about to go on with.
    next_token: Option<Box<[u8; 32]>>,
}

/// Slots of which the memory is kept while none is ready.
const READY_KEPT: usize = 4;

impl Handle {
    /// A handle of a session that has not signed in yet.
    #[must_use]
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            signed_in: Mutex::default(),
            notify: Notify::new(),
            eviction: AtomicU8::new(0),
            room: AtomicI64::new(0),
            heard: AtomicI64::new(0),
            ready: Mutex::new(Vec::new()),
        }
    }

    /// The device of the session.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// With what the session signed in; `None` before it has.
    #[must_use]
    pub fn credential(&self) -> Option<Credential> {
        self.lock().credential
    }

    /// Records the sign-in.
    pub(super) fn signed_in(&self, credential: Credential) {
        self.lock().credential = Some(credential);
    }

    /// Says which token the database may have for the session from now on, beside the one it has.
    pub fn renewing(&self, token_hash: [u8; 32]) {
        self.lock().next_token = Some(Box::new(token_hash));
    }

    /// Records that the session goes on with another token.
    pub fn renewed(&self, token_hash: [u8; 32], expires_at: i64) {
        let mut signed_in = self.lock();
        signed_in.next_token = None;
        if let Some(credential) = &mut signed_in.credential {
            credential.token_hash = token_hash;
            credential.expires_at = expires_at;
        }
    }

    /// Whether `token_hash` is what the database ought to have for the session.
    #[must_use]
    pub fn goes_by(&self, token_hash: &[u8]) -> bool {
        let signed_in = self.lock();
        let now = signed_in.credential.as_ref().map(|own| &own.token_hash);
        let next = signed_in.next_token.as_deref();
        now.into_iter().chain(next).any(|hash| hash == token_hash)
    }

    fn lock(&self) -> MutexGuard<'_, SignedIn> {
        self.signed_in
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the device has signed in elsewhere with a generation.
    pub(super) fn hear(&self, generation: i64) {
        self.heard.fetch_max(generation, Ordering::AcqRel);
    }

    /// Whether the device has signed in elsewhere after this session has.
    pub(super) fn is_outdone(&self) -> bool {
        let heard = self.heard.load(Ordering::Acquire);
        self.credential().is_some_and(|own| own.generation < heard)
    }

    /// Asks the session to end. The first reason given stays.
    pub fn evict(&self, why: Eviction) {
        let _ = self
            .eviction
            .compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire);
        self.notify.notify_one();
    }

    /// Why the session was asked to end, if it was.
    #[must_use]
    pub fn eviction(&self) -> Option<Eviction> {
        match self.eviction.load(Ordering::Acquire) {
            1 => Some(Eviction::Replaced),
            2 => Some(Eviction::SignedOut),
            3 => Some(Eviction::Draining),
            _ => None,
        }
    }

    /// Tells the session that the feed it follows in `slot` has something new. The feed calls it
    /// once until the session has read it.
    pub(super) fn wake(&self, slot: u32) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slot);
        self.notify.notify_one();
    }

    /// Gives `take` the slots that have something new, in the order they became so.
    pub fn drain_ready(&self, take: impl FnMut(u32)) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.drain(..).for_each(take);
        // Room for a few is kept, so that the next wake-up does not ask for memory.
        if ready.capacity() > READY_KEPT {
            *ready = Vec::new();
        }
    }

    /// As [`Handle::drain_ready`], gathered.
    #[cfg(test)]
    pub fn take_ready(&self) -> Vec<u32> {
        let mut taken = Vec::new();
        self.drain_ready(|slot| taken.push(slot));
        taken
    }

    /// The room the session has subscribed to.
    #[must_use]
    pub fn room(&self) -> Option<RoomId> {
        match self.room.load(Ordering::Acquire) {
            0 => None,
            id => Some(RoomId(id)),
        }
    }

    /// Records that the session has subscribed to a room, or to none.
    pub(super) fn enter_room(&self, room: Option<RoomId>) {
        self.room
            .store(room.map_or(0, RoomId::get), Ordering::Release);
    }

    /// Completes when there is something to read or the session was asked to end. Cancel safe: a
    /// wake-up that comes while nobody waits is kept.
    pub fn woken(&self) -> Notified<'_> {
        self.notify.notified()
    }
}
