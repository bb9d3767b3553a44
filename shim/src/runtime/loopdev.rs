//! Image files as block devices.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

const GET_FREE: u64 = 0x4C82;
const CONFIGURE: u64 = 0x4C0A;
/// Bits of `loop_info64.lo_flags`.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// Others take free devices as well.
const ATTEMPTS: usize = 64;
/// A new device takes a moment to get its file.
const PAUSE: Duration = Duration::from_millis(10);

/// The kernel's `struct loop_config`, as far as it is used.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    /// `loop_info64` up to its flags.
    before_flags: [u32; 13],
    flags: u32,
    /// Names, keys, and what is reserved.
    rest: [u64; 30],
}

/// An attached device: it goes with this value unless something has mounted it.
pub(crate) struct Device {
    /// Its file.
    pub(crate) path: String,
    _open: File,
}

/// Attaches an image to a free device.
pub(crate) fn attach(image: &str, read_only: bool) -> io::Result<Device> {
    let open = |path: &str, write| OpenOptions::new().read(true).write(write).open(path);
    let file = open(image, !read_only)?;
    let control = open("/dev/loop-control", true)?;
    let config = Config {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        before_flags: [0; 13],
        flags: AUTOCLEAR | if read_only { READ_ONLY } else { 0 },
        rest: [0; 30],
    };
    for _ in 0..ATTEMPTS {
        // SAFETY: the call takes no pointer; the descriptor is open.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = format!("/dev/loop{number}");
        let device = match open(&path, !read_only) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::thread::sleep(PAUSE);
                continue;
            }
            opened => opened?,
        };
        // SAFETY: the kernel reads 304 bytes of `config`, which lives until the call
        // returns; the descriptor in it is open.
        if unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) } == 0 {
            return Ok(Device { path, _open: device });
        }
        let e = io::Error::last_os_error();
        // Somebody else was faster.
        if e.raw_os_error() != Some(libc::EBUSY) {
            return Err(e);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no loop device stays free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_layout() {
        assert_eq!(size_of::<Config>(), 304);
        assert_eq!(std::mem::offset_of!(Config, flags), 60);
    }
}
