//! Mounts that are in the way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_core::{Error, Result};
use rustix::fs::{CWD, Mode, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::walk::{DIRECTORY, is_gone, split};

/// Whether something is mounted at this directory, as this process sees it. Before Linux 5.6, a
/// directory of the same file system that is mounted there is not noticed.
///
/// # Errors
/// What the file system reports; a directory that is not there is none with a mount.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let look = || {
        let (parent, name) = split(path)?;
        let parent = openat(CWD, parent, DIRECTORY, Mode::empty())?;
        open_unmounted(parent.as_fd(), name)
    };
    match look() {
        Ok(_) => Ok(false),
        Err(Errno::BUSY) => Ok(true),
        Err(err) if is_gone(err) => Ok(false),
        Err(err) => Err(Error::io(format!("look for a mount at {path:?}"), err.into())),
    }
}

/// Opens a directory. `BUSY` when something is mounted there.
pub(crate) fn open_unmounted(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    match openat2(dir, name, DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV) {
        Err(Errno::XDEV) => Err(Errno::BUSY),
        Err(Errno::NOSYS | Errno::PERM) => {
            let below = openat(dir, name, DIRECTORY, Mode::empty())?;
            if fstat(&below)?.st_dev == fstat(dir)?.st_dev { Ok(below) } else { Err(Errno::BUSY) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_seen() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(dir.path()).unwrap());
        assert!(!is_mount_point(&dir.path().join("gone")).unwrap());
    }
}
