//! A database in memory, for the unit tests of services: no disk, no wait,
//! the same rules as the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Database, Durability, Transaction, Visit};
use crate::{Error, Result};

type Key = (String, String, String);
type Rows = BTreeMap<Key, Vec<u8>>;

/// Rows in a tree behind one lock. Clones share the rows, so that a test can
/// drop a service and open it again on what it left.
///
/// Transactions run one after the other. A body must not call the database
/// it runs in, only its transaction.
#[derive(Clone, Debug, Default)]
pub struct MemoryDatabase {
    /// Protects all rows; held for the length of a transaction, which never
    /// waits for anything else.
    rows: Arc<Mutex<Rows>>,
}

impl MemoryDatabase {
    /// An empty database.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same as a trait object, as constructors of services take it.
    pub fn shared(&self) -> Arc<dyn Database> {
        Arc::new(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        // A body that panicked has been rolled back by `Undo`.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Database for MemoryDatabase {
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.lock().get(&row(table, namespace, key)?).cloned())
    }

    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        // Visited after the lock is released, so that `visit` may read too.
        let rows = select(&self.lock(), table, namespace, prefix)?;
        each(&rows, visit)
    }

    fn namespaces(&self, table: &str) -> Result<Vec<String>> {
        let rows = self.lock();
        let mut found: Vec<String> = Vec::new();
        for (t, namespace, _) in rows.keys() {
            if t == table && found.last() != Some(namespace) {
                found.push(namespace.clone());
            }
        }
        Ok(found)
    }

    fn transact(
        &self,
        _: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()> {
        let mut rows = self.lock();
        let mut undo = Undo { rows: &mut rows, log: Vec::new() };
        body(&mut undo)?;
        undo.log.clear();
        Ok(())
    }
}

/// Applies writes at once and takes them back when it is dropped with
/// anything in its log.
struct Undo<'a> {
    rows: &'a mut Rows,
    log: Vec<(Key, Option<Vec<u8>>)>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for (key, before) in self.log.drain(..).rev() {
            match before {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }
}

impl Transaction for Undo<'_> {
    fn get(&mut self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.rows.get(&row(table, namespace, key)?).cloned())
    }

    fn scan(&mut self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        each(&select(self.rows, table, namespace, prefix)?, visit)
    }

    fn put(&mut self, table: &str, namespace: &str, key: &str, value: &[u8]) -> Result<()> {
        let key = row(table, namespace, key)?;
        let before = self.rows.insert(key.clone(), value.to_vec());
        self.log.push((key, before));
        Ok(())
    }

    fn delete(&mut self, table: &str, namespace: &str, key: &str) -> Result<()> {
        let key = row(table, namespace, key)?;
        if let Some(before) = self.rows.remove(&key) {
            self.log.push((key, Some(before)));
        }
        Ok(())
    }
}

fn row(table: &str, namespace: &str, key: &str) -> Result<Key> {
    if [table, namespace, key].iter().any(|part| part.contains('\0')) {
        return Err(Error::invalid_argument(format!(
            "row {key:?} of table {table:?} in namespace {namespace:?} has a NUL in its name"
        )));
    }
    Ok((table.into(), namespace.into(), key.into()))
}

fn select(
    rows: &Rows,
    table: &str,
    namespace: &str,
    prefix: &str,
) -> Result<Vec<(String, Vec<u8>)>> {
    let from = row(table, namespace, prefix)?;
    Ok(rows
        .range(from..)
        .take_while(|((t, n, k), _)| t == table && n == namespace && k.starts_with(prefix))
        .map(|((_, _, key), value)| (key.clone(), value.clone()))
        .collect())
}

fn each(rows: &[(String, Vec<u8>)], visit: Visit<'_>) -> Result<()> {
    for (key, value) in rows {
        if visit(key, value)?.is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Table, write_blocking};

    const NUMBERS: Table<u32> = Table::new("numbers");

    #[test]
    fn a_failed_transaction_changes_nothing() {
        let db = MemoryDatabase::new();
        let put = |key: &str, n: u32| {
            write_blocking(&db, Durability::Sync, &mut |tx| NUMBERS.put(tx, "ns", key, &n))
        };
        put("a", 1).unwrap();
        put("b", 2).unwrap();
        let failed = write_blocking(&db, Durability::Sync, &mut |tx| {
            NUMBERS.put(tx, "ns", "a", &9)?;
            NUMBERS.delete(tx, "ns", "b")?;
            NUMBERS.put(tx, "ns", "c", &9)?;
            assert_eq!(NUMBERS.list_in(tx, "ns", "")?, [("a".into(), 9), ("c".into(), 9)]);
            Err::<(), _>(Error::internal("on purpose"))
        });
        assert!(failed.is_err());
        assert_eq!(NUMBERS.list(&db, "ns").unwrap(), [("a".into(), 1), ("b".into(), 2)]);
    }

    #[test]
    fn scans_stay_in_their_namespace_and_prefix() {
        let db = MemoryDatabase::new();
        write_blocking(&db, Durability::Sync, &mut |tx| {
            for (namespace, key) in [("a", "x1"), ("a", "x2"), ("a", "y"), ("b", "x3")] {
                NUMBERS.put(tx, namespace, key, &0)?;
            }
            Ok(())
        })
        .unwrap();
        let keys = |namespace: &str, prefix: &str| -> Vec<String> {
            let rows = NUMBERS.list_prefix(&db, namespace, prefix).unwrap();
            rows.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys("a", "x"), ["x1", "x2"]);
        assert_eq!(keys("b", ""), ["x3"]);
        assert_eq!(db.namespaces("numbers").unwrap(), ["a", "b"]);
        assert!(db.get("numbers", "a", "x\0").is_err());
    }
}
