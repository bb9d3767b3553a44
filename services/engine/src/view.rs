//! Containers as they are listed and inspected.

use gantry_core::containers::Container;
use gantry_core::history::Cursor;
use gantry_core::{Context, Labels, Result, Timestamp};
use serde_json::{Value, json};

use crate::Engine;
use crate::files::ContainerFiles;
use crate::lifecycle::current;
use crate::model::{Meta, Network, Phase, Settings, State};
use crate::signal;

/// A container in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// 64 hex digits, unless another client made it.
    pub id: String,
    /// Name.
    pub name: String,
    /// Image as it was named.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// How it was asked to be.
    pub settings: Settings,
    /// What it does.
    pub state: State,
}

impl Summary {
    /// Puts together what is known of a container.
    pub(crate) fn of(container: &Container, meta: Meta, state: State) -> Self {
        Self {
            id: container.id.clone(),
            name: meta.name,
            image: meta.image,
            image_id: meta.image_id,
            labels: meta.labels,
            created_at: container.created_at,
            settings: meta.settings,
            state,
        }
    }
}

impl Engine {
    /// [`Engine::list`] with the position in the history as of which it is true: every
    /// change that is told behind it is not in the list yet, or shows there already.
    /// `None` while events can't be stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_at(
        &self,
        ctx: &Context,
        all: bool,
    ) -> Result<(Vec<Summary>, Option<Cursor>)> {
        // First: a change is made before it is told.
        let cursor = self.parts.history.cursor().await;
        if let Err(err) = &cursor {
            tracing::warn!(error = %err, "list containers without a cursor");
        }
        Ok((self.list(ctx, all).await?, cursor.ok()))
    }

    /// Containers, newest first: those that run, or all. Never waits for a shim.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, ctx: &Context, all: bool) -> Result<Vec<Summary>> {
        let tasks = self.parts.tasks.list(ctx).await?;
        let mut found = Vec::new();
        for (container, meta) in self.store.list(ctx).await? {
            let task = tasks.iter().find(|task| task.container_id == container.id);
            let known = self.live.state(&ctx.namespace, &container.id);
            let stored = meta.state.phase;
            let state = current(&meta, known, task);
            // Nobody was told of one that is being made: what is stored says first that it is.
            let unmade = state.phase == Phase::Creating && stored == Phase::Creating;
            if !unmade && (all || state.phase.is_running()) {
                found.push(Summary::of(&container, meta, state));
            }
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// One container, with all that is known of it as JSON with Docker's field names.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when several IDs begin so.
    pub async fn inspect(&self, ctx: &Context, text: &str) -> Result<(Summary, String)> {
        let found = self.find(ctx, text).await?;
        let files = self.files(ctx, &found.container.id);
        let summary = Summary::of(&found.container, found.meta, found.state);
        let json = inspect(&summary, &found.container, &files);
        Ok((summary, json.to_string()))
    }
}

/// Docker's word for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time(t: Timestamp) -> String {
    if t.is_unset() { NEVER.to_owned() } else { t.to_string() }
}

fn inspect(summary: &Summary, container: &Container, files: &ContainerFiles) -> Value {
    let settings = &summary.settings;
    let mut args = settings.args();
    let path = args.next().map_or("", String::as_str);
    json!({
        "Id": summary.id,
        "Created": time(summary.created_at),
        "Path": path,
        "Args": args.collect::<Vec<_>>(),
        "State": state(&summary.state),
        "Image": summary.image_id,
        "ResolvConfPath": files.resolv_conf,
        "HostnamePath": files.hostname,
        "HostsPath": files.hosts,
        "LogPath": files.log,
        "Name": format!("/{}", summary.name),
        "RestartCount": 0,
        "Driver": container.snapshotter,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(settings, &container.runtime.name),
        "GraphDriver": {"Name": container.snapshotter, "Data": null},
        "Mounts": [],
        "Config": config(summary),
        "NetworkSettings": network_settings(settings.network),
    })
}

fn state(state: &State) -> Value {
    json!({
        "Status": state.phase.as_str(),
        "Running": state.phase.is_running(),
        "Paused": state.phase == Phase::Paused,
        "Restarting": false,
        "OOMKilled": state.oom_killed,
        "Dead": state.phase == Phase::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
    })
}

fn host_config(settings: &Settings, runtime: &str) -> Value {
    let mut log = Labels::new();
    if settings.log_max_size > 0 {
        log.insert("max-size".into(), settings.log_max_size.to_string());
    }
    if settings.log_max_files > 0 {
        log.insert("max-file".into(), settings.log_max_files.to_string());
    }
    json!({
        "Binds": null,
        "LogConfig": {"Type": "json-file", "Config": log},
        "NetworkMode": settings.network.as_str(),
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": settings.auto_remove,
        "Privileged": false,
        "ReadonlyRootfs": false,
        "CapAdd": null,
        "CapDrop": null,
        "CgroupnsMode": "private",
        "IpcMode": "private",
        "ShmSize": 64 << 20,
        "Runtime": runtime,
    })
}

fn config(summary: &Summary) -> Value {
    let settings = &summary.settings;
    let some = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    json!({
        "Hostname": settings.hostname,
        "Domainname": "",
        "User": settings.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": settings.tty,
        "OpenStdin": settings.open_stdin,
        "Env": settings.env,
        "Cmd": some(&settings.command),
        "Image": summary.image,
        "Volumes": null,
        "WorkingDir": settings.working_dir,
        "Entrypoint": some(&settings.entrypoint),
        "Labels": summary.labels,
        "StopSignal": signal::name(settings.stop_signal),
    })
}

fn network_settings(network: Network) -> Value {
    let endpoint = json!({
        "IPAddress": "",
        "IPPrefixLen": 0,
        "Gateway": "",
        "MacAddress": "",
        "NetworkID": "",
        "EndpointID": "",
    });
    json!({
        "IPAddress": "",
        "IPPrefixLen": 0,
        "Gateway": "",
        "MacAddress": "",
        "Ports": {},
        "Networks": {network.as_str(): endpoint},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn dockers_names() {
        let container = Container { id: "c1".into(), ..Container::default() };
        let meta = Meta {
            name: "web".into(),
            settings: Settings {
                command: vec!["sh".into(), "-c".into(), "x".into()],
                stop_signal: 15,
                ..Settings::default()
            },
            ..Meta::default()
        };
        let state = State { phase: Phase::Exited, exit_code: 3, ..State::default() };
        let summary = Summary::of(&container, meta, state);
        let files = ContainerFiles::below(Path::new("/r"), "c1");
        let json = inspect(&summary, &container, &files);
        assert_eq!(json["Name"], "/web");
        assert_eq!((&json["Path"], &json["Args"]), (&json!("sh"), &json!(["-c", "x"])));
        assert_eq!(json["State"]["Status"], "exited");
        assert_eq!(json["State"]["ExitCode"], 3);
        assert_eq!(json["State"]["StartedAt"], NEVER);
        assert_eq!(json["HostConfig"]["NetworkMode"], "none");
        assert_eq!(json["Config"]["StopSignal"], "SIGTERM");
        assert_eq!(json["Config"]["Entrypoint"], Value::Null);
        assert_eq!(json["NetworkSettings"]["Networks"]["none"]["IPAddress"], "");
    }
}
