//! The attach socket of one process: fans its output out to any number of
//! clients, takes their input, and tells them the exit status.
//!
//! A client that reads slower than the process writes holds the process back
//! once `QUEUE` bytes wait for it; nothing is ever dropped for it.

pub mod frame;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::error::{self, Error};
use crate::log::Stream;
use crate::stdio::Input;

/// Bytes that may wait for one client before the process is held back.
const QUEUE: usize = 1024 * 1024;

/// The listening socket and everyone connected to it.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    listener: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    /// Who is connected; held for moments only, never across an await.
    clients: Mutex<Vec<Arc<Client>>>,
    exit: watch::Sender<Option<i32>>,
    input: Arc<Input>,
}

#[derive(Debug, Default)]
struct Client {
    /// What is still to be sent; held for moments only, never across an await.
    queue: Mutex<Queue>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    gone: bool,
}

impl Server {
    /// Listens on `path`, which is replaced if it exists. `tracker` counts the
    /// clients, so that the shim can let them finish before it exits.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(path: &Path, input: Arc<Input>, tracker: &TaskTracker) -> Result<Self, Error> {
        let failed = |e: io::Error| {
            error::io(format!("listen for attached clients on {}", path.display()), e)
        };
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let shared = Arc::new(Shared {
            clients: Mutex::new(Vec::new()),
            exit: watch::Sender::new(None),
            input,
        });
        let accept = tokio::spawn(accept(listener, shared.clone(), tracker.clone()));
        Ok(Self { path: path.to_owned(), shared, listener: accept.abort_handle() })
    }

    /// Hands output to every client, waiting for those that are full.
    pub async fn broadcast(&self, stream: Stream, bytes: &[u8]) {
        let clients = self.shared.clients().clone();
        if clients.is_empty() {
            return;
        }
        let frame = frame::output(stream, bytes);
        for client in clients {
            client.push(frame.clone()).await;
        }
    }

    /// Whether anybody looks on.
    pub fn is_watched(&self) -> bool {
        !self.shared.clients().is_empty()
    }

    /// Hands a short text to every client, also to those that are full.
    pub fn announce(&self, text: &str) {
        let frame = frame::output(Stream::Stderr, text.as_bytes());
        for client in self.shared.clients().iter() {
            client.add(&mut client.queue(), frame.clone());
        }
    }

    /// Announces the end: clients of now and later get the exit status behind
    /// the output that waits for them, and are disconnected.
    pub fn finish(&self, status: i32) {
        self.shared.exit.send_replace(Some(status));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.abort();
        let _ = fs::remove_file(&self.path);
    }
}

impl Shared {
    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, client: &Arc<Client>) {
        client.queue().gone = true;
        client.emptied.notify_waiters();
        client.filled.notify_one();
        self.clients().retain(|c| !Arc::ptr_eq(c, client));
    }
}

impl Client {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn push(&self, frame: Bytes) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut queue = self.queue();
                if queue.gone {
                    return;
                }
                if queue.bytes < QUEUE {
                    return self.add(&mut queue, frame);
                }
            }
            emptied.await;
        }
    }

    fn add(&self, queue: &mut Queue, frame: Bytes) {
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        self.filled.notify_one();
    }

    /// The next frame; the room it took is given back by [`Client::sent`].
    fn pop(&self) -> Option<Bytes> {
        self.queue().frames.pop_front()
    }

    fn sent(&self, bytes: usize) {
        self.queue().bytes -= bytes;
        self.emptied.notify_waiters();
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, tracker: TaskTracker) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those who are connected go first.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let client = Arc::new(Client::default());
        shared.clients().push(client.clone());
        tracker.spawn(serve(stream, client, shared.clone()));
    }
}

async fn serve(stream: UnixStream, client: Arc<Client>, shared: Arc<Shared>) {
    let (reader, writer) = stream.into_split();
    tokio::select! {
        () = read(reader, &shared.input) => {}
        _ = write(writer, &client, shared.exit.subscribe()) => {}
    }
    shared.forget(&client);
}

/// Takes a client's frames until it goes or breaks the protocol.
async fn read(mut reader: OwnedReadHalf, input: &Input) {
    let mut buffer = BytesMut::new();
    loop {
        loop {
            match frame::decode(&mut buffer) {
                Ok(Some(frame::Request::Stdin(bytes))) => input.write(&bytes).await,
                Ok(Some(frame::Request::StdinEnd)) => input.close(),
                Ok(Some(frame::Request::Resize { width, height })) => input.resize(width, height),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        if buffer.is_empty() {
            // An idle client costs no buffer.
            buffer = BytesMut::new();
            if reader.readable().await.is_err() {
                return;
            }
        }
        if matches!(reader.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
            return;
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    client: &Client,
    mut exit: watch::Receiver<Option<i32>>,
) -> io::Result<()> {
    loop {
        // Looked at before the queue: output precedes the exit.
        let status = *exit.borrow_and_update();
        while let Some(frame) = client.pop() {
            let written = writer.write_all(&frame).await;
            client.sent(frame.len());
            written?;
        }
        if let Some(status) = status {
            writer.write_all(&frame::exit(status)).await?;
            return writer.shutdown().await;
        }
        tokio::select! {
            () = client.filled.notified() => {}
            _ = exit.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn next(stream: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        stream.read_exact(&mut header).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some((header[0], payload))
    }

    async fn connected(server: &Server, n: usize) {
        while server.shared.clients().len() != n {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn all_clients_get_all_output_then_the_exit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let server = Server::bind(&path, Arc::new(Input::none()), &TaskTracker::new()).unwrap();
        let mut a = UnixStream::connect(&path).await.unwrap();
        let mut b = UnixStream::connect(&path).await.unwrap();
        connected(&server, 2).await;
        server.broadcast(Stream::Stdout, b"out").await;
        server.broadcast(Stream::Stderr, b"err").await;
        server.finish(7);
        for client in [&mut a, &mut b] {
            assert_eq!(next(client).await, Some((1, b"out".to_vec())));
            assert_eq!(next(client).await, Some((2, b"err".to_vec())));
            assert_eq!(next(client).await, Some((5, vec![0, 0, 0, 7])));
            assert_eq!(next(client).await, None);
        }
        let mut late = UnixStream::connect(&path).await.unwrap();
        assert_eq!(next(&mut late).await, Some((5, vec![0, 0, 0, 7])));
    }

    #[tokio::test]
    async fn a_slow_client_holds_output_back_and_a_leaving_one_lets_it_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let server = Server::bind(&path, Arc::new(Input::none()), &TaskTracker::new()).unwrap();
        let client = UnixStream::connect(&path).await.unwrap();
        connected(&server, 1).await;
        let block = vec![b'x'; 64 * 1024];
        let flood = async {
            for _ in 0..64 {
                server.broadcast(Stream::Stdout, &block).await;
            }
        };
        tokio::pin!(flood);
        let held = tokio::time::timeout(Duration::from_millis(200), &mut flood).await;
        assert!(held.is_err(), "4 MiB went to a client that reads nothing");
        drop(client);
        flood.await;
    }

    #[tokio::test]
    async fn two_clients_write_and_a_broken_one_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (mut stdin, theirs) = std::io::pipe().unwrap();
        let input = Arc::new(Input::pipe(theirs.into()).unwrap());
        let _server = Server::bind(&path, input, &TaskTracker::new()).unwrap();
        let mut broken = UnixStream::connect(&path).await.unwrap();
        broken.write_all(&[77, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(broken.read(&mut [0]).await.unwrap(), 0);
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(&[0, 0, 0, 0, 2, b'h', b'i', 3, 0, 0, 0, 0]).await.unwrap();
        let text =
            tokio::task::spawn_blocking(move || std::io::read_to_string(&mut stdin)).await.unwrap();
        assert_eq!(text.unwrap(), "hi");
    }
}
