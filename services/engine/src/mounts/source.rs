//! Paths on the host that mounts bring into containers.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use gantry_core::{Error, Result, faults};

/// Makes a directory and what leads to it, unless something is there.
///
/// # Errors
/// The system's.
pub(super) fn make(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let make = || DirBuilder::new().recursive(true).mode(0o755).create(path);
    match faults::around("make the source of a bind mount", make) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => {
            let what = format!("error while creating mount source path '{}'", path.display());
            Err(Error::io(what, err))
        }
        _ => Ok(()),
    }
}
