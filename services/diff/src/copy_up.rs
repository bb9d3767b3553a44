//! Brings something from a lower layer into the upper directory, as the
//! overlay file system itself does when it is changed.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use gantry_archive::attributes::{is_overlay, set_named, set_open, through};
use gantry_archive::bad;
use gantry_archive::numbers::Time;
use gantry_archive::reader::{Meta, Xattrs};
use gantry_core::{Error, Result};
use rustix::fs::{
    FileType, Mode, OFlags, Stat, copy_file_range, ioctl_ficlone, lgetxattr, llistxattr, mknodat,
    openat, readlinkat, symlinkat,
};
use rustix::io::Errno;

use crate::lower::is_metacopy;
use crate::tree::Dir;

/// What files of all kinds have, of a file that exists.
pub(crate) fn meta_of(dir: impl AsFd, name: &CStr, stat: &Stat) -> Result<Meta, Errno> {
    let time = |seconds, nanos: u64| Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    Ok(Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        xattrs: xattrs(&through(dir, name))?,
    })
}

fn xattrs(path: &CStr) -> Result<Xattrs, Errno> {
    let mut names = vec![0; 1 << 16];
    let len = match llistxattr(path, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in names[..len].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if is_overlay(name.to_bytes()) {
            continue;
        }
        let mut value = vec![0; 1 << 16];
        let len = lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(len);
        // It may be kept until the end of the layer.
        value.shrink_to_fit();
        found.push((name.to_bytes().to_vec(), value));
    }
    Ok(found)
}

/// The lower directory that something is copied from.
pub(crate) struct Origin<'a> {
    pub(crate) dir: &'a OwnedFd,
    /// The attribute that makes directories opaque there.
    pub(crate) opaque: &'a CStr,
}

/// Copies a file, link, device or FIFO into an upper directory.
///
/// # Errors
/// `FailedPrecondition` for a file whose data lie further below.
pub(crate) fn copy_up(
    from: &Origin<'_>,
    name: &CStr,
    stat: &Stat,
    to: &Dir,
    path: &[u8],
) -> Result<()> {
    let Origin { dir: from, opaque } = *from;
    let failed = |err| bad::system("copy it from the layers below", path, err);
    let meta = meta_of(from, name, stat).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source =
                openat(from, name, flags | OFlags::RDONLY, Mode::empty()).map_err(failed)?;
            if is_metacopy(&source, opaque) {
                return Err(Error::failed_precondition(format!(
                    "layer entry {}: the layers below have it without its data, from an overlay \
                     mounted with metacopy=on: such snapshots can't be built upon",
                    bad::show(path)
                )));
            }
            let create = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let target = openat(&to.fd, name, create, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            if ioctl_ficlone(&target, &source).is_err() {
                while copy_file_range(&source, None, &target, None, 1 << 30).map_err(failed)? > 0 {}
            }
            set_open(target.as_fd(), path, &meta, true, true)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new()).map_err(failed)?;
            symlinkat(target, &to.fd, name).map_err(failed)?;
            set_named(to.fd.as_fd(), name, path, &meta, true)
        }
        FileType::Directory => Err(bad::entry(path, "it is a directory, which can't be linked to")),
        other => {
            let mode = Mode::from_raw_mode(meta.mode);
            mknodat(&to.fd, name, other, mode, stat.st_rdev).map_err(failed)?;
            set_named(to.fd.as_fd(), name, path, &meta, true)
        }
    }
}
