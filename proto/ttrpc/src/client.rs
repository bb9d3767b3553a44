use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::frame::{self, Broken, Incoming, KeyValue, Reader, RequestHead, Response};
use crate::{Code, NAMESPACE_KEY, Status};

/// What accompanies a call.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Metadata, as keys and values; keys may repeat.
    pub metadata: Vec<(String, String)>,
    /// How long the call may take. Without it, it waits for ever, or until
    /// the connection ends.
    pub timeout: Option<Duration>,
}

impl CallOptions {
    /// Options with a namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        let metadata = vec![(NAMESPACE_KEY.to_owned(), namespace.into())];
        Self { metadata, timeout: None }
    }

    /// The same with a limit of time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A connection to a ttrpc server, for any number of calls at a time.
///
/// Clones share the connection, which closes when the last of them is dropped.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    closed: watch::Receiver<bool>,
}

struct Shared {
    /// Calls and their streams. Numbering a call and queueing its frame happen
    /// under one lock, since servers want streams in ascending order. Held for
    /// neither I/O nor an await.
    calls: Mutex<Calls>,
}

struct Calls {
    /// Number of the next stream; odd.
    next: u32,
    /// Calls that wait for their response.
    pending: HashMap<u32, oneshot::Sender<Result<Bytes, Status>>>,
    /// Frames on their way to the task that writes; `None` once it has ended.
    outgoing: Option<mpsc::UnboundedSender<BytesMut>>,
    /// Why the connection ended.
    ended: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Nothing panics under this lock; if it did, the map would still be whole.
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("closed", &*self.closed.borrow()).finish_non_exhaustive()
    }
}

impl Client {
    /// Speaks ttrpc over a connected stream. Needs a tokio runtime, of either
    /// kind, in which a task is spawned for the connection.
    pub fn new<T>(io: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (outgoing, frames) = mpsc::unbounded_channel();
        let calls = Calls {
            next: 1,
            pending: HashMap::new(),
            outgoing: Some(outgoing),
            ended: String::new(),
        };
        let shared = Arc::new(Shared { calls: Mutex::new(calls) });
        let (closing, closed) = watch::channel(false);
        // The task must not keep the client alive, or the queue would never end.
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let deliver = |stream, result| {
                let Some(shared) = weak.upgrade() else { return };
                let waiting = shared.lock().pending.remove(&stream);
                if let Some(waiting) = waiting {
                    // The caller may have gone.
                    let _ = waiting.send(result);
                }
            };
            let ended = match drive(io, frames, deliver).await {
                Ok(()) => "ttrpc connection: the peer closed it".to_owned(),
                Err(broken) => broken.to_string(),
            };
            if let Some(shared) = weak.upgrade() {
                let pending = {
                    let mut calls = shared.lock();
                    calls.outgoing = None;
                    calls.ended.clone_from(&ended);
                    std::mem::take(&mut calls.pending)
                };
                for waiting in pending.into_values() {
                    let _ = waiting.send(Err(unavailable(&ended)));
                }
            }
            let _ = closing.send(true);
        });
        Self { shared, closed }
    }

    /// Calls a method and waits for its response.
    ///
    /// # Errors
    /// What the server answered; `Unavailable` when the connection has ended or
    /// ends before the response; `DeadlineExceeded` after the timeout;
    /// `ResourceExhausted` for a message over [`frame::MAX_MESSAGE`];
    /// `Internal` for a response that is malformed.
    pub async fn call<Req: Message, Resp: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &Req,
        options: &CallOptions,
    ) -> Result<Resp, Status> {
        let head = RequestHead {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: options
                .timeout
                .map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX)),
            metadata: options
                .metadata
                .iter()
                .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
                .collect(),
        };
        let waiting = self.send(frame::request(&head, request)?)?;
        let payload = match options.timeout {
            None => waiting.response().await,
            Some(timeout) => match tokio::time::timeout(timeout, waiting.response()).await {
                Ok(result) => result,
                Err(_) => Err(Status::new(
                    Code::DEADLINE_EXCEEDED,
                    format!("call {service}/{method}: no answer in {timeout:?}: deadline exceeded"),
                )),
            },
        }?;
        Resp::decode(payload).map_err(|e| {
            Status::new(Code::INTERNAL, format!("call {service}/{method}: read the answer: {e}"))
        })
    }

    /// Returns when the connection has ended, at once if it has already.
    pub async fn closed(&self) {
        // An error means that the task has ended without saying so.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.closed.has_changed().is_err()
    }

    fn send(&self, mut frame: BytesMut) -> Result<Waiting<'_>, Status> {
        let mut calls = self.shared.lock();
        let stream = calls.next;
        let Some(outgoing) = &calls.outgoing else {
            return Err(unavailable(&calls.ended));
        };
        let Some(next) = stream.checked_add(2) else {
            return Err(unavailable("ttrpc connection: all streams are used, connect again"));
        };
        frame::set_stream(&mut frame, stream);
        if outgoing.send(frame).is_err() {
            return Err(unavailable("ttrpc connection: it is about to close"));
        }
        let (sender, receiver) = oneshot::channel();
        calls.next = next;
        calls.pending.insert(stream, sender);
        Ok(Waiting { shared: &self.shared, stream, receiver })
    }
}

fn unavailable(why: &str) -> Status {
    Status::unavailable(format!("{why}: unavailable"))
}

/// A call that was sent. Dropping it forgets the call.
struct Waiting<'a> {
    shared: &'a Shared,
    stream: u32,
    receiver: oneshot::Receiver<Result<Bytes, Status>>,
}

impl Waiting<'_> {
    async fn response(mut self) -> Result<Bytes, Status> {
        match (&mut self.receiver).await {
            Ok(result) => result,
            Err(_) => Err(unavailable("ttrpc connection: its task has ended")),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().pending.remove(&self.stream);
    }
}

/// Writes frames and hands on responses until either side ends.
async fn drive<T: AsyncRead + AsyncWrite>(
    io: T,
    mut frames: mpsc::UnboundedReceiver<BytesMut>,
    deliver: impl Fn(u32, Result<Bytes, Status>),
) -> Result<(), Broken> {
    let (reading, mut writing) = tokio::io::split(io);
    let mut reader = Reader::new(reading);
    let mut current = BytesMut::new();
    loop {
        tokio::select! {
            found = reader.next() => match found? {
                None => return Ok(()),
                Some(Incoming::TooLarge(h)) => {
                    deliver(h.stream, Err(frame::too_large(h.length as usize)));
                }
                Some(Incoming::Message(h, body)) if h.kind == frame::RESPONSE => {
                    deliver(h.stream, result_of(body));
                }
                Some(Incoming::Message(h, _)) => deliver(
                    h.stream,
                    Err(Status::new(Code::UNIMPLEMENTED, "the server answered with a stream")),
                ),
            },
            written = writing.write_buf(&mut current), if !current.is_empty() => {
                if written? == 0 {
                    return Err(Broken::Io(std::io::ErrorKind::WriteZero.into()));
                }
            }
            frame = frames.recv(), if current.is_empty() => match frame {
                Some(frame) => current = frame,
                // The last client is gone.
                None => return Ok(()),
            },
        }
    }
}

fn result_of(body: Bytes) -> Result<Bytes, Status> {
    let response = Response::decode(body)
        .map_err(|e| Status::new(Code::INTERNAL, format!("read a ttrpc response: {e}")))?;
    match response.status {
        Some(status) if status.code != Code::OK.0 => {
            Err(Status::new(Code(status.code), status.message))
        }
        _ => Ok(response.payload),
    }
}
