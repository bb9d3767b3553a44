//! Owner, mode, extended attributes and times.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use gantry_core::{Error, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, getxattr,
    listxattr, openat, setxattr, utimensat,
};
use rustix::io::Errno;

use crate::walk::{DIRECTORY, through};

/// Longest list of names, and longest value of an extended attribute.
const LONGEST: usize = 1 << 16;

/// Gives the directory `to` owner, mode, extended attributes and times of the directory
/// `from`.
///
/// # Errors
/// What the file system reports.
pub fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        let source = openat(CWD, from, DIRECTORY, Mode::empty())?;
        let target = openat(CWD, to, DIRECTORY, Mode::empty())?;
        let stat = fstat(&source)?;
        Attributes::new().copy(&stat, Node::Open(source.as_fd()), Node::Open(target.as_fd()))
    };
    copy().map_err(|err: Errno| {
        Error::io(format!("copy attributes of {from:?} to {to:?}"), err.into())
    })
}

/// Something that has attributes.
#[derive(Clone, Copy)]
pub(crate) enum Node<'a> {
    /// A file or directory that was opened.
    Open(BorrowedFd<'a>),
    /// What can't be, such as a symbolic link: only its name was opened.
    Named(BorrowedFd<'a>),
}

impl Node<'_> {
    fn list(self, names: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => flistxattr(fd, names),
            Self::Named(fd) => listxattr(through(fd), names),
        }
    }

    fn get(self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => fgetxattr(fd, name, value),
            Self::Named(fd) => getxattr(through(fd), name, value),
        }
    }

    fn set(self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(fd) => setxattr(through(fd), name, value, XattrFlags::empty()),
        }
    }

    fn own(self, uid: Uid, gid: Gid) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fchown(fd, Some(uid), Some(gid)),
            Self::Named(fd) => chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH),
        }
    }

    fn allow(self, mode: Mode) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Named(fd) => chmodat(CWD, through(fd), mode, AtFlags::empty()),
        }
    }

    fn date(self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => futimens(fd, times),
            Self::Named(fd) => utimensat(CWD, through(fd), times, AtFlags::empty()),
        }
    }
}

/// Copies attributes; it has room for extended ones.
pub(crate) struct Attributes {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Attributes {
    pub(crate) fn new() -> Self {
        Self { names: vec![0; LONGEST], value: vec![0; LONGEST] }
    }

    /// Owner first: changing it drops set-id bits and capabilities. Times last.
    pub(crate) fn copy(&mut self, stat: &Stat, from: Node<'_>, to: Node<'_>) -> Result<(), Errno> {
        to.own(Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            to.allow(Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        }
        self.extended(from, to)?;
        let time = |sec: i64, nsec: i64| Timespec { tv_sec: sec, tv_nsec: nsec };
        to.date(&Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
        })
    }

    fn extended(&mut self, from: Node<'_>, to: Node<'_>) -> Result<(), Errno> {
        let len = match from.list(&mut self.names) {
            Err(Errno::NOTSUP) => return Ok(()),
            other => other?,
        };
        for name in self.names[..len].split_inclusive(|b| *b == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let len = match from.get(name, &mut self.value) {
                // Taken away meanwhile.
                Err(Errno::NODATA) => continue,
                other => other?,
            };
            match to.set(name, &self.value[..len]) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                // Those that the system keeps itself (security.selinux and others).
                Err(Errno::PERM | Errno::ACCESS) if is_kept(name) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

fn is_kept(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"security.") && name != b"security.capability"
}
