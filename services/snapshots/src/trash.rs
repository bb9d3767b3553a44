//! What was removed and is still on the disk.

use std::path::Path;

use gantry_core::{Error, Result};
use gantry_files::{TRASH_PREFIX, remove_tree};

/// Deletes what snapshotters below this root directory have put away, for a start
/// on a disk so full that their records can't be opened.
///
/// # Errors
/// A directory can't be read. What can't be deleted is logged, and stays.
pub fn empty_trash(root: &Path) -> Result<()> {
    let list = |dir: &Path| {
        let failed = |err| Error::io(format!("list {}", dir.display()), err);
        let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        entries.map_err(failed)
    };
    let snapshotters = list(root)?.into_iter().map(|entry| entry.path().join("snapshots"));
    for directory in snapshotters.filter(|path| path.is_dir()) {
        for entry in list(&directory)? {
            if entry.file_name().to_string_lossy().starts_with(TRASH_PREFIX)
                && let Err(err) = remove_tree(&entry.path())
            {
                tracing::warn!(error = %err, "a removed snapshot stays");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_put_away_goes() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = root.path().join("io.containerd.snapshotter.v1.native/snapshots");
        for name in ["rm-1/fs/deep", "2/fs"] {
            std::fs::create_dir_all(snapshots.join(name)).unwrap();
        }
        std::fs::write(root.path().join("rm-file"), "").unwrap();
        empty_trash(root.path()).unwrap();
        assert!(!snapshots.join("rm-1").exists());
        assert!(snapshots.join("2/fs").exists() && root.path().join("rm-file").exists());
    }
}
