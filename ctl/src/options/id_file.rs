//! The file that gets the ID of a new container.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

/// A path at which there is nothing yet.
#[derive(Debug)]
pub(crate) struct IdFile(PathBuf);

impl IdFile {
    /// Sees to it that a file can be made there, and leaves none: whatever ends this process
    /// before there is an ID, no file stands for a container.
    ///
    /// # Errors
    /// When there is one, or none can be made.
    pub(crate) fn reserve(path: PathBuf) -> anyhow::Result<Self> {
        drop(create(&path)?);
        fs::remove_file(&path)
            .with_context(|| format!("failed to remove the CID file '{}'", path.display()))?;
        Ok(Self(path))
    }

    /// Writes the ID.
    ///
    /// # Errors
    /// When it can't be written, or a file came in between. No incomplete one remains.
    pub(crate) fn write(self, id: &str) -> anyhow::Result<()> {
        let mut file = create(&self.0)?;
        file.write_all(id.as_bytes()).with_context(|| {
            // Nothing is left to do when that fails as well.
            let _ = fs::remove_file(&self.0);
            format!("failed to write the container ID to the file '{}'", self.0.display())
        })
    }
}

/// Makes a file that is not there.
fn create(path: &Path) -> anyhow::Result<File> {
    File::create_new(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        ),
        _ => anyhow!(error)
            .context(format!("failed to create the container ID file '{}'", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_with_the_id_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let file = IdFile::reserve(path.clone()).unwrap();
        assert!(!path.exists());
        file.write("0123").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "0123");
        let refused = IdFile::reserve(path).unwrap_err().to_string();
        assert!(refused.starts_with("container ID file found, make sure the other"), "{refused}");
        let nowhere = IdFile::reserve(dir.path().join("no/id")).unwrap_err().to_string();
        assert!(nowhere.starts_with("failed to create the container ID file"), "{nowhere}");
    }
}
