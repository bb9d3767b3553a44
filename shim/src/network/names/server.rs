//! DNS over the sockets in the container's network namespace.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore};

use super::{Reply, Resolver, Transport};
use crate::network::{PAUSE, spawn};

/// Longest query.
const QUERY: usize = 4096;
/// So many are taken before others have their turn.
const BURST: usize = 64;
/// Connections at once: the next one is closed at once.
const CONNECTIONS: usize = 64;
/// Queries of one connection that are under way.
const PIPELINED: usize = 16;
/// How long a connection may be silent, or not take its answers.
const SILENCE: Duration = Duration::from_secs(10);

/// Answers datagrams.
pub(crate) async fn udp(socket: UdpSocket, resolver: Rc<Resolver>) {
    let socket = Rc::new(socket);
    while socket.readable().await.is_ok() {
        if burst(&socket, &resolver) {
            // To wait for a socket that has more lets nobody else go on.
            tokio::task::yield_now().await;
        }
    }
}

/// Answers what is there, a burst at most; whether there may be more.
fn burst(socket: &Rc<UdpSocket>, resolver: &Rc<Resolver>) -> bool {
    let mut buffer = vec![0; QUERY];
    for _ in 0..BURST {
        match socket.try_recv_from(&mut buffer) {
            Ok((length, client)) => datagram(socket, resolver, &buffer[..length], client),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            // A client that has left is told of here, too.
            Err(_) => {}
        }
    }
    true
}

fn datagram(socket: &Rc<UdpSocket>, resolver: &Rc<Resolver>, packet: &[u8], client: SocketAddr) {
    let (query, servers) = match resolver.consider(packet, Transport::Udp) {
        Reply::Nothing => return,
        Reply::Now(bytes) => {
            // What the client does not take it asks for again.
            let _ = socket.try_send_to(&bytes, client);
            return;
        }
        Reply::Ask(query, servers) => (query, servers),
    };
    let Ok(room) = resolver.waiting.clone().try_acquire_owned() else {
        let _ = socket.try_send_to(&query.failure(ResponseCode::ServFail), client);
        return;
    };
    let (socket, asked) = (socket.clone(), resolver.clone());
    spawn(&resolver.closed, async move {
        let bytes = asked.ask(&query, servers, Transport::Udp).await;
        let _ = socket.try_send_to(&bytes, client);
        drop(room);
    });
}

/// Answers connections (RFC 7766).
pub(crate) async fn tcp(listener: TcpListener, resolver: Rc<Resolver>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let asked = resolver.clone();
        spawn(&resolver.closed, async move {
            // It ends however it ends.
            let _ = connection(stream, asked).await;
            drop(permit);
        });
    }
}

/// Answers queries as answers come, until the client has none left.
async fn connection(stream: TcpStream, resolver: Rc<Resolver>) -> io::Result<()> {
    let (mut reader, writer) = stream.into_split();
    let writer = Rc::new(Mutex::new(writer));
    let pipelined = Arc::new(Semaphore::new(PIPELINED));
    loop {
        let length = tokio::time::timeout(SILENCE, reader.read_u16()).await??;
        let mut packet = vec![0; usize::from(length)];
        if packet.len() > QUERY {
            return Ok(());
        }
        tokio::time::timeout(SILENCE, reader.read_exact(&mut packet)).await??;
        let Ok(permit) = pipelined.clone().acquire_owned().await else { return Ok(()) };
        let (query, servers) = match resolver.consider(&packet, Transport::Tcp) {
            Reply::Nothing => return Ok(()),
            Reply::Now(bytes) => {
                write(&writer, &bytes).await?;
                continue;
            }
            Reply::Ask(query, servers) => (query, servers),
        };
        let Ok(room) = resolver.waiting.clone().try_acquire_owned() else {
            write(&writer, &query.failure(ResponseCode::ServFail)).await?;
            continue;
        };
        let (writer, asked) = (writer.clone(), resolver.clone());
        // The connection stays for it although the client may have ended its side.
        spawn(&resolver.closed, async move {
            let bytes = asked.ask(&query, servers, Transport::Tcp).await;
            let _ = write(&writer, &bytes).await;
            drop((permit, room));
        });
    }
}

/// Writes one answer, with its length in front.
async fn write(writer: &Mutex<OwnedWriteHalf>, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    let written = async { writer.lock().await.write_all(&framed).await };
    tokio::time::timeout(SILENCE, written).await?
}
