//! Client and server over real sockets, on both kinds of runtime.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_ttrpc::containerd::task::v3::{
    ConnectRequest, ConnectResponse, KillRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, Task, TaskClient, TaskServer, WaitRequest, WaitResponse,
};
use gantry_ttrpc::frame::{HEADER_SIZE, Header, MAX_MESSAGE, REQUEST, RESPONSE};
use gantry_ttrpc::{CallOptions, Client, Code, Context, Status, serve, serve_connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Barrier, Notify, Semaphore};

/// A task service whose methods show what the transport does.
struct Shim {
    /// Kept by `wait` until `kill` has been called.
    killed: Semaphore,
    /// Makes sixteen calls of `start` meet.
    meeting: Barrier,
    /// Calls of `wait` that ran to their end.
    finished: AtomicUsize,
    /// Told by each call of `wait` at its end.
    ended: Notify,
    stop: Notify,
}

impl Shim {
    fn new() -> Self {
        Self {
            killed: Semaphore::new(0),
            meeting: Barrier::new(16),
            finished: AtomicUsize::new(0),
            ended: Notify::new(),
            stop: Notify::new(),
        }
    }
}

impl Task for Shim {
    async fn connect(
        &self,
        context: &Context,
        request: ConnectRequest,
    ) -> Result<ConnectResponse, Status> {
        let version = format!("{} {}", context.namespace().unwrap_or("none"), request.id);
        Ok(ConnectResponse { version, ..Default::default() })
    }

    async fn start(&self, _: &Context, request: StartRequest) -> Result<StartResponse, Status> {
        self.meeting.wait().await;
        let pid = request.id.parse().map_err(|_| Status::invalid_argument("no number"))?;
        Ok(StartResponse { pid })
    }

    async fn state(&self, _: &Context, request: StateRequest) -> Result<StateResponse, Status> {
        match request.id.parse() {
            Ok(size) => Ok(StateResponse { id: "x".repeat(size), ..Default::default() }),
            Err(_) => Err(gantry_core::Error::not_found("container: not found").into()),
        }
    }

    async fn wait(&self, context: &Context, _: WaitRequest) -> Result<WaitResponse, Status> {
        tokio::select! {
            permit = self.killed.acquire() => permit.expect("never closed").forget(),
            () = context.cancelled() => {}
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        self.ended.notify_one();
        Ok(WaitResponse { exit_status: 7, ..Default::default() })
    }

    async fn kill(&self, _: &Context, _: KillRequest) -> Result<(), Status> {
        self.killed.add_permits(1);
        Ok(())
    }

    async fn shutdown(&self, _: &Context, _: ShutdownRequest) -> Result<(), Status> {
        self.stop.notify_one();
        Ok(())
    }
}

/// A shim on a task of its own, and a client of it.
fn connected() -> (Arc<Shim>, TaskClient) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shim = Arc::new(Shim::new());
    tokio::spawn(serve_connection(theirs, TaskServer(shim.clone())));
    (shim, TaskClient::new(Client::new(ours)))
}

fn quick() -> CallOptions {
    CallOptions::default().timeout(Duration::from_secs(20))
}

#[tokio::test(flavor = "current_thread")]
async fn round_trip_with_metadata_under_both_names() {
    let (_shim, v3) = connected();
    let v2 = TaskClient::with_service(v3.connection().clone(), "containerd.task.v2.Task");
    let options = CallOptions::namespace("moby").timeout(Duration::from_secs(20));
    for client in [v2, v3] {
        let request = ConnectRequest { id: "c".into() };
        let answer = client.connect(&request, &options).await.unwrap();
        assert_eq!(answer.version, "moby c");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_a_time() {
    let (_shim, client) = connected();
    // None of the sixteen returns before all of them are running.
    let calls = (0..16u32).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            let request = StartRequest { id: i.to_string(), ..Default::default() };
            client.start(&request, &quick()).await.unwrap().pid
        })
    });
    for (i, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(call.await.unwrap() as usize, i);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_single_threaded_server_may_use_rc() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shim = Rc::new(Shim::new());
    let serving = serve_connection(theirs, TaskServer(shim));
    let calling = async {
        let client = TaskClient::new(Client::new(ours));
        let killed = client.kill(&KillRequest::default(), &quick()).await;
        let waited = client.wait(&WaitRequest::default(), &quick()).await;
        (killed, waited)
    };
    let (served, (killed, waited)) = tokio::join!(serving, calling);
    served.unwrap();
    killed.unwrap();
    assert_eq!(waited.unwrap().exit_status, 7);
}

#[tokio::test(flavor = "current_thread")]
async fn errors_keep_their_code_and_words() {
    let (_shim, client) = connected();
    let status = client.state(&StateRequest::default(), &quick()).await.unwrap_err();
    assert_eq!(status, Status::new(Code::NOT_FOUND, "container: not found"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_not_served_is_unimplemented() {
    let (_shim, client) = connected();
    let status = client.pause(&Default::default(), &quick()).await.unwrap_err();
    assert_eq!(status.code, Code::UNIMPLEMENTED);
    let other = TaskClient::with_service(client.connection().clone(), "other.Task");
    let status = other.connect(&Default::default(), &quick()).await.unwrap_err();
    assert_eq!(status.code, Code::UNIMPLEMENTED);
    assert!(status.message.contains("other.Task"), "{status}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_deadline_passes_and_the_handler_runs_to_its_end() {
    let (shim, client) = connected();
    let options = CallOptions::default().timeout(Duration::from_millis(20));
    let status = client.wait(&WaitRequest::default(), &options).await.unwrap_err();
    assert_eq!(status.code, Code::DEADLINE_EXCEEDED);
    shim.ended.notified().await;
    assert_eq!(shim.finished.load(Ordering::SeqCst), 1);
    // The connection is as good as before.
    client.kill(&KillRequest::default(), &quick()).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn the_server_answers_at_the_deadline_by_itself() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve_connection(theirs, TaskServer(Arc::new(Shim::new()))));
    // Wait of the task service with a limit of one millisecond.
    let body = b"\x0a\x17containerd.task.v3.Task\x12\x04Wait\x20\xc0\x84\x3d";
    let header = Header { length: body.len() as u32, stream: 1, kind: REQUEST, flags: 0 };
    ours.write_all(&header.encode()).await.unwrap();
    ours.write_all(body).await.unwrap();
    let (header, answer) = read_frame(&mut ours).await;
    assert_eq!((header.stream, header.kind), (1, RESPONSE));
    // Field 1, the status, begins with field 1, the code.
    assert_eq!(answer[0], 0x0a);
    assert_eq!(answer[2..4], [0x08, Code::DEADLINE_EXCEEDED.0 as u8]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_peer_that_closes_fails_all_pending_calls() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = TaskClient::new(Client::new(ours));
    let (first, second) = (WaitRequest::default(), WaitRequest::default());
    let options = CallOptions::default();
    let peer = async {
        let mut theirs = theirs;
        for _ in 0..2 {
            read_frame(&mut theirs).await;
        }
        // Closed with both calls open.
    };
    let (a, b, ()) =
        tokio::join!(client.wait(&first, &options), client.wait(&second, &options), peer);
    assert_eq!(a.unwrap_err().code, Code::UNAVAILABLE);
    assert_eq!(b.unwrap_err().code, Code::UNAVAILABLE);
    client.connection().closed().await;
    assert!(client.connection().is_closed());
    let late = client.wait(&first, &options).await.unwrap_err();
    assert_eq!(late.code, Code::UNAVAILABLE);
}

#[tokio::test(flavor = "current_thread")]
async fn handlers_of_a_client_that_went_away_are_told_and_finish() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shim = Arc::new(Shim::new());
    let serving = tokio::spawn(serve_connection(theirs, TaskServer(shim.clone())));
    let client = TaskClient::new(Client::new(ours));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(&WaitRequest::default(), &CallOptions::default()).await }
    });
    // Answers come in any order, so this one shows that `wait` has arrived.
    tokio::task::yield_now().await;
    client.kill(&KillRequest::default(), &quick()).await.unwrap();
    waiting.await.unwrap().unwrap();
    let abandoned = tokio::spawn({
        let client = client.clone();
        async move { client.wait(&WaitRequest::default(), &CallOptions::default()).await }
    });
    tokio::task::yield_now().await;
    client.connect(&ConnectRequest::default(), &quick()).await.unwrap();
    abandoned.abort();
    let _ = abandoned.await;
    drop(client);
    serving.await.unwrap().unwrap();
    assert_eq!(shim.finished.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn dropping_the_last_client_closes_the_connection() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let client = Client::new(ours);
    drop(client.clone());
    drop(client);
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn messages_over_the_limit_fail_their_call_only() {
    let (_shim, client) = connected();
    let id = "x".repeat(MAX_MESSAGE);
    let status = client.connect(&ConnectRequest { id }, &quick()).await.unwrap_err();
    assert_eq!(status.code, Code::RESOURCE_EXHAUSTED);
    let request = |size: usize| StateRequest { id: size.to_string(), ..Default::default() };
    let status = client.state(&request(MAX_MESSAGE), &quick()).await.unwrap_err();
    assert_eq!(status.code, Code::RESOURCE_EXHAUSTED);
    assert!(status.message.contains("4194304"), "{status}");
    let answer = client.state(&request(MAX_MESSAGE - 100), &quick()).await.unwrap();
    assert_eq!(answer.id.len(), MAX_MESSAGE - 100);
}

#[tokio::test(flavor = "current_thread")]
async fn an_oversized_request_is_answered_and_skipped() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve_connection(theirs, TaskServer(Arc::new(Shim::new()))));
    let length = MAX_MESSAGE as u32 + 1;
    let header = Header { length, stream: 1, kind: REQUEST, flags: 0 };
    ours.write_all(&header.encode()).await.unwrap();
    ours.write_all(&vec![0; length as usize]).await.unwrap();
    let (header, answer) = read_frame(&mut ours).await;
    assert_eq!(header.stream, 1);
    assert_eq!(answer[2..4], [0x08, Code::RESOURCE_EXHAUSTED.0 as u8]);
}

#[tokio::test(flavor = "current_thread")]
async fn strange_streams_and_garbage_are_refused_without_closing() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve_connection(theirs, TaskServer(Arc::new(Shim::new()))));
    let cases = [
        (2, 0, Code::INVALID_ARGUMENT),
        (5, 0, Code::INVALID_ARGUMENT),
        (5, 0, Code::INVALID_ARGUMENT),
        (7, 2, Code::UNIMPLEMENTED),
    ];
    for (stream, flags, code) in cases {
        // A length-delimited field that ends too early.
        let header = Header { length: 2, stream, kind: REQUEST, flags };
        ours.write_all(&header.encode()).await.unwrap();
        ours.write_all(b"\x0a\x7f").await.unwrap();
        let (header, answer) = read_frame(&mut ours).await;
        assert_eq!(header.stream, stream);
        assert_eq!(answer[2..4], [0x08, code.0 as u8], "stream {stream}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_peer_that_does_not_speak_ttrpc_is_cut_off() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let serving = tokio::spawn(serve_connection(theirs, TaskServer(Arc::new(Shim::new()))));
    ours.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let error = serving.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("message type"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_answers_what_made_it_stop() {
    let folder = std::env::temp_dir().join(format!("gantry-ttrpc-{}", std::process::id()));
    let listener = UnixListener::bind(&folder).unwrap();
    let shim = Arc::new(Shim::new());
    let stop = shim.clone();
    let serving = tokio::spawn(serve(listener, TaskServer(shim), async move {
        stop.stop.notified().await;
    }));
    let first = TaskClient::new(Client::new(UnixStream::connect(&folder).await.unwrap()));
    let second = TaskClient::new(Client::new(UnixStream::connect(&folder).await.unwrap()));
    std::fs::remove_file(&folder).unwrap();
    first.connect(&ConnectRequest::default(), &quick()).await.unwrap();
    second.shutdown(&ShutdownRequest::default(), &quick()).await.unwrap();
    serving.await.unwrap().unwrap();
    first.connection().closed().await;
    second.connection().closed().await;
}

async fn read_frame(io: &mut UnixStream) -> (Header, Vec<u8>) {
    let mut header = [0; HEADER_SIZE];
    io.read_exact(&mut header).await.unwrap();
    let header = Header::decode(header);
    let mut body = vec![0; header.length as usize];
    io.read_exact(&mut body).await.unwrap();
    (header, body)
}
