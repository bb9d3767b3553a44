//! Control groups of our own: v1, hybrid and v2.
//!
//! libcontainer's view of `/sys/fs/cgroup` is emptied before it runs, so that
//! everything about cgroups happens here. A container's cgroup has the same
//! path in every hierarchy; processes get in by joining before they do
//! anything else (v1: writing `0` into `tasks`, v2: being born in it).

pub(crate) mod bpf;
mod cover;
pub(crate) mod devices;
mod life;
pub(crate) mod limits;
pub(crate) mod oom;
pub(crate) mod stats;
mod update;

use super::sys;
use super::types::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// What one mounted hierarchy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// cgroup v1 with controllers.
    Legacy,
    /// cgroup v1 without controllers (`name=systemd`).
    Named,
    /// cgroup v2, alone or beside v1.
    Unified,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// Name of its directory under /sys/fs/cgroup; empty when it is mounted there itself.
    pub(crate) name: String,
    /// Controllers that it offers.
    pub(crate) controllers: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) mount_point: PathBuf,
    dir: OwnedFd,
}

/// All hierarchies of the host, opened once.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) hierarchies: Vec<Hierarchy>,
}

/// A container's cgroup: one path in every hierarchy, without leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    path: String,
}

impl Group {
    /// Takes a path as the OCI spec's `cgroupsPath`: absolute or relative, both below the root.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                std::path::Component::RootDir | std::path::Component::CurDir => {}
                std::path::Component::Normal(p) => match p.to_str() {
                    Some(p) if !p.contains('\n') => parts.push(p),
                    _ => {
                        return Err(Error::Invalid(format!(
                            "cgroupsPath {} is not plain text",
                            path.display()
                        )));
                    }
                },
                _ => {
                    return Err(Error::Invalid(format!(
                        "cgroupsPath {} leads upwards",
                        path.display()
                    )));
                }
            }
        }
        if parts.is_empty() {
            return Err(Error::Invalid("cgroupsPath names the root of the hierarchy".into()));
        }
        Ok(Self { path: parts.join("/") })
    }

    /// The path below each hierarchy's root.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl Host {
    /// Finds the hierarchies in this process's mount table.
    pub(crate) fn open() -> Result<Self, Error> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| Error::io("read /proc/self/mountinfo", e))?;
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in table.lines() {
            let Some(found) = Self::parse(line) else { continue };
            let same = |h: &Hierarchy| h.kind == found.kind && h.name == found.name;
            if !hierarchies.iter().any(same) {
                hierarchies.push(found);
            }
        }
        if hierarchies.is_empty() {
            return Err(Error::Unsupported(
                "no cgroup hierarchy is mounted; mount one at /sys/fs/cgroup".into(),
            ));
        }
        Ok(Self { hierarchies })
    }

    fn parse(line: &str) -> Option<Hierarchy> {
        let (left, right) = line.split_once(" - ")?;
        let mount_point = PathBuf::from(left.split(' ').nth(4)?);
        let below = mount_point.strip_prefix("/sys/fs/cgroup").ok()?;
        let name = below.to_str()?.to_owned();
        let mut right = right.split(' ');
        let fs = right.next()?;
        let options = right.nth(1)?;
        let dir = Self::handle(&mount_point)?;
        let (kind, controllers) = match fs {
            "cgroup2" => {
                let list = read_at(dir.as_fd(), "cgroup.controllers").unwrap_or_default();
                (Kind::Unified, list.split_ascii_whitespace().map(str::to_owned).collect())
            }
            "cgroup" => {
                let known =
                    |o: &&str| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix");
                let all: Vec<&str> = options.split(',').filter(known).collect();
                let named = all.iter().any(|o| o.starts_with("name="));
                let list =
                    all.iter().filter(|o| !o.contains('=')).map(|o| (*o).to_owned()).collect();
                (if named { Kind::Named } else { Kind::Legacy }, list)
            }
            _ => return None,
        };
        Some(Hierarchy { name, controllers, kind, mount_point, dir })
    }

    fn handle(path: &Path) -> Option<OwnedFd> {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        Some(file.into())
    }

    /// Whether cgroup v2 is the only one.
    pub(crate) fn is_v2(&self) -> bool {
        self.hierarchies.iter().all(|h| h.kind == Kind::Unified)
    }

    /// The hierarchy with a controller, if the kernel offers it.
    pub(crate) fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// The unified hierarchy, alone or beside v1.
    pub(crate) fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.kind == Kind::Unified)
    }

    /// The hierarchy that freezes: v1's freezer, else v2.
    fn freezer(&self) -> Option<&Hierarchy> {
        self.with("freezer").or_else(|| self.unified())
    }

    /// The hierarchy whose process lists are read.
    fn lists(&self) -> &Hierarchy {
        // `open` refuses a host without any hierarchy.
        self.with("pids").or_else(|| self.with("devices")).unwrap_or(&self.hierarchies[0])
    }

    /// Descriptors that a worker needs to join a cgroup.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.hierarchies.iter().map(|h| h.dir.as_raw_fd())
    }
}

impl Hierarchy {
    /// Opens the container's directory for reading.
    pub(crate) fn open(&self, group: &Group) -> io::Result<OwnedFd> {
        sys::openat(self.dir.as_fd(), &sys::cstr(&group.path)?, libc::O_RDONLY | libc::O_DIRECTORY)
    }

    /// Reads a file of the container's cgroup.
    pub(crate) fn read(&self, group: &Group, file: &str) -> io::Result<String> {
        read_at(self.dir.as_fd(), &format!("{}/{file}", group.path))
    }

    /// Opens a file of the container's cgroup for writing.
    pub(crate) fn open_file(&self, group: &Group, file: &str) -> io::Result<OwnedFd> {
        let path = sys::cstr(format!("{}/{file}", group.path))?;
        sys::openat(self.dir.as_fd(), &path, libc::O_WRONLY)
    }

    /// Writes a file of the container's cgroup.
    pub(crate) fn write(&self, group: &Group, file: &str, value: &str) -> io::Result<()> {
        sys::write(self.open_file(group, file)?.as_fd(), value.as_bytes()).map(drop)
    }

    /// Whether the container's cgroup has a file.
    pub(crate) fn has(&self, group: &Group, file: &str) -> bool {
        let Ok(path) = sys::cstr(format!("{}/{file}", group.path)) else { return false };
        sys::openat(self.dir.as_fd(), &path, libc::O_PATH).is_ok()
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Reads a whole small file under a directory handle.
pub(crate) fn read_at(dir: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    use std::io::Read;
    let mut file = std::fs::File::from(sys::openat(dir, &sys::cstr(path)?, libc::O_RDONLY)?);
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a value in one write, as cgroup files want it.
pub(crate) fn write_at(dir: BorrowedFd<'_>, path: &str, value: &str) -> io::Result<()> {
    let file = sys::openat(dir, &sys::cstr(path)?, libc::O_WRONLY)?;
    sys::write(file.as_fd(), value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_paths_stay_below_the_root() {
        let path = |s: &str| Group::new(Path::new(s)).map(|g| g.path);
        assert_eq!(path("/a/b").ok().as_deref(), Some("a/b"));
        assert_eq!(path("a/./b/").ok().as_deref(), Some("a/b"));
        assert!(path("/a/../../b").is_err());
        assert!(path("/").is_err());
    }
}
