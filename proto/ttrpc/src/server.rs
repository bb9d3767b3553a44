use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::frame::{self, Broken, Header, Incoming, Reader, Request};
use crate::{Code, NAMESPACE_KEY, Status};

/// Calls that one connection may have at a time.
const MAX_CALLS: usize = 1024;

/// Bytes of responses that may wait for a slow peer before its requests wait.
const MAX_QUEUED: usize = 2 * frame::MAX_MESSAGE;

/// How long a server that is told to stop lets calls finish.
const GRACE: Duration = Duration::from_millis(500);

/// What is known of a call beside its request.
#[derive(Clone, Debug)]
pub struct Context {
    /// Metadata, as keys and values; keys may repeat.
    pub metadata: Vec<(String, String)>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    gone: watch::Receiver<bool>,
}

impl Context {
    /// A context of a call that no connection brought, for tests and for
    /// calls within the process.
    pub fn local(metadata: Vec<(String, String)>) -> Self {
        Self { metadata, deadline: None, gone: watch::channel(false).1 }
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The namespace that the caller named.
    pub fn namespace(&self) -> Option<&str> {
        self.get(NAMESPACE_KEY)
    }

    /// Returns when nobody waits for the answer any more: the deadline has
    /// passed or the connection has ended. Never returns for a local call.
    pub async fn cancelled(&self) {
        let mut gone = self.gone.clone();
        let gone = async move {
            if gone.wait_for(|gone| *gone).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match self.deadline {
            None => gone.await,
            Some(deadline) => {
                // Either way nobody waits.
                let _ = tokio::time::timeout_at(deadline, gone).await;
            }
        }
    }
}

/// A call as it reaches a [`Service`].
#[derive(Clone, Debug)]
pub struct Call {
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// The request message, encoded.
    pub payload: Bytes,
    /// What is known beside it.
    pub context: Context,
}

impl Call {
    /// The request message.
    ///
    /// # Errors
    /// `InvalidArgument` when it is malformed.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Status> {
        M::decode(self.payload.clone()).map_err(|e| {
            Status::invalid_argument(format!(
                "read the request of {}/{}: {e}: invalid argument",
                self.service, self.method
            ))
        })
    }
}

/// A response message, encoded in the frame that will carry it.
#[derive(Clone, Debug)]
pub struct Reply(BytesMut);

impl Reply {
    /// Encodes a response.
    ///
    /// # Errors
    /// `ResourceExhausted` when it is over [`frame::MAX_MESSAGE`].
    pub fn new(message: &impl Message) -> Result<Self, Status> {
        frame::response(message).map(Self)
    }
}

/// Something that answers calls: usually a generated `…Server`, or several of
/// them as a tuple.
///
/// Futures may or may not be `Send`: [`serve_connection`] is `Send` exactly if
/// they are, so one implementation serves a single-threaded shim and a
/// multi-threaded daemon.
pub trait Service {
    /// Whether this is the full name of a service that is served here.
    fn serves(&self, service: &str) -> bool;

    /// Answers a call.
    ///
    /// A call is never dropped half-way. If its deadline passes or the peer
    /// goes, the peer is told or forgotten, and the call runs to its end; one
    /// that waits for something should watch [`Context::cancelled`].
    fn call(&self, call: Call) -> impl Future<Output = Result<Reply, Status>>;
}

impl<S: Service> Service for &S {
    fn serves(&self, service: &str) -> bool {
        (**self).serves(service)
    }

    fn call(&self, call: Call) -> impl Future<Output = Result<Reply, Status>> {
        (**self).call(call)
    }
}

impl<A: Service, B: Service> Service for (A, B) {
    fn serves(&self, service: &str) -> bool {
        self.0.serves(service) || self.1.serves(service)
    }

    async fn call(&self, call: Call) -> Result<Reply, Status> {
        if self.0.serves(&call.service) { self.0.call(call).await } else { self.1.call(call).await }
    }
}

/// Accepts connections and serves them, all within this future, until `stop`
/// resolves. Then no more requests are read, and calls get half a second to
/// finish and be answered.
///
/// # Errors
/// When accepting fails for a reason that will not pass. Failures of single
/// connections end these connections only.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: S,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let mut connections = FuturesUnordered::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((io, _)) => connections.push(connection(io, &service, stopped.clone())),
                Err(e) if passes(&e) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(e) => return Err(e),
            },
            Some(_) = connections.next() => {}
        }
    }
    let _ = stopping.send(true);
    while connections.next().await.is_some() {}
    Ok(())
}

/// Whether accepting may work again soon: the peer went away, or too many
/// files are open.
fn passes(e: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
        || matches!(e.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Serves one connection until the peer closes it and the last call has
/// finished.
///
/// # Errors
/// When reading or writing fails, or the peer does not speak ttrpc.
pub async fn serve_connection<T, S>(io: T, service: S) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite,
    S: Service,
{
    // Stays as it is, since nobody holds the other end.
    let (_running, stop) = watch::channel(false);
    connection(io, &service, stop).await
}

async fn connection<T, S>(io: T, service: &S, stop: watch::Receiver<bool>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite,
    S: Service,
{
    let (going, gone) = watch::channel(false);
    let (replies, queue) = mpsc::unbounded_channel();
    let mut calls = FuturesUnordered::new();
    let mut last = 0;
    // Decides what becomes of a message: a call to run, or a frame to send.
    let mut receive = |incoming| {
        let (header, call) = match incoming {
            Incoming::TooLarge(header) => (header, Err(frame::too_large(header.length as usize))),
            Incoming::Message(header, body) => (header, parse(header, body, &mut last, &gone)),
        };
        let call = call.and_then(|call: Call| match service.serves(&call.service) {
            true => Ok(call),
            false => Err(Status::new(
                Code::UNIMPLEMENTED,
                format!("service {} is not served here: not implemented", call.service),
            )),
        });
        call.map(|call| run(service, call, header.stream, replies.clone()))
            .map_err(|status| answer(Err(status), header.stream))
    };
    let mut wire = Wire::new(io, queue, stop);
    let ended = loop {
        tokio::select! {
            event = wire.next() => match event {
                Ok(Some(incoming)) => {
                    let header = incoming.header();
                    let busy = calls.len() >= MAX_CALLS;
                    match receive(incoming) {
                        Ok(_) if busy => wire.queue(answer(Err(too_many()), header.stream)),
                        Ok(call) => calls.push(call),
                        Err(frame) => wire.queue(frame),
                    }
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken.into()),
            },
            Some(()) = calls.next() => {}
        }
    };
    if wire.stopping() {
        let finish = async { while calls.next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, finish).await;
        let _ = tokio::time::timeout(GRACE, wire.flush()).await;
        return ended;
    }
    let _ = going.send(true);
    drop(wire);
    while calls.next().await.is_some() {}
    ended
}

fn too_many() -> Status {
    Status::new(
        Code::RESOURCE_EXHAUSTED,
        format!("{MAX_CALLS} calls are running on this connection: resource exhausted"),
    )
}

/// Makes a call of a message.
fn parse(
    header: Header,
    body: Bytes,
    last: &mut u32,
    gone: &watch::Receiver<bool>,
) -> Result<Call, Status> {
    if header.kind != frame::REQUEST || header.flags != 0 {
        return Err(Status::new(Code::UNIMPLEMENTED, "streaming calls are not served here"));
    }
    if header.stream.is_multiple_of(2) || header.stream <= *last {
        return Err(Status::invalid_argument(format!(
            "stream {} is not odd and above {last}: invalid argument",
            header.stream
        )));
    }
    *last = header.stream;
    let request = Request::decode(body).map_err(|e| {
        Status::invalid_argument(format!("read a ttrpc request: {e}: invalid argument"))
    })?;
    let deadline = u64::try_from(request.timeout_nano)
        .ok()
        .filter(|nanos| *nanos > 0)
        .and_then(|nanos| Instant::now().checked_add(Duration::from_nanos(nanos)));
    let metadata = request.metadata.into_iter().map(|kv| (kv.key, kv.value)).collect();
    Ok(Call {
        service: request.service,
        method: request.method,
        payload: request.payload,
        context: Context { metadata, deadline, gone: gone.clone() },
    })
}

/// Runs a call to its end and answers it once, at its deadline at the latest.
async fn run<S: Service>(
    service: &S,
    call: Call,
    stream: u32,
    replies: mpsc::UnboundedSender<BytesMut>,
) {
    let deadline = call.context.deadline;
    let name = deadline.map(|_| format!("{}/{}", call.service, call.method)).unwrap_or_default();
    let mut answering = pin!(service.call(call));
    let result = match deadline {
        None => answering.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, &mut answering).await {
            // A handler that gave up at the deadline may have any answer.
            Ok(result) if Instant::now() < deadline => result,
            ended => {
                let status = Status::new(
                    Code::DEADLINE_EXCEEDED,
                    format!("call {name}: not done in time: deadline exceeded"),
                );
                // The connection may have ended; the call still runs on.
                let _ = replies.send(answer(Err(status), stream));
                if ended.is_err() {
                    let _ = answering.await;
                }
                return;
            }
        },
    };
    let _ = replies.send(answer(result, stream));
}

fn answer(result: Result<Reply, Status>, stream: u32) -> BytesMut {
    let mut frame = match result {
        Ok(Reply(frame)) => frame,
        Err(status) => frame::failure(&status),
    };
    frame::set_stream(&mut frame, stream);
    frame
}

/// Both directions of a connection.
struct Wire<T> {
    reader: Reader<ReadHalf<T>>,
    writer: WriteHalf<T>,
    /// Answers of calls that have finished.
    replies: mpsc::UnboundedReceiver<BytesMut>,
    /// Frames on their way, the first of them partly written.
    outgoing: VecDeque<BytesMut>,
    /// Bytes in `outgoing`.
    queued: usize,
    stop: watch::Receiver<bool>,
}

impl<T: AsyncRead + AsyncWrite> Wire<T> {
    fn new(io: T, replies: mpsc::UnboundedReceiver<BytesMut>, stop: watch::Receiver<bool>) -> Self {
        let (reading, writer) = tokio::io::split(io);
        Self {
            reader: Reader::new(reading),
            writer,
            replies,
            outgoing: VecDeque::new(),
            queued: 0,
            stop,
        }
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn queue(&mut self, frame: BytesMut) {
        self.queued += frame.len();
        self.outgoing.push_back(frame);
    }

    /// The next message, while answers are written. `None` when the peer has
    /// closed the connection or the server is to stop. May be dropped at any
    /// await.
    async fn next(&mut self) -> Result<Option<Incoming>, Broken> {
        loop {
            let front = self.outgoing.front_mut();
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => return Ok(None),
                // Never ends: the connection holds a sender.
                Some(frame) = self.replies.recv() => self.queue(frame),
                written = write_front(&mut self.writer, front) => {
                    self.written(written?);
                }
                found = self.reader.next(), if self.queued < MAX_QUEUED => return found,
            }
        }
    }

    fn written(&mut self, count: usize) {
        self.queued -= count;
        self.outgoing.pop_front_if(|frame| frame.is_empty());
    }

    /// Writes the answers that are there.
    async fn flush(&mut self) -> io::Result<()> {
        while let Ok(frame) = self.replies.try_recv() {
            self.queue(frame);
        }
        while let Some(front) = self.outgoing.front_mut() {
            let count = write_front(&mut self.writer, Some(front)).await?;
            self.written(count);
        }
        self.writer.flush().await
    }
}

/// Returns when the server is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Without a sender nobody stops it.
        std::future::pending::<()>().await;
    }
}

/// Writes some of a frame; waits for ever if there is none.
async fn write_front(
    writer: &mut (impl AsyncWrite + Unpin),
    front: Option<&mut BytesMut>,
) -> io::Result<usize> {
    let Some(front) = front else { return std::future::pending().await };
    match writer.write_buf(front).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

impl Incoming {
    fn header(&self) -> Header {
        match self {
            Incoming::Message(header, _) | Incoming::TooLarge(header) => *header,
        }
    }
}
