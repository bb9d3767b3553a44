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
use tokio::time::{Instant, timeout_at};

use crate::TaskConfig;
use crate::bundle::{self, Bundle};
use crate::dialect::Endpoint;
use crate::manager::Inner;
use crate::runtime::{self, Program};
use crate::shim::Shim;
use crate::task::{Life, Task};
use crate::{create, death, sandbox};

/// Shims have so long to answer, all at the same time, before the daemon serves without them.
const GRACE: Duration = Duration::from_millis(500);
/// Bundles taken over or cleaned up side by side.
pub(crate) const AT_ONCE: usize = 16;
/// Between attempts to learn something from a shim that answers with errors.
const RETRY: Duration = Duration::from_secs(1);
/// SIGKILL.
const KILL: u32 = 9;
/// A container that was killed ends within this time, or is left to `delete`.
const END: Duration = Duration::from_secs(10);
/// What nobody asked for ends within this time, or while the daemon serves already.
const WELL: Duration = Duration::from_secs(2);

/// What came of asking the shim of a bundle.
pub(crate) enum Heard<T> {
    /// Nobody listens any more.
    Dead,
    /// It has answered.
    Said(Shim, Result<T>),
    /// It has not answered in time.
    Hangs(Shim),
    /// It could not be reached in time.
    Away(Endpoint),
}

/// A shim whose container has no record, or that has no container.
struct Unwanted {
    bundle: Bundle,
    program: Program,
    /// `None` when it could not be reached in time.
    shim: Option<Shim>,
    /// Whether it has answered.
    answers: bool,
}

/// Connects to every shim that lives, and removes what is dead. Those that hang hold up nobody:
/// what they have is found out once they answer.
///
/// # Errors
/// The directory of bundles can't be read. Trouble with one bundle is logged.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    sandbox::recover::recover(inner).await?;
    let config = Arc::clone(&inner.config);
    let bundles = blocking(move || bundles(&config, &config.bundles(), Bundle::of)).await?;
    let heard = future::join_all(bundles.into_iter().map(|bundle| async move {
        let heard = hear(&bundle, async |shim: &Shim| shim.state(&bundle.id, "").await).await;
        (bundle, heard)
    }));
    let unwanted: Vec<_> = stream::iter(heard.await)
        .map(|(bundle, heard)| async move {
            let id = bundle.id.clone();
            adopt(inner, bundle, heard).await.unwrap_or_else(|err| {
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

/// Asks the shim of a bundle, within the time that all have to answer.
pub(crate) async fn hear<T>(
    bundle: &Bundle,
    ask: impl AsyncFnOnce(&Shim) -> Result<T>,
) -> Heard<T> {
    // Without it nothing was started.
    let Some(endpoint) = bundle.endpoint() else { return Heard::Dead };
    let until = Instant::now() + GRACE;
    let shim = match timeout_at(until, Shim::find(&endpoint, &bundle.namespace)).await {
        Ok(Ok(Some(shim))) => shim,
        Ok(Ok(None)) => return Heard::Dead,
        Ok(Err(_)) | Err(_) => return Heard::Away(endpoint),
    };
    match timeout_at(until, ask(&shim)).await {
        // It was about to die.
        Ok(Err(err)) if shim.is_lost(&err).await => Heard::Dead,
        Ok(said) => Heard::Said(shim, said),
        Err(_) => Heard::Hangs(shim),
    }
}

/// Takes over what a bundle tells of, unless nobody wants it.
async fn adopt(
    inner: &Arc<Inner>,
    bundle: Bundle,
    heard: Heard<Process>,
) -> Result<Option<Unwanted>> {
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
    let (shim, answers) = match heard {
        Heard::Dead => {
            lost(inner, bundle, program).await;
            return Ok(None);
        }
        Heard::Said(shim, Ok(state)) if wanted => {
            resume(inner, bundle, program, shim, state);
            return Ok(None);
        }
        Heard::Said(shim, Err(err)) if wanted && !err.is_not_found() => {
            tracing::warn!(id = %bundle.id, error = %err, "the shim does not answer");
            resume_unknown(inner, bundle, program, shim);
            return Ok(None);
        }
        Heard::Said(shim, _) => (Some(shim), true),
        Heard::Hangs(shim) => (Some(shim), false),
        Heard::Away(endpoint) if wanted => {
            (Some(Shim::unreached(endpoint, &bundle.namespace)), false)
        }
        Heard::Away(_) => (None, false),
    };
    match shim {
        // What it has is a container's.
        Some(shim) if wanted && !answers => {
            tracing::warn!(id = %bundle.id, "the shim has not answered yet");
            resume_unknown(inner, bundle, program, shim);
            Ok(None)
        }
        shim => Ok(Some(Unwanted { bundle, program, shim, answers })),
    }
}

/// Takes over a task of which nothing is known yet but its process, and finds out about it.
fn resume_unknown(inner: &Arc<Inner>, bundle: Bundle, program: Program, shim: Shim) {
    let pid = fs::read_to_string(bundle.path.join("init.pid")).ok();
    let pid = pid.and_then(|pid| pid.trim().parse().ok()).unwrap_or_default();
    let unknown = Process { container_id: bundle.id.clone(), pid, ..Process::default() };
    if let Some(task) = resume(inner, bundle, program, shim, unknown) {
        tokio::spawn(find_out(Arc::clone(inner), task));
    }
}

/// Takes over a task; `None` when its ID is taken.
fn resume(
    inner: &Arc<Inner>,
    bundle: Bundle,
    program: Program,
    shim: Shim,
    init: Process,
) -> Option<Arc<Task>> {
    tracing::info!(id = %bundle.id, status = ?init.status, "found a running shim");
    if !program.own {
        create::drain_log(&bundle);
    }
    let guest = bundle.is_guest();
    let task = Task::new(bundle, program, shim, init, guest);
    if !inner.insert(Arc::clone(&task)) {
        return None;
    }
    create::watch(inner, Arc::clone(&task));
    Some(task)
}

/// Learns what a task does as soon as its shim answers. One of which that knows nothing is over.
async fn find_out(inner: Arc<Inner>, task: Arc<Task>) {
    let mut life = task.life();
    loop {
        let before = life.borrow_and_update().clone();
        if !matches!(before, Life::Connected(_)) {
            return;
        }
        let shim = task.shim();
        match shim.state(&task.bundle.id, "").await {
            Ok(state) => {
                tracing::info!(id = %task.bundle.id, status = ?state.status, "the shim answers");
                return task.introduce(state);
            }
            Err(err) if err.is_not_found() => {
                if end_unknown(&inner, &task, &shim).await {
                    return;
                }
            }
            Err(err) if err.kind() == Kind::DeadlineExceeded => {}
            Err(err) if shim.is_lost(&err).await => {
                // Whoever watches the connection finds out whether the shim lives.
                if life.wait_for(|now| *now != before).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Ends a shim that knows nothing of its task, and the task as if the shim had died. False when
/// it does not answer once more.
async fn end_unknown(inner: &Arc<Inner>, task: &Arc<Task>, shim: &Shim) -> bool {
    let _leaving = task.leaving.lock().await;
    if task.is_gone() {
        return true;
    }
    tracing::info!(id = %task.bundle.id, "the shim knows nothing of its task");
    if ask_to_end(shim, &task.bundle).await.is_err() {
        return false;
    }
    death::bury(inner, task).await;
    true
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
    let Unwanted { bundle, program, shim, answers } = unwanted;
    tracing::info!(id = %bundle.id, "end a shim that nobody asked for");
    let ctx = Context::new(bundle.namespace.clone());
    let Ok(reservation) = inner.reserve(&ctx, &bundle.id) else { return };
    let inner = Arc::clone(inner);
    let ending = tokio::spawn(async move {
        let _reservation = reservation;
        let shim = match shim {
            Some(shim) => Some(shim),
            None => reach(&bundle).await,
        };
        let ended = match &shim {
            Some(shim) => match ask_to_end(shim, &bundle).await {
                Ok(()) => death::tear_down(&inner, &bundle, &program).await.map(drop),
                Err(err) => {
                    tracing::warn!(id = %bundle.id, error = %err, "the shim does not answer");
                    death::force(&inner, &bundle, &program, shim).await
                }
            },
            None => death::tear_down(&inner, &bundle, &program).await.map(drop),
        };
        if let Err(err) = ended {
            tracing::warn!(id = %bundle.id, error = %err, "clean up behind a shim");
        }
    });
    if answers {
        let _ = tokio::time::timeout(WELL, ending).await;
    }
}

/// The shim of a bundle, as soon as it can be reached; `None` when it is dead.
async fn reach(bundle: &Bundle) -> Option<Shim> {
    let endpoint = bundle.endpoint()?;
    loop {
        match Shim::find(&endpoint, &bundle.namespace).await {
            Ok(found) => return found,
            // Each attempt takes a while.
            Err(err) => tracing::warn!(id = %bundle.id, error = %err, "reach a shim"),
        }
    }
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
