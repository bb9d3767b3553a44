//! Directories that lie ready.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gantry_core::{Error, Result, faults};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::remove::remove_tree;

/// So many lie ready.
const READY: usize = 2;
/// One that was taken is made up for when somebody says so, or after this long: until then
/// whoever took it needs the processor more.
const REFILL: Duration = Duration::from_millis(100);
/// Between attempts to make one, when that fails.
const RETRY: Duration = Duration::from_secs(5);

/// A thread that makes directories before somebody needs them, until it is dropped: new files
/// can take their time where many were removed lately.
///
/// Until they are taken they lie in a directory that is the shelf's alone. What lies there when
/// it begins was an earlier one's, and goes.
pub struct Shelf(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    /// What the directories are for, in a word, for messages.
    what: &'static str,
    /// Held only to look or change.
    state: Mutex<State>,
    /// Told of every change.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    ready: VecDeque<PathBuf>,
    /// The moment has come to make up for what was taken.
    due: bool,
    closed: bool,
}

impl Shelf {
    /// Keeps directories of a `what` ready in `dir`, which is there; `make` makes one of this
    /// path. What can't be kept ready is told in the log only.
    pub fn new(
        dir: &Path,
        what: &'static str,
        make: impl Fn(&Path) -> Result<()> + Send + 'static,
    ) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { dir: dir.to_owned(), what, state, changed });
        let filler = Arc::clone(&shared);
        let thread = thread::Builder::new().name(format!("{what}-ready"));
        if let Err(err) = thread.spawn(move || filler.fill(make)) {
            tracing::warn!(error = %err, "start the thread that keeps each {} ready", what);
        }
        Self(shared)
    }

    /// Moves a directory that lies ready to this path. `false` when none does, or it can't be
    /// moved, as when something is there: then nothing was done.
    pub fn take(&self, to: &Path) -> bool {
        let Some(from) = self.0.state().ready.pop_front() else { return false };
        self.0.changed.notify_all();
        let what = self.0.what;
        let rename = || renameat_with(CWD, &from, CWD, to, RenameFlags::NOREPLACE);
        let moved = faults::around(format!("take the directory of a {what}"), rename);
        if let Err(err) = &moved {
            tracing::debug!(error = %err, "take {:?}, which lies ready, as {:?}", from, to);
            // If it stays it goes with the next start.
            let _ = remove_tree(&from);
        }
        moved.is_ok()
    }

    /// The moment has come to make up for what was taken. Says nothing to whoever
    /// waits later: that would be in the middle of the next use.
    pub fn refill(&self) {
        let mut state = self.0.state();
        if state.ready.len() < READY {
            state.due = true;
            drop(state);
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is one operation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, make: impl Fn(&Path) -> Result<()>) {
        /// Names of directories: the next shelf on this place may begin before this one ends.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if let Err(err) = self.clear() {
            tracing::warn!(error = %err, "keep the directory of each {} ready", self.what);
            return;
        }
        while self.wait() {
            let path = self.dir.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
            match make(&path) {
                Ok(()) => {
                    self.state().ready.push_back(path);
                    self.changed.notify_all();
                }
                Err(err) => {
                    // Whoever needs one meets the same.
                    tracing::debug!(error = %err, "make {:?} before it is needed", path);
                    let _ = remove_tree(&path);
                    let open = |state: &mut State| !state.closed;
                    drop(self.changed.wait_timeout_while(self.state(), RETRY, open));
                }
            }
        }
    }

    /// Removes what an earlier one left.
    fn clear(&self) -> Result<()> {
        let failed = |err| Error::io(format!("list {}", self.dir.display()), err);
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            remove_tree(&entry.map_err(failed)?.path())?;
        }
        Ok(())
    }

    /// Waits until one is missing and the moment to make it has come. `false` at the end.
    fn wait(&self) -> bool {
        let mut state = self.state();
        if state.ready.len() >= READY {
            let full = |state: &mut State| state.ready.len() >= READY && !state.closed;
            state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
            state.due = false;
            let early = |state: &mut State| !state.due && !state.closed;
            let waited = self.changed.wait_timeout_while(state, REFILL, early);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !state.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(path: &Path) -> Result<()> {
        fs::create_dir(path)
            .and_then(|()| fs::write(path.join("in"), ""))
            .map_err(|err| Error::io("make", err))
    }

    /// Waits until as many lie ready as are to.
    fn settle(shelf: &Shelf) {
        let few = |state: &mut State| state.ready.len() < READY;
        let long = Duration::from_secs(30);
        let waited = shelf.0.changed.wait_timeout_while(shelf.0.state(), long, few);
        assert!(!waited.unwrap().1.timed_out());
    }

    #[test]
    fn what_is_taken_is_made_up_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("ready");
        fs::create_dir_all(place.join("of-an-earlier-one/deep")).unwrap();
        let shelf = Shelf::new(&place, "thing", make);
        for name in ["a", "b", "c"] {
            settle(&shelf);
            assert_eq!(fs::read_dir(&place).unwrap().count(), READY);
            let to = dir.path().join(name);
            assert!(shelf.take(&to));
            assert!(to.join("in").is_file());
            shelf.refill();
        }
        assert!(!place.join("of-an-earlier-one").exists());
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (place, to) = (dir.path().join("ready"), dir.path().join("a"));
        fs::create_dir(&place).unwrap();
        fs::create_dir(&to).unwrap();
        let shelf = Shelf::new(&place, "thing", make);
        settle(&shelf);
        assert!(!shelf.take(&to));
        assert!(!shelf.take(&dir.path().join("no/such/directory")));
        assert!(!to.join("in").exists());
        settle(&shelf);
        assert_eq!(fs::read_dir(&place).unwrap().count(), READY);
    }

    #[test]
    fn without_a_place_none_lies_ready() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(&dir.path().join("ready"), "thing", make);
        assert!(!shelf.take(&dir.path().join("a")));
    }
}
