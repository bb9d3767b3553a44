//! One mount, made and taken away.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::mounts::ActiveMount;
use gantry_core::{Error, Kind, Mount, Result, Timestamp, faults};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::LOOP;
use crate::loopdev::{self, Loop};
use crate::plan::Step;
use crate::{template, transform};

/// The name under which a loop device stands in [`ActiveMount::data`].
const DEVICE: &str = "device";
/// What mount(2) takes as data, with the NUL at its end.
const MAX_DATA: usize = 4096;
/// How often a busy mount is tried.
const ATTEMPTS: usize = 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(25);

/// Options that are flags of mount(2), and whether they set it.
const FLAGS: [(&str, MountFlags, bool); 26] = [
    ("async", MountFlags::SYNCHRONOUS, false),
    ("atime", MountFlags::NOATIME, false),
    ("bind", MountFlags::BIND, true),
    ("defaults", MountFlags::empty(), true),
    ("dev", MountFlags::NODEV, false),
    ("diratime", MountFlags::NODIRATIME, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("noatime", MountFlags::NOATIME, true),
    ("nodev", MountFlags::NODEV, true),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("noexec", MountFlags::NOEXEC, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
    ("relatime", MountFlags::RELATIME, true),
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("silent", MountFlags::SILENT, true),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("suid", MountFlags::NOSUID, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("", MountFlags::empty(), true),
];

/// fstab's words, parsed.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    data: CString,
    /// Whether the source is an image that needs a device.
    looped: bool,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self> {
        let (mut flags, mut data, mut looped) = (MountFlags::empty(), Vec::new(), false);
        for option in options {
            if let Some((_, flag, set)) = FLAGS.iter().find(|(name, ..)| name == option) {
                flags.set(*flag, *set);
            } else if option == "loop" {
                looped = true;
            } else if option.starts_with("uidmap=") || option.starts_with("gidmap=") {
                return Err(Error::invalid_argument(format!(
                    "mount option {option:?} is for the mount of a container's root file \
                     system: invalid argument"
                )));
            } else {
                data.push(option.as_str());
            }
        }
        let data = CString::new(data.join(","))
            .map_err(|_| Error::invalid_argument("a mount option holds a NUL: invalid argument"))?;
        if data.count_bytes() >= MAX_DATA {
            return Err(Error::invalid_argument(format!(
                "mount options of {} bytes, the kernel takes {}: invalid argument",
                data.count_bytes(),
                MAX_DATA - 1
            )));
        }
        Ok(Self { flags, data, looped })
    }
}

/// Does what a mount's type asks for before it is mounted.
///
/// # Errors
/// `InvalidArgument`; what making images and directories meets.
pub(crate) fn prepare(step: &Step, active: &[ActiveMount]) -> Result<Mount> {
    // Templates first, wherever they are named: the others need what they stand for.
    let mut mount = match step.transforms.format {
        true => template::fill(&step.mount, active)?,
        false => step.mount.clone(),
    };
    if step.transforms.mkfs {
        transform::make_image(&mut mount)?;
    }
    if step.transforms.mkdir {
        transform::make_directories(&mut mount, active)?;
    }
    Ok(mount)
}

/// Makes a mount at `place`, which is not there yet.
///
/// # Errors
/// What the kernel said.
pub(crate) fn make(step: &Step, place: &Path, active: &[ActiveMount]) -> Result<ActiveMount> {
    let wanted = prepare(step, active)?;
    let mut data = BTreeMap::new();
    if wanted.kind == LOOP {
        let device = attach(&wanted, place)?;
        data.insert(DEVICE.to_owned(), device.display().to_string());
    } else {
        mount_at(&wanted, place)?;
    }
    let mount_point = place.display().to_string();
    Ok(ActiveMount { mount: wanted, mounted_at: Timestamp::now(), mount_point, data })
}

/// Attaches an image and leaves a link to the device.
fn attach(wanted: &Mount, place: &Path) -> Result<PathBuf> {
    let mut options = loopdev::Options::default();
    for option in &wanted.options {
        match option.as_str() {
            "ro" => options.read_only = true,
            "direct-io" => options.direct_io = true,
            "rw" | "defaults" | "" => {}
            other => {
                return Err(Error::invalid_argument(format!(
                    "loop device with option {other:?}: invalid argument"
                )));
            }
        }
    }
    let device = Loop::attach(Path::new(&wanted.source), place, options)?;
    let path = device.path().to_owned();
    // Until it is kept the device goes with this process.
    faults::around("link a loop device", || symlink(&path, place))
        .map_err(|err| Error::io(format!("link {place:?} to {path:?}"), err))?;
    device.keep()?;
    Ok(path)
}

fn mount_at(wanted: &Mount, place: &Path) -> Result<()> {
    if !wanted.target.is_empty() {
        return Err(Error::invalid_argument(format!(
            "mount on {:?} below the one before it can't be made by the host: invalid argument",
            wanted.target
        )));
    }
    let options = Options::parse(&wanted.options)?;
    let make = || fs::DirBuilder::new().mode(0o700).create(place);
    faults::around("make a mount point", make)
        .map_err(|err| Error::io(format!("make mount point {place:?}"), err))?;
    let Mount { kind, source, .. } = wanted;
    let failed = |err: Errno| Error::io(format!("mount {kind} {source:?}"), err.into());
    let (flags, data) = (options.flags, options.data.as_c_str());
    if kind == "bind" || kind == "rbind" || flags.contains(MountFlags::BIND) {
        let deep = if kind == "rbind" { MountFlags::REC } else { flags & MountFlags::REC };
        let bind = || mount(source, place, "", MountFlags::BIND | deep, None);
        faults::around("bind", bind).map_err(failed)?;
        let rest = flags - MountFlags::BIND - MountFlags::REC;
        if !rest.is_empty() {
            mount_remount(place, MountFlags::BIND | rest, "").map_err(failed)?;
        }
        return Ok(());
    }
    if options.looped {
        // The device goes with the mount.
        let read_only = flags.contains(MountFlags::RDONLY);
        let looped = loopdev::Options { read_only, direct_io: false };
        let device = Loop::attach(Path::new(source), place, looped)?;
        let looped = || mount(device.path(), place, kind.as_str(), flags, Some(data));
        return faults::around("mount an image", looped).map_err(failed);
    }
    let make = || mount(source, place, kind.as_str(), flags, Some(data));
    faults::around("mount", make).map_err(failed)
}

/// Whether a mount is still there.
pub(crate) fn is_there(active: &ActiveMount) -> bool {
    let place = Path::new(&active.mount_point);
    if active.mount.kind == LOOP {
        return fs::read_link(place).is_ok_and(|device| loopdev::is_owned(&device, place));
    }
    is_mount_point(place)
}

fn is_mount_point(place: &Path) -> bool {
    let found = statx(CWD, place, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away what was made at `place`, whatever it is.
///
/// # Errors
/// `FailedPrecondition` while it is in use.
pub(crate) fn take_away(place: &Path) -> Result<()> {
    match fs::read_link(place) {
        Ok(device) => {
            loopdev::detach(&device, place)?;
            return faults::around("remove a link to a loop device", || fs::remove_file(place))
                .map_err(|err| Error::io(format!("remove {place:?}"), err));
        }
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    // One may lie on another.
    while is_mount_point(place) {
        unmount_busy(place)?;
    }
    // Never what is in it: a mount that hides from us holds somebody's files.
    faults::around("remove a mount point", || fs::remove_dir(place))
        .map_err(|err| Error::io(format!("remove mount point {place:?}"), err))
}

fn unmount_busy(place: &Path) -> Result<()> {
    for attempt in 0..ATTEMPTS {
        match faults::around("unmount", || unmount(place, UnmountFlags::NOFOLLOW)) {
            Err(Errno::BUSY) if attempt + 1 < ATTEMPTS => std::thread::sleep(PAUSE),
            Err(Errno::BUSY) => break,
            done => {
                return done.map_err(|err| Error::io(format!("unmount {place:?}"), err.into()));
            }
        }
    }
    Err(Error::new(
        Kind::FailedPrecondition,
        format!("{place:?} is in use: end what uses it and try again: failed precondition"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Options> {
        Options::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_flags_and_data() {
        let all = parse(&["ro", "nosuid", "loop", "size=1m", "x=y", "suid"]).unwrap();
        assert_eq!((all.flags, all.looped), (MountFlags::RDONLY, true));
        assert_eq!(all.data.to_str().unwrap(), "size=1m,x=y");
        for bad in ["a\0b", "uidmap=0:1:2", &"x".repeat(4096)] {
            assert_eq!(parse(&[bad]).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }
}
