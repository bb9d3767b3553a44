//! Where an entry goes.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use gantry_core::{Error, Result};
use rustix::fs::{AtFlags, FileType, renameat, unlinkat};
use rustix::io::Errno;

use crate::attributes::through;
use crate::bad::{self, show};
use crate::walk::{Dir, Node};

/// Names that are tried for something that is not complete.
const ATTEMPTS: usize = 16;

/// A name in a directory.
pub(super) struct Place<'a> {
    /// As the archive has it.
    pub(super) entry: &'a [u8],
    pub(super) dir: Rc<Dir>,
    pub(super) name: CString,
}

/// Something that is not in its place yet. Dropping it takes it away.
pub(super) struct Temporary<'a> {
    place: &'a Place<'a>,
    pub(super) name: CString,
    kept: bool,
}

impl Place<'_> {
    /// Its path from the root on.
    pub(super) fn path(&self) -> Vec<u8> {
        self.dir.path_of(self.name.to_bytes())
    }

    /// Sees that no directory is in the way of something else, nor the other way round. Says
    /// whether something was taken away.
    pub(super) fn make_room(&self, directory: bool, replace: bool) -> Result<bool> {
        let there = match Node::at(&*self.dir, &self.name) {
            Ok(node) => node.kind() == FileType::Directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(err) => return Err(bad::system("look at its place", self.entry, err)),
        };
        if there == directory {
            return Ok(false);
        }
        if !replace {
            let (path, entry) = (show(&self.path()), show(self.entry));
            return Err(Error::invalid_argument(if there {
                format!("cannot overwrite directory {path} with non-directory {entry}")
            } else {
                format!("cannot overwrite non-directory {path} with directory {entry}")
            }));
        }
        let removed = if there {
            let path = through(&*self.dir, &self.name);
            // Follows no link, neither here nor below.
            std::fs::remove_dir_all(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
        } else {
            unlinkat(&*self.dir, &self.name, AtFlags::empty()).map_err(Into::into)
        };
        let what = || format!("archive entry {}: remove what is in its place", show(self.entry));
        removed.map_err(|err| Error::io(what(), err))?;
        Ok(true)
    }

    /// Makes something under a name that nobody has.
    pub(super) fn begin<T>(
        &self,
        what: &str,
        make: impl Fn(&CStr) -> Result<T, Errno>,
    ) -> Result<(Temporary<'_>, T)> {
        for attempt in 1.. {
            let name = format!(".gantry-{:016x}", rand::random::<u64>());
            // Digits and letters hold no NUL.
            let name = CString::new(name).unwrap_or_default();
            match make(&name) {
                Ok(made) => return Ok((Temporary { place: self, name, kept: false }, made)),
                Err(Errno::EXIST) if attempt < ATTEMPTS => {}
                Err(err) => return Err(bad::system(what, self.entry, err)),
            }
        }
        Err(Error::internal("no name was tried"))
    }
}

impl Temporary<'_> {
    /// Puts it in its place, where it replaces what is there.
    pub(super) fn put(mut self) -> Result<()> {
        let Place { entry, dir, name } = self.place;
        renameat(&**dir, &self.name, &**dir, name)
            .map_err(|err| bad::system("put it in its place", entry, err))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody could do anything about a failure.
            let _ = unlinkat(&*self.place.dir, &self.name, AtFlags::empty());
        }
    }
}
