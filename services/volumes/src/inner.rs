//! Volumes by their records. Who changes one has its lock.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gantry_core::db::{Database, Durability, write_blocking};
use gantry_core::volumes::{NewVolume, Volume, no_such_volume};
use gantry_core::{Error, Namespace, Result};
use gantry_files::{Flush, Trash, is_mount_point};

use crate::copying::Sources;
use crate::places::{Key, Places};
use crate::records::{Record, State, VOLUMES};
use crate::sizes::Measured;

/// What all calls share.
pub(crate) struct Inner {
    pub(crate) places: Places,
    pub(crate) db: Arc<dyn Database>,
    pub(crate) trash: Trash,
    pub(crate) flush: Flush,
    pub(crate) sources: Sources,
    /// What was measured. Held only to look or add.
    pub(crate) measured: Mutex<HashMap<Key, Measured>>,
}

impl Inner {
    pub(crate) fn open(root: &Path, db: Arc<dyn Database>) -> Result<Self> {
        let places = Places::open(root)?;
        let trash = Trash::new(&places.removed(), "volume")?;
        let flush = Flush::new(places.root())?;
        let sources = Sources::default();
        Ok(Self { places, db, trash, flush, sources, measured: Mutex::default() })
    }

    fn record(&self, (namespace, name): &Key) -> Result<Option<Record>> {
        VOLUMES.get(&*self.db, namespace.as_str(), name)
    }

    #[track_caller]
    pub(crate) fn put(&self, (namespace, name): &Key, record: &Record) -> Result<()> {
        write_blocking(&*self.db, Durability::Sync, &mut |tx| {
            VOLUMES.put(tx, namespace.as_str(), name, record)
        })
    }

    /// Buffered: what a power loss brings back says that it is to go.
    #[track_caller]
    fn forget(&self, (namespace, name): &Key) -> Result<()> {
        write_blocking(&*self.db, Durability::Buffered, &mut |tx| {
            VOLUMES.delete(tx, namespace.as_str(), name)
        })
    }

    /// As clients see it.
    pub(crate) fn volume(&self, key: &Key, record: Record) -> Volume {
        Volume {
            name: key.1.clone(),
            labels: record.labels,
            options: record.options,
            created_at: record.created_at,
            mountpoint: self.places.data(key),
            snapshot_of: record.snapshot_of,
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Volume> {
        match self.record(key)? {
            Some(record) if record.is_visible() => Ok(self.volume(key, record)),
            _ => Err(no_such_volume(&key.1)),
        }
    }

    pub(crate) fn list(&self, namespace: &Namespace) -> Result<Vec<Volume>> {
        let rows = VOLUMES.list(&*self.db, namespace.as_str())?;
        let visible = rows.into_iter().filter(|(_, record)| record.is_visible());
        let volume = |(name, record)| self.volume(&(namespace.clone(), name), record);
        Ok(visible.map(volume).collect())
    }

    /// The record of a volume, of which nothing is half-done any more.
    pub(crate) fn settled(&self, key: &Key) -> Result<Option<Record>> {
        let Some(record) = self.record(key)? else { return Ok(None) };
        match record.state.clone() {
            State::Ready => Ok(Some(record)),
            State::Renaming { to } => self.settle_renaming(key, record, to),
            State::Copying | State::Removing => {
                self.take_away(key)?;
                Ok(None)
            }
        }
    }

    /// [`Inner::settled`] of a volume that must be there.
    pub(crate) fn found(&self, key: &Key) -> Result<Record> {
        self.settled(key)?.ok_or_else(|| no_such_volume(&key.1))
    }

    /// Refuses a name that has a record or files.
    pub(crate) fn check_free(&self, key: &Key) -> Result<()> {
        if self.settled(key)?.is_some() || self.places.is_there(key)? {
            return Err(taken(&key.1));
        }
        Ok(())
    }

    pub(crate) fn create(&self, key: &Key, new: &NewVolume) -> Result<(Volume, bool)> {
        if let Some(record) = self.settled(key)? {
            if !new.options.is_empty() && new.options != record.options {
                return Err(Error::already_exists(format!(
                    "volume {} exists with other driver options: remove it first, or use \
                     another name",
                    key.1
                ))
                .about("volume", &key.1));
            }
            if self.places.make(key)? {
                tracing::warn!(volume = %key.1, "made the directory of a volume anew");
            }
            return Ok((self.volume(key, record), false));
        }
        let record = Record::new(new.labels.clone(), new.options.clone(), State::Ready);
        self.put(key, &record)?;
        if let Err(err) = self.places.make(key) {
            self.places.unmake(key);
            if let Err(left) = self.forget(key) {
                tracing::warn!(error = %left, volume = %key.1, "a volume stays that was refused");
            }
            return Err(err);
        }
        Ok((self.volume(key, record), true))
    }

    pub(crate) fn remove(&self, key: &Key) -> Result<()> {
        if self.record(key)?.is_some_and(|record| record.state == State::Removing) {
            // An earlier attempt failed.
            return self.take_away(key);
        }
        let record = self.found(key)?;
        self.check_unused(key)?;
        self.put(key, &Record { state: State::Removing, ..record })?;
        self.take_away(key)
    }

    /// Takes a volume's directory away, and then its record.
    pub(crate) fn take_away(&self, key: &Key) -> Result<()> {
        if let Some(directory) = self.places.put_away(key)? {
            self.trash.delete(directory);
        }
        self.forget(key)?;
        self.measured().remove(key);
        Ok(())
    }

    fn check_unused(&self, key: &Key) -> Result<()> {
        let refuse = |why: &str| {
            let name = &key.1;
            Err(Error::failed_precondition(format!("volume {name} is in use: {why}"))
                .about("volume", name))
        };
        if self.sources.contains(key) {
            return refuse("it is being copied; try again when that is done");
        }
        if is_mount_point(&self.places.data(key))? {
            return refuse("something is mounted at its mountpoint; unmount it first");
        }
        Ok(())
    }

    pub(crate) fn rename(&self, from: &Key, to: &Key) -> Result<Volume> {
        let record = self.found(from)?;
        self.check_free(to)?;
        self.check_unused(from)?;
        let moving = State::Renaming { to: to.1.clone() };
        self.put(from, &Record { state: moving, ..record.clone() })?;
        // What can't be made undone now is so by whoever looks next.
        if let Err(err) = self.places.make(from).and_then(|_| self.places.rename(from, to)) {
            if let Err(left) = self.put(from, &record) {
                tracing::warn!(error = %left, volume = %from.1, "a refused rename stays half-done");
            }
            return Err(err);
        }
        self.finish_renaming(from, to, record)
    }

    /// Finishes a renaming if the directory was renamed, and undoes it otherwise.
    fn settle_renaming(&self, key: &Key, record: Record, to: String) -> Result<Option<Record>> {
        let to = (key.0.clone(), to);
        if self.places.is_there(key)? || !self.places.is_there(&to)? {
            let record = Record { state: State::Ready, ..record };
            self.put(key, &record)?;
            return Ok(Some(record));
        }
        self.finish_renaming(key, &to, record)?;
        Ok(None)
    }

    /// Gives a record the name that its directory has by now, also in its snapshots.
    fn finish_renaming(&self, from: &Key, to: &Key, record: Record) -> Result<Volume> {
        self.places.flush(&from.0)?;
        let namespace = from.0.as_str();
        let record = Record { state: State::Ready, ..record };
        write_blocking(&*self.db, Durability::Sync, &mut |tx| {
            VOLUMES.lock(tx, namespace, &from.1)?;
            VOLUMES.delete(tx, namespace, &from.1)?;
            // One that was made over it since has these files as well.
            if VOLUMES.lock(tx, namespace, &to.1)?.is_none() {
                VOLUMES.put(tx, namespace, &to.1, &record)?;
            }
            let all = VOLUMES.list_in(tx, namespace, "")?;
            let is_snapshot = |other: &Record| other.snapshot_of.as_ref() == Some(&from.1);
            for (name, _) in all.into_iter().filter(|(_, other)| is_snapshot(other)) {
                let Some(mut other) = VOLUMES.lock(tx, namespace, &name)? else { continue };
                other.snapshot_of = Some(to.1.clone());
                VOLUMES.put(tx, namespace, &name, &other)?;
            }
            Ok(())
        })?;
        self.measured().remove(from);
        Ok(self.volume(to, record))
    }
}

/// What a client is told that wants to give a volume a name that another has.
pub(crate) fn taken(name: &str) -> Error {
    Error::already_exists(format!("a volume named {name} already exists")).about("volume", name)
}
