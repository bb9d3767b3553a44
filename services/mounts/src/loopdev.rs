//! Loop devices: image files as block devices.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::{Error, Result};
use nix::errno::Errno;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// Others take free devices as well.
const ATTEMPTS: usize = 64;
/// A new device takes a moment to get its file.
const PAUSE: Duration = Duration::from_millis(10);

/// The kernel's `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Status {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// The kernel's `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    status: Status,
    reserved: [u64; 8],
}

const EMPTY: Status = Status {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

nix::ioctl_none_bad!(get_free, 0x4C82);
nix::ioctl_write_ptr_bad!(configure, 0x4C0A, Config);
nix::ioctl_read_bad!(get_status, 0x4C05, Status);
nix::ioctl_write_ptr_bad!(set_status, 0x4C04, Status);
nix::ioctl_none_bad!(clear, 0x4C01);

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) read_only: bool,
    pub(crate) direct_io: bool,
}

/// An attached device, which goes with this value unless something mounts it or it is
/// kept.
#[derive(Debug)]
pub(crate) struct Loop {
    device: File,
    path: PathBuf,
}

impl Loop {
    /// Attaches an image to a free device. The end of `owner` is written into the device,
    /// so that nobody takes somebody else's for it.
    ///
    /// # Errors
    /// `NotFound` for the image; what the kernel said.
    pub(crate) fn attach(image: &Path, owner: &Path, options: Options) -> Result<Self> {
        let failed = |err: io::Error| Error::io(format!("attach {image:?} to a loop device"), err);
        let file = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(image)
            .map_err(|err| Error::io(format!("open image {image:?}"), err))?;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control");
        let control = control.map_err(failed)?;
        let mut flags = AUTOCLEAR;
        flags |= if options.read_only { READ_ONLY } else { 0 };
        flags |= if options.direct_io { DIRECT_IO } else { 0 };
        let fd = u32::try_from(file.as_raw_fd()).map_err(|_| failed(Errno::EBADF.into()))?;
        let status = Status { flags, file_name: tag(owner), ..EMPTY };
        let config = Config { fd, block_size: 0, status, reserved: [0; 8] };
        for _ in 0..ATTEMPTS {
            // SAFETY: the call takes no pointer; the descriptor is open.
            let number = unsafe { get_free(control.as_raw_fd()) };
            let number = number.map_err(|err| failed(err.into()))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = match open(&path, !options.read_only) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                opened => opened.map_err(failed)?,
            };
            // SAFETY: the kernel reads a `loop_config` of this very layout, which lives
            // until the call returns; `fd` in it is open.
            match unsafe { configure(device.as_raw_fd(), &config) } {
                // Somebody else was faster.
                Err(Errno::EBUSY) => {}
                Err(err) => return Err(failed(err.into())),
                Ok(_) => return Ok(Self { device, path }),
            }
        }
        Err(Error::unavailable(format!(
            "no loop device was free for {image:?} after {ATTEMPTS} attempts: unavailable"
        )))
    }

    /// The device's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the device when nobody has it open any more.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn keep(self) -> Result<()> {
        let failed = |err: Errno| Error::io(format!("keep {:?}", self.path), err.into());
        let mut status = status(&self.device).map_err(failed)?;
        status.flags &= !AUTOCLEAR;
        // SAFETY: the kernel reads a `loop_info64` of this very layout, which lives until
        // the call returns.
        unsafe { set_status(self.device.as_raw_fd(), &status) }.map_err(failed)?;
        Ok(())
    }
}

/// Whether a device is attached, and by this owner.
pub(crate) fn is_owned(device: &Path, owner: &Path) -> bool {
    open(device, false)
        .is_ok_and(|device| status(&device).is_ok_and(|status| status.file_name == tag(owner)))
}

/// Detaches a device, if it is this owner's; one that is mounted, or that somebody else has
/// open, goes with that.
///
/// # Errors
/// What the kernel said.
pub(crate) fn detach(device: &Path, owner: &Path) -> Result<()> {
    let failed = |err: io::Error| Error::io(format!("detach {device:?}"), err);
    let file = match open(device, false) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    match status(&file) {
        Ok(status) if status.file_name == tag(owner) => {}
        // Free, or another's by now.
        Ok(_) | Err(Errno::ENXIO) => return Ok(()),
        Err(err) => return Err(failed(err.into())),
    }
    // SAFETY: the call takes no pointer; the descriptor is open.
    match unsafe { clear(file.as_raw_fd()) } {
        Ok(_) | Err(Errno::ENXIO) => Ok(()),
        Err(err) => Err(failed(err.into())),
    }
}

fn open(device: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).open(device)
}

fn status(device: &File) -> Result<Status, Errno> {
    let mut status = EMPTY;
    // SAFETY: the kernel writes a `loop_info64` of this very layout to a live place.
    unsafe { get_status(device.as_raw_fd(), &mut status) }?;
    Ok(status)
}

/// The end of a path, as far as the device's name has room for it.
fn tag(owner: &Path) -> [u8; 64] {
    use std::os::unix::ffi::OsStrExt;
    let bytes = owner.as_os_str().as_bytes();
    let end = &bytes[bytes.len().saturating_sub(63)..];
    let mut tag = [0; 64];
    tag[..end.len()].copy_from_slice(end);
    tag
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_kernels_layouts() {
        assert_eq!((size_of::<Status>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn a_device_lives_as_long_as_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let owner = dir.path().join("mounts/1/0");
        let missing = Loop::attach(&dir.path().join("none"), &owner, Options::default());
        assert!(missing.unwrap_err().is_not_found());

        let kept = Loop::attach(&image, &owner, Options::default()).unwrap();
        let path = kept.path().to_owned();
        kept.keep().unwrap();
        assert!(is_owned(&path, &owner));
        detach(&path, &dir.path().join("other")).unwrap();
        assert!(is_owned(&path, &owner), "another's device stays");
        detach(&path, &owner).unwrap();
        // A program that was being started beside this has the device open until it runs.
        let limit = Instant::now() + Duration::from_secs(10);
        while is_owned(&path, &owner) {
            assert!(Instant::now() < limit, "{path:?} is still attached");
            std::thread::sleep(PAUSE);
        }
        detach(&path, &owner).unwrap();
    }
}
