//! The kernel's own filesystems (/dev, /dev/pts, /dev/mqueue, /sys), plain
//! tmpfs and binds, and masked and read-only paths.
//!
//! libcontainer makes each such mount by name, with a hundred system calls of
//! path checks. Here they are made by descriptor, with the same result: what
//! needs no pid namespace by the worker, before libcontainer binds the root
//! filesystem, and the paths by the executor. Whatever is not plain stays with
//! libcontainer.

use super::executor::MountWork;
use super::mounts::root_handle;
use super::types::Error;
use super::{launch, paths, procfs, spec, sys};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Namespaces whose filesystems are mounted here: the worker enters them
/// instead of libcontainer, which lets its children inherit them.
const NAMESPACES: [(LinuxNamespaceType, i32); 2] = [
    (LinuxNamespaceType::Network, libc::CLONE_NEWNET),
    (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC),
];

/// Words that are attributes of a mount.
const ATTRIBUTES: [(&str, u64); 8] = [
    ("ro", sys::ATTR_RDONLY),
    ("nosuid", sys::ATTR_NOSUID),
    ("nodev", sys::ATTR_NODEV),
    ("noexec", sys::ATTR_NOEXEC),
    ("noatime", sys::ATTR_NOATIME),
    ("strictatime", sys::ATTR_STRICTATIME),
    ("relatime", 0),
    ("rw", 0),
];

/// Takes the plain mounts and paths out of the spec: mounts the former below
/// `root`, and gives the executor's part.
///
/// `network` is a network namespace to use in place of a new one.
///
/// # Errors
/// A namespace can't be entered, or a filesystem can't be mounted.
pub(crate) fn mount(
    spec: &mut Spec,
    root: &Path,
    network: Option<&OwnedFd>,
) -> Result<Vec<MountWork>, Error> {
    if !applies(spec) {
        make_places(spec, &root_handle(root)?)?;
        return Ok(Vec::new());
    }
    enter_namespaces(spec, network)?;
    let mut left: Vec<PathBuf> = Vec::new();
    let mut taken = Vec::new();
    if let Some(mounts) = spec.mounts_mut() {
        mounts.retain(|m| {
            let apart = left.iter().all(|l| !overlap(l, m.destination()));
            match Plain::of(m).filter(|_| apart) {
                Some(plain) => taken.push((m.clone(), plain)),
                None => left.push(m.destination().clone()),
            }
            left.last() == Some(m.destination())
        });
    }
    let root = root_handle(root)?;
    for (m, plain) in taken {
        plain.make(root.as_fd(), m.destination()).map_err(|e| {
            let source = m.source().as_deref().unwrap_or(Path::new(""));
            Error::io(format!("mount {} on {}", source.display(), m.destination().display()), e)
        })?;
    }
    make_places(spec, &root)?;
    Ok(hidden(spec))
}

/// Makes what links lead to, where a mount goes that libcontainer makes: it
/// follows no link that leads nowhere.
fn make_places(spec: &Spec, root: &OwnedFd) -> Result<(), Error> {
    for m in spec.mounts().iter().flatten() {
        let at = m.destination();
        if !leads_nowhere(root.as_fd(), at) {
            continue;
        }
        let file = is_bind(m) && m.source().as_ref().is_some_and(|source| !source.is_dir());
        let made = match file {
            true => paths::file_in(root.as_fd(), at),
            false => paths::mkdir_all_in(root.as_fd(), at),
        };
        made.map_err(|e| Error::io(format!("make a place to mount at {}", at.display()), e))?;
    }
    Ok(())
}

/// Whether there is a link on the way to a place that is not there.
fn leads_nowhere(root: BorrowedFd<'_>, at: &Path) -> bool {
    let Ok(at) = sys::cpath(at.strip_prefix("/").unwrap_or(at)) else { return false };
    let open = |resolve| sys::openat2(root, &at, libc::O_PATH, 0, resolve);
    open(sys::NO_LINKS).is_err_and(|e| e.raw_os_error() == Some(libc::ELOOP))
        && open(sys::IN_ROOT).is_err()
}

/// With hooks or a user namespace the order of things is
/// visible from outside: libcontainer keeps to it.
fn applies(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return false };
    let none = |empty: Option<bool>| empty.unwrap_or(true);
    spec.hooks().is_none()
        && none(linux.net_devices().as_ref().map(|d| d.is_empty()))
        && linux
            .rootfs_propagation()
            .as_deref()
            .is_none_or(|p| p.is_empty() || p.ends_with("private"))
        && !spec::has_userns(spec)
}

/// Prefixes of the kernel parameters that belong to each of [`NAMESPACES`].
const PARAMETERS: [&[&str]; 2] =
    [&["net."], &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]];

fn enter_namespaces(spec: &mut Spec, network: Option<&OwnedFd>) -> Result<(), Error> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    for ((kind, flag), prefixes) in NAMESPACES.into_iter().zip(PARAMETERS) {
        let Some(all) = linux.namespaces_mut() else { return Ok(()) };
        let Some(i) = all.iter().position(|n| n.typ() == kind) else { continue };
        match all.remove(i).path() {
            None => {
                let ready = network.filter(|_| kind == LinuxNamespaceType::Network);
                ready
                    .map_or_else(|| sys::unshare(flag), |ns| sys::setns(ns.as_fd(), flag))
                    .map_err(|e| Error::io(format!("make a {kind} namespace"), e))?;
                if kind == LinuxNamespaceType::Network && ready.is_none() {
                    launch::own_loopback_up()?;
                }
            }
            Some(path) => launch::join(path, kind, flag)?,
        }
        if let Some(parameters) = linux.sysctl_mut() {
            set_parameters(parameters, prefixes)?;
        }
    }
    Ok(())
}

/// Sets those of a namespace that this process is in, and takes them out.
fn set_parameters(all: &mut HashMap<String, String>, prefixes: &[&str]) -> Result<(), Error> {
    for (name, value) in all.extract_if(|name, _| prefixes.iter().any(|p| name.starts_with(p))) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, &value)
            .map_err(|e| Error::io(format!("set the kernel parameter {name} to {value:?}"), e))?;
    }
    Ok(())
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// A mount that needs nothing but itself.
pub(crate) struct Plain {
    what: What,
    attributes: u64,
}

enum What {
    Filesystem { kind: &'static CStr, options: Vec<(String, String)> },
    Bind { source: PathBuf, recursive: bool },
}

impl Plain {
    /// The mount, if it is one.
    pub(crate) fn of(m: &Mount) -> Option<Self> {
        let words = m.options().as_deref().unwrap_or_default();
        if is_bind(m) {
            return Self::bind(m, words, words.iter().any(|o| o == "rbind"));
        }
        let kind = match (m.typ().as_deref()?, m.destination().to_str()?) {
            ("tmpfs", _) if is_apart(m.destination()) => c"tmpfs",
            ("devpts", "/dev/pts") => c"devpts",
            ("mqueue", "/dev/mqueue") => c"mqueue",
            ("sysfs", "/sys") => c"sysfs",
            _ => return None,
        };
        let source = m.source().as_ref().map_or(kind.to_str().ok(), |s| s.to_str())?;
        let mut options = vec![("source".to_owned(), source.to_owned())];
        let mut attributes = 0;
        for option in words {
            if let Some(attribute) = attribute(option) {
                attributes |= attribute;
            } else if let Some((key, value)) = option.split_once('=') {
                options.push((key.to_owned(), value.to_owned()));
            } else if option == "newinstance" && kind == c"devpts" {
                // Every instance is, today.
            } else {
                return None;
            }
        }
        // Things are made below; and a mode that is not given is that of the place.
        let tmpfs = kind == c"tmpfs";
        let writable = attributes & sys::ATTR_RDONLY == 0;
        let moded = options.iter().any(|(key, _)| key == "mode");
        let plain = Self { what: What::Filesystem { kind, options }, attributes };
        (!tmpfs || (writable && moded)).then_some(plain)
    }

    fn bind(m: &Mount, words: &[String], recursive: bool) -> Option<Self> {
        let rest = words.iter().filter(|o| !matches!(o.as_str(), "bind" | "rbind"));
        let attributes = rest.map(|o| attribute(o)).try_fold(0, |all, one| Some(all | one?))?;
        let apart = is_apart(m.destination());
        let source = m.source().clone()?;
        // To change how access times are kept, the old way has to be cleared first.
        let simple = attributes & (sys::ATTR_NOATIME | sys::ATTR_STRICTATIME) == 0;
        (apart && simple).then_some(Self { what: What::Bind { source, recursive }, attributes })
    }

    /// Bits of `mount_attr.attr_set`.
    pub(crate) fn attributes(&self) -> u64 {
        self.attributes
    }

    /// The mount, on no place yet.
    pub(crate) fn detached(&self) -> io::Result<OwnedFd> {
        match &self.what {
            What::Filesystem { kind, options } => {
                let options: Vec<_> =
                    options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                sys::new_mount(kind, &options, self.attributes)
            }
            What::Bind { source, recursive } => {
                let mount = sys::clone_mount(sys::open_path(source)?.as_fd(), c"", *recursive)?;
                if self.attributes != 0 {
                    let change = sys::MountChange { set: self.attributes, ..Default::default() };
                    sys::set_mount(mount.as_fd(), &change)?;
                }
                Ok(mount)
            }
        }
    }

    fn make(&self, root: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
        let mount = self.detached()?;
        let directory = match &self.what {
            What::Filesystem { .. } => true,
            What::Bind { .. } => sys::is_directory(&mount)?,
        };
        let place = match paths::direct(root, at, directory) {
            Some(place) => place,
            None => {
                let place = match directory {
                    true => paths::mkdir_all_in(root, at)?,
                    false => paths::file_in(root, at)?,
                };
                procfs::refuse(root, place.as_fd())?;
                place
            }
        };
        sys::attach(mount.as_fd(), place.as_fd())
    }
}

/// Whether a mount of the spec is a bind.
pub(crate) fn is_bind(m: &Mount) -> bool {
    m.options().iter().flatten().any(|o| o == "bind" || o == "rbind")
        || m.typ().as_deref() == Some("bind")
}

/// In /proc it needs more care than here, and / is no place below the root.
fn is_apart(at: &Path) -> bool {
    at.is_absolute() && at != Path::new("/") && !at.starts_with("/proc")
}

fn attribute(option: &str) -> Option<u64> {
    ATTRIBUTES.iter().find(|a| a.0 == option).map(|a| a.1)
}

/// Takes the masked and read-only paths in /proc and /sys out of the spec.
fn hidden(spec: &mut Spec) -> Vec<MountWork> {
    let Some(linux) = spec.linux_mut() else { return Vec::new() };
    let mut work = Vec::new();
    let mut take = |paths: &mut Option<Vec<String>>, make: fn(std::ffi::CString) -> MountWork| {
        let Some(paths) = paths else { return };
        paths.retain(|path| {
            let ours = path.starts_with("/proc/") || path.starts_with("/sys/");
            match sys::cstr(path).ok().filter(|_| ours) {
                Some(path) => work.push(make(path)),
                None => return true,
            }
            false
        });
    };
    take(linux.readonly_paths_mut(), |at| MountWork::ReadOnly { at });
    take(linux.masked_paths_mut(), |at| MountWork::Mask { at });
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, at: &str, options: &[&str]) -> Mount {
        let mut m = Mount::default();
        m.set_typ(Some(kind.into()))
            .set_destination(at.into())
            .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        m
    }

    #[test]
    fn only_plain_mounts_are_taken() {
        let dev =
            Plain::of(&mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755"])).unwrap();
        assert_eq!(dev.attributes, sys::ATTR_NOSUID | sys::ATTR_STRICTATIME);
        let What::Filesystem { options, .. } = dev.what else { panic!("no bind") };
        assert_eq!(options[1], ("mode".to_owned(), "755".to_owned()));
        assert!(Plain::of(&mount("sysfs", "/sys", &["ro", "noexec"])).is_some());
        assert!(Plain::of(&mount("tmpfs", "/run", &["mode=755"])).is_some());
        for other in [
            mount("tmpfs", "/dev", &["ro", "mode=755"]),
            mount("tmpfs", "/dev", &[]),
            mount("tmpfs", "/run", &[]),
            mount("tmpfs", "/proc/x", &["mode=755"]),
            mount("tmpfs", "/dev/shm", &["mode=1777", "tmpcopyup"]),
            mount("bind", "/proc/x", &["rbind"]),
            mount("bind", "/x", &["rbind", "rro"]),
            mount("proc", "/proc", &[]),
        ] {
            assert!(Plain::of(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn overlapping_places_keep_their_order() {
        assert!(overlap(Path::new("/dev"), Path::new("/dev/shm")));
        assert!(overlap(Path::new("/sys/fs"), Path::new("/sys")));
        assert!(!overlap(Path::new("/dev"), Path::new("/device")));
    }
}
