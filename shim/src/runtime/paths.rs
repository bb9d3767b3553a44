//! Paths in a container's root filesystem, as its own processes will see them:
//! nothing in it, no link and no `..`, leads out of it.

use super::sys::{self, IN_ROOT, NO_LINKS, cpath};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// Links followed on one way, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// A handle of what is at `path` under `root`, when the way there is just what it says: without
/// links, upwards or missing. A directory, if it has to be one.
pub(crate) fn direct(root: BorrowedFd<'_>, path: &Path, directory: bool) -> Option<OwnedFd> {
    let below = path.strip_prefix("/").unwrap_or(path);
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let flags = libc::O_PATH | if directory { libc::O_DIRECTORY } else { 0 };
    sys::openat2(root, &cpath(below).ok()?, flags, 0, NO_LINKS).ok()
}

/// A handle of the directory `path` under `root`. Directories that are missing
/// on the way, also where a link leads, are made.
pub(crate) fn mkdir_all_in(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match sys::openat2(root, &cpath(path)?, flags, 0, IN_ROOT) {
        Err(e) if walks(&e) => walk(root, path, false),
        opened => opened,
    }
}

/// A handle of the file `path` under `root`. An empty one is made, with the
/// directories on the way, where there is none.
pub(crate) fn file_in(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match sys::openat2(root, &cpath(path)?, libc::O_PATH, 0, IN_ROOT) {
        Err(e) if walks(&e) => walk(root, path, true),
        opened => opened,
    }
}

/// Something is missing, or the kernel can't tell where a `..` leads.
fn walks(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN))
}

fn walk(root: BorrowedFd<'_>, path: &Path, file: bool) -> io::Result<OwnedFd> {
    let mut walk = Walk { root, way: Vec::new(), names: Vec::new(), links: 0 };
    walk.turn(path);
    while let Some(name) = walk.names.pop() {
        if name == ".." {
            walk.way.pop();
        } else {
            let last = walk.names.is_empty();
            walk.step(&name, file && last)?;
        }
    }
    match walk.way.pop() {
        Some(end) => Ok(end),
        None => open(root, OsStr::new(".")),
    }
}

/// A way through a root filesystem, one name at a time.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// What was come through, without links.
    way: Vec<OwnedFd>,
    /// Names still to go, the next one last.
    names: Vec<OsString>,
    links: usize,
}

impl Walk<'_> {
    fn step(&mut self, name: &OsStr, file: bool) -> io::Result<()> {
        let here = self.way.last().map_or(self.root, AsFd::as_fd);
        let found = match open(here, name) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => make(here, name, file)?,
            opened => opened?,
        };
        let found = File::from(found);
        let kind = found.metadata()?.file_type();
        if kind.is_symlink() {
            self.links += 1;
            if self.links > MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            self.turn(Path::new(&nix::fcntl::readlinkat(&found, c"")?));
            return Ok(());
        }
        if !file && !kind.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        self.way.push(found.into());
        Ok(())
    }

    /// From here on, the way goes through `path` first.
    fn turn(&mut self, path: &Path) {
        if path.is_absolute() {
            self.way.clear();
        }
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        let names: Vec<_> = names.collect();
        self.names.extend(names.into_iter().rev());
    }
}

/// A handle of what has this name, of a link itself.
fn open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    sys::openat2(dir, &cpath(Path::new(name))?, libc::O_PATH | libc::O_NOFOLLOW, 0, NO_LINKS)
}

fn make(dir: BorrowedFd<'_>, name: &OsStr, file: bool) -> io::Result<OwnedFd> {
    let path = cpath(Path::new(name))?;
    if file {
        let flags = libc::O_CREAT | libc::O_RDONLY | libc::O_NOFOLLOW;
        return sys::openat2(dir, &path, flags, 0o644, NO_LINKS);
    }
    sys::mkdirat(dir, &path, 0o755)?;
    open(dir, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn same(handle: OwnedFd, path: &Path) -> bool {
        let (a, b) = (File::from(handle).metadata().unwrap(), path.metadata().unwrap());
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }

    #[test]
    fn links_that_lead_nowhere_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        for (link, target, end) in [
            ("etc/relative", "../run/systemd/stub.conf", "run/systemd/stub.conf"),
            ("etc/absolute", "/run/other/stub.conf", "run/other/stub.conf"),
            ("etc/outwards", "../../../../out/stub.conf", "out/stub.conf"),
            ("etc/chain", "relative2", "var/x/y"),
            ("etc/relative2", "/var/x/y", "var/x/y"),
        ] {
            symlink(target, root.join(link)).unwrap();
            let handle = File::open(&root).unwrap();
            if link != "etc/chain" {
                let made = file_in(handle.as_fd(), Path::new("/").join(link).as_path()).unwrap();
                assert!(same(made, &root.join(end)), "{link}");
            }
        }
        let handle = File::open(&root).unwrap();
        assert!(same(
            file_in(handle.as_fd(), Path::new("/etc/chain")).unwrap(),
            &root.join("var/x/y")
        ));
        symlink("/made/by/link", root.join("work")).unwrap();
        let made = mkdir_all_in(handle.as_fd(), Path::new("/work/deep")).unwrap();
        assert!(same(made, &root.join("made/by/link/deep")));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn direct_ways() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/file"), "").unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let ask = |path: &str, directory| direct(root.as_fd(), Path::new(path), directory);
        for (path, directory) in [("/a/b", true), ("a/b", true), ("/a/file", false)] {
            let at = dir.path().join(path.trim_start_matches('/'));
            assert!(same(ask(path, directory).unwrap(), &at), "{path}");
        }
        for (path, directory) in
            [("/a/file", true), ("/a/none", false), ("/link", false), ("/link/b", true)]
        {
            assert!(ask(path, directory).is_none(), "{path}");
        }
        assert!(ask("/a/b/../b", true).is_none() && ask("/../a", true).is_none());
    }

    #[test]
    fn loops_and_long_chains_of_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        // The kernel sees the first; the second goes through a directory that is not there.
        symlink("absent/../c", dir.path().join("c")).unwrap();
        for name in ["a", "c"] {
            let e = file_in(root.as_fd(), Path::new(name)).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::ELOOP), "{name}");
        }
        for n in 0..MAX_LINKS {
            symlink(format!("l{}", n + 1), dir.path().join(format!("l{n}"))).unwrap();
        }
        file_in(root.as_fd(), Path::new("l0")).unwrap();
        std::fs::remove_file(dir.path().join(format!("l{MAX_LINKS}"))).unwrap();
        symlink("l0", dir.path().join("one-more")).unwrap();
        assert!(file_in(root.as_fd(), Path::new("one-more")).is_err());
    }
}
