//! Sandboxes: shims that several containers share.
//!
//! The controller starts a shim for a sandbox, in a bundle of its own, and
//! speaks containerd's sandbox service to it. A container whose record names the
//! sandbox gets its task from the same shim.

mod client;
mod controller;
pub mod grpc;
pub(crate) mod recover;
mod watch;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::tasks::Exit;
use gantry_core::{Context, Error, Namespace, Result};
use tokio::sync::watch as channel;

use crate::bundle::Bundle;
use crate::runtime::Program;
use crate::shim::Shim;

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Set up, not started.
    Made,
    /// It takes containers.
    Running,
    /// It has ended; its shim still answers.
    Ended(Exit),
    /// Its shim died without having been told to.
    Dead(Exit),
    /// It was taken away.
    Gone(Exit),
}

impl Life {
    /// How it ended, if it has.
    fn exit(self) -> Option<Exit> {
        match self {
            Life::Made | Life::Running => None,
            Life::Ended(exit) | Life::Dead(exit) | Life::Gone(exit) => Some(exit),
        }
    }

    /// Whether the other can come after this.
    fn precedes(self, to: Life) -> bool {
        match (self, to) {
            (Life::Gone(_), _) => false,
            (_, Life::Gone(_)) => true,
            (Life::Dead(_), _) => false,
            (_, Life::Dead(_)) => true,
            (Life::Ended(_), _) => false,
            (_, Life::Ended(_)) => true,
            (Life::Made, Life::Running) => true,
            _ => false,
        }
    }
}

/// A sandbox with a shim.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Its directory, with its namespace and ID.
    pub(crate) bundle: Bundle,
    /// Its shim's program.
    pub(crate) program: Program,
    /// The connection; none when the shim was found dead. Held for replacing and
    /// cloning it only.
    shim: Mutex<Option<Shim>>,
    life: channel::Sender<Life>,
    /// Held while it is taken away: the end of its connection means nothing then.
    leaving: tokio::sync::Mutex<()>,
    /// Held while it is started: of several callers one does it.
    starting: tokio::sync::Mutex<()>,
}

impl Sandbox {
    fn new(bundle: Bundle, program: Program, shim: Option<Shim>, life: Life) -> Arc<Self> {
        Arc::new(Self {
            bundle,
            program,
            shim: Mutex::new(shim),
            life: channel::Sender::new(life),
            leaving: tokio::sync::Mutex::new(()),
            starting: tokio::sync::Mutex::new(()),
        })
    }

    /// The connection.
    ///
    /// # Errors
    /// `NotFound` when the shim was found dead.
    pub(crate) fn shim(&self) -> Result<Shim> {
        // Nothing panics under this lock.
        let shim = self.shim.lock().unwrap_or_else(PoisonError::into_inner).clone();
        shim.ok_or_else(|| self.not_found())
    }

    fn reconnected(&self, shim: Shim) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = Some(shim);
    }

    fn life(&self) -> Life {
        *self.life.borrow()
    }

    /// Goes on to another state, unless that can't follow; whether it did.
    fn turn(&self, to: Life) -> bool {
        self.life.send_if_modified(|life| {
            let follows = life.precedes(to);
            if follows {
                *life = to;
            }
            follows
        })
    }

    fn not_found(&self) -> Error {
        not_found(&self.bundle.id)
    }
}

fn not_found(id: &str) -> Error {
    Error::not_found(format!("sandbox {id:?}: not found"))
}

type Key = (Namespace, String);

/// The sandboxes that are there, by namespace and ID.
#[derive(Default)]
pub(crate) struct Table(Mutex<HashMap<Key, Slot>>);

enum Slot {
    /// The ID is taken by a sandbox that is being made.
    Creating,
    Ready(Arc<Sandbox>),
}

impl Table {
    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox, alive or dead.
    fn get(&self, ctx: &Context, id: &str) -> Result<Arc<Sandbox>> {
        match self.slots().get(&(ctx.namespace.clone(), id.to_owned())) {
            Some(Slot::Ready(sandbox)) => Ok(Arc::clone(sandbox)),
            _ => Err(not_found(id)),
        }
    }

    /// The sandbox with a shim that lives.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn find(&self, ctx: &Context, id: &str) -> Result<Arc<Sandbox>> {
        let sandbox = self.get(ctx, id)?;
        match sandbox.life() {
            Life::Dead(_) | Life::Gone(_) => Err(not_found(id)),
            _ => Ok(sandbox),
        }
    }

    /// Takes an ID for a sandbox that is to be made. That of one whose shim died is free.
    fn reserve(&self, key: &Key) -> Result<Reservation<'_>> {
        let taken = Error::already_exists(format!("sandbox {} already running", key.1));
        match self.slots().entry(key.clone()) {
            Entry::Occupied(mut slot) => {
                let Slot::Ready(there) = slot.get() else { return Err(taken) };
                if !matches!(there.life(), Life::Dead(_) | Life::Gone(_)) {
                    return Err(taken);
                }
                slot.insert(Slot::Creating);
            }
            Entry::Vacant(free) => {
                free.insert(Slot::Creating);
            }
        }
        Ok(Reservation { table: self, key: Some(key.clone()) })
    }

    fn insert(&self, sandbox: &Arc<Sandbox>) {
        let key = (sandbox.bundle.namespace.clone(), sandbox.bundle.id.clone());
        self.slots().insert(key, Slot::Ready(Arc::clone(sandbox)));
    }

    fn remove(&self, sandbox: &Arc<Sandbox>) {
        let key = (sandbox.bundle.namespace.clone(), sandbox.bundle.id.clone());
        let mut slots = self.slots();
        if matches!(slots.get(&key), Some(Slot::Ready(there)) if Arc::ptr_eq(there, sandbox)) {
            slots.remove(&key);
        }
    }
}

/// Holds an ID for a sandbox that is being made.
struct Reservation<'a> {
    table: &'a Table,
    key: Option<Key>,
}

impl Reservation<'_> {
    /// The sandbox is there.
    fn fill(mut self, sandbox: &Arc<Sandbox>) {
        self.key = None;
        self.table.insert(sandbox);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.table.slots().remove(&key);
        }
    }
}
