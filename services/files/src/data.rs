//! The bytes of one file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, seek, sendfile};
use rustix::io::Errno;

/// Most bytes that the kernel is asked for at a time: a copy can be given up in between.
const CHUNK: usize = 64 << 20;

/// Copies data to an empty file, and leaves holes where there are holes; `CANCELED` when it is
/// not wanted any more.
pub(crate) fn copy_data(
    from: &OwnedFd,
    to: &OwnedFd,
    size: i64,
    wanted: &dyn Fn() -> bool,
) -> Result<(), Errno> {
    let size = u64::try_from(size).map_err(|_| Errno::INVAL)?;
    ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            // This file system does not tell of holes.
            Err(Errno::INVAL) => at,
            Err(err) => return Err(err),
        };
        let end = match seek(from, SeekFrom::Hole(at)) {
            Ok(hole) => hole.min(size),
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL) => size,
            Err(err) => return Err(err),
        };
        at = copy_range(from.as_fd(), to.as_fd(), (at, end), wanted)?;
        if at < end {
            // It has become shorter meanwhile.
            return Ok(());
        }
    }
    Ok(())
}

/// Copies the bytes between two offsets, and says how far it came.
fn copy_range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    (mut at, end): (u64, u64),
    wanted: &dyn Fn() -> bool,
) -> Result<u64, Errno> {
    while at < end {
        if !wanted() {
            return Err(Errno::CANCELED);
        }
        let mut target = at;
        // The kernel shares or copies within file systems, and since 5.3 across them.
        let len = chunk(at, end);
        match copy_file_range(from, Some(&mut at), to, Some(&mut target), len) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(err) => return Err(err),
        }
    }
    send_range(from, to, (at, end), wanted)
}

fn send_range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    (mut at, end): (u64, u64),
    wanted: &dyn Fn() -> bool,
) -> Result<u64, Errno> {
    if at < end {
        seek(to, SeekFrom::Start(at))?;
    }
    while at < end {
        if !wanted() {
            return Err(Errno::CANCELED);
        }
        let wanted = chunk(at, end);
        match sendfile(to, from, Some(&mut at), wanted) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(at)
}

fn chunk(at: u64, end: u64) -> usize {
    usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK)
}
