use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use gantry_core::{Error, Result};

/// Brings a file system to the disk. Callers that come while one is at it
/// share the next run, so that trees written side by side cost one or two.
pub struct Flush {
    path: PathBuf,
    /// Kept open: the system reports a failed write-back to descriptors that
    /// were open when it happened.
    dir: File,
    /// Counts runs. Not held while one is going on.
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
struct State {
    /// Runs begun.
    begun: u64,
    /// Runs ended.
    ended: u64,
    /// The last run that failed, and why.
    failed: Option<(u64, i32)>,
}

impl Flush {
    /// For the file system of this directory.
    ///
    /// # Errors
    /// The directory can't be opened.
    pub fn new(dir: &Path) -> Result<Self> {
        let path = dir.to_owned();
        let dir = File::open(dir).map_err(|err| Error::io(format!("open {path:?}"), err))?;
        Ok(Self { path, dir, state: Mutex::default(), finished: Condvar::new() })
    }

    /// Returns when everything written before is on the disk.
    ///
    /// # Errors
    /// Something could not be written, not necessarily what the caller wrote.
    pub fn run(&self) -> Result<()> {
        let mut state = self.state();
        // A run that began before may have missed what the caller wrote.
        let wanted = state.begun + 1;
        while state.ended < wanted {
            if state.begun > state.ended {
                state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            drop(state);
            let outcome = rustix::fs::syncfs(&self.dir);
            state = self.state();
            state.ended = state.begun;
            if let Err(err) = outcome {
                state.failed = Some((state.ended, err.raw_os_error()));
            }
            self.finished.notify_all();
        }
        match state.failed {
            // Reported once by the system, hence to everyone who shared the run.
            Some((run, errno)) if run >= wanted => Err(Error::io(
                format!("bring what is in {:?} to the disk", self.path),
                io::Error::from_raw_os_error(errno),
            )),
            _ => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters are whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_share_runs() {
        let dir = tempfile::tempdir().unwrap();
        let flush = Flush::new(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| flush.run().unwrap());
            }
        });
        let state = flush.state();
        assert_eq!(state.begun, state.ended);
        assert!((1..=8).contains(&state.ended));
    }
}
