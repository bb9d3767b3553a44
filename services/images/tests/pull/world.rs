//! A puller over the real services, in directories of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_content::LocalStore;
use gantry_core::content::ContentStore;
use gantry_core::db::Database;
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::images::{Image, Images, Progress, ProgressSink, PullRequest, Puller};
use gantry_core::leases::Leases;
use gantry_core::namespaces::Namespaces;
use gantry_core::snapshots::{Snapshotter, Snapshotters};
use gantry_core::{Context, Labels, Namespace, Result};
use gantry_images::{Config, RegistryPuller, Services, Streams, Transfer};
use gantry_metadata::{GarbageCollector, GuardedDatabase};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// Everything that a pull needs.
pub(crate) struct World {
    pub(crate) content: Arc<dyn ContentStore>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) namespaces: Arc<dyn Namespaces>,
    pub(crate) snapshotters: Snapshotters,
    pub(crate) puller: Arc<RegistryPuller>,
    pub(crate) streams: Streams,
    pub(crate) transfer: Transfer,
    pub(crate) collector: Arc<GarbageCollector>,
    pub(crate) ctx: Context,
    db: Arc<GuardedDatabase>,
    dir: Arc<TempDir>,
}

/// Unmounted when dropped, which has to be before its world.
pub(crate) struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// Bytes of the ingests on it.
    pub(crate) fn partial(&self) -> u64 {
        let ingests = std::fs::read_dir(self.0.join("ingest")).expect("the ingests").flatten();
        ingests.filter_map(|i| i.path().join("data").metadata().ok()).map(|m| m.len()).sum()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmount the tmpfs");
    }
}

/// What was reported.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<Vec<Progress>>>);

impl Reports {
    pub(crate) fn sink(&self) -> ProgressSink {
        let reports = self.clone();
        Arc::new(move |progress| reports.0.lock().unwrap().push(progress))
    }

    pub(crate) fn all(&self) -> Vec<Progress> {
        self.0.lock().unwrap().clone()
    }
}

/// Settings with which trying again takes little time.
pub(crate) fn quick() -> Config {
    Config { backoff: Duration::from_millis(10), attempts: 3, ..Config::default() }
}

/// The same, when something is not to be waited for.
pub(crate) fn impatient() -> Config {
    Config { read_timeout: Duration::from_millis(500), ..quick() }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(quick()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-pull-").tempdir().expect("tempdir");
        let db = records(&dir);
        Self::open(config, Arc::new(dir), db).await
    }

    /// One whose content lies on a file system of this many bytes.
    pub(crate) async fn on_small_disk(bytes: usize) -> (Self, SmallDisk) {
        let dir = tempfile::Builder::new().prefix("gantry-pull-").tempdir().expect("tempdir");
        let disk = SmallDisk(dir.path().join("io.containerd.content.v1.content"));
        std::fs::create_dir(&disk.0).expect("make a directory");
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), &disk.0, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .expect("mount a tmpfs");
        let db = records(&dir);
        (Self::open(quick(), Arc::new(dir), db).await, disk)
    }

    /// The same after a restart of the process: new services over the same
    /// records and directories.
    pub(crate) async fn restart(self, config: Config) -> Self {
        let (dir, db) = (Arc::clone(&self.dir), Arc::clone(&self.db));
        drop(self);
        Self::open(config, dir, db).await
    }

    async fn open(config: Config, dir: Arc<TempDir>, guarded: Arc<GuardedDatabase>) -> Self {
        let db: Arc<dyn Database> = Arc::clone(&guarded) as _;
        let events: Arc<dyn Events> = Arc::new(gantry_events::Exchange::new());
        let content = LocalStore::open(dir.path(), Arc::clone(&db), Arc::clone(&events));
        let content: Arc<dyn ContentStore> = Arc::new(content.expect("open the content store"));
        let mut snapshotters = Snapshotters { default: "overlayfs".into(), ..Default::default() };
        for name in gantry_snapshots::NAMES {
            let options = gantry_snapshots::Options {
                root: dir.path().to_owned(),
                db: Arc::clone(&db),
                events: Arc::clone(&events),
            };
            let opened = gantry_snapshots::open(name, options).await.expect("open a snapshotter");
            snapshotters.by_name.insert(name.to_owned(), opened);
        }
        let images: Arc<dyn Images> =
            Arc::new(gantry_metadata::ImageRecords::new(Arc::clone(&db), Arc::clone(&events)));
        let leases: Arc<dyn Leases> = Arc::new(gantry_metadata::LeaseService::new(Arc::clone(&db)));
        let namespaces: Arc<dyn Namespaces> =
            Arc::new(gantry_metadata::NamespaceService::new(Arc::clone(&db), Arc::clone(&events)));
        let collector = Arc::new(GarbageCollector::new(
            Arc::clone(&guarded),
            Arc::clone(&content),
            snapshotters.clone(),
            events,
            None,
        ));
        let services = Services {
            content: Arc::clone(&content),
            images: Arc::clone(&images),
            leases: Arc::clone(&leases),
            namespaces: Arc::clone(&namespaces),
            snapshotters: snapshotters.clone(),
            applier: Arc::new(gantry_diff::LayerApplier::default()),
        };
        let puller = Arc::new(RegistryPuller::new(services, config).expect("a puller"));
        let streams = Streams::default();
        let transfer = Transfer::new(Arc::clone(&puller), Arc::clone(&images), streams.clone());
        let ctx = Context::new(Namespace::new("default").expect("a name"));
        Self {
            content,
            images,
            leases,
            namespaces,
            snapshotters,
            puller,
            streams,
            transfer,
            collector,
            ctx,
            db: guarded,
            dir,
        }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Image> {
        self.pull_with(request(reference), &Reports::default()).await
    }

    pub(crate) async fn pull_with(&self, request: PullRequest, to: &Reports) -> Result<Image> {
        self.puller.pull(&self.ctx, request, to.sink()).await
    }

    pub(crate) fn overlayfs(&self) -> Arc<dyn Snapshotter> {
        self.snapshotters.get("overlayfs").expect("overlayfs")
    }

    /// The root directory.
    pub(crate) fn root(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Files of blobs, and directories of snapshots, however they are named.
    pub(crate) async fn files(&self) -> (usize, usize) {
        self.overlayfs().cleanup().await.expect("empty the trash");
        let count = |path: &str| std::fs::read_dir(self.dir.path().join(path)).expect(path).count();
        (
            count("io.containerd.content.v1.content/blobs/sha256"),
            count("io.containerd.snapshotter.v1.overlayfs/snapshots"),
        )
    }

    /// Stores a blob as a client does.
    pub(crate) async fn store(&self, blob: &crate::image::Blob) {
        let (digest, size) = (blob.digest(), blob.bytes.len() as u64);
        let reference = format!("test-{digest}");
        let opened = self.content.writer(&self.ctx, &reference, size, Some(&digest)).await;
        let mut writer = opened.expect("a writer");
        writer.write(blob.bytes.clone().into()).await.expect("write");
        writer.commit(Some(size), Some(&digest), Labels::new()).await.expect("commit");
    }

    /// Stores a record.
    pub(crate) async fn name(&self, name: &str, target: gantry_core::Descriptor) -> Image {
        let (created_at, updated_at) = Default::default();
        let labels = Labels::new();
        let image = Image { name: name.into(), labels, target, created_at, updated_at };
        self.images.create(&self.ctx, image).await.expect("a record")
    }

    /// Names of all records.
    pub(crate) async fn records(&self) -> Vec<String> {
        let all = self.images.list(&self.ctx, &Filters::all()).await.expect("list");
        all.into_iter().map(|image| image.name).collect()
    }

    /// Names of all snapshots of a snapshotter.
    pub(crate) async fn snapshots(&self, snapshotter: &str) -> Vec<String> {
        let snapshotter = self.snapshotters.get(snapshotter).expect("a snapshotter");
        let all = snapshotter.list(&self.ctx, &Filters::all()).await.expect("list");
        all.into_iter().map(|info| info.name).collect()
    }

    /// References of all ingests.
    pub(crate) async fn ingests(&self) -> Vec<String> {
        let all = self.content.statuses(&self.ctx, &Filters::all()).await.expect("list");
        all.into_iter().map(|status| status.reference).collect()
    }

    /// Number of leases.
    pub(crate) async fn lease_count(&self) -> usize {
        self.leases.list(&self.ctx, &Filters::all()).await.expect("list").len()
    }

    pub(crate) async fn labels(&self, digest: &gantry_core::Digest) -> Labels {
        self.content.info(&self.ctx, digest).await.expect("a blob").labels
    }

    /// The directories of a committed snapshot, top first, as a view shows them.
    pub(crate) async fn directories(&self, chain: &str) -> Vec<std::path::PathBuf> {
        let overlayfs = self.overlayfs();
        let key = format!("view of {chain}");
        let mounts = overlayfs.view(&self.ctx, &key, Some(chain), Labels::new()).await;
        let mounts = mounts.expect("a view");
        overlayfs.remove(&self.ctx, &key).await.expect("remove the view");
        let lower = mounts[0].options.iter().find_map(|o| o.strip_prefix("lowerdir="));
        match lower {
            Some(all) => all.split(':').map(Into::into).collect(),
            None => vec![mounts[0].source.clone().into()],
        }
    }

    /// Asserts that a failed pull left nothing but what it can go on with.
    pub(crate) async fn assert_clean(&self) {
        for name in gantry_snapshots::NAMES {
            assert_eq!(self.snapshots(name).await, Vec::<String>::new());
        }
        let records = self.images.list(&self.ctx, &Filters::all()).await.expect("list");
        assert!(records.is_empty(), "{records:?}");
    }
}

fn records(dir: &TempDir) -> Arc<GuardedDatabase> {
    let db = gantry_metadata::RocksDatabase::open(dir.path().join("metadata"));
    Arc::new(GuardedDatabase::new(Arc::new(db.expect("open the records"))))
}

pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.to_owned(), ..PullRequest::default() }
}

/// Waits until `check` holds, for what happens behind a reply.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}
