//! Between the wire's messages and the engine's types.

use gantry_core::images::{LayerPhase, Progress, PullRequest};
use gantry_core::{Digest, Error, Platform, Timestamp};
use gantry_grpc::convert::timestamp;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::{
    pull_progress, session_input::Input, session_output::Output,
};
use gantry_grpc::status::to_detailed;
use prost::Message;
use tonic::Status;

use super::{networks, wishes};
use crate::health::HealthStatus;
use crate::logs::{LogCursor, LogEntry, LogOptions};
use crate::model::{MountKind, MountSetting, Phase};
use crate::options::{
    AttachRequest, ContainerOptions, ExecRequest, Pull, RunRequest, SessionInput, SessionOutput,
    Size,
};
use crate::{Change, ContainerFilter, Idempotency, ImageSummary, Listing, Summary, Until, Update};

/// What a container is made of, when to pull its image, and for which platform.
type CreateRequest = (ContainerOptions, Pull, Option<Platform>);

/// The status of a request that says something wrong.
pub(super) fn invalid(message: impl Into<String>) -> Status {
    to_detailed(Error::invalid_argument(message))
}

pub(super) fn set_time(t: Timestamp) -> Option<prost_types::Timestamp> {
    (!t.is_unset()).then(|| timestamp(t))
}

/// `linux/arm64/v8`; `None` when empty.
pub(super) fn platform(text: &str) -> Result<Option<Platform>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts[..] {
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
        _ => ("", "", None),
    };
    if os.is_empty() || architecture.is_empty() {
        return Err(invalid(format!(
            "platform {text:?} must be like linux/amd64 or linux/arm64/v8"
        )));
    }
    Ok(Some(Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant,
        os_version: None,
    }))
}

/// A size that a terminal can have.
pub(super) fn size(wire: Option<api::Resize>) -> Option<Size> {
    let wire = wire?;
    let columns = u16::try_from(wire.columns).ok()?;
    let rows = u16::try_from(wire.rows).ok()?;
    (columns > 0 && rows > 0).then_some(Size { columns, rows })
}

pub(super) fn pull(wire: i32) -> Result<Pull, Status> {
    match api::PullPolicy::try_from(wire) {
        Ok(api::PullPolicy::Missing) => Ok(Pull::Missing),
        Ok(api::PullPolicy::Always) => Ok(Pull::Always),
        Ok(api::PullPolicy::Never) => Ok(Pull::Never),
        Err(_) => Err(invalid(format!("unknown pull policy {wire}"))),
    }
}

/// The key of a request; `None` when empty. What counts is all that the container is made of.
pub(super) fn idempotency(
    key: String,
    spec: Option<&api::ContainerSpec>,
    platform: &str,
) -> Option<Idempotency> {
    if key.is_empty() {
        return None;
    }
    let platform = platform.to_owned();
    let spec = spec.cloned();
    let same = api::CreateContainerRequest { spec, platform, ..Default::default() };
    Some(Idempotency { key, request: Digest::of(&same.encode_to_vec()) })
}

/// What a container is to be made of.
pub(super) fn create(wire: api::CreateContainerRequest) -> Result<CreateRequest, Status> {
    let pull = pull(wire.pull)?;
    let idempotency = idempotency(wire.idempotency_key, wire.spec.as_ref(), &wire.platform);
    let options = ContainerOptions { idempotency, ..wishes::options(wire.spec)? };
    Ok((options, pull, platform(&wire.platform)?))
}

pub(super) fn run(wire: api::RunContainer) -> Result<RunRequest, Status> {
    let idempotency = idempotency(wire.idempotency_key, wire.spec.as_ref(), &wire.platform);
    Ok(RunRequest {
        options: ContainerOptions { idempotency, ..wishes::options(wire.spec)? },
        detach: wire.detach,
        pull: pull(wire.pull)?,
        platform: platform(&wire.platform)?,
        attach_stdin: wire.attach_stdin,
        size: size(wire.size),
    })
}

pub(super) fn exec(wire: api::ExecProcess) -> ExecRequest {
    ExecRequest {
        container: wire.container,
        command: wire.command,
        env: wire.env,
        working_dir: wire.working_dir,
        user: wire.user,
        tty: wire.tty,
        attach_stdin: wire.attach_stdin,
        detach: wire.detach,
        size: size(wire.size),
        privileged: wire.privileged,
    }
}

pub(super) fn attach(wire: api::AttachContainer) -> AttachRequest {
    AttachRequest {
        container: wire.container,
        stdin: wire.attach_stdin,
        size: size(wire.size),
        start: wire.start,
    }
}

pub(super) fn listing(wire: api::ListContainersRequest) -> Result<Listing, Status> {
    let filter = ContainerFilter::listing(&wire.filters).map_err(to_detailed)?;
    Ok(Listing { all: wire.all, filter, last: wire.last as usize })
}

pub(super) fn update(wire: api::UpdateContainerRequest) -> Result<(String, Update), Status> {
    let resources = wire.resources.map(wishes::resources).transpose()?.unwrap_or_default();
    let restart = wire.restart.map(wishes::restart).transpose()?;
    Ok((wire.container, Update { resources, restart }))
}

pub(super) fn until(wire: i32) -> Result<Until, Status> {
    match api::WaitCondition::try_from(wire) {
        Ok(api::WaitCondition::NotRunning) => Ok(Until::NotRunning),
        Ok(api::WaitCondition::NextExit) => Ok(Until::NextEnd),
        Ok(api::WaitCondition::Removed) => Ok(Until::Removed),
        Err(_) => Err(invalid(format!("unknown condition {wire}"))),
    }
}

/// What a caller says after the first message; `None` for what belongs there.
pub(super) fn input(wire: api::SessionInput) -> Option<SessionInput> {
    match wire.input? {
        Input::Stdin(bytes) => Some(SessionInput::Stdin(bytes)),
        Input::StdinEnd(_) => Some(SessionInput::StdinEnd),
        Input::Resize(wire) => size(Some(wire)).map(SessionInput::Resize),
        Input::Signal(signal) => Some(SessionInput::Signal(signal)),
        Input::Detach(_) => Some(SessionInput::Detach),
        Input::Run(_) | Input::Exec(_) | Input::Attach(_) => None,
    }
}

pub(super) fn output(output: SessionOutput) -> api::SessionOutput {
    let output = match output {
        SessionOutput::Progress(p) => Output::Progress(progress(p)),
        SessionOutput::Created { id, name, warnings, existing } => {
            Output::Created(api::SessionCreated { id, name, warnings, existing })
        }
        SessionOutput::Started { pid } => Output::Started(api::SessionStarted { pid }),
        SessionOutput::Stdout(bytes) => Output::Stdout(bytes),
        SessionOutput::Stderr(bytes) => Output::Stderr(bytes),
        SessionOutput::Exited { status, error } => {
            Output::Exited(api::SessionExited { status, error })
        }
    };
    api::SessionOutput { output: Some(output) }
}

pub(super) fn pull_request(wire: api::PullImageRequest) -> Result<PullRequest, Status> {
    let credentials = (!wire.username.is_empty()).then_some((wire.username, wire.password));
    Ok(PullRequest {
        reference: wire.reference,
        platform: platform(&wire.platform)?,
        credentials,
        ..PullRequest::default()
    })
}

pub(super) fn progress(progress: Progress) -> api::PullProgress {
    let event = match progress {
        Progress::Resolved { name, target } => {
            let digest = target.digest.to_string();
            pull_progress::Event::Resolved(pull_progress::Resolved { name, digest })
        }
        Progress::Layer { digest, phase, done, total } => {
            let phase = match phase {
                LayerPhase::Waiting => pull_progress::Phase::Waiting,
                LayerPhase::Downloading => pull_progress::Phase::Downloading,
                LayerPhase::Extracting => pull_progress::Phase::Extracting,
                LayerPhase::Exists => pull_progress::Phase::Exists,
                LayerPhase::Complete => pull_progress::Phase::Complete,
            };
            let (digest, phase) = (digest.to_string(), phase.into());
            pull_progress::Event::Layer(pull_progress::Layer { digest, phase, done, total })
        }
        Progress::Done { image, up_to_date } => {
            let digest = image.target.digest.to_string();
            pull_progress::Event::Done(pull_progress::Done { name: image.name, digest, up_to_date })
        }
    };
    api::PullProgress { event: Some(event) }
}

pub(crate) fn container(summary: Summary) -> api::Container {
    let state = match summary.state.phase {
        Phase::Creating | Phase::Created => api::ContainerState::Created,
        Phase::Running => api::ContainerState::Running,
        Phase::Paused => api::ContainerState::Paused,
        Phase::Exited => api::ContainerState::Exited,
        Phase::Restarting => api::ContainerState::Restarting,
        Phase::Removing | Phase::Dead => api::ContainerState::Dead,
    };
    api::Container {
        ports: networks::ports(&summary),
        network: summary.settings.network_names().join(","),
        command: summary.settings.args().cloned().collect(),
        id: summary.id,
        name: summary.name,
        image: summary.image,
        image_id: summary.image_id,
        created_at: set_time(summary.created_at),
        state: state.into(),
        exit_code: summary.state.exit_code,
        pid: summary.state.pid,
        labels: summary.labels,
        started_at: set_time(summary.state.started_at),
        finished_at: set_time(summary.state.finished_at),
        tty: summary.settings.tty,
        error: summary.state.error,
        oom_killed: summary.state.oom_killed,
        mounts: shown_mounts(&summary.settings.mounts),
        health: health(summary.state.health).into(),
        ..api::Container::default()
    }
}

fn health(health: HealthStatus) -> api::HealthStatus {
    match health {
        HealthStatus::None => api::HealthStatus::None,
        HealthStatus::Starting => api::HealthStatus::Starting,
        HealthStatus::Healthy => api::HealthStatus::Healthy,
        HealthStatus::Unhealthy => api::HealthStatus::Unhealthy,
    }
}

/// Names of volumes, and paths on the host.
fn shown_mounts(mounts: &[MountSetting]) -> Vec<String> {
    let shown = mounts.iter().filter(|mount| mount.kind != MountKind::Tmpfs);
    shown.map(|mount| mount.source.clone()).collect()
}

pub(super) fn change(change: Change) -> api::ContainerChange {
    api::ContainerChange {
        cursor: change.cursor.to_string(),
        time: Some(timestamp(change.at)),
        action: change.action.into(),
        container: Some(change.container),
    }
}

/// Of which container a log is wanted, and what of it.
pub(super) fn logs(wire: api::LogsRequest) -> Result<(String, LogOptions), Status> {
    let time = |t: prost_types::Timestamp| Timestamp { seconds: t.seconds, nanos: t.nanos };
    let cursor = (!wire.cursor.is_empty()).then(|| wire.cursor.parse::<LogCursor>()).transpose();
    let options = LogOptions {
        follow: wire.follow,
        tail: u64::try_from(wire.tail).ok(),
        since: wire.since.map(time),
        until: wire.until.map(time),
        details: wire.details,
        cursor: cursor.map_err(to_detailed)?,
        start_cursor: wire.start_cursor,
    };
    Ok((wire.container, options))
}

pub(super) fn log_entry(entry: LogEntry) -> api::LogEntry {
    api::LogEntry {
        stderr: entry.stderr,
        data: entry.data,
        time: set_time(entry.time),
        partial: entry.partial,
        gap: entry.gap,
        cursor: entry.cursor.to_string(),
        attributes: entry.attributes.map(|all| (*all).clone()).unwrap_or_default(),
    }
}

pub(super) fn image(summary: ImageSummary) -> api::Image {
    api::Image {
        id: summary.id.map(|id| id.to_string()).unwrap_or_default(),
        name: summary.name,
        repository: summary.repository,
        tag: summary.tag,
        digest: summary.digest.to_string(),
        created_at: set_time(summary.created_at),
        size: summary.size,
        labels: summary.labels,
        damage: summary.damage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        assert_eq!(platform("").unwrap(), None);
        let arm = platform("linux/arm64/v8").unwrap().unwrap();
        assert_eq!((arm.architecture.as_str(), arm.variant.as_deref()), ("arm64", Some("v8")));
        for bad in ["linux", "/amd64", "a/b/c/d"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_that_no_terminal_has() {
        let resize = |columns, rows| size(Some(api::Resize { columns, rows }));
        assert_eq!(resize(80, 24), Some(Size { columns: 80, rows: 24 }));
        assert_eq!(resize(0, 24), None);
        assert_eq!(resize(80, 70_000), None);
        assert_eq!(size(None), None);
    }
}
