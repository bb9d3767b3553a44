//! [`RocksDatabase`]: RocksDB behind [`gantry_core::db::Database`].

mod keys;
mod options;
mod transaction;

#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_core::db::{Database, Durability, Transaction, Visit};
use gantry_core::{Error, Kind, Result};
use rocksdb::{DBAccess, DBRawIteratorWithThreadMode, ReadOptions, TransactionDB, WriteOptions};

use transaction::RocksTransaction;

/// The layout of keys and values that this version reads and writes.
const SCHEMA_VERSION: u32 = 1;

/// How often a body runs before its transaction counts as beaten.
const ATTEMPTS: u32 = 12;

/// Name of the file whose lock a process holds while it has the store open.
const LOCK_FILE: &str = "gantry.lock";

/// How long the kernel may take to end a daemon that was killed, which holds its locks until then.
const LEAVING: Duration = Duration::from_secs(1);

/// The store of records in a directory of its own.
///
/// A row's key is `table NUL namespace NUL key`; since no part holds a NUL,
/// rows sort by table, namespace and key, and a prefix of a key is a prefix of
/// bytes. Transactions are pessimistic: what they read for update or write
/// stays locked until they end.
///
/// A write-ahead log receives each commit. After a power loss it is replayed
/// up to the first record that is not whole: log records are synced in their order, so
/// all that [`Durability::Sync`] promised lies before that one.
pub struct RocksDatabase {
    // Fields drop in this order: the store is closed before the lock goes.
    db: TransactionDB,
    path: PathBuf,
    _lock: File,
}

impl RocksDatabase {
    /// Opens the store in this directory, or makes one.
    ///
    /// # Errors
    /// `Unavailable` while another process has it open,
    /// `FailedPrecondition` when a later version of Gantry wrote it,
    /// `DataLoss` when it is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        create_durably(path)?;
        let lock = lock_directory(path, LOCK_FILE, "metadata store", "choose another root")?;
        let db = TransactionDB::open(&options::database(), &options::transactions(), path)
            .map_err(|err| {
                store_error(format!("open the metadata store {}", path.display()), err)
            })?;
        let store = Self { db, path: path.to_owned(), _lock: lock };
        store.check_schema()?;
        Ok(store)
    }

    /// Reads the schema version, or writes it into an empty store.
    fn check_schema(&self) -> Result<()> {
        let shown = self.path.display();
        let found = self
            .db
            .get(keys::SCHEMA)
            .map_err(|err| store_error("read the schema version".into(), err))?;
        let Some(found) = found else {
            return self.write_schema();
        };
        let version = std::str::from_utf8(&found).ok().and_then(|v| v.parse::<u32>().ok());
        match version {
            Some(SCHEMA_VERSION) => Ok(()),
            Some(other) => Err(Error::failed_precondition(format!(
                "metadata store {shown} has schema version {other}, this gantryd knows version \
                 {SCHEMA_VERSION}: start the gantryd that wrote it, or choose another root"
            ))),
            None => Err(Error::data_loss(format!(
                "the schema version of metadata store {shown} is damaged"
            ))),
        }
    }

    fn write_schema(&self) -> Result<()> {
        let mut rows = self.db.raw_iterator();
        rows.seek_to_first();
        if rows.valid() {
            return Err(Error::failed_precondition(format!(
                "{} holds a RocksDB store that is not Gantry's: choose another root",
                self.path.display()
            )));
        }
        rows.status().map_err(|err| store_error("look for rows".into(), err))?;
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        self.db
            .put_opt(keys::SCHEMA, SCHEMA_VERSION.to_string(), &sync)
            .map_err(|err| store_error("write the schema version".into(), err))
    }

    /// Runs the body once. `None` when it lost against another transaction.
    fn attempt(
        &self,
        write: &WriteOptions,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<Option<()>> {
        let inner = self.db.transaction_opt(write, &options::transaction());
        let mut tx = RocksTransaction::new(inner);
        let result = body(&mut tx);
        // Also where the body did not pass on that it could not get a lock.
        if tx.lost() {
            return Ok(None);
        }
        result?;
        tx.commit()
    }
}

impl Database for RocksDatabase {
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let row = keys::row(table, namespace, key)?;
        self.db.get(row).map_err(|err| store_error(format!("read {table} {key:?}"), err))
    }

    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        let start = keys::row(table, namespace, prefix)?;
        let rows = self.db.raw_iterator_opt(until(keys::after(&start)));
        visit_rows(rows, table, &start, start.len() - prefix.len(), visit)
    }

    fn namespaces(&self, table: &str) -> Result<Vec<String>> {
        let start = keys::table(table)?;
        let mut rows = self.db.raw_iterator_opt(until(keys::after(&start)));
        let mut found = Vec::new();
        rows.seek(&start);
        while let Some(key) = rows.key() {
            let rest = key.get(start.len()..).unwrap_or_default();
            let name = rest.split(|b| *b == 0).next().unwrap_or_default();
            let name = text(name, table)?.to_owned();
            let behind = keys::after(&keys::row(table, &name, "")?);
            found.push(name);
            rows.seek(behind);
        }
        rows.status().map_err(|err| store_error(format!("read the table {table}"), err))?;
        Ok(found)
    }

    fn transact(
        &self,
        durability: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()> {
        let mut write = WriteOptions::default();
        write.set_sync(durability == Durability::Sync);
        for attempt in 0..ATTEMPTS {
            if let Some(()) = self.attempt(&write, body)? {
                return Ok(());
            }
            std::thread::sleep(pause(attempt));
        }
        Err(Error::new(
            Kind::Aborted,
            format!(
                "other requests kept changing the same records ({ATTEMPTS} attempts): try again"
            ),
        ))
    }
}

/// Some milliseconds, more with each attempt, and different for each thread,
/// so that two that beat each other don't meet again.
fn pause(attempt: u32) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1000;
    Duration::from_micros(u64::from(attempt + 1) * (200 + random))
}

/// Options of an iterator that ends before this key.
fn until(end: Vec<u8>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end);
    options
}

/// Visits the rows from `start` to the iterator's bound. Keys are told
/// without their first `skip` bytes.
fn visit_rows<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    table: &str,
    start: &[u8],
    skip: usize,
    visit: Visit<'_>,
) -> Result<()> {
    rows.seek(start);
    while let Some((key, value)) = rows.item() {
        let key = text(key.get(skip..).unwrap_or_default(), table)?;
        if visit(key, value)?.is_break() {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(|err| store_error(format!("read the table {table}"), err))
}

fn text<'a>(bytes: &'a [u8], table: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|err| {
        Error::data_loss(format!("a key of table {table} is damaged")).with_source(err)
    })
}

/// RocksDB's error as ours.
fn store_error(what: String, err: rocksdb::Error) -> Error {
    use rocksdb::ErrorKind as E;
    let kind = match err.kind() {
        E::Corruption => Kind::DataLoss,
        E::Busy | E::TimedOut | E::TryAgain | E::Aborted => Kind::Aborted,
        E::InvalidArgument | E::NotSupported => Kind::FailedPrecondition,
        // The binding tells errors apart by their text as well; the system's
        // word for a full disk is the one that clients act on.
        E::IOError if err.as_ref().contains("No space left on device") => Kind::ResourceExhausted,
        _ => Kind::Internal,
    };
    Error::new(kind, what).with_source(err)
}

/// Takes the lock file in a directory that keeps a second daemon away from it, for
/// as long as the result lives. `what` the directory is and the `remedy` are for the
/// message.
///
/// # Errors
/// `Unavailable`, with its process ID, while another daemon holds it.
pub fn lock_directory(path: &Path, name: &str, what: &str, remedy: &str) -> Result<File> {
    let file = path.join(name);
    let failed = |err| Error::io(format!("open {}", file.display()), err);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file)
        .map_err(failed)?;
    let end = Instant::now() + LEAVING;
    let locked = loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => break other,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who holds it is told as a help only.
            let _ = lock.read_to_string(&mut holder);
            return Err(Error::unavailable(format!(
                "{what} {} is in use by another gantryd (process {}): stop that one, or {remedy}",
                path.display(),
                if holder.is_empty() { "unknown" } else { holder.trim() }
            )));
        }
        Err(TryLockError::Error(err)) => {
            return Err(Error::io(format!("lock {}", file.display()), err));
        }
    }
    let written = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(|err| Error::io(format!("write {}", file.display()), err))?;
    Ok(lock)
}

/// Makes a directory and those above it, so that they survive a power loss.
fn create_durably(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(err) => return Err(Error::io(format!("create directory {}", path.display()), err)),
    }
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|err| Error::io(format!("sync directory {}", parent.display()), err))
}

/// Stops a scan at the first row.
pub(crate) fn any_row(db: &dyn Database, table: &str, namespace: &str) -> Result<bool> {
    let mut found = false;
    db.scan(table, namespace, "", &mut |_, _| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}
