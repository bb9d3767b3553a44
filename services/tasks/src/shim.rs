//! Calls to a shim, each with its limit of time.

use std::io;
use std::time::Duration;

use gantry_core::tasks::{CreateTask, ExecProcess, Exit, Process, Status, Stdio};
use gantry_core::{Any, Error, Kind, Namespace, Result, faults};
use gantry_ttrpc::containerd::task::v3 as api;
use gantry_ttrpc::containerd::v1::types::Status as WireStatus;
use gantry_ttrpc::{CallOptions, Client, NAMESPACE_KEY, convert};
use tokio::net::UnixStream;

use crate::dialect::Endpoint;

/// Preparing a container takes mounts, which other people's disks can delay. Our own shim
/// gives up and says so some time before.
const CREATE: Duration = Duration::from_secs(150);
/// Starting and deleting run hooks.
const SLOW: Duration = Duration::from_secs(60);
/// Everything else.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// A shim that lives takes a connection at once.
const CONNECT: Duration = Duration::from_secs(2);
/// Between attempts to reach a shim that may live: the daemon may be short of files, the
/// shim of time.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_millis(700)];
/// A connection that failed a call for its own end says so within this time.
const MOMENT: Duration = Duration::from_secs(1);

/// A connection to a shim.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    /// Where it listens.
    pub(crate) endpoint: Endpoint,
    task: api::TaskClient,
    namespace: String,
}

impl Shim {
    /// Speaks to a shim over a connection that exists.
    pub(crate) fn new(client: Client, endpoint: Endpoint, namespace: &Namespace) -> Self {
        // The names are in order, newest first: version 3, version 2.
        let service = api::TASK_SERVICES[usize::from(endpoint.version < 3)];
        let task = api::TaskClient::with_service(client, service);
        Self { endpoint, task, namespace: namespace.as_str().to_owned() }
    }

    /// Connects to where a shim listens.
    ///
    /// # Errors
    /// `Unavailable` when nobody does; `Unimplemented` for what is no ttrpc
    /// over a unix socket.
    pub(crate) async fn connect(endpoint: Endpoint, namespace: &Namespace) -> Result<Self> {
        let path = endpoint.socket()?.to_owned();
        let stream = open(&path).await.map_err(|err| unreachable(&path, err))?;
        Ok(Self::new(Client::new(stream), endpoint, namespace))
    }

    /// Connects to a shim that has listened before; `None` when it is dead, which is only
    /// said when nobody listens.
    ///
    /// # Errors
    /// `Unavailable` when that could not be found out in several attempts.
    pub(crate) async fn find(endpoint: &Endpoint, namespace: &Namespace) -> Result<Option<Self>> {
        // Nobody could have spoken to it.
        let Ok(path) = endpoint.socket() else { return Ok(None) };
        let mut pauses = PAUSES.into_iter();
        loop {
            match open(path).await {
                Ok(stream) => {
                    return Ok(Some(Self::new(Client::new(stream), endpoint.clone(), namespace)));
                }
                Err(err) if is_death(&err) => return Ok(None),
                Err(err) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(unreachable(path, err)),
                },
            }
        }
    }

    /// A shim that could not be reached yet: its connection has ended.
    pub(crate) fn unreached(endpoint: Endpoint, namespace: &Namespace) -> Self {
        Self::new(Client::new(tokio::io::empty()), endpoint, namespace)
    }

    /// The connection.
    pub(crate) fn connection(&self) -> &Client {
        self.task.connection()
    }

    /// Whether a call failed because the connection ended. Calls learn of
    /// that a moment before the connection says so itself.
    pub(crate) async fn is_lost(&self, err: &Error) -> bool {
        let closed = self.connection().closed();
        err.kind() == Kind::Unavailable && tokio::time::timeout(MOMENT, closed).await.is_ok()
    }

    /// Options of a call: the namespace, and how long it may take.
    pub(crate) fn options(&self, timeout: Option<Duration>) -> CallOptions {
        let metadata = vec![(NAMESPACE_KEY.to_owned(), self.namespace.clone())];
        CallOptions { metadata, timeout }
    }

    fn limit(&self, timeout: Duration) -> CallOptions {
        self.options(Some(timeout))
    }

    /// Prepares the first process; returns its ID.
    pub(crate) async fn create(&self, bundle: &str, task: &CreateTask) -> Result<u32> {
        let request = api::CreateTaskRequest {
            id: task.container_id.clone(),
            bundle: bundle.to_owned(),
            rootfs: task.rootfs.iter().cloned().map(Into::into).collect(),
            terminal: task.stdio.terminal,
            stdin: task.stdio.stdin.clone(),
            stdout: task.stdio.stdout.clone(),
            stderr: task.stdio.stderr.clone(),
            options: task.options.clone().map(convert::any),
            ..Default::default()
        };
        Ok(faults::around_async(
            "ask a shim to create",
            self.task.create(&request, &self.limit(CREATE)),
        )
        .await?
        .pid)
    }

    /// Lets a prepared process run.
    pub(crate) async fn start(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = api::StartRequest { id: id.into(), exec_id: exec_id.into() };
        Ok(faults::around_async(
            "ask a shim to start",
            self.task.start(&request, &self.limit(SLOW)),
        )
        .await?
        .pid)
    }

    /// Takes a stopped process away.
    pub(crate) async fn delete(&self, id: &str, exec_id: &str) -> Result<(u32, Exit)> {
        let request = api::DeleteRequest { id: id.into(), exec_id: exec_id.into() };
        Ok(deleted(
            &faults::around_async(
                "ask a shim to delete",
                self.task.delete(&request, &self.limit(SLOW)),
            )
            .await?,
        ))
    }

    /// What a process does.
    pub(crate) async fn state(&self, id: &str, exec_id: &str) -> Result<Process> {
        let request = api::StateRequest { id: id.into(), exec_id: exec_id.into() };
        let state = self.task.state(&request, &self.limit(QUICK)).await?;
        Ok(process(id, exec_id, state))
    }

    /// Answers when the process has ended, without a limit.
    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let request = api::WaitRequest { id: id.into(), exec_id: exec_id.into() };
        let ended = self.task.wait(&request, &self.options(None)).await?;
        let at = convert::from_timestamp(ended.exited_at.as_ref());
        Ok(Exit { status: ended.exit_status, at })
    }

    /// Sends a signal.
    pub(crate) async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest { id: id.into(), exec_id: exec_id.into(), signal, all };
        faults::around_async("ask a shim to kill", self.task.kill(&request, &self.limit(QUICK)))
            .await?;
        Ok(())
    }

    /// Adds a process.
    pub(crate) async fn exec(&self, process: &ExecProcess) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            terminal: process.stdio.terminal,
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            spec: Some(convert::any(process.spec.clone())),
        };
        faults::around_async("ask a shim to exec", self.task.exec(&request, &self.limit(SLOW)))
            .await?;
        Ok(())
    }

    /// Sets the size of a terminal.
    pub(crate) async fn resize(&self, id: &str, exec_id: &str, size: (u32, u32)) -> Result<()> {
        let (width, height) = size;
        let request =
            api::ResizePtyRequest { id: id.into(), exec_id: exec_id.into(), width, height };
        self.task.resize_pty(&request, &self.limit(QUICK)).await?;
        Ok(())
    }

    /// Closes standard input.
    pub(crate) async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::CloseIoRequest { id: id.into(), exec_id: exec_id.into(), stdin: true };
        self.task.close_io(&request, &self.limit(QUICK)).await?;
        Ok(())
    }

    /// Freezes all processes, without a limit: it may do so after any.
    pub(crate) async fn pause(&self, id: &str) -> Result<()> {
        faults::around_async(
            "ask a shim to pause",
            self.task.pause(&api::PauseRequest { id: id.into() }, &self.options(None)),
        )
        .await?;
        Ok(())
    }

    /// Lets them go on, as well without a limit.
    pub(crate) async fn resume(&self, id: &str) -> Result<()> {
        faults::around_async(
            "ask a shim to resume",
            self.task.resume(&api::ResumeRequest { id: id.into() }, &self.options(None)),
        )
        .await?;
        Ok(())
    }

    /// Processes, with what the shim says of them.
    pub(crate) async fn pids(&self, id: &str) -> Result<Vec<(u32, Option<Any>)>> {
        let answer =
            self.task.pids(&api::PidsRequest { id: id.into() }, &self.limit(QUICK)).await?;
        let pids = answer.processes.into_iter();
        Ok(pids.map(|p| (p.pid, p.info.map(convert::from_any))).collect())
    }

    /// Changes limits.
    pub(crate) async fn update(&self, id: &str, resources: Any) -> Result<()> {
        let request = api::UpdateTaskRequest {
            id: id.into(),
            resources: Some(convert::any(resources)),
            ..Default::default()
        };
        faults::around_async(
            "ask a shim to update",
            self.task.update(&request, &self.limit(QUICK)),
        )
        .await?;
        Ok(())
    }

    /// Measures.
    pub(crate) async fn stats(&self, id: &str) -> Result<Any> {
        let answer =
            self.task.stats(&api::StatsRequest { id: id.into() }, &self.limit(QUICK)).await?;
        Ok(convert::from_any(answer.stats.unwrap_or_default()))
    }

    /// Ends the shim; one that has other containers stays.
    pub(crate) async fn shutdown(&self, id: &str) -> Result<()> {
        let request = api::ShutdownRequest { id: id.into(), now: false };
        faults::around_async(
            "ask a shim to shutdown",
            self.task.shutdown(&request, &self.limit(QUICK)),
        )
        .await?;
        Ok(())
    }
}

async fn open(path: &str) -> io::Result<UnixStream> {
    let connect = tokio::time::timeout(CONNECT, UnixStream::connect(path));
    connect.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn unreachable(path: &str, err: io::Error) -> Error {
    Error::io(format!("connect to the shim at {path}"), err).with_kind(Kind::Unavailable)
}

/// Whether this says that nobody listens. Everything else, such as a full queue or too
/// many open files, passes.
fn is_death(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Process ID and exit of a deleted process.
pub(crate) fn deleted(answer: &api::DeleteResponse) -> (u32, Exit) {
    let at = convert::from_timestamp(answer.exited_at.as_ref());
    (answer.pid, Exit { status: answer.exit_status, at })
}

fn process(id: &str, exec_id: &str, state: api::StateResponse) -> Process {
    Process {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        pid: state.pid,
        status: status(state.status),
        exit: Exit {
            status: state.exit_status,
            at: convert::from_timestamp(state.exited_at.as_ref()),
        },
        stdio: Stdio {
            stdin: state.stdin,
            stdout: state.stdout,
            stderr: state.stderr,
            terminal: state.terminal,
        },
    }
}

fn status(wire: i32) -> Status {
    match WireStatus::try_from(wire) {
        Ok(WireStatus::Created) => Status::Created,
        Ok(WireStatus::Running) => Status::Running,
        Ok(WireStatus::Stopped) => Status::Stopped,
        Ok(WireStatus::Paused) => Status::Paused,
        Ok(WireStatus::Pausing) => Status::Pausing,
        Ok(WireStatus::Unknown) | Err(_) => Status::Unknown,
    }
}
