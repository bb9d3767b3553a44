//! Shims that die without having been told to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::db::blocking;
use gantry_core::tasks::Exit;
use gantry_core::{Any, Context, Error, Result, Timestamp, faults};
use gantry_ttrpc::containerd::events::{TaskDelete, TaskExit};
use gantry_ttrpc::containerd::task::v3::DeleteResponse;
use gantry_ttrpc::{any, convert};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::{Message, Name};
use tokio::net::UnixStream;

use crate::bundle::Bundle;
use crate::manager::Inner;
use crate::runtime::Program;
use crate::shim::{self, Shim};
use crate::task::{KILLED, Life, Task};
use crate::{launch, rootfs};

/// For `SHIM delete`: cgroups of many processes take a while to empty.
const DELETE: Duration = Duration::from_secs(30);

/// Watches a task's connection. When it ends, either the shim still listens
/// and is connected to again, or it is dead and its task with it.
pub(crate) async fn watch(inner: Arc<Inner>, task: Arc<Task>) {
    let mut life = task.life();
    loop {
        let shim = task.shim();
        tokio::select! {
            () = shim.connection().closed() => {}
            _ = life.wait_for(|life| !matches!(life, Life::Connected(_))) => return,
        }
        let _leaving = task.leaving.lock().await;
        if task.is_gone() {
            return;
        }
        match Shim::find(&shim.endpoint, &task.bundle.namespace).await {
            Ok(Some(shim)) => task.reconnected(shim),
            Ok(None) => {
                tracing::warn!(id = %task.bundle.id, "the shim is gone");
                bury(&inner, &task).await;
                return;
            }
            // It may well live: the next round tries again.
            Err(err) => tracing::warn!(id = %task.bundle.id, error = %err, "reach the shim again"),
        }
    }
}

/// Cleans up after a dead shim, and tells everybody.
pub(crate) async fn bury(inner: &Arc<Inner>, task: &Arc<Task>) {
    let seen = task.exit();
    let (pid, found) = clean(inner, &task.bundle, &task.program).await;
    let exit = seen.unwrap_or(found);
    let pid = if pid == 0 { task.init().pid } else { pid };
    inner.forget(task);
    task.died(exit);
    announce(inner, &task.bundle, pid, exit);
}

/// Cleans up after a dead shim. Returns the first process' ID and exit, as far as they are
/// known. What could not be cleaned up stays for the next create of this ID, or the
/// daemon's next start.
pub(crate) async fn clean(inner: &Inner, bundle: &Bundle, program: &Program) -> (u32, Exit) {
    // Removing the bundle may fail when the record in it is gone already.
    let recorded = recorded(bundle).await;
    match tear_down(inner, bundle, program).await {
        Ok(cleaned) => cleaned,
        Err(err) => {
            tracing::warn!(id = %bundle.id, error = %err, "clean up after a dead shim");
            recorded.unwrap_or_else(|| (0, killed()))
        }
    }
}

async fn recorded(bundle: &Bundle) -> Option<(u32, Exit)> {
    let bundle = bundle.clone();
    blocking(move || Ok(bundle.recorded_exit())).await.ok().flatten()
}

/// An exit of which nothing is known but that it happened.
pub(crate) fn killed() -> Exit {
    Exit { status: KILLED, at: Timestamp::now() }
}

/// Publishes what a living shim would have published. Even of an end that was seen it may
/// have died before it said so to everybody: better twice than never.
pub(crate) fn announce(inner: &Inner, bundle: &Bundle, pid: u32, exit: Exit) {
    let ctx = Context::new(bundle.namespace.clone());
    let exited_at = Some(convert::timestamp(exit.at));
    let event = TaskExit {
        container_id: bundle.id.clone(),
        id: bundle.id.clone(),
        pid,
        exit_status: exit.status,
        exited_at,
    };
    publish(inner, &ctx, "/tasks/exit", &event);
    let event = TaskDelete {
        container_id: bundle.id.clone(),
        pid,
        exit_status: exit.status,
        exited_at,
        id: String::new(),
    };
    publish(inner, &ctx, "/tasks/delete", &event);
}

/// Publishes an event of the daemon's own.
pub(crate) fn publish<M: Name>(inner: &Inner, ctx: &Context, topic: &str, event: &M) {
    let packed = any::pack(event);
    let event = Any { type_url: packed.type_url, value: packed.value };
    if let Err(err) = inner.events.publish(ctx, topic, event) {
        tracing::warn!(topic, error = %err, "publish");
    }
}

/// Has the shim's program clean up what its process left, and removes the
/// bundle. Returns the first process' ID and exit, as far as they are known.
///
/// # Errors
/// The program fails, and there may be something left that only it can take away: the
/// bundle stays, which a further try needs. The bundle can't be removed.
pub(crate) async fn tear_down(
    inner: &Inner,
    bundle: &Bundle,
    program: &Program,
) -> Result<(u32, Exit)> {
    let recorded = recorded(bundle).await;
    let mut command = launch::command(&inner.config, bundle, program);
    command.arg("-bundle").arg(&bundle.path).arg("delete");
    let told = match launch::run(&inner.config, command, &[], DELETE).await {
        Ok(output) => DeleteResponse::decode(output.as_slice()).ok(),
        Err(err) => {
            let (left, program) = (bundle.clone(), program.clone());
            if blocking(move || Ok(left.is_in_use(&program))).await? {
                return Err(err.context("the shim's clean-up"));
            }
            tracing::warn!(id = %bundle.id, error = %err, "the shim's clean-up");
            None
        }
    };
    let told = told.map(|answer| shim::deleted(&answer));
    let (pid, exit) = recorded.or(told).unwrap_or_else(|| (0, killed()));
    let exit = if exit.at.is_unset() { Exit { at: Timestamp::now(), ..exit } } else { exit };
    rootfs::deactivate(inner, bundle).await;
    let bundle = bundle.clone();
    blocking(move || bundle.remove()).await?;
    Ok((pid, exit))
}

/// Cleans up behind a shim that does not go by itself, and ends it if it is our own and
/// nobody else's.
///
/// # Errors
/// Those of [`tear_down`].
pub(crate) async fn force(
    inner: &Inner,
    bundle: &Bundle,
    program: &Program,
    shim: &Shim,
) -> Result<()> {
    let guest = bundle.is_guest();
    let cleaned = tear_down(inner, bundle, program).await;
    if program.own && !guest && !inner.shares_shim(bundle, shim) && !shim.connection().is_closed() {
        tracing::warn!(id = %bundle.id, "kill a shim that does not go");
        if let Err(err) = kill_shim(shim, program).await {
            tracing::warn!(id = %bundle.id, error = %err, "kill a shim");
        }
    }
    cleaned.map(drop)
}

/// Kills the shim of a task, which is then cleaned up after as after any that dies.
///
/// # Errors
/// `FailedPrecondition` for a shim that is not our own, or has other containers: it lives on. It
/// can't be killed.
pub(crate) async fn end(inner: &Inner, task: &Task) -> Result<()> {
    let (bundle, shim) = (&task.bundle, task.shim());
    if task.is_gone() {
        return Ok(());
    }
    if !task.program.own || task.guest || inner.shares_shim(bundle, &shim) {
        return Err(Error::failed_precondition(format!(
            "kill the shim of container {}: it is another runtime's, or has other containers",
            bundle.id
        )));
    }
    tracing::warn!(id = %bundle.id, "kill a shim that does not answer");
    kill_shim(&shim, &task.program).await
}

/// Cleans up after a create that failed, by force behind a shim that does not go. What
/// stays is found by the next create, or at the daemon's next start.
pub(crate) async fn undo(
    inner: &Inner,
    bundle: &Bundle,
    program: &Program,
    hanging: Option<&Shim>,
) {
    let cleaned = match hanging {
        Some(shim) => force(inner, bundle, program, shim).await,
        None => tear_down(inner, bundle, program).await.map(drop),
    };
    if let Err(err) = cleaned {
        tracing::warn!(id = %bundle.id, error = %err, "clean up after a failed create");
    }
}

/// Whether this says that there is no such process any more.
fn has_gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::ConnectionRefused
        || err.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// Kills the process that listens where this connection leads. One that has gone is no error.
async fn kill_shim(shim: &Shim, program: &Program) -> Result<()> {
    let path = shim.endpoint.socket()?;
    let failed = |err| Error::io(format!("kill the shim at {path}"), err);
    let peer = match UnixStream::connect(path).await.and_then(|peer| peer.peer_cred()) {
        Err(err) if has_gone(&err) => return Ok(()),
        peer => peer.map_err(failed)?,
    };
    let pid = peer.pid().unwrap_or_default();
    // Of a shim that was started long ago this may be its parent, whose number is
    // somebody else's by now.
    let line = match tokio::fs::read(format!("/proc/{pid}/cmdline")).await {
        Err(err) if has_gone(&err) => return Ok(()),
        line => line.map_err(failed)?,
    };
    if !line.starts_with(program.path.as_os_str().as_encoded_bytes()) {
        return Err(Error::not_found(format!("process {pid} at {path} is no shim: not found")));
    }
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(err) => return Err(failed(err.into())),
    }
    // It can't any more.
    let remove = tokio::fs::remove_file(path);
    let _ = faults::around_async("remove the socket of a shim", remove).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_that_has_gone_needs_no_kill() {
        assert!(has_gone(&Errno::ESRCH.into()) && has_gone(&Errno::ECONNREFUSED.into()));
        assert!(!has_gone(&Errno::EPERM.into()) && !has_gone(&Errno::EAGAIN.into()));
    }
}
