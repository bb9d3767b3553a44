//! How name servers are asked: each query has a number and a port that nobody
//! can guess, datagrams come first, and what does not fit is asked for by TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::answer::{Answer, belongs, is_truncated};
use super::query::Query;

/// How long one server may take, each time that it is asked. With a single one this is
/// shorter than clients wait.
const ROUNDS: [Duration; 2] = [Duration::from_millis(1500), Duration::from_millis(3000)];
/// How long it may take by TCP.
const TCP: Duration = Duration::from_secs(4);
/// How long all of them may take.
const ALL: Duration = Duration::from_secs(10);
/// So many packets may come that answer something else: more are an attack.
const STRAY: usize = 32;
/// Longest datagram that is taken.
const DATAGRAM: usize = 4096;

/// Asks one after the other; gives the answer, and who gave it. Without a final one it is the
/// first that any of them gave.
pub(super) async fn ask(servers: &[SocketAddr], query: &Query) -> Option<(SocketAddr, Answer)> {
    let mut second_best = None;
    let asking = async {
        for patience in ROUNDS {
            for server in servers {
                let Some(answer) = exchange(*server, query, patience).await else { continue };
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
async fn exchange(server: SocketAddr, query: &Query, patience: Duration) -> Option<Answer> {
    let answer = attempt(server, query, patience, true).await?;
    if answer.is_plain_server() {
        // It is too old for EDNS, or there is something in between.
        return attempt(server, query, patience, false).await.or(Some(answer));
    }
    Some(answer)
}

async fn attempt(
    server: SocketAddr,
    query: &Query,
    patience: Duration,
    edns: bool,
) -> Option<Answer> {
    let mut packet =
        tokio::time::timeout(patience, by_udp(server, query, edns)).await.ok()?.ok()?;
    if is_truncated(&packet) {
        packet = tokio::time::timeout(TCP, by_tcp(server, query, edns)).await.ok()?.ok()?;
    }
    Answer::read(&packet, query).ok()
}

async fn by_udp(server: SocketAddr, query: &Query, edns: bool) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel chooses a random port, and lets nobody but the server in.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
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

async fn by_tcp(server: SocketAddr, query: &Query, edns: bool) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
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
