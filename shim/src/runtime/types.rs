//! Values that the runtime takes and gives.

use super::cgroup::Group;
use super::worker::Ending;
use oci_spec::runtime::{Hook, Spec};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Why an operation of the runtime failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process cannot be executed: `errno` tells why, `message` is plain
    /// text for the user. The conventional exit code is [`Error::exit_code`].
    #[error("{message}")]
    Exec {
        /// The errno of execve, or of what stands for it.
        errno: i32,
        /// What failed, for the user.
        message: String,
    },
    /// The spec asks for something that is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The spec asks for something this runtime or this host does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The container is not in the state that the operation needs.
    #[error("{0}")]
    State(String),
    /// Something that should be there is not.
    #[error("{0}")]
    NotFound(String),
    /// The worker did not answer in time and was killed.
    #[error("{0}")]
    Timeout(String),
    /// The runtime failed; the text says what was tried, on what.
    #[error("{0}")]
    Failed(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with what was tried.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// The last OS error, with what was tried.
    pub fn last_os(what: impl Into<String>) -> Self {
        Self::io(what, std::io::Error::last_os_error())
    }

    /// 127 for an executable that is not there, 126 for one that cannot be
    /// invoked; nothing for every other error.
    pub fn exit_code(&self) -> Option<u32> {
        match self {
            Self::Exec { errno, .. } => {
                Some(if *errno == libc::ENOENT || *errno == libc::ENOTDIR { 127 } else { 126 })
            }
            _ => None,
        }
    }
}

/// One mount of a root filesystem, as in containerd's `types.Mount`.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct RootfsMount {
    /// Filesystem type: `overlay`, `bind`, …
    pub kind: String,
    /// Device, or the path that is bound.
    pub source: String,
    /// Path under the root to mount on; empty is the root itself.
    pub target: String,
    /// Mount options as in fstab.
    pub options: Vec<String>,
}

/// The parts of `containerd.runc.v1.Options` that are honoured.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// Enter the root with chroot instead of pivot_root.
    pub no_pivot_root: bool,
    /// The caller asked for systemd's cgroup driver.
    pub systemd_cgroup: bool,
    /// Do not make a new session keyring.
    pub no_new_keyring: bool,
}

/// Where a process's standard streams go.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors; one left out is `/dev/null`.
    Fds {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A new pseudo terminal of the container; its master is in [`Created::console`].
    Terminal,
}

/// What [`Runtime::create`](super::Runtime::create) needs.
#[derive(Debug)]
pub struct CreateSpec {
    /// The container's id.
    pub id: String,
    /// Absolute path of the bundle, with `config.json`.
    pub bundle: PathBuf,
    /// Mounts that make the root; empty when `root.path` holds it already.
    pub rootfs: Vec<RootfsMount>,
    /// The init process's standard streams (`process.terminal` follows this).
    pub stdio: Stdio,
    /// Options of the runtime.
    pub options: Options,
}

/// What [`Runtime::exec`](super::Runtime::exec) needs.
#[derive(Debug)]
pub struct ExecSpec {
    /// The process's id within the container.
    pub exec_id: String,
    /// The OCI runtime `process` object as JSON.
    pub process: Vec<u8>,
    /// Standard streams.
    pub stdio: Stdio,
}

/// A process that exists now.
#[derive(Debug)]
pub struct Created {
    /// Host pid, a direct child of the shim.
    pub pid: i32,
    /// A pidfd of it; nothing when it has ended and was reaped already.
    pub pidfd: Option<OwnedFd>,
    /// Master side of the pseudo terminal, with [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
    /// The container's state: pass it to the other calls.
    pub state: ContainerState,
}

/// What the runtime knows of one container. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Host pid of init.
    pub pid: i32,
    pub(crate) inner: Arc<Inner>,
}

impl ContainerState {
    /// Whether the container has no pid namespace of its own, so that its
    /// processes do not end with init.
    pub fn shares_pids(&self) -> bool {
        self.inner.shares_pids
    }
}

/// Takes what a lock holds that is there only to make taking it possible through
/// a shared reference. A poisoned one holds what it held: nothing in it can be half-changed.
pub(crate) fn take<T>(held: &Mutex<Option<T>>) -> Option<T> {
    held.lock().unwrap_or_else(|e| e.into_inner()).take()
}

/// Whether such a lock holds something.
pub(crate) fn holds<T>(held: &Mutex<Option<T>>) -> bool {
    held.lock().unwrap_or_else(|e| e.into_inner()).is_some()
}

/// What is needed to start an init that was created.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Read end of its error pipe.
    pub(crate) errors: OwnedFd,
    /// Write end of the pipe by which it is told to go on. When that is closed it ends.
    pub(crate) orders: OwnedFd,
    /// The worker that has made it, unless it is known to have ended.
    pub(crate) worker: Option<Ending>,
}

/// The part of a container's state that only the runtime uses.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) group: Group,
    /// What init executes, for messages.
    pub(crate) program: String,
    pub(crate) poststart: Option<(Vec<Hook>, Spec)>,
    /// Whether libcontainer runs hooks before the program, for which it waits to be told.
    pub(crate) hooked: bool,
    pub(crate) shares_pids: bool,
    /// Until start has taken it. The lock is only there to make taking it
    /// possible through a shared reference.
    pub(crate) pending: Mutex<Option<Pending>>,
    /// Init's mount namespace, held open so that its end, which may wait for a
    /// disk, does not hold back the news of init's exit. Behind a lock as above.
    pub(crate) mounts: Mutex<Option<OwnedFd>>,
    /// Whether nobody needs the root filesystem once the container is deleted:
    /// its overlay is volatile, what was written is not kept.
    pub(crate) volatile: bool,
}

/// What [`Runtime::cleanup`](super::Runtime::cleanup) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Host pid of init, 0 when it never existed.
    pub pid: u32,
    /// 137, as for a killed process.
    pub exit_status: u32,
}
