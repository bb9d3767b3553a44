//! Servers and clients in network namespaces, so that it shows who is reached, and as whom.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Namespace;

/// How long a client waits: who is not there is often silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server in a namespace that tells its name and who asks, `NAME ADDRESS`. On TCP it then sends
/// back what it gets. It ends when it is dropped; connections stay.
pub struct Server {
    over: Arc<AtomicBool>,
    /// What wakes the thread that waits for clients.
    wake: Option<OwnedFd>,
}

impl Server {
    /// One on TCP, on all addresses.
    pub fn tcp(at: &Namespace, port: u16, name: &str) -> Self {
        Self::tcp_on(at, &any(port), name)
    }

    /// One on TCP on the first of these addresses that can be had.
    pub fn tcp_on(at: &Namespace, addresses: &[SocketAddr], name: &str) -> Self {
        let listener = at.inside(|| TcpListener::bind(addresses).expect("listen"));
        let wake = OwnedFd::from(listener.try_clone().expect("share a listener"));
        let over = Arc::new(AtomicBool::new(false));
        let (ended, name) = (Arc::clone(&over), name.to_owned());
        thread::spawn(move || {
            while let Ok((client, peer)) = listener.accept() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let greeting = greeting(&name, peer);
                // The client may go at any time.
                thread::spawn(move || drop(echo(client, &greeting)));
            }
        });
        Self { over, wake: Some(wake) }
    }

    /// One on UDP, on all addresses.
    pub fn udp(at: &Namespace, port: u16, name: &str) -> Self {
        let socket = at.inside(|| UdpSocket::bind(&any(port)[..]).expect("bind"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set a timeout");
        let over = Arc::new(AtomicBool::new(false));
        let (ended, name) = (Arc::clone(&over), name.to_owned());
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !ended.load(Ordering::SeqCst) {
                if let Ok((_, peer)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(greeting(&name, peer).as_bytes(), peer);
                }
            }
        });
        Self { over, wake: None }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(wake) = self.wake.take() {
            // It is a listener, which ends as a stream does.
            let _ = TcpStream::from(wake).shutdown(Shutdown::Both);
        }
    }
}

/// All addresses of both kinds; of one kind where the kernel has no other.
fn any(port: u16) -> [SocketAddr; 2] {
    [(IpAddr::from([0u16; 8]), port).into(), (IpAddr::from([0u8; 4]), port).into()]
}

fn greeting(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}\n", peer.ip().to_canonical())
}

fn echo(mut client: TcpStream, greeting: &str) -> io::Result<()> {
    client.write_all(greeting.as_bytes())?;
    let mut from = client.try_clone()?;
    io::copy(&mut from, &mut client).map(drop)
}

/// A connection to a [`Server`].
pub struct Client {
    stream: BufReader<TcpStream>,
    /// What the server said first: its name, and as whom it sees the client.
    pub greeting: String,
}

impl Client {
    /// Connects from a namespace.
    ///
    /// # Errors
    /// Why it can't.
    pub fn connect(from: &Namespace, to: SocketAddr) -> io::Result<Self> {
        let stream = from.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let greeting = line(&mut stream)?;
        Ok(Self { stream, greeting })
    }

    /// Sends a line and waits until it is back.
    ///
    /// # Errors
    /// Why it does not come back.
    pub fn echo(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes())?;
        match line(&mut self.stream)? {
            back if back == text => Ok(()),
            other => Err(io::Error::other(format!("{other:?} came back"))),
        }
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// What a server says on TCP.
///
/// # Errors
/// Why it does not.
pub fn ask_tcp(from: &Namespace, to: SocketAddr) -> io::Result<String> {
    Client::connect(from, to).map(|client| client.greeting)
}

/// What a server says on UDP.
///
/// # Errors
/// Why it does not.
pub fn ask_udp(from: &Namespace, to: SocketAddr) -> io::Result<String> {
    let own = any(0)[usize::from(to.is_ipv4())];
    let bind = || UdpSocket::bind(own).and_then(|socket| socket.connect(to).map(|()| socket));
    let socket = from.inside(bind)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut datagram = [0; 2048];
    socket.send(b"who?")?;
    let length = socket.recv(&mut datagram)?;
    Ok(String::from_utf8_lossy(&datagram[..length]).trim_end().to_owned())
}

/// What an HTTP server answers, headers included.
///
/// # Errors
/// Why it does not.
pub fn get(from: &Namespace, to: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = from.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}
