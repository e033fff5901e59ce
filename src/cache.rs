//! A bounded cache of rows of the database in which an invalidation always wins: what a load read
//! before the invalidation is not kept, even when the load ends after it.
//!
//! Invariant: a writer that commits and then invalidates leaves nothing older than its commit
//! behind. Hits touch only moka; loads and invalidations meet under one mutex.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A cache whose entries live for a bounded time.
pub struct Cache<K, V> {
    entries: moka::sync::Cache<K, V>,
    /// The keys being loaded; bounded by the requests being answered.
    loading: Mutex<HashMap<K, Loading>>,
}

struct Loading {
    loads: usize,
    /// Raised by every invalidation while loads are under way.
    version: u64,
}

/// A load under way: begun before the database is read, ended by [`Load::keep`] or by dropping it.
pub struct Load<'a, K: Key, V: Value> {
    cache: &'a Cache<K, V>,
    key: K,
    version: u64,
}

/// What can be a key: small and copied freely.
pub trait Key: Copy + Eq + Hash + Send + Sync + 'static {}
impl<T: Copy + Eq + Hash + Send + Sync + 'static> Key for T {}

/// What can be cached: cheap to clone.
pub trait Value: Clone + Send + Sync + 'static {}
impl<T: Clone + Send + Sync + 'static> Value for T {}

impl<K: Key, V: Value> Cache<K, V> {
    /// An empty cache of at most about `entries_max` entries, each of which lives for `ttl`.
    #[must_use]
    pub fn new(entries_max: u64, ttl: Duration) -> Self {
        Self {
            entries: moka::sync::Cache::builder()
                .max_capacity(entries_max)
                .time_to_live(ttl)
                .build(),
            loading: Mutex::default(),
        }
    }

    /// What is cached under `key`.
    pub fn get(&self, key: K) -> Option<V> {
        self.entries.get(&key)
    }

    /// Announces that `key` is about to be read from the database.
    pub fn load(&self, key: K) -> Load<'_, K, V> {
        let mut loading = self.lock();
        let entry = loading.entry(key).or_insert(Loading {
            loads: 0,
            version: 0,
        });
        entry.loads += 1;
        Load {
            cache: self,
            key,
            version: entry.version,
        }
    }

    /// Drops what is cached under `key` and what the loads under way will bring. To be called
    /// after the commit that made it outdated.
    pub fn invalidate(&self, key: K) {
        let mut loading = self.lock();
        if let Some(entry) = loading.get_mut(&key) {
            entry.version += 1;
        }
        self.entries.invalidate(&key);
    }

    /// Drops everything, and what the loads under way will bring.
    pub fn forget(&self) {
        let mut loading = self.lock();
        for entry in loading.values_mut() {
            entry.version += 1;
        }
        self.entries.invalidate_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Loading>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl<K: Key, V: Value> Load<'_, K, V> {
    /// Caches what was read, unless the key was invalidated since the load began.
    pub fn keep(self, value: V) {
        let loading = self.cache.lock();
        if loading
            .get(&self.key)
            .is_some_and(|entry| entry.version == self.version)
        {
            self.cache.entries.insert(self.key, value);
        }
    }
}

impl<K: Key, V: Value> Drop for Load<'_, K, V> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.cache.lock().entry(self.key) {
            entry.get_mut().loads -= 1;
            if entry.get().loads == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;
    use crate::limits::CACHE_TTL;

    #[test]
    fn load_is_kept_until_the_key_is_invalidated() {
        let cache = Cache::new(10, CACHE_TTL);
        cache.load(1).keep("first");
        assert_eq!(cache.get(1), Some("first"));
        cache.invalidate(1);
        assert_eq!(cache.get(1), None);
        assert!(cache.lock().is_empty(), "ended loads leave nothing behind");
    }

    #[test]
    fn load_loses_to_an_invalidation_while_it_reads() {
        let cache = Cache::new(10, CACHE_TTL);
        let before = cache.load(1);
        let other_key = cache.load(2);
        cache.invalidate(1);
        let after = cache.load(1);
        before.keep("read before the commit");
        assert_eq!(cache.get(1), None);
        after.keep("read after the commit");
        assert_eq!(cache.get(1), Some("read after the commit"));
        other_key.keep("not concerned");
        assert_eq!(cache.get(2), Some("not concerned"));
        assert!(cache.lock().is_empty());
    }

    #[test]
    fn load_begun_before_two_invalidations_loses_too() {
        let cache = Cache::new(10, CACHE_TTL);
        let load = cache.load(1);
        cache.invalidate(1);
        cache.invalidate(1);
        drop(cache.load(1));
        load.keep("outdated");
        assert_eq!(cache.get(1), None);
    }
}
