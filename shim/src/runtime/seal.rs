//! The shim's own binary, out of reach of containers.
//!
//! A container may execute `/proc/self/exe` of the process that becomes it, or
//! open it for writing. So the shim runs from a mount of its binary that is
//! read-only, detached from every mount namespace, and shared with the page
//! cache: writing through it fails whatever rights one has in a container.

use super::sys;
use super::types::Error;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A handle of this process's binary on a read-only detached mount: what is
/// executed from it (execveat with AT_EMPTY_PATH) is sealed.
///
/// # Errors
/// When the binary is gone or mounts can't be cloned.
pub fn sealed_binary() -> Result<OwnedFd, Error> {
    let what = |e| Error::io("put this program on a read-only mount of its own", e);
    let path = std::fs::read_link("/proc/self/exe").map_err(what)?;
    let root = std::fs::File::open("/").map_err(what)?;
    let path = sys::cpath(&path).map_err(what)?;
    let mount = sys::clone_mount(root.as_fd(), &path, false).map_err(what)?;
    let change = sys::MountChange {
        set: sys::ATTR_RDONLY | sys::ATTR_NODEV | sys::ATTR_NOSUID,
        ..Default::default()
    };
    sys::set_mount(mount.as_fd(), &change).map_err(what)?;
    Ok(mount)
}

/// Whether this process runs from a read-only place.
pub fn is_sealed() -> bool {
    let opened = std::fs::File::open("/proc/self/exe");
    opened.and_then(|f| sys::is_read_only(f.as_fd())).unwrap_or(false)
}

/// Executes this program again, sealed, with the same arguments and
/// environment; returns at once when it is sealed already.
///
/// # Errors
/// When it can't be done; the caller then runs unsealed or gives up.
pub fn reexec() -> Result<(), Error> {
    if is_sealed() {
        return Ok(());
    }
    let what = |e| Error::io("execute this program from a read-only mount", e);
    let binary = sealed_binary()?;
    let args = std::env::args_os()
        .map(|a| sys::cstr(a.as_bytes()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(what)?;
    let pair = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
        sys::cstr([k.as_bytes(), b"=", v.as_bytes()].concat())
    };
    let env = std::env::vars_os().map(pair).collect::<io::Result<Vec<_>>>().map_err(what)?;
    let pointers = |all: &[CString]| -> Vec<*mut libc::c_char> {
        all.iter().map(|c| c.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: the path is an empty text, arguments and environment end with NUL
    // and their lists with a null pointer; all live until the call returns.
    unsafe {
        libc::execveat(
            binary.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Err(what(io::Error::last_os_error()))
}
