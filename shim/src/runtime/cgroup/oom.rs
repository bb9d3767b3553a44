//! Out-of-memory kills as they happen.

use super::{Group, Host, Kind};
use crate::runtime::sys;
use crate::runtime::types::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Where a container's kills are heard and counted.
#[derive(Debug)]
enum Source {
    /// v1: an eventfd registered on memory.oom_control.
    Legacy { control: PathBuf },
    /// v2: inotify on memory.events.
    Unified { events: PathBuf },
}

/// A stream of out-of-memory kills of one container.
#[derive(Debug)]
pub struct OomEvents {
    bell: AsyncFd<OwnedFd>,
    source: Source,
    seen: u64,
}

impl Host {
    /// Begins to listen for kills in the cgroup.
    pub(crate) fn oom_events(&self, group: &Group) -> Result<OomEvents, Error> {
        let what =
            |e| Error::io(format!("listen for out-of-memory kills in cgroup {}", group.path()), e);
        let none = || {
            Error::Unsupported(
                "out-of-memory events: this host offers no memory cgroup controller".into(),
            )
        };
        let h = self.with("memory").ok_or_else(none)?;
        let dir = h.mount_point.join(group.path());
        let (bell, source) = if h.kind == Kind::Unified {
            let events = dir.join("memory.events");
            (watch(&events).map_err(what)?, Source::Unified { events })
        } else {
            let control = dir.join("memory.oom_control");
            let bell = new_fd(|| {
                // SAFETY: takes integers only.
                unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }
            })
            .map_err(what)?;
            let file = std::fs::File::open(&control).map_err(what)?;
            let line = format!("{} {}", bell.as_raw_fd(), file.as_raw_fd());
            h.write(group, "cgroup.event_control", &line).map_err(what)?;
            (bell, Source::Legacy { control })
        };
        let bell = sys::readable(bell).map_err(what)?;
        let seen = source.count().unwrap_or(0);
        Ok(OomEvents { bell, source, seen })
    }
}

fn new_fd(make: impl FnOnce() -> i32) -> io::Result<OwnedFd> {
    let fd = make();
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn watch(path: &std::path::Path) -> io::Result<OwnedFd> {
    let fd = new_fd(|| {
        // SAFETY: takes integers only.
        unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }
    })?;
    let path = sys::cpath(path)?;
    // SAFETY: the path ends with NUL and the descriptor is open.
    let r = unsafe {
        libc::inotify_add_watch(
            fd.as_raw_fd(),
            path.as_ptr(),
            libc::IN_MODIFY | libc::IN_DELETE_SELF,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

impl Source {
    /// Kills so far; nothing when the cgroup is gone.
    fn count(&self) -> Option<u64> {
        let path = match self {
            Self::Legacy { control } => control,
            Self::Unified { events } => events,
        };
        let text = std::fs::read_to_string(path).ok()?;
        let value = |l: &str| l.strip_prefix("oom_kill ").and_then(|v| v.trim().parse().ok());
        Some(text.lines().find_map(value).unwrap_or(0))
    }
}

impl OomEvents {
    /// Waits for the next kill; `None` when the container's cgroup is gone.
    /// Cancel safe: a kill that was not waited for is reported by the next call.
    pub async fn next(&mut self) -> Option<()> {
        loop {
            let count = self.source.count()?;
            if count > self.seen {
                self.seen = count;
                return Some(());
            }
            let mut guard = self.bell.readable().await.ok()?;
            let mut buf = [0; 4096];
            // The contents tell nothing that the counter does not.
            let _ = guard.try_io(|fd| sys::read(fd.as_fd(), &mut buf));
            self.settle().await?;
        }
    }

    /// v1 rings when memory is out, a moment before the kill is counted.
    async fn settle(&self) -> Option<()> {
        if matches!(self.source, Source::Legacy { .. }) {
            for _ in 0..50 {
                if self.source.count()? > self.seen {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        }
        Some(())
    }
}
