//! What containers do right now, beside what is stored of them.

use std::collections::HashMap;
use std::sync::{self, Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_core::{Context, Namespace};
use tokio::sync::{MutexGuard, watch};

use crate::execs::Execs;
use crate::health::HealthStatus;
use crate::model::{Connected, Phase, RestartPolicy, State};
use crate::restart;
use crate::turns::Turns;

/// Those who want a container wait so long for it to be made.
const MAKING: Duration = Duration::from_secs(30);

/// One container, as long as this daemon has something to do with it.
#[derive(Debug)]
pub(crate) struct Live {
    /// Whoever starts, removes or cleans up after the container holds this
    /// for as long as that takes, awaits included: these exclude each other.
    pub(crate) busy: Arc<tokio::sync::Mutex<()>>,
    /// Its further processes.
    pub(crate) execs: Execs,
    /// What is wanted of it.
    pub(crate) turns: Turns,
    now: watch::Sender<Now>,
}

/// A container at this moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    /// Its state, where that is newer than what is stored.
    pub(crate) state: Option<State>,
    /// Whether a task exists that somebody here watches.
    pub(crate) watched: bool,
    /// The first process of the last run: tells runs apart.
    run: u32,
    /// What becomes of it when the run ends.
    policy: RestartPolicy,
    /// So many are about to start it anew: it does not go with its end.
    kept: u32,
    /// Its shim has not said yet what it does.
    unclear: bool,
    /// Its record is gone.
    gone: bool,
}

impl Now {
    fn phase(&self) -> Option<Phase> {
        self.state.as_ref().map(|state| state.phase)
    }

    /// Tells the present or the last run from others.
    pub(crate) fn run(&self) -> u32 {
        self.run
    }

    fn is_leaving(&self) -> bool {
        self.gone || matches!(self.phase(), Some(Phase::Removing))
    }

    pub(crate) fn runs(&self) -> bool {
        self.phase().is_some_and(Phase::is_running)
    }

    /// Whether nothing of a run that has ended is left, as far as anybody knows.
    fn is_settled(&self) -> bool {
        !self.unclear && (self.runs() || !self.watched)
    }

    fn is_healthy(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.health == HealthStatus::Healthy)
    }
}

impl Live {
    /// As it is now.
    pub(crate) fn now(&self) -> Now {
        self.now.borrow().clone()
    }

    /// Takes the container into one's hands, once it is made, its shim has said what it does,
    /// and nothing is left of a run that has ended: a session may learn of an end before the
    /// watcher has cleaned up after it. One that is not made in time was left half-way.
    pub(crate) async fn hold(&self) -> MutexGuard<'_, ()> {
        let mut now = self.subscribe();
        let made = now.wait_for(|now| now.phase() != Some(Phase::Creating));
        let _ = tokio::time::timeout(MAKING, made).await;
        loop {
            let busy = self.busy.lock().await;
            let settled = self.now.borrow().is_settled();
            if settled {
                return busy;
            }
            drop(busy);
            // The sender is part of self.
            let _ = now.wait_for(Now::is_settled).await;
        }
    }

    /// As it is now and from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Now> {
        self.now.subscribe()
    }

    /// Sets the state.
    pub(crate) fn set(&self, state: State) {
        self.now.send_modify(|now| now.state = Some(state));
    }

    /// Its task is there and watched.
    pub(crate) fn watched(&self, state: State, policy: RestartPolicy) {
        self.now.send_modify(|now| {
            now.run = state.pid;
            now.state = Some(state);
            now.watched = true;
            now.policy = policy;
        });
    }

    /// Another policy decides at the end of its run.
    pub(crate) fn follow_policy(&self, policy: RestartPolicy) {
        self.now.send_modify(|now| now.policy = policy);
    }

    /// Whether it stays when it ends, though it was to go then: as long as somebody wants that.
    pub(crate) fn keep(&self, kept: bool) {
        self.now.send_modify(|now| {
            now.kept = if kept { now.kept + 1 } else { now.kept.saturating_sub(1) };
        });
    }

    /// Whether it has ended, and somebody is about to start it anew.
    pub(crate) fn is_between(&self) -> bool {
        let now = self.now.borrow();
        now.kept > 0 && !now.runs()
    }

    /// Whether its shim is still to say what it does: whoever wants it waits for that.
    pub(crate) fn set_unclear(&self, unclear: bool) {
        self.now.send_modify(|now| now.unclear = unclear);
    }

    /// Whether its shim is still to say what it does.
    pub(crate) fn is_unclear(&self) -> bool {
        self.now.borrow().unclear
    }

    /// Where it is in its networks from now on, while it runs.
    pub(crate) fn connect(&self, connected: Connected) {
        self.now.send_if_modified(|now| {
            let runs = now.runs();
            match &mut now.state {
                Some(state) if runs => state.connected = Arc::new(connected),
                _ => {}
            }
            runs
        });
    }

    /// Its user stops it: its policy does not start it again.
    pub(crate) fn stopped_by_user(&self) {
        self.now.send_modify(|now| {
            if let Some(state) = &mut now.state {
                state.stopped_by_user = true;
            }
        });
    }

    /// Notes how the health of this run is. Whether it goes on.
    pub(crate) fn set_health(&self, run: u32, health: HealthStatus) -> bool {
        let mut goes_on = false;
        self.now.send_if_modified(|now| {
            goes_on = now.run == run && now.runs();
            match &mut now.state {
                Some(state) if goes_on => state.health = health,
                _ => {}
            }
            goes_on
        });
        goes_on
    }

    /// Notes that it was killed for want of memory. Whether its end was noted before that.
    pub(crate) fn out_of_memory(&self) -> bool {
        let mut late = false;
        self.now.send_modify(|now| {
            if let Some(state) = &mut now.state {
                late = state.phase == Phase::Exited && !state.oom_killed;
                state.oom_killed = true;
            }
        });
        late
    }

    /// Notes the end of the first process of this run. Whoever learns of it first says
    /// so; returns the state as it is from then on. Who learns of it when the container
    /// runs anew changes nothing.
    pub(crate) fn ended(&self, run: u32, ended: impl FnOnce(&mut State)) -> State {
        let mut after = State::default();
        self.now.send_if_modified(|now| {
            if now.run != run {
                ended(&mut after);
                return false;
            }
            let state = now.state.get_or_insert_default();
            if state.phase.is_running() || state.phase == Phase::Created {
                ended(state);
                state.pid = 0;
                state.connected = Arc::default();
                if now.kept > 0 && state.phase == Phase::Removing {
                    state.phase = Phase::Exited;
                }
                if state.phase == Phase::Exited
                    && let Some(delay) = restart::due(now.policy, state)
                {
                    state.phase = Phase::Restarting;
                    state.restart_delay = delay.as_millis() as u64;
                }
            }
            after = state.clone();
            true
        });
        after
    }

    /// It was not made after all: nobody waits for that any more.
    pub(crate) fn unmade(&self) {
        self.now.send_modify(|now| {
            if let Some(state) = &mut now.state
                && state.phase == Phase::Creating
            {
                state.phase = Phase::Removing;
            }
        });
    }

    /// Nobody watches its task any more: it is gone.
    pub(crate) fn settled(&self) {
        self.now.send_modify(|now| now.watched = false);
    }

    /// Waits until this run has ended, whether or not there is another one by then; the state
    /// then.
    pub(crate) async fn wait_run(&self, run: u32) -> State {
        let mut now = self.subscribe();
        // The sender is part of self.
        let _ = now.wait_for(|now| now.run != run || !now.runs()).await;
        self.now().state.unwrap_or_default()
    }

    /// Waits until nothing of this run is left, whether or not there is another one by then.
    pub(crate) async fn wait_over(&self, run: u32) {
        let mut now = self.subscribe();
        // As above.
        let _ = now.wait_for(|now| now.run != run || !now.watched).await;
    }

    /// Waits until its policy lets it start. `false` when somebody else has decided otherwise.
    pub(crate) async fn restarts_after(&self) -> bool {
        let mut now = self.subscribe();
        let Some(state) = self.now().state else { return false };
        let other = now.wait_for(|now| now.phase() != Some(Phase::Restarting));
        tokio::time::timeout(Duration::from_millis(state.restart_delay), other).await.is_err()
    }

    /// Waits until it runs. `false` when it is not going to.
    pub(crate) async fn wait_ready(&self, healthy: bool) -> bool {
        let mut now = self.subscribe();
        let ready = move |now: &Now| now.runs() && (!healthy || now.is_healthy());
        let hopeless = |now: &Now| !now.phase().is_some_and(Phase::is_active);
        // The sender is part of self.
        let _ = now.wait_for(|now| ready(now) || hopeless(now)).await;
        ready(&self.now())
    }

    /// Waits until another run than this one has ended, or this one.
    pub(crate) async fn wait_next_end(&self) {
        let mut now = self.subscribe();
        let ended = if self.now().runs() {
            true
        } else {
            // First it has to run.
            now.wait_for(|now| now.runs() || now.is_leaving()).await.is_ok()
        };
        if ended {
            let _ = now.wait_for(|now| !now.runs()).await;
        }
    }

    /// Waits until it is gone.
    pub(crate) async fn wait_gone(&self) {
        let mut now = self.subscribe();
        // As above.
        let _ = now.wait_for(|now| now.gone).await;
    }

    /// Whether it has ended and something of that run is left.
    fn is_ending(&self) -> bool {
        let now = self.now.borrow();
        now.watched && !now.runs()
    }

    /// Waits until its task is gone.
    pub(crate) async fn wait_settled(&self) {
        let mut now = self.subscribe();
        // As above.
        let _ = now.wait_for(|now| !now.watched).await;
    }
}

type Key = (Namespace, String);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct LiveTable {
    /// By namespace and ID. Held for looking up and changing entries only.
    entries: Mutex<HashMap<Key, Arc<Live>>>,
}

impl LiveTable {
    fn lock(&self) -> sync::MutexGuard<'_, HashMap<Key, Arc<Live>>> {
        // Nothing panics under this lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a container; made when there is none.
    pub(crate) fn entry(&self, ctx: &Context, id: &str) -> Arc<Live> {
        let key = (ctx.namespace.clone(), id.to_owned());
        let new = || {
            Arc::new(Live {
                busy: Arc::default(),
                execs: Execs::default(),
                turns: Turns::default(),
                now: watch::Sender::new(Now::default()),
            })
        };
        Arc::clone(self.lock().entry(key).or_insert_with(new))
    }

    /// The entry of a container, if there is one.
    pub(crate) fn get(&self, namespace: &Namespace, id: &str) -> Option<Arc<Live>> {
        self.lock().get(&(namespace.clone(), id.to_owned())).cloned()
    }

    /// The container is gone.
    pub(crate) fn forget(&self, ctx: &Context, id: &str) {
        self.lock().remove(&(ctx.namespace.clone(), id.to_owned()));
    }

    /// The container is gone: those who wait for that are told.
    pub(crate) fn gone(&self, ctx: &Context, id: &str) {
        let live = self.lock().remove(&(ctx.namespace.clone(), id.to_owned()));
        if let Some(live) = live {
            live.now.send_modify(|now| now.gone = true);
        }
    }

    /// A container's state, where that is newer than what is stored.
    pub(crate) fn state(&self, namespace: &Namespace, id: &str) -> Option<State> {
        self.get(namespace, id).and_then(|live| live.now().state)
    }

    /// Containers that have ended, and what they had may not be free yet.
    pub(crate) fn ending(&self) -> Vec<Arc<Live>> {
        self.lock().values().filter(|live| live.is_ending()).cloned().collect()
    }

    /// Where a container is in its networks.
    pub(crate) fn connected(&self, namespace: &Namespace, id: &str) -> Arc<Connected> {
        self.state(namespace, id).map(|state| state.connected).unwrap_or_default()
    }

    /// Whether a container is being taken away.
    pub(crate) fn is_removing(&self, namespace: &Namespace, id: &str) -> bool {
        self.state(namespace, id).is_some_and(|state| state.phase == Phase::Removing)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_end_is_noted_once() {
        let table = LiveTable::default();
        let ctx = Context::new(Namespace::new("default").unwrap());
        let live = table.entry(&ctx, "c1");
        live.watched(
            State { phase: Phase::Running, pid: 7, ..State::default() },
            RestartPolicy::default(),
        );
        let waiting = tokio::spawn({
            let live = Arc::clone(&live);
            async move { live.wait_run(7).await }
        });
        let end = |code| {
            move |state: &mut State| {
                state.phase = Phase::Exited;
                state.exit_code = code;
            }
        };
        assert_eq!(live.ended(7, end(3)).exit_code, 3);
        assert_eq!(live.ended(7, end(137)).exit_code, 3);
        assert_eq!(live.now().state.unwrap().pid, 0);
        assert_eq!(waiting.await.unwrap().exit_code, 3);
        assert!(live.now().watched);
        live.settled();
        live.wait_settled().await;
        table.forget(&ctx, "c1");
        assert!(table.get(&ctx.namespace, "c1").is_none());
    }

    #[tokio::test]
    async fn the_end_of_one_run_is_not_that_of_the_next() {
        let live =
            LiveTable::default().entry(&Context::new(Namespace::new("default").unwrap()), "c1");
        let running = |pid| State { phase: Phase::Running, pid, ..State::default() };
        let end = |state: &mut State| {
            state.phase = Phase::Exited;
            state.exit_code = 3;
        };
        live.watched(running(7), RestartPolicy::default());
        live.ended(7, end);
        let mut held = pin!(live.hold());
        assert!(held.as_mut().now_or_never().is_none(), "its task is still there");
        live.settled();
        drop(held.await);
        live.watched(running(8), RestartPolicy::default());
        // Somebody who was slow to read.
        assert_eq!(live.ended(7, end).exit_code, 3);
        assert_eq!(live.now().state, Some(running(8)));
        assert_eq!(live.wait_run(7).await, running(8));
        drop(live.hold().await);
        live.wait_over(7).now_or_never().expect("nothing of the first run is left");
        assert!(live.wait_over(8).now_or_never().is_none());
    }

    #[tokio::test]
    async fn who_wants_a_container_waits_until_it_is_known_what_it_does() {
        let live =
            LiveTable::default().entry(&Context::new(Namespace::new("default").unwrap()), "c1");
        live.set_unclear(true);
        let mut held = pin!(live.hold());
        assert!(held.as_mut().now_or_never().is_none());
        live.watched(
            State { phase: Phase::Running, pid: 7, ..State::default() },
            RestartPolicy::default(),
        );
        assert!(held.as_mut().now_or_never().is_none(), "it is being looked after");
        live.set_unclear(false);
        drop(held.now_or_never().expect("it runs"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_a_container_waits_until_it_is_made() {
        let live =
            LiveTable::default().entry(&Context::new(Namespace::new("default").unwrap()), "c1");
        live.set(State { phase: Phase::Creating, ..State::default() });
        for made in [true, false] {
            live.set(State { phase: Phase::Creating, ..State::default() });
            let mut held = pin!(live.hold());
            assert!(held.as_mut().now_or_never().is_none());
            if made {
                live.set(State { phase: Phase::Created, ..State::default() });
            } else {
                live.unmade();
            }
            drop(held.now_or_never().expect("it is known what became of it"));
        }
        live.set(State { phase: Phase::Creating, ..State::default() });
        // Whoever made it is gone.
        drop(live.hold().await);
    }
}
