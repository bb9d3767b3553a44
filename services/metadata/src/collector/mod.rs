//! The collector: marks beside everybody else's work, then removes records while
//! nobody writes, then lets the files go.
//!
//! Marking reads the tables row by row, while others write. What is written meanwhile
//! is remembered by the store ([`GuardedDatabase`]) and counts as kept, with all that
//! it refers to. So a record goes only if nothing referred to it from the beginning
//! of the collection to its end.

mod gate;
mod graph;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gantry_core::collector::Collector;
use gantry_core::content::{BLOBS, ContentStore};
use gantry_core::db::{self, Database, Durability, GLOBAL, Table, Transaction};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::images::IMAGES;
use gantry_core::mounts::{self, MountManager};
use gantry_core::snapshots::Snapshotters;
use gantry_core::{Context, Digest, Error, Kind, Namespace, Result, Timestamp, snapshots};
use gantry_grpc::containerd::services::images::v1 as messages;
use tokio::sync::{Mutex, watch};

pub use gate::GuardedDatabase;
pub(crate) use graph::Graph;
use graph::Node;

use crate::{leases, publish};

/// When something was last collected. Written durably after records were removed and
/// before their files are.
const COLLECTIONS: Table<Timestamp> = Table::new("collections");

/// An ingest that no lease holds stays for so long after its last byte.
const INGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Between something having become garbage and the collection.
const DELAY: Duration = Duration::from_millis(100);
/// At least so long between two collections that nobody waits for, and at least
/// [`PACE`] times as long as the last one took, but no longer than [`LONGEST_PAUSE`]: one
/// that waited for a disk must not let garbage lie for an hour.
const INTERVAL: Duration = Duration::from_secs(1);
const PACE: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Ingests get old without a sign.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// When a namespace in which collecting failed is tried again, if nothing happens before.
const AGAIN: Duration = Duration::from_secs(60);
/// So long a collection waits for mounts to go: one may hang as long as a server is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// Collects garbage of all namespaces.
pub struct GarbageCollector(Arc<Inner>);

struct Inner {
    records: Records,
    content: Arc<dyn ContentStore>,
    events: Arc<dyn Events>,
    /// One collection at a time; what an earlier one could not let go.
    turn: Mutex<Vec<(Context, Removed)>>,
}

/// The part that blocks.
#[derive(Clone)]
struct Records {
    db: Arc<GuardedDatabase>,
    snapshotters: Snapshotters,
    mounts: Option<Arc<dyn MountManager>>,
}

/// Records that were removed in one namespace.
#[derive(Default)]
struct Removed {
    blobs: Vec<Digest>,
    images: Vec<String>,
    /// Snapshotter, key and what is left of each snapshot.
    snapshots: Vec<(String, String, u64)>,
    /// Name and what is left of each activation of mounts.
    mounts: Vec<(String, u64)>,
    ingests: Vec<String>,
    leases: usize,
}

impl Records {
    /// Marks a namespace, and removes the records of what nothing keeps.
    fn sweep(&self, ctx: &Context, ingests: &[(String, bool)]) -> Result<(Removed, Graph)> {
        let (now, namespace) = (Timestamp::now(), ctx.namespace.as_str());
        self.db.watch();
        let read = Graph::read(&*self.db, namespace, now);
        let marked = read.map(|mut graph| {
            for (reference, recent) in ingests {
                graph.add_ingest(reference, *recent);
            }
            graph.mark();
            graph
        });
        self.db.settle(|store, written| {
            let mut graph = marked?;
            let rows = written.iter().filter(|(_, of, _)| of == namespace);
            graph.catch_up(store, namespace, rows, now)?;
            graph.mark();
            let garbage = graph.garbage();
            if garbage.is_empty() {
                return Ok((Removed::default(), graph));
            }
            let removed = db::write_blocking(store, Durability::Buffered, &mut |tx| {
                self.remove(tx, ctx, &garbage)
            })?;
            Ok((removed, graph))
        })
    }

    /// What a client removed since it was read is left out: that is not the collector's to
    /// let go and to tell of.
    fn remove(&self, tx: &mut dyn Transaction, ctx: &Context, garbage: &[Node]) -> Result<Removed> {
        let namespace = ctx.namespace.as_str();
        let mut removed = Removed::default();
        for node in garbage {
            match node {
                Node::Blob(digest) => {
                    if BLOBS.lock(tx, namespace, digest)?.is_none() {
                        continue;
                    }
                    BLOBS.delete(tx, namespace, digest)?;
                    removed.blobs.push(Digest::parse(digest)?);
                }
                Node::Image(name) => {
                    if IMAGES.lock(tx, namespace, name)?.is_none() {
                        continue;
                    }
                    IMAGES.delete(tx, namespace, name)?;
                    removed.images.push(name.clone());
                }
                Node::Lease(id) => {
                    leases::remove(tx, namespace, id)?;
                    removed.leases += 1;
                }
                Node::Ingest(reference) => removed.ingests.push(reference.clone()),
                Node::Snapshot(row) => {
                    let (snapshotter, key) = row.split_once('\x01').unwrap_or((row, ""));
                    // One that is no longer configured keeps what it has.
                    let Some(found) = self.snapshotters.by_name.get(snapshotter) else { continue };
                    let Some(left) = unless_gone(found.forget(tx, ctx, key))? else { continue };
                    removed.snapshots.push((snapshotter.to_owned(), key.to_owned(), left));
                }
                Node::Mount(name) => {
                    let Some(manager) = &self.mounts else { continue };
                    let Some(left) = unless_gone(manager.forget(tx, ctx, name))? else { continue };
                    removed.mounts.push((name.clone(), left));
                }
                // They are roots.
                Node::Container(_) | Node::Sandbox(_) => {}
            }
        }
        Ok(removed)
    }
}

fn unless_gone<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Err(err) if err.is_not_found() => Ok(None),
        done => done.map(Some),
    }
}

impl Removed {
    fn is_empty(&self) -> bool {
        let Self { blobs, images, snapshots, mounts, ingests, leases } = self;
        blobs.is_empty()
            && images.is_empty()
            && snapshots.is_empty()
            && mounts.is_empty()
            && ingests.is_empty()
            && *leases == 0
    }

    fn tell(&self, ctx: &Context, events: &dyn Events) {
        tracing::info!(
            namespace = ctx.namespace.as_str(),
            blobs = self.blobs.len(),
            images = self.images.len(),
            snapshots = self.snapshots.len(),
            mounts = self.mounts.len(),
            ingests = self.ingests.len(),
            leases = self.leases,
            "collected garbage"
        );
        for name in &self.images {
            let deleted = messages::ImageDelete { name: name.clone() };
            publish(events, ctx, "/images/delete", &deleted);
        }
    }
}

impl GarbageCollector {
    /// Collects from this store. Everybody who writes to it does so through `db`.
    /// `mounts`: what is mounted for clients goes as well.
    pub fn new(
        db: Arc<GuardedDatabase>,
        content: Arc<dyn ContentStore>,
        snapshotters: Snapshotters,
        events: Arc<dyn Events>,
        mounts: Option<Arc<dyn MountManager>>,
    ) -> Self {
        let records = Records { db, snapshotters, mounts };
        Self(Arc::new(Inner { records, content, events, turn: Mutex::default() }))
    }

    /// Collects from time to time, until `stop` says so.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let db = &self.0.records.db;
        // What an earlier daemon left.
        db.garbage.notify_one();
        let mut pause = DELAY;
        loop {
            let due = async {
                tokio::time::sleep(pause).await;
                loop {
                    tokio::select! {
                        () = db.garbage.notified() => break tokio::time::sleep(DELAY).await,
                        () = tokio::time::sleep(until(db.expiry())) => break,
                        () = db.sooner.notified() => {}
                    }
                }
            };
            tokio::select! {
                () = due => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let looked = self.to_the_end().await.unwrap_or_else(|err| {
                tracing::warn!(error = %err, "collect garbage");
                Duration::ZERO
            });
            pause = pause_after(looked);
        }
    }

    /// One collection, which nobody's leaving ends half-way. How long was looked for
    /// garbage.
    async fn to_the_end(&self) -> Result<Duration> {
        let inner = Arc::clone(&self.0);
        match tokio::spawn(async move { inner.collect().await }).await {
            Ok(done) => done,
            Err(err) => Err(Error::internal("a collection failed").with_source(err)),
        }
    }
}

#[async_trait]
impl Collector for GarbageCollector {
    async fn collect(&self) -> Result<()> {
        self.to_the_end().await.map(|_| ())
    }
}

/// How long nothing is collected after a collection that looked so long.
fn pause_after(looked: Duration) -> Duration {
    looked.saturating_mul(PACE).clamp(INTERVAL, LONGEST_PAUSE)
}

/// How long it is until then, a moment more: not before it, as the clocks have it.
fn until(expiry: Option<Timestamp>) -> Duration {
    let Some(expiry) = expiry else { return LONGEST };
    let left = expiry.unix_nanos() - Timestamp::now().unix_nanos();
    let left = Duration::from_nanos(u64::try_from(left).unwrap_or(0));
    (left + Duration::from_millis(10)).min(LONGEST)
}

impl Inner {
    async fn collect(self: &Arc<Self>) -> Result<Duration> {
        let mut left = self.turn.lock().await;
        for (ctx, removed) in std::mem::take(&mut *left) {
            self.release(&mut left, &ctx, removed).await;
        }
        self.retry_mounts();
        // Whatever comes to be meanwhile makes it sooner.
        self.records.db.forget_expiry();
        let namespaces = self.namespaces().await.inspect_err(|_| self.try_again())?;
        let mut looked = Duration::ZERO;
        for namespace in namespaces {
            let ctx = Context::new(Namespace::new(namespace)?);
            match self.collect_in(&mut left, &ctx).await {
                Ok(taken) => looked += taken,
                // The others, and who waits for them, are not to suffer from it.
                Err(err) => {
                    let err = err.context(format!("namespace {}", ctx.namespace.as_str()));
                    tracing::warn!(error = %err, "collect garbage");
                    self.try_again();
                }
            }
        }
        Ok(looked)
    }

    /// Comes back to what expires in a namespace that could not be read.
    fn try_again(&self) {
        let now = Timestamp::now();
        let again = AGAIN.as_secs().cast_signed();
        self.records.db.expires(Timestamp { seconds: now.seconds + again, ..now });
    }

    /// Has mounts that were in use when they were collected tried again. Nobody waits for it:
    /// nothing else depends on them any more.
    fn retry_mounts(&self) {
        let Some(manager) = self.records.mounts.clone() else { return };
        let Ok(namespace) = Namespace::new("default") else { return };
        let ctx = Context::new(namespace);
        tokio::spawn(async move { manager.release(&ctx, Vec::new()).await });
    }

    /// Collects in one namespace. How long was looked for garbage.
    async fn collect_in(
        self: &Arc<Self>,
        left: &mut Vec<(Context, Removed)>,
        ctx: &Context,
    ) -> Result<Duration> {
        let ingests = self.ingests(ctx).await?;
        let begin = Instant::now();
        let (records, within) = (self.records.clone(), ctx.clone());
        let (removed, graph) = db::blocking(move || records.sweep(&within, &ingests)).await?;
        let looked = begin.elapsed();
        tracing::debug!(
            namespace = ctx.namespace.as_str(),
            objects = graph.len(),
            micros = looked.as_micros(),
            "looked for garbage"
        );
        if let Some(expiry) = graph.next_expiry() {
            self.records.db.expires(expiry);
        }
        if !removed.is_empty() {
            self.release(left, ctx, removed).await;
        }
        Ok(looked)
    }

    /// All namespaces in which there may be something.
    async fn namespaces(&self) -> Result<BTreeSet<String>> {
        let tables = [
            BLOBS.name(),
            IMAGES.name(),
            snapshots::TABLE,
            mounts::TABLE,
            gantry_core::leases::LEASES.name(),
        ];
        let mut all = BTreeSet::new();
        for table in tables {
            all.extend(self.records.db.namespaces(table)?);
        }
        let ingests = self.content.ingest_namespaces().await?;
        all.extend(ingests.iter().map(|namespace| namespace.as_str().to_owned()));
        Ok(all)
    }

    /// Lets the files of removed records go; the next collection tries again what fails.
    async fn release(
        self: &Arc<Self>,
        left: &mut Vec<(Context, Removed)>,
        ctx: &Context,
        removed: Removed,
    ) {
        if let Err(err) = self.settle().await {
            tracing::warn!(error = %err, "the files of collected garbage stay for now");
            left.push((ctx.clone(), removed));
            return;
        }
        removed.tell(ctx, &*self.events);
        self.abort(ctx, &removed.ingests).await;
        let (inner, within) = (Arc::clone(self), ctx.clone());
        let mounted = !removed.mounts.is_empty();
        let mut files = tokio::spawn(async move { inner.remove_files(&within, removed).await });
        let done = if mounted {
            let Ok(done) = tokio::time::timeout(PATIENCE, &mut files).await else {
                // It goes on by itself, and what was mounted keeps its files until then.
                tracing::warn!("collected mounts take long to go: their files stay until then");
                return;
            };
            done
        } else {
            files.await
        };
        let lost = |err| Err(Error::internal("removing files failed").with_source(err));
        if let Err(err) = done.unwrap_or_else(lost) {
            // The next start of the daemon finds them.
            tracing::warn!(error = %err, "remove the files of collected garbage");
        }
    }

    /// Makes the removal of records durable: one that came back after a power loss must
    /// find its files.
    async fn settle(&self) -> Result<()> {
        let database: Arc<dyn Database> = Arc::clone(&self.records.db) as _;
        db::write(&database, Durability::Sync, |tx| {
            COLLECTIONS.put(tx, GLOBAL, "last", &Timestamp::now())
        })
        .await
    }

    async fn abort(&self, ctx: &Context, ingests: &[String]) {
        for reference in ingests {
            match self.content.abort(ctx, reference).await {
                // Its writer came back, or ended it.
                Err(err) if matches!(err.kind(), Kind::Unavailable | Kind::NotFound) => {}
                Err(err) => tracing::warn!(reference, error = %err, "throw an ingest away"),
                Ok(()) => {}
            }
        }
    }

    async fn remove_files(&self, ctx: &Context, removed: Removed) -> Result<()> {
        let Removed { blobs, snapshots, mounts, .. } = removed;
        // Before the files that they show.
        if let Some(manager) = self.records.mounts.as_ref().filter(|_| !mounts.is_empty()) {
            manager.release(ctx, mounts).await;
        }
        let mut left: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        for (snapshotter, key, number) in snapshots {
            left.entry(snapshotter).or_default().push((key, number));
        }
        for (snapshotter, left) in left {
            if let Some(snapshotter) = self.records.snapshotters.by_name.get(&snapshotter) {
                snapshotter.release(ctx, left).await;
            }
        }
        self.content.release(ctx, blobs).await
    }

    /// Ingests of a namespace, and whether they stay by themselves: for a while after their
    /// last byte somebody may go on with them. Those of a lease go with it.
    async fn ingests(&self, ctx: &Context) -> Result<Vec<(String, bool)>> {
        let now = Timestamp::now().unix_nanos();
        let all = self.content.statuses(ctx, &Filters::default()).await?;
        let recent = |at: Timestamp| now - at.unix_nanos() < INGEST_LIFE.as_nanos() as i128;
        Ok(all.into_iter().map(|i| (i.reference, !i.leased && recent(i.updated_at))).collect())
    }
}
