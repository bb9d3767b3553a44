//! What is done when directories and records don't match.

use std::collections::BTreeMap;
use std::fs;
use std::sync::PoisonError;

use gantry_core::db::{Durability, write_blocking};
use gantry_core::snapshots::Kind;
use gantry_core::{Context, Error, Result, faults};
use gantry_files::TRASH_PREFIX;

use super::Inner;
use crate::backend::Backend;
use crate::store::{self, Record};

impl<B: Backend> Inner<B> {
    /// A record whose files are there, and those of what it lies on. Others count as
    /// not there, so that a client which makes what it misses heals the store.
    pub(super) fn whole(&self, ctx: &Context, key: &str) -> Result<Record> {
        let record = self.get(ctx, key)?;
        let below = record.below.iter().filter(|_| B::LATE_PARENT);
        if record.info.kind == Kind::Committed
            && let Some(lost) =
                std::iter::once(&record.number).chain(below).find(|n| self.is_lost(**n))
        {
            tracing::warn!(snapshot = key, number = lost, "the files of a snapshot are missing");
            return Err(Error::not_found(format!(
                "snapshot {key} has lost its files: not found; pull its image again"
            )));
        }
        Ok(record)
    }

    pub(super) fn is_lost(&self, number: u64) -> bool {
        !self.content(number).is_dir()
    }

    /// Gives a committed snapshot that has lost its files those of an active one, which
    /// ends. Its record, and those that lie on it, stay as they are.
    pub(super) fn restore(
        &self,
        ctx: &Context,
        active: &Record,
        lost: &Record,
        parent: Option<&str>,
    ) -> Result<()> {
        let (key, name) = (&active.info.name, &lost.info.name);
        if lost.info.kind != Kind::Committed || lost.info.parent.as_deref() != parent {
            return Err(store::taken(name));
        }
        self.replace_lost(active.number, lost)?;
        self.flush.run()?;
        tracing::info!(snapshot = %name, number = lost.number, "a snapshot got its files back");
        write_blocking(&*self.db, Durability::Sync, &mut |tx| self.store.remove(tx, ctx, key))?;
        Ok(())
    }

    /// Puts a directory in the place of one whose files are missing.
    fn replace_lost(&self, number: u64, lost: &Record) -> Result<()> {
        let _one = self.restoring.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_lost(lost.number) {
            // Somebody else was faster.
            return Err(store::taken(&lost.info.name));
        }
        self.throw(lost.number);
        let (from, to) = (self.dir(number), self.dir(lost.number));
        match faults::around("give a snapshot its files back", || fs::rename(&from, &to)) {
            // What is left there could not be put away.
            Err(err) if err.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                Err(store::taken(&lost.info.name))
            }
            moved => moved.map_err(|err| Error::io(format!("move {from:?} to {to:?}"), err)),
        }
    }

    /// Brings directories and records together after a crash.
    pub(super) fn recover(&self) -> Result<()> {
        let records = self.store.everything(&*self.db)?;
        let mut by_number: BTreeMap<u64, &Record> =
            records.iter().map(|record| (record.number, record)).collect();
        let failed = |err| Error::io(format!("list snapshot directories in {:?}", self.root), err);
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(TRASH_PREFIX) {
                self.trash.delete(self.root.join(&*name));
            } else if let Ok(number) = name.parse() {
                match by_number.get(&number) {
                    Some(_) if !self.is_lost(number) => drop(by_number.remove(&number)),
                    _ => self.trash.throw(&name)?,
                }
            }
        }
        // A power loss can take a directory away that nobody had written to
        // the disk; one that was committed had been.
        for record in by_number.into_values() {
            let (name, number) = (&record.info.name, record.number);
            if record.info.kind == Kind::Committed {
                tracing::error!(snapshot = %name, number, "the files of a snapshot are missing");
            } else if let Err(err) = self.make_directory(record) {
                // That of its parent is missing, too.
                tracing::error!(snapshot = %name, number, error = %err, "a snapshot stays without files");
            } else {
                tracing::info!(snapshot = %name, number, "made a snapshot's directory anew");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_core::db::memory::MemoryDatabase;
    use gantry_core::snapshots::Snapshotter;
    use gantry_core::{Labels, Namespace};

    use crate::Options;
    use crate::directories::Directories;
    use crate::native::Native;
    use crate::testsuite::Recorder;

    use super::*;

    #[tokio::test]
    async fn of_two_that_restore_a_snapshot_the_first_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (db, events) = (MemoryDatabase::new().shared(), Arc::new(Recorder::default()));
        let options = Options { root: dir.path().to_owned(), db, events };
        let all = Directories::open(Native, &options).unwrap();
        let ctx = Context::new(Namespace::new("testing").unwrap());
        for key in ["lost", "first", "second"] {
            all.prepare(&ctx, key, None, Labels::new()).await.unwrap();
            let record = all.0.get(&ctx, key).unwrap();
            fs::write(all.0.content(record.number).join("by"), key).unwrap();
        }
        all.commit(&ctx, "base", "lost", Labels::new(), None).await.unwrap();
        let lost = all.0.get(&ctx, "base").unwrap();
        fs::remove_dir_all(all.0.dir(lost.number)).unwrap();

        // Both have seen that the files are missing.
        let restore = |key: &str| {
            let active = all.0.get(&ctx, key).unwrap();
            all.0.restore(&ctx, &active, &lost, None).map_err(|err| err.kind())
        };
        assert_eq!(restore("first"), Ok(()));
        assert_eq!(restore("second"), Err(gantry_core::Kind::AlreadyExists));
        let content = |number| fs::read_to_string(all.0.content(number).join("by")).unwrap();
        assert_eq!(content(lost.number), "first");
        assert_eq!(content(all.0.get(&ctx, "second").unwrap().number), "second");
    }
}
