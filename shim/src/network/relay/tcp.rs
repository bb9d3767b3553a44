//! Connections, carried by splice(2): bytes don't pass through the process, and
//! an idle connection costs no buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};

use super::Carrying;
use crate::network::{PAUSE, spawn};

/// How long the container may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// Seconds after which a silent peer is asked whether it still lives.
const KEEP_ALIVE: u32 = 60;
/// Bytes moved at once: what a pipe has room for.
const CHUNK: usize = 64 * 1024;
/// Empty pipes that are kept for the next one.
const SPARE_PIPES: usize = 8;

/// Pipes that bytes go through. A connection has one only while bytes are under way.
#[derive(Debug, Default)]
pub(super) struct Pipes(RefCell<Vec<Pipe>>);

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Pipe { reader, writer })
    }

    /// Takes an empty pipe back.
    fn give(&self, pipe: Pipe) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_PIPES {
            spare.push(pipe);
        }
    }
}

/// Accepts connections and carries them to the target.
pub(super) async fn accept(
    listener: TcpListener,
    target: Rc<Cell<SocketAddr>>,
    carrying: Rc<Carrying>,
) {
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            // Out of descriptors: others end first.
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Beyond the bound clients wait in the listener's queue.
        let Ok(room) = carrying.connections.clone().acquire_owned().await else { return };
        let (target, shared) = (target.get(), carrying.clone());
        // It outlives the relay.
        spawn(&carrying.closed, async move {
            carry(client, target, &shared).await;
            drop(room);
        });
    }
}

async fn carry(client: TcpStream, target: SocketAddr, carrying: &Carrying) {
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await;
    let Ok(Ok(server)) = connected else {
        // As the container itself would refuse it.
        let _ = client.set_zero_linger();
        return;
    };
    for stream in [&client, &server] {
        // Without them it works as well, but for delays and peers that vanish.
        let _ = stream.set_nodelay(true);
        let _ = setsockopt(stream, sockopt::KeepAlive, &true);
        let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE);
    }
    let pipes = &carrying.pipes;
    let carried = tokio::try_join!(half(&client, &server, pipes), half(&server, &client, pipes));
    if carried.is_err() {
        // Who is left learns of it as if there were one connection.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Carries one direction to its end.
async fn half(from: &TcpStream, to: &TcpStream, pipes: &Pipes) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take()?;
        let taken = from.try_io(Interest::READABLE, || move_bytes(from, &pipe.writer, CHUNK));
        let mut waiting = match taken {
            Ok(0) => {
                pipes.give(pipe);
                // It may have closed both already.
                let _ = shutdown(to.as_raw_fd(), Shutdown::Write);
                return Ok(());
            }
            Ok(taken) => taken,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                pipes.give(pipe);
                continue;
            }
            Err(e) => return Err(e),
        };
        while waiting > 0 {
            let given =
                to.async_io(Interest::WRITABLE, || move_bytes(&pipe.reader, to, waiting)).await?;
            if given == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            waiting -= given;
        }
        pipes.give(pipe);
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from.as_fd(), None, to.as_fd(), None, length, flags) {
            Err(nix::Error::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
