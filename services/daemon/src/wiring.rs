//! Which implementation stands behind each trait.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use gantry_content::LocalStore;
use gantry_core::containers::Containers;
use gantry_core::content::ContentStore;
use gantry_core::db::{self, Database, Durability, GLOBAL, Table};
use gantry_core::events::Events;
use gantry_core::history::History;
use gantry_core::images::Puller;
use gantry_core::leases::Leases;
use gantry_core::mounts::MountManager;
use gantry_core::namespaces::Namespaces;
use gantry_core::sandboxes::Sandboxes;
use gantry_core::snapshots::Snapshotters;
use gantry_core::volumes::Volumes;
use gantry_core::{Applier, Differ, Kind, faults};
use gantry_diff::{LayerApplier, LayerDiffer};
use gantry_engine::{Engine, EngineConfig, EngineParts};
use gantry_events::Journal;
use gantry_images::{RegistryPuller, Streams, Transfer};
use gantry_metadata::{
    ContainerService, GarbageCollector, GuardedDatabase, ImageRecords, LeaseService,
    NamespaceService, RocksDatabase, SandboxService,
};
use gantry_networks::LocalNetworks;
use gantry_tasks::{TaskConfig, TaskManager};
use gantry_volumes::LocalVolumes;

use crate::Environment;
use crate::config::Config;
use crate::introspection::{Part, VERSION};
use crate::state::StateDirectory;

/// Facts of this installation.
const INSTALLATION: Table<String> = Table::new("installation");
/// Our own shim, beside the daemon.
const SHIM: &str = "containerd-shim-gantry-v2";

/// Every service, ready to be served once tasks and engine have recovered.
pub(crate) struct Services {
    pub(crate) uuid: String,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) content: Arc<dyn ContentStore>,
    pub(crate) namespaces: Arc<dyn Namespaces>,
    pub(crate) containers: Arc<dyn Containers>,
    pub(crate) images: Arc<ImageRecords>,
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) sandboxes: Arc<dyn Sandboxes>,
    pub(crate) collector: Arc<GarbageCollector>,
    pub(crate) snapshotters: Snapshotters,
    pub(crate) mounts: Arc<dyn MountManager>,
    pub(crate) volumes: Arc<dyn Volumes>,
    pub(crate) streams: Streams,
    pub(crate) transfer: Arc<Transfer>,
    pub(crate) applier: Arc<dyn Applier>,
    pub(crate) differ: Arc<dyn Differ>,
    pub(crate) tasks: Arc<TaskManager>,
    pub(crate) engine: Arc<Engine>,
    /// Last, so that it is held as long as anything else here is.
    _state: StateDirectory,
}

/// Opens the metadata store. On a full disk what was removed and not yet deleted
/// goes first.
fn open_records(root: &Path) -> gantry_core::Result<RocksDatabase> {
    let path = root.join("metadata");
    match RocksDatabase::open(path.clone()) {
        Err(err) if err.kind() == Kind::ResourceExhausted => {
            tracing::warn!(error = %err, "empty the trash, then try again");
            gantry_snapshots::empty_trash(root)?;
            gantry_volumes::empty_trash(root)?;
            RocksDatabase::open(path)
        }
        opened => opened,
    }
}

/// Opens the store and puts the services together.
pub(crate) async fn open(config: &Config, environment: &Environment) -> Result<Services> {
    for dir in [&config.root, &config.state] {
        private_directory(dir)?;
    }
    // Before anything looks at the bundles of what may be somebody else's.
    let state = StateDirectory::claim(&config.state, &config.root)?;
    let root = config.root.clone();
    let records = Arc::new(db::blocking(move || open_records(&root)).await?);
    let guarded = Arc::new(GuardedDatabase::new(records));
    let database: Arc<dyn Database> = Arc::clone(&guarded) as _;
    let uuid = installation(&database).await?;
    let journal = {
        let (database, limits) = (Arc::clone(&database), config.events.limits());
        Arc::new(db::blocking(move || Journal::open(database, limits)).await?)
    };
    let events: Arc<dyn Events> = Arc::clone(&journal) as _;
    let history: Arc<dyn History> = Arc::clone(&journal) as _;

    let content: Arc<dyn ContentStore> =
        Arc::new(LocalStore::open(&config.root, Arc::clone(&database), Arc::clone(&events))?);
    let snapshotters = snapshotters(config, &database, &events).await?;
    let applier: Arc<dyn Applier> = Arc::new(LayerApplier::default());
    let differ: Arc<dyn Differ> = Arc::new(LayerDiffer::new(Arc::clone(&content)));
    let mounts =
        gantry_mounts::Options { root: config.state.join("mounts"), db: Arc::clone(&database) };
    let mounts: Arc<dyn MountManager> = Arc::new(gantry_mounts::Manager::open(mounts).await?);
    let volumes: Arc<dyn Volumes> =
        Arc::new(LocalVolumes::open(&config.root, Arc::clone(&database))?);
    let networks = {
        let (database, networks) =
            (Arc::clone(&database), config.networks.made(config.state.clone()));
        Arc::new(db::blocking(move || LocalNetworks::open(networks, database)).await?)
    };
    let collector = Arc::new(GarbageCollector::new(
        guarded,
        Arc::clone(&content),
        snapshotters.clone(),
        Arc::clone(&events),
        Some(Arc::clone(&mounts)),
    ));

    let namespaces: Arc<dyn Namespaces> =
        Arc::new(NamespaceService::new(Arc::clone(&database), Arc::clone(&events)));
    let containers: Arc<dyn Containers> =
        Arc::new(ContainerService::new(Arc::clone(&database), Arc::clone(&events)));
    let images = Arc::new(ImageRecords::new(Arc::clone(&database), Arc::clone(&events)));
    let leases: Arc<dyn Leases> = Arc::new(LeaseService::new(Arc::clone(&database)));
    let sandboxes: Arc<dyn Sandboxes> = Arc::new(SandboxService::new(Arc::clone(&database)));
    let puller = Arc::new(RegistryPuller::new(
        gantry_images::Services {
            content: Arc::clone(&content),
            images: Arc::clone(&images) as _,
            leases: Arc::clone(&leases),
            namespaces: Arc::clone(&namespaces),
            snapshotters: snapshotters.clone(),
            applier: Arc::clone(&applier),
        },
        registries(config, environment),
    )?);
    let streams = Streams::default();
    let transfer = Transfer::new(Arc::clone(&puller), Arc::clone(&images) as _, streams.clone());
    let transfer = Arc::new(transfer);
    let puller: Arc<dyn Puller> = puller;

    let task_config = task_config(config, environment)?;
    let shim_path = task_config.shim_path.clone();
    let tasks = TaskManager::new(
        task_config,
        Arc::clone(&containers),
        Arc::clone(&sandboxes),
        Arc::clone(&events),
        Arc::clone(&mounts),
    )?;
    let engine = Engine::new(EngineParts {
        config: EngineConfig {
            root: config.root.clone(),
            state: config.state.clone(),
            cgroup_parent: config.containers.cgroup_parent.clone(),
            log_max_size: config.containers.log_max_size,
            log_max_files: config.containers.log_max_files,
            log_max_age: Some(config.containers.log_max_age_hours.saturating_mul(3600)),
            runtimes: runtimes(config),
            id: uuid.clone(),
            shim_path,
            cdi_directories: config.containers.cdi_directories.clone(),
            scope_labels: crate::listen::labels(&config.listen),
            version: VERSION.into(),
            revision: option_env!("GANTRY_REVISION").unwrap_or_default().into(),
            ..EngineConfig::default()
        },
        database,
        containers: Arc::clone(&containers),
        images: Arc::clone(&images) as _,
        puller,
        content: Arc::clone(&content),
        snapshotters: snapshotters.clone(),
        volumes: Arc::clone(&volumes),
        differ: Arc::clone(&differ),
        networks: Arc::clone(&networks) as _,
        endpoints: networks,
        tasks: Arc::clone(&tasks) as _,
        events: Arc::clone(&events),
        history: Arc::clone(&history),
    })?;
    Ok(Services {
        uuid,
        events,
        history,
        journal,
        content,
        namespaces,
        containers,
        images,
        leases,
        sandboxes,
        collector,
        snapshotters,
        mounts,
        volumes,
        streams,
        transfer,
        applier,
        differ,
        tasks,
        engine,
        _state: state,
    })
}

/// The parts that clients ask introspection for, under containerd's names.
pub(crate) fn parts(config: &Config) -> Vec<Part> {
    let root = |name: &str| config.root.join(name);
    let mut parts = vec![
        Part::new("io.containerd.content.v1", "content")
            .root(&root("io.containerd.content.v1.content")),
        Part::new("io.containerd.metadata.v1", "bolt").root(&root("metadata")),
        Part::new("io.containerd.gc.v1", "scheduler"),
        Part::new("io.containerd.transfer.v1", "local").capabilities(
            gantry_images::TRANSFERS.map(|(from, to)| format!("{from}->{to}")).to_vec(),
        ),
        Part::new("io.containerd.differ.v1", "walking"),
        Part::new("io.containerd.mount-manager.v1", "bolt"),
        Part::new("io.containerd.runtime.v2", "task").root(&root("io.containerd.runtime.v2.task")),
        Part::new("io.containerd.sandbox.controller.v1", "shim")
            .root(&root("io.containerd.sandbox.controller.v1.shim")),
        Part::new("io.containerd.sandbox.store.v1", "local"),
    ];
    for name in gantry_snapshots::NAMES {
        let kind = "io.containerd.snapshotter.v1";
        let can = gantry_snapshots::capabilities(name);
        let can = can.into_iter().map(str::to_owned).collect();
        let part = Part::new(kind, name).root(&root(&format!("{kind}.{name}")));
        parts.push(part.capabilities(can));
    }
    for (name, plugin) in &config.proxy_plugins {
        let part = Part::new("io.containerd.snapshotter.v1", name).exports(&plugin.exports);
        let part = part.capabilities(plugin.capabilities.clone());
        parts.push(part.platform(plugin.platform.as_deref()));
    }
    let services = [
        "containers",
        "content",
        "diff",
        "events",
        "healthcheck",
        "images",
        "introspection",
        "leases",
        "mounts",
        "namespaces",
        "sandbox-controllers",
        "sandboxes",
        "snapshots",
        "streaming",
        "tasks",
        "transfer",
        "version",
    ];
    parts.extend(services.map(|name| Part::new("io.containerd.grpc.v1", name)));
    parts
}

/// Names that clients may give a runtime, but for that of new containers.
fn runtimes(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = config.runtimes.keys().cloned().collect();
    names.push("io.containerd.runc.v2".to_owned());
    names.sort();
    names.dedup();
    names
}

async fn snapshotters(
    config: &Config,
    database: &Arc<dyn Database>,
    events: &Arc<dyn Events>,
) -> Result<Snapshotters> {
    let mut by_name = BTreeMap::new();
    for name in gantry_snapshots::NAMES {
        let options = gantry_snapshots::Options {
            root: config.root.clone(),
            db: Arc::clone(database),
            events: Arc::clone(events),
        };
        let opened = gantry_snapshots::open(name, options).await?;
        by_name.insert(name.to_owned(), opened);
    }
    for (name, plugin) in &config.proxy_plugins {
        let proxy = gantry_snapshots::Proxy::open(gantry_snapshots::ProxyOptions {
            name: name.clone(),
            theirs: plugin.snapshotter.as_ref().unwrap_or(name).clone(),
            address: plugin.address.clone(),
            late_parent: plugin.capabilities.iter().any(|can| can == "rebase"),
            db: Arc::clone(database),
            events: Arc::clone(events),
        });
        by_name.insert(name.clone(), Arc::new(proxy.await?) as _);
    }
    let default = config.containers.snapshotter.clone();
    let snapshotters = Snapshotters { by_name, default };
    snapshotters.get("").context("containers.snapshotter of the configuration")?;
    Ok(snapshotters)
}

fn registries(config: &Config, environment: &Environment) -> gantry_images::Config {
    let defaults = gantry_images::Config::default();
    let docker = config.registry.docker_config.clone();
    gantry_images::Config {
        plain_http: config.registry.plain_http.clone(),
        docker_config: docker.or_else(|| environment.docker_config.clone()),
        hosts: config.registry.config_path.clone(),
        concurrency: config.registry.parallel_layers.unwrap_or(defaults.concurrency),
        ..defaults
    }
}

fn task_config(config: &Config, environment: &Environment) -> Result<TaskConfig> {
    let daemon_path = std::env::current_exe().context("find the daemon's own program")?;
    let beside = || daemon_path.with_file_name(SHIM);
    Ok(TaskConfig {
        state: config.state.clone(),
        root: config.root.clone(),
        shim_path: config.shim.path.clone().unwrap_or_else(beside),
        ttrpc_address: config.ttrpc_address().display().to_string(),
        grpc_address: config.grpc.address.display().to_string(),
        warm: config.shim.warm.unwrap_or(1),
        runtimes: config.runtimes.clone(),
        seccomp_cache: config.state.join("seccomp"),
        files: environment.files,
        debug: matches!(config.log.level.as_str(), "debug" | "trace"),
        daemon_path,
    })
}

/// This installation's ID, made at its first start.
async fn installation(database: &Arc<dyn Database>) -> Result<String> {
    let fresh = uuid::Uuid::new_v4().to_string();
    let uuid = db::write(database, Durability::Sync, move |tx| {
        if let Some(uuid) = INSTALLATION.lock(tx, GLOBAL, "uuid")? {
            return Ok(uuid);
        }
        INSTALLATION.put(tx, GLOBAL, "uuid", &fresh)?;
        Ok(fresh.clone())
    });
    Ok(uuid.await?)
}

/// Makes a directory that others may pass through, as the bundles in it need it, but not list.
fn private_directory(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let make = || {
        std::fs::create_dir_all(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))
    };
    faults::around("make a directory of the daemon", make)
        .with_context(|| format!("make directory {}", dir.display()))
}
