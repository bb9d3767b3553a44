//! A daemon that plays what the name of an image says, for tests of what
//! happens on the caller's side.

use std::path::PathBuf;
use std::sync::mpsc;

use bytes::Bytes;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::containers_server::{Containers, ContainersServer};
use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::gantry::engine::v1::session_output::Output;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Entries of every log.
pub(crate) const LOG_ENTRIES: usize = 100;
/// Bytes of an entry.
pub(crate) const LOG_ENTRY: usize = 10_000;

/// The daemon, on a socket of its own, for the life of the test process.
pub(crate) struct Fake {
    directory: TempDir,
    /// What came in sessions beside standard input.
    pub(crate) seen: mpsc::Receiver<Input>,
}

impl Fake {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("gantry.sock");
        let (sender, seen) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("start the runtime").block_on(async {
                let listener = UnixListener::bind(path).expect("listen");
                ready.send(()).expect("the test waits");
                tonic::transport::Server::builder()
                    .add_service(ContainersServer::new(Player { seen: sender }))
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await
                    .expect("serve");
            });
        });
        is_ready.recv().expect("the daemon listens");
        Self { directory, seen }
    }

    /// Path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("gantry.sock")
    }
}

struct Player {
    seen: mpsc::Sender<Input>,
}

type Answers = tokio::sync::mpsc::Sender<Result<api::SessionOutput, Status>>;

/// Sends an answer; false when the client went away.
async fn say(answers: &Answers, output: Output) -> bool {
    answers.send(Ok(api::SessionOutput { output: Some(output) })).await.is_ok()
}

async fn exit(answers: &Answers, status: u32, error: &str) {
    say(answers, Output::Exited(api::SessionExited { status, error: error.to_owned() })).await;
}

/// Plays a container.
async fn play(
    spec: api::ContainerSpec,
    mut inputs: Streaming<api::SessionInput>,
    answers: Answers,
    seen: mpsc::Sender<Input>,
) {
    let id = "0123456789abcdef".repeat(4);
    let created = api::SessionCreated { id, name: "fake".to_owned(), ..Default::default() };
    say(&answers, Output::Created(created)).await;
    say(&answers, Output::Started(api::SessionStarted { pid: 1 })).await;
    match spec.image.as_str() {
        "exit" => return exit(&answers, spec.command[0].parse().unwrap_or(255), "").await,
        "missing" => return exit(&answers, 127, "no such command").await,
        "flood" => while say(&answers, Output::Stdout(Bytes::from_static(&[b'y'; 4096]))).await {},
        "lost" => return,
        _ => {}
    }
    say(&answers, Output::Stdout(Bytes::from_static(b"ready\n"))).await;
    while let Some(Ok(input)) = inputs.next().await {
        match input.input {
            Some(Input::Stdin(bytes)) => {
                say(&answers, Output::Stdout(bytes)).await;
            }
            Some(Input::StdinEnd(_)) => return exit(&answers, 0, "").await,
            Some(input @ Input::Signal(_)) => {
                // Nobody may be interested any more.
                let _ = seen.send(input);
                if spec.image != "stubborn" {
                    return exit(&answers, 7, "").await;
                }
            }
            Some(input) => {
                let _ = seen.send(input);
            }
            None => {}
        }
    }
}

type Session = ReceiverStream<Result<api::SessionOutput, Status>>;

#[tonic::async_trait]
impl Containers for Player {
    type RunStream = Session;
    type ExecStream = Session;
    type AttachStream = Session;
    type LogsStream = ReceiverStream<Result<api::LogEntry, Status>>;
    type WatchStream = ReceiverStream<Result<api::ContainerChange, Status>>;

    async fn run(
        &self,
        request: Request<Streaming<api::SessionInput>>,
    ) -> Result<Response<Session>, Status> {
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|first| first.input);
        let Some(Input::Run(run)) = first else { return Err(Status::invalid_argument("run")) };
        let _ = self.seen.send(Input::Run(run.clone()));
        if run.detach {
            return Err(Status::not_found("No such image: x"));
        }
        let (answers, receiver) = tokio::sync::mpsc::channel(4);
        let spec = run.spec.unwrap_or_default();
        tokio::spawn(play(spec, inputs, answers, self.seen.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn exec(
        &self,
        _: Request<Streaming<api::SessionInput>>,
    ) -> Result<Response<Session>, Status> {
        Err(Status::unimplemented("exec"))
    }

    async fn attach(
        &self,
        _: Request<Streaming<api::SessionInput>>,
    ) -> Result<Response<Session>, Status> {
        Err(Status::unimplemented("attach"))
    }

    async fn create(
        &self,
        _: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        Err(Status::unimplemented("create"))
    }

    async fn start(
        &self,
        _: Request<api::StartContainerRequest>,
    ) -> Result<Response<api::StartContainerResponse>, Status> {
        Err(Status::unimplemented("start"))
    }

    async fn list(
        &self,
        _: Request<api::ListContainersRequest>,
    ) -> Result<Response<api::ListContainersResponse>, Status> {
        let web = api::Container { id: "ab".repeat(32), name: "web".into(), ..Default::default() };
        let containers = vec![web];
        Ok(Response::new(api::ListContainersResponse { containers, ..Default::default() }))
    }

    async fn watch(
        &self,
        _: Request<api::WatchContainersRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }

    async fn inspect(
        &self,
        _: Request<api::InspectContainerRequest>,
    ) -> Result<Response<api::InspectContainerResponse>, Status> {
        Err(Status::unimplemented("inspect"))
    }

    async fn logs(
        &self,
        _: Request<api::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (entries, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            for n in 0..LOG_ENTRIES {
                let data = Bytes::from(vec![n as u8; LOG_ENTRY]);
                let entry = api::LogEntry { data, ..Default::default() };
                if entries.send(Ok(entry)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn stop(
        &self,
        _: Request<api::StopContainerRequest>,
    ) -> Result<Response<api::StopContainerResponse>, Status> {
        Err(Status::unimplemented("stop"))
    }

    async fn kill(
        &self,
        request: Request<api::KillContainerRequest>,
    ) -> Result<Response<api::KillContainerResponse>, Status> {
        let _ = self.seen.send(Input::Signal(format!("kill {}", request.into_inner().signal)));
        Ok(Response::new(api::KillContainerResponse {}))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Result<Response<api::RemoveContainerResponse>, Status> {
        match request.into_inner().container {
            name if name.starts_with("no-") => {
                Err(Status::not_found(format!("No such container: {name}")))
            }
            _ => Ok(Response::new(api::RemoveContainerResponse {})),
        }
    }

    async fn wait(
        &self,
        _: Request<api::WaitContainerRequest>,
    ) -> Result<Response<api::WaitContainerResponse>, Status> {
        Err(Status::unimplemented("wait"))
    }
}
