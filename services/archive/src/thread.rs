use gantry_core::{Error, Result};
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Whether this process may give files to others.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Lets this thread make files with exactly the modes it asks for, which
/// saves a system call per file, without touching the process' own mask.
/// For threads that do nothing else and end with their archive.
///
/// # Errors
/// The system's.
#[allow(unsafe_code)]
pub fn own_umask() -> Result<()> {
    // SAFETY: only the file system context (umask, root and working
    // directory) stops being shared; descriptors, which the function warns
    // of, stay shared. Nothing in this thread relies on following a change of
    // that context by others.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
        .map_err(|err| Error::io("give a thread its own umask", err.into()))?;
    umask(Mode::empty());
    Ok(())
}
