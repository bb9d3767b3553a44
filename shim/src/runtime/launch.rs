//! What a worker does: prepares, calls libcontainer, reports.

use super::cgroup::{Group, Host};
use super::executor::{MountWork, Run, decode_failure};
use super::mounts::{self, CgroupView};
use super::seccomp::{self, Filter};
use super::types::{Error, RootfsMount};
use super::worker::Answer;
use super::{apifs, binds, cwd, faults, hooks, nodes, procfs, rootfs, spec, sys, terminals, users};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Name of the directory in the bundle that holds libcontainer's files and ours.
pub(crate) const STATE_DIR: &str = ".libcontainer";

/// What is common to the work of creating a container and of executing in one.
pub(crate) struct Work<'a> {
    pub(crate) host: &'a Host,
    pub(crate) group: &'a Group,
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    /// Where compiled seccomp filters are kept.
    pub(crate) cache: &'a Path,
    /// The three streams; a terminal when there are none.
    pub(crate) streams: Option<[OwnedFd; 3]>,
    /// Write end of the error pipe.
    pub(crate) errors: OwnedFd,
    /// Read end of the pipe by which init is told to go on.
    pub(crate) orders: Option<OwnedFd>,
    /// Whether the worker was born in the unified cgroup.
    pub(crate) born: bool,
    /// Keep the session keyring.
    pub(crate) keyring: bool,
    /// A network namespace that is ready for use.
    pub(crate) network: Option<OwnedFd>,
}

/// What processes begin with, whatever the daemon runs with.
pub(crate) const UMASK: u32 = 0o022;

type Outcome = Result<(Answer, Option<OwnedFd>), Error>;

impl Work<'_> {
    fn state(&self) -> PathBuf {
        self.bundle.join(STATE_DIR)
    }

    /// Creates the container.
    pub(crate) fn create(self, mut spec: Spec, mounted: &[RootfsMount], no_pivot: bool) -> Outcome {
        sys::umask(UMASK);
        let view = CgroupView::take(&spec, self.host, self.group)?;
        let shared = propagates(&spec);
        let clones = binds::with_cgroups(&spec, shared)?;
        let cgroup = mounts::private_tree(self.host, self.group, self.bundle, shared)?;
        let root = self.root_path(&spec)?;
        let stage = self.state().join("stage");
        rootfs::mount(&root, mounted, &stage)?;
        // Not before: the container's rules let nobody have the root's device.
        self.host.join(self.group, self.born)?;
        let handle = mounts::root_handle(&root)?;
        mounts::check_root(handle.as_fd())?;
        let mut process = spec.process().clone().unwrap_or_default();
        users::resolve(&mut process, handle.as_fd())?;
        users::add_groups(&mut process, &spec, handle.as_fd())?;
        users::own_streams(self.streams.as_ref(), &process, &spec);
        self.keyring();
        oom_score(&process);
        let cwd = cwd::make(&spec, handle.as_fd(), process.cwd());
        let env = process.env().clone().unwrap_or_default();
        process.set_terminal(Some(self.streams.is_none()));
        spec.set_process(Some(process));
        join_foreign(&mut spec)?;
        let mut work = mounts::prepare(&mut spec, view, &clones, handle.as_fd(), &stage)?;
        drop((handle, clones));
        let filter = self.filter(&spec)?;
        work.extend(apifs::mount(&mut spec, &root, self.network.as_ref())?);
        // First: later on parts of it are hidden on purpose.
        if let Some(look) = procfs::look(&spec) {
            work.insert(0, look);
        }
        nodes::make(&mut spec, &root)?;
        // Unless it was made just now.
        let loopback = has_new_network(&spec);
        cwd?.mounted(&spec, &root)?;
        let hooked = hooks::at_start(&spec);
        let adapted = spec::for_libcontainer(spec, &root, cgroup)?;
        self.show_config(&adapted.config)?;
        let args = adapted.process.args().clone().unwrap_or_default();
        let (run, console) = self.executor(&args, &env, filter, work, &adapted.process)?;
        let (bundle, id) = (self.bundle.to_path_buf(), self.id.to_owned());
        let state = self.state().join(&id);
        let builder = self.builder(run, console.as_ref())?;
        let built = faults::explained(|| {
            builder
                .as_init(bundle)
                .with_systemd(false)
                .with_detach(true)
                .with_no_pivot(no_pivot)
                .as_sibling(true)
                .build()
        });
        let container =
            built.map_err(|text| Error::Failed(format!("create container {id}: {text}")))?;
        if !hooked {
            // It does what is left to do, and waits for its orders.
            wake(&state).map_err(|e| Error::io(format!("let container {id} go on"), e))?;
        }
        let pid = container.pid().map_or(0, |p| p.as_raw());
        if loopback {
            loopback_up(pid)?;
        }
        answer(pid, console)
    }

    /// Executes a process in the container whose init has the pid `init`.
    pub(crate) fn exec(mut self, mut process: Process, init: i32) -> Outcome {
        sys::umask(UMASK);
        let spec = spec::load(self.bundle)?;
        inherit(&mut process, &spec);
        cwd::clean(&mut process);
        spec::check_process(&process)?;
        self.host.join(self.group, self.born)?;
        let root_path = PathBuf::from(format!("/proc/{init}/root"));
        let root = mounts::root_handle(&root_path)?;
        users::resolve(&mut process, root.as_fd())?;
        users::add_groups(&mut process, &spec, root.as_fd())?;
        users::own_streams(self.streams.as_ref(), &process, &spec);
        cwd::reach(root.as_fd(), process.cwd())?;
        let mut terminal = None;
        if self.streams.is_none()
            && let Some((master, sides)) = terminals::open(root.as_fd(), &process)?
        {
            (self.streams, terminal) = (Some(sides), Some(master));
        }
        drop(root);
        self.keyring();
        oom_score(&process);
        process.set_terminal(Some(self.streams.is_none()));
        let filter = self.filter(&spec)?;
        let cgroup = mounts::private_tree(self.host, self.group, self.bundle, false)?;
        let args = process.args().clone().unwrap_or_default();
        let env = process.env().clone().unwrap_or_default();
        let user_namespace = spec::has_userns(&spec);
        let adapted = spec::for_libcontainer(spec.clone(), &self.root_path(&spec)?, cgroup)?;
        self.show_config(&adapted.config)?;
        let admin = filter.is_some() && process.no_new_privileges() != Some(true);
        let executed = process.clone();
        spec::adapt_process(&mut process, admin);
        let file = self.process_file(&process)?;
        let work = terminal.iter().map(|_| MountWork::Control).collect();
        let (run, console) = self.executor(&args, &env, filter, work, &executed)?;
        let id = self.id.to_owned();
        if user_namespace {
            // libcontainer joins every namespace of the container but this one.
            join_user_namespace(init)?;
        }
        // libcontainer names a socket by it: a fork of the shim has the shim's state.
        fastrand::seed(u64::from(std::process::id()));
        let builder = self.builder(run, console.as_ref())?;
        let built = faults::explained(|| {
            builder.as_tenant().with_detach(true).as_sibling(true).with_process(Some(&file)).build()
        });
        // It has been read; nothing else is to be known from it.
        let _ = std::fs::remove_file(&file);
        let pid =
            built.map_err(|text| Error::Failed(format!("execute in container {id}: {text}")))?;
        let (answer, master) = answer(pid.as_raw(), console)?;
        Ok((answer, master.or(terminal)))
    }

    fn root_path(&self, spec: &Spec) -> Result<PathBuf, Error> {
        let given = spec.root().as_ref().map_or(Path::new("rootfs"), |r| r.path());
        let path = self.bundle.join(given);
        path.canonicalize()
            .map_err(|e| Error::io(format!("find the root filesystem {}", path.display()), e))
    }

    fn filter(&self, spec: &Spec) -> Result<Option<Filter>, Error> {
        let section = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
        section.map(|s| seccomp::filter(s, self.cache)).transpose()
    }

    /// libcontainer reads the bundle's config.json: in this mount namespace it is the adapted one.
    fn show_config(&self, config: &[u8]) -> Result<(), Error> {
        // A file of this worker's own: others may be at work in the same container.
        let path = self.state().join(format!("config-{}.json", std::process::id()));
        std::fs::write(&path, config)
            .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
        let (from, over) = (path.to_string_lossy(), self.bundle.join("config.json"));
        let shown = sys::mount(&from, &over, "", libc::MS_BIND, "")
            .map_err(|e| Error::io(format!("cover {} with the adapted one", over.display()), e));
        // The mount keeps it.
        let _ = std::fs::remove_file(&path);
        shown
    }

    fn process_file(&self, process: &Process) -> Result<PathBuf, Error> {
        let path = self.state().join(format!("process-{}.json", std::process::id()));
        let json = serde_json::to_vec(process)
            .map_err(|e| Error::Failed(format!("write the process: {e}")))?;
        std::fs::write(&path, json)
            .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
        Ok(path)
    }

    fn executor(
        &self,
        args: &[String],
        env: &[String],
        filter: Option<Filter>,
        work: Vec<MountWork>,
        process: &Process,
    ) -> Result<(Run, Option<Console>), Error> {
        let orders = self.orders.as_ref().map(AsFd::as_fd);
        let files = spec::few_files(process);
        let run = Run::new(args, env, filter, work, files, self.errors.as_fd(), orders)
            .map_err(|e| Error::Invalid(format!("process.args or process.env: {e}")))?;
        let console = match self.streams {
            Some(_) => None,
            None => Some(
                Console::listen(&self.state(), process)
                    .map_err(|e| Error::io("make the console socket", e))?,
            ),
        };
        Ok((run, console))
    }

    fn builder(self, run: Run, console: Option<&Console>) -> Result<ContainerBuilder, Error> {
        let failed = |e: LibcontainerError| Error::Invalid(format!("container {}: {e}", self.id));
        let id = self.id.to_owned();
        let builder = ContainerBuilder::new(id, SyscallType::default())
            .with_root_path(self.bundle.join(STATE_DIR))
            .map_err(failed)?
            .validate_id()
            .map_err(failed)?
            .with_executor(run);
        // The descriptors stay open in the children: they close when they execute.
        std::mem::forget(self.errors);
        std::mem::forget(self.orders);
        Ok(match (self.streams, console) {
            (Some([stdin, stdout, stderr]), _) => {
                builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr)
            }
            (None, Some(console)) => builder.with_console_socket(Some(&console.path)),
            (None, None) => builder,
        })
    }

    /// A session keyring of the container's own, so that it does not see the runtime's keys.
    fn keyring(&self) {
        const JOIN_SESSION_KEYRING: libc::c_int = 1;
        if self.keyring {
            return;
        }
        let Ok(name) = sys::cstr(format!("_ses.{}", self.id)) else { return };
        // SAFETY: the name ends with NUL.
        if unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) } < 0 {
            tracing::warn!(
                "container {}: no session keyring: {}",
                self.id,
                io::Error::last_os_error()
            );
        }
    }
}

/// Whether mounts of the container are to reach the host.
fn propagates(spec: &Spec) -> bool {
    let name = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref());
    matches!(name, Some("shared" | "rshared"))
}

fn has_new_network(spec: &Spec) -> bool {
    spec::namespaces(spec)
        .iter()
        .any(|n| n.typ() == LinuxNamespaceType::Network && n.path().is_none())
}

/// An exec'd process gets what its container has where it says nothing itself.
fn inherit(process: &mut Process, spec: &Spec) {
    let Some(own) = spec.process() else { return };
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(|r| r.is_empty()) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.apparmor_profile().as_ref().is_none_or(|p| p.is_empty()) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(own.no_new_privileges());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
}

/// Sets the score for this process, from which the container inherits it.
/// Lowering needs CAP_SYS_RESOURCE; without it the container runs all the same.
fn oom_score(process: &Process) {
    let Some(score) = process.oom_score_adj() else { return };
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!("process.oomScoreAdj {score} is not set: {e}");
    }
}

/// With a user namespace of the container's own, namespaces that belong to the
/// host can only be joined before it is entered: libcontainer does it after.
fn join_foreign(spec: &mut Spec) -> Result<(), Error> {
    let own_users = spec::namespaces(spec)
        .iter()
        .any(|n| n.typ() == LinuxNamespaceType::User && n.path().is_none());
    if !own_users {
        return Ok(());
    }
    let kinds = [
        (LinuxNamespaceType::Network, libc::CLONE_NEWNET),
        (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC),
    ];
    let Some(all) = spec.linux_mut().as_mut().and_then(|l| l.namespaces_mut().as_mut()) else {
        return Ok(());
    };
    for (kind, flag) in kinds {
        let Some(path) = all.iter().find(|n| n.typ() == kind).and_then(|n| n.path().clone()) else {
            continue;
        };
        join(&path, kind, flag)?;
        all.retain(|n| n.typ() != kind);
    }
    Ok(())
}

/// Enters the namespace that a file stands for.
pub(crate) fn join(path: &Path, kind: LinuxNamespaceType, flag: i32) -> Result<(), Error> {
    std::fs::File::open(path)
        .and_then(|f| sys::setns(f.as_fd(), flag))
        .map_err(|e| Error::io(format!("join the {kind} namespace {}", path.display()), e))
}

fn join_user_namespace(init: i32) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/{init}/ns/user"));
    join(&path, LinuxNamespaceType::User, libc::CLONE_NEWUSER)
}

/// Brings `lo` up in the new network namespace of the process.
fn loopback_up(pid: i32) -> Result<(), Error> {
    std::fs::File::open(format!("/proc/{pid}/ns/net"))
        .and_then(|ns| sys::setns(ns.as_fd(), libc::CLONE_NEWNET))
        .map_err(|e| Error::io("enter the container's network namespace", e))?;
    own_loopback_up()
}

/// Tells libcontainer's part of a container's init, whose files are in `state`, to go on.
pub(crate) fn wake(state: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let dir = std::fs::File::open(state)?;
    // A socket's path is limited to 108 bytes, a bundle's is not.
    UnixStream::connect(format!("/proc/self/fd/{}/notify.sock", dir.as_raw_fd())).map(drop)
}

/// Brings `lo` up in this process' network namespace.
pub(crate) fn own_loopback_up() -> Result<(), Error> {
    let what = |e| Error::io("bring the loopback device up", e);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(what)?;
    // SAFETY: ifreq is plain data, all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    use std::os::fd::AsRawFd;
    // SAFETY: `request` is a live ifreq that names a device and its flags.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } < 0 {
        return Err(what(io::Error::last_os_error()));
    }
    Ok(())
}

fn answer(pid: i32, console: Option<Console>) -> Outcome {
    let master = console
        .map(Console::master)
        .transpose()
        .map_err(|e| Error::io("receive the terminal", e))?;
    Ok((Answer { pid, start_time: sys::start_time(pid).unwrap_or(0) }, master))
}

/// The socket on which libcontainer hands over the terminal's master side.
struct Console {
    path: PathBuf,
    listener: UnixListener,
    size: Option<(u16, u16)>,
}

impl Console {
    fn listen(state: &Path, process: &Process) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let name = format!("console-{}.sock", std::process::id());
        let dir = std::fs::File::open(state)?;
        // A socket's path is limited to 108 bytes, a bundle's is not.
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
        Ok(Self { path: state.join(name), listener, size: terminals::size(process) })
    }

    fn master(self) -> io::Result<OwnedFd> {
        let _ = std::fs::remove_file(&self.path);
        let (stream, _) = self.listener.accept()?;
        let (_, fd) = sys::receive(stream.as_fd(), &mut [0; 4096])?;
        let master = fd.ok_or_else(|| io::Error::other("no descriptor came with the message"))?;
        if let Some(size) = self.size {
            sys::resize(master.as_fd(), size);
        }
        Ok(master)
    }
}

/// The system's text for an error, without its number, as tools print it.
pub(crate) fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    let short = text.find(" (os error").map_or(text.as_str(), |i| &text[..i]);
    let mut chars = short.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// What a message of the error pipe means, as an error for the user.
pub(crate) fn failure(program: &str, message: &[u8]) -> Option<Error> {
    let (step, errno) = decode_failure(message)?;
    if step != super::executor::STEP_EXECVE {
        let e = io::Error::from_raw_os_error(errno);
        return Some(Error::Failed(format!("load the seccomp filter: {}", plain(&e))));
    }
    let text = plain(&io::Error::from_raw_os_error(errno));
    let message = match errno {
        libc::ENOENT if !program.contains('/') => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        libc::ENOENT => format!("exec: {program:?}: stat {program}: {text}"),
        _ => format!("exec: {program:?}: {text}"),
    };
    Some(Error::Exec { errno, message })
}
