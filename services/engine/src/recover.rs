//! After a restart: containers that run are watched again, the others get
//! the end that they had, and what was half-done is undone or finished. Of what
//! a shim does not say in time the rest follows while others are served.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use gantry_core::containers::{CONTAINERS, Container};
use gantry_core::db::{Durability, blocking};
use gantry_core::networks::{Living, Recovered};
use gantry_core::tasks::{Process, Status};
use gantry_core::{Context, Kind, Namespace, Result, faults, volumes};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::Engine;
use crate::files::socket_directory;
use crate::live::Live;
use crate::model::{Meta, Phase, State};
use crate::watch::{KILLED, stuck};

/// How long one container may hold up the start of the daemon.
const UNDO: Duration = Duration::from_secs(15);
/// So many may do so at the same time.
const SIDE_BY_SIDE: usize = 64;
/// Between attempts to learn what a container does from a shim that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// A container that an earlier daemon left.
struct Left {
    ctx: Context,
    container: Container,
    meta: Meta,
    task: Option<Process>,
}

impl Left {
    /// Whether its shim is still to say what it does. Of one that was told to run what is stored
    /// says enough.
    fn is_unclear(&self) -> bool {
        let silent = self.task.as_ref().is_some_and(|task| task.status == Status::Unknown);
        silent && !self.meta.state.phase.is_running()
    }

    /// Whether nothing can become of it but that it is removed.
    fn is_leaving(&self) -> bool {
        matches!(self.meta.state.phase, Phase::Removing | Phase::Dead)
    }
}

impl Engine {
    /// Brings what is stored and what runs together. Begins to watch what
    /// runs; needs a tokio runtime.
    ///
    /// # Errors
    /// The store's. Trouble with one container is logged.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        self.watch_memory()?;
        self.follow_others().await;
        self.waiting.begin();
        let database = Arc::clone(&self.parts.database);
        let namespaces = blocking(move || database.namespaces(CONTAINERS.name())).await?;
        let mut all = Vec::new();
        for namespace in namespaces {
            let ctx = Context::new(Namespace::new(namespace)?);
            self.find_left(&ctx, &mut all).await?;
        }
        let recovered = self.recover_networks(&living(&all)).await;
        let mut recovered: HashMap<_, _> = recovered
            .into_iter()
            .map(|one| ((one.namespace.clone(), one.container.clone()), one))
            .collect();
        side_by_side(all, |left| {
            let key = (left.ctx.namespace.clone(), left.container.id.clone());
            self.recover_one(left, recovered.remove(&key))
        })
        .await;
        let database = Arc::clone(&self.parts.database);
        for namespace in blocking(move || database.namespaces(volumes::TABLE)).await? {
            self.sweep_imports(&Context::new(Namespace::new(namespace)?)).await?;
        }
        let sockets = socket_directory(&self.parts.config.state);
        blocking(move || {
            sweep_sockets(&sockets);
            Ok(())
        })
        .await?;
        self.start_waiting().await;
        Ok(())
    }

    /// Adds the containers of a namespace.
    async fn find_left(&self, ctx: &Context, all: &mut Vec<Left>) -> Result<()> {
        let tasks = self.parts.tasks.list(ctx).await?;
        let mut tasks: HashMap<_, _> =
            tasks.into_iter().map(|task| (task.container_id.clone(), task)).collect();
        let (database, namespace) = (Arc::clone(&self.parts.database), ctx.namespace.clone());
        let rows = blocking(move || CONTAINERS.list(&*database, namespace.as_str())).await?;
        for (id, container) in rows {
            let mut meta = match Meta::of(&container) {
                Ok(meta) if !meta.foreign => meta,
                Ok(_) => continue,
                Err(err) => {
                    tracing::warn!(id, error = %err, "a container can't be recovered");
                    continue;
                }
            };
            if meta.removing {
                // Whatever it came to.
                meta.state.phase = Phase::Removing;
            }
            let task = tasks.remove(&id);
            all.push(Left { ctx: ctx.clone(), container, meta, task });
        }
        Ok(())
    }

    async fn recover_one(self: &Arc<Self>, left: Left, networks: Option<Recovered>) {
        if left.is_unclear() {
            self.recover_later(left, networks);
        } else {
            self.recover_known(left, networks).await;
        }
    }

    /// Recovers a container once its shim has said what it does. Only those who want this one
    /// wait for that.
    fn recover_later(self: &Arc<Self>, left: Left, networks: Option<Recovered>) {
        let live = self.live.entry(&left.ctx, &left.container.id);
        live.set_unclear(true);
        if left.meta.state.phase == Phase::Removing {
            live.set(left.meta.state.clone());
        }
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            let leaving = left.is_leaving();
            let task = engine.task_at_last(&left.ctx, &left.container.id, leaving).await;
            engine.recover_known(Left { task, ..left }, networks).await;
            live.set_unclear(false);
        });
    }

    /// The task of a container, once its shim has said what it does; `None` when there is none.
    /// Of one that is leaving a shim that does not answer is ended.
    async fn task_at_last(&self, ctx: &Context, id: &str, leaving: bool) -> Option<Process> {
        loop {
            let asked = self.parts.tasks.get(ctx, id, "").await;
            match self.parts.tasks.last_known(ctx, id).await {
                Some(task) if task.status == Status::Unknown && asked.is_err() => {}
                known => return known,
            }
            if leaving && asked.is_err_and(|err| err.kind() == Kind::DeadlineExceeded) {
                self.end_silent_shim(ctx, id).await;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn recover_known(self: &Arc<Self>, left: Left, networks: Option<Recovered>) {
        let Left { ctx, container, meta, task } = left;
        match task {
            // Its end was recorded and told; only its task is left.
            Some(task) if is_recorded(&meta, &task) => {
                let id = container.id.as_str();
                let deleted = tokio::time::timeout(UNDO, self.delete_task(&ctx, id)).await;
                if let Err(err) = deleted.unwrap_or_else(|_| Err(stuck("end", &meta.name))) {
                    tracing::warn!(id, error = %err, "delete a task");
                }
                self.recover_ended(&ctx, container, meta).await;
            }
            Some(task) => self.recover_running(&ctx, container, meta, &task, networks).await,
            None => self.recover_ended(&ctx, container, meta).await,
        }
    }

    /// There is a task.
    async fn recover_running(
        self: &Arc<Self>,
        ctx: &Context,
        container: Container,
        meta: Meta,
        task: &Process,
        networks: Option<Recovered>,
    ) {
        let id = container.id.as_str();
        let live = self.live.entry(ctx, id);
        let leaving = meta.state.phase == Phase::Removing;
        if task.status == Status::Created || leaving {
            // The daemon ended between making and starting it, or while
            // removing it: nobody was told that it runs.
            tracing::info!(id, "undo a half-done start or removal");
            let undone = tokio::time::timeout(UNDO, self.end_task(ctx, id, leaving)).await;
            match undone.unwrap_or_else(|_| Err(stuck("undo the start of", &meta.name))) {
                Err(err) => self.bury(ctx, &container, &live, &err).await,
                Ok(()) if leaving || meta.state.phase == Phase::Creating => {
                    self.tell_killed(ctx, &container, &meta, Some(task));
                    self.dispose_or_bury(ctx, &container, &meta, &live).await;
                }
                // As before that start, which its policy may have wanted.
                Ok(()) => self.recover_ended(ctx, container, meta).await,
            }
            return;
        }
        let state = State {
            phase: Phase::Running,
            // A shim that does not answer now says nothing of it.
            pid: if task.pid == 0 { meta.state.pid } else { task.pid },
            // When it was started was not written down yet.
            started_at: if meta.state.started_at.is_unset() {
                container.created_at
            } else {
                meta.state.started_at
            },
            restart_count: meta.state.restart_count,
            restart_delay: meta.state.restart_delay,
            stopped_by_user: meta.state.stopped_by_user,
            health: meta.state.health,
            connected: Arc::new(self.connected(ctx, id)),
            ..State::default()
        };
        tracing::info!(id, name = meta.name, "the container runs");
        live.watched(state, meta.settings.restart);
        match task.status {
            Status::Unknown if meta.settings.is_attached() => {
                self.settle_later(ctx, id, &live, networks);
            }
            Status::Unknown | Status::Stopped => {}
            _ => self.settle_networks(ctx, id, &meta, &live, networks).await,
        }
        // Unless that was recorded, it may not have been told either.
        let started = (!meta.state.phase.is_running()).then_some(Action::Started);
        self.record(ctx, id, &live, Durability::Buffered, started).await;
        self.watch(ctx, &container, &meta, &live);
        self.begin_health(ctx, &container, &meta, &live);
        if task.status == Status::Stopped {
            // What its policy starts again is to be known before any of them is started.
            let _ = tokio::time::timeout(UNDO, live.wait_settled()).await;
        }
    }

    /// Tells the end of a container that was killed to be removed, unless the daemon that did so
    /// came to record it.
    fn tell_killed(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        task: Option<&Process>,
    ) {
        if !meta.removing || meta.state.pid == 0 {
            return;
        }
        let ended = task.filter(|task| task.status == Status::Stopped);
        let exit_code = ended.map_or(KILLED, |task| task.exit.status);
        let live = self.live.entry(ctx, &container.id);
        live.set(State { exit_code, pid: 0, ..meta.state.clone() });
        self.tell(ctx, Action::Died, container, meta, &live);
    }

    /// Brings a container that runs to its networks once its shim answers.
    fn settle_later(
        self: &Arc<Self>,
        ctx: &Context,
        id: &str,
        live: &Arc<Live>,
        networks: Option<Recovered>,
    ) {
        let (engine, ctx, id) = (Arc::clone(self), ctx.clone(), id.to_owned());
        let (live, run) = (Arc::clone(live), live.now().run());
        tokio::spawn(async move {
            engine.task_at_last(&ctx, &id, false).await;
            let now = live.now();
            // It may have been renamed meanwhile, and the like.
            if now.runs()
                && now.run() == run
                && let Ok(Some((_, meta))) = engine.store.get(&ctx, &id).await
            {
                engine.settle_networks(&ctx, &id, &meta, &live, networks).await;
            }
        });
    }

    /// There is no task.
    async fn recover_ended(self: &Arc<Self>, ctx: &Context, container: Container, meta: Meta) {
        let id = container.id.as_str();
        let live = self.live.entry(ctx, id);
        match meta.state.phase {
            Phase::Creating | Phase::Removing => {
                tracing::info!(id, "finish or undo what was half-done");
                self.tell_killed(ctx, &container, &meta, None);
                self.dispose_or_bury(ctx, &container, &meta, &live).await;
            }
            Phase::Running | Phase::Paused => {
                tracing::info!(id, name = meta.name, "the container ended meanwhile");
                live.watched(meta.state.clone(), meta.settings.restart);
                self.watch(ctx, &container, &meta, &live);
                // Its exit is known, or known to be lost: this does not take long.
                live.wait_settled().await;
            }
            Phase::Exited if meta.settings.auto_remove => {
                self.dispose_or_bury(ctx, &container, &meta, &live).await;
            }
            Phase::Created | Phase::Exited | Phase::Restarting | Phase::Dead => {
                if live.is_unclear() {
                    // Nobody has taken it out of its networks.
                    self.leave_networks(ctx, id).await;
                } else {
                    self.live.forget(ctx, id);
                }
                if self.find_waiting(ctx, id, &meta) || meta.state.phase != Phase::Restarting {
                    return;
                }
                let ended = |meta: &mut Meta| meta.state.phase = Phase::Exited;
                let (how, action) = (Durability::Buffered, Some(Action::Updated));
                if let Err(err) = self.store.update(ctx, id, how, action, ended).await {
                    tracing::warn!(id, error = %err, "record that a container stays as it is");
                }
            }
        }
    }
}

/// Those that run, and so are in their networks. A shim that does not answer now says nothing
/// of its container.
fn living(all: &[Left]) -> Vec<Living> {
    let living = |left: &Left| {
        let Left { ctx, container, meta, task } = left;
        let task = task.as_ref().filter(|_| meta.settings.is_attached())?;
        let runs = match task.status {
            Status::Running | Status::Paused | Status::Pausing | Status::Unknown => true,
            Status::Created | Status::Stopped => false,
        };
        let pid = if task.pid == 0 { meta.state.pid } else { task.pid };
        let container = container.id.clone();
        (runs && pid != 0).then(|| Living { ctx: ctx.clone(), container, pid })
    };
    all.iter().filter_map(living).collect()
}

/// Does the same for many: one for which that takes long holds up none of the others.
async fn side_by_side<T, F: Future<Output = ()>>(all: Vec<T>, work: impl FnMut(T) -> F) {
    stream::iter(all).for_each_concurrent(SIDE_BY_SIDE, work).await;
}

/// Whether the end of this run is what is stored: not that of one before it.
fn is_recorded(meta: &Meta, task: &Process) -> bool {
    matches!(meta.state.phase, Phase::Exited | Phase::Restarting)
        && task.status == Status::Stopped
        && task.exit.at == meta.state.finished_at
}

/// Removes sockets on which nobody listens: their shims were killed.
fn sweep_sockets(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if connect_now(&path) == Err(Errno::ECONNREFUSED) {
            // Whoever removed it first was right.
            let _ = faults::around("sweep a socket", || fs::remove_file(&path));
        }
    }
}

/// Connects to a socket for a moment. It waits for nobody: a shim that hangs takes no more than
/// so many connections.
fn connect_now(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::model::Network;
    use gantry_core::Timestamp;
    use gantry_core::tasks::Exit;

    #[tokio::test(start_paused = true)]
    async fn those_that_hang_hold_up_nobody() {
        let begin = tokio::time::Instant::now();
        let recovered = &Cell::new(0);
        side_by_side((0..SIDE_BY_SIDE).collect(), |number| async move {
            if number % 2 == 0 {
                tokio::time::sleep(UNDO).await;
            } else {
                assert!(begin.elapsed() < UNDO);
            }
            recovered.set(recovered.get() + 1);
        })
        .await;
        assert_eq!(recovered.get(), SIDE_BY_SIDE);
        assert!(begin.elapsed() < 2 * UNDO);
    }

    fn left(network: Network, status: Status, pid: u32) -> Left {
        let mut meta = Meta::default();
        meta.settings.network = network;
        meta.state = State { phase: Phase::Running, pid: 9, ..State::default() };
        Left {
            ctx: Context::new(Namespace::new("default").unwrap()),
            container: Container::default(),
            meta,
            task: Some(Process { status, pid, ..Process::default() }),
        }
    }

    #[test]
    fn sockets_go_on_which_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let [dead, alive] = ["dead", "alive"].map(|name| dir.path().join(name));
        drop(UnixListener::bind(&dead).unwrap());
        let _shim = UnixListener::bind(&alive).unwrap();
        // It takes none of them, so that a further one would have to wait.
        while connect_now(&alive).is_ok() {}
        sweep_sockets(dir.path());
        assert!(!dead.exists() && alive.exists());
    }

    #[test]
    fn what_a_silent_shim_leaves_unclear() {
        let unclear = |phase, status| {
            let mut left = left(Network::None, status, 7);
            left.meta.state.phase = phase;
            left.is_unclear()
        };
        for phase in [Phase::Creating, Phase::Created, Phase::Exited, Phase::Removing] {
            assert!(unclear(phase, Status::Unknown), "{phase:?}");
            assert!(!unclear(phase, Status::Created), "{phase:?}");
        }
        assert!(!unclear(Phase::Running, Status::Unknown), "it is recorded that it was started");
    }

    #[test]
    fn whose_silent_shim_is_ended() {
        let leaving = |phase| {
            let mut left = left(Network::None, Status::Unknown, 7);
            left.meta.state.phase = phase;
            left.is_leaving()
        };
        assert!(leaving(Phase::Removing) && leaving(Phase::Dead));
        for phase in [Phase::Creating, Phase::Created, Phase::Running, Phase::Exited] {
            assert!(!leaving(phase), "{phase:?}");
        }
    }

    #[test]
    fn who_is_in_networks() {
        let pids = |left| living(&[left]).into_iter().map(|one| one.pid).collect::<Vec<_>>();
        assert_eq!(pids(left(Network::Attached, Status::Running, 7)), [7]);
        assert_eq!(pids(left(Network::Attached, Status::Unknown, 0)), [9]);
        assert_eq!(pids(left(Network::Attached, Status::Unknown, 7)), [7]);
        for status in [Status::Created, Status::Stopped] {
            assert!(pids(left(Network::Attached, status, 7)).is_empty());
        }
        assert!(pids(left(Network::None, Status::Running, 7)).is_empty());
    }

    #[test]
    fn the_end_of_an_earlier_run_is_not_that_of_this_one() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        let stored = |phase| Meta {
            state: State { phase, finished_at: at(7), ..State::default() },
            ..Meta::default()
        };
        let task = |status, seconds| Process {
            status,
            exit: Exit { status: 0, at: at(seconds) },
            ..Process::default()
        };
        assert!(is_recorded(&stored(Phase::Exited), &task(Status::Stopped, 7)));
        assert!(!is_recorded(&stored(Phase::Exited), &task(Status::Stopped, 9)));
        assert!(!is_recorded(&stored(Phase::Exited), &task(Status::Running, 7)));
        assert!(!is_recorded(&stored(Phase::Running), &task(Status::Stopped, 7)));
    }
}
