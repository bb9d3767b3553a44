//! Sockets of the host whose connections and datagrams are carried to the
//! container: those that no rule of the firewall leads there (`::1` above all).

mod tcp;
mod udp;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use gantry_core::networks::Protocol;
use gantry_core::sockets::MAX_ANSWER;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::message::Key;
use super::{spawn, tcp_listener, udp_socket};
use crate::error::{self, Error};

/// Connections that are carried at once, of all relays, and as many clients of UDP.
const MOST: usize = 4096;
/// As many in any case.
const LEAST: usize = 16;
/// What one of each takes: two sockets and two pipes, and a socket.
const DESCRIPTORS: u64 = 7;
/// Descriptors that are left for everything else.
const OTHERS: u64 = 256;

/// The relays of one container.
#[derive(Debug)]
pub(super) struct Relays {
    /// Borrowed for moments only.
    all: RefCell<BTreeMap<Key, Relay>>,
    /// Made with the first one: by then the limit of descriptors is as high as it gets.
    carrying: OnceCell<Rc<Carrying>>,
    closed: CancellationToken,
}

/// What all relays share.
#[derive(Debug)]
struct Carrying {
    /// For connections.
    connections: Arc<Semaphore>,
    /// For clients of UDP.
    clients: Arc<Semaphore>,
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
        Self { all: RefCell::default(), carrying: OnceCell::new(), closed }
    }

    /// Serves a socket, instead of the one that was there before.
    ///
    /// # Errors
    /// It is not a socket of that kind at that address.
    pub(super) fn add(&self, key: Key, target: SocketAddr, fd: OwnedFd) -> Result<(), Error> {
        let failed = |e| error::io(format!("relay {key}"), e);
        let target = Rc::new(Cell::new(target));
        let (carrying, stop) = (self.carrying().clone(), self.closed.child_token());
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

    fn carrying(&self) -> &Rc<Carrying> {
        self.carrying.get_or_init(|| {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
            let room = room(limit);
            Rc::new(Carrying {
                connections: Arc::new(Semaphore::new(room)),
                clients: Arc::new(Semaphore::new(room)),
                pipes: tcp::Pipes::default(),
                closed: self.closed.clone(),
            })
        })
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

/// How many of each there is room for when so many descriptors may be open.
fn room(limit: u64) -> usize {
    let room = limit.saturating_sub(OTHERS) / DESCRIPTORS;
    usize::try_from(room).unwrap_or(MOST).clamp(LEAST, MOST)
}

/// Whether a socket is where it is said to be.
fn check(key: Key, found: io::Result<SocketAddr>) -> io::Result<()> {
    let found = found?;
    if (found.ip(), found.port()) == (key.host.ip(), key.host.port()) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the socket is bound to {found}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::UdpSocket;
    use tokio::task::LocalSet;

    #[test]
    fn room_follows_the_limit() {
        assert_eq!((room(0), room(1024), room(u64::MAX)), (16, 109, 4096));
    }

    #[tokio::test]
    async fn datagrams_have_room_of_their_own() {
        let test = async {
            let closed = CancellationToken::new();
            let relays = Relays::new(closed.clone());
            let host = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let at = host.local_addr().unwrap();
            let container = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let key = Key { protocol: Protocol::Udp, host: at };
            relays.add(key, container.local_addr().unwrap(), host.into()).unwrap();
            let take = |room: &Arc<Semaphore>, left: usize| {
                let taken = u32::try_from(room.available_permits() - left).unwrap();
                room.clone().try_acquire_many_owned(taken).unwrap()
            };
            let _connections = take(&relays.carrying().connections, 0);
            let _clients = take(&relays.carrying().clients, 1);
            // The second client gets the first one's room.
            for n in 0..2 {
                let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(&[n], at).unwrap();
                let mut buffer = [0; 8];
                let received =
                    tokio::time::timeout(Duration::from_secs(10), container.recv(&mut buffer));
                let length = received.await.unwrap().unwrap();
                assert_eq!(buffer[..length], [n]);
            }
            closed.cancel();
        };
        LocalSet::new().run_until(test).await;
    }
}
