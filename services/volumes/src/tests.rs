mod halfway;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use gantry_core::db::memory::MemoryDatabase;
use gantry_core::volumes::Options;
use gantry_core::{Kind, Labels, Namespace};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use tempfile::TempDir;

use super::*;

/// Volumes on a directory and a database of their own.
struct Host {
    root: TempDir,
    db: MemoryDatabase,
    volumes: LocalVolumes,
    ctx: Context,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let db = MemoryDatabase::new();
        let volumes = LocalVolumes::open(root.path(), db.shared()).unwrap();
        let ctx = Context::new(Namespace::new("testing").unwrap());
        Self { root, db, volumes, ctx }
    }

    /// The same after the daemon was killed and started again.
    async fn restarted(self) -> Self {
        let volumes = LocalVolumes::open(self.root.path(), self.db.shared()).unwrap();
        volumes.recover().await.unwrap();
        Self { volumes, ..self }
    }

    fn key(&self, name: &str) -> Key {
        (self.ctx.namespace.clone(), name.to_owned())
    }

    fn data(&self, name: &str) -> PathBuf {
        self.volumes.inner.places.data(&self.key(name))
    }

    async fn create(&self, name: &str) -> Volume {
        let new = NewVolume { name: name.into(), ..NewVolume::default() };
        self.volumes.create(&self.ctx, new).await.unwrap().0
    }

    async fn names(&self) -> Vec<String> {
        let all = self.volumes.list(&self.ctx).await.unwrap();
        all.into_iter().map(|volume| volume.name).collect()
    }

    /// An image's directory with a file in a directory, owned by somebody.
    fn image(&self) -> PathBuf {
        let image = self.root.path().join("image");
        fs::create_dir_all(image.join("d")).unwrap();
        fs::write(image.join("d/f"), "content").unwrap();
        fs::write(image.join("g"), "").unwrap();
        std::os::unix::fs::chown(&image, Some(70), Some(71)).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o1777)).unwrap();
        image
    }
}

fn new(name: &str) -> NewVolume {
    NewVolume { name: name.into(), ..NewVolume::default() }
}

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: Kind) -> String {
    let err = result.unwrap_err();
    assert_eq!(err.kind(), kind, "{err}");
    err.to_string()
}

#[tokio::test]
async fn a_volume_is_made_once() {
    let host = Host::new();
    let labels = Labels::from([("a".to_owned(), "1".to_owned())]);
    let wanted = NewVolume { labels: labels.clone(), ..new("data") };
    let (made, newly) = host.volumes.create(&host.ctx, wanted).await.unwrap();
    assert!(newly && !made.is_anonymous() && !made.is_read_only());
    assert_eq!((made.name.as_str(), made.driver(), &made.labels), ("data", "local", &labels));
    assert_eq!(made.mountpoint, host.root.path().join("volumes/testing/data/_data"));
    let found = fs::metadata(&made.mountpoint).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o755, 0));

    let (again, newly) = host.volumes.create(&host.ctx, new("data")).await.unwrap();
    assert_eq!((again, newly), (made.clone(), false));
    assert_eq!(host.volumes.get(&host.ctx, "data").await.unwrap(), made);
    assert_eq!(host.names().await, ["data"]);

    let host = host.restarted().await;
    assert_eq!(host.volumes.get(&host.ctx, "data").await.unwrap(), made);
    let elsewhere = Context::new(Namespace::new("elsewhere").unwrap());
    let gone = host.volumes.get(&elsewhere, "data").await;
    assert_eq!(refused(gone, Kind::NotFound), "get data: no such volume");
}

#[tokio::test]
async fn names_are_checked_and_chosen() {
    let host = Host::new();
    let bad = host.volumes.create(&host.ctx, new("x/y")).await;
    let why = refused(bad, Kind::InvalidArgument);
    assert!(
        why.starts_with("create x/y: \"x/y\" includes invalid characters for a local"),
        "{why}"
    );
    for name in ["../../etc", "a", "", "a\0b"] {
        let (volumes, ctx) = (&host.volumes, &host.ctx);
        refused(volumes.get(ctx, name).await, Kind::NotFound);
        refused(volumes.remove(ctx, name).await, Kind::NotFound);
        refused(volumes.fill(ctx, name, host.root.path()).await, Kind::NotFound);
        host.create("here").await;
        refused(volumes.rename(ctx, "here", name).await, Kind::InvalidArgument);
    }
    let (one, newly) = host.volumes.create(&host.ctx, new("")).await.unwrap();
    let (two, _) = host.volumes.create(&host.ctx, new("")).await.unwrap();
    assert!(newly && one.is_anonymous() && one.name != two.name);
    assert_eq!((one.name.len(), one.labels[ANONYMOUS].as_str()), (64, ""));
    let driver = NewVolume { driver: "nfs".into(), ..new("dd") };
    let why = refused(host.volumes.create(&host.ctx, driver).await, Kind::NotFound);
    assert_eq!(why, "error looking up volume plugin nfs: plugin \"nfs\" not found");
}

#[tokio::test]
async fn options_are_kept_and_may_not_differ() {
    let host = Host::new();
    let tmpfs = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]);
    let wanted = NewVolume { options: tmpfs.clone(), ..new("fast") };
    let (made, _) = host.volumes.create(&host.ctx, wanted.clone()).await.unwrap();
    assert_eq!(made.device_mount().unwrap().unwrap().options, ["size=1m"]);
    assert!(!host.volumes.create(&host.ctx, wanted).await.unwrap().1);
    // Whoever uses it by its name alone has no wishes.
    assert_eq!(host.create("fast").await.options, tmpfs);
    let bind = options(&[("type", "none"), ("device", "/srv"), ("o", "bind")]);
    let other = NewVolume { options: bind, ..new("fast") };
    refused(host.volumes.create(&host.ctx, other).await, Kind::AlreadyExists);
    let unknown = NewVolume { options: options(&[("size", "1")]), ..new("bad") };
    let why = refused(host.volumes.create(&host.ctx, unknown).await, Kind::InvalidArgument);
    assert_eq!(why, "create bad: invalid option: \"size\"");
    assert_eq!(host.names().await, ["fast"]);
    assert!(!host.volumes.fill(&host.ctx, "fast", &host.image()).await.unwrap());
    let copy = host.volumes.copy(&host.ctx, "fast", new("copy"), CopyKind::Clone).await;
    refused(copy, Kind::FailedPrecondition);
    assert!(host.volumes.sizes(&host.ctx).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_is_free_at_once() {
    let host = Host::new();
    host.create("data").await;
    fs::write(host.data("data").join("old"), vec![1; 100_000]).unwrap();
    assert!(host.volumes.sizes(&host.ctx).await.unwrap()["data"] >= 100_000);
    host.volumes.remove(&host.ctx, "data").await.unwrap();
    assert_eq!(host.names().await, [""; 0]);
    let again = host.volumes.remove(&host.ctx, "data").await;
    assert_eq!(refused(again, Kind::NotFound), "get data: no such volume");
    host.create("data").await;
    assert!(!host.data("data").join("old").exists());
    assert!(host.volumes.sizes(&host.ctx).await.unwrap()["data"] < 100_000);
    host.volumes.inner.trash.empty().await.unwrap();
    let removed = host.root.path().join("volumes/.removed");
    assert_eq!(fs::read_dir(removed).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_mounted_is_not_removed() {
    let host = Host::new();
    let volume = host.create("data").await;
    let elsewhere = host.root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    rustix::mount::mount_bind(&elsewhere, &volume.mountpoint).unwrap();
    let removed = host.volumes.remove(&host.ctx, "data").await;
    let renamed = host.volumes.rename(&host.ctx, "data", "other").await;
    rustix::mount::unmount(&volume.mountpoint, rustix::mount::UnmountFlags::DETACH).unwrap();
    refused(removed, Kind::FailedPrecondition);
    refused(renamed, Kind::FailedPrecondition);
    host.volumes.remove(&host.ctx, "data").await.unwrap();
}

#[tokio::test]
async fn a_new_name_keeps_the_files() {
    let host = Host::new();
    host.create("old").await;
    host.create("taken").await;
    fs::write(host.data("old").join("f"), "kept").unwrap();
    let snapshot = host.volumes.copy(&host.ctx, "old", new("snap"), CopyKind::Snapshot).await;
    assert_eq!(snapshot.unwrap().snapshot_of.as_deref(), Some("old"));
    for taken in ["taken", "old"] {
        refused(host.volumes.rename(&host.ctx, "old", taken).await, Kind::AlreadyExists);
    }
    refused(host.volumes.rename(&host.ctx, "none", "nothing").await, Kind::NotFound);
    let renamed = host.volumes.rename(&host.ctx, "old", "new").await.unwrap();
    assert_eq!((renamed.name.as_str(), &renamed.mountpoint), ("new", &host.data("new")));
    let host = host.restarted().await;
    assert_eq!(host.names().await, ["new", "snap", "taken"]);
    assert_eq!(fs::read_to_string(host.data("new").join("f")).unwrap(), "kept");
    let snapshot = host.volumes.get(&host.ctx, "snap").await.unwrap();
    assert_eq!(snapshot.snapshot_of.as_deref(), Some("new"));
    let (_, newly) = host.volumes.create(&host.ctx, new("old")).await.unwrap();
    assert!(newly && !host.data("old").join("f").exists());
}

#[tokio::test]
async fn an_empty_volume_is_filled_once() {
    let host = Host::new();
    let image = host.image();
    host.create("data").await;
    let inode = fs::metadata(host.data("data")).unwrap().ino();
    assert!(host.volumes.fill(&host.ctx, "data", &image).await.unwrap());
    let found = fs::metadata(host.data("data")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (70, 71, 0o1777));
    assert_eq!(found.ino(), inode, "who has it mounted sees the content");
    assert_eq!(fs::read_to_string(host.data("data").join("d/f")).unwrap(), "content");
    let left: Vec<_> = places::names(host.data("data").parent().unwrap()).unwrap();
    assert_eq!(left, [PathBuf::from("_data")]);

    // It has content now.
    fs::remove_file(host.data("data").join("g")).unwrap();
    assert!(!host.volumes.fill(&host.ctx, "data", &image).await.unwrap());
    assert!(!host.data("data").join("g").exists());
    // Nothing to fill it with.
    host.create("empty").await;
    assert!(!host.volumes.fill(&host.ctx, "empty", &image.join("gone")).await.unwrap());
    assert!(!host.volumes.fill(&host.ctx, "empty", &host.data("empty")).await.unwrap());
    assert!(host.volumes.fill(&host.ctx, "empty", &image.join(".")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_fill_a_volume_one_does() {
    let host = Arc::new(Host::new());
    let image = host.image();
    host.create("data").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (host, image) = (Arc::clone(&host), image.clone());
            tokio::spawn(async move {
                let filled = host.volumes.fill(&host.ctx, "data", &image).await.unwrap();
                assert!(host.data("data").join("d/f").exists());
                usize::from(filled)
            })
        })
        .collect();
    let mut filled = 0;
    for task in tasks {
        filled += task.await.unwrap();
    }
    assert_eq!(filled, 1);
}

#[tokio::test]
async fn a_copy_has_everything() {
    let host = Host::new();
    host.create("from").await;
    let from = |name: &str| host.data("from").join(name);
    fs::create_dir(from("d")).unwrap();
    fs::write(from("d/one"), "same").unwrap();
    fs::hard_link(from("d/one"), from("two")).unwrap();
    fs::set_permissions(from("two"), fs::Permissions::from_mode(0o4750)).unwrap();
    setxattr(from("two"), "trusted.note", b"n", XattrFlags::empty()).unwrap();
    symlink("/nowhere", from("link")).unwrap();
    let sparse = fs::File::create(from("sparse")).unwrap();
    sparse.set_len(1 << 24).unwrap();
    sparse.write_all_at(b"x", 5 << 20).unwrap();

    let labels = Labels::from([("a".to_owned(), "1".to_owned())]);
    let wanted = NewVolume { labels: labels.clone(), ..new("to") };
    let copy = host.volumes.copy(&host.ctx, "from", wanted.clone(), CopyKind::Clone).await;
    let copy = copy.unwrap();
    assert_eq!((copy.labels, copy.snapshot_of), (labels, None));
    let to = |name: &str| host.data("to").join(name);
    assert_eq!(fs::metadata(to("d/one")).unwrap().ino(), fs::metadata(to("two")).unwrap().ino());
    assert_eq!(fs::metadata(to("two")).unwrap().mode() & 0o7777, 0o4750);
    let mut value = [0; 10];
    assert_eq!(getxattr(to("two"), "trusted.note", &mut value), Ok(1));
    assert_eq!(fs::read_link(to("link")).unwrap(), PathBuf::from("/nowhere"));
    let copied = fs::metadata(to("sparse")).unwrap();
    assert!(copied.len() == 1 << 24 && copied.blocks() * 512 < 1 << 20);
    // They are two by now.
    fs::write(from("d/one"), "changed").unwrap();
    assert_eq!(fs::read_to_string(to("two")).unwrap(), "same");

    let again = host.volumes.copy(&host.ctx, "from", wanted, CopyKind::Clone).await;
    refused(again, Kind::AlreadyExists);
    let none = host.volumes.copy(&host.ctx, "none", new("x1"), CopyKind::Clone).await;
    refused(none, Kind::NotFound);
}

#[tokio::test]
async fn a_copy_is_given_up_with_its_caller() {
    let host = Host::new();
    host.create("from").await;
    for n in 0..5000 {
        fs::write(host.data("from").join(n.to_string()), "x").unwrap();
    }
    let begun = async {
        while fs::read_dir(host.data("to")).map_or(true, |mut dir| dir.next().is_none()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = host.volumes.copy(&host.ctx, "from", new("to"), CopyKind::Clone) => panic!("too fast"),
        () = begun => {}
    }
    // Whoever asks next waits until it is taken away.
    host.volumes.remove(&host.ctx, "to").await.unwrap_err();
    assert!(!host.data("to").exists());
    assert_eq!(fs::read_dir(host.data("from")).unwrap().count(), 5000);
}

#[tokio::test]
async fn a_snapshot_stays_as_it_is() {
    let host = Host::new();
    host.create("data").await;
    fs::write(host.data("data").join("f"), "then").unwrap();
    let snapshot = host.volumes.copy(&host.ctx, "data", new("snap"), CopyKind::Snapshot).await;
    let snapshot = snapshot.unwrap();
    assert!(snapshot.is_read_only());
    fs::write(host.data("data").join("f"), "now").unwrap();
    host.volumes.remove(&host.ctx, "data").await.unwrap();
    assert_eq!(fs::read_to_string(host.data("snap").join("f")).unwrap(), "then");
    // And back.
    let back = host.volumes.copy(&host.ctx, "snap", new("data"), CopyKind::Clone).await.unwrap();
    assert!(!back.is_read_only());
    assert_eq!(fs::read_to_string(back.mountpoint.join("f")).unwrap(), "then");
    host.create("bare").await;
    let bare = host.volumes.copy(&host.ctx, "bare", new("still"), CopyKind::Snapshot).await;
    bare.unwrap();
    assert!(!host.volumes.fill(&host.ctx, "still", &host.image()).await.unwrap());
}

#[tokio::test]
async fn what_is_copied_stays_meanwhile() {
    let host = Host::new();
    host.create("data").await;
    let source = host.volumes.inner.source(&host.key("data")).unwrap();
    let second = host.volumes.inner.source(&host.key("data")).unwrap();
    refused(host.volumes.remove(&host.ctx, "data").await, Kind::FailedPrecondition);
    drop(source);
    refused(host.volumes.rename(&host.ctx, "data", "other").await, Kind::FailedPrecondition);
    drop(second);
    host.volumes.remove(&host.ctx, "data").await.unwrap();
}
