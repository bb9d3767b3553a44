//! Starting containers, and carrying what they say.

use std::future::ready;
use std::sync::Arc;

use gantry_core::attach::LogUri;
use gantry_core::containers::Container;
use gantry_core::db::Durability;
use gantry_core::images::ProgressSink;
use gantry_core::tasks::{CreateTask, ExecFailure, Rootfs, Stdio, exec_failure};
use gantry_core::{Context, Error, Kind, Mount, Result, Timestamp};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use tokio::sync::oneshot;

use crate::Engine;
use crate::attach::Attached;
use crate::files::{attach_socket, network_socket};
use crate::health::HealthStatus;
use crate::lifecycle::{Join, Joined};
use crate::live::Live;
use crate::model::{Meta, Phase, State};
use crate::options::{RunRequest, Session, SessionOutput};
use crate::scope;
use crate::specification::is_final;

/// What a container's start needs.
pub(crate) struct Start<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) container: &'a Container,
    pub(crate) meta: &'a Meta,
    pub(crate) live: &'a Arc<Live>,
    /// It goes with its session: nobody else was told of it.
    pub(crate) transient: bool,
    /// What its restart policy remembers of earlier runs.
    pub(crate) carried: State,
}

/// A command that could not be run, as Docker says it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotRun {
    pub(crate) status: u32,
    pub(crate) text: String,
}

impl Engine {
    /// Makes a container and starts it. A detached one is left on its own;
    /// for others input and output are carried until it ends, or until
    /// the caller goes, who leaves it running. One who goes before it runs
    /// wants it not to.
    ///
    /// The record is durable before the caller is told of the container. The
    /// exception is one that is not detached and goes with its end: it does
    /// not outlive the machine anyway, so it is only safe from the end of the daemon.
    ///
    /// # Errors
    /// As [`Engine::create`]. A command that can't be run ends the session with
    /// its exit code; the container stays, not started, unless it was to go with its end. For a
    /// caller who goes before it runs nothing stays.
    pub async fn run(
        self: &Arc<Self>,
        ctx: &Context,
        mut request: RunRequest,
        mut session: Session,
    ) -> Result<()> {
        scope::admit(ctx, &mut request.options)?;
        let once = request.options.idempotency.clone();
        if once.is_some() && !request.detach {
            return Err(Error::invalid_argument(
                "an idempotency key needs a detached container: who repeats the request can't \
                 have the output that was sent before",
            ));
        }
        let _once = self.once(ctx, once.as_ref()).await?;
        if let Some((container, meta)) = self.repeated(ctx, once.as_ref()).await? {
            return self.run_again(ctx, &container.id, &meta.name, &session).await;
        }
        let platform = request.platform.take();
        let progress = progress_to(&session);
        let wanted = &request.options.image;
        let image = tokio::select! {
            image = self.image_for(ctx, wanted, request.pull, platform, Some(progress)) => image?,
            // Who leaves before there is a container wants none.
            () = session.output.closed() => return Ok(()),
        };
        let options = std::mem::take(&mut request.options);
        let transient = options.auto_remove && !request.detach;
        // As when its start fails. A request that may be repeated finds it and starts it.
        let undone = options.auto_remove && once.is_none();
        let stored = if undone { Phase::Creating } else { Phase::Created };
        let made = self.register(ctx, options, &image, request.size).await?;
        let live = Arc::clone(&made.live);
        let busy = live.busy.lock().await;
        let start = Start {
            ctx,
            container: &made.container,
            meta: &made.meta,
            live: &live,
            transient,
            carried: State::default(),
        };
        // Its shim is got ready while it is made.
        let (furnished, mounts) = oneshot::channel();
        let told = async {
            let mounts = self.furnish(ctx, &made, &image).await?;
            // Nobody waits for them when there is no shim.
            let _ = furnished.send(rootfs(&made.meta, mounts));
            if transient {
                live.set(State { phase: Phase::Created, ..State::default() });
                self.tell(ctx, Action::Created, &made.container, &made.meta, &live);
            } else {
                self.mark_created(ctx, &made, stored).await?;
            }
            let (id, name) = (made.container.id.clone(), made.meta.name.clone());
            let warnings = made.warnings.clone();
            let created = SessionOutput::Created { id, name, warnings, existing: false };
            session.tell(created).await;
            if !request.detach {
                self.tell(ctx, Action::Attached, &made.container, &made.meta, &live);
            }
            Ok(())
        };
        let unmade = |_| Error::internal("there is no root file system");
        let mounts = async move { mounts.await.map_err(unmade) };
        let prepared = self.create_task_on(&start, Box::pin(mounts));
        let (told, prepared) = tokio::join!(told, prepared);
        let join = if request.detach { Join::No } else { Join::With(request.size) };
        let started = match told.and(prepared) {
            // It would run for nobody.
            Ok(_) if !request.detach && session.output.is_closed() => {
                let text = "the caller went away before the container was started";
                Err(Error::new(Kind::Cancelled, text))
            }
            Ok(pid) => self.start_task(&start, pid, join).await,
            Err(err) => Err(err),
        };
        let (pid, attached) = match started {
            Ok(started) => started,
            Err(err) => {
                if !request.detach && session.output.is_closed() {
                    self.withdraw(&start).await;
                    return Err(err);
                }
                let not_run = self.failed(&start, &err).await;
                return match not_run {
                    Some(NotRun { status, text }) => {
                        session.tell(SessionOutput::Exited { status, error: text }).await;
                        Ok(())
                    }
                    None => Err(err),
                };
            }
        };
        drop(busy);
        if !session.tell(SessionOutput::Started { pid }).await && !request.detach {
            // As above. It may have ended.
            let _ = self.kill(ctx, &made.container.id, "").await;
        }
        if let Some(attached) = attached {
            let (id, meta) = (made.container.id.as_str(), &made.meta);
            let stdin = request.attach_stdin;
            // A terminal can be attached to again.
            let sole = !meta.settings.tty;
            let joined = Joined { ctx, id, meta, live: &live, run: pid, stdin, sole };
            self.carry(joined, attached, &mut session).await;
        }
        Ok(())
    }

    /// Answers a request that has made a container before. It is started if it never was:
    /// the daemon may have ended in between.
    async fn run_again(
        self: &Arc<Self>,
        ctx: &Context,
        id: &str,
        name: &str,
        session: &Session,
    ) -> Result<()> {
        let (id, name, warnings) = (id.to_owned(), name.to_owned(), Vec::new());
        let created = SessionOutput::Created { id: id.clone(), name, warnings, existing: true };
        session.tell(created).await;
        let before = self.find(ctx, &id).await?.state;
        if before.phase == Phase::Created && before.error.is_empty() {
            self.start(ctx, &id).await?;
        }
        let state = self.find(ctx, &id).await?.state;
        let told = if state.phase.is_running() {
            SessionOutput::Started { pid: state.pid }
        } else {
            SessionOutput::Exited { status: state.exit_code, error: state.error }
        };
        session.tell(told).await;
        Ok(())
    }

    /// Has a shim prepare the first process of a container that is there, with its root on these
    /// mounts.
    pub(crate) async fn create_task(&self, start: &Start<'_>, mounts: Vec<Mount>) -> Result<u32> {
        let rootfs = rootfs(start.meta, mounts);
        self.create_task_on(start, Box::pin(ready(Ok(rootfs)))).await
    }

    /// [`Engine::create_task`] for a container of which no more than its record may be there: all
    /// of it is once its root file system is.
    async fn create_task_on(&self, start: &Start<'_>, rootfs: Rootfs) -> Result<u32> {
        let Start { ctx, container, meta, .. } = *start;
        let state = &self.parts.config.state;
        let socket = attach_socket(state, &container.id);
        let network = network_socket(state, &container.id);
        let attached = meta.settings.is_attached();
        let uri = LogUri {
            attach: socket.display().to_string(),
            network: if attached { network.display().to_string() } else { String::new() },
            stdin: meta.settings.open_stdin,
            ..self.log_uri(ctx, container, meta)?
        };
        let rootfs: Rootfs = match is_final(&meta.settings) {
            true => rootfs,
            false => Box::pin(ready(Ok(rootfs.await?))),
        };
        // Held until the task is made: it leads to other containers.
        let (record, _shared) = self.record_to_start(ctx, container, &meta.settings).await?;
        let task = CreateTask {
            container_id: container.id.clone(),
            stdio: Stdio { stdout: uri.format(), terminal: meta.settings.tty, ..Stdio::default() },
            container: Some(record),
            ..CreateTask::default()
        };
        // Both are needed before anything of it runs, and neither for the other.
        let (there, made) = oneshot::channel();
        let rootfs = async move {
            let mounts = rootfs.await?;
            let _ = there.send(());
            Ok::<_, Error>(mounts)
        };
        let created = self.parts.tasks.create_on(ctx, task, Box::pin(rootfs));
        let reserved = async {
            match made.await {
                Ok(()) => self.reserve_networks(start).await,
                // Nor is there a task.
                Err(_) => Ok(()),
            }
        };
        let (created, reserved) = tokio::join!(created, reserved);
        reserved.and(created)
    }

    /// Lets a prepared process run, attached to before it can say anything,
    /// and begins to watch it.
    pub(crate) async fn start_task(
        self: &Arc<Self>,
        start: &Start<'_>,
        pid: u32,
        join: Join,
    ) -> Result<(u32, Option<Attached>)> {
        let Start { ctx, container, meta, live, .. } = start;
        let connected = self.join_networks(start, pid).await?;
        let attached = if let Join::With(size) = join {
            let socket = attach_socket(&self.parts.config.state, &container.id);
            let mut attached = Attached::connect(&socket).await?;
            if let Some(size) = size.filter(|_| meta.settings.tty) {
                attached.to.resize(size).await?;
            }
            Some(attached)
        } else {
            None
        };
        self.parts.tasks.start(ctx, &container.id, "").await?;
        self.tell_connected(ctx, &connected).await;
        self.tell_mounted(ctx, &container.id, &meta.settings);
        let state = State {
            phase: Phase::Running,
            pid,
            started_at: Timestamp::now(),
            health: HealthStatus::at_start(meta.settings.health.as_ref()),
            connected,
            ..start.carried.clone()
        };
        live.watched(state, meta.settings.restart);
        let started = Action::Started;
        if start.transient {
            self.tell(ctx, started, container, meta, live);
        } else {
            // Before anybody is told that it runs: its end is then looked for
            // even by a daemon that comes after this one.
            self.record(ctx, &container.id, live, Durability::Buffered, Some(started)).await;
        }
        self.watch(ctx, container, meta, live);
        self.begin_health(ctx, container, meta, live);
        Ok((pid, attached))
    }

    /// Takes away what was made for a caller who went away before it ran, with its anonymous
    /// volumes.
    async fn withdraw(&self, start: &Start<'_>) {
        let Start { ctx, container, meta, live, .. } = start;
        let untold = live.now().state.is_some_and(|state| state.phase == Phase::Creating);
        if untold {
            self.undo(ctx, container, meta, live).await;
            return;
        }
        live.set(State { phase: Phase::Removing, ..State::default() });
        // First the intent, so that a restart finishes what was begun.
        let removing = |meta: &mut Meta| {
            meta.state.phase = Phase::Removing;
            meta.with_volumes = true;
        };
        let id = container.id.as_str();
        let intended = self.store.update(ctx, id, Durability::Buffered, None, removing).await;
        if let Err(err) = intended {
            tracing::warn!(id, error = %err, "record that a container is to go");
        }
        let meta = Meta { with_volumes: true, ..(*meta).clone() };
        self.dispose_or_bury(ctx, container, &meta, live).await;
    }

    /// Cleans up after a start that failed. The container stays as it was, unless it
    /// was to go with its end.
    pub(crate) async fn failed(&self, start: &Start<'_>, err: &Error) -> Option<NotRun> {
        let Start { ctx, container, meta, live, .. } = start;
        let id = &container.id;
        // Nobody was told of it: nothing of it remains.
        let untold = live.now().state.is_some_and(|state| state.phase == Phase::Creating);
        if untold {
            self.undo(ctx, container, meta, live).await;
            return None;
        }
        if let Err(left) = self.end_task(ctx, id, meta.settings.auto_remove).await {
            self.bury(ctx, container, live, &left).await;
            return None;
        }
        let command = meta.settings.args().next().map_or("", String::as_str);
        let not_run = NotRun::of(err, command);
        let (exit_code, error) = match &not_run {
            Some(not_run) => (not_run.status, not_run.text.clone()),
            None => (128, err.to_string()),
        };
        if meta.settings.auto_remove {
            live.set(State { phase: Phase::Removing, ..State::default() });
            self.dispose_or_bury(ctx, container, meta, live).await;
            return not_run;
        }
        let before = meta.state.clone();
        // A container that ran before has ended; a new one was only made.
        let phase = match before.phase {
            Phase::Exited | Phase::Restarting => Phase::Exited,
            _ => Phase::Created,
        };
        let state = State { phase, exit_code, error, pid: 0, ..before };
        live.set(state);
        self.record(ctx, id, live, Durability::Sync, Some(Action::Died)).await;
        not_run
    }
}

impl NotRun {
    /// Whether an error says that the command could not be run.
    pub(crate) fn of(err: &Error, command: &str) -> Option<Self> {
        let failure = exec_failure(err)?;
        let why = match failure {
            ExecFailure::NotFound if command.contains('/') => {
                format!("stat {command}: no such file or directory")
            }
            ExecFailure::WorkingDirectory => {
                return Some(Self { status: failure.exit_code(), text: err.to_string() });
            }
            ExecFailure::NotFound => "executable file not found in $PATH".to_owned(),
            ExecFailure::NotExecutable => {
                let said = err.to_string().to_lowercase();
                let words = ["exec format error", "is a directory", "permission denied"];
                let word = words.into_iter().find(|word| said.contains(word));
                word.unwrap_or("permission denied").to_owned()
            }
        };
        Some(Self { status: failure.exit_code(), text: format!("exec: {command:?}: {why}") })
    }

    /// Whether an error says that a further process could not be run for another reason: it was
    /// to be a user whom its container does not have, or the runtime refused it.
    pub(crate) fn of_further(err: &Error) -> Option<Self> {
        let text = err.to_string();
        let unknown = ["unable to find user", "unable to find group"];
        let unknown = unknown.into_iter().any(|words| text.contains(words));
        // A shim that is gone, a container that has ended, and the like have kinds of their own.
        let refused = matches!(err.kind(), Kind::Internal | Kind::InvalidArgument);
        let is_about_it = unknown || refused;
        is_about_it.then_some(Self { status: ExecFailure::NotExecutable.exit_code(), text })
    }

    /// The same as an error, for callers that see no exit code.
    pub(crate) fn into_error(self, source: Error) -> Error {
        let kind = match self.status {
            127 => Kind::NotFound,
            _ => Kind::FailedPrecondition,
        };
        tracing::debug!(error = %source, "a command could not be run");
        Error::new(kind, self.text)
    }
}

/// The mounts of a container's root. What one that goes with its end has
/// written is nobody's: its overlay need not bring it to the disk.
fn rootfs(meta: &Meta, mut mounts: Vec<Mount>) -> Vec<Mount> {
    if meta.settings.auto_remove {
        let writable = |m: &&mut Mount| {
            m.kind == "overlay" && m.options.iter().any(|o| o.starts_with("upperdir="))
        };
        for mount in mounts.iter_mut().filter(writable) {
            mount.options.push("volatile".to_owned());
        }
    }
    mounts
}

/// Hands progress to a session's caller. Progress that the caller does not
/// take in time is left out: more follows, and its end is waited for.
fn progress_to(session: &Session) -> ProgressSink {
    let output = session.output.clone();
    Arc::new(move |progress| {
        let _ = output.try_send(SessionOutput::Progress(progress));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_says_of_commands() {
        let not_run = |text: &str, command: &str| NotRun::of(&Error::internal(text), command);
        let found = not_run("exec nope: No such file or directory (os error 2)", "nope").unwrap();
        assert_eq!(found.status, 127);
        assert_eq!(found.text, "exec: \"nope\": executable file not found in $PATH");
        let found = not_run("exec /x: no such file or directory", "/x").unwrap();
        assert_eq!(found.text, "exec: \"/x\": stat /x: no such file or directory");
        let found = not_run("exec /etc/passwd: Permission denied", "/etc/passwd").unwrap();
        assert_eq!(found.status, 126);
        assert_eq!(found.text, "exec: \"/etc/passwd\": permission denied");
        let found = not_run("exec: \"\": executable file not found in $PATH", "").unwrap();
        assert_eq!(found.text, "exec: \"\": executable file not found in $PATH");
        let said = "chdir to cwd (\"/nope\") failed: no such file or directory";
        let found = not_run(said, "ls").unwrap();
        assert_eq!((found.status, found.text.as_str()), (126, said));
        assert_eq!(not_run("mount failed", "x"), None);
    }

    #[test]
    fn users_that_there_are_not() {
        let said = "unable to find user ghost: no matching entries in passwd file";
        let found = NotRun::of_further(&Error::invalid_argument(said)).unwrap();
        assert_eq!((found.status, found.text.as_str()), (126, said));
    }

    #[test]
    fn what_the_runtime_refuses_can_not_be_executed() {
        let refused = Error::internal("exec /x: File name too long");
        assert_eq!(NotRun::of_further(&refused).map(|not_run| not_run.status), Some(126));
        for kind in [Kind::NotFound, Kind::FailedPrecondition, Kind::Unavailable] {
            assert_eq!(NotRun::of_further(&Error::new(kind, "the container is gone")), None);
        }
    }
}
