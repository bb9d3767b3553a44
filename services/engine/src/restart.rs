//! Restart policies: what becomes of a container that has ended, and what is started
//! with the daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_core::db::Durability;
use gantry_core::{Context, Error};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::Engine;
use crate::lifecycle::Join;
use crate::live::Live;
use crate::model::{Dependency, Meta, Phase, RestartMode, RestartPolicy, State};

/// Until the first restart of a row.
const FIRST: Duration = Duration::from_millis(100);
/// Until those of a long one.
const LONGEST: Duration = Duration::from_secs(60);
/// A container that ran so long begins a new row with its end.
const STEADY: i128 = 10_000_000_000;
/// The exit code that stands for a start that failed.
const NO_START: u32 = 128;
/// How long one container waits for another at the daemon's start.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long until a container that has ended is started again; `None` when it is not.
pub(crate) fn due(policy: RestartPolicy, state: &State) -> Option<Duration> {
    let again = !state.stopped_by_user && wants(policy, state);
    again.then(|| {
        let ran = state.finished_at.unix_nanos() - state.started_at.unix_nanos();
        if ran >= STEADY { FIRST } else { next(state.restart_delay) }
    })
}

/// Whether a container that does not run is started with the daemon.
fn with_daemon(policy: RestartPolicy, state: &State) -> bool {
    if state.started_at.is_unset() {
        return false;
    }
    match state.phase {
        Phase::Restarting | Phase::Exited if policy.mode == RestartMode::Always => true,
        // Its user may have stopped it just before the daemon ended.
        Phase::Restarting => !state.stopped_by_user,
        Phase::Exited => !state.stopped_by_user && wants(policy, state),
        _ => false,
    }
}

fn wants(policy: RestartPolicy, state: &State) -> bool {
    match policy.mode {
        RestartMode::No => false,
        RestartMode::OnFailure => {
            let most = policy.maximum_retries;
            state.exit_code != 0 && (most == 0 || state.restart_count < most)
        }
        RestartMode::Always | RestartMode::UnlessStopped => true,
    }
}

/// The delay behind one of so many milliseconds.
fn next(delay: u64) -> Duration {
    match delay {
        0 => FIRST,
        delay => Duration::from_millis(delay.saturating_mul(2)).min(LONGEST),
    }
}

/// What is to be started once the daemon has found everything again.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// `None` once the daemon is up: from then on nothing waits. Held for single operations.
    found: Mutex<Option<Vec<(Context, String)>>>,
}

impl Waiting {
    /// Collects from now on.
    pub(crate) fn begin(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// Whether the container was taken, to be started later.
    fn take(&self, ctx: &Context, id: &str) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found.as_mut() {
            found.push((ctx.clone(), id.to_owned()));
        }
        found.is_some()
    }

    fn end(&self) -> Vec<(Context, String)> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

impl Engine {
    /// Starts a container again when its time has come, unless somebody else starts, stops or
    /// removes it before.
    pub(crate) fn restart_later(self: &Arc<Self>, ctx: &Context, id: &str, live: &Arc<Live>) {
        if self.waiting.take(ctx, id) {
            return;
        }
        let (engine, ctx, id) = (Arc::clone(self), ctx.clone(), id.to_owned());
        let live = Arc::clone(live);
        tokio::spawn(async move {
            while live.restarts_after().await {
                if !engine.start_again(&ctx, &id, &live).await {
                    return;
                }
            }
        });
    }

    /// Whether it is to be tried again.
    async fn start_again(self: &Arc<Self>, ctx: &Context, id: &str, live: &Arc<Live>) -> bool {
        let busy = live.hold().await;
        let Some(before) = live.now().state.filter(|state| state.phase == Phase::Restarting) else {
            return false;
        };
        if before.stopped_by_user {
            // While it ended by itself: whoever stops it may not have come so far.
            live.set(State { phase: Phase::Exited, ..before });
            self.record(ctx, id, live, Durability::Sync, Some(Action::Updated)).await;
            return false;
        }
        let (container, meta) = match self.store.get(ctx, id).await {
            Ok(Some(found)) => found,
            Ok(None) => return false,
            Err(err) => {
                tracing::warn!(id, error = %err, "restart a container");
                return self.put_off(live, before);
            }
        };
        tracing::info!(id, name = meta.name, count = before.restart_count + 1, "restart");
        let policy = meta.settings.restart;
        let meta = Meta { state: before.clone(), ..meta };
        let carried = State {
            restart_count: before.restart_count.saturating_add(1),
            restart_delay: before.restart_delay,
            ..State::default()
        };
        let started = self.start_held(ctx, &container, &meta, live, carried, Join::No).await;
        let again = match started {
            Ok(_) => false,
            // It will never run, or it is gone.
            Err(err) if err.command || live.now().state.is_none_or(|s| s.phase == Phase::Dead) => {
                false
            }
            Err(err) => {
                tracing::warn!(id, name = meta.name, error = %err.error, "restart a container");
                // A start that failed is an attempt like others.
                let tried = State {
                    exit_code: NO_START,
                    restart_count: before.restart_count.saturating_add(1),
                    ..before.clone()
                };
                let again = wants(policy, &tried) && self.put_off(live, before);
                self.record(ctx, id, live, Durability::Buffered, Some(Action::Updated)).await;
                again
            }
        };
        // Only now: whoever waits for it must find what became of it.
        drop(busy);
        again
    }

    /// Lets a container wait for the next attempt to start it.
    fn put_off(&self, live: &Live, before: State) -> bool {
        let error = live.now().state.map(|state| state.error).unwrap_or_default();
        live.set(State {
            phase: Phase::Restarting,
            restart_delay: next(before.restart_delay).as_millis() as u64,
            restart_count: before.restart_count.saturating_add(1),
            error,
            ..before
        });
        true
    }

    /// Takes a container that was found not to run, if it is to run. Whether it is.
    pub(crate) fn find_waiting(self: &Arc<Self>, ctx: &Context, id: &str, meta: &Meta) -> bool {
        if !with_daemon(meta.settings.restart, &meta.state) {
            return false;
        }
        let live = self.live.entry(ctx, id);
        live.set(State {
            phase: Phase::Restarting,
            restart_delay: 0,
            stopped_by_user: false,
            ..meta.state.clone()
        });
        self.restart_later(ctx, id, &live);
        true
    }

    /// Starts what was found waiting, each container behind those that it depends on.
    pub(crate) async fn start_waiting(self: &Arc<Self>) {
        let mut all = HashMap::new();
        for (ctx, id) in self.waiting.end() {
            match self.store.get(&ctx, &id).await {
                Ok(Some((_, meta))) => {
                    all.insert((ctx.namespace.clone(), id), (ctx, meta));
                }
                Ok(None) => {}
                Err(err) => tracing::warn!(id, error = %err, "start a container"),
            }
        }
        for ((_, id), (ctx, meta)) in all {
            let engine = Arc::clone(self);
            tokio::spawn(async move {
                for first in &meta.settings.after {
                    engine.wait_for(&ctx, &meta.name, first).await;
                }
                // It may have been removed meanwhile.
                if let Some(live) = engine.live.get(&ctx.namespace, &id) {
                    engine.restart_later(&ctx, &id, &live);
                }
            });
        }
    }

    /// Waits until another container is as it is to be, but not for ever, nor for one that is
    /// not going to run.
    async fn wait_for(&self, ctx: &Context, name: &str, first: &Dependency) {
        let id = first.container.as_str();
        let Some(live) = self.live.get(&ctx.namespace, id) else {
            tracing::warn!(name, on = id, "started without a container that it depends on");
            return;
        };
        let ready = live.wait_ready(first.healthy);
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                tracing::warn!(name, on = id, "started without a container that it depends on");
            }
        }
    }

    /// Lets a container that waits for its restart be as it is. Whether it waited.
    pub(crate) async fn give_up(&self, ctx: &Context, id: &str, live: &Arc<Live>) -> bool {
        let busy = live.hold().await;
        let waiting = live.now().state.filter(|state| state.phase == Phase::Restarting);
        let Some(state) = waiting else { return false };
        live.set(State { phase: Phase::Exited, stopped_by_user: true, ..state });
        self.record(ctx, id, live, Durability::Sync, Some(Action::Updated)).await;
        drop(busy);
        true
    }
}

/// Why a container was not started.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) error: Error,
    /// Its command can't be run: it will never start.
    pub(crate) command: bool,
    /// The exit code that says so.
    pub(crate) status: u32,
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self { error, command: false, status: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Timestamp;

    fn ended(exit_code: u32, seconds: i64) -> State {
        State {
            phase: Phase::Exited,
            exit_code,
            started_at: Timestamp { seconds: 100, nanos: 0 },
            finished_at: Timestamp { seconds: 100 + seconds, nanos: 0 },
            ..State::default()
        }
    }

    fn policy(mode: RestartMode, maximum_retries: u32) -> RestartPolicy {
        RestartPolicy { mode, maximum_retries }
    }

    #[test]
    fn each_policy() {
        let due = |mode, state: &State| due(policy(mode, 2), state).is_some();
        let (well, badly) = (ended(0, 1), ended(3, 1));
        assert!(!due(RestartMode::No, &badly));
        assert!(!due(RestartMode::OnFailure, &well));
        assert!(due(RestartMode::OnFailure, &badly));
        assert!(!due(RestartMode::OnFailure, &State { restart_count: 2, ..badly.clone() }));
        for mode in [RestartMode::Always, RestartMode::UnlessStopped] {
            assert!(due(mode, &well));
            assert!(!due(mode, &State { stopped_by_user: true, ..badly.clone() }));
        }
    }

    #[test]
    fn delays_double_until_it_ran_for_a_while() {
        let always = policy(RestartMode::Always, 0);
        let mut state = ended(1, 0);
        let mut delays = Vec::new();
        for _ in 0..12 {
            let delay = due(always, &state).unwrap();
            state.restart_delay = delay.as_millis() as u64;
            delays.push(state.restart_delay);
        }
        assert_eq!(delays[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(delays[10..], [60_000, 60_000]);
        state.finished_at.seconds += 10;
        assert_eq!(due(always, &state), Some(FIRST));
    }

    #[test]
    fn what_starts_with_the_daemon() {
        let by_user = State { stopped_by_user: true, ..ended(137, 1) };
        assert!(with_daemon(policy(RestartMode::Always, 0), &by_user));
        assert!(!with_daemon(policy(RestartMode::UnlessStopped, 0), &by_user));
        assert!(with_daemon(policy(RestartMode::UnlessStopped, 0), &ended(0, 1)));
        assert!(!with_daemon(policy(RestartMode::OnFailure, 0), &ended(0, 1)));
        assert!(with_daemon(policy(RestartMode::OnFailure, 0), &ended(1, 1)));
        let waiting = |state: &State| State { phase: Phase::Restarting, ..state.clone() };
        for mode in [RestartMode::Always, RestartMode::UnlessStopped, RestartMode::OnFailure] {
            assert!(with_daemon(policy(mode, 0), &waiting(&ended(1, 1))));
            let stopped = with_daemon(policy(mode, 0), &waiting(&by_user));
            assert_eq!(stopped, mode == RestartMode::Always);
        }
        let never = State { phase: Phase::Created, ..State::default() };
        assert!(!with_daemon(policy(RestartMode::Always, 0), &never));
    }
}
