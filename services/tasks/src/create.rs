//! Making tasks, and taking them away.

use std::future::ready;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::containers::Container;
use gantry_core::db::blocking;
use gantry_core::tasks::{CreateTask, Exit, Process, Rootfs, Status};
use gantry_core::{Any, Context, Error, Result, validate_identifier};
use nix::sys::stat::fstat;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::bundle::{Bundle, says};
use crate::dialect::Endpoint;
use crate::manager::Inner;
use crate::runtime::{self, Program};
use crate::shim::Shim;
use crate::task::Task;
use crate::{death, launch, manager, options, rootfs};

/// A shim that was told to go does so within milliseconds.
const GOING: Duration = Duration::from_secs(2);

/// Annotations by which several containers share a shim: it has to be started
/// the way that lets it find the others.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Starts a shim and has it prepare the first process, once its root file system is there.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    ctx: &Context,
    mut request: CreateTask,
    rootfs: Rootfs,
) -> Result<u32> {
    let container = match request.container.take() {
        Some(container) => *container,
        None => inner.containers.get(ctx, &request.container_id).await?,
    };
    validate_identifier(&request.container_id)?;
    let runtime = match request.runtime_path.as_str() {
        "" => container.runtime.name.as_str(),
        path => path,
    };
    // An empty message is as good as none: that is how clients leave it out.
    let options = request.options.take().filter(|options| !options.value.is_empty());
    request.options = options.or_else(|| container.runtime.options.clone());
    let place = Place::find(inner, ctx, &container, runtime, request.options.as_ref()).await?;
    let program = place.program;
    let rootfs = if program.own { rootfs } else { refuse_shifts(rootfs, runtime).await? };
    let spec = spec_of(&container)?;

    let reservation = inner.reserve(ctx, &request.container_id)?;
    let bundle = Bundle::of(&inner.config, &ctx.namespace, &request.container_id);
    fill(inner, &bundle, spec, runtime, &program).await?;
    let host = place.host;
    let guest = host.is_some();
    let mut hanging = None;
    let prepared = async {
        let shim = match host {
            Some(endpoint) => join(&bundle, &container.sandbox, endpoint).await?,
            None => get_shim(inner, &bundle, &program, request.options.as_ref(), spec).await?,
        };
        let created = async {
            request.rootfs = rootfs::activate(inner, &bundle, rootfs.await?).await?;
            shim.create(&bundle.path.display().to_string(), &request).await
        };
        let created = created.await;
        match created {
            Ok(pid) => Ok((shim, pid)),
            Err(err) => {
                if !dismiss(&shim, &request.container_id, guest).await {
                    hanging = Some(shim);
                }
                Err(err)
            }
        }
    };
    let (shim, pid) = match prepared.await {
        Ok(prepared) => prepared,
        Err(err) => {
            inner.refill();
            death::undo(inner, &bundle, &program, hanging.as_ref()).await;
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
    let task = Task::new(bundle, program, shim, init, guest);
    reservation.fill(Arc::clone(&task));
    watch(inner, task);
    Ok(pid)
}

/// Where a task is to live.
struct Place {
    /// The shim's program.
    program: Program,
    /// The task service of a shim that runs already; a shim of its own when `None`.
    host: Option<Endpoint>,
}

impl Place {
    /// In the task service that its options name, in the shim of its sandbox, or in
    /// one of its own.
    async fn find(
        inner: &Inner,
        ctx: &Context,
        container: &Container,
        runtime: &str,
        options: Option<&Any>,
    ) -> Result<Self> {
        if let Some(endpoint) = options::task_api(options)? {
            let program = runtime::choose(&inner.config, runtime, options)?;
            return Ok(Self { program, host: Some(endpoint) });
        }
        let shared = Self::in_sandbox(inner, ctx, &container.sandbox)
            .await
            .map_err(|err| err.context(format!("create task {} in its sandbox", container.id)))?;
        if let Some(place) = shared {
            return Ok(place);
        }
        let program = runtime::choose(&inner.config, runtime, options)?;
        Ok(Self { program, host: None })
    }

    /// In the shim of a sandbox. `None` for a sandbox that the controller knows nothing
    /// of, and for a shim of the older kind: those find each other when they are started.
    async fn in_sandbox(inner: &Inner, ctx: &Context, id: &str) -> Result<Option<Self>> {
        if id.is_empty() {
            return Ok(None);
        }
        let sandbox = match inner.sandboxes.find(ctx, id) {
            Err(gone) if gone.is_not_found() => {
                return match inner.records.get(ctx, id).await {
                    Err(err) if err.is_not_found() => Ok(None),
                    record => record.and(Err(gone)),
                };
            }
            found => found?,
        };
        let endpoint = sandbox.shim()?.endpoint;
        let older = !sandbox.program.own && endpoint.version < 3;
        Ok((!older).then(|| Self { program: sandbox.program.clone(), host: Some(endpoint) }))
    }
}

/// Waits for a root file system, and refuses options of which older shims know nothing, and
/// that the kernel would refuse without a word.
async fn refuse_shifts(rootfs: Rootfs, runtime: &str) -> Result<Rootfs> {
    let mounts = rootfs.await?;
    let shifts = ["uidmap=", "gidmap="];
    let is_shift = |option: &&String| shifts.iter().any(|shift| option.starts_with(shift));
    let found = mounts.iter().flat_map(|mount| &mount.options).find(is_shift).cloned();
    match found {
        Some(option) => Err(Error::unimplemented(format!(
            "rootfs mount option {option:?}: shims of other runtimes than ours, such as \
             {runtime}, need not know it: not implemented"
        ))),
        None => Ok(Box::pin(ready(Ok(mounts)))),
    }
}

/// Connects to a shim that runs already.
async fn join(bundle: &Bundle, sandbox: &str, endpoint: Endpoint) -> Result<Shim> {
    endpoint.socket()?;
    let kept = (bundle.clone(), sandbox.to_owned(), endpoint.clone());
    blocking(move || {
        let (bundle, sandbox, endpoint) = kept;
        bundle.write_sandbox(&sandbox)?;
        bundle.write_endpoint(&endpoint)
    })
    .await?;
    Shim::connect(endpoint, &bundle.namespace).await
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
/// clean-up left: that is tried again first.
///
/// # Errors
/// The clean-up fails once more. The system's.
pub(crate) async fn fill(
    inner: &Inner,
    bundle: &Bundle,
    spec: &[u8],
    runtime: &str,
    program: &Program,
) -> Result<()> {
    let write = || {
        let (bundle, spec) = (bundle.clone(), spec.to_vec());
        let (runtime, program) = (runtime.to_owned(), program.clone());
        blocking(move || bundle.create(&spec, &runtime, &program))
    };
    match write().await {
        Err(err) if err.is_already_exists() => {}
        other => return other,
    }
    let (left, config) = (bundle.clone(), Arc::clone(&inner.config));
    let earlier = blocking(move || Ok(left.program(&config))).await?;
    death::tear_down(inner, bundle, earlier.as_ref().unwrap_or(program))
        .await
        .map_err(|err| err.context(format!("clean up what an earlier {} left", bundle.id)))?;
    write().await
}

/// Gets a shim for a bundle: a ready-made one where that will do.
pub(crate) async fn get_shim(
    inner: &Inner,
    bundle: &Bundle,
    program: &Program,
    options: Option<&Any>,
    spec: &[u8],
) -> Result<Shim> {
    if !program.own {
        drain_log(bundle);
    }
    let alone = !GROUPS.iter().any(|key| says(spec, key));
    if let Some(pool) = inner.pool.as_ref().filter(|_| program.own && alone)
        && let Some(shim) = pool.adopt(bundle).await
    {
        return Ok(shim);
    }
    launch::cold(&inner.config, bundle, program, options)
        .await
        .map_err(|err| err.context("failed to start shim"))
}

/// Reads what a shim logs, so that it never waits for a reader. Ends with the
/// FIFO's last writer, which is this end itself: it goes with the bundle.
pub(crate) fn drain_log(bundle: &Bundle) -> Option<JoinHandle<()>> {
    let id = bundle.id.clone();
    let path = bundle.log();
    let opened = pipe::OpenOptions::new().read_write(true).open_receiver(&path);
    let opened = opened.and_then(|receiver| Ok((fstat(&receiver)?, receiver)));
    let (fifo, receiver) = match opened {
        Ok(opened) => opened,
        Err(err) => {
            tracing::warn!(id = %id, error = %err, "open the shim's log {}", path.display());
            return None;
        }
    };
    // The next bundle of this ID has one of its own there.
    let there = move || {
        path.metadata().is_ok_and(|now| (now.dev(), now.ino()) == (fifo.st_dev, fifo.st_ino))
    };
    Some(tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while there() {
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
    }))
}

/// Begins to wait for the end of the first process and of the connection.
pub(crate) fn watch(inner: &Arc<Inner>, task: Arc<Task>) {
    drop(task.watch_exit(""));
    tokio::spawn(death::watch(Arc::clone(inner), task));
}

/// Tells a shim whose container failed to go away, unless the container was but a
/// guest in it. False when it does not go.
async fn dismiss(shim: &Shim, id: &str, guest: bool) -> bool {
    // It may know nothing of the container, or be gone.
    let _ = shim.delete(id, "").await;
    if guest {
        return true;
    }
    let _ = shim.shutdown(id).await;
    tokio::time::timeout(GOING, shim.connection().closed()).await.is_ok()
}

/// Deletes a stopped task with its shim and its bundle.
pub(crate) async fn delete(inner: &Arc<Inner>, task: &Arc<Task>) -> Result<(u32, Exit)> {
    let id = &task.bundle.id;
    let _leaving = task.leaving.lock().await;
    if task.is_gone() {
        return Err(manager::not_found(id));
    }
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
    let answered = !task.guest && shim.shutdown(id).await.is_ok();
    let going = task.guest
        || inner.shares_shim(&task.bundle, &shim)
        || (answered && task.program.own)
        || tokio::time::timeout(GOING, shim.connection().closed()).await.is_ok();
    let removed = if going {
        rootfs::deactivate(inner, &task.bundle).await;
        let bundle = task.bundle.clone();
        blocking(move || bundle.remove()).await
    } else {
        tracing::warn!(id = %id, "the shim does not go; clean up behind it");
        death::force(inner, &task.bundle, &task.program, &shim).await
    };
    if let Err(err) = removed {
        // The task is gone all the same; the next start of the daemon tries again.
        tracing::warn!(id = %id, error = %err, "remove the bundle");
    }
    inner.forget(task);
    inner.refill();
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskConfig;
    use gantry_core::Namespace;
    use nix::sys::stat::Mode;

    #[tokio::test(start_paused = true)]
    async fn a_log_is_read_for_as_long_as_its_bundle_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let config = TaskConfig { state: dir.path().to_owned(), ..TaskConfig::default() };
        let bundle = Bundle::of(&config, &Namespace::new("default").unwrap(), "c1");
        std::fs::create_dir_all(&bundle.path).unwrap();
        let make = || nix::unistd::mkfifo(&bundle.log(), Mode::S_IRWXU).unwrap();
        make();
        let mut reading = drain_log(&bundle).unwrap();
        let long = Duration::from_secs(60);
        assert!(tokio::time::timeout(long, &mut reading).await.is_err(), "it is there");
        // The same number is not given to another file while this one is open.
        std::fs::remove_file(bundle.log()).unwrap();
        make();
        tokio::time::timeout(long, reading).await.expect("it is another").unwrap();
    }
}
