//! Where a container's files are found.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use gantry_archive::own_umask;
use gantry_archive::walk::{Dir, Links, Node, Walker};
use gantry_core::tasks::Status;
use gantry_core::{Context, Error, Kind, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{CWD, Mode, OFlags, openat, stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use tokio::sync::MutexGuard;
use tokio::time::timeout;

use super::mounts::{Part, Plan, Private};
use crate::Engine;
use crate::lifecycle::Found;
use crate::model::{Phase, State};
use crate::specification::Moment;

/// How long a shim may take to say that its container runs.
const SHIM: Duration = Duration::from_secs(5);
/// Below the state directory: where a container's files are mounted, out of everybody's sight.
const SCRATCH: &str = "copy";

/// What is done to a container's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// They are read. What is missing of mount points is made in memory.
    Read,
    /// They are written.
    Write,
}

/// A way to a container's files.
pub(super) enum View {
    /// As its first process sees them.
    Process {
        pid: Pid,
        /// The very process.
        handle: OwnedFd,
    },
    /// As they will be mounted when it is started.
    Mounted(Plan),
}

/// A container's files, for one thread.
pub(super) struct Entered {
    /// Walks within its root.
    pub(super) walker: Walker,
    /// Behind the walker, which has them open.
    _mounted: Option<Private>,
}

impl Engine {
    /// The way to a container's files. One that does not run can't be started, nor removed,
    /// while the guard lives that comes with the way to write to them.
    pub(super) async fn files_view<'a>(
        &self,
        ctx: &Context,
        found: &'a Found,
        access: Access,
    ) -> Result<(View, Option<MutexGuard<'a, ()>>)> {
        if let Some(process) = self.process_of(ctx, found, &found.state).await? {
            return Ok((process, None));
        }
        let made = !matches!(found.state.phase, Phase::Creating | Phase::Removing);
        if access == Access::Read && made {
            return Ok((View::Mounted(self.files_plan(ctx, found, access).await?), None));
        }
        let busy = found.live.hold().await;
        // It may have been started meanwhile, or be on its way out.
        let state = found.live.now().state.unwrap_or_else(|| found.state.clone());
        if let Some(process) = self.process_of(ctx, found, &state).await? {
            return Ok((process, None));
        }
        if matches!(state.phase, Phase::Creating | Phase::Removing) {
            let name = &found.meta.name;
            return Err(Error::failed_precondition(format!(
                "container {name} is being made or removed: try again"
            ))
            .about("container", name));
        }
        Ok((View::Mounted(self.files_plan(ctx, found, access).await?), Some(busy)))
    }

    /// The first process, if there is one.
    async fn process_of(
        &self,
        ctx: &Context,
        found: &Found,
        state: &State,
    ) -> Result<Option<View>> {
        // A task of another client that is not started yet has its files as well.
        let expected = state.phase.is_running() || found.meta.foreign;
        let pid = i32::try_from(state.pid).ok().filter(|pid| expected && *pid > 0);
        let Some(pid) = pid.and_then(Pid::from_raw) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            other => other.map_err(|err| failed("open a container's process", err))?,
        };
        // The shim reaps it. If it has not done so yet, what was opened is this process, and no
        // later one with its number.
        let id = found.container.id.as_str();
        let task = timeout(SHIM, self.parts.tasks.get(ctx, id, "")).await.map_err(|_| {
            let why = format!("the shim of container {} does not answer", found.meta.name);
            Error::new(Kind::DeadlineExceeded, why).about("container", &found.meta.name)
        })?;
        match task {
            Ok(task) if task.pid == state.pid && task.status != Status::Stopped => {
                Ok(Some(View::Process { pid, handle }))
            }
            Err(err) if !err.is_not_found() => Err(err),
            _ => Ok(None),
        }
    }

    /// How a container's files are mounted while it does not run.
    async fn files_plan(&self, ctx: &Context, found: &Found, access: Access) -> Result<Plan> {
        let (id, settings) = (found.container.id.as_str(), &found.meta.settings);
        let rootfs = self.root_mounts(ctx, found).await?;
        let which = (id, found.container.snapshotter.as_str());
        // Volumes may lie elsewhere by now than the record says.
        let fresh = match found.meta.foreign || settings.mounts.is_empty() {
            true => None,
            false => match self.specification(ctx, which, settings, None, Moment::Making).await {
                Ok((spec, _)) => Some(spec),
                Err(err) => {
                    tracing::debug!(id, error = %err, "the recorded specification has to do");
                    None
                }
            },
        };
        let spec = fresh.as_ref().or(found.container.spec.as_ref());
        let spec = spec.map(|spec| spec.value.as_slice()).unwrap_or_default();
        let spec: Value = serde_json::from_slice(spec).map_err(|err| {
            let what = format!("the specification of container {id} is damaged");
            Error::data_loss(what).with_source(err)
        })?;
        let mounts = spec["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Plan {
            at: self.parts.config.state.join(SCRATCH),
            rootfs,
            parts: mounts.iter().filter_map(Part::of).collect(),
            write: access == Access::Write,
            read_only: spec["root"]["readonly"] == true,
        })
    }
}

impl View {
    /// Opens the container's root. Blocks; for a thread that does nothing else.
    pub(super) fn enter(self) -> Result<Entered> {
        own_umask()?;
        match self {
            Self::Process { pid, handle } => {
                let root = root_of(pid, &handle)?;
                Ok(Entered { walker: walker(root)?, _mounted: None })
            }
            Self::Mounted(plan) => {
                let (root, mounted) = plan.mount()?;
                Ok(Entered { walker: walker(root)?, _mounted: Some(mounted) })
            }
        }
    }
}

/// A walker within a root.
pub(super) fn walker(root: OwnedFd) -> Result<Walker> {
    let root = Node::of(root).map_err(|err| failed("look at a container's root", err))?;
    Ok(Walker::new(Dir::root(root), Links::Follow))
}

/// The root directory of a process.
fn root_of(pid: Pid, handle: &OwnedFd) -> Result<OwnedFd> {
    let of = |whose: &str, what: &str| format!("/proc/{whose}/{what}");
    let number = pid.as_raw_nonzero().to_string();
    let what = "open a container's root";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, of(&number, "root"), flags, Mode::empty());
    // What runs in a machine of its own has a process here that is none of the container's: it
    // sees the host's files.
    let space = |whose: &str| stat(of(whose, "ns/mnt")).map(|found| (found.st_dev, found.st_ino));
    let (theirs, ours) = (space(&number), space("self"));
    let mut polled = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|events| events > 0);
    if ended {
        return Err(Error::unavailable("the container has just ended: try again"));
    }
    let root = root.map_err(|err| failed(what, err))?;
    if theirs.map_err(|err| failed(what, err))? == ours.map_err(|err| failed(what, err))? {
        return Err(Error::failed_precondition(
            "the container's runtime shows its files to nobody here: stop it to reach them",
        ));
    }
    Ok(root)
}

fn failed(what: &str, err: Errno) -> Error {
    Error::io(what, err.into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_sees_the_hosts_files_is_refused() {
        let pid = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let err = root_of(pid, &handle).unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition, "{err}");
    }

    #[test]
    fn a_process_that_has_ended_is_not_taken_for_another() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        let err = root_of(pid, &handle).err().unwrap();
        assert_eq!(err.kind(), Kind::Unavailable, "{err}");
    }
}
