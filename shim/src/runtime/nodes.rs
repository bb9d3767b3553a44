//! Device nodes outside of /dev, which libcontainer does not make.

use super::launch::UMASK;
use super::mounts::root_handle;
use super::types::Error;
use super::{paths, sys};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a node may be read and written by when the spec does not say.
const MODE: u32 = 0o666;

/// Takes such nodes out of the spec and makes them below `root`.
///
/// # Errors
/// One can't be made, or something else is at its place.
pub(crate) fn make(spec: &mut Spec, root: &Path) -> Result<(), Error> {
    let linux = spec.linux_mut().as_mut();
    let Some(devices) = linux.and_then(|linux| linux.devices_mut().as_mut()) else {
        return Ok(());
    };
    let (inside, outside): (Vec<_>, Vec<_>) =
        std::mem::take(devices).into_iter().partition(|device| device.path().starts_with("/dev"));
    *devices = inside;
    if outside.is_empty() {
        return Ok(());
    }
    let root = root_handle(root)?;
    // The modes are exact.
    sys::umask(0);
    let made = outside.iter().try_for_each(|device| {
        node(root.as_fd(), device)
            .map_err(|e| Error::io(format!("make the device {}", device.path().display()), e))
    });
    sys::umask(UMASK);
    made
}

fn node(root: BorrowedFd<'_>, device: &LinuxDevice) -> io::Result<()> {
    let missing = || io::Error::from_raw_os_error(libc::EINVAL);
    let path = device.path();
    let parent = path.parent().ok_or_else(missing)?;
    let name = path.file_name().ok_or_else(missing)?;
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(missing()),
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| missing());
    let numbers = libc::makedev(number(device.major())?, number(device.minor())?);
    let directory = paths::mkdir_all_in(root, parent)?;
    let name = sys::cpath(Path::new(name))?;
    let mode = kind | device.file_mode().unwrap_or(MODE);
    // SAFETY: the name ends with NUL and the descriptor is open.
    if unsafe { libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, numbers) } < 0 {
        let error = io::Error::last_os_error();
        // A container that is started again has its node.
        let same = error.raw_os_error() == Some(libc::EEXIST)
            && is_node(directory.as_fd(), &name, kind, numbers)?;
        return if same { Ok(()) } else { Err(error) };
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: as above.
    if unsafe { libc::fchownat(directory.as_raw_fd(), name.as_ptr(), uid, gid, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn is_node(
    directory: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    kind: libc::mode_t,
    numbers: libc::dev_t,
) -> io::Result<bool> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let there = std::fs::File::from(sys::openat2(directory, name, flags, 0, sys::NO_LINKS)?);
    let meta = there.metadata()?;
    Ok(meta.mode() & libc::S_IFMT == kind && (kind == libc::S_IFIFO || meta.rdev() == numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_outside_of_dev_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let device = |path| serde_json::json!({"path": path, "type": "p", "fileMode": 0o640});
        let devices = [device("/dev/x"), device("/opt/y/z")];
        let text = serde_json::json!({"ociVersion": "1.0.2", "linux": {"devices": devices}});
        let given: Spec = serde_json::from_value(text).unwrap();
        for _ in 0..2 {
            let mut spec = given.clone();
            make(&mut spec, dir.path()).unwrap();
            let left = spec.linux().as_ref().unwrap().devices().as_ref().unwrap();
            assert_eq!(left.len(), 1);
            let made = dir.path().join("opt/y/z").metadata().unwrap();
            assert_eq!(made.mode(), libc::S_IFIFO | 0o640);
        }
        std::fs::remove_file(dir.path().join("opt/y/z")).unwrap();
        std::fs::write(dir.path().join("opt/y/z"), "").unwrap();
        assert!(make(&mut given.clone(), dir.path()).is_err());
    }
}
