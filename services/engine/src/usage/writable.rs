//! What containers have written, measured no more often than need be.
//!
//! Looking at every file is the one exact way: no file system tells that something below a
//! directory has changed. It takes some microseconds a file, so that what most containers write
//! is measured each time. Of one with many files the size is kept, and it counts for as long as
//! nobody can have written: its processes have not run, as their use of processors tells to the
//! nanosecond, and nothing was copied into it. What they wrote last, the file system may
//! still move about; so that only counts which was measured a while after.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gantry_core::locks::KeyLocks;
use gantry_core::snapshots::Usage;
use gantry_core::{Namespace, Result, Timestamp};
use tokio::time::Instant;

use crate::stats::{Hierarchies, cpu_of};

/// Fewer files are looked at each time.
const MANY: u64 = 256;
/// By then the kernel has written everything to the disk, and freed what it held in reserve.
const SETTLED: Duration = Duration::from_secs(60);

/// Namespace and ID of a container.
pub(super) type Key = (Namespace, String);

/// What is known of containers' files.
#[derive(Debug, Default)]
pub(crate) struct Writable {
    /// Held by whoever measures a container, until that is done: a file system that hangs
    /// holds up one at a time.
    pub(super) locks: KeyLocks<Key>,
    /// Held for looking up and changing entries only.
    known: Mutex<HashMap<Key, Known>>,
    /// How often somebody else than their processes wrote to containers. Held as above.
    writes: Mutex<HashMap<Key, u64>>,
    hierarchies: OnceLock<Hierarchies>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    size: u64,
    /// How it stood with the container before it was measured; unknown at first.
    stamp: Option<Stamp>,
    /// Since when it has stood so.
    since: Instant,
    /// Whether it was measured so much later that it counts.
    settled: bool,
}

/// Changes whenever something may have been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Its first process; 0 unless it runs.
    pub(super) pid: u32,
    /// When it ended last.
    pub(super) finished_at: Timestamp,
    /// Nanoseconds of processors that its processes have used.
    pub(super) cpu: u64,
    /// How often others wrote.
    pub(super) writes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writable {
    /// Somebody else than its processes has written to a container.
    pub(super) fn written(&self, key: &Key) {
        *lock(&self.writes).entry(key.clone()).or_default() += 1;
    }

    /// How it stands with a container; `None` when that can't be told. Blocks for some system
    /// calls.
    pub(super) fn stamp(&self, key: &Key, pid: u32, finished_at: Timestamp) -> Option<Stamp> {
        let writes = lock(&self.writes).get(key).copied().unwrap_or(0);
        let hierarchies = || self.hierarchies.get_or_init(Hierarchies::find);
        let cpu = if pid > 0 { cpu_of(hierarchies(), &key.1, pid)? } else { 0 };
        Some(Stamp { pid, finished_at, cpu, writes })
    }

    /// What a container has written: as known, or by `walk`.
    ///
    /// # Errors
    /// Those of `walk`.
    pub(super) async fn measure(
        &self,
        key: &Key,
        stamp: impl Future<Output = Option<Stamp>>,
        walk: impl Future<Output = Result<Usage>>,
    ) -> Result<u64> {
        let known = lock(&self.known).get(key).copied();
        // Of one with few files it does not matter.
        let stamp = if known.is_some() { stamp.await } else { None };
        let same = known.filter(|known| stamp.is_some() && known.stamp == stamp);
        if let Some(known) = same.filter(|known| known.settled) {
            return Ok(known.size);
        }
        let began = Instant::now();
        let Usage { inodes, size } = walk.await?;
        let mut all = lock(&self.known);
        if inodes < MANY {
            all.remove(key);
        } else {
            let since = same.map_or(began, |known| known.since);
            let settled = began - since >= SETTLED;
            all.insert(key.clone(), Known { size, stamp, since, settled });
        }
        Ok(size)
    }

    /// Forgets all others of a namespace.
    pub(super) fn retain(&self, namespace: &Namespace, ids: &HashSet<&str>) {
        let there = |key: &Key| key.0 != *namespace || ids.contains(key.1.as_str());
        lock(&self.known).retain(|key, _| there(key));
        lock(&self.writes).retain(|key, _| there(key));
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn key() -> Key {
        (Namespace::new("default").unwrap(), "c1".to_owned())
    }

    fn stamp(cpu: u64) -> Stamp {
        Stamp { pid: 7, finished_at: Timestamp::default(), cpu, writes: 0 }
    }

    /// A container, and how often its files were looked at.
    struct Container {
        writable: Writable,
        inodes: u64,
        walks: AtomicU64,
    }

    impl Container {
        fn with(inodes: u64) -> Self {
            Self { writable: Writable::default(), inodes, walks: AtomicU64::new(0) }
        }

        /// Measures; whether the files were looked at.
        async fn walked(&self, stamp: Option<Stamp>) -> bool {
            let before = self.walks.load(Ordering::SeqCst);
            let walk = async {
                let size = self.walks.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Usage { inodes: self.inodes, size })
            };
            let size = self.writable.measure(&key(), ready(stamp), walk).await.unwrap();
            let after = self.walks.load(Ordering::SeqCst);
            assert_eq!(size, after, "the last measurement counts");
            after > before
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_files_are_looked_at_each_time() {
        let few = Container::with(MANY - 1);
        for _ in 0..4 {
            assert!(few.walked(Some(stamp(5))).await);
            tokio::time::advance(SETTLED).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_files_are_looked_at_again_when_somebody_may_have_written() {
        let many = Container::with(MANY);
        assert!(many.walked(Some(stamp(5))).await);
        assert!(many.walked(Some(stamp(5))).await, "from now on it is known how it stands");
        tokio::time::advance(SETTLED / 2).await;
        assert!(many.walked(Some(stamp(5))).await, "the kernel may still be at it");
        tokio::time::advance(SETTLED / 2).await;
        assert!(many.walked(Some(stamp(5))).await);
        assert!(!many.walked(Some(stamp(5))).await, "nobody can have written");
        tokio::time::advance(SETTLED * 9).await;
        assert!(!many.walked(Some(stamp(5))).await);
        assert!(many.walked(Some(stamp(6))).await, "its processes have run");
        tokio::time::advance(SETTLED).await;
        assert!(many.walked(Some(stamp(6))).await);
        assert!(!many.walked(Some(stamp(6))).await);
        assert!(many.walked(None).await, "it can't be told");
        assert!(many.walked(Some(Stamp { writes: 1, ..stamp(6) })).await, "somebody copied");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_gone_is_forgotten() {
        let many = Container::with(MANY);
        many.walked(None).await;
        many.writable.written(&key());
        let stamp = many.writable.stamp(&key(), 0, Timestamp::default()).unwrap();
        assert_eq!((stamp.writes, stamp.cpu), (1, 0));
        let other = Namespace::new("other").unwrap();
        many.writable.retain(&other, &HashSet::new());
        assert_eq!(lock(&many.writable.known).len(), 1);
        many.writable.retain(&key().0, &HashSet::from(["c2"]));
        assert!(lock(&many.writable.known).is_empty() && lock(&many.writable.writes).is_empty());
    }
}
