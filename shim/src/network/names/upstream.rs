//! How name servers are asked: each query has a number and a port that nobody
//! can guess, datagrams come first, and what does not fit is asked for by TCP.
//! The container's own servers are asked from its network, the host's from the
//! host's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

use super::answer::{Answer, belongs, is_truncated};
use super::namespace::Namespace;
use super::query::Query;
use super::settings::NameServer;

/// How long one server may take, each time that it is asked. With a single one this is
/// shorter than clients wait.
const ROUNDS: [Duration; 2] = [Duration::from_millis(1500), Duration::from_millis(3000)];
/// How long it may take by TCP.
const TCP: Duration = Duration::from_secs(2);
/// How long all of them may take.
const ALL: Duration = Duration::from_secs(10);
/// So many packets may come that answer something else: more are an attack.
const STRAY: usize = 32;
/// Longest datagram that is taken.
const DATAGRAM: usize = 4096;

/// A server, and the network that it is asked from if that is not the host's.
#[derive(Clone, Copy, Debug)]
struct Way<'a> {
    server: SocketAddr,
    from: Option<&'a Namespace>,
}

impl Way<'_> {
    fn make<T>(&self, socket: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.from {
            Some(namespace) => namespace.make(socket),
            None => socket(),
        }
    }
}

/// Asks one after the other, its own ones from `container` if that is known; gives the answer,
/// and who gave it. Without a final one it is the first that any of them gave.
pub(super) async fn ask(
    servers: &[NameServer],
    query: &Query,
    container: Option<&Namespace>,
) -> Option<(NameServer, Answer)> {
    let mut second_best = None;
    let asking = async {
        for patience in ROUNDS {
            for server in servers {
                let from = container.filter(|_| server.inside);
                let way = Way { server: server.address, from };
                let Some(answer) = exchange(way, query, patience).await else { continue };
                if answer.is_final() {
                    return Some((*server, answer));
                }
                second_best.get_or_insert((*server, answer));
            }
            if second_best.is_some() {
                // They are there, and don't know.
                return None;
            }
        }
        None
    };
    let found = tokio::time::timeout(ALL, asking).await.ok().flatten();
    found.or(second_best)
}

/// Asks one server.
async fn exchange(way: Way<'_>, query: &Query, patience: Duration) -> Option<Answer> {
    let answer = attempt(way, query, patience, true).await?;
    if answer.is_plain_server() {
        // It is too old for EDNS, or there is something in between.
        return attempt(way, query, patience, false).await.or(Some(answer));
    }
    Some(answer)
}

async fn attempt(way: Way<'_>, query: &Query, patience: Duration, edns: bool) -> Option<Answer> {
    let mut packet = tokio::time::timeout(patience, by_udp(way, query, edns)).await.ok()?.ok()?;
    // Without TCP a part of the answer is better than none.
    if is_truncated(&packet)
        && let Ok(Ok(whole)) = tokio::time::timeout(TCP, by_tcp(way, query, edns)).await
    {
        packet = whole;
    }
    Answer::read(&packet, query).ok()
}

async fn by_udp(way: Way<'_>, query: &Query, edns: bool) -> io::Result<Vec<u8>> {
    let any: IpAddr = match way.server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel chooses a random port, and lets nobody but the server in.
    let socket = way.make(|| std::net::UdpSocket::bind((any, 0)))?;
    socket.connect(way.server)?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    let id = random()?;
    socket.send(&query.onward(id, edns)).await?;
    for _ in 0..STRAY {
        socket.readable().await?;
        let mut packet = vec![0; DATAGRAM];
        match socket.try_recv(&mut packet) {
            Ok(length) if belongs(&packet[..length], id, query) => {
                packet.truncate(length);
                return Ok(packet);
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn by_tcp(way: Way<'_>, query: &Query, edns: bool) -> io::Result<Vec<u8>> {
    let socket = way.make(|| match way.server {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    })?;
    let mut stream = socket.connect(way.server).await?;
    let id = random()?;
    let packet = query.onward(id, edns);
    let length = u16::try_from(packet.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], &packet].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    if belongs(&packet, id, query) { Ok(packet) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A number that nobody can guess.
fn random() -> io::Result<u16> {
    let mut bytes = [0u8; 2];
    // SAFETY: `bytes` has room for its own length.
    let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if length != 2 {
        return Err(io::Error::last_os_error());
    }
    Ok(u16::from_ne_bytes(bytes))
}
