//! The store on real disks, with the real metadata store under it.

mod faults;
mod grpc;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use gantry_core::content::{BLOBS, ContentStore};
use gantry_core::db::Database;
use gantry_core::events::{EventStream, Events};
use gantry_core::filter::Filters;
use gantry_core::leases::{LEASE_RESOURCES, Leases};
use gantry_core::{Algorithm, Context, Digest, Hasher, Kind, LabelMask, Labels, Namespace};
use gantry_events::Exchange;
use gantry_metadata::{LeaseService, RocksDatabase};

use crate::LocalStore;

/// A store with all that is under it.
struct Host {
    dir: tempfile::TempDir,
    db: Arc<RocksDatabase>,
    events: Exchange,
    store: LocalStore,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open(dir, None)
    }

    /// Opens what is in the directory; blobs may lie elsewhere.
    fn open(dir: tempfile::TempDir, content: Option<PathBuf>) -> Self {
        let db = Arc::new(RocksDatabase::open(dir.path().join("metadata")).unwrap());
        let events = Exchange::new();
        let root = content.unwrap_or_else(|| dir.path().join("content"));
        let store = LocalStore::open(root, db.clone(), Arc::new(events.clone())).unwrap();
        Self { dir, db, events, store }
    }

    /// What a restart of the daemon does.
    fn reopen(self) -> Self {
        let Self { dir, db, events, store } = self;
        drop((store, events, db));
        Self::open(dir, None)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.store.shared_for_tests().layout.blob(digest)
    }

    async fn put(&self, ctx: &Context, content: &'static [u8]) -> Digest {
        let mut writer = self.store.writer(ctx, "put", 0, None).await.unwrap();
        writer.write(Bytes::from_static(content)).await.unwrap();
        writer.commit(None, None, Labels::new()).await.unwrap()
    }

    async fn get(&self, ctx: &Context, digest: &Digest) -> Vec<u8> {
        let pieces = self.store.read(ctx, digest, 0, None).await.unwrap();
        pieces
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
            .unwrap()
    }

    async fn kind_of_info(&self, ctx: &Context, digest: &Digest) -> Option<Kind> {
        self.store.info(ctx, digest).await.err().map(|err| err.kind())
    }
}

fn context(namespace: &str) -> Context {
    Context::new(Namespace::new(namespace).unwrap())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn topic(events: &mut EventStream) -> Option<String> {
    events.next().now_or_never().flatten().map(|event| event.unwrap().topic)
}

#[tokio::test]
async fn a_blob_from_its_first_byte_to_its_removal() {
    let host = Host::new();
    let ctx = context("a");
    let mut events = host.events.subscribe(Filters::all());
    let expected = Digest::of(b"hello world");
    let mut writer = host.store.writer(&ctx, "layer 1: x/y", 11, Some(&expected)).await.unwrap();
    writer.write(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(writer.status().offset, 5);
    assert_eq!(writer.digest(), Digest::of(b"hello"));
    writer.write(Bytes::from_static(b" world")).await.unwrap();
    assert_eq!(writer.digest(), expected);
    let seen = host.store.status(&ctx, "layer 1: x/y").await.unwrap();
    assert_eq!((seen.offset, seen.total, seen.expected), (11, 11, Some(expected.clone())));
    assert_eq!(host.store.statuses(&ctx, &Filters::all()).await.unwrap().len(), 1);
    assert_eq!(host.store.statuses(&context("b"), &Filters::all()).await.unwrap().len(), 0);
    assert_eq!(host.kind_of_info(&ctx, &expected).await, Some(Kind::NotFound));
    assert!(topic(&mut events).is_none());

    let digest = writer.commit(None, None, labels(&[("k", "v")])).await.unwrap();
    assert_eq!(digest, expected);
    assert_eq!(topic(&mut events).as_deref(), Some("/content/create"));
    let info = host.store.info(&ctx, &digest).await.unwrap();
    assert_eq!((info.size, &info.labels), (11, &labels(&[("k", "v")])));
    assert_eq!(host.get(&ctx, &digest).await, b"hello world");
    let gone = host.store.status(&ctx, "layer 1: x/y").await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    assert_eq!(
        writer.write(Bytes::from_static(b"x")).await.unwrap_err().kind(),
        Kind::FailedPrecondition
    );

    let again = host.store.writer(&ctx, "other", 0, Some(&digest)).await.err().unwrap();
    assert_eq!(again.to_string(), format!("content {digest}: already exists"));

    host.store.delete(&ctx, &digest).await.unwrap();
    assert_eq!(topic(&mut events).as_deref(), Some("/content/delete"));
    assert!(!host.blob(&digest).exists());
    assert_eq!(host.store.delete(&ctx, &digest).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn ranges_are_read_and_bounds_are_kept() {
    let host = Host::new();
    let ctx = context("a");
    let digest = host.put(&ctx, b"0123456789").await;
    for (offset, len, expected) in
        [(0, None, "0123456789"), (3, Some(4), "3456"), (8, Some(99), "89"), (10, None, "")]
    {
        let pieces = host.store.read(&ctx, &digest, offset, len).await.unwrap();
        let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
        assert_eq!(pieces.concat(), expected.as_bytes());
    }
    let err = host.store.read(&ctx, &digest, 11, None).await.err().unwrap();
    assert_eq!(err.kind(), Kind::OutOfRange);
}

#[tokio::test]
async fn labels_change_as_the_mask_says() {
    let host = Host::new();
    let ctx = context("a");
    let digest = host.put(&ctx, b"x").await;
    let key = "containerd.io/gc.ref.content.l.0";
    let all = labels(&[("a", "1"), (key, "2")]);
    host.store.update(&ctx, &digest, all, LabelMask::All).await.unwrap();
    let mask = LabelMask::Keys(vec![key.into(), "b".into()]);
    let info = host.store.update(&ctx, &digest, labels(&[("b", "3"), ("c", "4")]), mask).await;
    assert_eq!(info.unwrap().labels, labels(&[("a", "1"), ("b", "3")]));
    let filters = Filters::parse(&["labels.\"b\"==3"]).unwrap();
    assert_eq!(host.store.list(&ctx, &filters).await.unwrap().len(), 1);
    let long = labels(&[("a", &"x".repeat(5000))]);
    let err = host.store.update(&ctx, &digest, long, LabelMask::All).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
    let missing = Digest::of(b"none");
    let err = host.store.update(&ctx, &missing, Labels::new(), LabelMask::All).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_ingest_is_thrown_away_under_its_writer() {
    let host = Host::new();
    let ctx = context("a");
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.write(Bytes::from_static(b"abc")).await.unwrap();
    host.store.cancel(&ctx, "r").await.unwrap();
    assert!(host.store.statuses(&ctx, &Filters::all()).await.unwrap().is_empty());
    let err = writer.commit(None, None, Labels::new()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Cancelled, "{err}");
    drop(writer);
    assert_eq!(host.store.cancel(&ctx, "r").await.unwrap_err().kind(), Kind::NotFound);
    let again = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    assert_eq!(again.status().offset, 0);
    assert!(!again.status().leased);
}

#[tokio::test]
async fn one_writer_per_reference_and_namespace() {
    let host = Host::new();
    let ctx = context("a");
    let writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    let err = host.store.writer(&ctx, "r", 0, None).await.err().unwrap();
    assert_eq!(err.to_string(), "ref r locked: unavailable");
    assert_eq!(err.kind(), Kind::Unavailable);
    assert_eq!(host.store.abort(&ctx, "r").await.unwrap_err().kind(), Kind::Unavailable);
    host.store.writer(&context("b"), "r", 0, None).await.unwrap();
    drop(writer);
    host.store.writer(&ctx, "r", 0, None).await.unwrap();
    host.store.abort(&ctx, "r").await.unwrap();
    assert_eq!(host.store.abort(&ctx, "r").await.unwrap_err().kind(), Kind::NotFound);
    assert!(host.store.writer(&ctx, "", 0, None).await.is_err());
}

#[tokio::test]
async fn an_ingest_goes_on_where_it_was_after_a_restart() {
    let host = Host::new();
    let ctx = context("a");
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut writer = host.store.writer(&ctx, "r", 3_000_000, None).await.unwrap();
    for piece in big[..2_500_000].chunks(70_000) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let started = writer.status().started_at;
    drop(writer);
    let host = host.reopen();
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    let status = writer.status();
    assert_eq!((status.offset, status.total), (2_500_000, 3_000_000));
    assert_eq!(status.started_at, started);
    assert_eq!(writer.digest(), Digest::of(&big[..2_500_000]));
    writer.write(Bytes::copy_from_slice(&big[2_500_000..])).await.unwrap();
    let digest = writer.commit(None, None, Labels::new()).await.unwrap();
    drop(writer);
    let host = host.reopen();
    assert!(host.get(&ctx, &digest).await == big);
}

#[tokio::test]
async fn a_commit_that_was_cut_costs_no_byte() {
    let host = Host::new();
    let ctx = context("a");
    let digest = Digest::of(b"content");
    for expected in [None, Some(digest.clone())] {
        let reference = if expected.is_some() { "known" } else { "unknown" };
        let mut writer = host.store.writer(&ctx, reference, 7, expected.as_ref()).await.unwrap();
        writer.write(Bytes::from_static(b"content")).await.unwrap();
    }
    // It was linked, and the daemon ended before it was recorded.
    let ingests = host.store.shared_for_tests().layout.ingests().to_owned();
    let ingest = ingests.join(crate::layout::ingest_id(&ctx.namespace, "known"));
    std::fs::hard_link(ingest.join("data"), host.blob(&digest)).unwrap();
    let host = host.reopen();
    assert!(!host.blob(&digest).exists());
    assert_eq!(host.kind_of_info(&ctx, &digest).await, Some(Kind::NotFound));
    for reference in ["known", "unknown"] {
        let status = host.store.status(&ctx, reference).await.unwrap();
        assert_eq!(status.offset, 7, "{reference}");
    }
    let mut writer = host.store.writer(&ctx, "known", 7, Some(&digest)).await.unwrap();
    writer.commit(None, None, Labels::new()).await.unwrap();
    drop(writer);
    assert!(!ingest.exists());
    // It was recorded, and the daemon ended before the ingest was removed.
    for (namespace, reference) in [("a", "known"), ("a", "unknown"), ("b", "shared")] {
        let (ctx, expected) = (context(namespace), (reference != "unknown").then_some(&digest));
        let dir = ingests.join(crate::layout::ingest_id(&ctx.namespace, reference));
        let status = serde_json::json!({
            "namespace": namespace, "reference": reference, "total": 7, "expected": expected,
            "started_at": {"s": 1, "n": 0},
        });
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("status.json"), status.to_string()).unwrap();
        std::fs::hard_link(host.blob(&digest), dir.join("data")).unwrap();
    }
    let host = host.reopen();
    assert_eq!(host.get(&ctx, &digest).await, b"content");
    for (namespace, reference, left) in [("a", "known", 0), ("a", "unknown", 0), ("b", "shared", 1)]
    {
        let found = host.store.status(&context(namespace), reference).await;
        assert_eq!(usize::from(found.is_ok()), left, "{reference}");
    }
}

#[tokio::test]
async fn a_wrong_commit_changes_nothing_and_a_right_one_follows() {
    let host = Host::new();
    let ctx = context("a");
    let (right, wrong) = (Digest::of(b"abc"), Digest::of(b"abd"));
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.write(Bytes::from_static(b"abc")).await.unwrap();
    for (size, digest) in [(Some(4), None), (Some(3), Some(&wrong)), (None, Some(&wrong))] {
        let err = writer.commit(size, digest, Labels::new()).await.unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition, "{err}");
        assert_eq!(host.store.status(&ctx, "r").await.unwrap().offset, 3);
    }
    assert_eq!(host.store.list(&ctx, &Filters::all()).await.unwrap(), []);
    assert!(!host.blob(&right).exists() && !host.blob(&wrong).exists());
    // By another writer, even after a restart.
    drop(writer);
    let host = host.reopen();
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.commit(Some(3), Some(&right), Labels::new()).await.unwrap();
    assert_eq!(host.get(&ctx, &right).await, b"abc");
}

#[tokio::test]
async fn going_back_rewrites() {
    let host = Host::new();
    let ctx = context("a");
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.write(Bytes::from_static(b"abcdef")).await.unwrap();
    assert_eq!(writer.truncate(7).await.unwrap_err().kind(), Kind::OutOfRange);
    writer.truncate(3).await.unwrap();
    assert_eq!(writer.digest(), Digest::of(b"abc"));
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    writer.truncate(4).await.unwrap();
    let digest = writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(host.get(&ctx, &digest).await, b"abcx");
}

#[tokio::test]
async fn sha512_is_another_name_for_the_same_bytes() {
    let host = Host::new();
    let ctx = context("a");
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"abc");
    let long = hasher.finish();
    // Told at the beginning, or at the end only.
    for expected in [Some(&long), None] {
        let mut writer = host.store.writer(&ctx, "r", 0, expected).await.unwrap();
        writer.write(Bytes::from_static(b"abc")).await.unwrap();
        writer.commit(None, Some(&long), Labels::new()).await.unwrap();
        assert_eq!(host.get(&ctx, &long).await, b"abc");
        host.store.delete(&ctx, &long).await.unwrap();
    }
}

#[tokio::test]
async fn namespaces_share_bytes_and_nothing_else() {
    let host = Host::new();
    let (a, b, c) = (context("a"), context("b"), context("c"));
    let digest = host.put(&a, b"shared").await;
    assert_eq!(host.kind_of_info(&b, &digest).await, Some(Kind::NotFound));
    assert!(host.store.read(&b, &digest, 0, None).await.is_err());
    // Whoever names the digest finds the bytes there.
    let mut writer = host.store.writer(&b, "r", 0, Some(&digest)).await.unwrap();
    let status = writer.status();
    assert_eq!((status.offset, status.total), (6, 6));
    assert_eq!(writer.digest(), digest);
    writer.commit(Some(6), Some(&digest), labels(&[("of", "b")])).await.unwrap();
    assert!(host.store.info(&a, &digest).await.unwrap().labels.is_empty());
    // Writing on, as some clients do, spoils neither the blob nor a second try.
    let mut writer = host.store.writer(&c, "r", 6, Some(&digest)).await.unwrap();
    writer.write(Bytes::from_static(b"shared")).await.unwrap();
    assert_eq!(writer.status().offset, 12);
    let err = writer.commit(Some(6), Some(&digest), Labels::new()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::FailedPrecondition);
    writer.truncate(0).await.unwrap();
    writer.write(Bytes::from_static(b"shared")).await.unwrap();
    writer.commit(Some(6), Some(&digest), Labels::new()).await.unwrap();
    for (last, ctx) in [(false, &a), (false, &b), (true, &c)] {
        assert_eq!(host.get(ctx, &digest).await, b"shared");
        host.store.delete(ctx, &digest).await.unwrap();
        assert_eq!(host.blob(&digest).exists(), !last);
    }
}

#[tokio::test]
async fn a_shared_blob_that_is_deleted_meanwhile_is_still_committed() {
    let host = Host::new();
    let (a, b) = (context("a"), context("b"));
    let digest = host.put(&a, b"shared").await;
    let mut writer = host.store.writer(&b, "r", 0, Some(&digest)).await.unwrap();
    host.store.delete(&a, &digest).await.unwrap();
    assert!(!host.blob(&digest).exists());
    writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(host.get(&b, &digest).await, b"shared");
}

#[tokio::test]
async fn what_is_made_within_a_lease_is_held_by_it() {
    let host = Host::new();
    let ctx = context("a").with_lease("l");
    let refused = host.store.writer(&ctx, "r", 0, None).await.map(drop);
    assert_eq!(refused.unwrap_err().kind(), Kind::NotFound, "a lease that is not there");
    let leases = LeaseService::new(host.db.clone());
    leases.create(&ctx, Some("l"), Labels::new()).await.unwrap();
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    let held = leases.resources(&ctx, "l").await.unwrap();
    assert_eq!((held[0].kind.as_str(), held[0].id.as_str()), ("ingests", "r"));
    leases.delete(&ctx, "l").await.unwrap();
    let err = writer.commit(None, None, Labels::new()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "a commit within a lease that is not there");
    assert!(!host.blob(&Digest::of(b"x")).exists());
    leases.create(&ctx, Some("l"), Labels::new()).await.unwrap();
    let digest = writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(leases.resources(&ctx, "l").await.unwrap()[0].id, digest.as_str());
    // A blob that is there already is held as well.
    leases.create(&ctx, Some("m"), Labels::new()).await.unwrap();
    let other = context("a").with_lease("m");
    assert!(host.store.writer(&other, "r", 0, Some(&digest)).await.is_err());
    assert_eq!(LEASE_RESOURCES.list(&*host.db, "a").unwrap().len(), 2);
}

/// Commits and deletions of one digest in several namespaces at once end
/// with a file exactly when somebody has a record.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_and_deletions_race_without_losing_a_file() {
    let host = Arc::new(Host::new());
    let digest = Digest::of(b"contended");
    let tasks: Vec<_> = ["a", "b", "c"]
        .map(|namespace| {
            let (host, digest) = (host.clone(), digest.clone());
            tokio::spawn(async move {
                let ctx = context(namespace);
                for round in 0..15 {
                    // Half of them without the offer of bytes that are there.
                    let expected = (round % 2 == 0).then_some(&digest);
                    let mut writer = host.store.writer(&ctx, "r", 0, expected).await.unwrap();
                    if writer.status().offset == 0 {
                        writer.write(Bytes::from_static(b"contended")).await.unwrap();
                    }
                    writer.commit(None, Some(&digest), Labels::new()).await.unwrap();
                    assert_eq!(host.get(&ctx, &digest).await, b"contended");
                    host.store.delete(&ctx, &digest).await.unwrap();
                }
            })
        })
        .into();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(!host.blob(&digest).exists());
    assert_eq!(host.db.namespaces(BLOBS.name()).unwrap(), [""; 0]);
}

/// Says what writing and reading cost: `-- --ignored --nocapture throughput`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    use std::io::Write as _;
    let host = Host::new();
    let ctx = context("a");
    let mib = |len: usize, since: std::time::Instant| {
        len as f64 / since.elapsed().as_secs_f64() / f64::from(1 << 20)
    };
    let piece = Bytes::from(vec![0x5a; 1 << 20]);
    let begun = std::time::Instant::now();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    (0..512).for_each(|_| hasher.update(&piece));
    let _ = hasher.finish();
    let mut out = std::io::stdout();
    writeln!(out, "sha256 alone {:.0} MiB/s", mib(512 << 20, begun)).unwrap();
    for size in [1 << 20, 16 << 10] {
        let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
        let begun = std::time::Instant::now();
        for _ in 0..(512 << 20) / size {
            writer.write(piece.slice(..size)).await.unwrap();
        }
        let written = mib(512 << 20, begun);
        let digest = writer.commit(None, None, Labels::new()).await.unwrap();
        writeln!(out, "pieces of {size}: {written:.0} MiB/s, synced {:.0}", mib(512 << 20, begun))
            .unwrap();
        let begun = std::time::Instant::now();
        let mut pieces = host.store.read(&ctx, &digest, 0, None).await.unwrap();
        while pieces.try_next().await.unwrap().is_some() {}
        writeln!(out, "read {:.0} MiB/s", mib(512 << 20, begun)).unwrap();
        host.store.delete(&ctx, &digest).await.unwrap();
    }
}
