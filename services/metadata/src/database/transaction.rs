//! One transaction.

use gantry_core::db::{Transaction, Visit};
use gantry_core::{Error, Kind, Result};
use rocksdb::{ErrorKind, TransactionDB};

use super::{keys, store_error, until, visit_rows};

/// A pessimistic transaction. Dropping it undoes what it wrote.
pub(super) struct RocksTransaction<'db> {
    inner: rocksdb::Transaction<'db, TransactionDB>,
    /// Whether there is something to commit.
    written: bool,
    /// Whether a lock could not be had.
    lost: bool,
}

impl<'db> RocksTransaction<'db> {
    pub(super) fn new(inner: rocksdb::Transaction<'db, TransactionDB>) -> Self {
        Self { inner, written: false, lost: false }
    }

    /// Whether another transaction was in the way.
    pub(super) fn lost(&self) -> bool {
        self.lost
    }

    /// Commits. `None` when it lost against another transaction.
    pub(super) fn commit(self) -> Result<Option<()>> {
        if !self.written {
            return Ok(Some(()));
        }
        match self.inner.commit() {
            Ok(()) => Ok(Some(())),
            Err(err) if is_conflict(&err) => Ok(None),
            Err(err) => Err(store_error("commit a transaction".into(), err)),
        }
    }

    fn failed(&mut self, verb: &str, table: &str, key: &str, err: rocksdb::Error) -> Error {
        if is_conflict(&err) {
            self.lost = true;
            return Error::new(Kind::Aborted, format!("{table} {key:?} is locked"))
                .with_source(err);
        }
        store_error(format!("{verb} {table} {key:?}"), err)
    }
}

fn is_conflict(err: &rocksdb::Error) -> bool {
    matches!(err.kind(), ErrorKind::TimedOut | ErrorKind::Busy | ErrorKind::TryAgain)
}

impl Transaction for RocksTransaction<'_> {
    fn get(&mut self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let row = keys::row(table, namespace, key)?;
        self.inner.get_for_update(row, true).map_err(|err| self.failed("lock", table, key, err))
    }

    fn scan(&mut self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        let start = keys::row(table, namespace, prefix)?;
        let rows = self.inner.raw_iterator_opt(until(keys::after(&start)));
        visit_rows(rows, table, &start, start.len() - prefix.len(), visit)
    }

    fn put(&mut self, table: &str, namespace: &str, key: &str, value: &[u8]) -> Result<()> {
        let row = keys::row(table, namespace, key)?;
        self.written = true;
        self.inner.put(row, value).map_err(|err| self.failed("write", table, key, err))
    }

    fn delete(&mut self, table: &str, namespace: &str, key: &str) -> Result<()> {
        let row = keys::row(table, namespace, key)?;
        self.written = true;
        self.inner.delete(row).map_err(|err| self.failed("remove", table, key, err))
    }
}
