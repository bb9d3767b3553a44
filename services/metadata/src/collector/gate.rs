//! The store as services use it, watched for the collector.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gantry_core::Result;
use gantry_core::containers::CONTAINERS;
use gantry_core::content::BLOBS;
use gantry_core::db::{Database, Durability, Transaction, Visit};
use gantry_core::images::IMAGES;
use gantry_core::leases::{LEASE_RESOURCES, LEASES};
use gantry_core::namespaces::{NAMESPACES, Record, TABLE_NAMESPACE};
use gantry_core::sandboxes::SANDBOXES;
use gantry_core::{Timestamp, labels, mounts, snapshots};
use tokio::sync::Notify;

/// Tables whose rows keep objects, or are kept.
const WATCHED: [&str; 8] = [
    BLOBS.name(),
    CONTAINERS.name(),
    IMAGES.name(),
    LEASE_RESOURCES.name(),
    LEASES.name(),
    SANDBOXES.name(),
    mounts::TABLE,
    snapshots::TABLE,
];

/// After so many rows something may have lost its last reference, by a label that changed.
const MANY: u32 = 100;

/// A row that was written: table, namespace, key.
pub(crate) type Row = (&'static str, String, String);

/// Passes everything on to the store below, and knows which rows were written since
/// a collection began.
///
/// Transactions run beside each other as ever; only when the collector removes records
/// it has the store for itself, for as long as that takes. Reads never wait.
pub struct GuardedDatabase {
    store: Arc<dyn Database>,
    /// Shared by transactions, taken alone by the collector.
    gate: RwLock<()>,
    watching: AtomicBool,
    written: Mutex<BTreeSet<Row>>,
    /// Namespaces that are known to have a record.
    recorded: Mutex<BTreeSet<String>>,
    /// Rows written since the store was opened.
    count: AtomicU32,
    /// Told when something may have become garbage.
    pub(crate) garbage: Notify,
    /// When something expires next, in seconds since 1970.
    expiry: AtomicI64,
    /// Told when that became sooner.
    pub(crate) sooner: Notify,
}

impl GuardedDatabase {
    /// Watches a store that nobody else writes to.
    pub fn new(store: Arc<dyn Database>) -> Self {
        Self {
            store,
            gate: RwLock::new(()),
            watching: AtomicBool::new(false),
            written: Mutex::default(),
            recorded: Mutex::default(),
            count: AtomicU32::new(0),
            garbage: Notify::new(),
            expiry: AtomicI64::new(i64::MAX),
            sooner: Notify::new(),
        }
    }

    fn shared(&self) -> RwLockReadGuard<'_, ()> {
        // It guards no data.
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every row that is written is remembered. Waits for the
    /// transactions that run.
    pub(crate) fn watch(&self) {
        let _alone = self.alone();
        self.rows().clear();
        self.watching.store(true, Ordering::Relaxed);
    }

    /// Ends the watch. `body` gets the store for itself and the rows that were written.
    pub(crate) fn settle<R>(
        &self,
        body: impl FnOnce(&dyn Database, BTreeSet<Row>) -> Result<R>,
    ) -> Result<R> {
        let _alone = self.alone();
        self.watching.store(false, Ordering::Relaxed);
        let written = std::mem::take(&mut *self.rows());
        body(&*self.store, written)
    }

    /// When something expires next.
    pub(crate) fn expiry(&self) -> Option<Timestamp> {
        let seconds = self.expiry.load(Ordering::Relaxed);
        (seconds < i64::MAX).then_some(Timestamp { seconds, nanos: 0 })
    }

    /// Nothing expires, as far as is known from now on.
    pub(crate) fn forget_expiry(&self) {
        self.expiry.store(i64::MAX, Ordering::Relaxed);
    }

    /// Something expires then.
    pub(crate) fn expires(&self, at: Timestamp) {
        // Not before it.
        let seconds = at.seconds.saturating_add(i64::from(at.nanos > 0));
        if self.expiry.fetch_min(seconds, Ordering::Relaxed) > seconds {
            self.sooner.notify_one();
        }
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        // As below.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, BTreeSet<Row>> {
        // A set is whole at any time.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Database for GuardedDatabase {
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        self.store.get(table, namespace, key)
    }

    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        self.store.scan(table, namespace, prefix, visit)
    }

    fn namespaces(&self, table: &str) -> Result<Vec<String>> {
        self.store.namespaces(table)
    }

    fn transact(
        &self,
        durability: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()> {
        let _shared = self.shared();
        let (mut removed, mut put, mut expiry) = (false, 0, None);
        self.store.transact(durability, &mut |tx| {
            (removed, put, expiry) = (false, 0, None);
            let (removed, put, expiry) = (&mut removed, &mut put, &mut expiry);
            body(&mut Watched { tx, gate: self, removed, put, expiry })
        })?;
        if let Some(expiry) = expiry {
            self.expires(expiry);
        }
        let before = self.count.fetch_add(put, Ordering::Relaxed);
        if removed || before / MANY != before.wrapping_add(put) / MANY {
            self.garbage.notify_one();
        }
        Ok(())
    }
}

struct Watched<'a> {
    tx: &'a mut dyn Transaction,
    gate: &'a GuardedDatabase,
    /// Whether a row went that may have kept something.
    removed: &'a mut bool,
    /// Rows written.
    put: &'a mut u32,
    /// When a row that was written expires.
    expiry: &'a mut Option<Timestamp>,
}

impl Watched<'_> {
    /// A namespace comes to be with its first object, and outlives it.
    fn record(&mut self, namespace: &str) -> Result<()> {
        if self.gate.recorded().contains(namespace) {
            return Ok(());
        }
        match self.tx.get(NAMESPACES.name(), TABLE_NAMESPACE, namespace)? {
            // From an earlier transaction: this one may fail.
            Some(_) => {
                self.gate.recorded().insert(namespace.to_owned());
                Ok(())
            }
            None => NAMESPACES.put(self.tx, TABLE_NAMESPACE, namespace, &Record::default()),
        }
    }
}

/// When a record expires, as its label says.
fn expiry_of(row: &[u8]) -> Option<Timestamp> {
    let row = std::str::from_utf8(row).ok()?;
    let (_, behind) = row.split_once(labels::GC_EXPIRE)?;
    Timestamp::parse_rfc3339(behind.strip_prefix("\":\"")?.split('"').next()?)
}

impl Transaction for Watched<'_> {
    fn get(&mut self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        self.tx.get(table, namespace, key)
    }

    fn scan(&mut self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        self.tx.scan(table, namespace, prefix, visit)
    }

    fn put(&mut self, table: &str, namespace: &str, key: &str, value: &[u8]) -> Result<()> {
        if let Some(table) = WATCHED.into_iter().find(|watched| *watched == table) {
            *self.put += 1;
            self.record(namespace)?;
            if self.gate.watching.load(Ordering::Relaxed) {
                self.gate.rows().insert((table, namespace.to_owned(), key.to_owned()));
            }
            if [LEASES.name(), IMAGES.name()].contains(&table)
                && let Some(at) = expiry_of(value)
                && self.expiry.is_none_or(|sooner| at.unix_nanos() < sooner.unix_nanos())
            {
                *self.expiry = Some(at);
            }
        }
        self.tx.put(table, namespace, key, value)
    }

    fn delete(&mut self, table: &str, namespace: &str, key: &str) -> Result<()> {
        *self.removed |= WATCHED.contains(&table);
        if table == NAMESPACES.name() {
            self.gate.recorded().remove(key);
        }
        self.tx.delete(table, namespace, key)
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::db::memory::MemoryDatabase;

    use super::*;

    #[test]
    fn a_namespace_outlives_its_objects() {
        let db = GuardedDatabase::new(MemoryDatabase::new().shared());
        let change = |body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>| {
            db.transact(Durability::Buffered, body)
        };
        let row = |table: &str| db.get(table, TABLE_NAMESPACE, "n").unwrap();
        let failed = change(&mut |tx| {
            tx.put(IMAGES.name(), "n", "i", b"{}")?;
            Err(gantry_core::Error::internal("no"))
        });
        assert!(failed.is_err() && row(NAMESPACES.name()).is_none());
        for _ in 0..2 {
            for key in ["i", "j"] {
                change(&mut |tx| tx.put(IMAGES.name(), "n", key, b"{}")).unwrap();
                change(&mut |tx| tx.delete(IMAGES.name(), "n", key)).unwrap();
                assert!(row(NAMESPACES.name()).is_some());
            }
            change(&mut |tx| NAMESPACES.delete(tx, TABLE_NAMESPACE, "n")).unwrap();
            assert!(row(NAMESPACES.name()).is_none());
        }
    }

    #[test]
    fn rows_tell_when_they_expire() {
        let row =
            br#"{"id":"a","labels":{"containerd.io/gc.expire":"2030-01-02T03:04:05Z","x":"y"}}"#;
        assert_eq!(expiry_of(row), Timestamp::parse_rfc3339("2030-01-02T03:04:05Z"));
        assert!(expiry_of(br#"{"id":"a","labels":{"containerd.io/gc.expire":"soon"}}"#).is_none());
        assert!(expiry_of(br#"{"id":"a","labels":{}}"#).is_none());
    }
}
