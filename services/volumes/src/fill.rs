//! The first content of a volume.
//!
//! It is copied beside the volume's directory, brought to the disk, and then moved into it,
//! which stays the same directory: somebody may have it mounted already. The name of the copy
//! says which of this was done, whatever instant a crash picks.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result, faults};
use gantry_files::{CopyOptions, copy_attributes, copy_tree, remove_tree};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;

use crate::inner::Inner;
use crate::places::{Key, flush_directory, is_empty, make_directory, names};

/// Opens the directory that a volume is to be filled from; `None` when it is not there.
pub(crate) fn open(source: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, source, flags, Mode::empty()) {
        Ok(open) => Ok(Some(open)),
        Err(Errno::NOENT) => Ok(None),
        Err(err) => Err(Error::io(format!("open {source:?}"), err.into())),
    }
}

impl Inner {
    /// Fills a volume that is empty. Says whether it got any files.
    pub(crate) fn fill(&self, key: &Key, source: Option<&OwnedFd>) -> Result<bool> {
        let record = self.found(key)?;
        if record.snapshot_of.is_some() || !record.options.is_empty() {
            return Ok(false);
        }
        self.places.make(key)?;
        if self.finish_fill(key)? {
            return Ok(true);
        }
        let data = self.places.data(key);
        if !is_empty(&data)? {
            return Ok(false);
        }
        let Some(source) = source else { return Ok(false) };
        let source = PathBuf::from(format!("/proc/self/fd/{}/.", source.as_raw_fd()));
        if is_empty(&source)? {
            copy_attributes(&source, &data)?;
            return Ok(false);
        }
        if let Err(err) = self.copy_content(key, &source) {
            if let Err(left) = remove_tree(&self.places.filling(key)) {
                tracing::warn!(error = %left, volume = %key.1, "half a content stays for now");
            }
            return Err(err);
        }
        self.finish_fill(key)
    }

    /// Copies a first content, and says by its name that it is complete.
    fn copy_content(&self, key: &Key, source: &Path) -> Result<()> {
        let (filling, filled) = (self.places.filling(key), self.places.filled(key));
        // Of a time that did not come so far.
        remove_tree(&filling)?;
        make_directory(&filling, 0o700)?;
        copy_tree(source, &filling, CopyOptions::default())?;
        self.flush.run()?;
        faults::around("complete the first content of a volume", || fs::rename(&filling, &filled))
            .map_err(|err| Error::io(format!("rename {filling:?}"), err))
    }

    /// Moves a complete first content into a volume. Says whether there was one.
    pub(crate) fn finish_fill(&self, key: &Key) -> Result<bool> {
        let (filled, data) = (self.places.filled(key), self.places.data(key));
        let names = match names(&filled) {
            Err(err) if err.is_not_found() => return Ok(false),
            names => names?,
        };
        for name in names {
            let (from, to) = (filled.join(&name), data.join(&name));
            let place = || renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
            match faults::around("put a file into a volume", place) {
                // Somebody who uses it already was faster.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(err) => return Err(Error::io(format!("move {from:?} to {to:?}"), err.into())),
            }
        }
        copy_attributes(&filled, &data)?;
        flush_directory(&data)?;
        remove_tree(&filled)?;
        flush_directory(&self.places.volume(key))?;
        Ok(true)
    }
}
