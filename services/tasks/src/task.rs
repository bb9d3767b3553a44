//! One task: its connection, what is known of it, and who waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::tasks::{Exit, Process, Status};
use gantry_core::{Error, Kind, Result};
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::runtime::Program;
use crate::shim::Shim;

/// A task with a shim.
#[derive(Debug)]
pub(crate) struct Task {
    /// Its directory, with its namespace and ID.
    pub(crate) bundle: Bundle,
    /// Its shim's program.
    pub(crate) program: Program,
    /// It lives in a shim that is not its own, and that stays without it.
    pub(crate) guest: bool,
    /// What is known. Held for reading and changing it only.
    known: Mutex<Known>,
    /// What became of the shim.
    life: watch::Sender<Life>,
    /// Held while it is taken away, by whomever: what comes after may be another task's.
    pub(crate) leaving: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    shim: Shim,
    init: Process,
    /// Waits in flight or answered, by exec ID; the empty one is the first process.
    waits: HashMap<String, watch::Receiver<Option<Answer>>>,
}

/// What became of a shim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Life {
    /// Connected, for the n-th time.
    Connected(u64),
    /// It died without having been told to.
    Dead(Exit),
    /// It was told to go.
    Deleted,
}

/// How a wait ended.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// With the process.
    Ended(Exit),
    /// Without an answer; the error in a form that several waiters can share.
    Failed(Kind, String),
}

/// What a process ends with that was killed: 128 and SIGKILL.
pub(crate) const KILLED: u32 = 137;

impl Answer {
    fn result(self) -> Result<Exit> {
        match self {
            Answer::Ended(exit) => Ok(exit),
            Answer::Failed(kind, message) => Err(Error::new(kind, message)),
        }
    }
}

impl Task {
    /// A task with its connection.
    pub(crate) fn new(
        bundle: Bundle,
        program: Program,
        shim: Shim,
        init: Process,
        guest: bool,
    ) -> Arc<Self> {
        let known = Mutex::new(Known { shim, init, waits: HashMap::new() });
        let life = watch::Sender::new(Life::Connected(0));
        let leaving = tokio::sync::Mutex::new(());
        Arc::new(Self { bundle, program, guest, known, life, leaving })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection.
    pub(crate) fn shim(&self) -> Shim {
        self.known().shim.clone()
    }

    /// The first process, as last known.
    pub(crate) fn init(&self) -> Process {
        self.known().init.clone()
    }

    /// Takes over what the shim said of the first process.
    pub(crate) fn learn(&self, process: &Process) {
        let mut known = self.known();
        if known.init.status != Status::Stopped {
            known.init = process.clone();
        }
    }

    /// Takes over what the shim says of the first process at last. What was learned of it
    /// meanwhile is newer.
    pub(crate) fn introduce(&self, process: Process) {
        let mut known = self.known();
        let before = std::mem::replace(&mut known.init, process);
        if before.status != Status::Unknown {
            known.init.status = before.status;
            known.init.exit = before.exit;
        }
    }

    /// Notes a change of the first process' status.
    pub(crate) fn set_status(&self, status: Status) {
        let mut known = self.known();
        if known.init.status != Status::Stopped {
            known.init.status = status;
        }
    }

    fn set_exit(&self, exit: Exit) {
        let mut known = self.known();
        known.init.status = Status::Stopped;
        known.init.exit = exit;
    }

    /// The exit of the first process, if it was seen.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let known = self.known();
        (known.init.status == Status::Stopped).then_some(known.init.exit)
    }

    /// What became of the shim, now and from now on.
    pub(crate) fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// A new connection in place of the one that broke.
    pub(crate) fn reconnected(&self, shim: Shim) {
        self.known().shim = shim;
        self.life.send_modify(|life| {
            if let Life::Connected(n) = life {
                *n += 1;
            }
        });
    }

    /// The shim is gone; whoever waits gets this exit.
    pub(crate) fn died(&self, exit: Exit) {
        self.set_exit(exit);
        self.life.send_replace(Life::Dead(exit));
    }

    /// The task is about to be deleted: the end of its connection means
    /// nothing from now on.
    pub(crate) fn deleted(&self) {
        self.life.send_replace(Life::Deleted);
    }

    /// Whether it was deleted or died.
    pub(crate) fn is_gone(&self) -> bool {
        !matches!(*self.life.borrow(), Life::Connected(_))
    }

    /// Answers when the process has ended. All callers share one call to the shim.
    pub(crate) async fn wait(self: &Arc<Self>, exec_id: &str) -> Result<Exit> {
        let mut answer = self.watch_exit(exec_id);
        let found = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match found {
            Ok(Some(answer)) => answer.result(),
            _ => Err(Error::internal(format!("wait for task {}: nobody waits", self.bundle.id))),
        }
    }

    /// Begins to wait for a process, unless that has been done.
    pub(crate) fn watch_exit(self: &Arc<Self>, exec_id: &str) -> watch::Receiver<Option<Answer>> {
        let mut known = self.known();
        if let Some(waiting) = known.waits.get(exec_id) {
            return waiting.clone();
        }
        let (sender, receiver) = watch::channel(None);
        known.waits.insert(exec_id.to_owned(), receiver.clone());
        drop(known);
        let task = Arc::clone(self);
        let exec_id = exec_id.to_owned();
        tokio::spawn(async move {
            let answer = task.ask(&exec_id).await;
            match &answer {
                Answer::Ended(exit) if exec_id.is_empty() => task.set_exit(*exit),
                Answer::Ended(_) => {}
                // The next caller asks again: the process may exist by then.
                Answer::Failed(..) => task.forget(&exec_id),
            }
            sender.send_replace(Some(answer));
        });
        receiver
    }

    /// Forgets what is known of an exec'd process.
    pub(crate) fn forget(&self, exec_id: &str) {
        self.known().waits.remove(exec_id);
    }

    /// Has the shim delete an exec'd process that has ended.
    pub(crate) async fn delete_exec(&self, exec_id: &str) -> Result<(u32, Exit)> {
        let deleted = self.shim().delete(&self.bundle.id, exec_id).await;
        // An earlier call whose answer was not read may have deleted it.
        if deleted.as_ref().err().is_none_or(Error::is_not_found) {
            self.forget(exec_id);
        }
        deleted
    }

    /// One wait, over as many connections as it takes.
    async fn ask(&self, exec_id: &str) -> Answer {
        let mut life = self.life();
        loop {
            let before = life.borrow_and_update().clone();
            match before {
                Life::Dead(exit) if exec_id.is_empty() => return Answer::Ended(exit),
                // Nothing survives the container's first process.
                Life::Dead(exit) => return Answer::Ended(Exit { status: KILLED, ..exit }),
                Life::Deleted => return self.gone(exec_id),
                Life::Connected(_) => {}
            }
            let shim = self.shim();
            match shim.wait(&self.bundle.id, exec_id).await {
                Ok(exit) => return Answer::Ended(exit),
                Err(err) if shim.is_lost(&err).await => {}
                Err(err) => return Answer::Failed(err.kind(), err.to_string()),
            }
            // Whoever watches the connection finds out whether the shim lives.
            if life.wait_for(|now| *now != before).await.is_err() {
                return self.gone(exec_id);
            }
        }
    }

    fn gone(&self, exec_id: &str) -> Answer {
        match self.exit().filter(|_| exec_id.is_empty()) {
            Some(exit) => Answer::Ended(exit),
            None => Answer::Failed(Kind::NotFound, format!("task {} not found", self.bundle.id)),
        }
    }
}
