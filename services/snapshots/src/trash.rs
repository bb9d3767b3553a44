//! Deletes directories behind everybody's back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gantry_core::{Error, Result, faults};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use tokio::sync::watch;

/// Beginning of the names of directories that are being deleted.
pub(crate) const PREFIX: &str = "rm-";

/// Directories inside each other that are followed before the deeper ones
/// are moved up: each holds a descriptor, and there is no bound to how deep
/// a container may have gone.
const MAX_DEPTH: usize = 64;

/// How often a directory is tried in which others still write.
const ATTEMPTS: usize = 10;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A thread that deletes what it is given, until it is dropped.
pub(crate) struct Trash {
    root: PathBuf,
    queue: Sender<PathBuf>,
    /// How many are queued or being deleted.
    pending: Arc<watch::Sender<usize>>,
    /// What could not be deleted. Held only to look or add.
    failed: Arc<Mutex<Vec<(PathBuf, Error)>>>,
}

impl Trash {
    /// For directories directly in `root`.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let (queue, receiver) = channel();
        let pending = Arc::new(watch::Sender::new(0));
        let failed = Arc::new(Mutex::new(Vec::new()));
        let worker = Worker { pending: Arc::clone(&pending), failed: Arc::clone(&failed) };
        thread::Builder::new()
            .name("snapshot-trash".into())
            .spawn(move || worker.run(&receiver))
            .map_err(|err| Error::io("start the thread that deletes snapshots", err))?;
        Ok(Self { root: root.to_owned(), queue, pending, failed })
    }

    /// Takes a directory away under its name and deletes it later. One that
    /// is not there is no error.
    pub(crate) fn throw(&self, name: &str) -> Result<()> {
        let from = self.root.join(name);
        let mut to = self.root.join(format!("{PREFIX}{name}"));
        for attempt in 0..u32::MAX {
            let rename = || renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
            match faults::around("put a snapshot's directory away", rename) {
                Ok(()) => break,
                Err(Errno::NOENT) => return Ok(()),
                // A former one of this name that could not be deleted.
                Err(Errno::EXIST) => {
                    to.set_file_name(format!("{PREFIX}{name}-{attempt}"));
                }
                Err(err) => {
                    return Err(Error::io(format!("put snapshot {from:?} away"), err.into()));
                }
            }
        }
        self.delete(to);
        Ok(())
    }

    /// Deletes a directory that was put away already.
    pub(crate) fn delete(&self, path: PathBuf) {
        self.pending.send_modify(|n| *n += 1);
        if self.queue.send(path).is_err() {
            // The thread ended, which only a panic does; the next start sweeps.
            self.pending.send_modify(|n| *n -= 1);
        }
    }

    /// Waits until all is deleted, having tried again what had failed.
    pub(crate) async fn empty(&self) -> Result<()> {
        let again = std::mem::take(&mut *lock(&self.failed));
        for (path, _) in again {
            self.delete(path);
        }
        // Can't fail: the sender lives in `self`.
        let _ = self.pending.subscribe().wait_for(|n| *n == 0).await;
        lock(&self.failed).first().map_or(Ok(()), |(_, err)| Err(err.duplicate()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Lists of paths are whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    pending: Arc<watch::Sender<usize>>,
    failed: Arc<Mutex<Vec<(PathBuf, Error)>>>,
}

impl Worker {
    fn run(&self, queue: &Receiver<PathBuf>) {
        while let Ok(path) = queue.recv() {
            if let Err(err) = delete_tree(&path) {
                let err = Error::io(format!("delete snapshot directory {path:?}"), err.into());
                tracing::warn!(error = %err, "a removed snapshot stays on the disk for now");
                lock(&self.failed).push((path, err));
            }
            self.pending.send_modify(|n| *n -= 1);
        }
    }
}

/// Deletes what snapshotters below this root directory have put away, for a start
/// on a disk so full that their records can't be opened.
///
/// # Errors
/// A directory can't be read. What can't be deleted is logged, and stays.
pub fn empty_trash(root: &Path) -> Result<()> {
    let list = |dir: &Path| {
        let failed = |err| Error::io(format!("list {}", dir.display()), err);
        let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        entries.map_err(failed)
    };
    let snapshotters = list(root)?.into_iter().map(|entry| entry.path().join("snapshots"));
    for directory in snapshotters.filter(|path| path.is_dir()) {
        for entry in list(&directory)? {
            if entry.file_name().to_string_lossy().starts_with(PREFIX)
                && let Err(err) = delete_tree(&entry.path())
            {
                tracing::warn!(path = ?entry.path(), error = %err, "a removed snapshot stays");
            }
        }
    }
    Ok(())
}

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn delete_tree(path: &Path) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL);
    };
    let root = openat(CWD, parent, OPEN, Mode::empty())?;
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
            match openat(parent, name, OPEN, Mode::empty()) {
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
            if matches!(name.to_bytes(), b"." | b"..") {
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
            if depth < MAX_DEPTH {
                let below = openat(dir, name, OPEN, Mode::empty())?;
                self.clear(below, depth + 1)?;
                match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                    Err(err) => return Err(err),
                }
            } else {
                self.count += 1;
                let mut to = self.base.clone().into_os_string();
                to.push(format!("-deep-{}", self.count));
                let rename = || renameat_with(dir, name, self.root, &to, RenameFlags::NOREPLACE);
                faults::around("move a deep directory up", rename)?;
                self.moved.push(to.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;

    #[test]
    fn only_what_was_put_away_goes() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = root.path().join("io.containerd.snapshotter.v1.native/snapshots");
        for name in ["rm-1/fs/deep", "2/fs"] {
            std::fs::create_dir_all(snapshots.join(name)).unwrap();
        }
        std::fs::write(root.path().join("rm-file"), "").unwrap();
        empty_trash(root.path()).unwrap();
        assert!(!snapshots.join("rm-1").exists());
        assert!(snapshots.join("2/fs").exists() && root.path().join("rm-file").exists());
    }

    #[tokio::test]
    async fn trees_of_any_depth_go() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = openat(CWD, root.path(), OPEN, Mode::empty()).unwrap();
        mkdirat(&dir, "7", Mode::RWXU).unwrap();
        dir = openat(&dir, "7", OPEN, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&dir, "directory", Mode::RWXU).unwrap();
            dir = openat(&dir, "directory", OPEN, Mode::empty()).unwrap();
        }
        let trash = Trash::new(root.path()).unwrap();
        trash.throw("7").unwrap();
        assert!(!root.path().join("7").exists());
        trash.empty().await.unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_not_there_is_gone_already() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::new(root.path()).unwrap();
        trash.throw("1").unwrap();
        trash.empty().await.unwrap();
    }

    #[tokio::test]
    async fn a_name_that_is_taken_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::new(root.path()).unwrap();
        std::fs::create_dir(root.path().join("rm-1")).unwrap();
        std::fs::create_dir(root.path().join("1")).unwrap();
        trash.throw("1").unwrap();
        trash.empty().await.unwrap();
        assert!(!root.path().join("1").exists());
    }
}
