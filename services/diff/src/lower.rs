//! What lies below an overlay's upper directory.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use gantry_archive::attributes::through;
use gantry_archive::bad;
use gantry_archive::names::{c_name, join};
use gantry_core::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

/// Opens a directory as a starting point for names, without following a link.
pub(crate) const AT: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Merged directories that are kept open at most.
const MAX_OPEN: usize = 32;

/// The lower layers of an overlay, merged name by name as the kernel does.
pub(crate) struct Lower {
    opaque: &'static CStr,
    /// By path: the directories that are merged there, the nearest first.
    open: HashMap<Vec<u8>, Rc<Vec<OwnedFd>>>,
    roots: Rc<Vec<OwnedFd>>,
}

/// What a name stands for in the lower layers.
pub(crate) enum Found {
    Nothing,
    /// A directory, as its nearest layer has it.
    Directory(OwnedFd),
    /// A symbolic link with its target.
    Link(Vec<u8>),
    /// Anything else, in this directory.
    Other,
}

impl Lower {
    pub(crate) fn open(roots: &[PathBuf], opaque: &'static CStr) -> Result<Self> {
        let open = |root: &PathBuf| {
            openat(CWD, root, AT - OFlags::NOFOLLOW, Mode::empty())
                .map_err(|err| Error::io(format!("open lower directory {root:?}"), err.into()))
        };
        let roots = Rc::new(roots.iter().map(open).collect::<Result<Vec<_>>>()?);
        Ok(Self { opaque, open: HashMap::new(), roots })
    }

    /// Looks a name up in the directory at a path without links.
    pub(crate) fn find(&mut self, dir: &[u8], name: &CStr) -> Result<Found> {
        let Some((at, stat)) = self.entry(dir, name)? else { return Ok(Found::Nothing) };
        let path = || join(dir, name.to_bytes());
        let failed = |err| bad::system("look at it in the layers below", &path(), err);
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                Found::Directory(openat(&at[0], name, AT, Mode::empty()).map_err(failed)?)
            }
            FileType::Symlink => {
                Found::Link(readlinkat(&at[0], name, Vec::new()).map_err(failed)?.into_bytes())
            }
            _ => Found::Other,
        })
    }

    /// The directory that holds a name, first of the slice, and its attributes.
    pub(crate) fn entry(&mut self, dir: &[u8], name: &CStr) -> Result<Option<(LowerDirs, Stat)>> {
        let dirs = self.merged(dir)?;
        for i in 0..dirs.len() {
            match statat(&dirs[i], name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some((LowerDirs { dirs, first: i }, stat))),
                Err(Errno::NOENT) => {}
                Err(err) => {
                    let path = join(dir, name.to_bytes());
                    return Err(bad::system("look at it in the layers below", &path, err));
                }
            }
        }
        Ok(None)
    }

    /// Names in the root of the merged layers.
    pub(crate) fn root_names(&mut self) -> Result<Vec<Vec<u8>>> {
        let failed = |err| bad::system("list the layers below", b"/", err);
        let mut names = Vec::new();
        for root in self.roots.iter() {
            let fd = openat(root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let mut entries = Dir::new(fd.map_err(failed)?).map_err(failed)?;
            while let Some(entry) = entries.read() {
                let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    names.push(name);
                }
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn merged(&mut self, path: &[u8]) -> Result<Rc<Vec<OwnedFd>>> {
        if path.is_empty() || self.roots.is_empty() {
            return Ok(Rc::clone(&self.roots));
        }
        if let Some(dirs) = self.open.get(path) {
            return Ok(Rc::clone(dirs));
        }
        let mut dirs = Rc::clone(&self.roots);
        for part in path.split(|b| *b == b'/') {
            dirs = Rc::new(self.step(&dirs, &c_name(path, part)?, path)?);
        }
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), Rc::clone(&dirs));
        Ok(dirs)
    }

    fn step(&self, dirs: &[OwnedFd], name: &CStr, path: &[u8]) -> Result<Vec<OwnedFd>> {
        let mut below = Vec::new();
        for dir in dirs {
            match openat(dir, name, AT, Mode::empty()) {
                Ok(fd) => {
                    let last = is_opaque(&fd, self.opaque);
                    below.push(fd);
                    if last {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // Something else, which hides what is below it.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(err) => return Err(bad::system("open it in the layers below", path, err)),
            }
        }
        Ok(below)
    }
}

/// Merged directories from one of them on.
pub(crate) struct LowerDirs {
    dirs: Rc<Vec<OwnedFd>>,
    first: usize,
}

impl std::ops::Deref for LowerDirs {
    type Target = [OwnedFd];
    fn deref(&self) -> &[OwnedFd] {
        &self.dirs[self.first..]
    }
}

/// Whether overlay takes this for "there is nothing of this name".
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a file has only its attributes: overlay's `metacopy=on` leaves the data in the
/// layers below, and zeros in their place. `opaque`: as for [`is_opaque`].
pub(crate) fn is_metacopy(file: impl AsFd, opaque: &CStr) -> bool {
    let attribute = if opaque.to_bytes().starts_with(b"user.") {
        c"user.overlay.metacopy"
    } else {
        c"trusted.overlay.metacopy"
    };
    rustix::fs::fgetxattr(file, attribute, [0u8; 0].as_mut_slice()).is_ok()
}

/// Whether a directory hides those of its name below it.
pub(crate) fn is_opaque(dir: &OwnedFd, attribute: &CStr) -> bool {
    let mut value = [0; 2];
    let got = rustix::fs::getxattr(through(dir, c"."), attribute, value.as_mut_slice());
    got == Ok(1) && value[0] == b'y'
}
