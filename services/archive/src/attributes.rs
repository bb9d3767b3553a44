//! Owners, modes, extended attributes and times.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use gantry_core::Result;
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
    futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;

use crate::bad;
use crate::numbers::Time;
use crate::reader::{Meta, Xattrs};

/// Sticky and set-id bits.
pub const SPECIAL: u32 = 0o7000;

/// Longest value that the kernel takes (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 1 << 16;

/// Refuses attributes that no file can have, before they are kept.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_xattrs(path: &[u8], xattrs: &Xattrs) -> Result<()> {
    match xattrs.iter().find(|(_, value)| value.len() > MAX_VALUE) {
        None => Ok(()),
        Some((name, value)) => {
            let (name, size) = (String::from_utf8_lossy(name), value.len());
            Err(bad::entry(path, format_args!("attribute {name:.100} has {size} bytes")))
        }
    }
}

/// Finishes an open file or directory that was made with the permissions of
/// `meta`. The owner comes first: setting it drops set-id bits and
/// capabilities. `mode` says whether those were not given at creation.
///
/// # Errors
/// The system's.
pub fn set_open(
    fd: BorrowedFd<'_>,
    path: &[u8],
    meta: &Meta,
    owner: bool,
    mode: bool,
) -> Result<()> {
    if owner {
        fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
            .map_err(|err| bad::system("set its owner", path, err))?;
    }
    if mode || meta.mode & SPECIAL != 0 {
        fchmod(fd, Mode::from_raw_mode(meta.mode))
            .map_err(|err| bad::system("set its mode", path, err))?;
    }
    set_xattrs(path, meta, |name, value| fsetxattr(fd, name, value, XattrFlags::empty()))?;
    futimens(fd, &timestamps(meta)).map_err(|err| bad::system("set its times", path, err))
}

/// Finishes something that can't be opened: a link, device or FIFO that was
/// just made under this name.
///
/// # Errors
/// The system's.
pub fn set_named(
    dir: BorrowedFd<'_>,
    name: &CStr,
    path: &[u8],
    meta: &Meta,
    owner: bool,
) -> Result<()> {
    if owner {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| bad::system("set its owner", path, err))?;
    }
    if !meta.xattrs.is_empty() {
        let through = through(dir, name);
        set_xattrs(path, meta, |key, value| lsetxattr(&through, key, value, XattrFlags::empty()))?;
    }
    utimensat(dir, name, &timestamps(meta), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|err| bad::system("set its times", path, err))
}

fn set_xattrs(
    path: &[u8],
    meta: &Meta,
    set: impl Fn(&CStr, &[u8]) -> Result<(), Errno>,
) -> Result<()> {
    for (name, value) in &meta.xattrs {
        let shown = String::from_utf8_lossy(name);
        if is_overlay(name) {
            // They steer the overlay file system, whose layers these are.
            tracing::warn!(attribute = %shown, "left out an attribute that is overlay's own");
            continue;
        }
        let Ok(name) = CString::new(name.as_slice()) else {
            return Err(bad::entry(path, "the name of an attribute holds a NUL"));
        };
        match set(&name, value) {
            Ok(()) => {}
            // The file system has none of this sort, or the file may have none.
            Err(Errno::NOTSUP) => {
                tracing::warn!(attribute = %shown, "this file system does not keep an attribute");
            }
            Err(Errno::PERM) if shown.starts_with("user.") => {
                tracing::warn!(attribute = %shown, "only files and directories have attributes");
            }
            Err(err) => {
                let what = format!("set its attribute {shown:.100}");
                return Err(bad::system(&what, path, err));
            }
        }
    }
    Ok(())
}

/// Whether the overlay file system gives an attribute a meaning.
pub fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

fn timestamps(meta: &Meta) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: spec(meta.atime), last_modification: spec(meta.mtime) }
}

/// A path to something that can't be opened, such as a symbolic link.
pub fn through(dir: impl AsFd, name: &CStr) -> CString {
    let mut text = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    text.extend_from_slice(name.to_bytes());
    // Neither part holds a NUL: one is a number, the other was a C string.
    CString::new(text).unwrap_or_default()
}
