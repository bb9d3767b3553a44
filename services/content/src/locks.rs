//! Locks by name, within this process: the metadata store under them is open
//! in one process only.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use gantry_core::Digest;

/// One holder per digest: whoever puts a blob's file or takes it away, with
/// the records that speak of it. The holder is on a thread that may block, and
/// keeps it while it writes to the disk: that is what the lock is for.
#[derive(Clone, Default)]
pub(crate) struct Digests(Arc<DigestState>);

#[derive(Default)]
struct DigestState {
    held: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

impl Digests {
    /// Waits until nobody else holds this digest.
    pub(crate) fn lock(&self, digest: &Digest) -> DigestGuard {
        let mut held = unpoisoned(self.0.held.lock());
        while held.contains(digest) {
            held = unpoisoned(self.0.freed.wait(held));
        }
        held.insert(digest.clone());
        DigestGuard { state: Arc::clone(&self.0), digest: digest.clone() }
    }
}

/// Holds a digest until it is dropped.
pub(crate) struct DigestGuard {
    state: Arc<DigestState>,
    digest: Digest,
}

impl Drop for DigestGuard {
    fn drop(&mut self) {
        unpoisoned(self.state.held.lock()).remove(&self.digest);
        self.state.freed.notify_all();
    }
}

/// One writer per ingest, with its offset for those who ask. The map is held
/// for as long as a look-up takes.
#[derive(Clone, Default)]
pub(crate) struct Ingests(Arc<Mutex<HashMap<String, Arc<Held>>>>);

/// What others may know of an ingest that somebody has.
#[derive(Default)]
pub(crate) struct Held {
    offset: AtomicU64,
    /// Whether it was thrown away under its writer. Held while the writer does something
    /// with its files.
    cancelled: Mutex<bool>,
}

impl Held {
    /// The writer does something with its files; tells whether it may.
    pub(crate) fn step(&self) -> MutexGuard<'_, bool> {
        unpoisoned(self.cancelled.lock())
    }

    /// Throws it away. Nobody touches its files while the result lives.
    pub(crate) fn cancel(&self) -> MutexGuard<'_, bool> {
        let mut cancelled = unpoisoned(self.cancelled.lock());
        *cancelled = true;
        cancelled
    }
}

impl Ingests {
    /// Takes an ingest, if nobody has it.
    pub(crate) fn try_lock(&self, id: &str) -> Option<IngestGuard> {
        let mut held = unpoisoned(self.0.lock());
        if held.contains_key(id) {
            return None;
        }
        let own = Arc::new(Held::default());
        held.insert(id.to_owned(), Arc::clone(&own));
        Some(IngestGuard { ingests: self.clone(), id: id.to_owned(), held: own })
    }

    /// An ingest that somebody has.
    pub(crate) fn held(&self, id: &str) -> Option<Arc<Held>> {
        unpoisoned(self.0.lock()).get(id).cloned()
    }

    /// How far the writer of an ingest is, if it has one.
    pub(crate) fn offset(&self, id: &str) -> Option<u64> {
        self.held(id).map(|held| held.offset.load(Ordering::Relaxed))
    }
}

/// Holds an ingest until it is dropped.
pub(crate) struct IngestGuard {
    ingests: Ingests,
    id: String,
    held: Arc<Held>,
}

impl IngestGuard {
    /// What others may know of it.
    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held)
    }

    /// Tells how far the ingest is.
    pub(crate) fn set_offset(&self, offset: u64) {
        self.held.offset.store(offset, Ordering::Relaxed);
    }
}

impl Drop for IngestGuard {
    fn drop(&mut self) {
        unpoisoned(self.ingests.0.lock()).remove(&self.id);
    }
}

// No code that can panic runs while one of these locks is held.
fn unpoisoned<'a, T>(
    lock: Result<MutexGuard<'a, T>, PoisonError<MutexGuard<'a, T>>>,
) -> MutexGuard<'a, T> {
    lock.unwrap_or_else(PoisonError::into_inner)
}
