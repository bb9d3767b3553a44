//! Files that are for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

/// Makes a directory, and those above it.
///
/// # Errors
/// The system's.
pub(crate) fn make_directory(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("make {}", path.display()))
}

/// Writes a file that is not there yet.
///
/// # Errors
/// The system's, also when it is there. Nothing is left of a file that could not be written whole.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let file = opened.with_context(|| format!("make {}", path.display()))?;
    let written = fill(file, bytes).with_context(|| format!("write {}", path.display()));
    if written.is_err() {
        // The failure is told; nobody is helped by another.
        let _ = fs::remove_file(path);
    }
    written
}

/// Writes a file in place of another, if there is one; readers see one or the other.
///
/// # Errors
/// The system's.
pub(crate) fn write_over(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    // Of a process that was killed and had this one's number.
    let _ = fs::remove_file(&new);
    write_new(&new, bytes)?;
    let moved = fs::rename(&new, path).with_context(|| format!("write {}", path.display()));
    if moved.is_err() {
        // As above.
        let _ = fs::remove_file(&new);
    }
    moved
}

fn fill(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}
