//! Terminals in containers whose /dev is the host's, or another that libcontainer does not know:
//! it opens /dev/ptmx, and takes no other than that of /dev/pts.

use super::sys;
use super::types::Error;
use oci_spec::runtime::Process;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

/// What makes terminals, and the number that it has on each file system with terminals.
const DEVICE: libc::dev_t = libc::makedev(5, 2);
const INODE: u64 = 2;

/// Opens a terminal in a container, where libcontainer would not: its master side, and what the
/// process has for its streams.
///
/// # Errors
/// The container has none.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    process: &Process,
) -> Result<Option<(OwnedFd, [OwnedFd; 3])>, Error> {
    if is_usual(root) {
        return Ok(None);
    }
    let master = match maker(root) {
        Ok(master) => master,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Unsupported(
                "a terminal needs /dev/pts/ptmx, which the container's /dev lacks".into(),
            ));
        }
        Err(e) => return Err(Error::io("open a terminal by the container's /dev/pts/ptmx", e)),
    };
    if let Some(size) = size(process) {
        sys::resize(master.as_fd(), size);
    }
    let sides = sys::slave_of(master.as_fd())
        .and_then(|slave| Ok([slave.try_clone()?, slave.try_clone()?, slave]));
    let sides = sides.map_err(|e| Error::io("open the other side of a terminal", e))?;
    Ok(Some((master, sides)))
}

/// The size that a process' terminal is to have: rows and columns.
pub(crate) fn size(process: &Process) -> Option<(u16, u16)> {
    let cut = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let size = process.console_size().as_ref().map(|b| (cut(b.height()), cut(b.width())));
    size.filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Whether libcontainer gets along with a container's /dev/ptmx.
fn is_usual(root: BorrowedFd<'_>) -> bool {
    let found = sys::openat2(root, c"dev/ptmx", libc::O_PATH, 0, sys::IN_ROOT);
    found.and_then(|found| sys::is_devpts(found.as_fd())).unwrap_or(false)
}

/// Opens what makes terminals, after a look that it does.
fn maker(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let found = sys::openat2(root, c"dev/pts/ptmx", libc::O_PATH, 0, sys::NO_LINKS)?;
    let on_devpts = sys::is_devpts(found.as_fd())?;
    let found = File::from(found);
    let meta = found.metadata()?;
    let device = meta.file_type().is_char_device() && meta.rdev() == DEVICE;
    if !on_devpts || !device || meta.ino() != INODE {
        return Err(io::Error::other("it makes no terminals"));
    }
    let place = format!("/proc/self/fd/{}", found.as_raw_fd());
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(place);
    opened.map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::BoxBuilder;

    use super::*;

    #[test]
    fn sizes() {
        let sized = |height: u64, width: u64| {
            let asked = BoxBuilder::default().height(height).width(width).build().unwrap();
            let mut process = Process::default();
            process.set_console_size(Some(asked));
            size(&process)
        };
        assert_eq!(sized(33, 99), Some((33, 99)));
        assert_eq!(sized(70_000, 1), Some((u16::MAX, 1)));
        assert_eq!(sized(0, 80), None);
        assert_eq!(size(&Process::default()), None);
    }

    #[test]
    fn what_makes_no_terminals_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let refused = |words: &str| {
            let said = open(root.as_fd(), &Process::default()).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        };
        refused("which the container's /dev lacks");
        std::fs::create_dir_all(dir.path().join("dev/pts")).unwrap();
        std::fs::write(dir.path().join("dev/pts/ptmx"), "").unwrap();
        refused("it makes no terminals");
        assert!(!is_usual(root.as_fd()));
    }
}
