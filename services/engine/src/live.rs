//! What containers do right now, beside what is stored of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::{Context, Namespace};
use tokio::sync::watch;

use crate::model::{Phase, State};

/// One container, as long as this daemon has something to do with it.
#[derive(Debug)]
pub(crate) struct Live {
    /// Whoever starts, removes or cleans up after the container holds this
    /// for as long as that takes, awaits included: these exclude each other.
    pub(crate) busy: tokio::sync::Mutex<()>,
    now: watch::Sender<Now>,
}

/// A container at this moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    /// Its state, where that is newer than what is stored.
    pub(crate) state: Option<State>,
    /// Whether a task exists that somebody here watches.
    pub(crate) watched: bool,
}

impl Now {
    fn phase(&self) -> Option<Phase> {
        self.state.as_ref().map(|state| state.phase)
    }
}

impl Live {
    /// As it is now.
    pub(crate) fn now(&self) -> Now {
        self.now.borrow().clone()
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
    pub(crate) fn watched(&self, state: State) {
        self.now.send_modify(|now| {
            now.state = Some(state);
            now.watched = true;
        });
    }

    /// Notes that it was killed for want of memory.
    pub(crate) fn out_of_memory(&self) {
        self.now.send_modify(|now| {
            if let Some(state) = &mut now.state {
                state.oom_killed = true;
            }
        });
    }

    /// Notes the end of the first process. Whoever learns of it first says
    /// so; returns the state as it is from then on.
    pub(crate) fn ended(&self, ended: impl FnOnce(&mut State)) -> State {
        let mut after = State::default();
        self.now.send_modify(|now| {
            let state = now.state.get_or_insert_default();
            if state.phase.is_running() || state.phase == Phase::Created {
                ended(state);
                state.pid = 0;
            }
            after = state.clone();
        });
        after
    }

    /// Nobody watches its task any more: it is gone.
    pub(crate) fn settled(&self) {
        self.now.send_modify(|now| now.watched = false);
    }

    /// Waits until its first process does not run.
    pub(crate) async fn wait_ended(&self) {
        let mut now = self.subscribe();
        // The sender is part of self.
        let _ = now.wait_for(|now| !now.phase().is_some_and(Phase::is_running)).await;
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
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Live>>> {
        // Nothing panics under this lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a container; made when there is none.
    pub(crate) fn entry(&self, ctx: &Context, id: &str) -> Arc<Live> {
        let key = (ctx.namespace.clone(), id.to_owned());
        let new = || {
            Arc::new(Live {
                busy: tokio::sync::Mutex::default(),
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

    /// A container's state, where that is newer than what is stored.
    pub(crate) fn state(&self, namespace: &Namespace, id: &str) -> Option<State> {
        self.get(namespace, id).and_then(|live| live.now().state)
    }

    /// Whether a container is being taken away.
    pub(crate) fn is_removing(&self, namespace: &Namespace, id: &str) -> bool {
        self.state(namespace, id).is_some_and(|state| state.phase == Phase::Removing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_noted_once() {
        let table = LiveTable::default();
        let ctx = Context::new(Namespace::new("default").unwrap());
        let live = table.entry(&ctx, "c1");
        live.watched(State { phase: Phase::Running, pid: 7, ..State::default() });
        let waiting = tokio::spawn({
            let live = Arc::clone(&live);
            async move { live.wait_ended().await }
        });
        let end = |code| {
            move |state: &mut State| {
                state.phase = Phase::Exited;
                state.exit_code = code;
            }
        };
        assert_eq!(live.ended(end(3)).exit_code, 3);
        assert_eq!(live.ended(end(137)).exit_code, 3);
        assert_eq!(live.now().state.unwrap().pid, 0);
        waiting.await.unwrap();
        assert!(live.now().watched);
        live.settled();
        live.wait_settled().await;
        table.forget(&ctx, "c1");
        assert!(table.get(&ctx.namespace, "c1").is_none());
    }
}
