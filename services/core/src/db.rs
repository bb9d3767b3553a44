//! The one store of records: tables of values by namespace and key, with
//! atomic transactions. [`Database`] is what an implementation offers,
//! [`Table`] is how services use it.
//!
//! ```text
//! const IMAGES: Table<Image> = Table::new("images");
//!
//! let image = IMAGES.get(&*db, "default", "docker.io/library/nginx:latest")?;
//! db::write(&db, Durability::Sync, move |tx| IMAGES.put(tx, "default", &name, &image)).await?;
//! ```

pub mod memory;

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::panic::Location;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, faults};

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After it reached the disk: it survives a power loss. For everything
    /// a client is told of.
    Sync,
    /// After it reached the operating system: it survives the end of this
    /// process. A later `Sync` write makes it durable as well.
    Buffered,
}

/// Called with key and value of each row of a scan.
pub type Visit<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<ControlFlow<()>>;

/// Rows outside of any namespace have this one.
pub const GLOBAL: &str = "";

/// Reads of committed rows and transactions over them. All methods block for
/// as long as the disk takes; [`fn@write`] and [`blocking`] run them off the
/// asynchronous threads. Table names, namespaces and keys hold no NUL.
pub trait Database: Send + Sync {
    /// One row.
    ///
    /// # Errors
    /// `DataLoss` or `Internal` from the store; a missing row is `None`.
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>>;

    /// Visits a namespace's rows whose keys start with `prefix`, in the
    /// order of their keys, as of one moment.
    ///
    /// # Errors
    /// The store's, or what `visit` returned.
    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()>;

    /// The namespaces that have a row in this table, in order.
    ///
    /// # Errors
    /// The store's.
    fn namespaces(&self, table: &str) -> Result<Vec<String>>;

    /// Runs `body` in a transaction: all of its writes become visible at
    /// once, or none when it fails. It may run several times, when another
    /// transaction held the same rows.
    ///
    /// # Errors
    /// What `body` returned, or the store's.
    fn transact(
        &self,
        durability: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()>;
}

/// The view inside [`Database::transact`].
pub trait Transaction {
    /// One row, locked until the end of the transaction: nobody else reads it
    /// for update or writes it. Works as a lock on missing rows as well.
    ///
    /// # Errors
    /// The store's.
    fn get(&mut self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>>;

    /// Rows by prefix, with this transaction's own writes. They are not
    /// locked: lock a row that guards them first.
    ///
    /// # Errors
    /// The store's, or what `visit` returned.
    fn scan(&mut self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()>;

    /// Writes a row.
    ///
    /// # Errors
    /// The store's; `InvalidArgument` for a NUL in a name.
    fn put(&mut self, table: &str, namespace: &str, key: &str, value: &[u8]) -> Result<()>;

    /// Removes a row; a missing one is no error.
    ///
    /// # Errors
    /// The store's.
    fn delete(&mut self, table: &str, namespace: &str, key: &str) -> Result<()>;
}

/// A table of values of one type, stored as JSON.
pub struct Table<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    /// Names a table. Names are part of the stored format.
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The table's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    fn decode(&self, key: &str, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|err| {
            Error::data_loss(format!("record {key:?} in table {} is damaged", self.name))
                .with_source(err)
        })
    }

    /// One committed row.
    ///
    /// # Errors
    /// The store's; `DataLoss` for a row that can't be decoded.
    pub fn get(&self, db: &dyn Database, namespace: &str, key: &str) -> Result<Option<T>> {
        let bytes = db.get(self.name, namespace, key)?;
        bytes.map(|b| self.decode(key, &b)).transpose()
    }

    /// All rows of a namespace, in the order of their keys.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn list(&self, db: &dyn Database, namespace: &str) -> Result<Vec<(String, T)>> {
        self.list_prefix(db, namespace, "")
    }

    /// The rows of a namespace whose keys start with `prefix`.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn list_prefix(
        &self,
        db: &dyn Database,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<(String, T)>> {
        let mut rows = Vec::new();
        db.scan(self.name, namespace, prefix, &mut |key, bytes| {
            rows.push((key.to_owned(), self.decode(key, bytes)?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// Visits all rows of a namespace, in the order of their keys.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn each(&self, db: &dyn Database, namespace: &str, mut visit: impl FnMut(T)) -> Result<()> {
        db.scan(self.name, namespace, "", &mut |key, bytes| {
            visit(self.decode(key, bytes)?);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// One row, locked until the end of the transaction.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn lock(&self, tx: &mut dyn Transaction, namespace: &str, key: &str) -> Result<Option<T>> {
        let bytes = tx.get(self.name, namespace, key)?;
        bytes.map(|b| self.decode(key, &b)).transpose()
    }

    /// Rows as this transaction sees them, unlocked.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn list_in(
        &self,
        tx: &mut dyn Transaction,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<(String, T)>> {
        let mut rows = Vec::new();
        tx.scan(self.name, namespace, prefix, &mut |key, bytes| {
            rows.push((key.to_owned(), self.decode(key, bytes)?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// Writes a row.
    ///
    /// # Errors
    /// The store's.
    pub fn put(
        &self,
        tx: &mut dyn Transaction,
        namespace: &str,
        key: &str,
        value: &T,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|err| {
            Error::internal(format!("encode record {key:?} of table {}", self.name))
                .with_source(err)
        })?;
        tx.put(self.name, namespace, key, &bytes)
    }

    /// Removes a row.
    ///
    /// # Errors
    /// The store's.
    pub fn delete(&self, tx: &mut dyn Transaction, namespace: &str, key: &str) -> Result<()> {
        tx.delete(self.name, namespace, key)
    }
}

/// Runs a transaction on a thread that may block, and returns what `body`
/// returned.
///
/// # Errors
/// As [`Database::transact`].
#[track_caller]
pub fn write<R, F>(
    db: &Arc<dyn Database>,
    durability: Durability,
    body: F,
) -> impl Future<Output = Result<R>> + Send + use<R, F>
where
    R: Send + 'static,
    F: FnMut(&mut dyn Transaction) -> Result<R> + Send + 'static,
{
    write_then(db, durability, body, |result| result)
}

/// [`fn@write`], with something to do once the transaction is committed: it is done also
/// when the caller goes away meanwhile.
///
/// # Errors
/// As [`Database::transact`].
#[track_caller]
pub fn write_then<R, T, F, G>(
    db: &Arc<dyn Database>,
    durability: Durability,
    mut body: F,
    then: G,
) -> impl Future<Output = Result<T>> + Send + use<R, T, F, G>
where
    T: Send + 'static,
    F: FnMut(&mut dyn Transaction) -> Result<R> + Send + 'static,
    G: FnOnce(R) -> T + Send + 'static,
{
    let db = Arc::clone(db);
    let caller = Location::caller();
    blocking(move || write_for(caller, &*db, durability, &mut body).map(then))
}

/// [`fn@write`] for callers that may block.
///
/// # Errors
/// As [`Database::transact`].
#[track_caller]
pub fn write_blocking<R>(
    db: &dyn Database,
    durability: Durability,
    body: &mut dyn FnMut(&mut dyn Transaction) -> Result<R>,
) -> Result<R> {
    write_for(Location::caller(), db, durability, body)
}

fn write_for<R>(
    caller: &'static Location<'static>,
    db: &dyn Database,
    durability: Durability,
    body: &mut dyn FnMut(&mut dyn Transaction) -> Result<R>,
) -> Result<R> {
    let mut result = None;
    faults::around(caller, || {
        db.transact(durability, &mut |tx| {
            result = Some(body(tx)?);
            Ok(())
        })
    })?;
    result.ok_or_else(|| Error::internal("the store did not run the transaction"))
}

/// Runs something that blocks, off the asynchronous threads.
///
/// # Errors
/// What `body` returned; `Internal` when it panicked.
pub async fn blocking<R, F>(body: F) -> Result<R>
where
    R: Send + 'static,
    F: FnOnce() -> Result<R> + Send + 'static,
{
    tokio::task::spawn_blocking(body)
        .await
        .map_err(|err| Error::internal("a blocking operation failed").with_source(err))?
}
