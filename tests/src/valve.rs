//! Connections that are held up in the middle.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// Bytes that are passed on at a time.
const PIECE: usize = 16 << 10;

/// Passes connections on to a server. Once it has sent so many bytes, what it sends is held up,
/// until the valve is opened. What clients send always passes.
pub struct Valve {
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send + Sync>,
    host: String,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that may still pass.
    left: u64,
    connections: u64,
    /// Connections that something is held up for, and those whose client has gone.
    held: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    /// The valve itself has gone.
    over: bool,
}

/// One end of a connection.
trait End: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn end(&self);
}

impl End for TcpStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl End for UnixStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Valve {
    /// In front of a server at `HOST:PORT`; lets so many bytes pass.
    pub fn of_host(server: &str, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let shared = Shared::new(bytes);
        let server = server.to_owned();
        let accept = move || listener.accept().map(|(client, _)| client);
        serve(&shared, accept, move || TcpStream::connect(&server));
        let wake = Box::new(move || drop(TcpStream::connect(address)));
        Self { shared, wake, host: address.to_string() }
    }

    /// An open one in front of a server at `HOST:PORT`, with a listener that may be in another
    /// network. Connections to the server are made from here.
    pub fn of_listener(listener: TcpListener, server: &str) -> Self {
        let host = listener.local_addr().expect("an address").to_string();
        let twin = OwnedFd::from(listener.try_clone().expect("share a listener"));
        let shared = Shared::new(u64::MAX);
        let server = server.to_owned();
        let accept = move || listener.accept().map(|(client, _)| client);
        serve(&shared, accept, move || TcpStream::connect(&server));
        // Who waits for a client of a socket that is shut down gets an error.
        let wake = Box::new(move || TcpStream::from(twin.try_clone().expect("share")).end());
        Self { shared, wake, host }
    }

    /// In front of a server at a socket, listens at another one; lets so many bytes pass.
    pub fn of_socket(server: &Path, at: &Path, bytes: u64) -> Self {
        let listener = UnixListener::bind(at).expect("listen");
        let shared = Shared::new(bytes);
        let (server, at): (PathBuf, PathBuf) = (server.to_owned(), at.to_owned());
        let accept = move || listener.accept().map(|(client, _)| client);
        serve(&shared, accept, move || UnixStream::connect(&server));
        let host = at.display().to_string();
        let wake = Box::new(move || drop(UnixStream::connect(&at)));
        Self { shared, wake, host }
    }

    /// Where it listens: `HOST:PORT`, or the path of its socket.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How many clients wait for something that is held up.
    pub fn held(&self) -> usize {
        let state = self.shared.lock();
        state.held.difference(&state.gone).count()
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.shared.lock().left = u64::MAX;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for Valve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Valve").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        // Who waits for the next connection sees that.
        (self.wake)();
    }
}

impl Shared {
    fn new(bytes: u64) -> Arc<Self> {
        let state = Mutex::new(State { left: bytes, ..State::default() });
        Arc::new(Self { state, changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Waits until so many bytes may pass. `false` when none will.
    fn take(&self, connection: u64, bytes: u64) -> bool {
        let mut state = self.lock();
        loop {
            if state.over || state.gone.contains(&connection) {
                return false;
            }
            if state.left >= bytes {
                state.left -= bytes;
                state.held.remove(&connection);
                return true;
            }
            state.held.insert(connection);
            state = self.changed.wait(state).expect("no panic while held");
        }
    }

    fn gone(&self, connection: u64) {
        self.lock().gone.insert(connection);
        self.changed.notify_all();
    }
}

fn serve<E: End>(
    shared: &Arc<Shared>,
    accept: impl Fn() -> io::Result<E> + Send + 'static,
    connect: impl Fn() -> io::Result<E> + Send + 'static,
) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        while let Ok(client) = accept() {
            let connection = {
                let mut state = shared.lock();
                if state.over {
                    return;
                }
                state.connections += 1;
                state.connections
            };
            let passed = connect().and_then(|server| pass(&shared, connection, &client, &server));
            if passed.is_err() {
                client.end();
            }
        }
    });
}

fn pass<E: End>(shared: &Arc<Shared>, connection: u64, client: &E, server: &E) -> io::Result<()> {
    let (mut from_client, mut to_server) = (client.twin()?, server.twin()?);
    let (mut from_server, mut to_client) = (server.twin()?, client.twin()?);
    let up = Arc::clone(shared);
    thread::spawn(move || {
        // However it ends, the client has nothing more to say.
        let _ = io::copy(&mut from_client, &mut to_server);
        to_server.end();
        up.gone(connection);
    });
    let down = Arc::clone(shared);
    thread::spawn(move || {
        let mut piece = [0; PIECE];
        while let Ok(n @ 1..) = from_server.read(&mut piece) {
            if !down.take(connection, n as u64) || to_client.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        to_client.end();
        from_server.end();
    });
    Ok(())
}
