//! Sandbox records: what several containers share, such as a pod or a virtual machine.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::containers::Runtime;
use crate::db::Table;
use crate::filter::{Filterable, Filters};
use crate::tasks::{Exit, Metrics};
use crate::{Any, Context, Labels, Mount, Platform, Result, Timestamp};

/// Sandboxes by ID.
pub const SANDBOXES: Table<Sandbox> = Table::new("sandboxes");

/// A sandbox's record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its ID, an identifier.
    pub id: String,
    /// How it is run.
    pub runtime: Runtime,
    /// Specification, usually OCI's.
    pub spec: Option<Any>,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Values of clients by name.
    pub extensions: BTreeMap<String, Any>,
    /// The controller that runs it; empty for the default one.
    pub sandboxer: String,
}

impl Filterable for Sandbox {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["runtime", "name"] => Some(self.runtime.name.clone()),
            ["sandboxer"] => Some(self.sandboxer.clone()),
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// The records of sandboxes.
#[async_trait]
pub trait Sandboxes: Send + Sync {
    /// One record.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, ctx: &Context, id: &str) -> Result<Sandbox>;

    /// All records of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Sandbox>>;

    /// Stores a new record; times are set here.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`.
    async fn create(&self, ctx: &Context, sandbox: Sandbox) -> Result<Sandbox>;

    /// Changes the fields named by `paths` (`labels`, `labels.KEY`, `extensions`,
    /// `extensions.NAME`, `spec`, `runtime`), or all of these when there are none.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(&self, ctx: &Context, sandbox: Sandbox, paths: &[String]) -> Result<Sandbox>;

    /// Removes a record.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, ctx: &Context, id: &str) -> Result<()>;
}

/// What a sandbox is set up with, besides its record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetUp {
    /// The sandbox whose record says how it is run.
    pub id: String,
    /// Root file system, for runtimes whose sandboxes have one.
    pub rootfs: Vec<Mount>,
    /// What its runtime is told of this sandbox.
    pub options: Option<Any>,
    /// Path of the network namespace that its containers share; may be empty.
    pub netns_path: String,
    /// Handed on to the runtime.
    pub annotations: BTreeMap<String, String>,
}

/// Where a sandbox takes tasks: a shim's socket, and the version of the task service there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix://` and a path.
    pub address: String,
    /// 2 or 3.
    pub version: u32,
}

/// A sandbox that was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Started {
    /// Process ID on the host; 0 for one without a process of its own.
    pub pid: u32,
    /// When it was started.
    pub created_at: Timestamp,
    /// What it runs with, when the runtime says so.
    pub spec: Option<Any>,
    /// Where it takes tasks.
    pub endpoint: Endpoint,
}

/// A sandbox's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxStatus {
    /// Process ID on the host; 0 for one without a process of its own.
    pub pid: u32,
    /// [`READY`], [`NOT_READY`], or a word of its runtime's own.
    pub state: String,
    /// Details by name, when they were asked for.
    pub info: BTreeMap<String, String>,
    /// When it was started; unset before.
    pub created_at: Timestamp,
    /// When it ended; unset before.
    pub exited_at: Timestamp,
    /// Details in a message of the runtime.
    pub extra: Option<Any>,
    /// Where it takes tasks.
    pub endpoint: Endpoint,
}

/// State of a sandbox that takes containers.
pub const READY: &str = "SANDBOX_READY";
/// State of a sandbox that was not started, or that ended.
pub const NOT_READY: &str = "SANDBOX_NOTREADY";

/// Runs sandboxes that have a record.
///
/// Life of a sandbox: `create` starts what runs it, `start` lets it take
/// containers, `stop` ends it with the containers in it, `shutdown` takes it
/// away. `wait` answers at its end. A container whose record names the sandbox has
/// its task there.
#[async_trait]
pub trait SandboxController: Send + Sync {
    /// Sets up a sandbox.
    ///
    /// # Errors
    /// `NotFound` without a record, `AlreadyExists` when it is set up, the runtime's.
    async fn create(&self, ctx: &Context, sandbox: SetUp) -> Result<()>;

    /// Starts it.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition`; the runtime's, and then it is gone.
    async fn start(&self, ctx: &Context, id: &str) -> Result<Started>;

    /// What its containers run on.
    ///
    /// # Errors
    /// `NotFound`.
    async fn platform(&self, ctx: &Context, id: &str) -> Result<Platform>;

    /// Ends it: by force after so many seconds. One that is gone has been stopped.
    ///
    /// # Errors
    /// The runtime's.
    async fn stop(&self, ctx: &Context, id: &str, seconds: u32) -> Result<()>;

    /// Answers when it has ended.
    ///
    /// # Errors
    /// `NotFound`.
    async fn wait(&self, ctx: &Context, id: &str) -> Result<Exit>;

    /// Its state. One that is gone is [`NOT_READY`] and has ended.
    ///
    /// # Errors
    /// The runtime's.
    async fn status(&self, ctx: &Context, id: &str, verbose: bool) -> Result<SandboxStatus>;

    /// Takes away what is left of it, and what still runs in it.
    ///
    /// # Errors
    /// `NotFound`.
    async fn shutdown(&self, ctx: &Context, id: &str) -> Result<()>;

    /// Measures it.
    ///
    /// # Errors
    /// `NotFound`, the runtime's.
    async fn metrics(&self, ctx: &Context, id: &str) -> Result<Metrics>;

    /// Makes it follow its record, of which these fields changed.
    ///
    /// # Errors
    /// `NotFound`.
    async fn update(&self, ctx: &Context, id: &str, fields: &[String]) -> Result<()>;
}
