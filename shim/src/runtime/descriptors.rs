//! How many descriptors the shim may have open: published ports need one each.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The soft limit that the shim was started with. It is the process' own, like the limit.
static INHERITED: OnceLock<libc::rlim_t> = OnceLock::new();

/// Raises the limit as far as it goes.
pub(crate) fn raise() {
    if INHERITED.get().is_some() {
        return;
    }
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    // Nobody else sets it: there is one thread.
    let _ = INHERITED.set(soft);
    if soft < hard {
        // Without it fewer ports have room, and the one too many is refused.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Undoes that in a worker: processes of the container inherit the limit.
pub(crate) fn restore() {
    let Some(soft) = INHERITED.get() else { return };
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, *soft, hard);
    }
}
