//! Activations, from the wish to the end.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gantry_core::db::{Database, Durability, Transaction, blocking, write_blocking};
use gantry_core::filter::Filters;
use gantry_core::mounts::{Activate, Activation, ActiveMount, MountManager};
use gantry_core::{Context, Error, Kind, LabelMask, Labels, Mount, Result, faults, labels};

use crate::Options;
use crate::locks::Locks;
use crate::making;
use crate::plan::Plan;
use crate::records::{self, RECORDS, Record, State};

/// Makes and keeps activations. Cheap to clone.
#[derive(Clone)]
pub struct Manager(Arc<Inner>);

struct Inner {
    root: PathBuf,
    db: Arc<dyn Database>,
    locks: Locks,
    /// What was collected and could not be taken away: it was in use. Held only to look or
    /// add, and without those that are just being tried: one may hang.
    left: Mutex<VecDeque<Left>>,
}

/// An activation without a record.
struct Left {
    namespace: String,
    name: String,
    number: u64,
}

impl Manager {
    /// Opens the directory of mounts, takes away what was left half-made, and makes anew
    /// what a restart of the machine has taken. Only one process may have it open:
    /// whoever holds the database.
    ///
    /// # Errors
    /// `InvalidArgument` for a directory that can't be named in mount options; what the
    /// file system and the database report. An activation that can't be made is none.
    pub async fn open(options: Options) -> Result<Self> {
        let Options { root, db } = options;
        if !root.is_absolute() || root.to_str().unwrap_or(",").contains([',', ':', '\\']) {
            return Err(Error::invalid_argument(format!(
                "mounts can't be kept in {root:?}: use an absolute path in UTF-8 without \
                 comma, colon and backslash, which mount options can't hold"
            )));
        }
        blocking(move || {
            private_dir(&root, true)?;
            let inner = Inner { root, db, locks: Locks::default(), left: Mutex::default() };
            inner.recover()?;
            Ok(Self(Arc::new(inner)))
        })
        .await
    }

    async fn blocking<R: Send + 'static>(
        &self,
        body: impl FnOnce(&Inner) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.0);
        // It goes on to its end when the caller goes away.
        blocking(move || body(&inner)).await
    }
}

#[async_trait]
impl MountManager for Manager {
    fn needs_host(&self, mounts: &[Mount]) -> bool {
        // What can't be at all is refused when it is activated.
        !Plan::new(mounts, false).is_err_and(|err| err.kind() == Kind::Unimplemented)
    }

    async fn activate(&self, ctx: &Context, name: &str, wanted: Activate) -> Result<Activation> {
        records::validate(name, &wanted.labels)?;
        let plan = Plan::new(&wanted.mounts, wanted.temporary)?;
        let (ctx, name) = (ctx.clone(), name.to_owned());
        self.blocking(move |inner| inner.activate(&ctx, &name, &plan, &wanted)).await
    }

    async fn deactivate(&self, ctx: &Context, name: &str) -> Result<()> {
        let (ctx, name) = (ctx.clone(), name.to_owned());
        self.blocking(move |inner| inner.deactivate(&ctx, &name)).await
    }

    async fn info(&self, ctx: &Context, name: &str) -> Result<Activation> {
        let (ctx, name) = (ctx.clone(), name.to_owned());
        self.blocking(move |inner| {
            let found = RECORDS.get(&*inner.db, ctx.namespace.as_str(), &name)?;
            Ok(found.ok_or_else(|| records::missing(&name))?.activation(&name))
        })
        .await
    }

    async fn update(
        &self,
        ctx: &Context,
        name: &str,
        new: Labels,
        mask: LabelMask,
    ) -> Result<Activation> {
        labels::validate_all(&new)?;
        let (namespace, name) = (ctx.namespace.as_str().to_owned(), name.to_owned());
        self.blocking(move |inner| {
            write_blocking(&*inner.db, Durability::Sync, &mut |tx| {
                let found = RECORDS.lock(tx, &namespace, &name)?;
                let mut record = found.ok_or_else(|| records::missing(&name))?;
                mask.apply(&mut record.labels, &new);
                RECORDS.put(tx, &namespace, &name, &record)?;
                Ok(record.activation(&name))
            })
        })
        .await
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Activation>> {
        let ctx = ctx.clone();
        let all = self.blocking(move |inner| RECORDS.list(&*inner.db, ctx.namespace.as_str()));
        let all = all.await?.into_iter().map(|(name, record)| record.activation(&name));
        Ok(all.filter(|activation| filters.matches(activation)).collect())
    }

    fn forget(&self, tx: &mut dyn Transaction, ctx: &Context, name: &str) -> Result<u64> {
        records::remove(tx, ctx.namespace.as_str(), name, None).map(|record| record.number)
    }

    async fn release(&self, ctx: &Context, forgotten: Vec<(String, u64)>) {
        if forgotten.is_empty() && self.0.left().is_empty() {
            return;
        }
        let namespace = ctx.namespace.as_str().to_owned();
        let done = self.blocking(move |inner| {
            let before = inner.left().len();
            for (name, number) in forgotten {
                inner.let_go(Left { namespace: namespace.clone(), name, number });
            }
            // Whatever used what earlier calls left may have ended.
            for _ in 0..before {
                let Some(left) = inner.next_left() else { break };
                inner.let_go(left);
            }
            Ok(())
        });
        if let Err(err) = done.await {
            tracing::warn!(error = %err, "unmount what was collected");
        }
    }
}

impl Inner {
    fn dir(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string())
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<Left>> {
        // A list is whole at any time.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_left(&self) -> Option<Left> {
        self.left().pop_front()
    }

    /// Takes away what has no record any more, or keeps it for the next time.
    fn let_go(&self, left: Left) {
        // Whoever still makes it finds its record gone and takes it away.
        let _lock = self.locks.lock(&left.namespace, &left.name);
        if let Err(err) = self.take_away(left.number) {
            let Left { name, number, .. } = &left;
            tracing::warn!(name, number, error = %err, "unmount what was collected");
            self.left().push_back(left);
        }
    }

    fn activate(
        &self,
        ctx: &Context,
        name: &str,
        plan: &Plan,
        wanted: &Activate,
    ) -> Result<Activation> {
        let namespace = ctx.namespace.as_str();
        let _lock = self.locks.lock(namespace, name);
        let begin = || {
            // The end of the machine takes mounts and record alike.
            write_blocking(&*self.db, Durability::Buffered, &mut |tx| {
                records::begin(tx, ctx, name, wanted)
            })
        };
        let record = match begin()? {
            Ok(record) => record,
            Err(stale) => {
                self.end(namespace, name, &stale)?;
                begin()?.map_err(|_| Error::unavailable(format!("mount {name:?} is in use")))?
            }
        };
        let made = self.complete(namespace, name, record.clone(), plan);
        if made.is_err()
            && let Err(err) = self.end(namespace, name, &record)
            && !err.is_not_found()
        {
            tracing::warn!(name, error = %err, "clean up after a failed activation");
        }
        Ok(made?.activation(name))
    }

    /// Makes what a record that is there already promises.
    fn complete(
        &self,
        namespace: &str,
        name: &str,
        mut record: Record,
        plan: &Plan,
    ) -> Result<Record> {
        (record.active, record.system) = self.make(record.number, plan, record.temporary)?;
        record.state = State::Active;
        write_blocking(&*self.db, Durability::Sync, &mut |tx| {
            records::replace(tx, namespace, name, &record)
        })?;
        Ok(record)
    }

    fn make(
        &self,
        number: u64,
        plan: &Plan,
        temporary: bool,
    ) -> Result<(Vec<ActiveMount>, Vec<Mount>)> {
        let dir = self.dir(number);
        private_dir(&dir, false)?;
        let mut active = Vec::new();
        for (at, step) in plan.ours.iter().enumerate() {
            let made = making::make(step, &dir.join(at.to_string()), &active);
            active.push(made.map_err(|err| err.context(format!("mount {at} of the activation")))?);
        }
        let mut system = Vec::new();
        if let Some(step) = &plan.first {
            system.push(making::prepare(step, &active)?);
        }
        system.extend(plan.rest.iter().cloned());
        if let Some(last) = active.last().filter(|_| temporary) {
            system.push(Mount {
                kind: "bind".into(),
                source: last.mount_point.clone(),
                target: String::new(),
                options: vec!["rbind".into()],
            });
        }
        Ok((active, system))
    }

    fn deactivate(&self, ctx: &Context, name: &str) -> Result<()> {
        let namespace = ctx.namespace.as_str();
        let _lock = self.locks.lock(namespace, name);
        let record = write_blocking(&*self.db, Durability::Buffered, &mut |tx| {
            let found = RECORDS.lock(tx, namespace, name)?;
            let mut record = found.ok_or_else(|| records::missing(name))?;
            record.state = State::Leaving;
            RECORDS.put(tx, namespace, name, &record)?;
            Ok(record)
        })?;
        match self.end(namespace, name, &record) {
            // Collected meanwhile.
            Err(err) if err.is_not_found() => Ok(()),
            ended => ended,
        }
    }

    /// Takes mounts away, then their record.
    fn end(&self, namespace: &str, name: &str, record: &Record) -> Result<()> {
        self.take_away(record.number)?;
        write_blocking(&*self.db, Durability::Sync, &mut |tx| {
            records::remove(tx, namespace, name, Some(record.number)).map(|_| ())
        })
    }

    /// Takes away whatever is mounted below a number, the last one first.
    fn take_away(&self, number: u64) -> Result<()> {
        let dir = self.dir(number);
        let failed = |err| Error::io(format!("remove {dir:?}"), err);
        let entries = match fs::read_dir(&dir) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        let mut places = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            places.extend(name.to_str().and_then(|name| name.parse::<usize>().ok()));
        }
        places.sort_unstable();
        for place in places.into_iter().rev() {
            making::take_away(&dir.join(place.to_string()))?;
        }
        faults::around("remove the directory of an activation", || fs::remove_dir(&dir))
            .map_err(failed)
    }

    /// Brings mounts and records together after a restart.
    fn recover(&self) -> Result<()> {
        let mut known = Vec::new();
        for namespace in self.db.namespaces(RECORDS.name())? {
            for (name, record) in RECORDS.list(&*self.db, &namespace)? {
                let number = record.number;
                if let Err(err) = self.recover_one(&namespace, &name, record) {
                    tracing::warn!(namespace, name, error = %err, "an activation is lost");
                }
                if RECORDS.get(&*self.db, &namespace, &name)?.is_some() {
                    known.push(number);
                }
            }
        }
        let failed = |err| Error::io(format!("list mounts in {:?}", self.root), err);
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if !known.contains(&number)
                && let Err(err) = self.take_away(number)
            {
                tracing::warn!(number, error = %err, "mounts without an activation stay");
            }
        }
        Ok(())
    }

    fn recover_one(&self, namespace: &str, name: &str, record: Record) -> Result<()> {
        let whole = record.state == State::Active;
        if whole && record.active.iter().all(making::is_there) {
            return Ok(());
        }
        if !whole || record.temporary {
            return self.end(namespace, name, &record);
        }
        self.take_away(record.number)?;
        tracing::info!(namespace, name, "make an activation's mounts anew");
        let plan = Plan::new(&record.mounts, record.temporary)?;
        let made = self.complete(namespace, name, record.clone(), &plan);
        if made.is_err() {
            self.end(namespace, name, &record)?;
        }
        made.map(|_| ())
    }
}

/// Makes a directory of mode 0700.
fn private_dir(dir: &Path, may_be_there: bool) -> Result<()> {
    let make = || fs::DirBuilder::new().mode(0o700).recursive(may_be_there).create(dir);
    faults::around("make the directory of an activation", make)
        .map_err(|err| Error::io(format!("make directory {dir:?}"), err))
}
