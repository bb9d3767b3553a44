//! Paths below a root, walked a name at a time.
//!
//! No call of the system gets more than one name: each is looked up in an open directory and not
//! followed if it is a link. Links are read, and followed as if the root were `/`; `..` leads back
//! to the directory that the walk came from. Whoever moves directories and links about
//! meanwhile changes what is found, but leads nobody out of the root.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    CWD, Dir as Entries, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat,
};
use rustix::io::Errno;

use crate::names::MAX_PATH;

/// Links that are followed for one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Directories inside each other: each is held open.
pub const MAX_DEPTH: usize = 400;
/// Names in one directory: all are held in memory.
const MAX_NAMES: usize = 4 << 20;

/// Opens a name without any effect on what it stands for, and without following it.
const NAMED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Something that was found, of whatever kind.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    stat: Stat,
}

impl Node {
    /// Looks up one name in a directory; a link is found itself.
    ///
    /// # Errors
    /// The system's.
    pub fn at(dir: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        Self::of(openat(dir, name, NAMED, Mode::empty())?)
    }

    /// Finds a path as this process sees it, for one that nobody else has a say in.
    ///
    /// # Errors
    /// The system's.
    pub fn local(path: &Path, follow: bool) -> io::Result<Self> {
        let flags = if follow { NAMED - OFlags::NOFOLLOW } else { NAMED };
        Ok(Self::of(openat(CWD, path, flags, Mode::empty())?)?)
    }

    /// What was opened; by its name alone will do.
    ///
    /// # Errors
    /// The system's.
    pub fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// Its attributes when it was found.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// What it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// What a link says.
    ///
    /// # Errors
    /// The system's; `INVAL` for what is no link.
    pub fn target(&self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(&self.fd, c"", Vec::new())?.into_bytes())
    }

    /// Opens it for reading: just what was found, whatever has its name by now. Only for regular
    /// files and directories; opening others has effects.
    ///
    /// # Errors
    /// The system's; `INVAL` for others.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        if !matches!(self.kind(), FileType::RegularFile | FileType::Directory) {
            return Err(Errno::INVAL);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(CWD, self.path().as_c_str(), flags, Mode::empty())
    }

    /// A path by which this process, and nobody else, finds just this.
    pub fn path(&self) -> CString {
        let text = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        // A number holds no NUL.
        CString::new(text).unwrap_or_default()
    }

    /// Names in a directory, in order.
    ///
    /// # Errors
    /// The system's; `NOMEM` for more than can be held.
    pub fn names(&self) -> Result<Vec<CString>, Errno> {
        let mut entries = Entries::new(self.open()?)?;
        let mut names = Vec::new();
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
            if names.len() > MAX_NAMES {
                return Err(Errno::NOMEM);
            }
        }
        names.sort();
        // What is replaced while the directory is read may be met once more.
        names.dedup();
        Ok(names)
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A directory, and how it was reached.
#[derive(Debug)]
pub struct Dir {
    node: Node,
    name: Vec<u8>,
    above: Option<Rc<Dir>>,
    depth: usize,
}

impl Dir {
    /// A directory that nothing leads out of.
    pub fn root(node: Node) -> Rc<Self> {
        Rc::new(Self { node, name: Vec::new(), above: None, depth: 0 })
    }

    fn below(above: &Rc<Self>, name: Vec<u8>, node: Node) -> Result<Rc<Self>, Errno> {
        let depth = above.depth + 1;
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(Rc::new(Self { node, name, above: Some(Rc::clone(above)), depth }))
    }

    /// The directory itself.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its last name; empty for the root.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its path from the root on, without links.
    pub fn path(&self) -> Vec<u8> {
        let (mut names, mut dir) = (Vec::new(), self);
        while let Some(above) = &dir.above {
            names.push(dir.name.as_slice());
            dir = above;
        }
        names.reverse();
        [b"/".as_slice(), &names.join(&b'/')].concat()
    }

    /// The path of a name in it.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

/// Where a path leads.
#[derive(Debug)]
pub enum Found {
    /// To a directory.
    Directory(Rc<Dir>),
    /// To something else in a directory: a link only when it was not to be followed.
    Other {
        /// The directory.
        dir: Rc<Dir>,
        /// Its name there.
        name: Vec<u8>,
        /// What it is.
        node: Node,
    },
    /// To nothing, in a directory that is there.
    Nothing {
        /// The directory.
        dir: Rc<Dir>,
        /// The name that is not there.
        name: Vec<u8>,
    },
}

impl Found {
    /// Its path from the root on, with links followed.
    pub fn path(&self) -> Vec<u8> {
        match self {
            Self::Directory(dir) => dir.path(),
            Self::Other { dir, name, .. } | Self::Nothing { dir, name } => dir.path_of(name),
        }
    }

    /// What is there, if anything is.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::Directory(dir) => Some(dir.node()),
            Self::Other { node, .. } => Some(node),
            Self::Nothing { .. } => None,
        }
    }
}

/// What is done about links on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They are followed, within the root.
    Follow,
    /// Nothing is found behind one.
    Refuse,
}

/// Walks below a root.
#[derive(Clone, Debug)]
pub struct Walker {
    root: Rc<Dir>,
    links: Links,
}

impl Walker {
    /// Walks below this root.
    pub fn new(root: Rc<Dir>, links: Links) -> Self {
        Self { root, links }
    }

    /// The root.
    pub fn root(&self) -> &Rc<Dir> {
        &self.root
    }

    /// Where a path leads from a directory on; from the root when it begins with a slash. Its last
    /// name, if that is a link, is followed when it is asked for or a slash or a dot is behind it.
    ///
    /// # Errors
    /// `NOENT` and `NOTDIR` for what is on the way; `LOOP` for a link that is not to be
    /// followed, or too many; `NAMETOOLONG`; the system's.
    pub fn walk(&self, from: &Rc<Dir>, path: &[u8], follow: bool) -> Result<Found, Errno> {
        if path.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        let mut dir = Rc::clone(if path.starts_with(b"/") { &self.root } else { from });
        let mut names: VecDeque<Vec<u8>> = split(path).collect();
        let directory = asks_for_directory(path);
        let mut links = 0;
        while let Some(name) = names.pop_front() {
            if name == b".." {
                dir = dir.above.as_ref().map_or_else(|| Rc::clone(&self.root), Rc::clone);
                continue;
            }
            let last = names.is_empty();
            let c_name = CString::new(name.as_slice()).map_err(|_| Errno::INVAL)?;
            let node = match Node::at(&*dir, &c_name) {
                Err(Errno::NOENT) if last => return Ok(Found::Nothing { dir, name }),
                other => other?,
            };
            match node.kind() {
                FileType::Directory => dir = Dir::below(&dir, name, node)?,
                FileType::Symlink if !last || follow || directory => {
                    links += 1;
                    let target = node.target()?;
                    if self.links == Links::Refuse || links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.is_empty() {
                        return Err(Errno::NOENT);
                    }
                    if target.starts_with(b"/") {
                        dir = Rc::clone(&self.root);
                    }
                    let target: Vec<_> = split(&target).collect();
                    target.into_iter().rev().for_each(|name| names.push_front(name));
                }
                _ if last && !directory => return Ok(Found::Other { dir, name, node }),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(Found::Directory(dir))
    }

    /// The directory that a path leads to from a directory on; what is missing of it is made with
    /// this mode.
    ///
    /// # Errors
    /// As [`Walker::walk`]; `NOTDIR` when something else is there.
    pub fn directories(&self, from: &Rc<Dir>, path: &[u8], mode: Mode) -> Result<Rc<Dir>, Errno> {
        let mut dir = Rc::clone(if path.starts_with(b"/") { &self.root } else { from });
        for name in split(path) {
            dir = match self.walk(&dir, &name, true)? {
                Found::Directory(below) => below,
                Found::Other { .. } => return Err(Errno::NOTDIR),
                Found::Nothing { dir, name } => {
                    let c_name = CString::new(name.as_slice()).map_err(|_| Errno::INVAL)?;
                    match mkdirat(&*dir, &c_name, mode) {
                        // Somebody was faster.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(err) => return Err(err),
                    }
                    let node = Node::at(&*dir, &c_name)?;
                    if node.kind() != FileType::Directory {
                        return Err(Errno::NOTDIR);
                    }
                    Dir::below(&dir, name, node)?
                }
            };
        }
        Ok(dir)
    }
}

fn split(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec)
}

/// Whether a path can only mean a directory: it ends with a slash or a dot.
pub fn asks_for_directory(path: &[u8]) -> bool {
    matches!(path.rsplit(|b| *b == b'/').next(), Some(b"" | b"."))
}
