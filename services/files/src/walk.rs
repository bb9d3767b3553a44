//! Ways into a tree that no link leads out of.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// Directories inside each other that are held open: each takes a descriptor or two. What lies
/// deeper is remembered by its path, and has its turn afterwards.
pub(crate) const LEVELS: usize = 64;

/// How directories are opened.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How something is opened of whatever kind, without any effect on it: its name alone.
pub(crate) const NAMED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory at a path below `root`, with no link on the way.
pub(crate) fn beneath(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut dir = openat(root, c".", DIRECTORY, Mode::empty())?;
    for name in path {
        dir = openat(&dir, name, DIRECTORY, Mode::empty())?;
    }
    Ok(dir)
}

/// A path's directory and its name there.
pub(crate) fn split(path: &Path) -> Result<(&Path, &OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

/// Whether a directory is not there any more, or something else is by now.
pub(crate) fn is_gone(err: Errno) -> bool {
    matches!(err, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// A path to what was opened by its name alone.
pub(crate) fn through(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether an entry is the directory itself or the one above.
pub(crate) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// A name as a path.
pub(crate) fn as_path(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}
