//! The snapshotter that all backends share: records, directories, events.

mod recovery;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use gantry_core::db::{Database, Durability, Transaction, blocking, write_blocking};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::snapshots::{Info, Kind, SnapshotUsage, Snapshotter, Usage};
use gantry_core::{Context, Error, LabelMask, Labels, Mount, Result, faults, labels};
use gantry_files::{Flush, Shelf, Trash, tree_size};
use gantry_ttrpc::containerd::events::{SnapshotCommit, SnapshotPrepare, SnapshotRemove};
use gantry_ttrpc::{any, convert};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::backend::{Backend, CONTENT, Place};
use crate::idmap::IdMap;
use crate::numbers::Numbers;
use crate::store::{self, Commit, Record, Store};
use crate::{Options, SNAPSHOT_REF};

/// The most layers that the kernel stacks (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

/// Name of the directory in which directories lie ready.
const READY: &str = "ready";

/// Snapshots of one backend. Cheap to clone: what blocks runs in a clone on
/// a thread that may.
pub(crate) struct Directories<B>(Arc<Inner<B>>);

struct Inner<B> {
    backend: B,
    /// `…/snapshots`.
    root: PathBuf,
    store: Store<'static>,
    db: Arc<dyn Database>,
    events: Arc<dyn Events>,
    numbers: Numbers,
    /// Directories for active snapshots.
    shelf: Shelf,
    trash: Trash,
    flush: Flush,
    /// Held by who gives a snapshot lost files back, so that nobody takes the directory of
    /// another for what is left of the lost one. It covers a look and two renames; that it
    /// happens at all is rare, so all snapshots share it.
    restoring: Mutex<()>,
}

impl<B: Backend> Directories<B> {
    /// Opens the directories, and sweeps those without a record.
    pub(crate) fn open(backend: B, options: &Options) -> Result<Self> {
        let root = options
            .root
            .join(format!("io.containerd.snapshotter.v1.{}", B::NAME))
            .join("snapshots");
        let text = root.to_str().unwrap_or(",");
        if !root.is_absolute() || text.contains([',', ':', '\\']) {
            return Err(Error::invalid_argument(format!(
                "snapshots can't be kept in {root:?}: use an absolute path in UTF-8 \
                 without comma, colon and backslash, which mount options can't hold"
            )));
        }
        make_root(&root)?;
        let _ = spread(&root);
        let inner = Inner {
            backend,
            store: Store { snapshotter: B::NAME },
            db: Arc::clone(&options.db),
            events: Arc::clone(&options.events),
            numbers: Numbers::new(B::NAME),
            shelf: keep_ready::<B>(&root),
            trash: Trash::new(&root, "snapshot")?,
            flush: Flush::new(&root)?,
            restoring: Mutex::default(),
            root,
        };
        inner.recover()?;
        Ok(Self(Arc::new(inner)))
    }

    async fn blocking<R: Send + 'static>(
        &self,
        body: impl FnOnce(&Inner<B>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.0);
        blocking(move || body(&inner)).await
    }

    async fn make(
        &self,
        ctx: &Context,
        kind: Kind,
        (key, parent): (&str, Option<&str>),
        labels: Labels,
        durability: Durability,
    ) -> Result<Vec<Mount>> {
        store::validate_name(key)?;
        labels::validate_all(&labels)?;
        IdMap::of(&labels)?;
        let (ctx, key, parent) = (ctx.clone(), key.to_owned(), parent.map(str::to_owned));
        self.blocking(move |inner| {
            inner.make(&ctx, kind, (&key, parent.as_deref()), labels, durability)
        })
        .await
    }
}

#[async_trait]
impl<B: Backend> Snapshotter for Directories<B> {
    async fn stat(&self, ctx: &Context, key: &str) -> Result<Info> {
        let (ctx, key) = (ctx.clone(), key.to_owned());
        self.blocking(move |inner| Ok(inner.whole(&ctx, &key)?.info)).await
    }

    async fn update(
        &self,
        ctx: &Context,
        key: &str,
        labels: Labels,
        mask: LabelMask,
    ) -> Result<Info> {
        store::validate_name(key)?;
        labels::validate_all(&labels)?;
        let (ctx, key) = (ctx.clone(), key.to_owned());
        self.blocking(move |inner| {
            write_blocking(&*inner.db, Durability::Sync, &mut |tx| {
                inner.store.update(tx, &ctx, &key, &labels, &mask)
            })
        })
        .await
    }

    async fn usage(&self, ctx: &Context, key: &str) -> Result<Usage> {
        let (ctx, key) = (ctx.clone(), key.to_owned());
        self.blocking(move |inner| {
            let record = inner.get(&ctx, &key)?;
            match record.info.kind {
                Kind::Active => tree_size(&inner.content(record.number)),
                Kind::View | Kind::Committed => Ok(record.usage),
            }
        })
        .await
    }

    async fn mounts(&self, ctx: &Context, key: &str) -> Result<Vec<Mount>> {
        let (ctx, key) = (ctx.clone(), key.to_owned());
        self.blocking(move |inner| {
            let record = inner.get(&ctx, &key)?;
            if record.info.kind == Kind::Committed {
                return Err(store::no_mounts(&key));
            }
            Ok(inner.mounts(&record))
        })
        .await
    }

    async fn prepare(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.make(ctx, Kind::Active, (key, parent), labels, Durability::Sync).await
    }

    async fn prepare_with(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        durability: Durability,
    ) -> Result<Vec<Mount>> {
        self.make(ctx, Kind::Active, (key, parent), labels, durability).await
    }

    async fn view(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.make(ctx, Kind::View, (key, parent), labels, Durability::Sync).await
    }

    async fn commit(
        &self,
        ctx: &Context,
        name: &str,
        key: &str,
        labels: Labels,
        parent: Option<&str>,
    ) -> Result<()> {
        store::validate_name(name)?;
        labels::validate_all(&labels)?;
        let (ctx, name, key) = (ctx.clone(), name.to_owned(), key.to_owned());
        let parent = parent.map(str::to_owned);
        self.blocking(move |inner| inner.commit(&ctx, &name, &key, &labels, parent)).await
    }

    async fn remove(&self, ctx: &Context, key: &str) -> Result<()> {
        self.remove_with(ctx, key, Durability::Sync).await
    }

    async fn remove_with(&self, ctx: &Context, key: &str, durability: Durability) -> Result<()> {
        let (ctx, key) = (ctx.clone(), key.to_owned());
        self.blocking(move |inner| inner.remove(&ctx, &key, durability)).await
    }

    fn forget(&self, tx: &mut dyn Transaction, ctx: &Context, key: &str) -> Result<u64> {
        self.0.store.remove(tx, ctx, key).map(|record| record.number)
    }

    async fn release(&self, ctx: &Context, forgotten: Vec<(String, u64)>) {
        let ctx = ctx.clone();
        let done = self.blocking(move |inner| {
            for (key, number) in forgotten {
                inner.removed(&ctx, &key, number);
            }
            Ok(())
        });
        if let Err(err) = done.await {
            tracing::warn!(error = %err, "let collected snapshots go");
        }
    }

    fn supports_late_parent(&self) -> bool {
        B::LATE_PARENT
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Info>> {
        let ctx = ctx.clone();
        let all = self.blocking(move |inner| inner.store.list(&*inner.db, ctx.namespace.as_str()));
        let infos = all.await?.into_iter().map(|record| record.info);
        Ok(infos.filter(|info| filters.matches(info)).collect())
    }

    async fn list_usage(&self, ctx: &Context) -> Result<Vec<SnapshotUsage>> {
        let ctx = ctx.clone();
        let all = self.blocking(move |inner| inner.store.list(&*inner.db, ctx.namespace.as_str()));
        let with_usage = |record: Record| {
            let committed = record.info.kind == Kind::Committed;
            SnapshotUsage { usage: committed.then_some(record.usage), info: record.info }
        };
        Ok(all.await?.into_iter().map(with_usage).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        self.0.trash.empty().await
    }
}

impl<B: Backend> Inner<B> {
    fn get(&self, ctx: &Context, key: &str) -> Result<Record> {
        self.store.get(&*self.db, &ctx.namespace, key)
    }

    fn dir(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string())
    }

    fn content(&self, number: u64) -> PathBuf {
        self.dir(number).join(CONTENT)
    }

    fn with_place<R>(
        &self,
        (kind, number, below): (Kind, u64, &[u64]),
        ids: Option<&IdMap>,
        body: impl FnOnce(&Place<'_>) -> R,
    ) -> R {
        let below: Vec<PathBuf> = below.iter().map(|n| self.content(*n)).collect();
        body(&Place { kind, dir: &self.dir(number), below: &below, ids })
    }

    fn mounts(&self, record: &Record) -> Vec<Mount> {
        let place = (record.info.kind, record.number, record.below.as_slice());
        // They were right when it was prepared; who has spoilt them since gets none.
        let ids = IdMap::of(&record.info.labels).ok().flatten();
        self.with_place(place, ids.as_ref(), |place| self.backend.mounts(place))
    }

    /// Makes a directory and then its record: whoever sees the record finds
    /// the directory.
    fn make(
        &self,
        ctx: &Context,
        kind: Kind,
        (key, parent): (&str, Option<&str>),
        labels: Labels,
        durability: Durability,
    ) -> Result<Vec<Mount>> {
        self.check_free(ctx, key, labels.get(SNAPSHOT_REF))?;
        let parent = parent.map(|name| self.whole(ctx, name)).transpose()?;
        let parent = parent.as_ref().map(store::committed).transpose()?;
        let record = Record::new(kind, key, self.numbers.next(&*self.db)?, parent, labels);
        check_height(key, record.below.len())?;
        let stored = self.make_directory(&record).and_then(|()| {
            write_blocking(&*self.db, durability, &mut |tx| self.store.insert(tx, ctx, &record))
        });
        if let Err(err) = stored {
            self.throw(record.number);
            return Err(err);
        }
        if kind == Kind::Active {
            let parent = record.info.parent.clone().unwrap_or_default();
            let event = SnapshotPrepare { key: key.into(), parent, snapshotter: B::NAME.into() };
            self.publish(ctx, "/snapshot/prepare", any::pack(&event));
        }
        Ok(self.mounts(&record))
    }

    /// Refuses a key that is taken, and the making of a `target` that is there. Either is
    /// held by the request's lease from then on: who asked for it wants to use it.
    fn check_free(&self, ctx: &Context, key: &str, target: Option<&String>) -> Result<()> {
        let refuse = |name: &str, err: Error| {
            let found = write_blocking(&*self.db, Durability::Sync, &mut |tx| {
                self.store.refuse(tx, ctx, name)
            })?;
            found.map_or(Ok(()), |_| Err(err))
        };
        if let Some(target) = target
            && self.whole(ctx, target).is_ok_and(|found| found.info.kind == Kind::Committed)
        {
            refuse(target, store::target_exists(target))?;
        }
        match self.get(ctx, key) {
            Ok(_) => refuse(key, store::taken(key)),
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(err),
        }
    }

    fn make_directory(&self, record: &Record) -> Result<()> {
        let dir = self.dir(record.number);
        if record.info.kind != Kind::Active || !self.shelf.take(&dir) {
            furnished_dir::<B>(&dir, record.info.kind)?;
        }
        let place = (record.info.kind, record.number, record.below.as_slice());
        let ids = IdMap::of(&record.info.labels)?;
        self.with_place(place, ids.as_ref(), |place| self.backend.create(place))
    }

    fn commit(
        &self,
        ctx: &Context,
        name: &str,
        key: &str,
        labels: &Labels,
        parent: Option<String>,
    ) -> Result<()> {
        let lost = match self.get(ctx, name) {
            Ok(record) if self.is_lost(record.number) => Some(record),
            Ok(_) => return Err(store::taken(name)),
            Err(err) if err.is_not_found() => None,
            Err(err) => return Err(err),
        };
        let active = self.get(ctx, key)?;
        store::require_active(&active)?;
        let parent = match (parent, &active.info.parent) {
            (None, own) => own.clone(),
            (Some(given), Some(own)) if given == *own => Some(given),
            (Some(given), None) if B::LATE_PARENT => {
                self.adopt(ctx, &active, &given)?;
                Some(given)
            }
            (Some(given), own) => return Err(store::wrong_parent(key, &given, own.as_deref())),
        };
        // The record promises the content: that goes to the disk first.
        self.flush.run()?;
        if let Some(lost) = lost {
            return self.restore(ctx, &active, &lost, parent.as_deref());
        }
        let usage = tree_size(&self.content(active.number))?;
        let parent = parent.as_deref();
        let commit = Commit { key, name, parent, labels, usage, backing: None };
        write_blocking(&*self.db, Durability::Sync, &mut |tx| self.store.commit(tx, ctx, &commit))?;
        let (key, name) = (key.to_owned(), name.to_owned());
        let event = SnapshotCommit { key, name, snapshotter: B::NAME.into() };
        self.publish(ctx, "/snapshot/commit", any::pack(&event));
        Ok(())
    }

    fn adopt(&self, ctx: &Context, active: &Record, parent: &str) -> Result<()> {
        let parent = self.get(ctx, parent)?;
        let below = store::below(Some(store::committed(&parent)?));
        check_height(&active.info.name, below.len())?;
        let place = (Kind::Active, active.number, below.as_slice());
        self.with_place(place, None, |place| self.backend.adopt(place))
    }

    fn remove(&self, ctx: &Context, key: &str, durability: Durability) -> Result<()> {
        let record =
            write_blocking(&*self.db, durability, &mut |tx| self.store.remove(tx, ctx, key))?;
        self.removed(ctx, key, record.number);
        Ok(())
    }

    /// Lets the files of a removed snapshot go, and tells of it.
    fn removed(&self, ctx: &Context, key: &str, number: u64) {
        self.throw(number);
        self.shelf.refill();
        let event = SnapshotRemove { key: key.into(), snapshotter: B::NAME.into() };
        self.publish(ctx, "/snapshot/remove", any::pack(&event));
    }

    /// Lets a directory go that has no record. A failure is not the
    /// caller's: the next start sweeps.
    fn throw(&self, number: u64) {
        if let Err(err) = self.trash.throw(&number.to_string()) {
            tracing::warn!(error = %err, "a directory without a snapshot stays for now");
        }
    }

    fn publish(&self, ctx: &Context, topic: &str, event: prost_types::Any) {
        if let Err(err) = self.events.publish(ctx, topic, convert::from_any(event)) {
            tracing::warn!(error = %err, topic, "an event was not published");
        }
    }
}

fn check_height(key: &str, below: usize) -> Result<()> {
    if below <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "snapshot {key} would lie on {below} others, and the kernel stacks {MAX_LAYERS}: \
         build the image with fewer layers: failed precondition"
    )))
}

/// Makes the directory of all snapshots, which nobody else looks into.
fn make_root(root: &Path) -> Result<()> {
    let above = root.parent().unwrap_or(root);
    let made = match above.parent() {
        Some(top) => faults::around("make the directory above", || fs::create_dir_all(top)),
        None => Ok(()),
    };
    made.and_then(|()| private_dir(above))
        .and_then(|()| private_dir(root))
        .map_err(|err| Error::io(format!("make snapshot directory {root:?}"), err))
}

/// Tells ext4 that snapshots have nothing to do with each other, so that each gets a group
/// of inodes of its own. In one group, each new file looks at all that were removed there in
/// the last minute, and containers that come and go remove many. Other file systems refuse.
fn spread(root: &Path) -> std::io::Result<()> {
    let directory = fs::File::open(root)?;
    let flags = ioctl_getflags(&directory)?;
    Ok(ioctl_setflags(&directory, flags | IFlags::TOPDIR)?)
}

/// Keeps directories ready for active snapshots, beside the directory of all. Where that can't
/// be, each is made when it is needed.
fn keep_ready<B: Backend>(root: &Path) -> Shelf {
    let dir = root.with_file_name(READY);
    // Who can't list it says so.
    let _ = private_dir(&dir).and_then(|()| spread(&dir));
    Shelf::new(&dir, "snapshot", |dir| furnished_dir::<B>(dir, Kind::Active))
}

/// A directory with what every snapshot of this kind has.
fn furnished_dir<B: Backend>(dir: &Path, kind: Kind) -> Result<()> {
    private_dir(dir).map_err(|err| Error::io(format!("make directory {dir:?}"), err))?;
    B::furnish(dir, kind)
}

/// A directory of mode 0700; one that is there is fine.
fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let make = || fs::DirBuilder::new().mode(0o700).create(dir);
    match faults::around("make a snapshot's directory", make) {
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, Instant};

    use gantry_core::Namespace;
    use gantry_core::db::memory::MemoryDatabase;

    use super::*;
    use crate::native::Native;
    use crate::testsuite::Recorder;

    /// `EXT4_SUPER_MAGIC`.
    const EXT4: i64 = 0xef53;

    #[tokio::test]
    async fn what_lies_ready_becomes_a_snapshots_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (db, events) = (MemoryDatabase::new().shared(), Arc::new(Recorder::default()));
        let options = Options { root: dir.path().to_owned(), db, events };
        let all = Directories::open(Native, &options).unwrap();
        let ctx = Context::new(Namespace::new("testing").unwrap());
        let ready = all.0.root.with_file_name(READY);
        let begin = Instant::now();
        // At first none may lie there yet.
        for key in 0.. {
            let entries = fs::read_dir(&ready).unwrap();
            let there: Vec<u64> = entries.map(|e| e.unwrap().metadata().unwrap().ino()).collect();
            let key = key.to_string();
            all.prepare(&ctx, &key, None, Labels::new()).await.unwrap();
            let number = all.0.get(&ctx, &key).unwrap().number;
            assert!(all.0.content(number).is_dir());
            if there.contains(&fs::metadata(all.0.dir(number)).unwrap().ino()) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "all were made anew");
        }
    }

    #[test]
    fn snapshots_are_spread_over_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let spread = spread(dir.path());
        if rustix::fs::statfs(dir.path()).unwrap().f_type as i64 == EXT4 {
            spread.unwrap();
            let directory = fs::File::open(dir.path()).unwrap();
            assert!(ioctl_getflags(&directory).unwrap().contains(IFlags::TOPDIR));
        }
    }
}
