//! Tells when a log changes.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gantry_core::{Error, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// Room for a few dozen events.
const EVENTS: usize = 4096;
/// Length of an event without its name (inotify(7)).
const HEAD: usize = 16;
/// Events were lost: nobody knows how often the log was rotated.
const MANY: u64 = 1 << 32;

/// A watch over the directory of a log: its files come and go.
///
/// An inotify descriptor is read like a pipe, and this is tokio's safe way to
/// wait for one.
#[derive(Debug)]
pub(crate) struct Changes {
    ready: Receiver,
    /// The same events, for those who do not wait.
    events: OwnedFd,
    name: Vec<u8>,
    rotations: u64,
}

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
        let fd = OwnedFd::from(inotify);
        let events = fd.try_clone().map_err(failed)?;
        let ready = Receiver::from_owned_fd_unchecked(fd).map_err(failed)?;
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        Ok(Self { ready, events, name, rotations: 0 })
    }

    /// Returns when something has changed since the last time.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn next(&mut self) -> Result<()> {
        let failed = |err| Error::io("wait for changes of a log", err);
        let mut events = vec![0; EVENTS];
        loop {
            self.ready.readable().await.map_err(failed)?;
            match self.ready.try_read(&mut events) {
                Ok(n) => {
                    self.count(&events[..n]);
                    return Ok(());
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => {}
                Err(err) => return Err(failed(err)),
            }
        }
    }

    /// How often the log has been rotated until now since this watches it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn rotations(&mut self) -> std::io::Result<u64> {
        let mut events = vec![0; EVENTS];
        loop {
            match nix::unistd::read(&self.events, &mut events) {
                Ok(n) => self.count(&events[..n]),
                Err(Errno::EAGAIN) => return Ok(self.rotations),
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// A rotation ends with a new file under the log's name.
    fn count(&mut self, mut events: &[u8]) {
        let word = |at: usize, events: &[u8]| {
            let bytes = events.get(at..at + 4).and_then(|b| b.try_into().ok());
            u32::from_ne_bytes(bytes.unwrap_or_default())
        };
        while events.len() >= HEAD {
            let mask = AddWatchFlags::from_bits_retain(word(4, events));
            let end = HEAD.saturating_add(word(12, events) as usize).min(events.len());
            let name = events[HEAD..end].split(|b| *b == 0).next().unwrap_or_default();
            if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.rotations += MANY;
            } else if mask.contains(AddWatchFlags::IN_MOVED_TO) && name == self.name {
                self.rotations += 1;
            }
            events = &events[end..];
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
