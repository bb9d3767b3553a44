//! What containers share: namespaces of others, which are joined at each start.

use std::fs::File;
use std::os::fd::AsRawFd;

use gantry_core::db::blocking;
use gantry_core::tasks::Status;
use gantry_core::{Context, Error, Result};

use crate::Engine;
use crate::lifecycle::Found;
use crate::model::{Namespaces, Phase, Settings, joining, other_container};

/// The mount namespace, from which shared memory is taken.
const MOUNTS: &str = "mnt";

/// Namespaces of other containers, held open while a container joins them: what a process'
/// ID stands for can change meanwhile, what a file stands for can't.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    files: Vec<(&'static str, File)>,
}

impl Shared {
    /// Where others find the namespace of this kind while `self` lives; nowhere when it
    /// was not opened.
    pub(crate) fn path(&self, kind: &str) -> String {
        match self.files.iter().find(|(opened, _)| *opened == kind) {
            Some((_, file)) => format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()),
            None => format!("/proc/0/ns/{}", file_of(kind)),
        }
    }
}

/// The file below `ns` that stands for a namespace of this kind.
fn file_of(kind: &str) -> &str {
    if kind == "network" { "net" } else { kind }
}

/// What is refused, as Docker says it.
fn cannot(kind: &str, id: &str) -> String {
    match kind {
        "ipc" => format!("can't join IPC of container {id}"),
        _ => format!("can't join PID namespace of container {id}"),
    }
}

/// Whether a container's ipc namespace and shared memory can be another's as well.
fn is_shareable(mode: &str) -> bool {
    matches!(mode, "shareable" | "host") || other_container(mode).is_some()
}

impl Engine {
    /// Replaces names of other containers by their IDs, which stay.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when several are meant, or one that shares nothing.
    pub(crate) async fn name_others(&self, ctx: &Context, settings: &mut Settings) -> Result<()> {
        // The one whose network it shares is known by its ID.
        let Namespaces { pid, ipc, .. } = &mut settings.flags.namespaces;
        for (kind, mode) in [("pid", pid), ("ipc", ipc)] {
            let Some(name) = other_container(mode) else { continue };
            let found = self.store.resolve(ctx, name).await;
            let (container, meta) = found.map_err(|err| err.context(cannot(kind, name)))?;
            if kind == "ipc" && !is_shareable(&meta.settings.flags.namespaces.ipc) {
                return Err(not_shareable(name));
            }
            *mode = joining(&container.id);
        }
        for other in &mut settings.after {
            let (container, _) = self.store.resolve(ctx, &other.container).await?;
            other.container = container.id;
        }
        Ok(())
    }

    /// Opens the namespaces of the containers that the container `own` joins.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when one of them does not run.
    pub(crate) async fn join(
        &self,
        ctx: &Context,
        own: &str,
        namespaces: &Namespaces,
    ) -> Result<Shared> {
        let mut shared = Shared::default();
        for (kind, id) in namespaces.joined() {
            let opened = match self.open(ctx, kind, id).await {
                Ok(opened) => opened,
                Err(err) if kind != "network" => return Err(err.context(cannot(kind, id))),
                Err(err) if err.is_not_found() && err.subject().is_some() => {
                    let known = self.store.get(ctx, own).await?;
                    let name = known.map_or_else(|| own.to_owned(), |(_, meta)| meta.name);
                    return Err(Error::not_found(format!(
                        "container {name} is in the network of container {}, which is gone",
                        id.get(..12).unwrap_or(id)
                    ))
                    .about("container", id));
                }
                // It says so itself.
                Err(err) => return Err(err),
            };
            shared.files.extend(opened);
        }
        Ok(shared)
    }

    async fn open(
        &self,
        ctx: &Context,
        kind: &'static str,
        id: &str,
    ) -> Result<Vec<(&'static str, File)>> {
        let Found { container, meta, state, .. } = self.find(ctx, id).await?;
        let not_running = || {
            let text = match kind {
                "network" => {
                    format!("cannot join network of a non running container: {}", container.id)
                }
                _ => format!("container {} is not running", container.id),
            };
            Error::failed_precondition(text).about("container", container.id.as_str())
        };
        if state.phase == Phase::Restarting {
            let text = format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            );
            return Err(Error::failed_precondition(text).about("container", container.id.as_str()));
        }
        if !state.phase.is_running() {
            return Err(not_running());
        }
        if kind == "ipc" && !is_shareable(&meta.settings.flags.namespaces.ipc) {
            return Err(not_shareable(id));
        }
        let kinds = if kind == "ipc" { vec![kind, MOUNTS] } else { vec![kind] };
        let pid = state.pid;
        let files = blocking(move || {
            let open = |kind| {
                let path = format!("/proc/{pid}/ns/{}", file_of(kind));
                let opened = File::open(&path);
                opened
                    .map(|file| (kind, file))
                    .map_err(|err| Error::io(format!("open {path}"), err))
            };
            kinds.into_iter().map(open).collect::<Result<Vec<_>>>()
        })
        .await;
        // Its shim keeps the number from being given away until it has noticed the end: a
        // process that runs now had it all the time.
        match self.parts.tasks.get(ctx, &container.id, "").await {
            Ok(task) if task.pid == pid && runs(task.status) => files,
            Ok(_) => Err(not_running()),
            Err(err) if err.is_not_found() => Err(not_running()),
            Err(err) => Err(err),
        }
    }
}

fn runs(status: Status) -> bool {
    matches!(status, Status::Running | Status::Paused | Status::Pausing)
}

fn not_shareable(name: &str) -> Error {
    Error::invalid_argument(format!(
        "{}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
        cannot("ipc", name)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_path_while_it_is_held() {
        let file = File::open("/proc/self/ns/pid").unwrap();
        let shared = Shared { files: vec![("pid", file)] };
        let there = std::fs::read_link(shared.path("pid")).unwrap();
        assert_eq!(there, std::fs::read_link("/proc/self/ns/pid").unwrap());
        assert_eq!(shared.path("ipc"), "/proc/0/ns/ipc");
    }

    #[test]
    fn donors_have_to_agree() {
        for mode in ["shareable", "host", "container:x"] {
            assert!(is_shareable(mode), "{mode}");
        }
        for mode in ["", "private", "none"] {
            assert!(!is_shareable(mode), "{mode}");
        }
    }
}
