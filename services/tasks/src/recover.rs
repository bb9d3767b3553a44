//! Finding the shims that an earlier daemon left running.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use futures::stream::{self, StreamExt};
use gantry_core::db::blocking;
use gantry_core::tasks::Process;
use gantry_core::{Context, Error, Kind, Namespace, Result, validate_identifier};

use crate::TaskConfig;
use crate::bundle::{self, Bundle};
use crate::manager::Inner;
use crate::runtime::{self, Program};
use crate::shim::Shim;
use crate::task::Task;
use crate::{create, death, sandbox};

/// Bundles looked at side by side.
const AT_ONCE: usize = 16;
/// SIGKILL.
const KILL: u32 = 9;
/// A container that was killed ends within this time, or is left to `delete`.
const END: Duration = Duration::from_secs(10);
/// What nobody asked for ends within this time, or while the daemon serves already.
const WELL: Duration = Duration::from_secs(2);

/// A shim whose container has no record, or that has no container.
struct Unwanted {
    bundle: Bundle,
    program: Program,
    shim: Shim,
}

/// Connects to every shim that lives, and removes what is dead.
///
/// # Errors
/// The directory of bundles can't be read. Trouble with one bundle is logged.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    sandbox::recover::recover(inner).await?;
    let config = Arc::clone(&inner.config);
    let bundles = blocking(move || bundles(&config, &config.bundles(), Bundle::of)).await?;
    let unwanted: Vec<_> = stream::iter(bundles)
        .map(|bundle| async move {
            let id = bundle.id.clone();
            adopt(inner, bundle).await.unwrap_or_else(|err| {
                tracing::warn!(id = %id, error = %err, "a task could not be recovered");
                None
            })
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(future::ready)
        .collect()
        .await;
    // A shim of theirs may be another's as well: by now it is known whose.
    future::join_all(unwanted.into_iter().map(|one| abandon(inner, one))).await;
    Ok(())
}

/// The bundles below a directory. What is half removed goes now.
///
/// # Errors
/// A directory can't be read.
pub(crate) fn bundles(
    config: &TaskConfig,
    root: &Path,
    of: fn(&TaskConfig, &Namespace, &str) -> Bundle,
) -> Result<Vec<Bundle>> {
    let mut found = Vec::new();
    for (namespace, path) in entries(root)? {
        let Ok(namespace) = Namespace::new(namespace) else { continue };
        for (id, path) in entries(&path)? {
            if validate_identifier(&id).is_ok() {
                found.push(of(config, &namespace, &id));
            } else if id.starts_with('.') {
                // It is no bundle any more, and holds nobody up.
                if let Err(err) = bundle::remove_all(&path) {
                    tracing::warn!(error = %err, "remove the rest of a bundle");
                }
            }
        }
    }
    Ok(found)
}

/// Whether there are bundles below a state directory.
///
/// # Errors
/// A directory can't be read.
pub fn has_bundles(state: &Path) -> Result<bool> {
    let config = TaskConfig { state: state.to_owned(), ..TaskConfig::default() };
    for root in [config.bundles(), config.sandbox_bundles()] {
        for (_, namespace) in entries(&root)? {
            // What is hidden is half removed.
            if entries(&namespace)?.iter().any(|(id, _)| !id.starts_with('.')) {
                return Ok(true);
            }
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

/// Takes over what a bundle tells of, unless nobody wants it.
async fn adopt(inner: &Arc<Inner>, bundle: Bundle) -> Result<Option<Unwanted>> {
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
    let Some(endpoint) = bundle.endpoint() else {
        lost(inner, bundle, program).await;
        return Ok(None);
    };
    let shim = match Shim::find(&endpoint, &bundle.namespace).await {
        Ok(Some(shim)) => shim,
        Ok(None) => {
            lost(inner, bundle, program).await;
            return Ok(None);
        }
        // Whoever watches the task tries again.
        Err(err) if wanted => {
            tracing::warn!(id = %bundle.id, error = %err, "the shim can't be reached yet");
            let shim = Shim::unreached(endpoint, &bundle.namespace);
            let unknown = unknown(&bundle);
            resume(inner, bundle, program, shim, unknown);
            return Ok(None);
        }
        Err(err) => return Err(err),
    };
    if !wanted {
        return Ok(Some(Unwanted { bundle, program, shim }));
    }
    match shim.state(&bundle.id, "").await {
        Ok(state) => resume(inner, bundle, program, shim, state),
        // It was about to die.
        Err(err) if shim.is_lost(&err).await => lost(inner, bundle, program).await,
        Err(err) if err.is_not_found() => return Ok(Some(Unwanted { bundle, program, shim })),
        // A shim that hangs now may answer later: what it has is a container's.
        Err(err) => {
            tracing::warn!(id = %bundle.id, error = %err, "the shim does not answer");
            let unknown = unknown(&bundle);
            resume(inner, bundle, program, shim, unknown);
        }
    }
    Ok(None)
}

/// A first process of which nothing is known yet.
fn unknown(bundle: &Bundle) -> Process {
    Process { container_id: bundle.id.clone(), ..Process::default() }
}

fn resume(inner: &Arc<Inner>, bundle: Bundle, program: Program, shim: Shim, init: Process) {
    tracing::info!(id = %bundle.id, status = ?init.status, "found a running shim");
    if !program.own {
        create::drain_log(&bundle);
    }
    let guest = bundle.is_guest();
    let task = Task::new(bundle, program, shim, init, guest);
    if inner.insert(Arc::clone(&task)) {
        create::watch(inner, task);
    }
}

/// The shim died while no daemon watched.
async fn lost(inner: &Arc<Inner>, bundle: Bundle, program: Program) {
    tracing::info!(id = %bundle.id, "found the bundle of a dead shim");
    let (pid, exit) = death::clean(inner, &bundle, &program).await;
    inner.remember(&bundle, exit);
    death::announce(inner, &bundle, pid, exit);
}

/// Ends a shim that nobody asked for. Its ID is taken until that is done.
async fn abandon(inner: &Arc<Inner>, unwanted: Unwanted) {
    let Unwanted { bundle, program, shim } = unwanted;
    tracing::info!(id = %bundle.id, "end a shim that nobody asked for");
    let ctx = Context::new(bundle.namespace.clone());
    let Ok(reservation) = inner.reserve(&ctx, &bundle.id) else { return };
    let inner = Arc::clone(inner);
    let ending = tokio::spawn(async move {
        let _reservation = reservation;
        let ended = match ask_to_end(&shim, &bundle).await {
            Ok(()) => death::tear_down(&inner, &bundle, &program).await.map(drop),
            Err(err) => {
                tracing::warn!(id = %bundle.id, error = %err, "the shim does not answer");
                death::force(&inner, &bundle, &program, &shim).await
            }
        };
        if let Err(err) = ended {
            tracing::warn!(id = %bundle.id, error = %err, "clean up behind a shim");
        }
    });
    let _ = tokio::time::timeout(WELL, ending).await;
}

/// Has a shim end its container and itself.
///
/// # Errors
/// It does not answer.
async fn ask_to_end(shim: &Shim, bundle: &Bundle) -> Result<()> {
    // Each step may find that it has been done.
    let answered = |done: Result<()>| match done {
        Err(err) if err.kind() == Kind::DeadlineExceeded => Err(err),
        _ => Ok(()),
    };
    let id = &bundle.id;
    answered(shim.kill(id, "", KILL, true).await)?;
    let _ = tokio::time::timeout(END, shim.wait(id, "")).await;
    answered(shim.delete(id, "").await.map(drop))?;
    if !bundle.is_guest() {
        answered(shim.shutdown(id).await)?;
        let _ = tokio::time::timeout(END, shim.connection().closed()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_removed_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let config = TaskConfig { state: dir.path().to_owned(), ..TaskConfig::default() };
        let namespace = config.bundles().join("default");
        fs::create_dir_all(namespace.join("c1")).unwrap();
        // A file is no tree, whoever made it.
        fs::write(namespace.join(".c0"), "").unwrap();
        let found = bundles(&config, &config.bundles(), Bundle::of).unwrap();
        assert_eq!(found.iter().map(|bundle| bundle.id.as_str()).collect::<Vec<_>>(), ["c1"]);
    }
}
