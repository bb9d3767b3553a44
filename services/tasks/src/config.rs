use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a [`crate::TaskManager`] needs to know. All paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct TaskConfig {
    /// The daemon's state directory: bundles lie below it.
    pub state: PathBuf,
    /// The daemon's root directory: work directories of shims lie below it.
    pub root: PathBuf,
    /// Program of Gantry's own shim.
    pub shim_path: PathBuf,
    /// Socket on which the daemon takes events by ttrpc.
    pub ttrpc_address: String,
    /// Socket of the daemon's gRPC services.
    pub grpc_address: String,
    /// The daemon's own program, which is told to shims as `-publish-binary`.
    pub daemon_path: PathBuf,
    /// Ready-made shims to keep.
    pub warm: usize,
    /// Runtime names that are served by another program than the usual one.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Directory in which Gantry's shims keep compiled seccomp filters; the shim's own
    /// choice when empty.
    pub seccomp_cache: PathBuf,
    /// How many files shims may have open (the soft limit); as many as the daemon when `None`.
    pub files: Option<u64>,
    /// Shims log at debug level.
    pub debug: bool,
}

/// The directory of bundles and work directories, named as containerd does.
const RUNTIME_DIR: &str = "io.containerd.runtime.v2.task";
/// The same for sandboxes.
const SANDBOX_DIR: &str = "io.containerd.sandbox.controller.v1.shim";

impl TaskConfig {
    /// Where the bundles are, by namespace and ID.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.state.join(RUNTIME_DIR)
    }

    /// Where the work directories are, by namespace and ID.
    pub(crate) fn works(&self) -> PathBuf {
        self.root.join(RUNTIME_DIR)
    }

    /// Where the bundles of sandboxes are, by namespace and ID.
    pub(crate) fn sandbox_bundles(&self) -> PathBuf {
        self.state.join(SANDBOX_DIR)
    }

    /// Where the work directories of sandboxes are, by namespace and ID.
    pub(crate) fn sandbox_works(&self) -> PathBuf {
        self.root.join(SANDBOX_DIR)
    }
}
