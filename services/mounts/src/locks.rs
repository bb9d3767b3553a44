//! Locks by activation, within this process.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One holder per activation: whoever makes it or takes it away. The holder is on a
/// thread that may block, and keeps it while it mounts: that is what the lock is for.
#[derive(Default)]
pub(crate) struct Locks {
    held: Mutex<HashSet<String>>,
    freed: Condvar,
}

impl Locks {
    /// Waits until nobody else holds this activation.
    pub(crate) fn lock(&self, namespace: &str, name: &str) -> Guard<'_> {
        // No namespace holds a slash.
        let key = format!("{namespace}/{name}");
        let mut held = self.held();
        while held.contains(&key) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.insert(key.clone());
        Guard { locks: self, key }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        // A set is whole at any time.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds an activation until it is dropped.
pub(crate) struct Guard<'a> {
    locks: &'a Locks,
    key: String,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.locks.held().remove(&self.key);
        self.locks.freed.notify_all();
    }
}
