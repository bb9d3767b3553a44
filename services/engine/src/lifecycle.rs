//! Start, stop, kill and wait.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::containers::Container;
use gantry_core::db::Durability;
use gantry_core::tasks::{Process, Status};
use gantry_core::{Context, Error, Kind, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::attach::Attached;
use crate::files::attach_socket;
use crate::live::Live;
use crate::model::{Meta, Phase, RestartMode, Settings, State};
use crate::options::{AttachRequest, Session, SessionOutput, Size};
use crate::restart::NotStarted;
use crate::run::Start;
use crate::session::{self, Ended, Target};
use crate::signal::KILL;
use crate::store::no_such;
use crate::{Engine, signal, watch};

/// How long a container may take to stop by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How long one that was killed may take to end: longer only if its processes
/// hang in the kernel.
pub(crate) const END: Duration = Duration::from_secs(30);
/// SIGTERM.
const TERM: u32 = 15;
/// SIGCONT.
const CONT: u32 = 18;

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

/// Whether a session joins a container's first process before it can say anything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Join {
    /// Nobody does.
    No,
    /// One does, with a terminal of this size.
    With(Option<Size>),
}

/// A session of a container's first process.
pub(crate) struct Joined<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) id: &'a str,
    pub(crate) meta: &'a Meta,
    pub(crate) live: &'a Arc<Live>,
    /// Which run of it.
    pub(crate) run: u32,
    /// Standard input goes along.
    pub(crate) stdin: bool,
    /// Nobody else can join it.
    pub(crate) sole: bool,
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// That it does not run.
    #[default]
    NotRunning,
    /// Its next end.
    NextEnd,
    /// That it is gone.
    Removed,
}

/// Whether a container is to be started: not one that runs.
fn startable(state: &State, text: &str) -> Result<bool> {
    let refused = |why: &str| {
        let err = Error::failed_precondition(format!("start container {text}: {why}"));
        Err(err.about("container", text))
    };
    match state.phase {
        Phase::Running | Phase::Paused => Ok(false),
        Phase::Removing | Phase::Dead => refused("it is marked for removal"),
        Phase::Creating => refused("it is being made: try again"),
        Phase::Created | Phase::Exited | Phase::Restarting => Ok(true),
    }
}

/// Refuses containers whose output nobody can join.
fn attachable(state: &State, text: &str) -> Result<()> {
    let why = match state.phase {
        Phase::Running => return Ok(()),
        Phase::Paused => "You cannot attach to a paused container, unpause it first",
        Phase::Restarting => {
            "You cannot attach to a restarting container, wait until it is running"
        }
        _ => "You cannot attach to a stopped container, start it first",
    };
    Err(Error::failed_precondition(why).about("container", text))
}

/// The container, if it runs.
pub(crate) fn running(found: Found, text: &str, what: &str) -> Result<Found> {
    if found.state.phase.is_running() {
        return Ok(found);
    }
    let id = &found.container.id;
    let why = match found.state.phase {
        Phase::Restarting => "is restarting, wait until the container is running",
        _ => "is not running",
    };
    Err(Error::failed_precondition(format!(
        "cannot {what} container: {text}: container {id} {why}"
    ))
    .about("container", text))
}

/// The signal that a container is stopped by.
fn stop_signal(settings: &Settings) -> u32 {
    match settings.stop_signal {
        0 => TERM,
        signal => signal,
    }
}

/// Says what ends a container whose shim does not answer; other errors stay as they are.
fn advised(err: Error, name: &str) -> Error {
    if err.kind() != Kind::DeadlineExceeded {
        return err;
    }
    err.context(format!(
        "container {name} gets the signal when its shim answers, and `gantry rm -f {name}` ends \
         it without that"
    ))
}

impl Engine {
    /// Finds a container by name, ID or a unique beginning of its ID.
    pub(crate) async fn find(&self, ctx: &Context, text: &str) -> Result<Found> {
        if text.is_empty() {
            let said = "invalid container name or ID: value is empty";
            return Err(Error::invalid_argument(said));
        }
        let (container, meta) = self.store.resolve(ctx, text).await?;
        let tasks = self.parts.tasks.list(ctx).await?;
        let task = tasks.iter().find(|task| task.container_id == container.id);
        let live = self.live.entry(ctx, &container.id);
        let known = live.now().state;
        // One that has gone since it was found: nobody would tell who waits for that.
        if known.is_none() && self.store.get(ctx, &container.id).await?.is_none() {
            self.live.forget(ctx, &container.id);
            return Err(no_such(text));
        }
        let state = current(&meta, known, task);
        Ok(Found { container, meta, live, state })
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
        let turn = found.live.turns.run();
        self.start_in_turn(ctx, text, &found, turn).await
    }

    /// Starts a container, unless somebody has wanted it to end behind this turn.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub(crate) async fn start_in_turn(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        found: &Found,
        turn: u64,
    ) -> Result<()> {
        let live = &found.live;
        let busy = live.hold().await;
        let Some((container, meta)) = self.to_start(ctx, text, found, turn).await? else {
            return Ok(());
        };
        let started =
            self.start_held(ctx, &container, &meta, live, State::default(), Join::No).await;
        drop(busy);
        started.map(|_| ()).map_err(|not_started| not_started.error)
    }

    /// What a container is started from that its caller holds. `None` when it is not to be
    /// started: it runs, or somebody has wanted it to end behind this turn.
    async fn to_start(
        &self,
        ctx: &Context,
        text: &str,
        found: &Found,
        turn: u64,
    ) -> Result<Option<(Container, Meta)>> {
        let (id, live) = (found.container.id.as_str(), &found.live);
        let state = self.live.state(&ctx.namespace, id).unwrap_or_else(|| found.state.clone());
        if !startable(&state, text)? {
            return Ok(None);
        }
        // Its settings may have been updated since it was found.
        let Some((container, meta)) = self.store.get(ctx, id).await? else {
            return Err(no_such(text));
        };
        let meta = Meta { state, ..meta };
        if !live.turns.ends_after(turn) {
            return Ok(Some((container, meta)));
        }
        if meta.settings.auto_remove && meta.state.phase == Phase::Exited {
            // It was kept for this start alone.
            live.set(State { phase: Phase::Removing, ..meta.state.clone() });
            self.dispose_or_bury(ctx, &container, &meta, live).await;
        }
        Ok(None)
    }

    /// Starts a container that its caller holds.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub(crate) async fn start_held(
        self: &Arc<Self>,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        live: &Arc<Live>,
        carried: State,
        join: Join,
    ) -> Result<(u32, Option<Attached>), NotStarted> {
        // What it joins was settled when it was made.
        let ctx = &Context { scope: None, ..ctx.clone() };
        self.make_sources(&meta.settings).await?;
        let snapshotter = self.parts.snapshotters.get(&container.snapshotter)?;
        let mounts = snapshotter.mounts(ctx, &container.snapshot_key).await?;
        let start = Start { ctx, container, meta, live, transient: false, carried };
        let started = match self.create_task(&start, mounts).await {
            Ok(pid) => self.start_task(&start, pid, join).await,
            Err(err) => Err(err),
        };
        let error = match started {
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        Err(match self.failed(&start, &error).await {
            Some(not_run) => NotStarted {
                status: not_run.status,
                command: true,
                error: not_run.into_error(error),
            },
            None => NotStarted::from(error),
        })
    }

    /// Joins input and output of a container's first process; with `start`, of one that does
    /// not run yet, which then misses nothing.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run or has no socket to join; with
    /// `start`, as [`Engine::start`].
    pub async fn attach(
        self: &Arc<Self>,
        ctx: &Context,
        request: AttachRequest,
        mut session: Session,
    ) -> Result<()> {
        let AttachRequest { container: text, stdin, size, start } = request;
        let found = self.find(ctx, &text).await?;
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "attach to container {text}: another client made it and holds its output"
            ))
            .about("container", text));
        }
        let stdin = stdin && found.meta.settings.open_stdin;
        let id = found.container.id.as_str();
        let started = if start { self.start_joined(ctx, &text, &found, size).await? } else { None };
        let (run, attached, sole) = match started {
            Some(Ok((pid, attached))) => (pid, attached, !found.meta.settings.tty),
            Some(Err((status, error))) => {
                session.tell(SessionOutput::Exited { status, error }).await;
                return Ok(());
            }
            None => {
                let found = self.find(ctx, id).await?;
                attachable(&found.state, &text)?;
                self.tell_of(ctx, Action::Attached, &found, &[]);
                let socket = attach_socket(&self.parts.config.state, id);
                let mut attached = Attached::connect(&socket).await?;
                if let Some(size) = size.filter(|_| found.meta.settings.tty) {
                    attached.to.resize(size).await?;
                }
                (found.state.pid, attached, false)
            }
        };
        session.tell(SessionOutput::Started { pid: run }).await;
        let joined = Joined { ctx, id, meta: &found.meta, live: &found.live, run, stdin, sole };
        self.carry(joined, attached, &mut session).await;
        Ok(())
    }

    /// Starts a container with a session that joins it; `None` when it runs already, or somebody
    /// has stopped it. A command that can't be run is no error: it has an exit code.
    async fn start_joined(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        found: &Found,
        size: Option<Size>,
    ) -> Result<Option<Result<(u32, Attached), (u32, String)>>> {
        let live = &found.live;
        let turn = live.turns.run();
        let busy = live.hold().await;
        let Some((container, meta)) = self.to_start(ctx, text, found, turn).await? else {
            return Ok(None);
        };
        self.tell_of(ctx, Action::Attached, found, &[]);
        let join = Join::With(size);
        let started = self.start_held(ctx, &container, &meta, live, State::default(), join).await;
        drop(busy);
        match started {
            Ok((pid, Some(attached))) => Ok(Some(Ok((pid, attached)))),
            Ok((_, None)) => Err(Error::internal(format!("join container {text}"))),
            Err(NotStarted { error, command: true, status }) => {
                Ok(Some(Err((status, error.to_string()))))
            }
            Err(not_started) => Err(not_started.error),
        }
    }

    /// Carries a session of a container's first process to its end.
    pub(crate) async fn carry(
        &self,
        joined: Joined<'_>,
        attached: Attached,
        session: &mut Session,
    ) {
        let Joined { ctx, id, meta, live, run, stdin, sole } = joined;
        let target = Target { engine: self, ctx, id, exec_id: "", stdin, sole };
        let state = match session::carry(target, attached, session).await {
            Ended::CallerGone => return,
            Ended::Exit(status) => live.ended(run, watch::end(meta, status)),
            Ended::Lost => live.wait_run(run).await,
        };
        session.tell(SessionOutput::Exited { status: state.exit_code, error: state.error }).await;
    }

    /// Asks the first process to end, and kills it when it does not within
    /// `timeout`: the container's own when `None`, never when that is. Neither its restart policy
    /// nor a restart that is under way starts it again.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for the signal; `DeadlineExceeded` for a process that can't be killed.
    pub async fn stop(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        signal: &str,
        timeout: Option<Option<Duration>>,
    ) -> Result<()> {
        let asked = if signal.is_empty() { None } else { Some(signal::parse(signal)?) };
        let mut found = self.find(ctx, text).await?;
        let turn = found.live.turns.end();
        loop {
            if found.state.phase.is_running() {
                self.intend_stop(ctx, &found).await?;
                self.end(ctx, &found, asked, timeout).await?;
                self.tell_stopped(ctx, &found);
            }
            if found.meta.foreign {
                return Ok(());
            }
            let (id, live) = (found.container.id.as_str(), &found.live);
            self.give_up(ctx, id, live).await;
            // Its policy, or somebody who wanted that before, may just have been starting it.
            if !live.now().runs() || live.turns.runs_after(turn) {
                return Ok(());
            }
            found = match self.find(ctx, id).await {
                Err(err) if err.is_not_found() => return Ok(()),
                other => other?,
            };
        }
    }

    /// Tells that a container was stopped, once its end is told.
    fn tell_stopped(self: &Arc<Self>, ctx: &Context, found: &Found) {
        let (engine, ctx) = (Arc::clone(self), ctx.clone());
        let found = Found {
            container: Container { spec: None, ..found.container.clone() },
            meta: found.meta.clone(),
            live: Arc::clone(&found.live),
            state: found.state.clone(),
        };
        tokio::spawn(async move {
            found.live.wait_over(found.state.pid).await;
            engine.tell_of(&ctx, Action::Stopped, &found, &[]);
        });
    }

    /// Makes this run of a container end, not one that follows it.
    pub(crate) async fn end(
        &self,
        ctx: &Context,
        found: &Found,
        signal: Option<u32>,
        timeout: Option<Option<Duration>>,
    ) -> Result<()> {
        let now = found.live.now();
        if !found.meta.foreign && (now.run() != found.state.pid || !now.runs()) {
            return Ok(());
        }
        let (settings, name) = (&found.meta.settings, &found.meta.name);
        let signal = signal.unwrap_or(stop_signal(settings));
        self.signal(ctx, found, signal).await.map_err(|err| advised(err, name))?;
        if found.state.phase == Phase::Paused {
            // Whether it helped is seen by whether the process ends.
            let _ = self.parts.tasks.resume(ctx, &found.container.id).await;
        }
        let ended = self.ended(ctx, found);
        let own = || match settings.stop_timeout {
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            None => Some(GRACE),
        };
        match timeout.unwrap_or_else(own) {
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
        self.signal(ctx, found, KILL).await.map_err(|err| advised(err, name))?;
        let killed = tokio::time::timeout(END, self.ended(ctx, found)).await;
        killed.map_err(|_| watch::stuck("stop", name))
    }

    /// Writes down that its user stops a container, before it is: a daemon that comes after
    /// this one leaves it so as well.
    async fn intend_stop(&self, ctx: &Context, found: &Found) -> Result<()> {
        found.live.stopped_by_user();
        if found.meta.foreign || found.meta.settings.restart.mode == RestartMode::No {
            return Ok(());
        }
        let by_user = |meta: &mut Meta| meta.state.stopped_by_user = true;
        self.store.update(ctx, &found.container.id, Durability::Sync, None, by_user).await
    }

    /// Sends a signal to the first process: `SIGKILL` when empty. After that one and its stop
    /// signal neither its restart policy nor a restart that is under way starts it again.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run; `InvalidArgument`.
    pub async fn kill(self: &Arc<Self>, ctx: &Context, text: &str, signal: &str) -> Result<()> {
        let signal = if signal.is_empty() { KILL } else { signal::parse(signal)? };
        let mut found = self.find(ctx, text).await?;
        let last = signal == KILL || signal == stop_signal(&found.meta.settings);
        let waits = found.state.phase == Phase::Restarting;
        if waits && !last {
            return Ok(());
        }
        if last && (waits || found.live.is_between()) {
            let turn = found.live.turns.end();
            let id = found.container.id.clone();
            if self.give_up(ctx, &id, &found.live).await {
                return Ok(());
            }
            // Its policy, or somebody who restarts it, was just starting it.
            found = match self.find(ctx, &id).await {
                Err(err) if err.is_not_found() => return Ok(()),
                other => other?,
            };
            if !found.state.phase.is_running() || found.live.turns.runs_after(turn) {
                return Ok(());
            }
        }
        let found = running(found, text, "kill")?;
        if last {
            found.live.turns.end();
            self.intend_stop(ctx, &found).await?;
        }
        let sent = self.signal(ctx, &found, signal).await;
        sent.map_err(|err| advised(err, &found.meta.name))
    }

    /// Kills the first process, after which its restart policy decides.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run.
    pub(crate) async fn kill_process(&self, ctx: &Context, id: &str) -> Result<()> {
        let found = running(self.find(ctx, id).await?, id, "kill")?;
        self.signal(ctx, &found, KILL).await
    }

    /// A process that ended meanwhile is no error. One that is frozen can
    /// take no signal but the last: it is let go for that.
    pub(crate) async fn signal(&self, ctx: &Context, found: &Found, signal: u32) -> Result<()> {
        let id = &found.container.id;
        // Before its end, which may be told at once.
        self.tell_of(ctx, Action::Killed, found, &[("signal", &signal.to_string())]);
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
    pub(crate) async fn ended(&self, ctx: &Context, found: &Found) {
        if found.meta.foreign {
            // An error means that there is no task any more.
            let _ = self.parts.tasks.wait(ctx, &found.container.id, "").await;
        } else {
            found.live.wait_run(found.state.pid).await;
        }
    }

    /// Answers with the exit code when what is waited for has come.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, ctx: &Context, text: &str, until: Until) -> Result<u32> {
        let found = self.find(ctx, text).await?;
        if found.meta.foreign {
            if until == Until::NotRunning && !found.state.phase.is_running() {
                return Ok(found.state.exit_code);
            }
            return Ok(self.parts.tasks.wait(ctx, &found.container.id, "").await?.status);
        }
        let live = &found.live;
        match until {
            Until::NotRunning if !found.state.phase.is_running() => {
                return Ok(found.state.exit_code);
            }
            Until::NotRunning => drop(live.wait_run(found.state.pid).await),
            Until::NextEnd => live.wait_next_end().await,
            Until::Removed => live.wait_gone().await,
        }
        let state = live.now().state;
        Ok(state.map_or(found.state.exit_code, |state| state.exit_code))
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
    fn who_waits_for_a_shim_is_told_what_ends_its_container() {
        let late = advised(Error::new(Kind::DeadlineExceeded, "no answer"), "web");
        assert_eq!(late.kind(), Kind::DeadlineExceeded);
        assert!(late.to_string().contains("`gantry rm -f web`"), "{late}");
        assert_eq!(advised(Error::internal("broken"), "web").to_string(), "broken");
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
