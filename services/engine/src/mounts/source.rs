//! Paths on the host that mounts bring into containers.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread;

use gantry_archive::own_umask;
use gantry_core::{Error, Result, faults};

/// Makes a directory and what leads to it, unless something is there. All users may look into it.
///
/// # Errors
/// The system's.
pub(super) fn make(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    // In a thread of its own, since the daemon's umask would keep a container's users out.
    let make = || {
        thread::scope(|scope| -> io::Result<()> {
            let made = thread::Builder::new().spawn_scoped(scope, || -> io::Result<()> {
                own_umask().map_err(io::Error::other)?;
                DirBuilder::new().recursive(true).mode(0o755).create(path)
            })?;
            made.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
        })
    };
    match faults::around("make the source of a bind mount", make) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => {
            let what = format!("error while creating mount source path '{}'", path.display());
            Err(Error::io(what, err))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::Mode;
    use rustix::process::umask;

    use super::*;

    #[test]
    fn all_users_may_look_whatever_the_umask() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        thread::scope(|scope| {
            scope.spawn(|| {
                // So that the other tests keep theirs.
                own_umask().unwrap();
                umask(Mode::from_raw_mode(0o077));
                make(&path).unwrap();
            });
        });
        for made in [top.path().join("a"), path] {
            let mode = made.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{}", made.display());
        }
    }
}
