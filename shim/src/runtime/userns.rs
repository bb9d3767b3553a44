//! User namespaces: one made for its mappings only, and one that is joined.

use super::sys;
use oci_spec::runtime::LinuxIdMapping;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A user namespace with these mappings, as a handle; no process lives in it.
pub(crate) fn with_mappings(
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> io::Result<OwnedFd> {
    let (ready, tell) = sys::pipe()?;
    let (wait, go) = sys::pipe()?;
    // SAFETY: only called in a worker, which has a single thread.
    match unsafe { sys::fork(None) }? {
        sys::Fork::Child => {
            drop((ready, go));
            let made = sys::unshare(libc::CLONE_NEWUSER).is_ok();
            // The parent reads one byte and, when done, closes its end.
            let _ = sys::write(tell.as_fd(), &[u8::from(made)]);
            let _ = sys::read(wait.as_fd(), &mut [0]);
            // SAFETY: ends the process without running the parent's destructors.
            unsafe { libc::_exit(0) }
        }
        sys::Fork::Parent(pid) => {
            drop((tell, wait));
            let handle = map(pid, ready, uids, gids);
            drop(go);
            // SAFETY: waits for our own child; no status is wanted.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            handle
        }
    }
}

fn map(
    pid: i32,
    ready: OwnedFd,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> io::Result<OwnedFd> {
    let mut made = [0];
    sys::read(ready.as_fd(), &mut made)?;
    if made[0] == 0 {
        return Err(io::Error::other("this host lets nobody make a user namespace"));
    }
    std::fs::write(format!("/proc/{pid}/uid_map"), lines(uids))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), lines(gids))?;
    std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, m| {
        // Writing into a String never fails.
        let _ = writeln!(text, "{} {} {}", m.container_id(), m.host_id(), m.size());
        text
    })
}
