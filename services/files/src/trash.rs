//! Removes directories behind everybody's back.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use gantry_core::{Error, Result, faults};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::sync::watch;

use crate::remove::remove_tree;

/// Beginning of the names of directories that are being deleted.
pub const TRASH_PREFIX: &str = "rm-";

/// A thread that deletes what it is given, until it is dropped.
pub struct Trash {
    root: PathBuf,
    /// What the directories are, in a word, for messages.
    what: &'static str,
    queue: Sender<PathBuf>,
    /// How many are queued or being deleted.
    pending: Arc<watch::Sender<usize>>,
    /// What could not be deleted. Held only to look or add.
    failed: Arc<Mutex<Vec<(PathBuf, Error)>>>,
}

impl Trash {
    /// For directories directly in `root`, each of which is a `what`.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn new(root: &Path, what: &'static str) -> Result<Self> {
        let (queue, receiver) = channel();
        let pending = Arc::new(watch::Sender::new(0));
        let failed = Arc::new(Mutex::new(Vec::new()));
        let worker = Worker { what, pending: Arc::clone(&pending), failed: Arc::clone(&failed) };
        thread::Builder::new()
            .name(format!("{what}-trash"))
            .spawn(move || worker.run(&receiver))
            .map_err(|err| Error::io(format!("start the thread that deletes each {what}"), err))?;
        Ok(Self { root: root.to_owned(), what, queue, pending, failed })
    }

    /// Takes a directory away under its name and deletes it later. One that
    /// is not there is no error.
    ///
    /// # Errors
    /// It can't be renamed.
    pub fn throw(&self, name: &str) -> Result<()> {
        let what = self.what;
        let from = self.root.join(name);
        let mut to = self.root.join(format!("{TRASH_PREFIX}{name}"));
        for attempt in 0..u32::MAX {
            let rename = || renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
            match faults::around(format!("put the directory of a {what} away"), rename) {
                Ok(()) => break,
                Err(Errno::NOENT) => return Ok(()),
                // A former one of this name that could not be deleted.
                Err(Errno::EXIST) => {
                    to.set_file_name(format!("{TRASH_PREFIX}{name}-{attempt}"));
                }
                Err(err) => {
                    return Err(Error::io(format!("put {what} {from:?} away"), err.into()));
                }
            }
        }
        self.delete(to);
        Ok(())
    }

    /// Deletes a directory that was put away already.
    pub fn delete(&self, path: PathBuf) {
        self.pending.send_modify(|n| *n += 1);
        if self.queue.send(path).is_err() {
            // The thread ended, which only a panic does; the next start sweeps.
            self.pending.send_modify(|n| *n -= 1);
        }
    }

    /// Waits until all is deleted, having tried again what had failed.
    ///
    /// # Errors
    /// The first failure to delete something.
    pub async fn empty(&self) -> Result<()> {
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
    what: &'static str,
    pending: Arc<watch::Sender<usize>>,
    failed: Arc<Mutex<Vec<(PathBuf, Error)>>>,
}

impl Worker {
    fn run(&self, queue: &Receiver<PathBuf>) {
        while let Ok(path) = queue.recv() {
            if let Err(err) = remove_tree(&path) {
                tracing::warn!(error = %err, "a removed {} stays on the disk for now", self.what);
                lock(&self.failed).push((path, err));
            }
            self.pending.send_modify(|n| *n -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_thrown_away_goes() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("7/a/b")).unwrap();
        let trash = Trash::new(root.path(), "thing").unwrap();
        trash.throw("7").unwrap();
        assert!(!root.path().join("7").exists());
        trash.empty().await.unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_not_there_is_gone_already() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::new(root.path(), "thing").unwrap();
        trash.throw("1").unwrap();
        trash.empty().await.unwrap();
    }

    #[tokio::test]
    async fn a_name_that_is_taken_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::new(root.path(), "thing").unwrap();
        std::fs::create_dir(root.path().join("rm-1")).unwrap();
        std::fs::create_dir(root.path().join("1")).unwrap();
        trash.throw("1").unwrap();
        trash.empty().await.unwrap();
        assert!(!root.path().join("1").exists());
    }
}
