//! Unpacks archives into directories in which others may be at work.
//!
//! A file is whole or not there: it is written under a name of its own and gets its place when it
//! is complete. What was begun when unpacking fails is taken away again; entries before it stay.

mod place;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::rc::Rc;

use gantry_core::{Error, Result};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;

use crate::Limits;
use crate::attributes::{set_named, set_open};
use crate::bad::{self, show};
use crate::data::write_data;
use crate::input::Input;
use crate::names::{MAX_PATH, c_name, parts};
use crate::reader::{Archive, Entry, Kind, Meta};
use crate::walk::{Dir, Found, Links, Node, Walker};

use place::Place;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;
/// Permissions of directories that archives imply, without an entry of their own.
const IMPLIED: u32 = 0o755;

/// Whom files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// To those in the archive.
    Kept,
    /// To this user and group.
    Fixed(u32, u32),
    /// To whoever unpacks.
    Ours,
}

/// How an archive is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Whom files belong to.
    pub owner: Owner,
    /// Take from the archive what gives power over others: set-id bits, devices, and extended
    /// attributes other than `user.*`. Otherwise devices are left out, and the rest is dropped.
    pub trusted: bool,
    /// Let a file take the place of a directory with all that is in it, and the other way round.
    pub replace: bool,
    /// The first part of every entry's path; anything when `None`.
    pub expected: Option<Vec<u8>>,
    /// What stands in place of that part; before all paths when there is none.
    pub renamed: Option<Vec<u8>>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Devices that were left out.
    pub left_out: u64,
}

/// Unpacks an archive into a directory; the attributes of that itself stay as they are. Links on
/// the way of an entry are followed, or not, as the walker does it.
///
/// For a thread with [`crate::own_umask`].
///
/// # Errors
/// `InvalidArgument` for a broken or hostile archive, and for a directory where the archive has
/// something else; `ResourceExhausted` for a full disk, and beyond the limits.
pub fn unpack(
    input: Input,
    walker: Walker,
    into: Rc<Dir>,
    options: UnpackOptions,
    limits: Limits,
) -> Result<Unpacked> {
    let mut archive = Archive::new(input, limits);
    let mut unpacker = Unpacker {
        walker,
        into,
        options,
        later: BTreeMap::new(),
        room: limits.max_kept,
        last: None,
        done: Unpacked::default(),
    };
    let made = unpacker.all(&mut archive);
    // Also when it failed: what stays is to be as it should.
    let finished = unpacker.finish();
    made.and(finished)?;
    archive.input.drain()?;
    Ok(unpacker.done)
}

struct Unpacker {
    walker: Walker,
    into: Rc<Dir>,
    options: UnpackOptions,
    /// Attributes that directories get at the end, by their paths from the root on.
    later: BTreeMap<Vec<u8>, Meta>,
    /// Bytes that `later` may still take.
    room: usize,
    /// The directory of the entry before, by its parts.
    last: Option<(Vec<Vec<u8>>, Rc<Dir>)>,
    done: Unpacked,
}

impl Unpacker {
    fn all(&mut self, archive: &mut Archive) -> Result<()> {
        while let Some(entry) = archive.next_entry()? {
            let read = self.entry(&entry, &mut archive.input)?;
            let left = if read { 0 } else { entry.stored };
            archive.input.skip(left + entry.padding)?;
        }
        Ok(())
    }

    /// Returns whether the data have been read.
    fn entry(&mut self, entry: &Entry, input: &mut Input) -> Result<bool> {
        let mut parts = self.placed(&entry.path, &entry.path)?;
        let Some(name) = parts.pop() else {
            if entry.kind == Kind::Directory {
                return Ok(false);
            }
            return Err(bad::entry(&entry.path, "the root can only be a directory"));
        };
        if matches!(entry.kind, Kind::Char | Kind::Block) && !self.options.trusted {
            self.done.left_out += 1;
            return Ok(false);
        }
        let dir = self.parent(&entry.path, parts)?;
        let name = c_name(&entry.path, &name)?;
        let place = Place { entry: &entry.path, dir, name };
        let removed = place.make_room(entry.kind == Kind::Directory, self.options.replace)?;
        if removed || entry.kind == Kind::Symlink {
            // The way to the directory before may be another from now on.
            self.last = None;
        }
        let meta = self.meta(&entry.meta);
        match entry.kind {
            Kind::File => self.file(&place, entry, &meta, input)?,
            Kind::Directory => self.directory(&place, meta)?,
            Kind::HardLink => self.hard_link(&place, entry)?,
            Kind::Symlink => self.symlink(&place, entry, &meta)?,
            Kind::Char | Kind::Block | Kind::Fifo => self.node(&place, entry, &meta)?,
        }
        Ok(entry.kind == Kind::File)
    }

    /// The parts of a path where it is to be.
    fn placed(&self, entry: &[u8], path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut parts: Vec<_> = parts(path)?.into_iter().map(<[u8]>::to_vec).collect();
        let UnpackOptions { expected, renamed, .. } = &self.options;
        if expected.is_some() && parts.first() != expected.as_ref() {
            return Err(bad::entry(entry, "nobody asked for it"));
        }
        match (expected, renamed) {
            (Some(_), Some(renamed)) => parts[0].clone_from(renamed),
            (None, Some(renamed)) => parts.insert(0, renamed.clone()),
            (_, None) => {}
        }
        Ok(parts)
    }

    fn parent(&mut self, entry: &[u8], parts: Vec<Vec<u8>>) -> Result<Rc<Dir>> {
        if let Some((_, dir)) = self.last.as_ref().filter(|(last, _)| *last == parts) {
            return Ok(Rc::clone(dir));
        }
        let path = parts.join(&b'/');
        let mode = Mode::from_raw_mode(IMPLIED);
        let dir = self.walker.directories(&self.into, &path, mode);
        let dir = dir.map_err(|err| bad::system("find its directory", entry, err))?;
        self.last = Some((parts, Rc::clone(&dir)));
        Ok(dir)
    }

    /// The attributes as they are to be.
    fn meta(&self, archived: &Meta) -> Meta {
        let mut meta = archived.clone();
        if let Owner::Fixed(uid, gid) = self.options.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        let trusted = self.options.trusted;
        if !trusted {
            meta.mode &= !SET_ID;
        }
        // Overlay's own, and the labels of one machine's policy, say nothing elsewhere.
        let fits = |name: &[u8]| {
            let powerful = name.starts_with(b"system.") || name == b"security.capability";
            name.starts_with(b"user.") || (trusted && powerful)
        };
        meta.xattrs.retain(|(name, _)| fits(name));
        meta
    }

    fn sets_owner(&self) -> bool {
        self.options.owner != Owner::Ours
    }

    fn file(&self, place: &Place<'_>, entry: &Entry, meta: &Meta, input: &mut Input) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let make = |name: &CStr| openat(&*place.dir, name, flags, mode);
        let (temporary, fd) = place.begin("make the file", make)?;
        write_data(&fd, entry, input)?;
        set_open(fd.as_fd(), &entry.path, meta, self.sets_owner(), true)?;
        temporary.put()
    }

    fn directory(&mut self, place: &Place<'_>, meta: Meta) -> Result<()> {
        let mode = Mode::from_raw_mode(meta.mode & 0o777) | Mode::RWXU;
        match mkdirat(&*place.dir, &place.name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(err) => return Err(bad::system("make the directory", place.entry, err)),
        }
        let path = place.path();
        let xattrs = meta.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let taken = path.len() + size_of::<(Vec<u8>, Meta)>() + xattrs.sum::<usize>();
        self.room = self.room.checked_sub(taken).ok_or_else(|| {
            Error::resource_exhausted(
                "archive has too many directories to be kept in memory until its end: split it",
            )
        })?;
        self.later.insert(path, meta);
        Ok(())
    }

    fn symlink(&self, place: &Place<'_>, entry: &Entry, meta: &Meta) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() >= MAX_PATH {
            return Err(bad::entry(&entry.path, "the target of its link is empty or too long"));
        }
        let target = c_name(&entry.path, &entry.link)?;
        let make = |name: &CStr| symlinkat(&target, &*place.dir, name);
        let (temporary, ()) = place.begin("make the link", make)?;
        let dir = place.dir.as_fd();
        set_named(dir, &temporary.name, &entry.path, meta, self.sets_owner())?;
        temporary.put()
    }

    fn node(&self, place: &Place<'_>, entry: &Entry, meta: &Meta) -> Result<()> {
        let kind = match entry.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(meta.mode);
        let make = |name: &CStr| mknodat(&*place.dir, name, kind, mode, device);
        let (temporary, ()) = place.begin("make the device or FIFO", make)?;
        let dir = place.dir.as_fd();
        set_named(dir, &temporary.name, &entry.path, meta, self.sets_owner())?;
        temporary.put()
    }

    fn hard_link(&self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let path = self.placed(&entry.path, &entry.link)?.join(&b'/');
        let failed = |err| bad::system("link it", &entry.path, err);
        let (dir, name, node) = match self.walker.walk(&self.into, &path, false) {
            Ok(Found::Other { dir, name, node }) => (dir, name, node),
            Ok(Found::Directory(_)) => {
                return Err(bad::entry(&entry.path, "it links to a directory"));
            }
            Ok(Found::Nothing { .. }) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let target = show(&entry.link);
                let why = format!("the target of its link, {target}, does not exist");
                return Err(bad::entry(&entry.path, why));
            }
            Err(err) => return Err(failed(err)),
        };
        let id = |node: &Node| (node.stat().st_dev, node.stat().st_ino);
        // Two names of one file can't take each other's place.
        if Node::at(&*place.dir, &place.name).is_ok_and(|there| id(&there) == id(&node)) {
            return Ok(());
        }
        let name = c_name(&entry.path, &name)?;
        let make = |new: &CStr| linkat(&*dir, &name, &*place.dir, new, AtFlags::empty());
        let (temporary, ()) = place.begin("link it", make)?;
        temporary.put()
    }

    /// Gives directories their attributes, now that nothing changes in them.
    fn finish(&mut self) -> Result<()> {
        let strict = Walker::new(Rc::clone(self.walker.root()), Links::Refuse);
        let (owner, mut outcome) = (self.sets_owner(), Ok(()));
        // What is in a directory comes before it: it may be closed to us afterwards.
        for (path, meta) in std::mem::take(&mut self.later).into_iter().rev() {
            // One that was taken away meanwhile needs none.
            let Ok(Found::Directory(dir)) = strict.walk(strict.root(), &path, false) else {
                continue;
            };
            let open = dir.node().open();
            let open = open.map_err(|err| bad::system("open the directory", &path, err));
            let set = open.and_then(|fd| set_open(fd.as_fd(), &path, &meta, owner, true));
            outcome = outcome.and(set);
        }
        outcome
    }
}
