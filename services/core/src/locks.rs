//! Locks by key: who works on one object does not wait for who works on another.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// One holder per key at a time; others wait for it in the order in which they came. Clones
/// are the same locks. Of a key that nobody holds or waits for, nothing is kept.
///
/// Of several requests for the same thing one does it under the lock; each of the others looks
/// again, once it has the lock, whether there is anything left to do. So the failure or
/// disappearance of the first does no harm.
pub struct KeyLocks<K: Eq + Hash> {
    /// Guards the map alone; held for looking up, adding and removing entries.
    by_key: Arc<Mutex<HashMap<K, Lock>>>,
}

impl<K: Eq + Hash + Clone> KeyLocks<K> {
    /// Waits until nobody else holds this key. Who needs two keys asks for the lesser one
    /// first, as everybody does, or waits for ever.
    pub async fn lock(&self, key: K) -> KeyGuard<K> {
        let lock = Arc::clone(self.map().entry(key.clone()).or_default());
        // Made before the wait, so that who gives up waiting leaves nothing.
        let mut guard = KeyGuard { locks: self.clone(), key, lock, held: None };
        guard.held = Some(Arc::clone(&guard.lock).lock_owned().await);
        guard
    }
}

impl<K: Eq + Hash> KeyLocks<K> {
    fn map(&self) -> MutexGuard<'_, HashMap<K, Lock>> {
        // A map is whole at any time.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Default for KeyLocks<K> {
    fn default() -> Self {
        Self { by_key: Arc::default() }
    }
}

impl<K: Eq + Hash> Clone for KeyLocks<K> {
    fn clone(&self) -> Self {
        Self { by_key: Arc::clone(&self.by_key) }
    }
}

impl<K: Eq + Hash> fmt::Debug for KeyLocks<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLocks").field("keys", &self.map().len()).finish()
    }
}

/// Holds a key until it is dropped. It may be sent to a thread that blocks, so that what is
/// done there stays locked also when the caller goes away.
#[must_use = "the key is held for as long as this lives"]
pub struct KeyGuard<K: Eq + Hash> {
    locks: KeyLocks<K>,
    key: K,
    lock: Lock,
    /// None while waiting.
    held: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash> KeyGuard<K> {
    /// What is held.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash> Drop for KeyGuard<K> {
    fn drop(&mut self) {
        self.held = None;
        let mut map = self.locks.map();
        // The map's and ours: clones are only made while the map is locked.
        if Arc::strong_count(&self.lock) == 2 {
            map.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash + fmt::Debug> fmt::Debug for KeyGuard<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyGuard").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_stays() {
        let locks = KeyLocks::default();
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..20)
            .map(|i| {
                let (locks, inside, most) = (locks.clone(), Arc::clone(&inside), Arc::clone(&most));
                tokio::spawn(async move {
                    let _held = locks.lock(i % 2).await;
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert!(locks.map().is_empty());
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_each_other() {
        let locks = KeyLocks::default();
        let first = locks.lock("a").await;
        assert_eq!(*first.key(), "a");
        assert!(locks.lock("a").now_or_never().is_none());
        assert!(locks.lock("b").now_or_never().is_some());
        drop(first);
        assert!(locks.lock("a").now_or_never().is_some());
        assert!(locks.map().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing() {
        let locks = KeyLocks::default();
        let first = locks.lock("k").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock("k").await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        drop(first);
        assert!(locks.map().is_empty());
    }
}
