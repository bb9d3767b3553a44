//! Making tasks, and taking them away.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::containers::Container;
use gantry_core::db::blocking;
use gantry_core::tasks::{CreateTask, Exit, Process, Status};
use gantry_core::{Context, Error, Result, validate_identifier};
use tokio::net::unix::pipe;

use crate::bundle::Bundle;
use crate::manager::Inner;
use crate::runtime::{self, Program};
use crate::shim::Shim;
use crate::task::Task;
use crate::{death, launch};

/// A shim that was told to go does so within milliseconds.
const GOING: Duration = Duration::from_secs(2);

/// Annotations by which several containers share a shim: it has to be started
/// the way that lets it find the others.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Starts a shim and has it prepare the first process.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    ctx: &Context,
    mut request: CreateTask,
) -> Result<u32> {
    validate_identifier(&request.container_id)?;
    let container = match request.container.take() {
        Some(container) => *container,
        None => inner.containers.get(ctx, &request.container_id).await?,
    };
    let runtime = match request.runtime_path.as_str() {
        "" => container.runtime.name.as_str(),
        path => path,
    };
    let program = runtime::resolve(&inner.config, runtime)?;
    let spec = spec_of(&container)?;
    request.options = request.options.or_else(|| container.runtime.options.clone());

    let reservation = inner.reserve(ctx, &request.container_id)?;
    let bundle = Bundle::of(&inner.config, &ctx.namespace, &request.container_id);
    fill(&bundle, spec, runtime, &program).await?;
    let prepared = async {
        let shim = get_shim(inner, &bundle, &program, &request, spec).await?;
        match shim.create(&bundle.path.display().to_string(), &request).await {
            Ok(pid) => Ok((shim, pid)),
            Err(err) => {
                dismiss(&shim, &request.container_id).await;
                Err(err)
            }
        }
    };
    let (shim, pid) = match prepared.await {
        Ok(prepared) => prepared,
        Err(err) => {
            inner.refill();
            if let Err(left) = death::tear_down(inner, &bundle, &program).await {
                tracing::warn!(id = %bundle.id, error = %left, "clean up after a failed create");
            }
            return Err(err);
        }
    };
    let init = Process {
        container_id: request.container_id,
        pid,
        status: Status::Created,
        stdio: request.stdio,
        ..Process::default()
    };
    let task = Task::new(bundle, program, shim, init);
    reservation.fill(Arc::clone(&task));
    watch(inner, task);
    Ok(pid)
}

fn spec_of(container: &Container) -> Result<&[u8]> {
    let spec = container.spec.as_ref().filter(|spec| !spec.value.is_empty());
    spec.map(|spec| spec.value.as_slice()).ok_or_else(|| {
        Error::invalid_argument(format!(
            "container {:?} has no runtime specification: invalid argument",
            container.id
        ))
    })
}

/// Writes the bundle. One that lies there without a task is what a failed
/// clean-up left: it goes first.
async fn fill(bundle: &Bundle, spec: &[u8], runtime: &str, program: &Program) -> Result<()> {
    let (bundle, spec) = (bundle.clone(), spec.to_vec());
    let (runtime, program) = (runtime.to_owned(), program.clone());
    blocking(move || match bundle.create(&spec, &runtime, &program) {
        Err(err) if err.is_already_exists() => {
            bundle.remove()?;
            bundle.create(&spec, &runtime, &program)
        }
        other => other,
    })
    .await
}

async fn get_shim(
    inner: &Inner,
    bundle: &Bundle,
    program: &Program,
    request: &CreateTask,
    spec: &[u8],
) -> Result<Shim> {
    if !program.own {
        drain_log(bundle);
    }
    let alone = !GROUPS.iter().any(|key| contains(spec, key.as_bytes()));
    if let Some(pool) = inner.pool.as_ref().filter(|_| program.own && alone)
        && let Some(shim) = pool.adopt(bundle).await
    {
        return Ok(shim);
    }
    launch::cold(&inner.config, bundle, program, request.options.as_ref())
        .await
        .map_err(|err| err.context("failed to start shim"))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

/// Reads what a shim logs, so that it never waits for a reader. Ends with the
/// FIFO's last writer, which is this end itself: it goes with the bundle.
pub(crate) fn drain_log(bundle: &Bundle) {
    let id = bundle.id.clone();
    let path = bundle.log();
    let receiver = match pipe::OpenOptions::new().read_write(true).open_receiver(&path) {
        Ok(receiver) => receiver,
        Err(err) => {
            tracing::warn!(id = %id, error = %err, "open the shim's log {}", path.display());
            return;
        }
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while path.exists() {
            // The FIFO's removal wakes nobody: look for it now and then.
            let readable = tokio::time::timeout(Duration::from_secs(5), receiver.readable());
            if !matches!(readable.await, Ok(Ok(()))) {
                continue;
            }
            if let Ok(n) = receiver.try_read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]);
                tracing::debug!(id = %id, "shim: {}", text.trim_end());
            }
        }
    });
}

/// Begins to wait for the end of the first process and of the connection.
pub(crate) fn watch(inner: &Arc<Inner>, task: Arc<Task>) {
    drop(task.watch_exit(""));
    tokio::spawn(death::watch(Arc::clone(inner), task));
}

/// Tells a shim whose container failed to go away.
async fn dismiss(shim: &Shim, id: &str) {
    // It may know nothing of the container, or be gone.
    let _ = shim.delete(id, "").await;
    let _ = shim.shutdown(id).await;
    let _ = tokio::time::timeout(GOING, shim.connection().closed()).await;
}

/// Deletes a stopped task with its shim and its bundle.
pub(crate) async fn delete(inner: &Arc<Inner>, task: &Arc<Task>) -> Result<(u32, Exit)> {
    let id = &task.bundle.id;
    let shim = task.shim();
    let deleted = match shim.delete(id, "").await {
        // By a daemon that ended before it could do the rest.
        Err(err) if err.is_not_found() => {
            let exit = task.exit().or_else(|| task.bundle.recorded_exit().map(|(_, exit)| exit));
            (task.init().pid, exit.unwrap_or_else(death::killed))
        }
        deleted => deleted?,
    };
    task.deleted();
    // Our own shim is on its way once it has answered, and takes its time only
    // for connections that are still open: this one ends with the task. Others'
    // may end the connection before the answer is read.
    let answered = shim.shutdown(id).await.is_ok();
    let going = inner.shares_shim(task)
        || (answered && task.program.own)
        || tokio::time::timeout(GOING, shim.connection().closed()).await.is_ok();
    let removed = if going {
        let bundle = task.bundle.clone();
        blocking(move || bundle.remove()).await
    } else {
        tracing::warn!(id = %id, "the shim does not go; clean up behind it");
        death::tear_down(inner, &task.bundle, &task.program).await.map(|_| ())
    };
    if let Err(err) = removed {
        // The task is gone all the same; the next start of the daemon tries again.
        tracing::warn!(id = %id, error = %err, "remove the bundle");
    }
    inner.forget(task);
    inner.refill();
    Ok(deleted)
}
