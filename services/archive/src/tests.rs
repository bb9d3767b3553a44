//! Directories packed and unpacked again, and archives and directories that mean harm.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use gantry_core::{Error, Kind, Result};
use rustix::fs::{
    CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags, getxattr, makedev, mknodat, open,
    renameat_with, setxattr,
};
use tar::{EntryType, Header};
use tempfile::TempDir;

use crate::Limits;
use crate::input::Input;
use crate::pack::{PackOptions, Packer, shows_kernel};
use crate::unpack::{Owner, UnpackOptions, Unpacked, unpack};
use crate::walk::{Dir, Found, Links, Node, Walker};

/// Archives as nobody makes them.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn add(mut self, kind: EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.add(EntryType::Regular, path, "", 0o644, data.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", 0o755, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, 0o777, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, target, 0o644, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A root, a directory in it to unpack into, and something outside.
struct Fixture {
    top: TempDir,
    options: UnpackOptions,
    links: Links,
}

impl Fixture {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("root/into")).unwrap();
        fs::write(top.path().join("outside"), "untouched").unwrap();
        let options = UnpackOptions {
            owner: Owner::Kept,
            trusted: true,
            replace: false,
            expected: None,
            renamed: None,
        };
        Self { top, options, links: Links::Follow }
    }

    fn root(&self) -> PathBuf {
        self.top.path().join("root")
    }

    fn target(&self) -> PathBuf {
        self.root().join("into")
    }

    fn walker(&self) -> Walker {
        Walker::new(root_of(&self.root()), self.links)
    }

    fn unpack(&self, archive: Vec<u8>) -> Result<Unpacked> {
        let walker = self.walker();
        let Ok(Found::Directory(into)) = walker.walk(walker.root(), b"/into", true) else {
            panic!("it is there")
        };
        unpack(input(archive), walker, into, self.options.clone(), Limits::default())
    }

    fn assert_outside_untouched(&self) {
        assert_eq!(fs::read_to_string(self.top.path().join("outside")).unwrap(), "untouched");
        assert_eq!(names(self.top.path()), ["outside", "root"]);
    }
}

fn root_of(path: &Path) -> Rc<Dir> {
    let fd = open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Dir::root(Node::of(fd).unwrap())
}

/// The archive in pieces that fit nothing.
fn input(archive: Vec<u8>) -> Input {
    let pieces: Vec<_> = archive.chunks(777).map(Bytes::copy_from_slice).collect();
    let mut pieces = pieces.into_iter();
    Input::new(move || pieces.next().map(Ok))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn refused(result: Result<Unpacked>) -> Error {
    let err = result.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument, "{err}");
    err
}

fn pack(dir: &Path, name: &str, options: PackOptions) -> Vec<u8> {
    let fd = open(dir, OFlags::PATH, Mode::empty()).unwrap();
    let mut packer = Packer::new(Vec::new(), options);
    packer.add_tree(name.as_bytes(), &Node::of(fd).unwrap()).unwrap();
    packer.finish().unwrap()
}

fn make_tree(dir: &Path) {
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    fs::write(dir.join("sub/file"), vec![7; 300_000]).unwrap();
    fs::hard_link(dir.join("sub/file"), dir.join("other-name")).unwrap();
    symlink("/etc/passwd", dir.join("link")).unwrap();
    let long = "n".repeat(200);
    fs::write(dir.join(&long), "long").unwrap();
    symlink("t".repeat(150), dir.join("long-link")).unwrap();
    fs::write(dir.join("owned"), "o").unwrap();
    chown(dir.join("owned"), Some(3_000_000), Some(7)).unwrap();
    fs::set_permissions(dir.join("owned"), fs::Permissions::from_mode(0o4755)).unwrap();
    setxattr(dir.join("owned"), "user.mine", b"v", XattrFlags::empty()).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, dir.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    let holes = fs::File::create(dir.join("holes")).unwrap();
    holes.write_at(b"middle", 8 << 20).unwrap();
    holes.set_len(16 << 20).unwrap();
    fs::set_permissions(dir.join("sub"), fs::Permissions::from_mode(0o1700)).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    for path in ["sub/file", "sub"] {
        fs::File::open(dir.join(path)).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn trees_come_out_as_they_went_in() {
    let f = Fixture::new();
    let from = tempfile::tempdir().unwrap();
    make_tree(from.path());
    let sparse = PackOptions { sparse: true, exact: true, newest: None };
    let archive = pack(from.path(), "tree", sparse);
    assert!(archive.len() < 1 << 20, "holes take no room: {}", archive.len());
    assert_eq!(f.unpack(archive).unwrap(), Unpacked::default());
    let to = f.target().join("tree");
    let mut expected = names(from.path());
    expected.retain(|name| name != "socket");
    assert_eq!(names(&to), expected);
    for path in ["sub", "sub/deep", "sub/file", "other-name", "owned", "holes", "fifo", "null"] {
        let (a, b) = (fs::symlink_metadata(from.path().join(path)), to.join(path));
        let (a, b) = (a.unwrap(), fs::symlink_metadata(b).unwrap());
        let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.rdev(), m.mtime());
        assert_eq!(facts(&a), facts(&b), "{path}");
        assert_eq!(a.mtime_nsec(), b.mtime_nsec(), "{path}");
    }
    for path in ["sub/file", "holes", "owned", &"n".repeat(200)] {
        assert!(fs::read(from.path().join(path)).unwrap() == fs::read(to.join(path)).unwrap());
    }
    assert_eq!(fs::metadata(to.join("other-name")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert!(fs::metadata(to.join("holes")).unwrap().blocks() < 1000, "holes stay holes");
    let mut value = [0; 8];
    assert_eq!(getxattr(to.join("owned"), "user.mine", value.as_mut_slice()), Ok(1));

    // For those who don't know of holes.
    let plain = pack(from.path(), ".", PackOptions::default());
    assert!(plain.len() > 16 << 20);
    f.unpack(plain).unwrap();
    assert_eq!(names(&f.target().join("sub")), ["deep", "file"]);
}

#[test]
fn directories_of_the_kernel_are_known() {
    let shows = |path: &Path| shows_kernel(&Node::local(path, true).unwrap());
    assert!(shows(Path::new("/proc")) && shows(Path::new("/proc/self/task")));
    assert!(!shows(Path::new("/proc/self/status")), "a file, which is read");
    assert!(!shows(tempfile::tempdir().unwrap().path()));
}

#[test]
fn nothing_leads_outside() {
    let f = Fixture::new();
    f.unpack(Tar::default().file("../outside", "x").file("/abs", "y").end()).unwrap();
    assert_eq!(names(&f.target()), ["abs", "outside"]);
    for target in ["..", "../../..", "/", "/.."] {
        let archive = Tar::default().symlink("out", target).file("out/planted", "p").end();
        f.unpack(archive).unwrap();
        assert_eq!(fs::read_to_string(f.root().join("planted")).unwrap(), "p", "{target}");
        fs::remove_file(f.root().join("planted")).unwrap();
    }
    fs::remove_file(f.target().join("outside")).unwrap();
    for target in ["../outside", "/outside", "out/outside"] {
        refused(f.unpack(Tar::default().hard_link("got", target).end()));
    }
    f.assert_outside_untouched();
    // What is there already is no way out either.
    symlink(f.top.path(), f.target().join("planted")).unwrap();
    symlink(f.top.path().join("outside"), f.target().join("file")).unwrap();
    f.unpack(Tar::default().file("file", "new").end()).unwrap();
    assert!(!f.target().join("file").is_symlink());
    f.unpack(Tar::default().file("planted/outside", "in").end()).unwrap_err();
    f.assert_outside_untouched();
}

#[test]
fn links_on_the_way_are_refused_when_asked() {
    let mut f = Fixture::new();
    f.links = Links::Refuse;
    let up = Tar::default().symlink("up", "..").file("up/planted", "x").end();
    refused(f.unpack(up));
    symlink(f.top.path(), f.target().join("there")).unwrap();
    refused(f.unpack(Tar::default().file("there/outside", "x").end()));
    refused(f.unpack(Tar::default().hard_link("got", "there/outside").end()));
    assert_eq!(names(&f.target()), ["there", "up"]);
    f.assert_outside_untouched();
}

#[test]
fn directories_and_others_keep_apart() {
    let mut f = Fixture::new();
    fs::create_dir(f.target().join("d")).unwrap();
    fs::write(f.target().join("d/kept"), "k").unwrap();
    fs::write(f.target().join("f"), "file").unwrap();
    let err = refused(f.unpack(Tar::default().file("d", "x").end()));
    let words = "cannot overwrite directory \"/into/d\" with non-directory \"d\"";
    assert!(err.to_string().contains(words), "{err}");
    let err = refused(f.unpack(Tar::default().dir("f/").end()));
    let words = "cannot overwrite non-directory \"/into/f\" with directory \"f/\"";
    assert!(err.to_string().contains(words), "{err}");
    assert_eq!(fs::read_to_string(f.target().join("d/kept")).unwrap(), "k");
    f.options.replace = true;
    f.unpack(Tar::default().file("d", "x").dir("f/").file("f/in", "y").end()).unwrap();
    assert_eq!(fs::read_to_string(f.target().join("d")).unwrap(), "x");
    assert_eq!(fs::read_to_string(f.target().join("f/in")).unwrap(), "y");
}

#[test]
fn what_is_cut_off_is_not_there() {
    let f = Fixture::new();
    fs::write(f.target().join("b"), "before").unwrap();
    let whole = Tar::default().dir("d/").file("d/a", "whole").file("b", &"x".repeat(9000)).end();
    refused(f.unpack(whole[..4000].to_vec()));
    assert_eq!(names(&f.target()), ["b", "d"]);
    assert_eq!(fs::read_to_string(f.target().join("b")).unwrap(), "before");
    assert_eq!(names(&f.target().join("d")), ["a"]);
    let d = fs::metadata(f.target().join("d")).unwrap();
    assert_eq!((d.mtime(), d.uid()), (1_600_000_000, 7), "what stays is as it should be");
}

#[test]
fn strangers_get_no_power() {
    let mut f = Fixture::new();
    let archive = || {
        Tar::default()
            .add(EntryType::Regular, "su", "", 0o6755, b"x")
            .add(EntryType::Char, "null", "", 0o666, b"")
            .end()
    };
    let mode = |f: &Fixture| fs::metadata(f.target().join("su")).unwrap().mode() & 0o7777;
    f.unpack(archive()).unwrap();
    assert_eq!(mode(&f), 0o6755);
    fs::remove_file(f.target().join("null")).unwrap();
    f.options = UnpackOptions { owner: Owner::Ours, trusted: false, ..f.options };
    assert_eq!(f.unpack(archive()).unwrap(), Unpacked { left_out: 1 });
    let su = fs::metadata(f.target().join("su")).unwrap();
    assert_eq!((mode(&f), su.uid()), (0o755, rustix::process::geteuid().as_raw()));
    assert_eq!(names(&f.target()), ["su"]);
}

#[test]
fn names_are_those_that_were_asked_for() {
    let mut f = Fixture::new();
    f.options.expected = Some(b"app".to_vec());
    for path in ["other", ".bashrc", "../app", "x/../other"] {
        let result = f.unpack(Tar::default().file(path, "x").end());
        assert_eq!(result.is_err(), path != "../app", "{path}");
    }
    f.options.renamed = Some(b"new".to_vec());
    let archive = Tar::default().dir("app/").file("app/a", "1").hard_link("app/b", "app/a").end();
    f.unpack(archive.clone()).unwrap();
    assert_eq!(names(&f.target().join("new")), ["a", "b"]);
    // Once more, over what is there: names of one file stay so.
    f.unpack(archive).unwrap();
    assert_eq!(names(&f.target().join("new")), ["a", "b"]);
    assert_eq!(fs::metadata(f.target().join("new/b")).unwrap().nlink(), 2);
    f.options.expected = None;
    f.options.renamed = Some(b"whole".to_vec());
    f.unpack(Tar::default().dir("./").file("./x", "1").end()).unwrap();
    assert_eq!(names(&f.target().join("whole")), ["x"]);
}

#[test]
fn walks_know_links_dots_and_ends() {
    let f = Fixture::new();
    fs::create_dir_all(f.root().join("a/b")).unwrap();
    fs::write(f.root().join("a/b/file"), "").unwrap();
    symlink("/a/b/", f.root().join("into/ab")).unwrap();
    symlink("../a/../a/b/none", f.root().join("into/dangling")).unwrap();
    symlink("loop", f.root().join("loop")).unwrap();
    let walker = f.walker();
    let walk = |path: &str, follow| walker.walk(walker.root(), path.as_bytes(), follow);
    let path = |path: &str| String::from_utf8(walk(path, true).unwrap().path()).unwrap();
    assert_eq!(path("into/ab/../../../.."), "/");
    assert_eq!(path("//into/./ab/"), "/a/b");
    assert_eq!(path("into/ab/file"), "/a/b/file");
    assert_eq!(path("into/dangling"), "/a/b/none");
    assert_eq!(path("/"), "/");
    assert!(matches!(walk("into/ab", false), Ok(Found::Other { .. })));
    assert!(matches!(walk("into/ab/", false), Ok(Found::Directory(_))));
    assert!(matches!(walk("a/new", false), Ok(Found::Nothing { .. })));
    let failed = |path: &str| walk(path, true).unwrap_err();
    assert_eq!(failed("a/b/file/"), rustix::io::Errno::NOTDIR);
    assert_eq!(failed("a/b/file/x"), rustix::io::Errno::NOTDIR);
    assert_eq!(failed("a/new/x"), rustix::io::Errno::NOENT);
    assert_eq!(failed("loop"), rustix::io::Errno::LOOP);
    assert_eq!(failed(&"d/".repeat(3000)), rustix::io::Errno::NAMETOOLONG);
    let made = walker.directories(walker.root(), b"a/new/er", Mode::RWXU).unwrap();
    assert_eq!(made.path(), b"/a/new/er");
}

#[test]
fn exchanged_links_lead_nowhere_else() {
    let f = Fixture::new();
    let (inside, outside) = (f.root().join("swap"), f.top.path().join("host"));
    for (dir, text) in [(&inside, "inside"), (&outside, "outside")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), text).unwrap();
    }
    symlink(&outside, f.root().join("link")).unwrap();
    let (done, root) = (AtomicBool::new(false), f.root());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // So often at most, should the test fail.
            for _ in 0..1_000_000 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let (a, b) = (root.join("swap"), root.join("link"));
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let (mut read, walker) = (0, f.walker());
        for _ in 0..3000 {
            let Ok(Found::Other { node, .. }) = walker.walk(walker.root(), b"swap/file", true)
            else {
                continue;
            };
            let mut text = [0; 7];
            let len = rustix::io::read(node.open().unwrap(), &mut text).unwrap();
            assert_eq!(&text[..len], b"inside");
            read += 1;
        }
        for _ in 0..300 {
            let Ok(Found::Directory(into)) = walker.walk(walker.root(), b"swap", true) else {
                continue;
            };
            let archive = Tar::default().file("planted", "p").end();
            let options = f.options.clone();
            // It may have been exchanged for the link.
            let _ = unpack(input(archive), f.walker(), into, options, Limits::default());
            assert!(!outside.join("planted").exists());
        }
        done.store(true, Ordering::Relaxed);
        assert!(read > 0, "it was the directory at least once");
    });
    assert_eq!(names(&outside), ["file"]);
    f.assert_nothing_but(&["host", "outside", "root"]);
}

impl Fixture {
    fn assert_nothing_but(&self, expected: &[&str]) {
        assert_eq!(names(self.top.path()), expected);
    }
}
