//! Published ports and names of a container: sockets that the daemon made and
//! hands over, so that they answer while it is away ([`gantry_core::sockets`]).
//!
//! All of it ends with the [`Server`], which ends with the container's first
//! process: sockets in the container's network namespace would keep that.

mod message;
mod names;
mod relay;

use std::cell::{OnceCell, RefCell};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use gantry_core::networks::Protocol;
use gantry_core::sockets::MAX_MESSAGE;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{self, Error};
use crate::runtime::{descriptors, sys};
use message::Request;
use names::Resolver;
use relay::Relays;

/// The daemon's connections that may wait.
const WAITING: i32 = 16;
/// Between two tries when there is no descriptor left.
const PAUSE: Duration = Duration::from_millis(50);

/// The socket to which the daemon hands sockets, and all that is done with those.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    _closed: DropGuard,
}

impl Server {
    /// Listens on `path`, which is replaced if it exists.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let listener = listener(path).map_err(|e| {
            error::io(format!("listen for the container's networks on {}", path.display()), e)
        })?;
        let closed = CancellationToken::new();
        let shared = Rc::new(Shared {
            relays: Relays::new(closed.clone()),
            resolver: OnceCell::new(),
            answering: RefCell::default(),
            closed: closed.clone(),
        });
        spawn(&closed, accept(listener, shared));
        Ok(Self { path: path.to_owned(), _closed: closed.drop_guard() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What was handed over.
#[derive(Debug)]
struct Shared {
    relays: Relays,
    /// Made when there are names.
    resolver: OnceCell<Rc<Resolver>>,
    /// What answers DNS now, over UDP and TCP.
    answering: RefCell<[Option<DropGuard>; 2]>,
    closed: CancellationToken,
}

/// Runs a task for as long as `closed` is open.
fn spawn(closed: &CancellationToken, task: impl Future<Output = ()> + 'static) {
    let closed = closed.clone();
    tokio::task::spawn_local(async move {
        closed.run_until_cancelled(task).await;
    });
}

fn listener(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before it listens.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&fd, Backlog::new(WAITING)?)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(fd))
}

async fn accept(listener: UnixListener, shared: Rc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn(&shared.closed, converse(stream, shared.clone())),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Answers the daemon until it goes.
async fn converse(stream: UnixStream, shared: Rc<Shared>) {
    while stream.readable().await.is_ok() {
        // One byte more than there may be: a longer message is noticed.
        let mut packet = vec![0; MAX_MESSAGE + 1];
        let receive = || sys::receive(stream.as_fd(), &mut packet);
        let (length, fd) = match stream.try_io(Interest::READABLE, receive) {
            Ok((0, _)) => return,
            Ok(received) => received,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let answer = match shared.perform(&packet[..length], fd) {
            Ok(text) if text.is_empty() => "ok".to_owned(),
            Ok(text) => format!("ok {text}"),
            Err(e) => format!("error {e}"),
        };
        drop(packet);
        let send = || sys::send(stream.as_fd(), answer.as_bytes(), None);
        if stream.async_io(Interest::WRITABLE, send).await.is_err() {
            return;
        }
    }
}

impl Shared {
    /// Does what a message says; gives the answer's text.
    fn perform(&self, packet: &[u8], fd: Option<OwnedFd>) -> Result<String, Error> {
        if packet.len() > MAX_MESSAGE {
            return Err(error::invalid("the message is too long"));
        }
        let text = str::from_utf8(packet).map_err(|_| error::invalid("the message is not text"))?;
        match (Request::parse(text)?, fd) {
            (Request::Resolver(path), None) => self.resolver().configure(path)?,
            (Request::Names(protocol), Some(fd)) => self.serve_names(protocol, fd)?,
            (Request::Relay(key, target), Some(fd)) => {
                descriptors::raise();
                self.relays.add(key, target, fd)?;
            }
            (Request::Relay(key, target), None) => self.relays.lead(key, target)?,
            (Request::Drop(key), None) => self.relays.remove(key),
            (Request::List(from), None) => return Ok(self.relays.list(from)),
            (_, Some(_)) => return Err(error::invalid("the message takes no socket")),
            (_, None) => {
                return Err(error::invalid(
                    "no socket came with the message, or there is no room for one more",
                ));
            }
        }
        Ok(String::new())
    }

    fn resolver(&self) -> &Rc<Resolver> {
        self.resolver.get_or_init(|| Rc::new(Resolver::new(self.closed.clone())))
    }

    /// Answers DNS on a socket, instead of the one before.
    fn serve_names(&self, protocol: Protocol, fd: OwnedFd) -> Result<(), Error> {
        let resolver = self.resolver().clone();
        let failed = |e| error::io(format!("serve names over {}", protocol.as_str()), e);
        let closed = self.closed.child_token();
        let place = match protocol {
            Protocol::Tcp => {
                let listener = tcp_listener(fd).map_err(failed)?;
                spawn(&closed, names::tcp(listener, resolver));
                0
            }
            _ => {
                let socket = udp_socket(fd).map_err(failed)?;
                resolver.ask_from(&socket);
                spawn(&closed, names::udp(socket, resolver));
                1
            }
        };
        self.answering.borrow_mut()[place] = Some(closed.drop_guard());
        Ok(())
    }
}

/// A listening socket that was handed over.
fn tcp_listener(fd: OwnedFd) -> io::Result<tokio::net::TcpListener> {
    if !is_a(&fd, SockType::Stream)? || !getsockopt(&fd, sockopt::AcceptConn)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no listening stream socket"));
    }
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// A bound datagram socket that was handed over.
fn udp_socket(fd: OwnedFd) -> io::Result<tokio::net::UdpSocket> {
    if !is_a(&fd, SockType::Datagram)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no datagram socket"));
    }
    let socket = std::net::UdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}

fn is_a(fd: &OwnedFd, kind: SockType) -> io::Result<bool> {
    Ok(getsockopt(fd, sockopt::SockType)? == kind)
}

#[cfg(test)]
mod tests;
