//! Files that are written whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file that appears under its name when it is complete. Dropped before, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Saved {
    file: File,
    path: PathBuf,
    /// Where it is until then; `None` when it has to be written in place.
    temporary: Option<PathBuf>,
}

impl Saved {
    /// Begins a file. What is no regular file, such as a device, is written to as it is.
    ///
    /// # Errors
    /// It can't be made.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("create {}", path.display());
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(path).with_context(what)?;
            return Ok(Self { file, path: path.to_owned(), temporary: None });
        }
        let name = path.file_name().with_context(what)?.to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let file = File::create_new(&temporary).with_context(what)?;
        Ok(Self { file, path: path.to_owned(), temporary: Some(temporary) })
    }

    /// Adds to it.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).with_context(|| format!("write {}", self.path.display()))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        let named = self.file.sync_all().and_then(|()| std::fs::rename(&temporary, &self.path));
        if named.is_err() {
            self.temporary = Some(temporary);
        }
        named.with_context(|| format!("write {}", self.path.display()))
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about one that stays.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.tar");
        let mut saved = Saved::create(&path).unwrap();
        saved.write(b"half").unwrap();
        drop(saved);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut saved = Saved::create(&path).unwrap();
        saved.write(b"whole").unwrap();
        saved.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
