//! The shim's own messages, for whoever runs the daemon.
//!
//! containerd makes a FIFO `log` in the bundle and prints what comes out. If
//! there is none, a bounded file `shim.log` in the bundle is used. A message is
//! dropped rather than waited for.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock;

/// The file is not written beyond this.
const MAX_FILE: u64 = 256 * 1024;

/// Where messages go. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Report(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    bundle: PathBuf,
    debug: bool,
    out: Option<File>,
}

impl Report {
    /// Messages go to `bundle` from now on.
    pub fn direct(&self, bundle: &Path, debug: bool) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner { bundle: bundle.to_owned(), debug, out: None };
    }

    /// Something a developer wants to know.
    pub fn debug(&self, message: &str) {
        self.write("debug", message);
    }

    /// Something the operator wants to know.
    pub fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    fn write(&self, level: &str, message: &str) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.bundle.as_os_str().is_empty() || (level == "debug" && !inner.debug) {
            return;
        }
        let mut line = b"time=\"".to_vec();
        clock::rfc3339(clock::now(), &mut line);
        line.extend(format!("\" level={level} msg={message:?}\n").bytes());
        if inner.out.is_none() {
            inner.out = open(&inner.bundle);
        }
        if let Some(out) = &mut inner.out {
            let full = out.metadata().is_ok_and(|m| m.is_file() && m.len() > MAX_FILE);
            match if full { Ok(()) } else { out.write_all(&line) } {
                Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => inner.out = None,
                _ => {}
            }
        }
    }
}

fn open(bundle: &Path) -> Option<File> {
    let fifo = bundle.join("log");
    if std::fs::symlink_metadata(&fifo).is_ok_and(|m| m.file_type().is_fifo()) {
        // Without a reader this fails, and the next message tries again.
        return OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(fifo)
            .ok();
    }
    let file = bundle.join("shim.log");
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(file)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_land_in_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report::default();
        report.warn("nowhere");
        report.direct(dir.path(), false);
        report.debug("not asked for");
        report.warn("disk \"full\"\n");
        let text = std::fs::read_to_string(dir.path().join("shim.log")).unwrap();
        assert!(text.ends_with(" level=warning msg=\"disk \\\"full\\\"\\n\"\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
