//! What a layer deletes (OCI image spec, layer.md, "Whiteouts"). Whiteouts
//! concern what lies below, never what the same layer brings.

use std::ffi::CString;
use std::os::fd::AsFd;

use gantry_archive::bad;
use gantry_archive::names::{c_name, join};
use gantry_core::{NeedsParent, Result};
use rustix::fs::{AtFlags, Dir as Entries, FileType, Mode, OFlags, mknodat, openat, statat};
use rustix::io::Errno;

use crate::lower::is_whiteout;
use crate::tree::{Dir, Missing};
use crate::unpack::Unpacker;

const PREFIX: &[u8] = b".wh.";

/// What a special name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// What is below in this directory is deleted.
    Opaque,
    /// This name below is deleted.
    Whiteout(CString),
    /// Something of AUFS that concerns nobody else.
    Metadata,
}

impl Marker {
    /// The meaning of a path, if it has one of its own.
    pub(crate) fn of(path: &[u8], parts: &[&[u8]]) -> Result<Option<Self>> {
        let Some((last, above)) = parts.split_last() else { return Ok(None) };
        let meta = |part: &&[u8]| part.starts_with(b".wh..wh.");
        if above.iter().any(meta) {
            return Ok(Some(Self::Metadata));
        }
        if above.iter().any(|part| part.starts_with(PREFIX)) {
            return Err(bad::entry(path, "a whiteout is no directory"));
        }
        match last.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(b".wh..opq") => Ok(Some(Self::Opaque)),
            Some(_) if meta(last) => Ok(Some(Self::Metadata)),
            Some(b"" | b"." | b"..") => Err(bad::entry(path, "it is a whiteout of no file")),
            Some(name) => Ok(Some(Self::Whiteout(c_name(path, name)?))),
        }
    }
}

impl Unpacker {
    /// Deletes what a marker in this directory says.
    pub(crate) fn mark(&mut self, entry: &[u8], dir: &Dir, marker: &Marker) -> Result<()> {
        match marker {
            Marker::Metadata => Ok(()),
            Marker::Whiteout(name) => {
                self.delete_old(entry, dir, name)?;
                if self.tree.marks { self.mark_name(entry, dir, name) } else { Ok(()) }
            }
            Marker::Opaque => {
                self.delete_all_old(entry, dir)?;
                if self.tree.marks { self.mark_dir(entry, dir) } else { Ok(()) }
            }
        }
    }

    /// Marks a name as deleted, or a directory of this layer as having
    /// nothing below it.
    fn mark_name(&mut self, entry: &[u8], dir: &Dir, name: &CString) -> Result<()> {
        let kind = FileType::CharacterDevice;
        match mknodat(&dir.fd, name, kind, Mode::empty(), 0) {
            Ok(()) => self.tree.note_made(&join(&dir.path, name.to_bytes())),
            Err(Errno::EXIST) => {
                let stat = statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|err| bad::system("mark it as deleted", entry, err))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.tree.make_opaque(dir, name.to_bytes())?;
                }
                Ok(())
            }
            Err(err) => Err(bad::system("mark it as deleted", entry, err)),
        }
    }

    fn mark_dir(&mut self, entry: &[u8], dir: &Dir) -> Result<()> {
        if let Some(at) = dir.path.iter().rposition(|b| *b == b'/') {
            let parts: Vec<&[u8]> = dir.path[..at].split(|b| *b == b'/').collect();
            let above = self.tree.dir(entry, &parts, Missing::Refuse)?;
            return self.tree.make_opaque(&above, &dir.path[at + 1..]);
        }
        if !dir.path.is_empty() {
            let root = std::rc::Rc::clone(&self.tree.root);
            return self.tree.make_opaque(&root, &dir.path);
        }
        // Overlay merges the root whatever it is marked as.
        if self.tree.detached {
            return Err(NeedsParent::error(String::from_utf8_lossy(entry)));
        }
        for name in self.tree.lower.root_names()? {
            self.mark_name(entry, dir, &c_name(entry, &name)?)?;
        }
        Ok(())
    }

    /// Removes a name from the directory, but nothing of this layer.
    fn delete_old(&mut self, entry: &[u8], dir: &Dir, name: &CString) -> Result<()> {
        if self.tree.fresh {
            return Ok(());
        }
        let path = join(&dir.path, name.to_bytes());
        if !self.tree.is_made(&path) {
            return self.tree.clear(entry, dir, name);
        }
        let stat = statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| bad::system("delete what was there", entry, err))?;
        if is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let below = self.tree.dir(entry, &parts, Missing::Refuse)?;
        self.delete_all_old(entry, &below)
    }

    fn delete_all_old(&mut self, entry: &[u8], dir: &Dir) -> Result<()> {
        if self.tree.fresh {
            return Ok(());
        }
        let failed = |err| bad::system("delete what was there", entry, err);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(dir.fd.as_fd(), c".", flags, Mode::empty()).map_err(failed)?;
        let mut entries = Entries::new(fd).map_err(failed)?;
        let mut names = Vec::new();
        while let Some(found) = entries.read() {
            let name = found.map_err(failed)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.iter().try_for_each(|name| self.delete_old(entry, dir, name))
    }
}
