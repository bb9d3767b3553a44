//! /proc: what may be mounted there. Programs, and this runtime, believe what it says.

use super::apifs::is_bind;
use super::executor::MountWork;
use super::spec::is_cgroup;
use super::sys;
use super::types::Error;
use oci_spec::runtime::{Mount, Spec};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const PROC: &str = "/proc";
/// Files there that a bind may cover, with readings that somebody else makes up.
const READINGS: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];
/// What drivers tell of devices: hooks of devices cover some of it.
const DRIVERS: &str = "/proc/driver/";
/// The inode of its top.
const TOP: u64 = 1;
/// A table of mounts is not read beyond this.
const MAX_TABLE: u64 = 16 << 20;
/// `RESOLVE_NO_XDEV`: on one mount.
const NO_XDEV: u64 = 0x01;

/// Refuses mounts that would hide /proc or part of it, by their places alone.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    for m in spec.mounts().iter().flatten() {
        let at = gantry_core::paths::clean(m.destination());
        let why = if at == Path::new(PROC) {
            (!shows_proc(m)).then_some("it is not of type proc")
        } else if at.starts_with(PROC) {
            let reading = is_bind(m) && READINGS.iter().any(|r| at == Path::new(r));
            (!reading).then_some("it is inside /proc")
        } else {
            None
        };
        if let Some(why) = why {
            let at = at.display().to_string();
            return Err(Error::Invalid(format!("{at:?} cannot be mounted because {why}")));
        }
    }
    Ok(())
}

/// Whether a mount makes a /proc, or brings one.
fn shows_proc(m: &Mount) -> bool {
    if !is_bind(m) {
        return m.typ().as_deref() == Some("proc");
    }
    let source = m.source().as_deref().unwrap_or(Path::new(""));
    sys::open_path(source).and_then(|source| is_top(source.as_fd())).unwrap_or(false)
}

fn is_top(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let inode = File::from(fd.try_clone_to_owned()?).metadata()?.ino();
    Ok(sys::is_procfs(fd)? && inode == TOP)
}

/// Refuses a place for a mount to which links of the root filesystem have led from elsewhere.
pub(crate) fn refuse(root: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    let path = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if path(place)?.starts_with(path(root)?.join("proc")) {
        return Err(io::Error::other("a link leads from there into /proc"));
    }
    Ok(())
}

/// A look at /proc for the executor, when others than this runtime mount something: they are
/// led by links as well.
pub(crate) fn look(spec: &Spec) -> Option<MountWork> {
    let of_proc = |m: &Mount| m.typ().as_deref() == Some("proc") && !is_bind(m);
    let mounts = || spec.mounts().iter().flatten();
    let more = mounts().any(|m| !of_proc(m) && !is_cgroup(m));
    if !more || !mounts().any(|m| of_proc(m) && m.destination() == Path::new(PROC)) {
        return None;
    }
    let linux = spec.linux().as_ref();
    let hidden = linux.map(|l| [l.masked_paths().clone(), l.readonly_paths().clone()]);
    let hidden = hidden.into_iter().flatten().flatten().flatten();
    let covered = READINGS.iter().map(|r| (*r).to_owned()).chain(hidden).collect();
    Some(MountWork::Proc { covered })
}

/// Sees that in this root nothing lies over /proc, and below it nothing but what may.
pub(crate) fn see(root: BorrowedFd<'_>, covered: &[String]) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let top = sys::openat2(root, c"proc", flags, 0, sys::NO_LINKS)?;
    if !is_top(top.as_fd())? {
        return Err(io::Error::other("something is mounted over it"));
    }
    let within = sys::BENEATH | NO_XDEV;
    let table = sys::openat2(top.as_fd(), c"self/mountinfo", libc::O_RDONLY, 0, within)?;
    let mut text = String::new();
    File::from(table).take(MAX_TABLE).read_to_string(&mut text)?;
    match over(&text, covered) {
        Some(place) => Err(io::Error::other(format!("{place} is covered by a mount"))),
        None => Ok(()),
    }
}

/// A mount below /proc that is none of those that may be, in a table of mounts (proc(5)).
fn over<'a>(table: &'a str, covered: &[String]) -> Option<&'a str> {
    let mut places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let may = |place: &str| place.starts_with(DRIVERS) || covered.iter().any(|c| c == place);
    places.find(|place| place.starts_with("/proc/") && !may(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn spec(mounts: &[serde_json::Value]) -> Spec {
        let all = serde_json::json!({"ociVersion": "1.1.0", "mounts": mounts, "linux": {
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]}});
        serde_json::from_value(all).unwrap()
    }

    fn mount(kind: &str, at: &str) -> serde_json::Value {
        let source = if kind == "bind" { "/proc/version" } else { kind };
        serde_json::json!({"destination": at, "type": kind, "source": source})
    }

    #[test]
    fn what_may_be_mounted_there() {
        for (kind, at) in
            [("proc", "/proc"), ("bind", "/proc/uptime"), ("tmpfs", "/process"), ("bind", "/x")]
        {
            check(&spec(&[mount(kind, at)])).unwrap();
        }
        let brought =
            serde_json::json!({"destination": "/proc/", "type": "bind", "source": "/proc"});
        check(&spec(&[brought])).unwrap();
        let said = |kind, at| check(&spec(&[mount(kind, at)])).unwrap_err().to_string();
        let refused = "\"/proc\" cannot be mounted because it is not of type proc";
        for (kind, at) in [("tmpfs", "/proc"), ("bind", "/x/../proc/"), ("tmpfs", "proc")] {
            assert_eq!(said(kind, at), refused);
        }
        for (kind, at) in
            [("tmpfs", "/proc/x"), ("tmpfs", "/proc/uptime"), ("bind", "/proc/self/attr")]
        {
            assert!(said(kind, at).ends_with("because it is inside /proc"), "{at}");
        }
    }

    #[test]
    fn places_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("root");
        std::fs::create_dir_all(root.join("proc/x")).unwrap();
        std::fs::create_dir_all(root.join("process")).unwrap();
        symlink("proc", root.join("link")).unwrap();
        let open = |path: &str| File::open(root.join(path)).unwrap();
        let ask = |path: &str| refuse(open(".").as_fd(), open(path).as_fd());
        ask("process").unwrap();
        ask(".").unwrap();
        for path in ["proc", "link", "link/x"] {
            assert!(ask(path).is_err(), "{path}");
        }
    }

    #[test]
    fn who_looks_again() {
        assert!(
            look(&spec(&[mount("proc", "/proc"), mount("cgroup", "/sys/fs/cgroup")])).is_none()
        );
        assert!(look(&spec(&[mount("tmpfs", "/x")])).is_none());
        let looked = look(&spec(&[mount("proc", "/proc"), mount("tmpfs", "/x")]));
        let Some(MountWork::Proc { covered }) = looked else { panic!("nobody looks") };
        let line = |place: &str| format!("36 35 98:0 / {place} rw,noatime - ext3 /dev/root rw\n");
        let table = |places: &[&str]| places.iter().map(|p| line(p)).collect::<String>();
        let good = table(&[
            "/",
            "/proc",
            "/proc/uptime",
            "/proc/kcore",
            "/proc/sys",
            "/proc/driver/x/params",
            "/process",
        ]);
        assert_eq!(over(&good, &covered), None);
        assert_eq!(over(&(good + &line("/proc/self")), &covered), Some("/proc/self"));
    }
}
