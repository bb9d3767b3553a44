//! Sockets of the host whose connections and datagrams are carried to the
//! container: those that no rule of the firewall leads there (`::1` above all).

mod tcp;
mod udp;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use gantry_core::networks::Protocol;
use gantry_core::sockets::MAX_ANSWER;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::message::Key;
use super::{spawn, tcp_listener, udp_socket};
use crate::error::{self, Error};

/// Connections and clients that are carried at once, of all relays.
const ROOM: usize = 4096;

/// The relays of one container.
#[derive(Debug)]
pub(super) struct Relays {
    /// Borrowed for moments only.
    all: RefCell<BTreeMap<Key, Relay>>,
    carrying: Rc<Carrying>,
}

/// What all relays share.
#[derive(Debug)]
struct Carrying {
    room: Arc<Semaphore>,
    pipes: tcp::Pipes,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Relay {
    target: Rc<Cell<SocketAddr>>,
    _stop: DropGuard,
}

impl Relays {
    /// None yet; `closed` ends them all.
    pub(super) fn new(closed: CancellationToken) -> Self {
        let room = Arc::new(Semaphore::new(ROOM));
        let carrying = Rc::new(Carrying { room, pipes: tcp::Pipes::default(), closed });
        Self { all: RefCell::default(), carrying }
    }

    /// Serves a socket, instead of the one that was there before.
    ///
    /// # Errors
    /// It is not a socket of that kind at that address.
    pub(super) fn add(&self, key: Key, target: SocketAddr, fd: OwnedFd) -> Result<(), Error> {
        let failed = |e| error::io(format!("relay {key}"), e);
        let target = Rc::new(Cell::new(target));
        let (carrying, stop) = (self.carrying.clone(), self.carrying.closed.child_token());
        match key.protocol {
            Protocol::Tcp => {
                let listener = tcp_listener(fd).map_err(failed)?;
                check(key, listener.local_addr()).map_err(failed)?;
                spawn(&stop, tcp::accept(listener, target.clone(), carrying));
            }
            _ => {
                let socket = udp_socket(fd).map_err(failed)?;
                check(key, socket.local_addr()).map_err(failed)?;
                let clients = udp::Clients::new(socket, target.clone(), carrying, stop.clone());
                spawn(&stop, udp::serve(Rc::new(clients.map_err(failed)?)));
            }
        }
        self.all.borrow_mut().insert(key, Relay { target, _stop: stop.drop_guard() });
        Ok(())
    }

    /// Gives a relay another target.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn lead(&self, key: Key, target: SocketAddr) -> Result<(), Error> {
        match self.all.borrow().get(&key) {
            Some(relay) => relay.target.set(target),
            None => return Err(error::not_found(format!("relay {key}"))),
        }
        Ok(())
    }

    /// Closes a relay's socket, if it is there. TCP's connections stay.
    pub(super) fn remove(&self, key: Key) {
        self.all.borrow_mut().remove(&key);
    }

    /// The relays from the `from`th on, as lines, as many as one answer has room for.
    pub(super) fn list(&self, from: usize) -> String {
        let mut out = String::new();
        for (key, relay) in self.all.borrow().iter().skip(from) {
            let line = format!("relay {key} {}", relay.target.get());
            // With `ok` and the line's end.
            if out.len() + line.len() + 4 > MAX_ANSWER {
                break;
            }
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&line);
        }
        out
    }
}

/// Whether a socket is where it is said to be.
fn check(key: Key, found: io::Result<SocketAddr>) -> io::Result<()> {
    let found = found?;
    if (found.ip(), found.port()) == (key.host.ip(), key.host.port()) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the socket is bound to {found}")))
}
