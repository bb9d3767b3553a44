//! What runs last in the container's process, in place of libcontainer's own
//! way to execute the program.

use super::seccomp::Filter;
use super::{procfs, sys};
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{PosixRlimit, Spec};
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

/// What init is told by to execute its program.
pub(crate) const GO: u8 = 1;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The steps that can fail in the container's process, as told through the error pipe.
pub(crate) const STEP_EXECVE: i32 = 0;
pub(crate) const STEP_SECCOMP: i32 = 1;

/// Something to be done in the container's mount namespace, after pivot_root.
pub(crate) enum MountWork {
    /// Put detached mounts on a directory: the first on it, the others on directories in the first.
    Attach { at: CString, base: OwnedFd, below: Vec<(CString, OwnedFd)>, attributes: u64 },
    /// Make what lies at a place, if anything does, read-only.
    ReadOnly { at: CString },
    /// Hide what lies at a place, if anything does.
    Mask { at: CString },
    /// Set the propagation of the mount at a place.
    Propagation { at: CString, kind: u64, recursive: bool },
    /// See that nothing hides /proc, or of what is in it more than these.
    Proc { covered: Vec<String> },
    /// Take the terminal that is the process' standard input for its session. Nothing is mounted.
    Control,
}

/// Loads the seccomp filter and executes the program.
#[derive(Clone)]
pub(crate) struct Run {
    inner: Rc<Inner>,
}

struct Inner {
    argv: Vec<CString>,
    envp: Vec<CString>,
    filter: Option<Filter>,
    mounts: Vec<MountWork>,
    files: Option<libc::rlimit>,
    errors: RawFd,
    orders: Option<RawFd>,
}

impl Run {
    /// `errors` is the write end of a close-on-exec pipe: that it closes without
    /// a word means that the program runs. Of `orders` it reads [`GO`] before. `files` is the
    /// limit of open files, if that is not set before.
    pub(crate) fn new(
        args: &[String],
        env: &[String],
        filter: Option<Filter>,
        mounts: Vec<MountWork>,
        files: Option<PosixRlimit>,
        errors: BorrowedFd<'_>,
        orders: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let texts = |all: &[String]| all.iter().map(sys::cstr).collect::<io::Result<Vec<_>>>();
        let inner = Inner {
            argv: texts(args)?,
            envp: texts(env)?,
            filter,
            mounts,
            files: files.map(|f| libc::rlimit { rlim_cur: f.soft(), rlim_max: f.hard() }),
            errors: errors.as_raw_fd(),
            orders: orders.map(|orders| orders.as_raw_fd()),
        };
        Ok(Self { inner: Rc::new(inner) })
    }
}

impl Executor for Run {
    /// Nothing: a program that can't be executed is told by execve itself.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// Runs while the container is being created, in its namespaces and with
    /// its user's ids.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        forbid_tracing();
        reopen_null().map_err(|e| ExecutorSetEnvsError::Other(format!("open /dev/null: {e}")))?;
        let failed = |what: &str, e: io::Error| ExecutorSetEnvsError::Other(format!("{what}: {e}"));
        let root = std::fs::File::open("/").map_err(|e| failed("open /", e))?;
        let mut place = Place { root: root.as_fd(), empty: None };
        for work in &self.inner.mounts {
            work.run(&mut place).map_err(|e| failed(&work.name(), e))?;
        }
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        self.inner.exec()
    }
}

/// From here to execve the process may have CAP_SYS_ADMIN: nobody in the
/// container may get at it through ptrace or /proc, whatever fs.suid_dumpable says.
fn forbid_tracing() {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
}

/// Makes streams that are the null device writable: libcontainer has put the container's
/// own in the place of each, open for reading only.
fn reopen_null() -> io::Result<()> {
    for fd in 0..3 {
        // SAFETY: the first three descriptors are open in a container's process.
        let stream = unsafe { BorrowedFd::borrow_raw(fd) };
        let stream = std::fs::File::from(stream.try_clone_to_owned()?);
        // SAFETY: as above.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        if flags & libc::O_ACCMODE != libc::O_RDONLY || !sys::is_null(&stream)? {
            continue;
        }
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        if !sys::is_null(&null)? {
            return Err(io::Error::other("it is not the null device"));
        }
        // SAFETY: both are open; what the number stood for is the same device.
        if unsafe { libc::dup2(null.as_raw_fd(), fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where mounts are made.
struct Place<'a> {
    root: BorrowedFd<'a>,
    /// A directory with nothing in it, mounted over the first that was to be hidden: the others
    /// are hidden by the same.
    empty: Option<OwnedFd>,
}

impl Place<'_> {
    fn open(&self, at: &CString) -> io::Result<OwnedFd> {
        sys::openat2(self.root, at, libc::O_PATH, 0, sys::IN_ROOT)
    }

    fn empty(&mut self) -> io::Result<OwnedFd> {
        if let Some(mounted) = &self.empty {
            return sys::clone_mount(mounted.as_fd(), c"", false);
        }
        let options = [("source", "tmpfs"), ("uid", "0"), ("gid", "0")];
        let made = sys::new_mount(c"tmpfs", &options, sys::ATTR_RDONLY)?;
        self.empty = Some(made.try_clone()?);
        Ok(made)
    }
}

impl MountWork {
    fn name(&self) -> String {
        let (what, at) = match self {
            Self::Attach { at, .. } => ("mount", at),
            Self::ReadOnly { at } => ("make read-only", at),
            Self::Mask { at } => ("mask", at),
            Self::Propagation { at, .. } => ("set the propagation of", at),
            Self::Proc { .. } => return "mount /proc".to_owned(),
            Self::Control => return "take the terminal".to_owned(),
        };
        format!("{what} /{}", at.to_string_lossy().trim_start_matches('/'))
    }

    fn run(&self, place: &mut Place<'_>) -> io::Result<()> {
        match self {
            Self::Control => sys::control(io::stdin().as_fd()),
            Self::Attach { at, base, below, attributes } => {
                sys::attach(base.as_fd(), place.open(at)?.as_fd())?;
                for (name, mount) in below {
                    let at = sys::openat2(base.as_fd(), name, libc::O_PATH, 0, sys::NO_LINKS)?;
                    sys::attach(mount.as_fd(), at.as_fd())?;
                }
                let change =
                    sys::MountChange { set: *attributes, recursive: true, ..Default::default() };
                sys::set_mount(base.as_fd(), &change)
            }
            Self::ReadOnly { at } => {
                let Some(at) = there(place.open(at))? else { return Ok(()) };
                let mount = sys::clone_mount(at.as_fd(), c"", true)?;
                let change = sys::MountChange { set: sys::ATTR_RDONLY, ..Default::default() };
                sys::set_mount(mount.as_fd(), &change)?;
                sys::attach(mount.as_fd(), at.as_fd())
            }
            Self::Mask { at } => {
                let Some(at) = there(place.open(at))? else { return Ok(()) };
                let cover = match sys::is_directory(&at)? {
                    true => place.empty()?,
                    false => sys::clone_mount(null_device(place.root)?.as_fd(), c"", false)?,
                };
                sys::attach(cover.as_fd(), at.as_fd())
            }
            Self::Propagation { at, kind, recursive } => {
                let change = sys::MountChange {
                    propagation: *kind,
                    recursive: *recursive,
                    ..Default::default()
                };
                sys::set_mount(place.open(at)?.as_fd(), &change)
            }
            Self::Proc { covered } => procfs::see(place.root, covered),
        }
    }
}

/// Nothing, where nothing is.
fn there(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        opened => opened.map(Some),
    }
}

/// /dev/null, after a look that it is: what it covers must not become readable
/// as something else.
fn null_device(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let opened = sys::openat2(root, c"dev/null", libc::O_PATH, 0, sys::NO_LINKS)?;
    let file = std::fs::File::from(opened);
    if sys::is_null(&file)? {
        return Ok(file.into());
    }
    Err(io::Error::other("/dev/null is not the null device"))
}

impl Inner {
    fn exec(&self) -> Result<(), ExecutorError> {
        forbid_tracing();
        let Some(program) = self.argv.first() else { return Err(ExecutorError::InvalidArg) };
        let candidates = self.candidates(program);
        let pointers = |all: &[CString]| -> Vec<*const libc::c_char> {
            all.iter().map(|c| c.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.argv), pointers(&self.envp));
        // Before the filter, which may not let it.
        if let Err(e) = self.limit_files() {
            self.fail(STEP_EXECVE, e.raw_os_error().unwrap_or(libc::EINVAL));
        }
        let load = || self.filter.as_ref().map_or(Ok(()), Filter::load);
        // Before the start, which somebody waits for, if one can wait for it afterwards.
        let early = self.filter.as_ref().is_some_and(Filter::lets_read).then(load);
        self.wait();
        if let Err(e) = early.unwrap_or_else(load) {
            self.fail(STEP_SECCOMP, e.raw_os_error().unwrap_or(libc::EINVAL));
        }
        let mut error = libc::ENOENT;
        for candidate in &candidates {
            // SAFETY: path, arguments and environment end with NUL, the lists
            // with a null pointer, and all live until the call returns.
            unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL) {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => error = libc::EACCES,
                other => {
                    error = other;
                    break;
                }
            }
        }
        self.fail(STEP_EXECVE, error)
    }

    /// What is open stays open, and no further file is needed before execve.
    fn limit_files(&self) -> io::Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        // SAFETY: the limit is one of this process' own, and lives until the call returns.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, files) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits to be told to go on. Without anybody left who could, the process ends.
    fn wait(&self) {
        let Some(orders) = self.orders else { return };
        let mut order = 0u8;
        loop {
            // SAFETY: the descriptor is the pipe's read end, which is open until execve, and
            // `order` has room for the one byte.
            let n = unsafe { libc::read(orders, (&raw mut order).cast(), 1) };
            if n == 1 && order == GO {
                return;
            }
            if n < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            // SAFETY: takes an integer, and runs nothing of this process.
            unsafe { libc::_exit(1) }
        }
    }

    /// The files to try: the program itself when it is a path, else one in each directory of PATH.
    fn candidates(&self, program: &CString) -> Vec<CString> {
        let bytes = program.as_bytes();
        if bytes.is_empty() {
            return Vec::new();
        }
        if bytes.contains(&b'/') {
            return vec![program.clone()];
        }
        let set = self.envp.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH="));
        let path = set.unwrap_or(DEFAULT_PATH.as_bytes());
        let join = |dir: &[u8]| {
            let dir = if dir.is_empty() { b".".as_slice() } else { dir };
            sys::cstr([dir, b"/", bytes].concat()).ok()
        };
        path.split(|b| *b == b':').filter_map(join).collect()
    }

    /// Tells the shim and ends the process, with the exit status a shell would give.
    fn fail(&self, step: i32, errno: i32) -> ! {
        let mut message = [0; 8];
        message[..4].copy_from_slice(&step.to_ne_bytes());
        message[4..].copy_from_slice(&errno.to_ne_bytes());
        let status = if errno == libc::ENOENT { 127 } else { 126 };
        // SAFETY: the descriptor is the pipe's write end, which is open until
        // execve; without it the exit status still tells. _exit runs nothing.
        unsafe {
            libc::write(self.errors, message.as_ptr().cast(), message.len());
            libc::_exit(status)
        }
    }
}

/// Reads the other end's message, if there is one: step and errno.
pub(crate) fn decode_failure(bytes: &[u8]) -> Option<(i32, i32)> {
    let step = i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
    Some((step, errno))
}
