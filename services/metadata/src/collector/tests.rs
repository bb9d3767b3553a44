//! Collections beside others, with stores that only note what they are told.

use gantry_core::content::{BlobStream, Info, IngestStatus, Writer};
use gantry_core::db::memory::MemoryDatabase;
use gantry_core::mounts::{Activate, Activation};
use gantry_core::{LabelMask, Labels, Mount};
use gantry_events::Exchange;

use super::*;

fn unused<T>() -> Result<T> {
    Err(Error::unimplemented("the collector has no use for it"))
}

/// Notes whose bytes may go.
struct Blobs(watch::Sender<Vec<Digest>>);

#[async_trait]
impl ContentStore for Blobs {
    async fn info(&self, _: &Context, _: &Digest) -> Result<Info> {
        unused()
    }

    async fn list(&self, _: &Context, _: &Filters) -> Result<Vec<Info>> {
        unused()
    }

    async fn update(&self, _: &Context, _: &Digest, _: Labels, _: LabelMask) -> Result<Info> {
        unused()
    }

    async fn delete(&self, _: &Context, _: &Digest) -> Result<()> {
        unused()
    }

    async fn release(&self, _: &Context, digests: Vec<Digest>) -> Result<()> {
        self.0.send_modify(|all| all.extend(digests));
        Ok(())
    }

    async fn read(&self, _: &Context, _: &Digest, _: u64, _: Option<u64>) -> Result<BlobStream> {
        unused()
    }

    async fn writer(
        &self,
        _: &Context,
        _: &str,
        _: u64,
        _: Option<&Digest>,
    ) -> Result<Box<dyn Writer>> {
        unused()
    }

    async fn status(&self, _: &Context, _: &str) -> Result<IngestStatus> {
        unused()
    }

    async fn statuses(&self, _: &Context, _: &Filters) -> Result<Vec<IngestStatus>> {
        Ok(Vec::new())
    }

    async fn ingest_namespaces(&self) -> Result<BTreeSet<Namespace>> {
        Ok(BTreeSet::new())
    }

    async fn abort(&self, _: &Context, _: &str) -> Result<()> {
        unused()
    }

    async fn cancel(&self, _: &Context, _: &str) -> Result<()> {
        unused()
    }
}

/// Knows the mounts that have rows, but for `gone`. They go once that is allowed.
struct Mounts {
    allowed: watch::Sender<bool>,
    /// How often it was asked to try again what is left.
    again: watch::Sender<usize>,
}

#[async_trait]
impl MountManager for Mounts {
    fn needs_host(&self, _: &[Mount]) -> bool {
        false
    }

    async fn activate(&self, _: &Context, _: &str, _: Activate) -> Result<Activation> {
        unused()
    }

    async fn deactivate(&self, _: &Context, _: &str) -> Result<()> {
        unused()
    }

    async fn info(&self, _: &Context, _: &str) -> Result<Activation> {
        unused()
    }

    async fn update(&self, _: &Context, _: &str, _: Labels, _: LabelMask) -> Result<Activation> {
        unused()
    }

    async fn list(&self, _: &Context, _: &Filters) -> Result<Vec<Activation>> {
        unused()
    }

    fn forget(&self, tx: &mut dyn Transaction, ctx: &Context, name: &str) -> Result<u64> {
        if name == "gone" {
            return Err(Error::not_found("mount \"gone\": not found"));
        }
        tx.delete(mounts::TABLE, ctx.namespace.as_str(), name).map(|()| 1)
    }

    async fn release(&self, _: &Context, forgotten: Vec<(String, u64)>) {
        if forgotten.is_empty() {
            self.again.send_modify(|times| *times += 1);
        } else {
            self.allowed.subscribe().wait_for(|allowed| *allowed).await.unwrap();
        }
    }
}

struct Fixture {
    db: Arc<GuardedDatabase>,
    blobs: Arc<Blobs>,
    mounts: Arc<Mounts>,
    collector: GarbageCollector,
}

impl Fixture {
    fn new() -> Self {
        let db = Arc::new(GuardedDatabase::new(MemoryDatabase::new().shared()));
        let blobs = Arc::new(Blobs(watch::Sender::default()));
        let mounts =
            Arc::new(Mounts { allowed: watch::Sender::default(), again: watch::Sender::default() });
        let none = Snapshotters { by_name: BTreeMap::new(), default: String::new() };
        let events = Arc::new(Exchange::new());
        let collector = GarbageCollector::new(
            Arc::clone(&db),
            Arc::clone(&blobs) as _,
            none,
            events,
            Some(Arc::clone(&mounts) as _),
        );
        Self { db, blobs, mounts, collector }
    }

    fn put(&self, table: &str, key: &str, row: &str) {
        let row = row.as_bytes();
        self.db
            .transact(Durability::Buffered, &mut |tx| tx.put(table, "default", key, row))
            .unwrap();
    }

    fn rows(&self, table: &str) -> usize {
        let mut rows = 0;
        let mut count = |_: &str, _: &[u8]| {
            rows += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        };
        self.db.scan(table, "default", "", &mut count).unwrap();
        rows
    }

    /// Something that nothing refers to.
    fn blob(&self) -> Digest {
        let digest = Digest::of(b"x");
        self.put(BLOBS.name(), digest.as_str(), &blob(&digest));
        digest
    }

    /// A mount that its client left long ago.
    fn mount(&self, name: &str) {
        let row = format!(r#"{{"labels":{{}},"created_at":{},"lease":null}}"#, long_ago());
        self.put(mounts::TABLE, name, &row);
    }
}

fn long_ago() -> String {
    serde_json::to_string(&Timestamp { seconds: 1, nanos: 0 }).unwrap()
}

fn blob(digest: &Digest) -> String {
    let at = long_ago();
    format!(r#"{{"digest":"{digest}","size":1,"created_at":{at},"updated_at":{at},"labels":{{}}}}"#)
}

#[tokio::test]
async fn what_a_client_removes_meanwhile_holds_nothing_up() {
    let f = Fixture::new();
    f.mounts.allowed.send_replace(true);
    f.blob();
    f.mount("gone");
    f.mount("there");
    f.collector.collect().await.unwrap();
    assert_eq!(f.rows(BLOBS.name()), 0);
    assert_eq!(f.rows(mounts::TABLE), 1, "only what this manager does not know");
}

#[test]
fn what_a_client_removed_is_not_told_again() {
    let f = Fixture::new();
    let there = f.blob();
    let gone = Digest::of(b"gone");
    let all = [
        Node::Blob(gone.as_str().into()),
        Node::Blob(there.as_str().into()),
        Node::Image("gone".into()),
        Node::Mount("gone".into()),
    ];
    let ctx = Context::new(Namespace::new("default").unwrap());
    let removed = db::write_blocking(&*f.db, Durability::Buffered, &mut |tx| {
        f.collector.0.records.remove(tx, &ctx, &all)
    });
    let removed = removed.unwrap();
    assert_eq!(removed.blobs, [there]);
    assert!(removed.images.is_empty() && removed.mounts.is_empty());
}

/// The clock goes on by itself while everybody waits.
#[tokio::test(start_paused = true)]
async fn a_mount_that_hangs_holds_only_its_files_up() {
    let f = Fixture::new();
    let digest = f.blob();
    f.mount("hangs");
    let long = Duration::from_secs(60);
    tokio::time::timeout(long, f.collector.collect()).await.expect("it ends").unwrap();
    assert_eq!((f.rows(BLOBS.name()), f.rows(mounts::TABLE)), (0, 0));
    assert!(f.blobs.0.borrow().is_empty(), "the mount may show them");
    tokio::time::timeout(long, f.collector.collect()).await.expect("so does the next").unwrap();

    f.mounts.allowed.send_replace(true);
    let mut released = f.blobs.0.subscribe();
    released.wait_for(|all| *all == [digest.clone()]).await.unwrap();
}

#[tokio::test]
async fn each_collection_has_what_was_in_use_tried_again() {
    let f = Fixture::new();
    f.collector.collect().await.unwrap();
    f.collector.collect().await.unwrap();
    f.mounts.again.subscribe().wait_for(|times| *times == 2).await.unwrap();
}

#[tokio::test]
async fn a_namespace_that_cannot_be_read_is_looked_at_again() {
    let f = Fixture::new();
    f.put(IMAGES.name(), "damaged", "null");
    let before = Timestamp::now();
    f.collector.collect().await.unwrap();
    let again = f.db.expiry().expect("some time");
    assert!((1..=AGAIN.as_secs().cast_signed() + 5).contains(&(again.seconds - before.seconds)));
}

#[test]
fn collections_are_rare_but_not_put_off_for_long() {
    let seconds = |looked| pause_after(Duration::from_millis(looked)).as_secs();
    assert_eq!([seconds(3), seconds(100), seconds(860), seconds(90_000)], [1, 5, 10, 10]);
}
