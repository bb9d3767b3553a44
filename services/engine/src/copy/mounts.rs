//! A container's file system, mounted where nobody else sees it: in a mount namespace of one
//! thread. It goes with that thread, also when the daemon is killed.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use gantry_archive::walk::{Found, Node, Walker};
use gantry_core::{Error, Mount, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_remount, unmount,
};
use serde_json::Value;

use super::view::walker;
use crate::rootfs::{is_own, mount_overlay, own_mounts};

/// Option of our shim: a path below the source.
const SUBPATH: &str = "gantry.subpath=";
/// What a container has of its kernel.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What to mount.
#[derive(Debug)]
pub(super) struct Plan {
    /// A directory of the daemon's own to mount it at.
    pub(super) at: PathBuf,
    /// The root file system.
    pub(super) rootfs: Vec<Mount>,
    /// What is mounted in it.
    pub(super) parts: Vec<Part>,
    /// What is written is to stay.
    pub(super) write: bool,
    /// Nothing of the root file system itself can be written.
    pub(super) read_only: bool,
}

/// Something that is mounted in a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    source: PathBuf,
    target: String,
    recursive: bool,
    read_only: bool,
    /// Path below the source.
    subpath: String,
    /// Options of an overlay, which is mounted in place of a source.
    overlay: Option<Vec<String>>,
}

/// Mounts of this thread, until they are dropped.
#[derive(Debug)]
pub(super) struct Private {
    at: PathBuf,
}

impl Drop for Private {
    fn drop(&mut self) {
        // Otherwise it goes with the thread.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

impl Part {
    /// What a specification says of a mount. `None` for what is made anew with each start: kernel
    /// file systems, memory, and what is mounted in these.
    pub(super) fn of(mount: &Value) -> Option<Self> {
        let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
        let options = mount["options"].as_array().cloned().unwrap_or_default();
        let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
        let has = |any: &[&str]| options.iter().any(|option| any.contains(option));
        let subpath = options.iter().find_map(|option| option.strip_prefix(SUBPATH));
        let kind = text("type");
        let target = gantry_core::paths::clean(text("destination"));
        if KERNEL.iter().any(|kernel| target.starts_with(kernel)) {
            return None;
        }
        let part = Self {
            source: text("source").into(),
            target: text("destination"),
            recursive: kind == "rbind" || has(&["rbind"]),
            read_only: has(&["ro", "rro"]),
            subpath: subpath.unwrap_or_default().to_owned(),
            overlay: None,
        };
        if kind == "overlay" {
            let own = |option: &&&str| is_own(option) && !option.starts_with("gantry.");
            let overlay = options.iter().filter(own).map(|option| (*option).to_owned());
            return Some(Self { overlay: Some(overlay.collect()), read_only: true, ..part });
        }
        let bind = matches!(kind.as_str(), "bind" | "rbind") || has(&["bind", "rbind"]);
        (bind && part.source.is_absolute()).then_some(part)
    }

    /// What is mounted. `scratch`: an empty directory.
    fn open(&self, scratch: &Path) -> Result<Node> {
        let failed = |err| mount_error(&self.target, err);
        let path = match &self.overlay {
            None => self.source.as_path(),
            Some(options) => {
                make_directory(scratch)?;
                mount_overlay(options, scratch).map_err(failed)?;
                scratch
            }
        };
        let opened = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.map_err(|err| match err {
            Errno::NOENT => Error::failed_precondition(format!(
                "{}, which is mounted at {} in the container, is not there",
                self.source.display(),
                self.target
            )),
            err => failed(err),
        })?;
        if self.subpath.is_empty() {
            return Node::of(opened).map_err(failed);
        }
        let walker = walker(opened)?;
        match walker.walk(walker.root(), self.subpath.as_bytes(), true).map_err(failed)? {
            Found::Directory(dir) => Node::at(&*dir, c".").map_err(failed),
            Found::Other { node, .. } => Ok(node),
            Found::Nothing { .. } => Err(failed(Errno::NOENT)),
        }
    }

    /// Mounts it within a root.
    fn mount(&self, walker: &Walker, scratch: &Path, write: bool) -> Result<()> {
        let failed = |err| mount_error(&self.target, err);
        let source = self.open(scratch)?;
        let directory = source.kind() == FileType::Directory;
        let target = place(walker, &self.target, directory).map_err(failed)?;
        let keep = write && self.read_only;
        // What is mounted below a read-only one would stay as it is: it is left out.
        let bound = if self.recursive && !keep {
            mount_bind_recursive(source.path(), target.path())
        } else {
            mount_bind(source.path(), target.path())
        };
        bound.map_err(failed)?;
        if !keep {
            return Ok(());
        }
        let mounted = place(walker, &self.target, directory).map_err(failed)?;
        mount_remount(mounted.path(), MountFlags::BIND | MountFlags::RDONLY, "").map_err(failed)
    }
}

impl Plan {
    /// Mounts it for this thread, which gets a mount namespace of its own; opens the root.
    ///
    /// # Errors
    /// `Unimplemented` for root file systems of other kinds than one overlay or bind;
    /// `FailedPrecondition` for a source that is not there; the system's.
    pub(super) fn mount(&self) -> Result<(OwnedFd, Private)> {
        let failed = |what: &str| {
            let what = format!("{what} for a container's files");
            move |err: Errno| Error::io(what, err.into())
        };
        let rootfs = self.rootfs()?;
        make_directory(&self.at)?;
        own_mounts()?;
        mount("tmpfs", &self.at, "tmpfs", MountFlags::empty(), Some(c"mode=0700"))
            .map_err(failed("mount memory"))?;
        let private = Private { at: self.at.clone() };
        let root = self.at.join("root");
        for name in ["root", "upper", "work"] {
            make_directory(&self.at.join(name))?;
        }
        if let Rootfs::Below { top, .. } = &rootfs {
            let resembles = resemble(&self.at.join("upper"), top);
            resembles.map_err(|err| Error::io(format!("look at {}", top.display()), err))?;
        }
        let mounted = match &rootfs {
            Rootfs::Overlay(options) | Rootfs::Below { options, .. } => {
                mount_overlay(options, &root)
            }
            Rootfs::Bind(source) => mount_bind_recursive(source, &root),
        };
        mounted.map_err(failed("mount the root file system"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || openat(CWD, &root, flags, Mode::empty());
        let walker = walker(open().map_err(failed("open the root file system"))?)?;
        for (number, part) in self.parts.iter().enumerate() {
            part.mount(&walker, &self.at.join(number.to_string()), self.write)?;
        }
        if self.write && self.read_only {
            mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, "")
                .map_err(failed("make the root file system read-only"))?;
        }
        Ok((open().map_err(failed("open the root file system"))?, private))
    }

    /// How the root file system is mounted: as it is to be written, and below a directory in
    /// memory to be read, which keeps it as it is.
    fn rootfs(&self) -> Result<Rootfs> {
        let unknown = || {
            Error::unimplemented(
                "reach the files of a container that does not run: its snapshotter has other \
                 mounts than one overlay or bind; start it",
            )
        };
        let [mount] = self.rootfs.as_slice() else { return Err(unknown()) };
        let has = |word: &str| mount.options.iter().any(|option| option == word);
        if mount.options.iter().any(|o| o.starts_with("uidmap=") || o.starts_with("gidmap=")) {
            return Err(unknown());
        }
        let layers = match mount.kind.as_str() {
            "overlay" => {
                if self.write {
                    let own = mount.options.iter().filter(|option| is_own(option));
                    return Ok(Rootfs::Overlay(own.cloned().collect()));
                }
                let value = |name: &str| mount.options.iter().find_map(|o| o.strip_prefix(name));
                let both = [value("upperdir="), value("lowerdir=")];
                both.into_iter().flatten().collect::<Vec<_>>().join(":")
            }
            "bind" | "rbind" => mount.source.clone(),
            _ if has("bind") || has("rbind") => mount.source.clone(),
            _ => return Err(unknown()),
        };
        if mount.kind != "overlay" && self.write {
            return Ok(Rootfs::Bind(mount.source.clone().into()));
        }
        let ours = ["lowerdir=", "upperdir=", "workdir="];
        let rest =
            |option: &&String| is_own(option) && !ours.iter().any(|own| option.starts_with(*own));
        let overlay = mount.kind == "overlay";
        let mut options: Vec<String> =
            mount.options.iter().filter(|_| overlay).filter(rest).cloned().collect();
        // Its own changes become the uppermost of the layers that are only read.
        let top = layers.split(':').next().unwrap_or_default().into();
        options.push(format!("lowerdir={layers}"));
        options.push(format!("upperdir={}", self.at.join("upper").display()));
        options.push(format!("workdir={}", self.at.join("work").display()));
        Ok(Rootfs::Below { options, top })
    }
}

/// How a root file system is mounted.
#[derive(Debug, PartialEq, Eq)]
enum Rootfs {
    Overlay(Vec<String>),
    /// An overlay whose upper directory is in memory.
    Below {
        options: Vec<String>,
        top: PathBuf,
    },
    Bind(PathBuf),
}

/// Gives a directory the owner and the mode of another.
fn resemble(directory: &Path, other: &Path) -> io::Result<()> {
    let meta = fs::metadata(other)?;
    chown(directory, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(directory, meta.permissions())
}

/// What is at a place in a root; made when nothing is, as whoever starts the container does.
fn place(walker: &Walker, target: &str, directory: bool) -> Result<Node, Errno> {
    let mode = Mode::from_raw_mode(0o755);
    let target = gantry_core::paths::clean(target);
    let (Some(above), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Errno::INVAL);
    };
    let above = walker.directories(walker.root(), bytes_of(above.as_os_str()), mode)?;
    let (dir, name) = match walker.walk(&above, bytes_of(name), true)? {
        Found::Directory(dir) => return Node::at(&*dir, c"."),
        Found::Other { node, .. } => return Ok(node),
        Found::Nothing { dir, name } => (dir, name),
    };
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    if directory {
        mkdirat(&*dir, &name, mode)?;
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&*dir, &name, flags, Mode::from_raw_mode(0o644))?;
    }
    Node::at(&*dir, &name)
}

fn bytes_of(text: &OsStr) -> &[u8] {
    text.as_bytes()
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(|err| Error::io(format!("make directory {}", path.display()), err))
}

fn mount_error(target: &str, err: Errno) -> Error {
    Error::io(format!("mount {target} of a container that does not run"), err.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_a_specification() {
        let of = |kind: &str, source: &str, options: &[&str]| {
            Part::of(&json!({
                "destination": "/in", "type": kind, "source": source, "options": options,
            }))
        };
        let bound = of("bind", "/host", &["rbind", "rro", "rprivate", "gantry.subpath=a"]);
        let bound = bound.unwrap();
        assert_eq!((bound.source.as_path(), bound.target.as_str()), (Path::new("/host"), "/in"));
        assert!(bound.recursive && bound.read_only && bound.subpath == "a");
        assert!(!of("none", "/host", &["bind"]).unwrap().recursive);
        let view = of("overlay", "overlay", &["index=off", "lowerdir=/a:/b", "ro"]).unwrap();
        assert_eq!(view.overlay.unwrap(), ["index=off", "lowerdir=/a:/b"]);
        for (kind, source, options) in [
            ("proc", "proc", &["nosuid"][..]),
            ("tmpfs", "tmpfs", &[]),
            ("bind", "relative", &["bind"]),
        ] {
            assert_eq!(of(kind, source, options), None, "{kind} {source}");
        }
        assert_eq!(Part::of(&Value::Null), None);
        let memory = json!({
            "destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": [],
        });
        assert_eq!(Part::of(&memory), None);
    }

    fn plan(kind: &str, options: &[&str], write: bool) -> Plan {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        let mount =
            Mount { kind: kind.into(), source: "/s".into(), target: String::new(), options };
        let rootfs = vec![mount];
        Plan { at: "/run/copy".into(), rootfs, parts: Vec::new(), write, read_only: false }
    }

    #[test]
    fn root_file_systems_to_be_read_keep_their_state() {
        let options = ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b", "rw"];
        let written = plan("overlay", &options, true).rootfs().unwrap();
        let own = options[..4].iter().map(|o| (*o).to_owned()).collect();
        assert_eq!(written, Rootfs::Overlay(own));
        let read = |kind: &str, options: &[&str]| match plan(kind, options, false).rootfs() {
            Ok(Rootfs::Below { options, top }) => (options, top),
            other => panic!("{other:?}"),
        };
        let ours = ["upperdir=/run/copy/upper", "workdir=/run/copy/work"];
        let (made, top) = read("overlay", &options);
        assert_eq!(made, ["index=off", "lowerdir=/u:/a:/b", ours[0], ours[1]]);
        assert_eq!(top, Path::new("/u"));
        let (made, top) = read("bind", &["rbind", "rw"]);
        assert_eq!(made, ["lowerdir=/s", ours[0], ours[1]]);
        assert_eq!(top, Path::new("/s"));
        let bound = plan("bind", &["rbind"], true).rootfs().unwrap();
        assert_eq!(bound, Rootfs::Bind("/s".into()));
        for (kind, options) in [("erofs", &[][..]), ("overlay", &["uidmap=0:1:2"])] {
            let err = plan(kind, options, false).rootfs().unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::Unimplemented);
        }
    }

    #[test]
    fn what_is_mounted_is_seen_by_one_thread() {
        let top = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = top.path().join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        let (root, volume, at) = (dir("root"), dir("volume"), dir("at"));
        fs::write(volume.join("kept"), "v").unwrap();
        fs::write(root.join("file"), "r").unwrap();
        let made = |write: bool, read_only: bool| Plan {
            at: at.clone(),
            rootfs: vec![Mount {
                kind: "bind".into(),
                source: root.display().to_string(),
                target: String::new(),
                options: vec!["rbind".into(), "rw".into()],
            }],
            parts: vec![Part {
                recursive: true,
                read_only,
                source: volume.clone(),
                target: "/data/vol".into(),
                ..Part::default()
            }],
            write,
            read_only,
        };
        let within = |plan: Plan, work: fn(&Path) -> bool| {
            std::thread::spawn(move || {
                let (_root, _mounted) = plan.mount().unwrap();
                work(&plan.at.join("root"))
            })
            .join()
            .unwrap()
        };
        let sees = |at: &Path| {
            fs::write(at.join("lost"), "").unwrap();
            at.join("data/vol/kept").exists() && at.join("file").exists()
        };
        assert!(within(made(false, true), sees));
        assert!(!root.join("data").exists() && !root.join("lost").exists());
        let refused = |at: &Path| {
            let write = |path: &str| fs::write(at.join(path), "").is_err();
            write("new") && write("data/vol/new")
        };
        assert!(within(made(true, true), refused));
        let writes = |at: &Path| fs::write(at.join("data/vol/new"), "").is_ok();
        assert!(within(made(true, false), writes));
        assert!(volume.join("new").exists());
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "nothing is seen here");
    }
}
