//! Makes what an archive's entries say.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::rc::Rc;

use gantry_archive::attributes::{SPECIAL, set_named, set_open};
use gantry_archive::bad;
use gantry_archive::data::write_data;
use gantry_archive::input::Input;
use gantry_archive::names::{MAX_PATH, c_name, join, parts};
use gantry_archive::reader::{Entry, Kind, Meta};
use gantry_core::Result;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, statat, symlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::Limits;
use crate::target::Target;
use crate::tree::{Dir, Missing, Tree};
use crate::whiteouts::Marker;

/// Writes one layer into a target.
pub(crate) struct Unpacker {
    pub(crate) tree: Tree,
    /// Owner of what this process makes.
    me: (u32, u32),
}

/// Where an entry goes.
pub(crate) struct Place<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) dir: Rc<Dir>,
    pub(crate) name: &'a CStr,
    /// Its path with all links followed.
    pub(crate) path: Vec<u8>,
}

impl Unpacker {
    pub(crate) fn open(target: Target, limits: Limits) -> Result<Self> {
        let me = (geteuid().as_raw(), getegid().as_raw());
        Ok(Self { tree: Tree::open(&target, limits.max_kept)?, me })
    }

    /// Applies one entry and reads its data up to the next header.
    pub(crate) fn apply(&mut self, entry: &Entry, input: &mut Input) -> Result<()> {
        let parts = parts(&entry.path)?;
        let left = if self.entry(entry, &parts, input)? { 0 } else { entry.stored };
        input.skip(left + entry.padding)
    }

    /// Gives directories their attributes, now that nothing changes in them.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.tree.finish()
    }

    /// Returns whether the data have been read.
    fn entry(&mut self, entry: &Entry, parts: &[&[u8]], input: &mut Input) -> Result<bool> {
        let Some((name, above)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(bad::entry(&entry.path, "the root can only be a directory"));
            }
            self.tree.set_later(Vec::new(), entry.meta.clone())?;
            return Ok(false);
        };
        let marker = Marker::of(&entry.path, parts)?;
        if marker == Some(Marker::Metadata) {
            return Ok(false);
        }
        let dir = self.tree.dir(&entry.path, above, Missing::Create)?;
        let path = join(&dir.path, name);
        if path.len() > MAX_PATH {
            return Err(bad::entry(&entry.path, "its path is too long with its links followed"));
        }
        if let Some(marker) = marker {
            self.mark(&entry.path, &dir, &marker)?;
            return Ok(false);
        }
        let name = &c_name(&entry.path, name)?;
        let place = Place { entry, dir, name, path };
        match entry.kind {
            Kind::File => self.file(&place, input)?,
            Kind::Directory => self.directory(&place)?,
            Kind::HardLink => self.hard_link(&place)?,
            Kind::Symlink => self.symlink(&place)?,
            Kind::Char | Kind::Block | Kind::Fifo => self.node(&place)?,
        }
        self.tree.note_made(&place.path)?;
        Ok(entry.kind == Kind::File)
    }

    /// Makes something; what is there already goes first.
    pub(crate) fn replace<T>(
        &mut self,
        place: &Place<'_>,
        what: &str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.tree.clear(&place.entry.path, &place.dir, place.name)?;
                make()
            }
            other => other,
        }
        .map_err(|err| bad::system(what, &place.entry.path, err))
    }

    /// Whether something new in a directory needs its owner set.
    fn is_foreign(&self, dir: &Dir, meta: &Meta) -> bool {
        dir.setgid || self.me != (meta.uid, meta.gid)
    }

    fn file(&mut self, place: &Place<'_>, input: &mut Input) -> Result<()> {
        let entry = place.entry;
        let mode = Mode::from_raw_mode(entry.meta.mode & !SPECIAL);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self
            .replace(place, "make the file", || openat(&place.dir.fd, place.name, flags, mode))?;
        write_data(&fd, entry, input)?;
        set_open(
            fd.as_fd(),
            &entry.path,
            &entry.meta,
            self.is_foreign(&place.dir, &entry.meta),
            false,
        )
    }

    fn directory(&mut self, place: &Place<'_>) -> Result<()> {
        let (dir, name, path) = (&place.dir.fd, place.name, &place.entry.path);
        let failed = |err| bad::system("make the directory", path, err);
        match mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.tree.clear(path, &place.dir, name)?;
                    mkdirat(dir, name, Mode::RWXU).map_err(failed)?;
                    // It took the place of something that hid what is below.
                    if self.tree.marks {
                        self.tree.make_opaque(&place.dir, name.to_bytes())?;
                    }
                }
            }
            Err(err) => return Err(failed(err)),
        }
        self.tree.set_later(place.path.clone(), place.entry.meta.clone())
    }

    fn symlink(&mut self, place: &Place<'_>) -> Result<()> {
        let entry = place.entry;
        if entry.link.is_empty() || entry.link.len() >= MAX_PATH {
            return Err(bad::entry(&entry.path, "the target of its link is empty or too long"));
        }
        let target = c_name(&entry.path, &entry.link)?;
        self.replace(place, "make the link", || symlinkat(&target, &place.dir.fd, place.name))?;
        self.finish_named(place)
    }

    fn node(&mut self, place: &Place<'_>) -> Result<()> {
        let entry = place.entry;
        let kind = match entry.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.meta.mode);
        self.replace(place, "make the device or FIFO", || {
            mknodat(&place.dir.fd, place.name, kind, mode, device)
        })?;
        self.finish_named(place)?;
        if entry.meta.mode & SPECIAL == 0 {
            return Ok(());
        }
        // Its owner was set since it was made. It is no link: it was made here.
        rustix::fs::chmodat(&place.dir.fd, place.name, mode, AtFlags::empty())
            .map_err(|err| bad::system("set its mode", &entry.path, err))
    }

    fn finish_named(&self, place: &Place<'_>) -> Result<()> {
        let (meta, path) = (&place.entry.meta, &place.entry.path);
        let owner = self.is_foreign(&place.dir, meta);
        set_named(place.dir.fd.as_fd(), place.name, path, meta, owner)
    }
}
