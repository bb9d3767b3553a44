//! Copies a tree with everything that makes a file.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_core::{Error, Kind, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, ioctl_ficlone, linkat, mkdirat,
    mknodat, openat, readlinkat, symlinkat, syncfs,
};
use rustix::io::Errno;

use crate::attributes::{Attributes, Node};
use crate::data::copy_data;
use crate::walk::{DIRECTORY, LEVELS, NAMED, as_path, beneath, is_dots, is_gone, through};

/// How a tree is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Whether the copy is on the disk when the call returns. For copies made side by side,
    /// [`crate::Flush`] does it for all of them at once.
    pub flush: bool,
}

/// Copies what is in `from`, and the attributes of `from` itself, to the
/// empty directory `to`: contents (shared where the file system can), holes,
/// hard links, owners, modes, extended attributes, times, devices, FIFOs and
/// sockets. Links are copied, not followed. What vanishes on the way is left out, and of what
/// is written to meanwhile the copy has something.
///
/// # Errors
/// What the file system reports, and on what; the incomplete copy stays.
pub fn copy_tree(from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
    copy_tree_while(from, to, options, &|| true)
}

/// [`copy_tree`] that ends soon after `wanted` says no.
///
/// # Errors
/// As [`copy_tree`]; `Cancelled` when it was given up.
pub fn copy_tree_while(
    from: &Path,
    to: &Path,
    options: CopyOptions,
    wanted: &dyn Fn() -> bool,
) -> Result<()> {
    let failed = |at: &Path, err: Errno| {
        let what = format!("copy {at:?} of {from:?} to {to:?}");
        match err {
            Errno::CANCELED => Error::new(Kind::Cancelled, format!("{what}: it was given up")),
            err => Error::io(what, err.into()),
        }
    };
    let mut copy = Copier::new(from, to, wanted).map_err(|err| failed(Path::new(""), err))?;
    copy.run().map_err(|err| failed(&copy.at, err))?;
    if options.flush {
        syncfs(&copy.target).map_err(|err| failed(Path::new(""), err))?;
    }
    Ok(())
}

struct Copier<'a> {
    source: OwnedFd,
    target: OwnedFd,
    /// Device and inode of `target`, which may lie in what is copied.
    target_id: (u64, u64),
    /// Where a file with several names was copied to, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Directories that are still to be copied.
    deep: Vec<PathBuf>,
    /// The path being copied, below both directories.
    at: PathBuf,
    /// Whether to try to share blocks.
    share: bool,
    attributes: Attributes,
    /// Whether to go on.
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Copier<'a> {
    fn new(from: &Path, to: &Path, wanted: &'a dyn Fn() -> bool) -> Result<Self, Errno> {
        let source = openat(CWD, from, DIRECTORY, Mode::empty())?;
        let target = openat(CWD, to, DIRECTORY, Mode::empty())?;
        let stat = fstat(&target)?;
        Ok(Self {
            source,
            target,
            target_id: (stat.st_dev, stat.st_ino),
            links: HashMap::new(),
            deep: vec![PathBuf::new()],
            at: PathBuf::new(),
            share: true,
            attributes: Attributes::new(),
            wanted,
        })
    }

    fn run(&mut self) -> Result<(), Errno> {
        while let Some(path) = self.deep.pop() {
            let source = match beneath(&self.source, &path) {
                Err(err) if is_gone(err) => continue,
                other => other?,
            };
            let target = beneath(&self.target, &path)?;
            self.at = path;
            self.directory(source, &target, LEVELS)?;
        }
        Ok(())
    }

    fn directory(&mut self, source: OwnedFd, target: &OwnedFd, levels: usize) -> Result<(), Errno> {
        let stat = fstat(&source)?;
        let mut entries = Dir::new(source)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            self.at.push(as_path(name));
            match self.entry(entries.fd()?, target, name, levels) {
                // What is replaced while the directory is read may be met once more.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(err) => return Err(err),
            }
            self.at.pop();
        }
        self.attributes.copy(&stat, Node::Open(entries.fd()?), Node::Open(target.as_fd()))
    }

    /// Copies what has this name. It is looked at and copied through one descriptor, whatever
    /// takes its name meanwhile; and no device is opened, which may do things.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: &OwnedFd,
        name: &CStr,
        levels: usize,
    ) -> Result<(), Errno> {
        if !(self.wanted)() {
            return Err(Errno::CANCELED);
        }
        let node = match openat(from, name, NAMED, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let stat = fstat(&node)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.enter(node, &stat, (to, name), levels);
        }
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            match self.links.get(&id).map(|first| self.link(first, to, name)) {
                // A file system that allows fewer names than the other one.
                None | Some(Err(Errno::MLINK)) => drop(self.links.insert(id, self.at.clone())),
                Some(linked) => return linked,
            }
        }
        match kind {
            FileType::RegularFile => self.file(&node, &stat, (to, name)),
            kind => self.special(&node, &stat, (to, name), kind),
        }
    }

    /// Makes a name of what was copied before.
    fn link(&self, first: &Path, to: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let (Some(parent), Some(known)) = (first.parent(), first.file_name()) else {
            return Err(Errno::INVAL);
        };
        linkat(beneath(&self.target, parent)?, known, to, name, AtFlags::empty())
    }

    fn enter(
        &mut self,
        node: OwnedFd,
        stat: &Stat,
        (to, name): (&OwnedFd, &CStr),
        levels: usize,
    ) -> Result<(), Errno> {
        if (stat.st_dev, stat.st_ino) == self.target_id {
            return Ok(());
        }
        mkdirat(to, name, Mode::RWXU)?;
        if levels <= 1 {
            self.deep.push(self.at.clone());
            return Ok(());
        }
        let source = openat(&node, c".", DIRECTORY, Mode::empty())?;
        drop(node);
        let target = openat(to, name, DIRECTORY, Mode::empty())?;
        self.directory(source, &target, levels - 1)
    }

    fn file(
        &mut self,
        node: &OwnedFd,
        stat: &Stat,
        (to, name): (&OwnedFd, &CStr),
    ) -> Result<(), Errno> {
        let read = OFlags::RDONLY | OFlags::CLOEXEC;
        let source = openat(CWD, through(node.as_fd()), read, Mode::empty())?;
        let make =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(to, name, make, Mode::RUSR | Mode::WUSR)?;
        if stat.st_size > 0 && !self.shared(&source, &target) {
            copy_data(&source, &target, stat.st_size, self.wanted)?;
        }
        self.attributes.copy(stat, Node::Open(source.as_fd()), Node::Open(target.as_fd()))
    }

    /// Has two files share their blocks, if that works.
    fn shared(&mut self, source: &OwnedFd, target: &OwnedFd) -> bool {
        if !self.share {
            return false;
        }
        match ioctl_ficlone(target, source) {
            Ok(()) => true,
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => {
                // These file systems do not: the next file need not try.
                self.share = false;
                false
            }
            Err(_) => false,
        }
    }

    /// Copies a symbolic link, device, FIFO or socket.
    fn special(
        &mut self,
        node: &OwnedFd,
        stat: &Stat,
        (to, name): (&OwnedFd, &CStr),
        kind: FileType,
    ) -> Result<(), Errno> {
        match kind {
            FileType::Symlink => symlinkat(readlinkat(node, c"", Vec::new())?, to, name)?,
            other => mknodat(to, name, other, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        let made = openat(to, name, NAMED, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&made)?.st_mode) != kind {
            // Somebody put something else in its place.
            return Ok(());
        }
        self.attributes.copy(stat, Node::Named(node.as_fd()), Node::Named(made.as_fd()))
    }
}

#[cfg(test)]
mod tests;
