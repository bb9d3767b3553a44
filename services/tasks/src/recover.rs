//! Finding the shims that an earlier daemon left running.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use gantry_core::db::blocking;
use gantry_core::tasks::Process;
use gantry_core::{Context, Error, Namespace, Result, validate_identifier};

use crate::TaskConfig;
use crate::bundle::{self, Bundle};
use crate::manager::Inner;
use crate::runtime::{self, Program};
use crate::shim::Shim;
use crate::task::Task;
use crate::{create, death};

/// Bundles looked at side by side.
const AT_ONCE: usize = 16;
/// SIGKILL.
const KILL: u32 = 9;
/// A container that was killed ends within this time, or is left to `delete`.
const END: Duration = Duration::from_secs(10);

/// Connects to every shim that lives, and removes what is dead.
///
/// # Errors
/// The directory of bundles can't be read. Trouble with one bundle is logged.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    let config = Arc::clone(&inner.config);
    let bundles = blocking(move || {
        let root = config.bundles();
        let mut found = Vec::new();
        for (namespace, path) in entries(&root)? {
            let Ok(namespace) = Namespace::new(namespace) else { continue };
            for (id, path) in entries(&path)? {
                if validate_identifier(&id).is_ok() {
                    found.push(Bundle::of(&config, &namespace, &id));
                } else if id.starts_with('.') {
                    // Half removed.
                    bundle::remove_all(&path)?;
                }
            }
        }
        Ok(found)
    })
    .await?;
    stream::iter(bundles)
        .for_each_concurrent(AT_ONCE, |bundle| async move {
            let id = bundle.id.clone();
            if let Err(err) = adopt(inner, bundle).await {
                tracing::warn!(id = %id, error = %err, "a task could not be recovered");
            }
        })
        .await;
    Ok(())
}

/// Whether there are bundles below a state directory.
///
/// # Errors
/// A directory can't be read.
pub fn has_bundles(state: &Path) -> Result<bool> {
    let config = TaskConfig { state: state.to_owned(), ..TaskConfig::default() };
    for (_, namespace) in entries(&config.bundles())? {
        // What is hidden is half removed.
        if entries(&namespace)?.iter().any(|(id, _)| !id.starts_with('.')) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let failed = |err| Error::io(format!("read {}", dir.display()), err);
    let read = match fs::read_dir(dir) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

async fn adopt(inner: &Arc<Inner>, bundle: Bundle) -> Result<()> {
    let program = match bundle.program(&inner.config) {
        Some(program) => program,
        // The daemon ended while it wrote the bundle: nothing was started.
        None => runtime::resolve(&inner.config, "")?,
    };
    let ctx = Context::new(bundle.namespace.clone());
    let wanted = match inner.containers.get(&ctx, &bundle.id).await {
        Ok(_) => true,
        Err(err) if err.is_not_found() => false,
        Err(err) => return Err(err),
    };
    let shim = match bundle.endpoint() {
        Some(endpoint) => Shim::connect(endpoint, &bundle.namespace).await.ok(),
        None => None,
    };
    let Some(shim) = shim else { return lost(inner, bundle, program).await };
    let state = shim.state(&bundle.id, "").await;
    if let Err(err) = &state
        && shim.is_lost(err).await
    {
        // It was about to die.
        return lost(inner, bundle, program).await;
    }
    match state {
        Ok(state) if wanted => {
            resume(inner, bundle, program, shim, state);
            Ok(())
        }
        // A shim that hangs now may answer later: what it has is a container's.
        Err(err) if wanted && !err.is_not_found() => {
            tracing::warn!(id = %bundle.id, error = %err, "the shim does not answer");
            let unknown = Process { container_id: bundle.id.clone(), ..Process::default() };
            resume(inner, bundle, program, shim, unknown);
            Ok(())
        }
        _ => abandon(inner, bundle, program, &shim).await,
    }
}

fn resume(inner: &Arc<Inner>, bundle: Bundle, program: Program, shim: Shim, init: Process) {
    tracing::info!(id = %bundle.id, status = ?init.status, "found a running shim");
    if !program.own {
        create::drain_log(&bundle);
    }
    let task = Task::new(bundle, program, shim, init);
    if inner.insert(Arc::clone(&task)) {
        create::watch(inner, task);
    }
}

/// The shim died while no daemon watched.
async fn lost(inner: &Arc<Inner>, bundle: Bundle, program: Program) -> Result<()> {
    tracing::info!(id = %bundle.id, "found the bundle of a dead shim");
    let known = bundle.recorded_exit().is_some();
    let (pid, exit) = death::tear_down(inner, &bundle, &program).await?;
    inner.remember(&bundle, exit);
    death::announce(inner, &bundle, pid, exit, !known);
    Ok(())
}

/// The shim lives, but its container has no record or it has no container.
async fn abandon(inner: &Arc<Inner>, bundle: Bundle, program: Program, shim: &Shim) -> Result<()> {
    tracing::info!(id = %bundle.id, "end a shim that nobody asked for");
    let id = &bundle.id;
    // Each step may find that it has been done.
    let _ = shim.kill(id, "", KILL, true).await;
    let _ = tokio::time::timeout(END, shim.wait(id, "")).await;
    let _ = shim.delete(id, "").await;
    let _ = shim.shutdown(id).await;
    let _ = tokio::time::timeout(END, shim.connection().closed()).await;
    death::tear_down(inner, &bundle, &program).await?;
    Ok(())
}
