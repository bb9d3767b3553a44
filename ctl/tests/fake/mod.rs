//! A daemon that plays what the name of an image says, for tests of what
//! happens on the caller's side.

mod networks;

use std::path::PathBuf;
use std::sync::mpsc;

use bytes::Bytes;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::containers_server::{Containers, ContainersServer};
use gantry_grpc::gantry::engine::v1::networks_server::NetworksServer;
use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::gantry::engine::v1::session_output::Output;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::networks::Asked;

/// Entries of every log.
pub(crate) const LOG_ENTRIES: usize = 100;
/// Bytes of an entry.
pub(crate) const LOG_ENTRY: usize = 10_000;

/// The daemon, on a socket of its own, for the life of the test process.
pub(crate) struct Fake {
    directory: TempDir,
    /// What came in sessions beside standard input.
    pub(crate) seen: mpsc::Receiver<Input>,
    /// What came about networks and ports.
    pub(crate) asked: mpsc::Receiver<Asked>,
}

impl Fake {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("gantry.sock");
        let (sender, seen) = mpsc::channel();
        let (asking, asked) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("start the runtime").block_on(async {
                let listener = UnixListener::bind(path).expect("listen");
                ready.send(()).expect("the test waits");
                tonic::transport::Server::builder()
                    .add_service(ContainersServer::new(Player { seen: sender }))
                    .add_service(NetworksServer::new(networks::Player { asked: asking }))
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await
                    .expect("serve");
            });
        });
        is_ready.recv().expect("the daemon listens");
        Self { directory, seen, asked }
    }

    /// Path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("gantry.sock")
    }
}

struct Player {
    seen: mpsc::Sender<Input>,
}

impl Player {
    /// Passes the first message of a session on.
    async fn see_first(
        &self,
        request: Request<Streaming<api::SessionInput>>,
    ) -> Result<(), Status> {
        if let Some(first) = request.into_inner().message().await?.and_then(|first| first.input) {
            let _ = self.seen.send(first);
        }
        Ok(())
    }
}

/// The ID of every container.
pub(crate) fn id() -> String {
    "0123456789abcdef".repeat(4)
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
    let created = api::SessionCreated { id: id(), name: "fake".to_owned(), ..Default::default() };
    say(&answers, Output::Created(created)).await;
    if spec.image == "slow" {
        // Its start takes longer than anybody waits for it.
        return answers.closed().await;
    }
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

/// Sends a few of ten numbers, from a cursor on, and ends as a daemon that is stopped.
async fn say_some(
    cursor: String,
    entries: tokio::sync::mpsc::Sender<Result<api::LogEntry, Status>>,
) {
    let from: usize = cursor.parse().unwrap_or_default();
    for n in from..10 {
        let entry = if n == from + 4 {
            Err(Status::unavailable("the daemon ends"))
        } else {
            let (data, cursor) = (Bytes::from(format!("{n}\n")), (n + 1).to_string());
            Ok(api::LogEntry { data, cursor, ..Default::default() })
        };
        let last = entry.is_err();
        if entries.send(entry).await.is_err() || last {
            return;
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
    type StatsStream = ReceiverStream<Result<api::StatsResponse, Status>>;
    type ExportStream = ReceiverStream<Result<api::FileChunk, Status>>;
    type CopyFromStream = ReceiverStream<Result<api::CopyFromResponse, Status>>;

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
        request: Request<Streaming<api::SessionInput>>,
    ) -> Result<Response<Session>, Status> {
        self.see_first(request).await?;
        Err(Status::unimplemented("exec"))
    }

    async fn attach(
        &self,
        request: Request<Streaming<api::SessionInput>>,
    ) -> Result<Response<Session>, Status> {
        self.see_first(request).await?;
        Err(Status::unimplemented("attach"))
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let spec = request.into_inner().spec.unwrap_or_default();
        match spec.image.as_str() {
            "missing" => Err(Status::not_found("No such image: missing")),
            _ => Ok(Response::new(api::CreateContainerResponse { id: id(), ..Default::default() })),
        }
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
        let ports = networks::ports();
        let container = Some(api::Container { id: id(), ports, ..Default::default() });
        Ok(Response::new(api::InspectContainerResponse { container, ..Default::default() }))
    }

    async fn logs(
        &self,
        request: Request<api::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (entries, receiver) = tokio::sync::mpsc::channel(4);
        let request = request.into_inner();
        if request.container == "flaky" {
            tokio::spawn(say_some(request.cursor, entries));
            return Ok(Response::new(ReceiverStream::new(receiver)));
        }
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

    async fn restart(
        &self,
        _: Request<api::RestartContainerRequest>,
    ) -> Result<Response<api::RestartContainerResponse>, Status> {
        Err(Status::unimplemented("restart"))
    }

    async fn pause(
        &self,
        _: Request<api::PauseContainerRequest>,
    ) -> Result<Response<api::PauseContainerResponse>, Status> {
        Err(Status::unimplemented("pause"))
    }

    async fn unpause(
        &self,
        _: Request<api::UnpauseContainerRequest>,
    ) -> Result<Response<api::UnpauseContainerResponse>, Status> {
        Err(Status::unimplemented("unpause"))
    }

    async fn rename(
        &self,
        _: Request<api::RenameContainerRequest>,
    ) -> Result<Response<api::RenameContainerResponse>, Status> {
        Err(Status::unimplemented("rename"))
    }

    async fn update(
        &self,
        _: Request<api::UpdateContainerRequest>,
    ) -> Result<Response<api::UpdateContainerResponse>, Status> {
        Err(Status::unimplemented("update"))
    }

    async fn top(&self, _: Request<api::TopRequest>) -> Result<Response<api::TopResponse>, Status> {
        Err(Status::unimplemented("top"))
    }

    async fn prune(
        &self,
        _: Request<api::PruneContainersRequest>,
    ) -> Result<Response<api::PruneContainersResponse>, Status> {
        Err(Status::unimplemented("prune"))
    }

    async fn changes(
        &self,
        _: Request<api::FileChangesRequest>,
    ) -> Result<Response<api::FileChangesResponse>, Status> {
        Err(Status::unimplemented("changes"))
    }

    async fn stat(
        &self,
        _: Request<api::StatPathRequest>,
    ) -> Result<Response<api::StatPathResponse>, Status> {
        Err(Status::unimplemented("stat"))
    }

    async fn stats(
        &self,
        _: Request<api::StatsRequest>,
    ) -> Result<Response<Self::StatsStream>, Status> {
        Err(Status::unimplemented("stats"))
    }

    async fn export(
        &self,
        _: Request<api::ExportContainerRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        Err(Status::unimplemented("export"))
    }

    async fn copy_from(
        &self,
        _: Request<api::CopyFromRequest>,
    ) -> Result<Response<Self::CopyFromStream>, Status> {
        Err(Status::unimplemented("copy_from"))
    }

    async fn copy_to(
        &self,
        _: Request<Streaming<api::CopyToRequest>>,
    ) -> Result<Response<api::CopyToResponse>, Status> {
        Err(Status::unimplemented("copy_to"))
    }
}
