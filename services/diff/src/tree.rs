//! The directories that a layer is written into, found beneath the root.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use gantry_archive::attributes::{set_open, through};
use gantry_archive::bad;
use gantry_archive::names::{MAX_PATH, above, c_name, is_within, join};
use gantry_archive::reader::Meta;
use gantry_core::{Error, NeedsParent, Result};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, ResolveFlags, XattrFlags, fstat, lsetxattr, mkdirat,
    openat, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::copy_up::meta_of;
use crate::lower::{AT, Found, Lower, is_opaque, is_whiteout};
use crate::target::{Style, Target};

/// Links that are followed for one path, as in the kernel.
const MAX_LINKS: usize = 40;

/// Directories that are kept open at most.
const MAX_OPEN: usize = 64;

/// What a path takes in memory beside its bytes.
const PATH: usize = size_of::<Vec<u8>>();

/// What an attribute takes in memory beside the bytes of its name and value.
const PAIR: usize = 2 * size_of::<Vec<u8>>();

/// A directory of the tree, open.
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    /// Its path below the root, without links.
    pub(crate) path: Vec<u8>,
    /// Files made in it get its group.
    pub(crate) setgid: bool,
    /// Nothing of the lower layers shows in it.
    hidden: bool,
}

/// What to do about a directory on the way that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    Refuse,
}

/// The tree beneath a root. No call of the system gets more than one name:
/// each is looked up in an open directory and not followed if it is a link,
/// so nothing in an archive can lead out of the root.
pub(crate) struct Tree {
    pub(crate) root: Rc<Dir>,
    /// Whether what a layer deletes is marked instead.
    pub(crate) marks: bool,
    /// Whether the layers below are unknown.
    pub(crate) detached: bool,
    pub(crate) lower: Lower,
    pub(crate) opaque_attribute: &'static CStr,
    /// Whether the root was empty: everything in it is of this layer.
    pub(crate) fresh: bool,
    /// Open directories by the path they were asked for.
    open: HashMap<Vec<u8>, Rc<Dir>>,
    /// Directories made opaque by this layer.
    opaque: BTreeSet<Vec<u8>>,
    /// What this layer made, unless it is `fresh` and that is everything.
    made: BTreeSet<Vec<u8>>,
    /// Attributes that directories get at the end, when nothing changes
    /// their times any more.
    later: BTreeMap<Vec<u8>, Meta>,
    /// Bytes that `opaque`, `made` and `later` may still take. What is removed from them
    /// gives nothing back: only an odd layer brings the same path again and again.
    room: usize,
}

impl Tree {
    pub(crate) fn open(target: &Target, room: usize) -> Result<Self> {
        let failed =
            |err: Errno| Error::io(format!("open {:?} to apply a layer", target.root), err.into());
        let fd = openat(CWD, &target.root, AT - OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        let fresh = is_empty(&fd).map_err(failed)?;
        let opaque_attribute =
            if target.user_attributes { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" };
        let lower: &[_] = if let Style::Overlay(dirs) = &target.style { dirs } else { &[] };
        let setgid = stat.st_mode & 0o2000 != 0;
        Ok(Self {
            root: Rc::new(Dir { fd, path: Vec::new(), setgid, hidden: false }),
            marks: target.style != Style::Plain,
            detached: target.style == Style::Detached,
            lower: Lower::open(lower, opaque_attribute)?,
            opaque_attribute,
            fresh,
            open: HashMap::new(),
            opaque: BTreeSet::new(),
            made: BTreeSet::new(),
            later: BTreeMap::new(),
            room,
        })
    }

    /// The directory at a path, its links followed as if the root were `/`.
    pub(crate) fn dir(
        &mut self,
        entry: &[u8],
        parts: &[&[u8]],
        missing: Missing,
    ) -> Result<Rc<Dir>> {
        if parts.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let key = parts.join(&b'/');
        if let Some(dir) = self.open.get(&key) {
            return Ok(Rc::clone(dir));
        }
        let (mut dir, rest) = self.nearest_open(&key);
        let mut queue: VecDeque<Vec<u8>> = split(rest).collect();
        let mut links = 0;
        while let Some(name) = queue.pop_front() {
            if name == b".." {
                dir = self.dir_above(entry, &dir)?;
                continue;
            }
            match self.step(entry, &dir, &name, missing)? {
                Step::Down(below) => dir = self.remember(Rc::new(below)),
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS || target.len() > MAX_PATH {
                        return Err(bad::entry(entry, "its path leads through too many links"));
                    }
                    if target.starts_with(b"/") {
                        dir = Rc::clone(&self.root);
                    }
                    let target: Vec<_> = split(&target).collect();
                    target.into_iter().rev().for_each(|part| queue.push_front(part));
                }
            }
        }
        self.open.insert(key, Rc::clone(&dir));
        Ok(dir)
    }

    /// The deepest open directory on a path, and the rest of the path.
    fn nearest_open<'a>(&self, key: &'a [u8]) -> (Rc<Dir>, &'a [u8]) {
        let mut prefix = above(key);
        while !prefix.is_empty() {
            if let Some(dir) = self.open.get(prefix) {
                return (Rc::clone(dir), &key[prefix.len() + 1..]);
            }
            prefix = above(prefix);
        }
        (Rc::clone(&self.root), key)
    }

    fn dir_above(&mut self, entry: &[u8], dir: &Dir) -> Result<Rc<Dir>> {
        let path = above(&dir.path).to_vec();
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        // The path has no links, so this does not come here again.
        self.dir(entry, &parts, Missing::Refuse)
    }

    fn remember(&mut self, dir: Rc<Dir>) -> Rc<Dir> {
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(dir.path.clone(), Rc::clone(&dir));
        dir
    }

    fn step(&mut self, entry: &[u8], dir: &Dir, name: &[u8], missing: Missing) -> Result<Step> {
        let c = c_name(entry, name)?;
        match openat(&dir.fd, &c, AT, Mode::empty()) {
            Ok(fd) => return self.opened(entry, dir, name, fd).map(Step::Down),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                match readlinkat(&dir.fd, &c, Vec::new()) {
                    Ok(target) => return Ok(Step::Link(target.into_bytes())),
                    Err(Errno::INVAL) => {}
                    Err(err) => return Err(bad::system("follow its path", entry, err)),
                }
                self.whiteout_on_path(entry, dir, name, missing)?;
            }
            Err(err) => return Err(bad::system("follow its path", entry, err)),
        }
        self.look_below(entry, dir, name, missing)
    }

    /// A path leads through something that is no directory: fine if that is
    /// a whiteout, which then gives way to an opaque directory.
    fn whiteout_on_path(
        &mut self,
        entry: &[u8],
        dir: &Dir,
        name: &[u8],
        missing: Missing,
    ) -> Result<()> {
        let c = c_name(entry, name)?;
        let stat = statat(&dir.fd, &c, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| bad::system("follow its path", entry, err))?;
        if !self.marks || !is_whiteout(&stat) || missing == Missing::Refuse {
            let at = join(&dir.path, name);
            let why = format!("{} on its path is not a directory", bad::show(&at));
            return Err(bad::entry(entry, why));
        }
        unlinkat(&dir.fd, &c, AtFlags::empty())
            .and_then(|()| mkdirat(&dir.fd, &c, Mode::from_raw_mode(0o755)))
            .map_err(|err| bad::system("make a directory on its path", entry, err))?;
        self.make_opaque(dir, name)
    }

    /// A name that is not in the upper directory (or was just made there).
    fn look_below(
        &mut self,
        entry: &[u8],
        dir: &Dir,
        name: &[u8],
        missing: Missing,
    ) -> Result<Step> {
        let path = join(&dir.path, name);
        let c = c_name(entry, name)?;
        let failed = |err| bad::system("make a directory on its path", entry, err);
        if self.opaque.contains(&path) {
            let fd = openat(&dir.fd, &c, AT, Mode::empty()).map_err(failed)?;
            return self.opened(entry, dir, name, fd).map(Step::Down);
        }
        if self.detached {
            return Err(NeedsParent::error(String::from_utf8_lossy(entry)));
        }
        let found = if dir.hidden { Found::Nothing } else { self.lower.find(&dir.path, &c)? };
        match found {
            Found::Link(target) => return Ok(Step::Link(target)),
            Found::Other => {
                let why = format!("{} on its path is not a directory", bad::show(&path));
                return Err(bad::entry(entry, why));
            }
            Found::Nothing if missing == Missing::Refuse => {
                return Err(bad::entry(entry, "the target of its link does not exist"));
            }
            Found::Nothing => {
                mkdirat(&dir.fd, &c, Mode::from_raw_mode(0o755)).map_err(failed)?;
            }
            Found::Directory(below) => {
                let stat = fstat(&below).map_err(failed)?;
                let meta = meta_of(&below, c".", &stat).map_err(failed)?;
                mkdirat(&dir.fd, &c, Mode::RWXU).map_err(failed)?;
                self.set_later(path.clone(), meta)?;
            }
        }
        self.note_made(&path)?;
        let fd = openat(&dir.fd, &c, AT, Mode::empty()).map_err(failed)?;
        self.opened(entry, dir, name, fd).map(Step::Down)
    }

    fn opened(&self, entry: &[u8], above: &Dir, name: &[u8], fd: OwnedFd) -> Result<Dir> {
        let path = join(&above.path, name);
        if path.len() > MAX_PATH {
            return Err(bad::entry(entry, "its path is too long with its links followed"));
        }
        let stat = fstat(&fd).map_err(|err| bad::system("follow its path", entry, err))?;
        let hidden = above.hidden
            || self.opaque.contains(&path)
            || (self.marks && !self.fresh && is_opaque(&fd, self.opaque_attribute));
        Ok(Dir { fd, path, setgid: stat.st_mode & 0o2000 != 0, hidden })
    }

    /// Hides what the lower layers have in a directory.
    pub(crate) fn make_opaque(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        let path = join(&dir.path, name);
        let target = through(&dir.fd, &c_name(&path, name)?);
        lsetxattr(&target, self.opaque_attribute, b"y", XattrFlags::empty())
            .map_err(|err| bad::system("make the directory opaque", &path, err))?;
        self.take_room(path.len())?;
        self.opaque.insert(path);
        // Directories that are open don't know yet.
        self.open.clear();
        Ok(())
    }

    /// Whether the lower layers show through in a directory.
    pub(crate) fn shows_lower(&self, dir: &Dir) -> bool {
        !dir.hidden
    }

    /// Removes a name with all that is below it.
    pub(crate) fn clear(&mut self, entry: &[u8], dir: &Dir, name: &CStr) -> Result<()> {
        let failed = |err| bad::system("remove what is in its place", entry, err);
        // A link that goes may be one that led to an open directory.
        self.open.clear();
        match unlinkat(&dir.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(err) => return Err(failed(err)),
        }
        let path = through(&dir.fd, name);
        let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path.to_bytes());
        // Follows no link, neither here nor below.
        std::fs::remove_dir_all(Path::new(path)).map_err(|err| {
            Error::io(format!("layer entry {}: remove what is in its place", bad::show(entry)), err)
        })?;
        let gone = join(&dir.path, name.to_bytes());
        remove_within(&mut self.opaque, &gone);
        remove_within(&mut self.made, &gone);
        let later: Vec<_> = self
            .later
            .range(gone.clone()..)
            .take_while(|(path, _)| path.starts_with(&gone))
            .filter(|(path, _)| is_within(path, &gone))
            .map(|(path, _)| path.clone())
            .collect();
        for path in later {
            self.later.remove(&path);
        }
        Ok(())
    }

    /// Remembers that this layer made something.
    pub(crate) fn note_made(&mut self, path: &[u8]) -> Result<()> {
        if !self.fresh {
            self.take_room(path.len())?;
            self.made.insert(path.to_vec());
        }
        Ok(())
    }

    /// Whether this layer made something.
    pub(crate) fn is_made(&self, path: &[u8]) -> bool {
        self.fresh || self.made.contains(path)
    }

    /// Gives a directory its attributes at the end.
    ///
    /// The extended ones wait, too: a default ACL would be inherited by what the layer
    /// makes in the directory.
    pub(crate) fn set_later(&mut self, path: Vec<u8>, meta: Meta) -> Result<()> {
        let xattrs = meta.xattrs.iter().map(|(name, value)| PAIR + name.len() + value.len());
        self.take_room(path.len() + size_of::<Meta>() + xattrs.sum::<usize>())?;
        self.later.insert(path, meta);
        Ok(())
    }

    /// Counts what is remembered until the end: a path, and so many bytes with it.
    fn take_room(&mut self, bytes: usize) -> Result<()> {
        self.room = self.room.checked_sub(PATH + bytes).ok_or_else(|| {
            Error::resource_exhausted(
                "layer has too many paths, or attributes of directories, to be kept in memory \
                 until its end: raise the limit or refuse the image",
            )
        })?;
        Ok(())
    }

    /// Gives all directories their attributes.
    pub(crate) fn finish(&mut self) -> Result<()> {
        for (path, meta) in std::mem::take(&mut self.later) {
            let name = if path.is_empty() { b"." } else { path.as_slice() };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let fd = openat2(&self.root.fd, name, flags, Mode::empty(), beneath)
                .map_err(|err| bad::system("open the directory", &path, err))?;
            set_open(fd.as_fd(), &path, &meta, true, true)?;
        }
        Ok(())
    }
}

enum Step {
    Down(Dir),
    Link(Vec<u8>),
}

fn split(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec)
}

fn remove_within(paths: &mut BTreeSet<Vec<u8>>, gone: &[u8]) {
    let below: Vec<_> = paths
        .range(gone.to_vec()..)
        .take_while(|path| path.starts_with(gone))
        .filter(|path| is_within(path, gone))
        .cloned()
        .collect();
    for path in below {
        paths.remove(&path);
    }
}

fn is_empty(dir: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(dir, c".", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(4096);
    let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
