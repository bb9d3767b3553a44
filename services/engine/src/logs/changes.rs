//! Tells when a log changes.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_core::{Error, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// Room for a few dozen events; what they say does not matter.
const EVENTS: usize = 4096;

/// A watch over the directory of a log: its files come and go.
///
/// An inotify descriptor is read like a pipe, and this is tokio's safe way to
/// wait for one.
pub(crate) struct Changes(Receiver);

impl Changes {
    /// Watches a log from now on.
    ///
    /// # Errors
    /// `NotFound` when its directory is gone; `ResourceExhausted` when the system has no more
    /// watches.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let directory = path.parent().unwrap_or(path);
        let failed = |err: std::io::Error| {
            Error::io(format!("watch {} for changes", directory.display()), err)
        };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|err| failed(err.into()))?;
        let flags =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(directory, flags).map_err(|err: Errno| failed(err.into()))?;
        Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify)).map(Self).map_err(failed)
    }

    /// Returns when something has changed since the last time.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn next(&mut self) -> Result<()> {
        let failed = |err| Error::io("wait for changes of a log", err);
        let mut events = vec![0; EVENTS];
        loop {
            self.0.readable().await.map_err(failed)?;
            match self.0.try_read(&mut events) {
                Ok(_) => return Ok(()),
                Err(err) if err.kind() == ErrorKind::WouldBlock => {}
                Err(err) => return Err(failed(err)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn writes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut changes = Changes::of(&path).unwrap();
        for _ in 0..2 {
            file.write_all(b"x").unwrap();
            changes.next().await.unwrap();
        }
    }
}
