//! The thread that writes the firewall.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use gantry_core::networks::Protocol;
use gantry_core::{Error, Result};
use tokio::sync::oneshot;

use super::batch::Refused;
use super::elements::Delta;
use super::explain::Explained;
use super::rules::{Change, Rules};
use super::whole::Shape;
use super::{elsewhere, explain, whole};
use crate::netlink::socket::Socket;

/// Changes of so many callers are written at once.
const AT_ONCE: usize = 256;

/// Where an answer goes. Whoever asked may have given up.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What is asked of the thread.
#[derive(Debug)]
pub(super) enum Request {
    Assert(Rules, Reply<()>),
    Apply(Vec<Change>, Reply<()>),
    Repair(Reply<bool>),
    Explain((Option<IpAddr>, u16, Protocol), Reply<Explained>),
}

/// What the thread has. Nobody else has it, so that there is no lock.
#[derive(Debug)]
pub(super) struct Worker {
    socket: Socket,
    table: Arc<str>,
    elsewhere: Arc<AtomicBool>,
    /// What the table is to say.
    rules: Rules,
    /// Whether there is to be a table.
    wanted: bool,
    /// The table as it was left; `None` when that is not known.
    shape: Option<Shape>,
}

impl Worker {
    pub(super) fn new(socket: Socket, table: &Arc<str>, elsewhere: Arc<AtomicBool>) -> Self {
        let table = Arc::clone(table);
        Self { socket, table, elsewhere, rules: Rules::default(), wanted: false, shape: None }
    }

    /// Serves requests until the last handle has gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let (mut changes, mut next) = (Vec::new(), Some(first));
            while let Some(request) = next {
                match request {
                    Request::Apply(change, reply) => changes.push((change, reply)),
                    other => {
                        self.apply(std::mem::take(&mut changes));
                        self.serve(other);
                    }
                }
                next = if changes.len() < AT_ONCE { requests.try_recv().ok() } else { None };
            }
            self.apply(changes);
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Assert(rules, reply) => answer(reply, self.assert(rules)),
            Request::Apply(changes, reply) => answer(reply, self.change(&changes)),
            Request::Repair(reply) => answer(reply, self.repair()),
            Request::Explain(asked, reply) => {
                let explained = explain::explain(&self.socket, &self.table, &self.rules, asked);
                answer(reply, explained);
            }
        }
    }

    /// Applies changes of several callers. When they can't be made together each is made alone,
    /// so that one does not fail for another's.
    fn apply(&mut self, asked: Vec<(Vec<Change>, Reply<()>)>) {
        if asked.len() > 1 {
            let all: Vec<Change> =
                asked.iter().flat_map(|(changes, _)| changes.iter().cloned()).collect();
            if self.change(&all).is_ok() {
                for (_, reply) in asked {
                    answer(reply, Ok(()));
                }
                return;
            }
        }
        for (changes, reply) in asked {
            answer(reply, self.change(&changes));
        }
    }

    fn assert(&mut self, rules: Rules) -> Result<()> {
        let before = std::mem::replace(&mut self.rules, rules);
        if let Err(err) = self.make() {
            self.rules = before;
            return Err(err);
        }
        self.wanted = true;
        self.elsewhere.store(self.rules.accept_elsewhere, Ordering::Relaxed);
        self.accept_elsewhere();
        Ok(())
    }

    fn change(&mut self, changes: &[Change]) -> Result<()> {
        let (mut delta, mut undo, mut bridges) = (Delta::default(), Vec::new(), false);
        for change in changes {
            if let Some(back) = self.rules.change(change) {
                bridges |= matches!(change, Change::AddBridge(..) | Change::RemoveBridge(_));
                delta.add(&self.rules, change, &back);
                undo.push(back);
            }
        }
        if let Err(err) = self.write(&delta) {
            for back in undo.iter().rev() {
                self.rules.change(back);
            }
            return Err(err);
        }
        self.wanted = true;
        if bridges && self.rules.accept_elsewhere {
            self.accept_elsewhere();
        }
        Ok(())
    }

    fn write(&mut self, delta: &Delta) -> Result<()> {
        if self.shape.is_none() {
            return self.make();
        }
        if delta.is_empty() {
            return Ok(());
        }
        match whole::change(&self.socket, &self.table, delta)? {
            None => Ok(()),
            Some(refused) if refused.errno() == libc::EPERM => Err(refused.error()),
            // Somebody changed it; who watches may not have told us yet.
            Some(refused) => {
                tracing::info!(err = %refused.error(), "the firewall is made again");
                self.make()
            }
        }
    }

    /// Makes the table say the rules.
    fn make(&mut self) -> Result<()> {
        let refused = whole::make(&self.socket, &self.table, &self.rules)?;
        if let Some(refused) = refused {
            self.make_anew(&refused)?;
        }
        self.shape = whole::shape(&self.socket, &self.table)?;
        Ok(())
    }

    fn make_anew(&self, refused: &Refused) -> Result<()> {
        if refused.errno() == libc::EPERM {
            return Err(refused.error());
        }
        match whole::make_anew(&self.socket, &self.table, &self.rules)? {
            Some(None) => {
                tracing::warn!(err = %refused.error(), "the firewall's table was made anew");
                Ok(())
            }
            Some(Some(refused)) => Err(refused.error()),
            None => Err(Error::failed_precondition(format!(
                "the table inet {table} can't be mended while others have rules in it; \
                 `nft delete table inet {table}` lets it be made anew",
                table = self.table
            ))
            .with_source(refused.error())),
        }
    }

    fn is_whole(&self) -> Result<bool> {
        if !self.wanted {
            return Ok(true);
        }
        let Some(shape) = &self.shape else { return Ok(false) };
        let found = whole::shape(&self.socket, &self.table)?;
        Ok(found.as_ref() == Some(shape)
            && whole::holds(&self.socket, &self.table, &self.rules)?
            && (!self.rules.accept_elsewhere
                || elsewhere::is_done(&self.socket, &self.table, &self.rules)?))
    }

    fn repair(&mut self) -> Result<bool> {
        if self.is_whole()? {
            return Ok(false);
        }
        self.make()?;
        self.accept_elsewhere();
        Ok(true)
    }

    /// What others' tables refuse is no reason to be without our own.
    fn accept_elsewhere(&self) {
        if let Err(err) = elsewhere::make(&self.socket, &self.table, &self.rules) {
            tracing::warn!(%err, "another firewall's table could not be changed");
        }
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T>) {
    // Whoever asked may have given up.
    let _ = reply.send(result);
}
