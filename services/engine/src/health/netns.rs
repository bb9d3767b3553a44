//! Connections from inside a container's network, without a process in it.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use gantry_core::{Error, Result};
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Bytes of the stack of a thread that makes a socket.
const STACK: usize = 128 << 10;

/// Connects to the first of these addresses that takes it, from inside the network of the
/// process whose directory of /proc this is.
///
/// # Errors
/// Why the last of them did not.
pub(super) async fn connect(process: &Arc<File>, addresses: &[SocketAddr]) -> Result<TcpStream> {
    let mut failure = Error::invalid_argument("there is no address to connect to");
    for address in addresses {
        let socket = socket(Arc::clone(process), address.is_ipv6()).await?;
        match socket {
            // It stays in the network that it was made in, whoever uses it.
            Ok(socket) => match socket.connect(*address).await {
                Ok(stream) => return Ok(stream),
                Err(err) => failure = Error::io(format!("connect to {address}"), err),
            },
            Err(err) => failure = Error::io(format!("connect to {address}"), err),
        }
    }
    Err(failure)
}

/// A socket in that network, made by a thread that enters it and then ends: no other
/// thread of this process is ever there. The inner error is that of the socket alone.
async fn socket(process: Arc<File>, v6: bool) -> Result<std::io::Result<TcpSocket>> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        let made =
            enter(&process).map(|()| if v6 { TcpSocket::new_v6() } else { TcpSocket::new_v4() });
        // Who asked may have given up.
        let _ = tell.send(made);
    };
    thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|err| Error::io("start a thread for a health check", err))?;
    told.await.map_err(|_| Error::internal("the thread of a health check failed"))?
}

/// Moves this thread into the network of a process.
fn enter(process: &File) -> Result<()> {
    let failed = |err: nix::Error| Error::io("enter the container's network", err.into());
    let network = openat(process, "ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed)?;
    setns(&network, CloneFlags::CLONE_NEWNET).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc;

    use nix::sched::unshare;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Whether this process may enter networks.
    fn allowed() -> bool {
        std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
    }

    /// The directory of a thread in a network of its own, and what ends it.
    fn elsewhere() -> (Arc<File>, mpsc::Sender<()>) {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(File::open("/proc/thread-self").unwrap()).unwrap();
            let _ = ended.recv();
        });
        (Arc::new(told.recv().unwrap()), end)
    }

    #[tokio::test]
    async fn sockets_belong_to_the_network_of_the_process() {
        if !allowed() {
            return;
        }
        let (process, _end) = elsewhere();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Loopback is up here, and down in a new network.
        let err = connect(&process, &[listener.local_addr().unwrap()]).await.unwrap_err();
        assert!(err.to_string().contains("unreachable"), "{err}");
        let own = Arc::new(File::open("/proc/self").unwrap());
        connect(&own, &[listener.local_addr().unwrap()]).await.unwrap();
    }

    #[tokio::test]
    async fn the_first_that_answers_counts() {
        if !allowed() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        thread::spawn(move || listener.accept().unwrap().0.write_all(b"in").unwrap());
        let process = Arc::new(File::open("/proc/self").unwrap());
        let mut stream = connect(&process, &[dead, address]).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "in");
        let err = connect(&process, &[dead]).await.unwrap_err();
        assert_eq!(err.kind(), gantry_core::Kind::Unavailable, "{err}");
    }

    #[tokio::test]
    async fn a_process_that_has_ended_has_no_network() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Arc::new(File::open(format!("/proc/{}", child.id())).unwrap());
        child.wait().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let err = connect(&process, &[address]).await.unwrap_err();
        assert!(err.to_string().contains("enter the container's network"), "{err}");
    }
}
