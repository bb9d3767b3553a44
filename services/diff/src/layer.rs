//! Writes layer archives (OCI image spec, layer.md).

use std::io::Write;
use std::os::fd::OwnedFd;

use gantry_archive::pack::{Attributes, PackOptions, Packer, Source};
use gantry_core::Result;
use rustix::fs::Stat;

use crate::compare::{Changes, How};
use crate::merged::{Directory, Entry};

/// What marks something as deleted.
const WHITEOUT: &[u8] = b".wh.";

/// Makes an archive of changes.
pub(crate) struct LayerWriter<W: Write>(Packer<W>);

impl<W: Write> LayerWriter<W> {
    /// `newest`: times after this one are not to be in the archive; seconds since 1970.
    pub(crate) fn new(to: W, newest: Option<i64>) -> Self {
        Self(Packer::new(to, PackOptions { newest, ..PackOptions::default() }))
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What writing said.
    pub(crate) fn finish(self) -> Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Changes for LayerWriter<W> {
    fn made(&mut self, path: &[u8], _: How, dir: &Directory, entry: &Entry) -> Result<()> {
        self.0.add(path, &Made { path, dir, entry })
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        self.0.add_mark(&[&path[..name], WHITEOUT, &path[name..]].concat())
    }
}

/// Something that a snapshot has.
struct Made<'a> {
    path: &'a [u8],
    dir: &'a Directory,
    entry: &'a Entry,
}

impl Source for Made<'_> {
    fn stat(&self) -> &Stat {
        &self.entry.stat
    }

    fn xattrs(&self) -> Result<Attributes> {
        self.dir.xattrs(self.path, self.entry)
    }

    fn link(&self) -> Result<Vec<u8>> {
        self.dir.link(self.path, self.entry)
    }

    fn open(&self) -> Result<OwnedFd> {
        self.dir.open(self.path, self.entry)
    }
}
