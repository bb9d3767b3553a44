//! What is stored of a container beside containerd's own fields.

use gantry_core::containers::Container;
use gantry_core::{Any, Error, Labels, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Idempotency;

/// Name of the extension in a container's record, and type URL of its value:
/// JSON of what the engine knows.
pub const EXTENSION: &str = "gantry.engine.v1";

/// Label that holds a container's name, for those who see only the record.
pub const NAME_LABEL: &str = "io.gantry.name";

/// How a container is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network of its own with nothing but a loopback interface.
    #[default]
    None,
    /// The host's.
    Host,
}

impl Network {
    /// `none` or `host`.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::None => "none",
            Network::Host => "host",
        }
    }
}

/// How a container was asked to be; never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Network.
    pub network: Network,
    /// Goes when it has ended.
    pub auto_remove: bool,
    /// Signal for a stop.
    pub stop_signal: u32,
    /// Recorded output is rotated at this many bytes; 0 for the shim's default.
    pub log_max_size: u64,
    /// So many files of it are kept; 0 for the shim's default.
    pub log_max_files: u32,
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
    /// Its record exists; its file system is being made. Nobody was told of it.
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
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Whether there is a process.
    pub fn is_running(self) -> bool {
        matches!(self, Phase::Running | Phase::Paused)
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
    }

    #[test]
    fn damage_is_reported() {
        let mut container = Container::default();
        let any = Any { type_url: EXTENSION.into(), value: b"{".to_vec() };
        container.extensions.insert(EXTENSION.into(), any);
        assert_eq!(Meta::of(&container).unwrap_err().kind(), gantry_core::Kind::DataLoss);
    }
}
