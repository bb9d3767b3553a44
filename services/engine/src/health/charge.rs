//! A container that is checked, and what follows from its health.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_core::containers::Container;
use gantry_core::db::Durability;
use gantry_core::tasks::Status;
use gantry_core::{Any, Context, Error, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::ask::ask;
use super::command::Command;
use super::config::{HealthAction, HealthConfig, HealthStatus, Test};
use super::monitor::{Checks, Outcome, Patient};
use super::netns;
use super::record::{CheckResult, Record, with};
use super::target::Target;
use super::too_long;
use crate::Engine;
use crate::exec;
use crate::live::Live;
use crate::model::{Meta, Phase};
use crate::options::ExecRequest;

/// Until the first restart of a row.
const FIRST: Duration = Duration::from_millis(100);
/// Until those of a long one.
const LONGEST: Duration = Duration::from_secs(60);
/// A container that was well for so long begins a new row.
const STEADY: Duration = Duration::from_secs(10);
/// Between two looks at whether a container is still frozen.
const LOOK: Duration = Duration::from_secs(1);

/// How it is checked.
enum Way {
    /// By a process: the OCI process as JSON, and its command.
    Command(Any, String),
    /// Over the network.
    Network(Target),
}

/// One run of a container.
pub(super) struct Charge {
    engine: Arc<Engine>,
    ctx: Context,
    id: String,
    live: Arc<Live>,
    run: u32,
    way: Way,
    limit: Duration,
    retries: u32,
    action: HealthAction,
    record: Arc<Mutex<Record>>,
    /// The record has changed since it was stored.
    unstored: bool,
    /// The directory in /proc of the first process, once somebody had to know.
    process: Option<Arc<File>>,
    /// The last command, until its process is gone.
    last: Option<JoinHandle<()>>,
    /// Since when it has been well.
    well: Option<Instant>,
}

impl Charge {
    /// `None` when there is nothing to check.
    ///
    /// # Errors
    /// What is stored of the container is damaged.
    pub(super) fn new(
        engine: &Arc<Engine>,
        ctx: Context,
        container: &Container,
        config: &HealthConfig,
        live: &Arc<Live>,
        run: u32,
    ) -> Result<Option<Self>> {
        let way = match config.test()? {
            None => return Ok(None),
            Some(Test::Network(target)) => Way::Network(target),
            Some(Test::Command(command)) => {
                let name = command.first().cloned().unwrap_or_default();
                let request = ExecRequest { command, ..ExecRequest::default() };
                Way::Command(exec::process(container, &request)?, name)
            }
        };
        Ok(Some(Self {
            engine: Arc::clone(engine),
            ctx,
            id: container.id.clone(),
            live: Arc::clone(live),
            run,
            way,
            limit: config.timeout(),
            retries: config.retries(),
            action: config.on_failure,
            record: Arc::default(),
            unstored: false,
            process: None,
            last: None,
            well: None,
        }))
    }

    /// Goes on from what is known; failures in a row.
    pub(super) async fn begin(&mut self) -> u32 {
        self.record = self.engine.health_record(&self.ctx, &self.id).await;
        let state = self.live.now().state.unwrap_or_default();
        match state.health {
            // It was not checked when this run was recorded.
            HealthStatus::None => {
                self.live.set_health(self.run, HealthStatus::Starting);
            }
            HealthStatus::Healthy => self.well = Some(Instant::now()),
            HealthStatus::Starting | HealthStatus::Unhealthy => {}
        }
        with(&self.record, |record| {
            // Those of an earlier run don't count.
            if record.started_at != state.started_at {
                record.started_at = state.started_at;
                record.streak = 0;
            }
            record.streak
        })
    }

    /// The run has ended.
    pub(super) async fn end(self) {
        if self.unstored {
            let record = with(&self.record, |record| record.clone());
            self.engine.store_health(&self.ctx, &self.id, record).await;
        }
    }

    async fn store(&mut self) {
        let record = with(&self.record, |record| record.clone());
        self.engine.store_health(&self.ctx, &self.id, record).await;
        self.unstored = false;
    }

    async fn command(&mut self) -> Outcome {
        let Way::Command(process, name) = &self.way else {
            return Outcome::none("there is no command".to_owned());
        };
        // Those that hang must not become more.
        if let Some(last) = &mut self.last
            && timeout(self.limit, last).await.is_err()
        {
            return too_long(self.limit, "the process of an earlier check does not end");
        }
        let command = Command {
            engine: Arc::clone(&self.engine),
            ctx: self.ctx.clone(),
            id: self.id.clone(),
            process: process.clone(),
            name: name.clone(),
            limit: self.limit,
        };
        let (tell, told) = oneshot::channel();
        self.last = Some(tokio::spawn(command.run(tell)));
        told.await.unwrap_or_else(|_| Outcome::none("the check failed unexpectedly".to_owned()))
    }

    async fn network(&mut self, target: &Target) -> Result<Outcome> {
        let process = self.process().await?;
        let stream = netns::connect(&process, &target.addresses).await?;
        Ok(ask(stream, target).await)
    }

    /// The directory of the first process. It stays that of this process alone.
    async fn process(&mut self) -> Result<Arc<File>> {
        if let Some(process) = &self.process {
            return Ok(Arc::clone(process));
        }
        let path = format!("/proc/{}", self.run);
        let directory = File::open(&path).map_err(|err| Error::io(format!("open {path}"), err))?;
        // Asked after it was opened: while its shim has not seen its end, its ID is not
        // another's.
        let task = self.engine.parts.tasks.get(&self.ctx, &self.id, "").await?;
        if task.pid != self.run || task.status == Status::Stopped {
            return Err(Error::unavailable("the container has ended"));
        }
        let process = Arc::new(directory);
        self.process = Some(Arc::clone(&process));
        Ok(process)
    }

    /// Tells of another health, and records it.
    async fn tell(&self, health: HealthStatus) {
        let action = match health {
            HealthStatus::Healthy => Action::Healthy,
            HealthStatus::Unhealthy => Action::Unhealthy,
            HealthStatus::None | HealthStatus::Starting => return,
        };
        if !self.live.set_health(self.run, health) {
            return;
        }
        tracing::info!(id = self.id, health = health.as_str(), "the health of a container");
        // Its end is recorded after this, or was before it.
        let _busy = self.live.busy.lock().await;
        let now = self.live.now();
        if now.run() != self.run || !now.runs() {
            return;
        }
        let (run, live) = (self.run, Arc::clone(&self.live));
        let change = move |meta: &mut Meta| match (meta.state.phase, live.now().state) {
            (Phase::Running | Phase::Paused, _) if meta.state.pid == run => {
                meta.state.health = health;
            }
            // That it runs was not worth recording so far.
            (Phase::Creating | Phase::Created, Some(state)) => meta.state = state,
            _ => {}
        };
        let (store, how) = (&self.engine.store, Durability::Buffered);
        match store.update(&self.ctx, &self.id, how, Some(action), change).await {
            Err(err) if !err.is_not_found() => {
                tracing::warn!(id = self.id, error = %err, "record the health of a container");
            }
            _ => {}
        }
    }

    /// Whether this run goes on, as far as its user is concerned.
    fn goes_on(&self) -> bool {
        let now = self.live.now();
        let stopped = now.state.as_ref().is_some_and(|state| state.stopped_by_user);
        now.run() == self.run && now.runs() && !stopped
    }

    /// Does what is to be done with a container that is not well.
    async fn act(&mut self) {
        if self.action == HealthAction::None {
            return;
        }
        if self.action == HealthAction::Restart {
            let restarts = with(&self.record, |record| {
                record.restarts = record.restarts.saturating_add(1);
                record.restarts
            });
            // The daemon may end before that.
            self.store().await;
            sleep(delay(restarts)).await;
        }
        while self.is_frozen().await {
            sleep(LOOK).await;
        }
        let turn = self.live.turns.last();
        if !self.goes_on() {
            return;
        }
        let (engine, ctx, id) = (Arc::clone(&self.engine), self.ctx.clone(), self.id.clone());
        let action = self.action;
        tracing::info!(id, action = action.as_str(), "a container is not well");
        // On its own: the end of this run must not stop it half-way.
        let done = tokio::spawn(async move {
            let done = match action {
                HealthAction::None => Ok(()),
                HealthAction::Restart => engine.restart_unasked(&ctx, &id, turn).await,
                HealthAction::Stop => engine.stop(&ctx, &id, "", None).await,
                HealthAction::Kill => engine.kill_process(&ctx, &id).await,
            };
            if let Err(err) = done {
                // The next check that fails is another attempt.
                let action = action.as_str();
                tracing::warn!(id, action, error = %err, "a container is not well");
            }
        });
        // A panic is reported by the runtime.
        let _ = done.await;
    }
}

impl Patient for Charge {
    async fn is_frozen(&self) -> bool {
        let task = self.engine.parts.tasks.last_known(&self.ctx, &self.id).await;
        task.is_some_and(|task| matches!(task.status, Status::Paused | Status::Pausing))
    }

    async fn check(&mut self) -> Outcome {
        let Way::Network(target) = &self.way else { return self.command().await };
        let target = target.clone();
        let limit = self.limit;
        match timeout(limit, self.network(&target)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(err)) => Outcome::bad(err.to_string()),
            Err(_) => too_long(limit, ""),
        }
    }

    async fn hear(&mut self, result: CheckResult, before: HealthStatus, checks: &Checks) {
        let (health, streak) = (checks.status(), checks.streak());
        let good = result.exit_code == 0;
        let restarts = if good { self.steady(health, before) } else { None };
        let differs = with(&self.record, |record| {
            let differs = health != before || record.streak != streak;
            record.add(result, streak);
            record.restarts = restarts.unwrap_or(record.restarts);
            differs
        });
        self.unstored = true;
        // Of a long row of failures the rest tells nothing new.
        if differs && streak <= self.retries || restarts.is_some() {
            self.store().await;
        }
        if health != before {
            self.tell(health).await;
        }
        if !good && health == HealthStatus::Unhealthy {
            self.well = None;
            self.act().await;
        }
    }
}

impl Charge {
    /// How often it counts as restarted from now on, where that changes.
    fn steady(&mut self, health: HealthStatus, before: HealthStatus) -> Option<u32> {
        if health != before {
            self.well = Some(Instant::now());
        }
        let long = self.well.is_some_and(|since| since.elapsed() >= STEADY);
        let counted = with(&self.record, |record| record.restarts > 0);
        (long && counted).then_some(0)
    }
}

/// Before the n-th restart in a row.
fn delay(restarts: u32) -> Duration {
    let doubled = 1_u32.checked_shl(restarts.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(doubled).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_in_a_row_are_put_off() {
        let delays = [1, 2, 3, 10, 11, 40].map(|n| delay(n).as_millis());
        assert_eq!(delays, [100, 200, 400, 51_200, 60_000, 60_000]);
        assert_eq!(delay(0), FIRST);
    }
}
