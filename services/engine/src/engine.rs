use std::path::PathBuf;
use std::sync::Arc;

use gantry_core::containers::Containers;
use gantry_core::content::ContentStore;
use gantry_core::db::Database;
use gantry_core::events::Events;
use gantry_core::history::History;
use gantry_core::images::{Images, Puller};
use gantry_core::locks::KeyLocks;
use gantry_core::networks::{Endpoints, Networks};
use gantry_core::snapshots::Snapshotters;
use gantry_core::tasks::Tasks;
use gantry_core::volumes::Volumes;
use gantry_core::{Context, Differ, Namespace, Result};
use gantry_files::Shelf;

use crate::files::{ContainerFiles, keep_ready, make_socket_directory};
use crate::health;
use crate::host::Host;
use crate::idempotency::Keys;
use crate::images::{Cache, Told};
use crate::live::LiveTable;
use crate::restart::Waiting;
use crate::spec::SpecBuilder;
use crate::stats::Sampler;
use crate::store::Store;
use crate::usage::Writable;

/// What an [`Engine`] needs to know. Paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// Where data lies.
    pub root: PathBuf,
    /// Where the state of what runs lies.
    pub state: PathBuf,
    /// The cgroup below which containers get theirs; `/gantry` when empty.
    pub cgroup_parent: String,
    /// Runtime of new containers; Gantry's own when empty.
    pub runtime: String,
    /// Names of runtimes that there are beside it.
    pub runtimes: Vec<String>,
    /// Recorded output is rotated at this many bytes, unless a container says
    /// otherwise; 0 for the shim's default.
    pub log_max_size: u64,
    /// So many files of it are kept; 0 for the shim's default.
    pub log_max_files: u32,
    /// It is rotated after so many seconds, unless a container says otherwise: never when 0, after
    /// the shim's default when `None`.
    pub log_max_age: Option<u64>,
    /// Our own shim, which containers may have as their first process.
    pub shim_path: PathBuf,
    /// Where devices are described that containers may have, the later the more they count; the
    /// usual directories of the Container Device Interface when empty.
    pub cdi_directories: Vec<PathBuf>,
    /// Keys of the labels by which clients are limited to some containers. Labels of images don't
    /// count for that.
    pub scope_labels: Vec<String>,
    /// Names this installation.
    pub id: String,
    /// Release of the daemon.
    pub version: String,
    /// Commit that the daemon was built from; may be empty.
    pub revision: String,
}

/// The services that an [`Engine`] works with.
#[derive(Clone)]
pub struct EngineParts {
    /// What the engine needs to know.
    pub config: EngineConfig,
    /// The store that the containers' records are in.
    pub database: Arc<dyn Database>,
    /// Containers' records.
    pub containers: Arc<dyn Containers>,
    /// Images' records.
    pub images: Arc<dyn Images>,
    /// Brings images here.
    pub puller: Arc<dyn Puller>,
    /// Blobs.
    pub content: Arc<dyn ContentStore>,
    /// File systems.
    pub snapshotters: Snapshotters,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// Compares file systems.
    pub differ: Arc<dyn Differ>,
    /// Networks.
    pub networks: Arc<dyn Networks>,
    /// Containers in them.
    pub endpoints: Arc<dyn Endpoints>,
    /// What runs.
    pub tasks: Arc<dyn Tasks>,
    /// What happens.
    pub events: Arc<dyn Events>,
    /// What happened.
    pub history: Arc<dyn History>,
}

/// The runtime of new containers.
const RUNTIME: &str = "io.containerd.gantry.v2";
/// The cgroup of containers.
const CGROUP_PARENT: &str = "/gantry";

/// Docker's containers and images over the other services.
///
/// [`Engine::recover`] is to be called once, after the tasks were recovered
/// and before requests are served.
pub struct Engine {
    pub(crate) parts: EngineParts,
    pub(crate) store: Store,
    pub(crate) live: Arc<LiveTable>,
    pub(crate) specs: SpecBuilder,
    pub(crate) host: Host,
    pub(crate) cache: Cache,
    pub(crate) told: Told,
    pub(crate) keys: Keys,
    pub(crate) waiting: Waiting,
    pub(crate) health: health::Records,
    /// Of volumes, while a container that has one is made or one is removed.
    pub(crate) volume_locks: KeyLocks<(Namespace, String)>,
    pub(crate) sampler: Sampler,
    pub(crate) writable: Arc<Writable>,
    /// Directories for new containers.
    pub(crate) shelf: Arc<Shelf>,
}

impl Engine {
    /// Makes an engine, and the directory for its sockets.
    ///
    /// # Errors
    /// `Unimplemented` on an architecture without a seccomp profile; the system's for the directory.
    pub fn new(mut parts: EngineParts) -> Result<Arc<Self>> {
        let default = |value: &mut String, default: &str| {
            if value.is_empty() {
                *value = default.to_owned();
            }
        };
        default(&mut parts.config.runtime, RUNTIME);
        default(&mut parts.config.cgroup_parent, CGROUP_PARENT);
        let live = Arc::new(LiveTable::default());
        let store = Store {
            database: Arc::clone(&parts.database),
            history: Arc::clone(&parts.history),
            live: Arc::clone(&live),
        };
        make_socket_directory(&parts.config.state)?;
        let cache = Cache::default();
        let host = Host::new(&parts.config.cdi_directories);
        let (parent, init) = (&parts.config.cgroup_parent, &parts.config.shim_path);
        let specs = SpecBuilder::new(parent, init, &host)?;
        let sampler = Sampler::new(Arc::clone(&parts.tasks));
        let shelf = Arc::new(keep_ready(&parts.config.root));
        Ok(Arc::new(Self {
            parts,
            store,
            live,
            specs,
            host,
            cache,
            told: Told::default(),
            keys: Keys::default(),
            waiting: Waiting::default(),
            health: health::Records::default(),
            volume_locks: KeyLocks::default(),
            sampler,
            writable: Arc::default(),
            shelf,
        }))
    }

    /// A container's own files.
    pub(crate) fn files(&self, ctx: &Context, id: &str) -> ContainerFiles {
        ContainerFiles::of(&self.parts.config.root, &ctx.namespace, id)
    }
}
