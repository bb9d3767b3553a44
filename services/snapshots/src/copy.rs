//! Copies a tree with everything that makes a file.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    chmodat, chownat, copy_file_range, fstat, ftruncate, ioctl_ficlone, lgetxattr, linkat,
    llistxattr, lsetxattr, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat,
    utimensat,
};
use rustix::io::Errno;

/// Directories inside each other that are followed: each holds two
/// descriptors.
const MAX_DEPTH: usize = 400;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what is in `from`, and the attributes of `from` itself, to the
/// empty directory `to`: contents (shared where the file system can), holes,
/// hard links, owners, modes, extended attributes, times, devices, FIFOs and
/// sockets.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Copy { links: HashMap::new(), to, at: PathBuf::new(), clone: true };
    let result = (|| {
        let source = openat(CWD, from, DIRECTORY, Mode::empty())?;
        let target = openat(CWD, to, DIRECTORY, Mode::empty())?;
        let stat = fstat(&source)?;
        copy.directory(source, target, MAX_DEPTH)?;
        let parent = |path: &Path| openat(CWD, path, DIRECTORY, Mode::empty());
        copy.attributes((&parent(from)?, c"."), (&parent(to)?, c"."), &stat)
    })();
    result.map_err(|err: Errno| {
        Error::io(format!("copy {:?} of {from:?} to {to:?}", copy.at), err.into())
    })
}

struct Copy<'a> {
    /// Where a file with several names was copied to, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    to: &'a Path,
    /// The path being copied, below both directories.
    at: PathBuf,
    /// Whether to try to share blocks.
    clone: bool,
}

impl Copy<'_> {
    fn directory(&mut self, from: OwnedFd, to: OwnedFd, depth: usize) -> Result<(), Errno> {
        let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        let mut entries = Dir::new(from)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.at.push(path(name));
            self.entry(entries.fd()?, &to, name, depth)?;
            self.at.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: &OwnedFd,
        name: &CStr,
        depth: usize,
    ) -> Result<(), Errno> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                return linkat(CWD, self.to.join(first), to, name, AtFlags::empty());
            }
            self.links.insert(id, self.at.clone());
        }
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let source = openat(from, name, DIRECTORY, Mode::empty())?;
                let target = openat(to, name, DIRECTORY, Mode::empty())?;
                self.directory(source, target, depth)?;
            }
            FileType::RegularFile => self.file(from, to, name, &stat)?,
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            other => mknodat(to, name, other, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        self.attributes((&from, name), (to, name), &stat)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: &OwnedFd,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let target = openat(to, name, flags | create, Mode::RUSR | Mode::WUSR)?;
        if stat.st_size == 0 {
            return Ok(());
        }
        if self.clone {
            match ioctl_ficlone(&target, &source) {
                Ok(()) => return Ok(()),
                // This file system does not share blocks.
                Err(_) => self.clone = false,
            }
        }
        copy_data(&source.into(), &target.into(), stat.st_size)
    }

    /// Owner first: changing it drops set-id bits and capabilities.
    fn attributes(
        &self,
        (from, name): (&impl AsRawFd, &CStr),
        (to, new): (&(impl AsRawFd + std::os::fd::AsFd), &CStr),
        stat: &Stat,
    ) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(to, new, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            chmodat(to, new, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        copy_xattrs(&through(from, name), &through(to, new))?;
        let time = |sec: i64, nsec: i64| Timespec { tv_sec: sec, tv_nsec: nsec };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
        };
        utimensat(to, new, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Copies data and leaves holes where there are holes.
fn copy_data(from: &File, to: &File, size: i64) -> Result<(), Errno> {
    let size = u64::try_from(size).map_err(|_| Errno::INVAL)?;
    ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(err) => return Err(err),
        };
        let end = seek(from, SeekFrom::Hole(at))?.min(size);
        while at < end {
            let mut target = at;
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
            // The kernel copies within and across file systems since 5.3.
            if copy_file_range(from, Some(&mut at), to, Some(&mut target), len)? == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A path to something that can't be opened, such as a symbolic link.
fn through(dir: &impl AsRawFd, name: &CStr) -> CString {
    let mut text = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    text.extend_from_slice(name.to_bytes());
    // Neither part holds a NUL: one is a number, the other was a C string.
    CString::new(text).unwrap_or_default()
}

fn copy_xattrs(from: &CStr, to: &CStr) -> Result<(), Errno> {
    let mut names = vec![0; 1024];
    let len = loop {
        match llistxattr(from, names.as_mut_slice()) {
            Err(Errno::RANGE) if names.len() < 1 << 16 => names.resize(1 << 16, 0),
            Err(Errno::NOTSUP) => return Ok(()),
            other => break other?,
        }
    };
    for name in names[..len].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0; 1 << 16];
        let len = lgetxattr(from, name, value.as_mut_slice())?;
        match lsetxattr(to, name, &value[..len], rustix::fs::XattrFlags::empty()) {
            // Kept by the system itself (security.selinux and others).
            Err(Errno::NOTSUP) => {}
            other => other?,
        }
    }
    Ok(())
}

fn path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
