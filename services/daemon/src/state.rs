//! The state directory: one daemon's at a time, and of one root as long as
//! containers of that root run.
//!
//! A daemon ends every task in it that it has no record of. Without this, one
//! with another root would end all containers of the first.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gantry_core::faults;
use gantry_metadata::lock_directory;

/// Locked by the daemon that runs; holds its process ID.
const LOCK: &str = "lock";
/// The root that the bundles belong to.
const OWNER: &str = "root";

/// A state directory that no other daemon uses, until dropped.
pub(crate) struct StateDirectory {
    _lock: File,
}

impl StateDirectory {
    /// Takes the directory for the daemon with this root. Both exist.
    ///
    /// # Errors
    /// When another daemon runs in it, or bundles of another root are there.
    pub(crate) fn claim(state: &Path, root: &Path) -> Result<Self> {
        let lock = lock_directory(state, LOCK, "state directory", "use another --state")?;
        let root = root.canonicalize().with_context(|| format!("look at {}", root.display()))?;
        let path = state.join(OWNER);
        let owner = match fs::read(&path) {
            Ok(owner) => Some(PathBuf::from(OsStr::from_bytes(&owner))),
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            Err(err) => return Err(err).with_context(|| format!("read {}", path.display())),
        };
        match owner {
            Some(owner) if owner == root => return Ok(Self { _lock: lock }),
            Some(owner) if gantry_tasks::has_bundles(state)? => bail!(
                "state directory {} belongs to the daemon with root {}, whose containers are \
                 there: use another --state",
                state.display(),
                owner.display()
            ),
            _ => {}
        }
        let new = state.join(".root");
        let write =
            || fs::write(&new, root.as_os_str().as_bytes()).and_then(|()| fs::rename(&new, &path));
        faults::around("claim the state directory", write)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time_and_one_root_while_there_are_bundles() {
        let dir = tempfile::tempdir().unwrap();
        let (state, a, b) = (dir.path().join("s"), dir.path().join("a"), dir.path().join("b"));
        [&state, &a, &b].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let refused = |root: &Path| StateDirectory::claim(&state, root).err().unwrap().to_string();
        let held = StateDirectory::claim(&state, &a).unwrap();
        let said = refused(&a);
        assert!(said.contains("in use by another gantryd"), "{said}");
        assert!(said.contains(&state.display().to_string()), "{said}");
        drop(held);

        let bundle = state.join("io.containerd.runtime.v2.task/default/c1");
        fs::create_dir_all(&bundle).unwrap();
        let said = refused(&b);
        assert!(
            said.contains(&format!("belongs to the daemon with root {}", a.display())),
            "{said}"
        );
        // The same root by another way.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&a, &link).unwrap();
        drop(StateDirectory::claim(&state, &link).unwrap());

        fs::remove_dir(&bundle).unwrap();
        drop(StateDirectory::claim(&state, &b).unwrap());
        fs::create_dir(&bundle).unwrap();
        assert!(refused(&a).contains(&b.display().to_string()));
    }
}
