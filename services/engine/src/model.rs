//! What is stored of a container beside containerd's own fields.

use std::sync::Arc;

use gantry_core::containers::Container;
use gantry_core::{Any, Error, Labels, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Idempotency;
use crate::health::{HealthConfig, HealthStatus};

mod flags;
mod networking;

pub use flags::{
    DeviceLimit, DeviceLimitKind, DeviceSetting, Flags, Namespaces, Resources, Security, Ulimit,
};
pub(crate) use flags::{LOG_DRIVER, UNCONFINED, joining, other_container};
pub(crate) use networking::port_range;
pub use networking::{Attached, Connected, ExposedPort, Network, Networking};

/// Name of the extension in a container's record, and type URL of its value:
/// JSON of what the engine knows.
pub const EXTENSION: &str = "gantry.engine.v1";

/// Label that holds a container's name, for those who see only the record.
pub const NAME_LABEL: &str = "io.gantry.name";

/// When a container is started again after its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Never.
    #[default]
    No,
    /// When its exit code was not 0.
    OnFailure,
    /// Always, unless its user stopped it; then when the daemon starts.
    Always,
    /// Always, unless its user stopped it.
    UnlessStopped,
}

impl RestartMode {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            RestartMode::No => "no",
            RestartMode::OnFailure => "on-failure",
            RestartMode::Always => "always",
            RestartMode::UnlessStopped => "unless-stopped",
        }
    }
}

/// A restart policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When.
    pub mode: RestartMode,
    /// With [`RestartMode::OnFailure`]: so many times in a row at most; no limit when 0.
    pub maximum_retries: u32,
}

/// Another container that is to be there first when the daemon starts containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Its name or ID, as the caller wrote it; its ID once stored.
    pub container: String,
    /// It is to be healthy, not only to run.
    pub healthy: bool,
}

/// What a mount brings into a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A file or directory of the host.
    #[default]
    Bind,
    /// A named or anonymous volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// The files of an image, read-only.
    Image,
}

impl MountKind {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Image => "image",
        }
    }
}

/// Something mounted in a container, as it was asked for (`Mount` of the API).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSetting {
    /// What it is.
    pub kind: MountKind,
    /// Path on the host, name of a volume, or reference of an image.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Nothing can be written below it.
    pub read_only: bool,
    /// Of mount events; `rprivate` when empty.
    pub propagation: String,
    /// Make the host's path when it is not there.
    pub create_source: bool,
    /// Leave mounts below the source out.
    pub non_recursive: bool,
    /// With `read_only`: mounts below the source stay as they are.
    pub read_only_non_recursive: bool,
    /// With `read_only`: fail unless mounts below the source can be read-only as well.
    pub read_only_force_recursive: bool,
    /// Path below the volume or image that is mounted in place of all of it.
    pub subpath: String,
    /// Leave a new volume empty.
    pub no_copy: bool,
    /// Labels of a new volume.
    pub volume_labels: Labels,
    /// Driver of a new volume.
    pub volume_driver: String,
    /// Its driver's options.
    pub volume_options: Labels,
    /// Bytes that fit into memory; no limit when 0.
    pub tmpfs_size: u64,
    /// Permissions of its top.
    pub tmpfs_mode: Option<u32>,
    /// Options as mount(8) writes them.
    pub tmpfs_options: String,
    /// A volume without a name, made for this container: it goes with it when asked for.
    pub anonymous: bool,
    /// Comes from the image's configuration, not from the caller.
    pub of_image: bool,
}

/// How a container was asked to be. Limits and the restart policy can be updated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Entrypoint, from the image or the caller.
    pub entrypoint: Vec<String>,
    /// Command behind it, from the image or the caller.
    pub command: Vec<String>,
    /// Environment, complete.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// `name|uid[:group|gid]`; empty for root.
    pub user: String,
    /// A pseudo-terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub open_stdin: bool,
    /// Host name.
    pub hostname: String,
    /// How it is connected.
    pub network: Network,
    /// Its networks and ports.
    #[serde(skip_serializing_if = "is_default")]
    pub networking: Networking,
    /// Goes when it has ended.
    pub auto_remove: bool,
    /// Signal for a stop.
    pub stop_signal: u32,
    /// Recorded output is rotated at this many bytes; 0 for the shim's default.
    pub log_max_size: u64,
    /// So many files of it are kept; 0 for the shim's default.
    pub log_max_files: u32,
    /// When it is started again.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// Seconds until a stop kills it: ten when unset, never when negative.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_timeout: Option<i32>,
    /// Containers that are to be there first when the daemon starts containers.
    #[serde(skip_serializing_if = "is_default")]
    pub after: Vec<Dependency>,
    /// What is mounted in it: as asked for, then with volumes named and sources complete.
    #[serde(skip_serializing_if = "is_default")]
    pub mounts: Vec<MountSetting>,
    /// Containers whose mounts it has as well: NAME[:ro|:rw].
    #[serde(skip_serializing_if = "is_default")]
    pub volumes_from: Vec<String>,
    /// How its health is found out.
    #[serde(skip_serializing_if = "is_default")]
    pub health: Option<HealthConfig>,
    /// What few containers have.
    #[serde(skip_serializing_if = "is_default")]
    pub flags: Flags,
}

/// Whether a value need not be stored.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Settings {
    /// Entrypoint and command in one, as they are run.
    pub fn args(&self) -> impl Iterator<Item = &String> {
        self.entrypoint.iter().chain(&self.command)
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its record exists; its file system is being made. Nobody was told of it. Stored as well
    /// of one that goes with its end and has never run: it is undone with its start.
    #[default]
    Creating,
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running,
    /// Its cgroup is frozen. Never stored: the task knows.
    Paused,
    /// It has ended.
    Exited,
    /// It has ended, and its restart policy starts it again after a while.
    Restarting,
    /// It is being taken away: shown to nobody.
    Removing,
    /// It could not be taken away.
    Dead,
}

impl Phase {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Creating | Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Exited => "exited",
            Phase::Restarting => "restarting",
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Whether there is a process.
    pub fn is_running(self) -> bool {
        matches!(self, Phase::Running | Phase::Paused)
    }

    /// Whether it is shown among those that run: also while it waits for its restart.
    pub fn is_active(self) -> bool {
        self.is_running() || self == Phase::Restarting
    }
}

/// What a container does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// First process on the host; 0 unless it runs.
    pub pid: u32,
    /// Exit code of its last run.
    pub exit_code: u32,
    /// Why its last start failed.
    pub error: String,
    /// Killed for want of memory.
    pub oom_killed: bool,
    /// When it was started last.
    pub started_at: Timestamp,
    /// When it ended last.
    pub finished_at: Timestamp,
    /// So often its policy has started it since somebody did.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart_count: u32,
    /// Milliseconds that its policy waits, or waited last, until it starts it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart_delay: u64,
    /// Its user stopped it: its policy leaves it so.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stopped_by_user: bool,
    /// How its health is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: HealthStatus,
    /// Where it is in its networks. Never stored: its networks know.
    #[serde(skip)]
    pub connected: Arc<Connected>,
}

/// The extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) name: String,
    /// Image as the caller named it.
    pub(crate) image: String,
    /// Digest of the image's configuration.
    pub(crate) image_id: String,
    /// Labels, of the image and the caller.
    pub(crate) labels: Labels,
    pub(crate) settings: Settings,
    pub(crate) state: State,
    /// The request that made it, when that may be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idempotency: Option<Idempotency>,
    /// It is killed in order to be removed: a daemon that comes after this one finishes that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) removing: bool,
    /// Its removal, once begun, takes its anonymous volumes as well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) with_volumes: bool,
    /// Made by another client than the engine: there is no extension.
    #[serde(skip)]
    pub(crate) foreign: bool,
}

impl Meta {
    /// What is known of a container. One that another client made has its
    /// ID for a name.
    ///
    /// # Errors
    /// `DataLoss` when the extension can't be read.
    pub(crate) fn of(container: &Container) -> Result<Self> {
        match container.extensions.get(EXTENSION) {
            Some(any) => serde_json::from_slice(&any.value).map_err(|err| {
                Error::data_loss(format!("extension {EXTENSION} of container {}", container.id))
                    .with_source(err)
            }),
            None => Ok(Self {
                name: container.id.clone(),
                image: container.image.clone(),
                labels: container.labels.clone(),
                settings: Settings { command: arguments(container), ..Settings::default() },
                // Its task does not say when it was started; clients do that at once.
                state: State {
                    phase: Phase::Created,
                    started_at: container.created_at,
                    ..State::default()
                },
                foreign: true,
                ..Self::default()
            }),
        }
    }

    /// Puts it into the record.
    ///
    /// # Errors
    /// `Internal` when it can't be encoded.
    pub(crate) fn store(&self, container: &mut Container) -> Result<()> {
        let value = serde_json::to_vec(self)
            .map_err(|err| Error::internal("encode a container").with_source(err))?;
        let any = Any { type_url: EXTENSION.into(), value };
        container.extensions.insert(EXTENSION.into(), any);
        Ok(())
    }
}

/// What a specification runs; nothing when it can't be read.
fn arguments(container: &Container) -> Vec<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Process {
        args: Vec<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        process: Process,
    }
    let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
    serde_json::from_slice::<Spec>(spec).unwrap_or_default().process.args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_survives_the_record() {
        let meta = Meta { name: "web".into(), ..Meta::default() };
        let spec = br#"{"process":{"args":["sh","-c"],"cwd":"/"},"root":{}}"#;
        let mut container = Container {
            id: "c1".into(),
            spec: Some(Any::spec(spec.to_vec())),
            ..Container::default()
        };
        let foreign = Meta::of(&container).unwrap();
        assert!(foreign.foreign);
        assert_eq!(foreign.name, "c1");
        assert_eq!(foreign.settings.command, ["sh", "-c"]);
        meta.store(&mut container).unwrap();
        assert_eq!(Meta::of(&container).unwrap(), meta);
        let leaving = Meta { removing: true, with_volumes: true, ..meta };
        leaving.store(&mut container).unwrap();
        assert_eq!(Meta::of(&container).unwrap(), leaving);
    }

    #[test]
    fn damage_is_reported() {
        let mut container = Container::default();
        let any = Any { type_url: EXTENSION.into(), value: b"{".to_vec() };
        container.extensions.insert(EXTENSION.into(), any);
        assert_eq!(Meta::of(&container).unwrap_err().kind(), gantry_core::Kind::DataLoss);
    }
}
