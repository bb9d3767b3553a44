//! Tasks: the running side of containers.

use std::pin::Pin;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::containers::Container;
use crate::{Any, Context, Mount, Result, Timestamp};

/// Where a process' input and output go. Paths of FIFOs, `file://` URIs,
/// `binary://` URIs, or Gantry's own `gantry://` (see [`crate::attach`]) for `stdout`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input; empty for none.
    pub stdin: String,
    /// Standard output; empty for none.
    pub stdout: String,
    /// Standard error; empty for none, or with a terminal.
    pub stderr: String,
    /// A pseudo-terminal.
    pub terminal: bool,
}

/// A task to create.
#[derive(Clone, Debug, Default)]
pub struct CreateTask {
    /// The container whose record says what to run.
    pub container_id: String,
    /// Root file system; none when the spec's root is used as it is.
    pub rootfs: Vec<Mount>,
    /// Input and output.
    pub stdio: Stdio,
    /// Runtime options; the container's when `None`.
    pub options: Option<Any>,
    /// Runtime options' counterpart: path of a runtime, seldom set.
    pub runtime_path: String,
    /// The container's record, when the caller has it at hand; looked up when `None`.
    pub container: Option<Box<Container>>,
}

/// A root file system that may still be made: what it is mounted from, once it is there.
pub type Rootfs = Pin<Box<dyn Future<Output = Result<Vec<Mount>>> + Send>>;

/// A process to add to a task.
#[derive(Clone, Debug, Default)]
pub struct ExecProcess {
    /// The container.
    pub container_id: String,
    /// The process' ID within it.
    pub exec_id: String,
    /// Input and output.
    pub stdio: Stdio,
    /// OCI process as JSON.
    pub spec: Any,
}

/// How the IDs of processes end that only see to a container's health, again and again: what
/// happens to them is told, but not kept.
pub const PROBE: &str = "-health";

/// What a task or process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The shim does not say.
    #[default]
    Unknown,
    /// Made, not started.
    Created,
    /// It runs.
    Running,
    /// It has ended and was not deleted.
    Stopped,
    /// Its cgroup is frozen.
    Paused,
    /// Its cgroup is being frozen.
    Pausing,
}

/// A task's or process' state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The container.
    pub container_id: String,
    /// The process; empty for the first one.
    pub exec_id: String,
    /// Process ID on the host; 0 when it is not known.
    pub pid: u32,
    /// What it does.
    pub status: Status,
    /// Input and output.
    pub stdio: Stdio,
    /// How it ended, once stopped.
    pub exit: Exit,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 plus the signal when it was killed.
    pub status: u32,
    /// When; unset when it still runs.
    pub at: Timestamp,
}

/// A task's measurements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The container.
    pub container_id: String,
    /// When they were taken.
    pub timestamp: Timestamp,
    /// `io.containerd.cgroups.v1.Metrics` or `…v2.Metrics`.
    pub data: Any,
}

/// The tasks service: one shim per task, reached over ttrpc.
///
/// Life of a task: `create` starts a shim and prepares the first process,
/// `start` lets it run, `wait` answers at its end, `delete` takes the task
/// and its shim away. `exec`, `start` with an exec ID, `wait`,
/// `delete` with an exec ID do the same for a further process. An empty exec ID is the first process.
///
/// A shim that does not answer makes only calls about its own task wait.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// Starts a shim with a prepared process; returns its ID on the host.
    ///
    /// # Errors
    /// `AlreadyExists`: `task "x": already exists`; `NotFound` for the
    /// container; the shim's errors.
    async fn create(&self, ctx: &Context, task: CreateTask) -> Result<u32>;

    /// [`Tasks::create`] on another root file system than that of the request, which may still
    /// be made: the shim is started meanwhile.
    ///
    /// # Errors
    /// As [`Tasks::create`]; why there is no root file system. Nothing is left of the task.
    async fn create_on(&self, ctx: &Context, task: CreateTask, rootfs: Rootfs) -> Result<u32> {
        let rootfs = rootfs.await?;
        self.create(ctx, CreateTask { rootfs, ..task }).await
    }

    /// Lets a prepared process run.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition`. A command that is missing or can't
    /// be executed has a message that [`exec_failure`] understands.
    async fn start(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<u32>;

    /// Takes a stopped process away; with an empty exec ID the task.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it runs.
    async fn delete(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<(u32, Exit)>;

    /// A process' state.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<Process>;

    /// The first processes of all tasks of the namespace. A shim that does
    /// not answer at once is shown as last known.
    ///
    /// # Errors
    /// None in practice.
    async fn list(&self, ctx: &Context) -> Result<Vec<Process>>;

    /// The first process of a task as it was last known: never asks a shim.
    async fn last_known(&self, ctx: &Context, id: &str) -> Option<Process> {
        let mut tasks = self.list(ctx).await.unwrap_or_default();
        let at = tasks.iter().position(|task| task.container_id == id)?;
        Some(tasks.swap_remove(at))
    }

    /// Sends a signal; `all` to every process of the task.
    ///
    /// # Errors
    /// `NotFound` when there is none or it has ended.
    async fn kill(
        &self,
        ctx: &Context,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()>;

    /// Kills the shim of a task, for one that does not answer: the task ends with it, and is gone.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a shim that is not our own or has other tasks, which
    /// stays.
    async fn end_shim(&self, ctx: &Context, id: &str) -> Result<()>;

    /// Adds a process, not yet started.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `InvalidArgument`.
    async fn exec(&self, ctx: &Context, process: ExecProcess) -> Result<()>;

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` without a terminal.
    async fn resize(
        &self,
        ctx: &Context,
        id: &str,
        exec_id: &str,
        cols: u32,
        rows: u32,
    ) -> Result<()>;

    /// Closes standard input.
    ///
    /// # Errors
    /// `NotFound`.
    async fn close_stdin(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<()>;

    /// Freezes all processes.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition`.
    async fn pause(&self, ctx: &Context, id: &str) -> Result<()>;

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition`.
    async fn resume(&self, ctx: &Context, id: &str) -> Result<()>;

    /// Processes of the task: ID on the host, and what the shim says of it.
    ///
    /// # Errors
    /// `NotFound`.
    async fn pids(&self, ctx: &Context, id: &str) -> Result<Vec<(u32, Option<Any>)>>;

    /// Changes limits of a running task.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(&self, ctx: &Context, id: &str, resources: Any) -> Result<()>;

    /// Measures a task.
    ///
    /// # Errors
    /// `NotFound`.
    async fn metrics(&self, ctx: &Context, id: &str) -> Result<Metrics>;

    /// Answers when the process has ended.
    ///
    /// # Errors
    /// `NotFound`.
    async fn wait(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<Exit>;
}

/// Why a command could not be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecFailure {
    /// There is no such file: exit code 127.
    NotFound,
    /// The file can't be executed: exit code 126.
    NotExecutable,
    /// The working directory can't be entered: exit code 126.
    WorkingDirectory,
}

impl ExecFailure {
    /// The exit code that shells and Docker use for it.
    pub fn exit_code(self) -> u32 {
        match self {
            ExecFailure::NotFound => 127,
            ExecFailure::NotExecutable | ExecFailure::WorkingDirectory => 126,
        }
    }
}

/// Whether an error of [`Tasks::start`] says that the command itself could
/// not be run. Shims speak in text here, ours and others: the system's own words
/// behind `exec` are what they share.
pub fn exec_failure(err: &crate::Error) -> Option<ExecFailure> {
    let text = err.to_string();
    // The same words of the system are not about the command here.
    if text.contains("chdir to cwd") {
        return Some(ExecFailure::WorkingDirectory);
    }
    if !text.contains("exec") {
        return None;
    }
    let any = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if any(&["executable file not found", "no such file or directory", "No such file or directory"])
    {
        Some(ExecFailure::NotFound)
    } else if any(&[
        "permission denied",
        "Permission denied",
        "exec format error",
        "is a directory",
    ]) {
        Some(ExecFailure::NotExecutable)
    } else {
        None
    }
}
