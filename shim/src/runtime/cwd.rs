//! The working directory of a process.

use super::apifs::is_bind;
use super::launch::plain;
use super::types::Error;
use super::{mounts, paths, sys};
use oci_spec::runtime::{Mount, Process, Spec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Takes `.` and `..` out of it, by its text alone.
pub(crate) fn clean(process: &mut Process) {
    if process.cwd().is_absolute() {
        process.set_cwd(gantry_core::paths::clean(process.cwd()));
    }
}

/// What is still to be done for a working directory.
pub(crate) enum Cwd {
    /// Nothing.
    Made,
    /// It lies on a filesystem that is not mounted yet.
    Later(PathBuf),
}

/// Makes a missing working directory where the container will have it: in a
/// bind's source when it lies below one, else in the root filesystem.
pub(crate) fn make(spec: &Spec, root: BorrowedFd<'_>, cwd: &Path) -> Result<Cwd, Error> {
    let Some(m) = mount_of(spec, cwd) else {
        return paths::mkdir_all_in(root, cwd).map(|_| Cwd::Made).map_err(|e| unmade(cwd, e));
    };
    let rest = cwd.strip_prefix(m.destination()).unwrap_or(Path::new(""));
    if rest.as_os_str().is_empty() {
        return Ok(Cwd::Made);
    }
    if !is_bind(m) || has_own_options(m) {
        return Ok(Cwd::Later(cwd.to_path_buf()));
    }
    let source = mounts::root_handle(m.source().as_deref().unwrap_or(Path::new("/")))?;
    match paths::mkdir_all_in(source.as_fd(), rest) {
        // A read-only source: entering it says what is wrong, if anything is.
        Err(e) if e.raw_os_error() != Some(libc::EROFS) => Err(unmade(cwd, e)),
        _ => Ok(Cwd::Made),
    }
}

impl Cwd {
    /// Makes it in `root`, where all that `spec` no longer names is mounted.
    pub(crate) fn mounted(self, spec: &Spec, root: &Path) -> Result<(), Error> {
        match self {
            // On what libcontainer is to mount: it names what is missing.
            Self::Later(cwd) if mount_of(spec, &cwd).is_none() => {
                let root = mounts::root_handle(root)?;
                paths::mkdir_all_in(root.as_fd(), &cwd).map(drop).map_err(|e| unmade(&cwd, e))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a working directory that can't be opened.
pub(crate) fn reach(root: BorrowedFd<'_>, cwd: &Path) -> Result<(), Error> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let opened = sys::cpath(cwd).and_then(|c| sys::openat2(root, &c, flags, 0, sys::IN_ROOT));
    opened.map(drop).map_err(|e| Error::Exec {
        errno: e.raw_os_error().unwrap_or(libc::EINVAL),
        message: format!("chdir to cwd ({:?}) failed: {}", cwd.display().to_string(), plain(&e)),
    })
}

/// Whether what is mounted is not the source itself, but found by it.
fn has_own_options(m: &Mount) -> bool {
    m.options().iter().flatten().any(|option| option.starts_with("gantry."))
}

/// The mount that a path lies on.
fn mount_of<'a>(spec: &'a Spec, path: &Path) -> Option<&'a Mount> {
    let below = |m: &&Mount| path.starts_with(m.destination()) && m.destination() != Path::new("/");
    let mounts = spec.mounts().iter().flatten().filter(below);
    mounts.max_by_key(|m| m.destination().components().count())
}

fn unmade(cwd: &Path, e: io::Error) -> Error {
    Error::io(format!("make the working directory {}", cwd.display()), e)
}
