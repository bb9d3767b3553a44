//! Real mounts on this host, below a directory of the test's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_core::db::memory::MemoryDatabase;
use gantry_core::db::{Durability, Transaction, write_blocking};
use gantry_core::filter::Filters;
use gantry_core::leases::{LEASE_RESOURCES, LEASES, Lease};
use gantry_core::mounts::{Activate, Activation, MountManager};
use gantry_core::{Context, Error, Kind, Labels, Mount, Namespace, Result, Timestamp};
use tempfile::TempDir;

use crate::records::{self, RECORDS};
use crate::{Manager, Options};

struct Fixture {
    dir: TempDir,
    db: MemoryDatabase,
    manager: Manager,
    ctx: Context,
}

fn mount(kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.as_ref().display().to_string(),
        target: String::new(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind()
}

impl Fixture {
    async fn new() -> Self {
        let (dir, db) = (tempfile::tempdir().unwrap(), MemoryDatabase::new());
        let manager = open(dir.path(), &db).await;
        let ctx = Context::new(Namespace::new("testing").unwrap());
        Self { dir, db, manager, ctx }
    }

    async fn reopen(&mut self) {
        self.manager = open(self.dir.path(), &self.db).await;
    }

    async fn activate(&self, name: &str, mounts: &[Mount], temporary: bool) -> Result<Activation> {
        let wanted = Activate { mounts: mounts.to_vec(), labels: Labels::new(), temporary };
        self.manager.activate(&self.ctx, name, wanted).await
    }

    /// A directory with a file that says its name.
    fn layer(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join(name), name).unwrap();
        path
    }

    /// A new image, its file system, and an overlay whose upper directory is on it.
    fn disk(&self) -> [Mount; 3] {
        let image = self.dir.path().join("disk.img");
        [
            mount(
                "mkfs/loop",
                image,
                &["X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.fs=ext4"],
            ),
            mount("format/ext4", "{{ mount 0 }}", &["nodev"]),
            mount(
                "format/mkdir/overlay",
                "overlay",
                &[
                    "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
                    "X-containerd.mkdir.path={{ mount 1 }}/work:0755",
                    &format!("lowerdir={}", self.dir.path().join("low").display()),
                    "upperdir={{ mount 1 }}/upper",
                    "workdir={{ mount 1 }}/work",
                ],
            ),
        ]
    }

    fn left(&self) -> usize {
        fs::read_dir(self.dir.path().join("mounts")).unwrap().count()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // What a failed test left would keep the directory busy.
        let db = MemoryDatabase::new();
        let root = self.dir.path().join("mounts");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let _ = runtime.block_on(Manager::open(Options { root, db: db.shared() }));
            });
        });
    }
}

async fn open(dir: &Path, db: &MemoryDatabase) -> Manager {
    Manager::open(Options { root: dir.join("mounts"), db: db.shared() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_becomes_an_overlay() {
    let f = Fixture::new().await;
    f.layer("low");
    let made = f.activate("c1", &f.disk(), false).await.unwrap();
    assert_eq!(made.active.len(), 2);
    let device = &made.active[0].data["device"];
    assert_eq!(fs::read_link(&made.active[0].mount_point).unwrap(), Path::new(device));
    assert_eq!(made.active[1].mount.source, made.active[0].mount_point);
    let upper = format!("{}/upper", made.active[1].mount_point);
    assert_eq!(fs::metadata(&upper).unwrap().mode() & 0o777, 0o755);
    let [overlay] = made.system.as_slice() else { panic!("{:?}", made.system) };
    assert_eq!((overlay.kind.as_str(), overlay.options.len()), ("overlay", 3));
    assert_eq!(overlay.options[1], format!("upperdir={upper}"));

    assert_eq!(f.manager.info(&f.ctx, "c1").await.unwrap(), made);
    assert_eq!(kind(f.activate("c1", &f.disk(), false).await), Kind::AlreadyExists);
    fs::write(format!("{upper}/kept"), "x").unwrap();
    f.manager.deactivate(&f.ctx, "c1").await.unwrap();
    assert_eq!(f.left(), 0);
    assert_eq!(kind(f.manager.deactivate(&f.ctx, "c1").await), Kind::NotFound);
    assert_eq!(kind(f.manager.info(&f.ctx, "c1").await), Kind::NotFound);

    let again = f.activate("c1", &f.disk(), false).await.unwrap();
    assert!(Path::new(&again.active[1].mount_point).join("upper/kept").exists());
    f.manager.deactivate(&f.ctx, "c1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_ones_are_made_whole() {
    let f = Fixture::new().await;
    let (low, high) = (f.layer("low"), f.layer("high"));
    let mounts = [
        mount("bind", &low, &["ro", "rbind"]),
        mount("bind", &high, &["ro", "rbind"]),
        mount("format/overlay", "overlay", &["lowerdir={{ overlay 1 0 }}"]),
    ];
    let made = f.activate("t", &mounts, true).await.unwrap();
    assert_eq!(made.active.len(), 3);
    let top = Path::new(&made.active[2].mount_point);
    assert!(top.join("low").exists() && top.join("high").exists());
    assert_eq!(made.system, [mount("bind", top, &["rbind"])]);
    let refused = fs::write(Path::new(&made.active[0].mount_point).join("x"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    let busy = fs::File::open(top.join("low")).unwrap();
    assert_eq!(kind(f.manager.deactivate(&f.ctx, "t").await), Kind::FailedPrecondition);
    assert_eq!(f.manager.info(&f.ctx, "t").await.unwrap(), made);
    drop(busy);
    f.manager.deactivate(&f.ctx, "t").await.unwrap();
    assert_eq!(f.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_use_when_it_was_collected_goes_later() {
    let f = Fixture::new().await;
    let low = f.layer("low");
    let collect = async |name: &str| {
        let forget = |tx: &mut dyn Transaction| f.manager.forget(tx, &f.ctx, name);
        let mut forget = forget;
        let number = write_blocking(&f.db, Durability::Sync, &mut forget).unwrap();
        f.manager.release(&f.ctx, vec![(name.to_owned(), number)]).await;
    };
    let made = f.activate("busy", &[mount("bind", &low, &["rbind"])], true).await.unwrap();
    let user = fs::File::open(Path::new(&made.active[0].mount_point).join("low")).unwrap();
    collect("busy").await;
    assert_eq!(f.left(), 1);
    f.manager.release(&f.ctx, Vec::new()).await;
    assert_eq!(f.left(), 1, "it is still in use");
    drop(user);
    f.activate("other", &[mount("bind", &low, &["rbind"])], true).await.unwrap();
    collect("other").await;
    assert_eq!(f.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing() {
    let f = Fixture::new().await;
    let low = f.layer("low");
    let image = low.join("low");
    let table = [
        (vec![mount("bind", &low, &[])], Kind::Unimplemented),
        (
            vec![mount("bind", &low, &[]), mount("format/x", "{{ mount 1 }}", &[])],
            Kind::InvalidArgument,
        ),
        (vec![mount("loop", low.join("none"), &[])], Kind::NotFound),
        (vec![mount("loop", &image, &["bad"])], Kind::InvalidArgument),
        (vec![mount("mkfs/loop", low.join("i"), &[])], Kind::InvalidArgument),
        (vec![mount("bind", &low, &[]), mount("loop", "none", &[])], Kind::NotFound),
    ];
    for (mounts, expected) in table {
        assert_eq!(kind(f.activate("x", &mounts, false).await), expected, "{mounts:?}");
        assert_eq!(f.left(), 0, "{mounts:?}");
        assert!(RECORDS.list(&f.db, "testing").unwrap().is_empty(), "{mounts:?}");
    }
    for name in ["", "a\0", "a\x01", &"x".repeat(4097)] {
        let mounts = [mount("loop", &image, &[])];
        assert_eq!(kind(f.activate(name, &mounts, false).await), Kind::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_them_or_makes_them_anew() {
    let mut f = Fixture::new().await;
    f.layer("low");
    let disk = f.disk();
    let made = f.activate("c1", &disk, false).await.unwrap();
    let bind = [mount("bind", f.dir.path().join("low"), &["rbind"])];
    f.activate("t", &bind, true).await.unwrap();
    f.reopen().await;
    assert_eq!(f.manager.info(&f.ctx, "c1").await.unwrap(), made, "they are as they were");
    assert_eq!(f.manager.list(&f.ctx, &Filters::all()).await.unwrap().len(), 2);

    // As after a restart of the machine: nothing is mounted, the records are there.
    for number in ["1", "2"] {
        for place in ["1", "0"] {
            crate::making::take_away(&f.dir.path().join("mounts").join(number).join(place))
                .unwrap();
        }
    }
    f.reopen().await;
    let anew = f.manager.info(&f.ctx, "c1").await.unwrap();
    assert!(anew.active.iter().all(crate::making::is_there));
    assert_eq!(anew.system, made.system);
    assert_eq!(kind(f.manager.info(&f.ctx, "t").await), Kind::NotFound, "it was temporary");
    f.manager.deactivate(&f.ctx, "c1").await.unwrap();
    assert_eq!(f.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_cleared() {
    let mut f = Fixture::new().await;
    f.layer("low");
    let mounts = f.disk();
    let orphan = f.activate("orphan", &mounts[..1], false).await.unwrap();
    let low = [mount("bind", f.dir.path().join("low"), &["rbind"])];
    f.activate("half", &low, true).await.unwrap();
    write_blocking(&f.db, Durability::Sync, &mut |tx| {
        records::remove(tx, "testing", "orphan", None)?;
        let mut half = RECORDS.lock(tx, "testing", "half")?.unwrap();
        half.state = records::State::Making;
        RECORDS.put(tx, "testing", "half", &half)
    })
    .unwrap();
    let device = PathBuf::from(&orphan.active[0].data["device"]);
    assert!(crate::loopdev::is_owned(&device, Path::new(&orphan.active[0].mount_point)));
    f.reopen().await;
    assert_eq!(f.left(), 0);
    assert!(!crate::loopdev::is_owned(&device, Path::new(&orphan.active[0].mount_point)));
    assert!(f.manager.list(&f.ctx, &Filters::all()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_labels_and_namespaces() {
    let f = Fixture::new().await;
    let low = [mount("bind", f.layer("low"), &["rbind"])];
    let lease = Lease { id: "l".into(), created_at: Timestamp::now(), labels: Labels::new() };
    write_blocking(&f.db, Durability::Sync, &mut |tx| LEASES.put(tx, "testing", "l", &lease))
        .unwrap();
    let labels = Labels::from([("a.b/c".to_owned(), "1".to_owned())]);
    let wanted = Activate { mounts: low.to_vec(), labels, temporary: true };
    let leased = f.ctx.clone().with_lease("l");
    f.manager.activate(&leased, "one", wanted.clone()).await.unwrap();
    let other = Context::new(Namespace::new("other").unwrap());
    f.manager.activate(&other, "one", wanted.clone()).await.unwrap();
    let gone = f.ctx.clone().with_lease("gone");
    assert_eq!(kind(f.manager.activate(&gone, "two", wanted).await), Kind::NotFound);
    let held = LEASE_RESOURCES.list(&f.db, "testing").unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].1.kind.as_str(), held[0].1.id.as_str()), ("mounts", "one"));

    let list = async |filter: &str| {
        let filters = Filters::parse(&[filter]).unwrap();
        f.manager.list(&f.ctx, &filters).await.unwrap().len()
    };
    assert_eq!((list("name==one").await, list("labels.\"a.b/c\"==1").await), (1, 1));
    assert_eq!(list("name==two").await, 0);
    use gantry_core::LabelMask;
    let new = Labels::from([("x".to_owned(), "y".to_owned())]);
    let mask = LabelMask::Keys(vec!["x".into(), "a.b/c".into()]);
    let changed = f.manager.update(&f.ctx, "one", new.clone(), mask).await.unwrap();
    assert_eq!(changed.labels, new);
    let missing = f.manager.update(&f.ctx, "two", new, LabelMask::All).await;
    assert_eq!(kind(missing), Kind::NotFound);

    f.manager.deactivate(&f.ctx, "one").await.unwrap();
    assert!(LEASE_RESOURCES.list(&f.db, "testing").unwrap().is_empty());
    let number =
        write_blocking(&f.db, Durability::Sync, &mut |tx| f.manager.forget(tx, &other, "one"));
    f.manager.release(&other, vec![("one".into(), number.unwrap())]).await;
    assert_eq!(f.left(), 0);
}
