//! The task service: tables of containers and their processes, and what the
//! requests do to them.
//!
//! All of it runs on one thread, so tables are `RefCell`s, borrowed for moments
//! only and never across an await. Requests of different processes never wait
//! for each other.

mod create;
mod exit;
mod life;
mod options;
mod process;
mod sandbox;
mod sandbox_api;
mod task;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use gantry_ttrpc::containerd::runtime::sandbox::v1::SandboxServer;
use gantry_ttrpc::containerd::task::v3::TaskServer;
use gantry_ttrpc::gantry::shim::v1::{AdoptRequest, AdoptResponse, Shim, ShimServer};
use gantry_ttrpc::{Context, Status};
use prost::Name;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::error::{self, Error};
use crate::events::Events;
use crate::network;
use crate::reaper::Reaper;
use crate::report::Report;
use crate::runtime::{ContainerState, Runtime};
use crate::server::{Adoption, Identity};
use crate::stdio::Surroundings;

pub(crate) use options::check_options;
pub use process::Process;
use sandbox::Sandbox;

/// A container and its processes.
#[derive(Debug)]
struct Container {
    id: String,
    bundle: PathBuf,
    state: ContainerState,
    /// By exec id; init's is empty.
    processes: RefCell<HashMap<String, Rc<Process>>>,
    paused: Cell<bool>,
    around: Surroundings,
    /// Its published ports and names, until init has ended.
    network: RefCell<Option<network::Server>>,
}

/// A place in the table.
#[derive(Debug, Clone)]
enum Slot {
    /// Create is under way.
    Reserved,
    Ready(Rc<Container>),
}

/// The service of one shim.
#[derive(Debug)]
pub struct Service {
    runtime: Runtime,
    reaper: Reaper,
    report: Report,
    tracker: TaskTracker,
    /// Known from the start, or since Adopt.
    adopted: OnceCell<Adopted>,
    adoption: Adoption,
    containers: RefCell<HashMap<String, Slot>>,
    /// What the containers belong to, when a daemon asked for one.
    sandbox: RefCell<Option<Rc<Sandbox>>>,
    /// Somebody wanted the shim to go while a container was being made: unless that one
    /// comes about, it goes.
    leaving: Cell<bool>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Adopted {
    identity: Identity,
    events: Events,
}

impl Service {
    /// A service without containers, for nobody yet.
    pub fn new(runtime: Runtime, reaper: Reaper, adoption: Adoption) -> Self {
        Self {
            runtime,
            reaper,
            report: Report::default(),
            tracker: TaskTracker::new(),
            adopted: OnceCell::new(),
            adoption,
            containers: RefCell::default(),
            sandbox: RefCell::default(),
            leaving: Cell::new(false),
            stop: watch::Sender::new(false),
        }
    }

    /// From now on this is the shim of `identity`.
    ///
    /// # Errors
    /// It is somebody's already.
    pub fn adopt(&self, identity: Identity) -> Result<(), Error> {
        self.report.direct(&identity.bundle, identity.debug);
        let events =
            Events::start(&identity.ttrpc_address, &identity.namespace, self.report.clone());
        let id = identity.id.clone();
        let taken = self.adopted.set(Adopted { identity, events }).is_err();
        if taken { Err(error::exists(format!("shim for {id}"))) } else { Ok(()) }
    }

    /// Resolves when the shim is to exit.
    pub async fn stopped(&self) {
        // The sender is in self.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Exits unless there are containers, or a sandbox that may get some.
    pub fn stop_if_empty(&self) {
        self.leaving.set(true);
        if self.containers.borrow().is_empty() && self.sandbox.borrow().is_none() {
            self.stop.send_replace(true);
        }
    }

    /// Gives events and attached clients a moment to get what waits for them.
    pub async fn settle(&self) {
        const EVENTS: std::time::Duration = std::time::Duration::from_secs(3);
        const CLIENTS: std::time::Duration = std::time::Duration::from_secs(5);
        if let Some(adopted) = self.adopted.get() {
            adopted.events.flush(EVENTS).await;
        }
        self.tracker.close();
        // A client that does not read is cut off by the exit.
        let _ = tokio::time::timeout(CLIENTS, self.tracker.wait()).await;
    }

    fn adopted(&self) -> Result<&Adopted, Error> {
        self.adopted.get().ok_or_else(|| error::precondition("this shim was not adopted yet"))
    }

    fn container(&self, id: &str) -> Result<Rc<Container>, Error> {
        match self.containers.borrow().get(id) {
            Some(Slot::Ready(container)) => Ok(container.clone()),
            _ => Err(error::not_found(format!("container {id}"))),
        }
    }

    fn process(&self, id: &str, exec_id: &str) -> Result<(Rc<Container>, Rc<Process>), Error> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        Ok((container, process))
    }

    fn event<M: Name>(&self, topic: &str, event: &M) {
        if let Some(adopted) = self.adopted.get() {
            adopted.events.send(&adopted.identity.namespace, topic, event);
        }
    }
}

impl Container {
    fn process(&self, exec_id: &str) -> Result<Rc<Process>, Error> {
        let process = self.processes.borrow().get(exec_id).cloned();
        process.ok_or_else(|| {
            error::not_found(format!("process {exec_id:?} of container {}", self.id))
        })
    }
}

/// The service as the generated servers call it.
#[derive(Debug, Clone)]
pub struct Api(pub Rc<Service>);

/// What one connection is served with: the shim's own service, tasks, sandboxes.
pub type Servers<'a> = (ShimServer<&'a Api>, (TaskServer<&'a Api>, SandboxServer<&'a Api>));

impl Api {
    /// All services.
    pub fn servers(&self) -> Servers<'_> {
        (ShimServer(self), (TaskServer(self), SandboxServer(self)))
    }
}

impl Shim for Api {
    async fn adopt(&self, _: &Context, request: AdoptRequest) -> Result<AdoptResponse, Status> {
        let mut identity = Identity::from_request(&request)?;
        if self.0.adopted.get().is_some() {
            return Err(error::exists(format!("shim for {}", request.id)).into());
        }
        let address = self.0.adoption.listen(&identity, &request.grpc_address)?;
        identity.address.clone_from(&address);
        self.0.adopt(identity)?;
        Ok(AdoptResponse { address, pid: std::process::id() })
    }
}
