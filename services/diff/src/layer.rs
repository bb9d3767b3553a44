//! Writes layer archives (OCI image spec, layer.md).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use gantry_core::{Error, Result};
use rustix::fs::{FileType, major, minor};
use tar::{Builder, EntryType, Header};

use crate::bad::show;
use crate::compare::Changes;
use crate::merged::{Directory, Entry};

/// Longest name in a header itself.
const NAME: usize = 100;
/// What marks something as deleted.
const WHITEOUT: &[u8] = b".wh.";

/// Makes an archive of changes.
pub(crate) struct LayerWriter<W: Write> {
    archive: Builder<W>,
    /// Files with several names, by device and inode, and the name each has here.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// Times after this one are not to be in the archive; seconds since 1970.
    newest: Option<i64>,
}

impl<W: Write> LayerWriter<W> {
    pub(crate) fn new(to: W, newest: Option<i64>) -> Self {
        let mut archive = Builder::new(to);
        // What can't be read as it was found is an error, not an entry that was left out.
        archive.sparse(false);
        Self { archive, linked: HashMap::new(), newest }
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What writing said.
    pub(crate) fn finish(self) -> Result<W> {
        self.archive.into_inner().map_err(|err| Error::io("end the layer", err))
    }

    fn time(&self, seconds: i64) -> u64 {
        let seconds = self.newest.map_or(seconds, |newest| seconds.min(newest));
        u64::try_from(seconds).unwrap_or(0)
    }

    /// Writes one entry; what does not fit into its header goes before it.
    fn append(
        &mut self,
        mut header: Header,
        path: &[u8],
        link: Option<&[u8]>,
        mut records: Vec<(String, Vec<u8>)>,
        data: impl Read,
    ) -> Result<()> {
        let failed = |err| Error::io(format!("write {} to the layer", show(path)), err);
        if path.len() > NAME {
            records.push(("path".to_owned(), path.to_vec()));
        }
        if let Some(link) = link.filter(|link| link.len() > NAME) {
            records.push(("linkpath".to_owned(), link.to_vec()));
        }
        if !records.is_empty() {
            let pairs = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.archive.append_pax_extensions(pairs).map_err(failed)?;
        }
        let fields =
            header.as_gnu_mut().ok_or_else(|| Error::internal("a header of another form"))?;
        fields.name[..path.len().min(NAME)].copy_from_slice(&path[..path.len().min(NAME)]);
        if let Some(link) = link {
            let cut = link.len().min(NAME);
            fields.linkname[..cut].copy_from_slice(&link[..cut]);
        }
        header.set_cksum();
        self.archive.append(&header, data).map_err(failed)
    }
}

impl<W: Write> Changes for LayerWriter<W> {
    fn made(&mut self, path: &[u8], dir: &Directory, entry: &Entry) -> Result<()> {
        let stat = &entry.stat;
        let mut header = Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        header.set_mtime(self.time(stat.st_mtime));
        header.set_size(0);
        let kind = match entry.kind() {
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::RegularFile => EntryType::Regular,
            // Sockets live as long as who listens; archives have none.
            _ => return Ok(()),
        };
        header.set_entry_type(kind);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let set = header
                .set_device_major(major(stat.st_rdev))
                .and_then(|()| header.set_device_minor(minor(stat.st_rdev)));
            set.map_err(|err| Error::io(format!("write {} to the layer", show(path)), err))?;
        }
        if kind == EntryType::Regular && stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&entry.id()).cloned() {
                header.set_entry_type(EntryType::Link);
                return self.append(header, path, Some(&first), Vec::new(), io::empty());
            }
            self.linked.insert(entry.id(), path.to_vec());
        }
        let mut records = Vec::new();
        for (name, value) in dir.xattrs(path, entry)? {
            match String::from_utf8(name) {
                // A key ends at the first one: the rest would become part of the value.
                Ok(name) if name.contains('=') => {
                    tracing::warn!(path = show(path), "left out an attribute with = in its name");
                }
                Ok(name) => records.push((format!("SCHILY.xattr.{name}"), value)),
                Err(_) => tracing::warn!(path = show(path), "left out an attribute not in UTF-8"),
            }
        }
        match kind {
            EntryType::Directory => {
                let path = [path, b"/"].concat();
                self.append(header, &path, None, records, io::empty())
            }
            EntryType::Symlink => {
                let link = dir.link(path, entry)?;
                self.append(header, path, Some(&link), records, io::empty())
            }
            EntryType::Regular => {
                let file = File::from(dir.open(path, entry)?);
                let failed = |err| Error::io(format!("look at {}", show(path)), err);
                // As long as it is now, however long it is when it was read.
                let size = file.metadata().map_err(failed)?.len();
                header.set_size(size);
                let data = file.take(size).chain(io::repeat(0)).take(size);
                self.append(header, path, None, records, data)
            }
            _ => self.append(header, path, None, records, io::empty()),
        }
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let marker = [&path[..name], WHITEOUT, &path[name..]].concat();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(0);
        self.append(header, &marker, None, Vec::new(), io::empty())
    }
}
