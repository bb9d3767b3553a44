//! Mounts made by the worker, in a mount namespace of its own: what libcontainer
//! can't mount by itself.

use super::binds;
use super::cgroup::{Group, Host, Kind};
use super::executor::MountWork;
use super::spec::{is_cgroup, namespaces};
use super::sys;
use super::types::{Error, RootfsMount};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Options that set how mounts are propagated.
const PROPAGATIONS: [(&str, u64, bool); 8] = [
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE, true),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE, true),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED, true),
    ("unbindable", libc::MS_UNBINDABLE, false),
    ("runbindable", libc::MS_UNBINDABLE, true),
];

/// Option of ours: the source is in the mount namespace that this file stands for.
const NAMESPACE: &str = "gantry.namespace=";
/// Option of ours: the path below the source that is meant.
const SUBPATH: &str = "gantry.subpath=";

/// Opens a directory as a handle to resolve paths under.
pub(crate) fn root_handle(path: &Path) -> Result<OwnedFd, Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened
        .map(OwnedFd::from)
        .map_err(|e| Error::io(format!("open the root filesystem {}", path.display()), e))
}

/// Moves the worker into a mount namespace of its own, in which libcontainer sees no
/// cgroups but perhaps the container's own: at the path that comes back. `shared`: the
/// container's mounts are to reach the host, so only the places that change here are cut off
/// from it.
pub(crate) fn private_tree(
    host: &Host,
    group: &Group,
    bundle: &Path,
    shared: bool,
) -> Result<Option<&'static Path>, Error> {
    sys::unshare(libc::CLONE_NEWNS).map_err(|e| Error::io("make a mount namespace", e))?;
    let set = |at: &Path, flags: u64| {
        sys::mount("", at, "", flags, "")
            .map_err(|e| Error::io(format!("set the propagation of {}", at.display()), e))
    };
    if shared {
        set(&mount_point(bundle)?, libc::MS_PRIVATE)?;
        set(&mount_point(Path::new("/sys/fs/cgroup/.."))?, libc::MS_PRIVATE | libc::MS_REC)?;
    } else {
        set(Path::new("/"), libc::MS_SLAVE | libc::MS_REC)?;
    }
    host.cover(group)
}

/// The mount point that a path lies on.
fn mount_point(path: &Path) -> Result<PathBuf, Error> {
    let what = |e| Error::io(format!("find the mount point of {}", path.display()), e);
    let mut at = path.canonicalize().map_err(what)?;
    let root_of = |p: &Path| -> io::Result<bool> {
        let c = sys::cpath(p)?;
        // SAFETY: statx is plain data, all zeroes is valid.
        let mut s: libc::statx = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with NUL and `s` is a live statx.
        if unsafe { libc::statx(libc::AT_FDCWD, c.as_ptr(), 0, libc::STATX_TYPE, &mut s) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(s.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
    };
    while !root_of(&at).map_err(what)? && at.pop() {}
    Ok(at)
}

/// Refuses a root filesystem whose /dev, /proc or /sys is a link: device nodes
/// and mounts would land where it points.
pub(crate) fn check_root(root: BorrowedFd<'_>) -> Result<(), Error> {
    for name in [c"dev", c"proc", c"sys"] {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        if let Ok(fd) = sys::openat2(root, name, flags, 0, 0)
            && std::fs::File::from(fd).metadata().is_ok_and(|m| m.file_type().is_symlink())
        {
            return Err(Error::Invalid(format!(
                "/{} in the root filesystem is a symbolic link; it must be a directory",
                name.to_string_lossy()
            )));
        }
    }
    Ok(())
}

/// The container's view of its cgroups: clones of its own directories, taken
/// before the worker leaves the host's mount namespace.
pub(crate) struct CgroupView {
    clones: Vec<(String, OwnedFd)>,
}

impl CgroupView {
    /// Clones what a spec with a cgroup mount needs; nothing for one without.
    pub(crate) fn take(spec: &Spec, host: &Host, group: &Group) -> Result<Self, Error> {
        let mut clones = Vec::new();
        if spec.mounts().iter().flatten().any(is_cgroup) {
            let cwd = root_handle(Path::new("/"))?;
            let private = namespaces(spec).iter().any(|n| n.typ() == LinuxNamespaceType::Cgroup);
            // v2 without a namespace of its own: paths are the host's, and so is the tree.
            let own = private || !host.is_v2();
            for h in host.hierarchies.iter().filter(|h| !host.is_v2() || h.kind == Kind::Unified) {
                let path = match own {
                    true => h.mount_point.join(group.path()),
                    false => h.mount_point.clone(),
                };
                let what = |e| Error::io(format!("clone the mount of {}", path.display()), e);
                let c = sys::cpath(&path).map_err(what)?;
                clones.push((
                    h.name.clone(),
                    sys::clone_mount(cwd.as_fd(), &c, false).map_err(what)?,
                ));
            }
        }
        Ok(Self { clones })
    }

    /// What the executor has to do for the cgroup mount `m`.
    fn work(self, m: &Mount) -> io::Result<MountWork> {
        let read_only = m.options().iter().flatten().any(|o| o == "ro");
        let hard = sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;
        let attributes = hard | if read_only { sys::ATTR_RDONLY } else { 0 };
        let at = sys::cpath(m.destination())?;
        let mut clones = self.clones;
        if let [(name, _)] = clones.as_slice()
            && name.is_empty()
        {
            let base = clones.remove(0).1;
            return Ok(MountWork::Attach { at, base, below: Vec::new(), attributes });
        }
        let options = [("source", "tmpfs"), ("mode", "755"), ("size", "64k")];
        let base = sys::new_mount(c"tmpfs", &options, 0)?;
        let mut below = Vec::new();
        for (name, clone) in clones {
            let c = sys::cstr(&name)?;
            sys::mkdirat(base.as_fd(), &c, 0o755)?;
            // `cpu,cpuacct` is found under each of its names too.
            for single in name.split(',').filter(|s| *s != name) {
                let single = sys::cstr(single)?;
                // SAFETY: both texts end with NUL and the descriptor is open.
                unsafe {
                    use std::os::fd::AsRawFd;
                    libc::symlinkat(c.as_ptr(), base.as_fd().as_raw_fd(), single.as_ptr());
                }
            }
            below.push((c, clone));
        }
        Ok(MountWork::Attach { at, base, below, attributes })
    }
}

/// What has to be done about the spec's mounts outside libcontainer: some are
/// made ready under `stage` and become plain binds in the spec, the rest is
/// left to the executor. `clones` take the places of the sources of the mounts with their numbers.
pub(crate) fn prepare(
    spec: &mut Spec,
    view: CgroupView,
    clones: &[(usize, OwnedFd)],
    root: BorrowedFd<'_>,
    stage: &Path,
) -> Result<Vec<MountWork>, Error> {
    let linux = spec.linux().clone().unwrap_or_default();
    let (stage, view) = (Stage::new(stage), Some(view));
    let mut preparation =
        Preparation { linux, view, root, stage, work: Vec::new(), terminals: None };
    for (number, m) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        if is_cgroup(m) {
            preparation.cgroups(m)?;
            continue;
        }
        if let Some((_, clone)) = clones.iter().find(|clone| clone.0 == number) {
            let at = preparation.stage.put(clone).map_err(|e| unprepared(m, e))?;
            m.set_source(Some(at));
        }
        preparation.mount(m)?;
    }
    let Preparation { work, terminals, .. } = preparation;
    if let Some(terminals) = terminals {
        spec.mounts_mut().get_or_insert_default().push(terminals);
        if let Some(devices) = spec.linux_mut().as_mut().and_then(|l| l.devices_mut().as_mut()) {
            // Nobody would see them.
            devices.retain(|device| !device.path().starts_with(binds::DEV));
        }
    }
    Ok(work)
}

/// The state of [`prepare`].
struct Preparation<'a> {
    linux: Linux,
    view: Option<CgroupView>,
    root: BorrowedFd<'a>,
    stage: Stage<'a>,
    work: Vec<MountWork>,
    /// What a bind of /dev has brought to mount beside it.
    terminals: Option<Mount>,
}

impl Preparation<'_> {
    fn cgroups(&mut self, m: &Mount) -> Result<(), Error> {
        if let Some(view) = self.view.take() {
            self.work.push(view.work(m).map_err(|e| unprepared(m, e))?);
        }
        Ok(())
    }

    fn mount(&mut self, m: &mut Mount) -> Result<(), Error> {
        if m.source().is_none() {
            // A name only, which libcontainer insists on.
            m.set_source(m.typ().as_ref().map(PathBuf::from));
        }
        let mut options = m.options().clone().unwrap_or_default();
        let mut bind = options.iter().any(|o| o == "bind" || o == "rbind")
            || m.typ().as_deref() == Some("bind");
        let below = options.iter().find_map(|o| o.strip_prefix(SUBPATH)).map(str::to_owned);
        options.retain(|o| !o.starts_with(SUBPATH));
        if m.typ().as_deref() == Some("overlay") {
            self.overlay(m, &mut options)?;
            bind = true;
        }
        let namespace = options.iter().find_map(|o| o.strip_prefix(NAMESPACE)).map(str::to_owned);
        if let Some(namespace) = namespace {
            options.retain(|o| !o.starts_with(NAMESPACE));
            self.elsewhere(m, Path::new(&namespace))?;
        }
        if let Some(below) = below {
            self.below(m, &below)?;
        }
        if bind && !m.source().as_ref().is_some_and(|s| s.exists()) {
            return Err(Error::NotFound(format!(
                "mount {} for {}: there is no such file or directory",
                source(m),
                m.destination().display()
            )));
        }
        if bind
            && (wants_idmap(&options) || m.uid_mappings().is_some() || m.gid_mappings().is_some())
        {
            let at = self.stage.place(m).map_err(|e| unprepared(m, e))?;
            id_mapped(m, &options, &self.linux, &at)?.map_err(|e| unprepared(m, e))?;
            m.set_source(Some(at)).set_uid_mappings(None).set_gid_mappings(None);
        } else if wants_idmap(&options) {
            return Err(Error::Invalid(format!(
                "mount {}: idmap is for bind mounts",
                m.destination().display()
            )));
        } else if options.iter().any(|o| o == "tmpcopyup") {
            return self.copy_up(m, &options);
        } else if m.typ().as_deref() == Some("tmpfs")
            && !options.iter().any(|o| o.starts_with("mode="))
        {
            options.push(format!("mode={:o}", self.mode_at(m.destination())));
        }
        let dev = bind && m.destination() == Path::new(binds::DEV);
        let over = dev || (self.terminals.is_some() && m.destination().starts_with(binds::DEV));
        let place = self.work.len();
        self.propagate(m, &options, bind)?;
        if over {
            self.work.insert(place, binds::over_dev(m)?);
        }
        if dev {
            self.terminals = Some(binds::stand_in(m));
        }
        Ok(())
    }

    /// The mode of what is at a place, which memory that is mounted there takes on; where
    /// nothing is, the kernel's choice for memory.
    fn mode_at(&self, place: &Path) -> u32 {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let found = sys::cpath(place)
            .and_then(|place| sys::openat2(self.root, &place, flags, 0, sys::IN_ROOT))
            .and_then(|found| std::fs::File::from(found).metadata());
        found.map_or(0o1777, |found| found.mode() & 0o7777)
    }

    /// An overlay becomes a bind of one: it may have more layers than fit into mount(2)'s page.
    fn overlay(&mut self, m: &mut Mount, options: &mut Vec<String>) -> Result<(), Error> {
        let at = self.stage.place_directory().map_err(|e| unprepared(m, e))?;
        let own = |o: &&String| propagation(o).is_none();
        let made = RootfsMount {
            kind: "overlay".to_owned(),
            source: source(m),
            target: String::new(),
            options: options.iter().filter(own).cloned().collect(),
        };
        super::rootfs::mount_at(&made, &at, &mut self.stage)?;
        let plain = |o: &String| matches!(o.as_str(), "ro" | "nosuid" | "nodev" | "noexec");
        options.retain(|o| plain(o) || propagation(o).is_some());
        options.push("bind".to_owned());
        m.set_source(Some(at)).set_typ(Some("bind".into()));
        Ok(())
    }

    /// The memory that another container has mounted at the source takes its place.
    fn elsewhere(&mut self, m: &mut Mount, namespace: &Path) -> Result<(), Error> {
        let mut work = || -> io::Result<PathBuf> {
            let mount = memory_of(namespace, m.source().as_deref().unwrap_or(Path::new("")))?;
            self.stage.put(&mount)
        };
        let at =
            work().map_err(|e| Error::io(format!("find {} in another container", source(m)), e))?;
        m.set_source(Some(at));
        Ok(())
    }

    /// What lies below the mount's source takes its place. It is looked up only now, and stays
    /// what was found, whoever else writes to the source.
    fn below(&mut self, m: &mut Mount, path: &str) -> Result<(), Error> {
        let mut work = || -> io::Result<PathBuf> {
            let source = m.source().clone().unwrap_or_default();
            let top = std::fs::OpenOptions::new().read(true).open(source)?;
            let found =
                sys::openat2(top.as_fd(), &sys::cstr(path)?, libc::O_PATH, 0, sys::BENEATH)?;
            let mount = sys::clone_mount(found.as_fd(), c"", true)?;
            self.stage.put(&mount)
        };
        let at = work().map_err(|e| {
            Error::io(
                format!("find {path:?} below {} for {}", source(m), m.destination().display()),
                e,
            )
        })?;
        m.set_source(Some(at));
        Ok(())
    }

    /// A tmpfs with what the image has at its place becomes a bind of one.
    fn copy_up(&mut self, m: &mut Mount, options: &[String]) -> Result<(), Error> {
        let at = self.stage.place_directory().map_err(|e| unprepared(m, e))?;
        copied_up(m, options, self.root, &at).map_err(|e| unprepared(m, e))?;
        let plain = |o: &&String| matches!(o.as_str(), "ro" | "nosuid" | "nodev" | "noexec");
        let rest = options.iter().filter(plain).cloned().chain(["bind".to_owned()]).collect();
        m.set_source(Some(at)).set_typ(Some("bind".into())).set_options(Some(rest));
        Ok(())
    }

    /// Takes the propagation out of the options: the executor sets it.
    fn propagate(&mut self, m: &mut Mount, options: &[String], bind: bool) -> Result<(), Error> {
        let staged =
            |o: &&String| !matches!(o.as_str(), "idmap" | "ridmap") && propagation(o).is_none();
        let rest: Vec<String> = options.iter().filter(staged).cloned().collect();
        let asked = options.iter().filter_map(|o| propagation(o)).next_back();
        // A bind that says nothing gets and gives no mounts.
        let wanted = asked.or(bind.then_some((libc::MS_PRIVATE, true)));
        if let Some((kind, recursive)) = wanted.filter(|_| m.destination() != Path::new("/")) {
            let at = sys::cpath(m.destination()).map_err(|e| unprepared(m, e))?;
            self.work.push(MountWork::Propagation { at, kind, recursive });
        }
        m.set_options(Some(rest));
        Ok(())
    }
}

/// A clone of the tmpfs that is mounted at a path in another mount namespace. A mount can be
/// cloned in its own namespace only: this process, which has one thread, goes there and back.
fn memory_of(namespace: &Path, path: &Path) -> io::Result<OwnedFd> {
    let other = std::fs::File::open(namespace)?;
    let home = std::fs::File::open("/proc/self/ns/mnt")?;
    let (root, here) = (sys::open_path(Path::new("/"))?, sys::open_path(Path::new("."))?);
    sys::setns(other.as_fd(), libc::CLONE_NEWNS)?;
    let find = || -> io::Result<OwnedFd> {
        let top = sys::open_path(Path::new("/"))?;
        let below = sys::cpath(path.strip_prefix("/").unwrap_or(path))?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let found = sys::openat2(top.as_fd(), &below, flags, 0, sys::NO_LINKS)?;
        if !sys::is_tmpfs(found.as_fd())? {
            return Err(io::Error::other("it is no memory that can be shared"));
        }
        sys::clone_mount(found.as_fd(), c"", false)
    };
    let found = find();
    sys::setns(home.as_fd(), libc::CLONE_NEWNS)?;
    sys::change_root(root.as_fd(), here.as_fd())?;
    found
}

fn unprepared(m: &Mount, e: io::Error) -> Error {
    Error::io(format!("prepare the mount {} for {}", source(m), m.destination().display()), e)
}

fn source(m: &Mount) -> String {
    m.source().as_ref().map_or_else(String::new, |s| s.display().to_string())
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    PROPAGATIONS.iter().find(|p| p.0 == option).map(|p| (p.1, p.2))
}

fn wants_idmap(options: &[String]) -> bool {
    options.iter().any(|o| o == "idmap" || o == "ridmap")
}

/// A tmpfs with places for mounts that are made ready before they are put where they belong.
pub(crate) struct Stage<'a> {
    dir: &'a Path,
    ready: bool,
    count: usize,
}

impl<'a> Stage<'a> {
    /// The tmpfs comes with the first place.
    pub(crate) fn new(dir: &'a Path) -> Self {
        Self { dir, ready: false, count: 0 }
    }

    /// Takes the tmpfs away with all that is mounted in it.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.ready) { sys::detach(self.dir) } else { Ok(()) }
    }

    fn next(&mut self) -> io::Result<PathBuf> {
        if !self.ready {
            std::fs::create_dir_all(self.dir)?;
            sys::mount("tmpfs", self.dir, "tmpfs", 0, "mode=755")?;
            self.ready = true;
        }
        self.count += 1;
        Ok(self.dir.join(self.count.to_string()))
    }

    /// A new directory.
    pub(crate) fn place_directory(&mut self) -> io::Result<PathBuf> {
        let at = self.next()?;
        std::fs::create_dir(&at)?;
        Ok(at)
    }

    /// A place of the same kind as the mount's source.
    fn place(&mut self, m: &Mount) -> io::Result<PathBuf> {
        if m.source().as_ref().is_some_and(|s| s.is_file()) {
            return self.place_file();
        }
        self.place_directory()
    }

    /// Puts a detached mount on a new place, from which it can be bound.
    fn put(&mut self, mount: &OwnedFd) -> io::Result<PathBuf> {
        let directory = sys::is_directory(mount)?;
        let at = if directory { self.place_directory()? } else { self.place_file()? };
        sys::attach(mount.as_fd(), std::fs::File::open(&at)?.as_fd())?;
        Ok(at)
    }

    /// A new file.
    fn place_file(&mut self) -> io::Result<PathBuf> {
        let at = self.next()?;
        std::fs::File::create(&at)?;
        Ok(at)
    }
}

/// Clones a bind's source with its ids mapped, onto `at`.
fn id_mapped(
    m: &Mount,
    options: &[String],
    linux: &Linux,
    at: &Path,
) -> Result<io::Result<()>, Error> {
    let own = |mine: &Option<Vec<LinuxIdMapping>>, containers: &Option<Vec<LinuxIdMapping>>| {
        mine.clone().or_else(|| containers.clone()).filter(|m| !m.is_empty())
    };
    let uids = own(m.uid_mappings(), linux.uid_mappings());
    let gids = own(m.gid_mappings(), linux.gid_mappings());
    let (Some(uids), Some(gids)) = (uids, gids) else {
        return Err(Error::Invalid(format!(
            "mount {}: idmap needs uidMappings and gidMappings, of the mount or of the container",
            m.destination().display()
        )));
    };
    let recursive = options.iter().any(|o| o == "ridmap");
    let tree = options.iter().any(|o| o == "rbind");
    let work = || {
        let users = super::userns::with_mappings(&uids, &gids)?;
        let from = m.source().as_deref().unwrap_or(Path::new(""));
        let mount = shifted(from, users.as_fd(), tree, recursive)?;
        sys::attach(mount.as_fd(), std::fs::File::open(at)?.as_fd())
    };
    Ok(work())
}

/// A clone of what is mounted at `from`, below it too for a `tree`, with owners that are
/// shifted by a user namespace: of all of it if `recursive`.
pub(crate) fn shifted(
    from: &Path,
    users: BorrowedFd<'_>,
    tree: bool,
    recursive: bool,
) -> io::Result<OwnedFd> {
    let top = std::fs::File::open("/")?;
    let mount = sys::clone_mount(top.as_fd(), &sys::cpath(from)?, tree)?;
    let change = sys::MountChange { userns: Some(users), recursive, ..Default::default() };
    sys::set_mount(mount.as_fd(), &change)?;
    Ok(mount)
}

/// A tmpfs on `at` that begins with what the root filesystem has at the mount's place.
fn copied_up(m: &Mount, options: &[String], root: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let data: Vec<&str> = options.iter().map(String::as_str).filter(|o| o.contains('=')).collect();
    sys::mount("tmpfs", at, "tmpfs", 0, &data.join(","))?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    match sys::openat2(root, &sys::cpath(m.destination())?, flags, 0, sys::IN_ROOT) {
        Ok(from) => {
            use std::os::fd::AsRawFd;
            copy_tree(Path::new(&format!("/proc/self/fd/{}/.", from.as_raw_fd())), at, 0)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Copies files, directories and links with owner and mode.
fn copy_tree(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    if depth > 256 {
        return Err(io::Error::other("directories nested too deeply to be copied"));
    }
    let own = |at: &Path, m: &std::fs::Metadata| {
        std::os::unix::fs::lchown(at, Some(m.uid()), Some(m.gid()))
    };
    let top = std::fs::metadata(from)?;
    own(to, &top)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(top.mode() & 0o7777))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata()?;
        if meta.is_dir() {
            std::fs::create_dir(&target)?;
            copy_tree(&source, &target, depth + 1)?;
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
            own(&target, &meta)?;
        } else if meta.is_file() {
            std::fs::copy(&source, &target)?;
            own(&target, &meta)?;
            std::fs::set_permissions(
                &target,
                std::fs::Permissions::from_mode(meta.mode() & 0o7777),
            )?;
        }
    }
    Ok(())
}
