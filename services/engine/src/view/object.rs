//! A container as one object.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_core::containers::Container;
use gantry_core::{Context, Mount, Timestamp};
use serde_json::Value;

use super::mounts::{Place, Places};
use super::{Summary, config, host_config, mounts, network};
use crate::Engine;
use crate::fields::{Fields, listed};
use crate::files::ContainerFiles;
use crate::image_config::Runtime as ImageRuntime;
use crate::model::{LOG_DRIVER, MountKind, Phase, Settings, State};
use crate::mounts::of_kind;

/// Docker's word for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Our snapshotter that has layers to tell of. One of another program may let its callers wait.
const OVERLAY: &str = "overlayfs";

/// A container with all that is known of it.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) summary: &'a Summary,
    pub(super) container: &'a Container,
    pub(super) files: ContainerFiles,
    /// What its image says; `None` where that is gone.
    pub(super) image: Option<ImageRuntime>,
    /// Where its volumes are.
    pub(super) volumes: Places,
    /// The directories that make its file system.
    pub(super) layers: Option<BTreeMap<&'static str, String>>,
    /// Its health, when that is checked.
    pub(super) health: Option<Value>,
    /// IDs of its further processes.
    pub(super) execs: Vec<String>,
    /// Whether this host can be told not to end processes for want of memory.
    pub(super) can_spare: bool,
}

impl Engine {
    /// Looks up what is known of a container beside its record. Never waits for a shim.
    pub(super) async fn object<'a>(
        &self,
        ctx: &Context,
        summary: &'a Summary,
        container: &'a Container,
        execs: Vec<String>,
    ) -> Object<'a> {
        Object {
            summary,
            container,
            files: match self.name_files(ctx, &container.id, &summary.settings).await {
                Ok(files) => files,
                // The daemon ends.
                Err(_) => self.files(ctx, &container.id),
            },
            image: self.runtime_of(ctx, &summary.image_id).await,
            volumes: self.places(ctx, &summary.settings).await,
            layers: self.layers(ctx, container, summary.state.pid).await,
            health: self.shown_health(ctx, summary).await,
            execs,
            can_spare: self.host.facts().oom_kill_disable,
        }
    }

    /// Where a container's volumes are.
    async fn places(&self, ctx: &Context, settings: &Settings) -> Places {
        let mut places = Places::new();
        for mount in of_kind(settings, MountKind::Volume) {
            let place = match self.parts.volumes.get(ctx, &mount.source).await {
                Ok(volume) => {
                    Place { read_only: volume.is_read_only(), path: text(&volume.mountpoint) }
                }
                // It is being made, or is gone.
                Err(_) => Place {
                    read_only: false,
                    path: text(&self.parts.volumes.place(ctx, &mount.source)),
                },
            };
            places.insert(mount.source.clone(), place);
        }
        places
    }

    async fn layers(
        &self,
        ctx: &Context,
        container: &Container,
        pid: u32,
    ) -> Option<BTreeMap<&'static str, String>> {
        if container.snapshotter != OVERLAY || container.snapshot_key.is_empty() {
            return None;
        }
        let snapshotter = self.parts.snapshotters.get(OVERLAY).ok()?;
        layers(&snapshotter.mounts(ctx, &container.snapshot_key).await.ok()?, pid)
    }
}

/// The directories of an overlay, by Docker's names. It is mounted where nobody but the
/// container sees it, so that it can be reached by way of its first process only.
fn layers(mounts: &[Mount], pid: u32) -> Option<BTreeMap<&'static str, String>> {
    let [only] = mounts else { return None };
    if only.kind != "overlay" {
        return None;
    }
    let option = |name: &str| {
        let of = |option: &String| Some(option.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        only.options.iter().find_map(of)
    };
    let merged = (pid > 0).then(|| format!("/proc/{pid}/root"));
    let all = [
        ("LowerDir", option("lowerdir")),
        ("MergedDir", merged),
        ("UpperDir", option("upperdir")),
        ("WorkDir", option("workdir")),
    ];
    Some(all.into_iter().filter_map(|(name, path)| Some((name, path?))).collect())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn time(t: Timestamp) -> String {
    if t.is_unset() { NEVER.to_owned() } else { t.to_string() }
}

impl Object<'_> {
    /// With Docker's field names.
    pub(super) fn fields(&self) -> Fields {
        let Self { summary, container, files, .. } = self;
        let settings = &summary.settings;
        let mut args = settings.args();
        let path = args.next().map_or("", String::as_str);
        // Of the drivers with files, Docker shows it of this one only.
        let is_json = settings.flags.log_driver() == LOG_DRIVER;
        let graph =
            Fields::default().with("Data", &self.layers).with("Name", &container.snapshotter);
        Fields::default()
            .with("Id", &summary.id)
            .with("Created", time(summary.created_at))
            .with("Path", path)
            .with("Args", args.collect::<Vec<_>>())
            .with("State", state(&summary.state, self.health.as_ref()))
            .with("Image", &summary.image_id)
            .with("ResolvConfPath", text(&files.resolv_conf))
            .with("HostnamePath", text(&files.hostname))
            .with("HostsPath", text(&files.hosts))
            .with("LogPath", if is_json { text(&files.log) } else { String::new() })
            .with("Name", format!("/{}", summary.name))
            .with("RestartCount", summary.state.restart_count)
            .with("Driver", &container.snapshotter)
            .with("Platform", "linux")
            .with("MountLabel", "")
            .with("ProcessLabel", "")
            .with("AppArmorProfile", "")
            .with("ExecIDs", listed(&self.execs))
            .with("HostConfig", host_config::fields(self))
            .with("GraphDriver", graph)
            .with("Mounts", mounts::points(settings, &self.volumes))
            .with("Config", config::fields(self))
            .with("NetworkSettings", network::fields(summary))
    }
}

fn state(state: &State, health: Option<&Value>) -> Fields {
    let phase = state.phase;
    Fields::default()
        .with("Status", phase.as_str())
        // As in Docker also while it waits for its restart.
        .with("Running", phase.is_active())
        .with("Paused", phase == Phase::Paused)
        .with("Restarting", phase == Phase::Restarting)
        .with("OOMKilled", state.oom_killed)
        .with("Dead", phase == Phase::Dead)
        .with("Pid", state.pid)
        .with("ExitCode", state.exit_code)
        .with("Error", &state.error)
        .with("StartedAt", time(state.started_at))
        .with("FinishedAt", time(state.finished_at))
        .with_some("Health", health)
}

#[cfg(test)]
mod tests;
