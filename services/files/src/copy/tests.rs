use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    Gid, SeekFrom, Timespec, Timestamps, Uid, XattrFlags, chownat, futimens, lgetxattr, lsetxattr,
    makedev, seek, setxattr,
};
use tempfile::TempDir;

use super::*;

/// `cap_net_bind_service=ep`, as the kernel keeps it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn pair() -> (TempDir, TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

fn copy(from: &Path, to: &Path) {
    copy_tree(from, to, CopyOptions::default()).unwrap();
}

fn attribute(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 100];
    let len = lgetxattr(path, name, value.as_mut_slice()).unwrap();
    value.truncate(len);
    value
}

fn age(path: &Path) {
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    futimens(fs::File::open(path).unwrap(), &times).unwrap();
}

#[test]
fn a_copy_that_nobody_wants_any_more_ends() {
    let (from, to) = pair();
    for n in 0..10 {
        fs::write(from.path().join(n.to_string()), "x").unwrap();
    }
    let asked = Cell::new(0);
    let wanted = || {
        asked.set(asked.get() + 1);
        asked.get() < 5
    };
    let ended = copy_tree_while(from.path(), to.path(), CopyOptions::default(), &wanted);
    assert_eq!(ended.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(asked.get(), 5, "it ends at once");
    assert!(fs::read_dir(to.path()).unwrap().count() < 10);
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    let (from, to) = pair();
    let own = |name: &str, uid: u32| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid + 1));
        let path = from.path().join(name);
        chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    let mode = |name: &str, mode: u32| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(from.path().join(name), mode).unwrap();
    };
    fs::create_dir(from.path().join("d")).unwrap();
    fs::write(from.path().join("d/tool"), "#!").unwrap();
    symlink("/etc/passwd", from.path().join("l")).unwrap();
    own("d/tool", 1000);
    own("l", 1002);
    own("d", 1004);
    own("", 1006);
    mode("d/tool", 0o4755);
    mode("d", 0o1777);
    mode("", 0o750);
    let tool = from.path().join("d/tool");
    setxattr(&tool, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
    lsetxattr(from.path().join("l"), "trusted.l", b"v", XattrFlags::empty()).unwrap();
    setxattr(from.path().join("d"), "trusted.d", b"", XattrFlags::empty()).unwrap();
    for name in ["d/tool", "d", ""] {
        age(&from.path().join(name));
    }

    copy(from.path(), to.path());
    for (name, uid, bits) in [("d/tool", 1000, 0o104755), ("d", 1004, 0o41777), ("", 1006, 0o40750)]
    {
        let copy = fs::metadata(to.path().join(name)).unwrap();
        assert_eq!((copy.uid(), copy.gid(), copy.mode()), (uid, uid + 1, bits), "{name}");
        assert_eq!((copy.mtime(), copy.mtime_nsec()), (1_000_000_000, 5), "{name}");
    }
    let link = fs::symlink_metadata(to.path().join("l")).unwrap();
    assert_eq!((link.uid(), link.gid()), (1002, 1003));
    assert_eq!(fs::read_link(to.path().join("l")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(attribute(&to.path().join("d/tool"), "security.capability"), CAPABILITY);
    assert_eq!(attribute(&to.path().join("l"), "trusted.l"), b"v");
    assert_eq!(attribute(&to.path().join("d"), "trusted.d"), b"");
}

#[test]
fn hard_links_holes_and_nodes_are_kept() {
    let (from, to) = pair();
    let path = |name: &str| from.path().join(name);
    fs::create_dir_all(path("a/b")).unwrap();
    fs::write(path("a/b/one"), "same").unwrap();
    fs::hard_link(path("a/b/one"), path("two")).unwrap();
    symlink("x", path("s1")).unwrap();
    fs::hard_link(path("s1"), path("a/s2")).unwrap();
    let mut sparse = vec![0; 1 << 20];
    sparse[600_000] = 7;
    let file = fs::File::create(path("sparse")).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[7], 600_000).unwrap();
    fs::File::create(path("hole")).unwrap().set_len(1 << 30).unwrap();
    let nodes = [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("loop", FileType::BlockDevice, makedev(7, 200)),
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
    ];
    for (name, kind, device) in nodes {
        mknodat(CWD, path(name), kind, Mode::RUSR, device).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o606)).unwrap();
    }

    copy_tree(from.path(), to.path(), CopyOptions { flush: true }).unwrap();
    let copied = |name: &str| fs::symlink_metadata(to.path().join(name)).unwrap();
    assert_eq!(copied("a/b/one").ino(), copied("two").ino());
    assert_eq!(copied("s1").ino(), copied("a/s2").ino());
    assert_eq!(copied("two").nlink(), 2);
    assert_eq!(fs::read(to.path().join("sparse")).unwrap(), sparse);
    assert!(copied("sparse").blocks() * 512 < 1 << 19, "{}", copied("sparse").blocks());
    assert_eq!((copied("hole").len(), copied("hole").blocks()), (1 << 30, 0));
    let file = fs::File::open(to.path().join("sparse")).unwrap();
    assert!(seek(&file, SeekFrom::Data(0)).unwrap() > 0);
    for (name, _, device) in nodes {
        let node = copied(name);
        assert_eq!((node.mode() & 0o777, node.rdev()), (0o606, device), "{name}");
    }
    assert!(copied("null").file_type().is_char_device());
    assert!(copied("loop").file_type().is_block_device());
    assert!(copied("fifo").file_type().is_fifo());
    assert!(copied("socket").file_type().is_socket());
}

#[test]
fn trees_of_any_depth_are_copied() {
    let (from, to) = pair();
    let mut dir = openat(CWD, from.path(), DIRECTORY, Mode::empty()).unwrap();
    let levels = 5 * LEVELS;
    for _ in 0..levels {
        mkdirat(&dir, "directory", Mode::RWXU).unwrap();
        dir = openat(&dir, "directory", DIRECTORY, Mode::empty()).unwrap();
    }
    let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    openat(&dir, "file", make, Mode::RUSR).unwrap();
    linkat(&dir, "file", CWD, from.path().join("a"), AtFlags::empty()).unwrap();
    copy(from.path(), to.path());
    let deep: PathBuf = std::iter::repeat_n("directory", levels).collect();
    let root = openat(CWD, to.path(), DIRECTORY, Mode::empty()).unwrap();
    let deepest = beneath(&root, &deep).unwrap();
    let copied = openat(&deepest, "file", OFlags::RDONLY, Mode::empty()).unwrap();
    let first = fs::metadata(to.path().join("a")).unwrap();
    assert_eq!(fstat(&copied).unwrap().st_ino, first.ino());
    assert_eq!(first.nlink(), 2);
}

#[test]
fn a_tree_is_copied_into_itself_once() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let to = root.path().join("copy");
    fs::create_dir(&to).unwrap();
    copy(root.path(), &to);
    let names: Vec<_> = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
}

#[test]
fn what_is_open_is_named_by_its_descriptor() {
    let (from, to) = pair();
    fs::write(from.path().join("file"), "x").unwrap();
    let open = fs::File::open(from.path()).unwrap();
    copy(&Path::new(&through(open.as_fd())).join("."), to.path());
    assert!(to.path().join("file").exists());
    let link = to.path().join("link");
    symlink(from.path(), &link).unwrap();
    copy_tree(&link, to.path(), CopyOptions::default()).unwrap_err();
}

/// A process that replaces what is copied never has anything from outside copied.
#[test]
fn no_race_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let from = tempfile::tempdir().unwrap();
    let (entry, spare) = (from.path().join("d"), from.path().join("spare"));
    fs::create_dir(&entry).unwrap();
    fs::write(entry.join("plain"), "plain").unwrap();
    symlink(outside.path(), &spare).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200_000 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &entry, CWD, &spare, exchange).unwrap();
            }
        });
        for _ in 0..300 {
            let to = tempfile::tempdir().unwrap();
            // An entry may be met twice, under both names, or be a link when it is entered.
            let _ = copy_tree(from.path(), to.path(), CopyOptions::default());
            for name in ["d", "spare"] {
                let copied = to.path().join(name);
                let is_link = fs::symlink_metadata(&copied).is_ok_and(|m| m.is_symlink());
                assert!(is_link || !copied.join("secret").exists());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
