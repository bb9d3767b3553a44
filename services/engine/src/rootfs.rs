//! A file system of mounts, opened for the daemon alone.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use gantry_core::{Error, Mount, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    move_mount,
};

/// What mount(2) takes as data, with the NUL at its end.
const MAX_DATA: usize = 4096;
/// Words of mount(8) that are none of an overlay's own options.
const FLAGS: [&str; 9] =
    ["", "defaults", "noatime", "nodev", "noexec", "nosuid", "relatime", "ro", "rw"];
/// How directories are opened, to be walked from.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether an option is one of an overlay's own.
pub(crate) fn is_own(option: &str) -> bool {
    !FLAGS.contains(&option)
}

/// Gives this thread a mount namespace of its own. Nobody else sees what it mounts, which goes
/// with the thread, also when the daemon is killed.
///
/// # Errors
/// The system's.
pub(crate) fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|err| Error::io("make a mount namespace", err.into()))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|err| Error::io("cut a mount namespace off", err.into()))
}

/// Mounts an overlay of these options.
///
/// # Errors
/// The system's.
pub(crate) fn mount_overlay(options: &[String], at: &Path) -> Result<(), Errno> {
    let data = CString::new(options.join(",")).map_err(|_| Errno::INVAL)?;
    if data.as_bytes_with_nul().len() <= MAX_DATA {
        return mount("overlay", at, "overlay", MountFlags::empty(), Some(data.as_c_str()));
    }
    // More layers than fit into mount(2)'s page: one option a layer.
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", all)) => {
                for layer in all.split(':') {
                    fsconfig_set_string(&context, "lowerdir+", layer)?;
                }
            }
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mounted, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Opens what an image has below a container's own changes: the root that these mounts make,
/// without the upper directory of an overlay. Blocks.
///
/// # Errors
/// `Unimplemented` for mounts of other kinds; the system's.
pub(crate) fn open_image(mounts: &[Mount], scratch: &Path) -> Result<OwnedFd> {
    let [only] = mounts else {
        return Err(Error::unimplemented("open an image's files: several mounts make them"));
    };
    match only.kind.as_str() {
        "bind" => open_directory(Path::new(&only.source)),
        "overlay" => {
            let upper = |o: &String| o.starts_with("upperdir=") || o.starts_with("workdir=");
            let options = only.options.iter().filter(|o| is_own(o) && !upper(o));
            let options: Vec<String> = options.cloned().collect();
            let lower = options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap_or("");
            // No overlay is made of one layer alone.
            if lower.contains(':') {
                detached(options, scratch.to_owned())
            } else {
                open_directory(Path::new(lower))
            }
        }
        kind => Err(Error::unimplemented(format!("open an image's files: mounts of kind {kind}"))),
    }
}

/// Mounts an overlay where nobody sees it, in a namespace that ends with its thread: what is
/// opened stays.
fn detached(options: Vec<String>, at: PathBuf) -> Result<OwnedFd> {
    let work = move || {
        own_mounts()?;
        mount_overlay(&options, &at)
            .map_err(|err| Error::io("mount an image's layers", err.into()))?;
        open_directory(&at)
    };
    let thread = thread::Builder::new().name("layers".to_owned()).spawn(work);
    let thread = thread.map_err(|err| Error::io("start a thread to mount layers", err))?;
    let opened = thread.join();
    opened.unwrap_or_else(|_| Err(Error::internal("a thread that mounts layers panicked")))
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, DIRECTORY, Mode::empty())
        .map_err(|err| Error::io(format!("open {}", path.display()), err.into()))
}

/// How often a path is looked up again.
const LOOKUPS: usize = 128;

/// A directory below a root, opened as the root's own processes would see it; `None` when there
/// is none.
///
/// # Errors
/// The system's.
pub(crate) fn directory(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>> {
    let below = path.trim_start_matches('/');
    let below = if below.is_empty() { "." } else { below };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let look = || openat2(root, below, DIRECTORY, Mode::empty(), resolve);
    // While others rename and mount, the kernel can't tell where `..` leads.
    let again = |found: &std::result::Result<_, Errno>| !matches!(found, Err(Errno::AGAIN));
    let found = (1..LOOKUPS).map(|_| look()).find(again).unwrap_or_else(look);
    match found {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(err) => Err(Error::io(format!("open {path} of an image"), err.into())),
    }
}

/// A path that names what is open.
pub(crate) fn path_of(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", open.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn paths_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("data/in")).unwrap();
        symlink("/data", root.join("link")).unwrap();
        symlink("../../../../..", root.join("out")).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        let root = File::open(&root).map(OwnedFd::from).unwrap();
        let found = directory(&root, "/link/in").unwrap().unwrap();
        assert!(path_of(&found).is_dir());
        // Up from the top is the top.
        let top = directory(&root, "/out/data").unwrap().unwrap();
        assert!(path_of(&top).join("in").is_dir());
        for missing in ["/no", "/file", "/file/x"] {
            assert!(directory(&root, missing).unwrap().is_none(), "{missing}");
        }
    }

    #[test]
    fn paths_are_found_while_others_rename() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("data")).unwrap();
        symlink("../../../../..", root.join("out")).unwrap();
        let root = File::open(&root).map(OwnedFd::from).unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                }
            });
            let found = (0..20_000).map(|_| directory(&root, "/out/data"));
            let missed = found.filter(|found| !matches!(found, Ok(Some(_)))).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
    }
}
