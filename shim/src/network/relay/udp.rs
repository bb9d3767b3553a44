//! Datagrams: each client has a socket of its own towards the container, so that
//! answers find their way back, from the address that the client sent to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Carrying;
use crate::network::{PAUSE, spawn};

/// A client that is silent for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(90);
/// Clients of one relay: beyond them, or when there is no more room, the one that was silent
/// longest is forgotten.
const CLIENTS: usize = 512;
/// Longest datagram.
const DATAGRAM: usize = 64 * 1024;
/// So many are taken before others have their turn.
const BURST: usize = 32;

/// One relay's socket and its clients.
#[derive(Debug)]
pub(super) struct Clients {
    socket: UdpSocket,
    target: Rc<Cell<SocketAddr>>,
    carrying: Rc<Carrying>,
    stop: CancellationToken,
    /// Borrowed for moments only.
    all: RefCell<HashMap<Way, Known>>,
}

/// A client, and the address that it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Way {
    client: SocketAddr,
    local: IpAddr,
    /// Where a link-local address counts.
    interface: u32,
}

#[derive(Debug)]
struct Known {
    session: Rc<Session>,
    _stop: DropGuard,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Session {
    /// Connected to the target.
    socket: UdpSocket,
    target: SocketAddr,
    /// When it was last used, either way.
    used: Cell<Instant>,
}

impl Clients {
    /// Nobody yet.
    ///
    /// # Errors
    /// The socket does not tell where datagrams were sent to.
    pub(super) fn new(
        socket: UdpSocket,
        target: Rc<Cell<SocketAddr>>,
        carrying: Rc<Carrying>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self { socket, target, carrying, stop, all: RefCell::default() })
    }

    /// Takes what is there, a burst at most; whether there may be more.
    fn take(self: &Rc<Self>) -> io::Result<bool> {
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..BURST {
            let received =
                self.socket.try_io(Interest::READABLE, || receive(&self.socket, &mut buffer));
            match received {
                Ok((length, way)) => self.forward(way, &buffer[..length]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Sends a client's datagram on. What can't be sent is lost, as datagrams are.
    fn forward(self: &Rc<Self>, way: Way, datagram: &[u8]) {
        let known = self.all.borrow().get(&way).map(|known| known.session.clone());
        let known = known.filter(|session| session.target == self.target.get());
        let session = match known {
            Some(session) => session,
            None => match self.meet(way) {
                Ok(session) => session,
                Err(_) => return,
            },
        };
        session.used.set(Instant::now());
        // Directly: the event loop does not know yet that a new socket has room.
        let _ = nix::sys::socket::send(session.socket.as_raw_fd(), datagram, MsgFlags::empty());
    }

    /// Makes a socket for a client.
    fn meet(self: &Rc<Self>, way: Way) -> io::Result<Rc<Session>> {
        let target = self.target.get();
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.all.borrow_mut().remove(&way);
        self.make_room();
        let full = |_| io::Error::from(io::ErrorKind::QuotaExceeded);
        let room = self.carrying.clients.clone().try_acquire_owned().map_err(full)?;
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let session = Rc::new(Session { socket, target, used: Cell::new(Instant::now()) });
        let stop = self.stop.child_token();
        spawn(&stop, answer(self.clone(), way, session.clone()));
        let known = Known { session: session.clone(), _stop: stop.drop_guard(), _room: room };
        self.all.borrow_mut().insert(way, known);
        Ok(session)
    }

    fn make_room(&self) {
        let mut all = self.all.borrow_mut();
        if all.len() < CLIENTS && self.carrying.clients.available_permits() > 0 {
            return;
        }
        let longest = all.iter().min_by_key(|(_, known)| known.session.used.get());
        if let Some(way) = longest.map(|(way, _)| *way) {
            all.remove(&way);
        }
    }

    /// Sends a client what the container sent, a burst at most; whether there may be more.
    fn give(&self, way: &Way, session: &Session) -> bool {
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..BURST {
            match session.socket.try_recv(&mut buffer) {
                Ok(length) => {
                    session.used.set(Instant::now());
                    let _ = send(&self.socket, way, &buffer[..length]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // That nobody listens there is told once for each datagram.
                Err(_) => {}
            }
        }
        true
    }
}

/// Carries datagrams of clients.
pub(super) async fn serve(clients: Rc<Clients>) {
    while clients.socket.readable().await.is_ok() {
        match clients.take() {
            // To wait for a socket that has more lets nobody else go on.
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Carries datagrams of the container to one client, until nothing comes for a while.
async fn answer(clients: Rc<Clients>, way: Way, session: Rc<Session>) {
    loop {
        let silent = session.used.get() + SILENCE;
        match tokio::time::timeout_at(silent, session.socket.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) if session.used.get() + SILENCE <= Instant::now() => break,
            Err(_) => continue,
        }
        if clients.give(&way, &session) {
            tokio::task::yield_now().await;
        }
    }
    let mut all = clients.all.borrow_mut();
    if all.get(&way).is_some_and(|known| Rc::ptr_eq(&known.session, &session)) {
        all.remove(&way);
    }
}

/// Receives a datagram, and where it came from and was sent to.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let client = received.address.as_ref().and_then(address);
    let client = client.ok_or(io::ErrorKind::InvalidData)?;
    let mut way = Way { client, local: unspecified(&client), interface: 0 };
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                way.local = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let local = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                if !local.is_multicast() {
                    way.local = local.into();
                }
                if local.is_unicast_link_local() {
                    way.interface = info.ipi6_ifindex;
                }
            }
            _ => {}
        }
    }
    Ok((received.bytes, way))
}

/// Sends a datagram to a client, from the address that it had sent to.
fn send(socket: &UdpSocket, way: &Way, datagram: &[u8]) -> io::Result<usize> {
    let parts = [IoSlice::new(datagram)];
    let to = SockaddrStorage::from(way.client);
    let fd = socket.as_raw_fd();
    let sent = match way.local {
        IpAddr::V4(local) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&to))
        }
        IpAddr::V6(local) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                ipi6_ifindex: way.interface,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&to))
        }
    };
    sent.map_err(io::Error::from)
}

fn address(found: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(four) = found.as_sockaddr_in() {
        return Some(SocketAddr::from(*four));
    }
    found.as_sockaddr_in6().map(|six| SocketAddr::from(*six))
}

fn unspecified(client: &SocketAddr) -> IpAddr {
    match client {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
