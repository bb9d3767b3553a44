//! The container's network namespace, which sockets towards its own name servers
//! are made in.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::runtime::sys;

/// A network namespace.
#[derive(Debug)]
pub(super) struct Namespace(OwnedFd);

impl Namespace {
    /// The one that a socket is in.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn of(socket: impl AsFd) -> io::Result<Self> {
        // SAFETY: takes integers only.
        let fd = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGSKNS as _) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes a socket there; it stays there. Nothing else happens meanwhile: there is one
    /// thread, and no await in between.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn make<T>(&self, socket: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let home = File::open("/proc/thread-self/ns/net")?;
        sys::setns(self.0.as_fd(), libc::CLONE_NEWNET)?;
        let made = socket();
        // A shim that can't go back must not go on.
        sys::setns(home.as_fd(), libc::CLONE_NEWNET).unwrap_or_else(|_| std::process::abort());
        made
    }
}
