//! Removes trees, however deep.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use gantry_core::{Error, Result, faults};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::mounted::open_unmounted;
use crate::walk::{DIRECTORY, LEVELS, as_path, is_dots, split};

/// How often a directory is tried in which others still write.
const ATTEMPTS: usize = 10;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes a directory with everything in it; one that is not there is no error. What is
/// mounted in it stays, and so does all above. Directories that lie very deep are moved up
/// first, beside `path` under its name with `-deep-` and a number behind, where a crash leaves
/// them.
///
/// # Errors
/// What the file system reports.
pub fn remove_tree(path: &Path) -> Result<()> {
    delete(path).map_err(|err| Error::io(format!("delete {path:?}"), err.into()))
}

fn delete(path: &Path) -> Result<(), Errno> {
    let (parent, name) = split(path)?;
    let root = match openat(CWD, parent, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut deep = Deep { root: &root, base: PathBuf::from(name), moved: Vec::new(), count: 0 };
    deep.clear_and_remove(root.as_fd(), Path::new(name))?;
    while let Some(name) = deep.moved.pop() {
        deep.clear_and_remove(root.as_fd(), &name)?;
    }
    Ok(())
}

struct Deep<'a> {
    root: &'a OwnedFd,
    base: PathBuf,
    /// Names in `root` that deep directories were moved to.
    moved: Vec<PathBuf>,
    count: usize,
}

impl Deep<'_> {
    fn clear_and_remove(&mut self, parent: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
        for _ in 0..ATTEMPTS {
            match open_unmounted(parent, name) {
                Err(Errno::NOENT) => return Ok(()),
                dir => self.clear(dir?, 1)?,
            }
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                // An unpacking that was given up still writes here, but not for long.
                Err(Errno::NOTEMPTY) => thread::sleep(PAUSE),
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        Err(Errno::NOTEMPTY)
    }

    fn clear(&mut self, dir: OwnedFd, depth: usize) -> Result<(), Errno> {
        let mut entries = Dir::new(dir)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let dir = entries.fd()?;
            if entry.file_type() != FileType::Directory {
                match unlinkat(dir, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    // File systems that don't tell types while listing.
                    Err(Errno::ISDIR) => {}
                    Err(err) => return Err(err),
                }
            }
            if depth >= LEVELS {
                self.move_up(dir, as_path(name))?;
                continue;
            }
            match open_unmounted(dir, name) {
                Err(Errno::NOENT) => continue,
                below => self.clear(below?, depth + 1)?,
            }
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
        loop {
            self.count += 1;
            let mut to = self.base.clone().into_os_string();
            to.push(format!("-deep-{}", self.count));
            let rename = || renameat_with(dir, name, self.root, &to, RenameFlags::NOREPLACE);
            match faults::around("move a deep directory up", rename) {
                Ok(()) => {
                    self.moved.push(to.into());
                    return Ok(());
                }
                // What a crash left there has its own turn.
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;

    fn dig(root: &Path, levels: usize) {
        let mut dir = openat(CWD, root, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&dir, "directory", Mode::RWXU).unwrap();
            dir = openat(&dir, "directory", DIRECTORY, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn trees_of_any_depth_go() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("7");
        std::fs::create_dir(&tree).unwrap();
        dig(&tree, 3000);
        // What a crash left has the name that a deep directory would get.
        std::fs::create_dir(root.path().join("7-deep-1")).unwrap();
        remove_tree(&tree).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["7-deep-1"]);
        remove_tree(&tree).unwrap();
        remove_tree(&tree.join("a/b")).unwrap();
    }

    #[test]
    fn links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (tree, kept) = (root.path().join("tree"), root.path().join("kept"));
        for dir in [&tree, &kept] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(kept.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
    }

    #[test]
    fn what_is_mounted_stays() {
        use rustix::mount::{UnmountFlags, mount_bind, unmount};
        let root = tempfile::tempdir().unwrap();
        let (tree, kept) = (root.path().join("tree"), root.path().join("kept"));
        std::fs::create_dir_all(tree.join("at")).unwrap();
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "").unwrap();
        mount_bind(&kept, tree.join("at")).unwrap();
        let refused = remove_tree(&tree);
        unmount(tree.join("at"), UnmountFlags::DETACH).unwrap();
        assert!(refused.is_err() && kept.join("file").exists());
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
