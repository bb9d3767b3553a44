//! Start, stop, kill, wait and remove.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_core::containers::Container;
use gantry_core::db::Durability;
use gantry_core::tasks::{Process, Status};
use gantry_core::{Context, Error, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::attach::Attached;
use crate::files::attach_socket;
use crate::live::Live;
use crate::model::{Meta, Phase, State};
use crate::options::{Session, SessionOutput, Size};
use crate::run::Start;
use crate::session::{self, Ended, Target};
use crate::signal::KILL;
use crate::store::no_such;
use crate::{Engine, signal, watch};

/// How long a container may take to stop by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How long one that was killed may take to end: longer only if its processes
/// hang in the kernel.
const END: Duration = Duration::from_secs(30);
/// SIGCONT.
const CONT: u32 = 18;

/// Why a container was not removed.
enum Removal {
    /// It was started after it had been found not to run.
    Started(Error),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Removal {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

/// A container as it was found.
pub(crate) struct Found {
    pub(crate) container: Container,
    pub(crate) meta: Meta,
    pub(crate) live: Arc<Live>,
    pub(crate) state: State,
}

/// The state of a container: what is known here, what is stored, or, of one
/// that another client made, what its task says.
pub(crate) fn current(meta: &Meta, known: Option<State>, task: Option<&Process>) -> State {
    let mut state = known.unwrap_or_else(|| meta.state.clone());
    let Some(task) = task else { return state };
    if meta.foreign {
        state.pid = task.pid;
        match task.status {
            Status::Created | Status::Unknown => state.phase = Phase::Created,
            Status::Running | Status::Pausing | Status::Paused => state.phase = Phase::Running,
            Status::Stopped => {
                state = State {
                    phase: Phase::Exited,
                    exit_code: task.exit.status,
                    finished_at: task.exit.at,
                    ..state
                };
                state.pid = 0;
            }
        }
    }
    if state.phase == Phase::Running && matches!(task.status, Status::Paused | Status::Pausing) {
        state.phase = Phase::Paused;
    }
    state
}

impl Engine {
    /// Finds a container by name, ID or a unique beginning of its ID.
    pub(crate) async fn find(&self, ctx: &Context, text: &str) -> Result<Found> {
        let (container, meta) = self.store.resolve(ctx, text).await?;
        let tasks = self.parts.tasks.list(ctx).await?;
        let task = tasks.iter().find(|task| task.container_id == container.id);
        let live = self.live.entry(ctx, &container.id);
        let state = current(&meta, live.now().state, task);
        Ok(Found { container, meta, live, state })
    }

    async fn find_running(&self, ctx: &Context, text: &str, what: &str) -> Result<Found> {
        let found = self.find(ctx, text).await?;
        if found.state.phase.is_running() {
            return Ok(found);
        }
        let id = &found.container.id;
        Err(Error::failed_precondition(format!(
            "cannot {what} container: {text}: container {id} is not running"
        ))
        .about("container", text))
    }

    /// Starts a container that was made or has ended, on the file system it has.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it is being removed; as
    /// [`Engine::run`] for its command.
    pub async fn start(self: &Arc<Self>, ctx: &Context, text: &str) -> Result<()> {
        let found = self.find(ctx, text).await?;
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "start container {text}: another client made it and has to start it"
            ))
            .about("container", text));
        }
        let _busy = found.live.hold().await;
        let id = found.container.id.as_str();
        let state = self.live.state(&ctx.namespace, id).unwrap_or(found.state);
        match state.phase {
            Phase::Running | Phase::Paused => return Ok(()),
            Phase::Removing | Phase::Dead => {
                return Err(Error::failed_precondition(format!(
                    "start container {text}: it is marked for removal"
                ))
                .about("container", text));
            }
            Phase::Creating => {
                return Err(Error::failed_precondition(format!(
                    "start container {text}: it is being made: try again"
                ))
                .about("container", text));
            }
            Phase::Created | Phase::Exited => {}
        }
        let snapshotter = self.parts.snapshotters.get(&found.container.snapshotter)?;
        let mounts = snapshotter.mounts(ctx, &found.container.snapshot_key).await?;
        let meta = Meta { state, ..found.meta };
        let live = Arc::clone(&found.live);
        let start = Start {
            ctx,
            container: &found.container,
            meta: &meta,
            mounts,
            live: &live,
            transient: false,
        };
        let started = match self.create_task(&start).await {
            Ok(pid) => self.start_task(&start, pid, false, None).await,
            Err(err) => Err(err),
        };
        match started {
            Ok(_) => Ok(()),
            Err(err) => match self.failed(&start, &err).await {
                Some(not_run) => Err(not_run.into_error(err)),
                None => Err(err),
            },
        }
    }

    /// Joins input and output of a running container's first process.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run or has no socket to join.
    pub async fn attach(
        &self,
        ctx: &Context,
        text: &str,
        stdin: bool,
        size: Option<Size>,
        mut session: Session,
    ) -> Result<()> {
        let found = self.find(ctx, text).await?;
        if !found.state.phase.is_running() {
            return Err(Error::failed_precondition(
                "You cannot attach to a stopped container, start it first",
            )
            .about("container", text));
        }
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "attach to container {text}: another client made it and holds its output"
            ))
            .about("container", text));
        }
        let id = found.container.id.as_str();
        let mut attached = Attached::connect(&attach_socket(&self.parts.config.state, id)).await?;
        if let Some(size) = size.filter(|_| found.meta.settings.tty) {
            attached.to.resize(size).await?;
        }
        session.tell(SessionOutput::Started { pid: found.state.pid }).await;
        let stdin = stdin && found.meta.settings.open_stdin;
        let target = Target { tasks: &*self.parts.tasks, ctx, id, exec_id: "", stdin, sole: false };
        let state = match session::carry(target, attached, &mut session).await {
            Ended::CallerGone => return Ok(()),
            Ended::Exit(status) => {
                found.live.ended(found.state.pid, watch::end(&found.meta, status))
            }
            Ended::Lost => found.live.wait_run(found.state.pid).await,
        };
        session.tell(SessionOutput::Exited { status: state.exit_code, error: state.error }).await;
        Ok(())
    }

    /// Asks the first process to end, and kills it when it does not within
    /// `timeout`: 10 seconds when `None`, never when that is.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for the signal; `DeadlineExceeded` for a process that can't be killed.
    pub async fn stop(
        &self,
        ctx: &Context,
        text: &str,
        signal: &str,
        timeout: Option<Option<Duration>>,
    ) -> Result<()> {
        let asked = if signal.is_empty() { None } else { Some(signal::parse(signal)?) };
        let found = self.find(ctx, text).await?;
        if !found.state.phase.is_running() {
            return Ok(());
        }
        let signal = asked.unwrap_or(match found.meta.settings.stop_signal {
            0 => 15,
            signal => signal,
        });
        self.signal(ctx, &found, signal).await?;
        let ended = self.ended(ctx, &found);
        match timeout.unwrap_or(Some(GRACE)) {
            None => {
                ended.await;
                return Ok(());
            }
            Some(grace) => {
                if tokio::time::timeout(grace, ended).await.is_ok() {
                    return Ok(());
                }
            }
        }
        self.signal(ctx, &found, KILL).await?;
        let killed = tokio::time::timeout(END, self.ended(ctx, &found)).await;
        killed.map_err(|_| watch::stuck("stop", &found.meta.name))
    }

    /// Sends a signal to the first process: `SIGKILL` when empty.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run; `InvalidArgument`.
    pub async fn kill(&self, ctx: &Context, text: &str, signal: &str) -> Result<()> {
        let signal = if signal.is_empty() { KILL } else { signal::parse(signal)? };
        let found = self.find_running(ctx, text, "kill").await?;
        self.signal(ctx, &found, signal).await
    }

    /// A process that ended meanwhile is no error. One that is frozen can
    /// take no signal but the last: it is let go for that.
    async fn signal(&self, ctx: &Context, found: &Found, signal: u32) -> Result<()> {
        let id = &found.container.id;
        let sent = self.parts.tasks.kill(ctx, id, "", signal, false).await;
        if found.state.phase == Phase::Paused && (signal == KILL || signal == CONT) {
            // Whether it helped is seen by whether the process ends.
            let _ = self.parts.tasks.resume(ctx, id).await;
        }
        match sent {
            Err(err) if err.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Returns when the first process has ended.
    async fn ended(&self, ctx: &Context, found: &Found) {
        if found.meta.foreign {
            // An error means that there is no task any more.
            let _ = self.parts.tasks.wait(ctx, &found.container.id, "").await;
        } else {
            found.live.wait_ended().await;
        }
    }

    /// Answers with the exit code when the container has ended; at once when
    /// it does not run.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, ctx: &Context, text: &str) -> Result<u32> {
        let found = self.find(ctx, text).await?;
        if !found.state.phase.is_running() {
            return Ok(found.state.exit_code);
        }
        if found.meta.foreign {
            return Ok(self.parts.tasks.wait(ctx, &found.container.id, "").await?.status);
        }
        found.live.wait_ended().await;
        Ok(found.live.now().state.map_or(0, |state| state.exit_code))
    }

    /// Removes a container with its file system and its output.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it runs, unless `force` is set.
    pub async fn remove(&self, ctx: &Context, text: &str, force: bool) -> Result<()> {
        let found = self.find(ctx, text).await?;
        let id = found.container.id.clone();
        let end = Instant::now() + END;
        let mut attempt = self.try_remove(ctx, text, found, force).await;
        // Somebody starts it again and again: not for ever.
        while let Err(Removal::Started(err)) = attempt {
            if !force || Instant::now() > end {
                return Err(err);
            }
            attempt = match self.find(ctx, &id).await {
                Ok(found) => self.try_remove(ctx, text, found, force).await,
                Err(err) if err.is_not_found() => Ok(()),
                Err(err) => Err(err.into()),
            };
        }
        attempt.map_err(|removal| match removal {
            Removal::Started(err) | Removal::Failed(err) => err,
        })
    }

    async fn try_remove(
        &self,
        ctx: &Context,
        text: &str,
        found: Found,
        force: bool,
    ) -> Result<(), Removal> {
        let (id, name) = (found.container.id.as_str(), found.meta.name.as_str());
        if found.state.phase.is_running() {
            if !force {
                let err = Error::failed_precondition(format!(
                    "cannot remove container \"/{name}\": container is running: stop the \
                     container before removing or force remove"
                ));
                return Err(Removal::Failed(err.about("container", name)));
            }
            self.signal(ctx, &found, KILL).await?;
            let killed = tokio::time::timeout(END, self.ended(ctx, &found)).await;
            killed.map_err(|_| watch::stuck("remove", name))?;
            found.live.wait_settled().await;
        }
        let busy = found.live.hold().await;
        let state = self.live.state(&ctx.namespace, id);
        match state.as_ref().map(|state| state.phase) {
            // It went by itself meanwhile, or another caller was faster.
            Some(Phase::Removing) if force => return Ok(()),
            Some(Phase::Removing) => return Err(no_such(text).into()),
            Some(phase) if phase.is_running() => {
                return Err(Removal::Started(Error::failed_precondition(format!(
                    "cannot remove container \"/{name}\": it has just been started"
                ))));
            }
            _ => {}
        }
        let before = state.unwrap_or(found.state);
        found.live.set(State { phase: Phase::Removing, ..before.clone() });
        // First the intent, so that a restart finishes what was begun.
        let removing = |meta: &mut Meta| meta.state.phase = Phase::Removing;
        let intended = self.store.update(ctx, id, Durability::Buffered, None, removing).await;
        let removed = match intended {
            Ok(()) => self.dispose(ctx, &found.container, &found.meta, Durability::Sync).await,
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(err),
        };
        if let Err(err) = removed {
            let error = err.to_string();
            found.live.set(State { phase: Phase::Dead, error, ..before });
            self.record(ctx, id, &found.live, Durability::Sync, Some(Action::Updated)).await;
            return Err(err.context(format!("remove container {name}")).into());
        }
        drop(busy);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::tasks::Exit;

    fn task(status: Status) -> Process {
        let exit = Exit { status: 3, ..Exit::default() };
        Process { pid: 7, status, exit, ..Process::default() }
    }

    #[test]
    fn what_is_newest_counts() {
        let meta = Meta { state: State { exit_code: 1, ..State::default() }, ..Meta::default() };
        assert_eq!(current(&meta, None, None).exit_code, 1);
        let known = State { phase: Phase::Running, ..State::default() };
        assert_eq!(current(&meta, Some(known.clone()), None).phase, Phase::Running);
        let paused = current(&meta, Some(known), Some(&task(Status::Paused)));
        assert_eq!(paused.phase, Phase::Paused);
    }

    #[test]
    fn containers_of_others_are_as_their_tasks() {
        let meta = Meta { foreign: true, ..Meta::default() };
        let running = current(&meta, None, Some(&task(Status::Running)));
        assert_eq!((running.phase, running.pid), (Phase::Running, 7));
        let ended = current(&meta, None, Some(&task(Status::Stopped)));
        assert_eq!((ended.phase, ended.exit_code, ended.pid), (Phase::Exited, 3, 0));
        assert_eq!(current(&meta, None, Some(&task(Status::Paused))).phase, Phase::Paused);
    }
}
