//! Create and Exec: the requests that make processes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gantry_ttrpc::Context;
use gantry_ttrpc::containerd::events::{TaskCreate, TaskExecAdded, TaskIo, TaskOom};
use gantry_ttrpc::containerd::task::v3::{CreateTaskRequest, ExecProcessRequest};
use prost_types::Any;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::process::{Pending, StdioNames};
use super::{Container, Process, Service, Slot, options};
use crate::error::{self, Error};
use crate::exits;
use crate::network;
use crate::reaper::Exit;
use crate::runtime::{self, CreateSpec, RootfsMount};
use crate::stdio::{Open, Plan, Streams, Surroundings};

/// A create request, checked.
struct Creation {
    id: String,
    bundle: PathBuf,
    plan: Plan,
    names: StdioNames,
    rootfs: Vec<RootfsMount>,
    options: runtime::Options,
    pipe_owner: (u32, u32),
    shim_cgroup: String,
}

impl Creation {
    /// `own` is where this shim listens.
    fn parse(request: &CreateTaskRequest, own: &str) -> Result<Self, Error> {
        let id = &request.id;
        if id.is_empty() {
            return Err(error::invalid("create: the container's id is empty"));
        }
        if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
            return Err(error::unimplemented(format!(
                "create {id} from a checkpoint: this needs CRIU, which is not supported"
            )));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(error::invalid(format!(
                "create {id}: bundle {:?} is not an absolute path",
                request.bundle
            )));
        }
        let options = options::of_task(request.options.as_ref(), own)?;
        let rootfs = request.rootfs.iter().map(|m| RootfsMount {
            kind: m.r#type.clone(),
            source: m.source.clone(),
            target: m.target.clone(),
            options: m.options.clone(),
        });
        Ok(Self {
            id: id.clone(),
            bundle,
            plan: Plan::parse(request.terminal, &request.stdin, &request.stdout, &request.stderr)?,
            names: StdioNames {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
            },
            rootfs: rootfs.collect(),
            pipe_owner: (options.io_uid, options.io_gid),
            shim_cgroup: options.shim_cgroup,
            options: runtime::Options {
                no_pivot_root: options.no_pivot_root,
                systemd_cgroup: options.systemd_cgroup,
                no_new_keyring: options.no_new_keyring,
            },
        })
    }
}

impl Service {
    /// Creates a container; gives init's pid. It does not run yet.
    ///
    /// # Errors
    /// Nothing is left of it then, and nothing of a shim that was asked to go meanwhile.
    pub(super) async fn create(
        self: &Rc<Self>,
        context: &Context,
        request: CreateTaskRequest,
    ) -> Result<i32, Error> {
        let creation = Creation::parse(&request, &self.adopted()?.identity.address)?;
        self.takes_containers()?;
        let id = creation.id.clone();
        {
            let mut containers = self.containers.borrow_mut();
            if containers.contains_key(&id) {
                return Err(error::exists(format!("container {id}")));
            }
            containers.insert(id.clone(), Slot::Reserved);
        }
        let made = match self.make(creation).await {
            Ok((container, init, exit)) => match self.keeps(context).await {
                Ok(()) => {
                    // Both begin when the caller has been answered.
                    let look = self.clone().look_after(container.clone(), init.pid());
                    tokio::task::spawn_local(look);
                    let follow = self.clone().follow_exit(container.clone(), init.clone(), exit);
                    tokio::task::spawn_local(follow);
                    Ok((container, init))
                }
                // Nobody is told of its end: nobody was told of it.
                Err(e) => {
                    let _ = init.kill(libc::SIGKILL);
                    let _ = exit.await;
                    let _ = self.runtime.delete(container.state.clone()).await;
                    Err(e)
                }
            },
            Err(e) => Err(e),
        };
        match made {
            Ok((container, init)) => {
                let pid = init.pid();
                self.leaving.set(false);
                self.containers.borrow_mut().insert(id.clone(), Slot::Ready(container));
                self.event(
                    "/tasks/create",
                    &TaskCreate {
                        container_id: id,
                        bundle: request.bundle,
                        rootfs: request.rootfs,
                        io: Some(TaskIo {
                            stdin: request.stdin,
                            stdout: request.stdout,
                            stderr: request.stderr,
                            terminal: request.terminal,
                        }),
                        checkpoint: String::new(),
                        pid: pid as u32,
                    },
                );
                Ok(pid)
            }
            Err(e) => {
                self.containers.borrow_mut().remove(&id);
                if self.leaving.get() {
                    self.stop_if_empty();
                }
                Err(e)
            }
        }
    }

    /// Refuses a container that was made for nobody: the sandbox was stopped meanwhile,
    /// without it, or the caller has left and takes it for failed.
    async fn keeps(&self, context: &Context) -> Result<(), Error> {
        self.takes_containers()?;
        let late = context.deadline.is_some_and(|deadline| deadline <= Instant::now());
        // Looked at once, not waited for.
        let left = tokio::select! {
            biased;
            () = context.cancelled() => true,
            () = std::future::ready(()) => late,
        };
        if left {
            let text = "create: the caller has left: cancelled";
            return Err(Error::new(error::Kind::Cancelled, text));
        }
        Ok(())
    }

    async fn make(
        self: &Rc<Self>,
        creation: Creation,
    ) -> Result<(Rc<Container>, Rc<Process>, oneshot::Receiver<Exit>), Error> {
        let around = Surroundings {
            namespace: self.adopted()?.identity.namespace.clone(),
            container: creation.id.clone(),
            owner: creation.pipe_owner,
            tracker: self.tracker.clone(),
            report: self.report.clone(),
        };
        if !creation.shim_cgroup.is_empty() {
            self.runtime.enter(Path::new(&creation.shim_cgroup))?;
        }
        let network = creation.plan.network().map(network::Server::bind).transpose()?;
        let (streams, stdio) = Streams::open(&creation.plan, &around, Open::Now).await?;
        let spec = CreateSpec {
            id: creation.id.clone(),
            bundle: creation.bundle.clone(),
            rootfs: creation.rootfs,
            stdio,
            options: creation.options,
        };
        let created =
            self.runtime.create(spec).await.map_err(|e| refused("OCI runtime create failed", e))?;
        let exit = self.reaper.exit_of(created.pid, created.pidfd.as_ref().map(AsFd::as_fd));
        let state = created.state.clone();
        let init = Rc::new(Process::new("", creation.names, streams, None));
        let container = Rc::new(Container {
            id: creation.id,
            bundle: creation.bundle,
            state: state.clone(),
            processes: RefCell::new(HashMap::from([(String::new(), init.clone())])),
            paused: Cell::new(false),
            around,
            network: RefCell::new(network),
        });
        if let Err(e) = init.exists(created) {
            // Undone as far as possible; the first error is what is told.
            let _ = init.kill(libc::SIGKILL);
            let _ = exit.await;
            let _ = self.runtime.delete(state).await;
            return Err(e);
        }
        Ok((container, init, exit))
    }

    /// Writes down init's pid where runc does, for those who look there.
    fn write_pid(&self, bundle: &Path, pid: i32) {
        if let Err(e) = std::fs::write(bundle.join("init.pid"), pid.to_string()) {
            self.report.warn(&format!("write {}: {e}", bundle.join("init.pid").display()));
        }
    }

    /// Does what nobody waits for, and publishes the container's out-of-memory kills for as
    /// long as it lives.
    async fn look_after(self: Rc<Self>, container: Rc<Container>, pid: i32) {
        self.write_pid(&container.bundle, pid);
        // It is made when there is an exit to store, at the latest.
        let _ = exits::prepare(&container.bundle);
        let mut kills = match self.runtime.oom_events(&container.state) {
            Ok(kills) => kills,
            Err(e) => {
                return self
                    .report
                    .warn(&format!("no out-of-memory events of {}: {e}", container.id));
            }
        };
        let container_id = container.id.clone();
        drop(container);
        while kills.next().await.is_some() {
            self.event("/tasks/oom", &TaskOom { container_id: container_id.clone() });
        }
    }

    /// Prepares a further process, which Start starts.
    ///
    /// # Errors
    /// Nothing is left of it then.
    pub(super) async fn exec(&self, request: ExecProcessRequest) -> Result<(), Error> {
        let ExecProcessRequest { id, exec_id, terminal, stdin, stdout, stderr, spec } = request;
        let plan = Plan::parse(terminal, &stdin, &stdout, &stderr)?;
        if plan.network().is_some() {
            return Err(error::invalid(format!("exec in {id}: only a container has networks")));
        }
        let spec = process_spec(spec)?;
        if exec_id.is_empty() || exec_id.contains('/') {
            return Err(error::invalid(format!(
                "exec in {id}: {exec_id:?} is not a valid exec id"
            )));
        }
        let container = self.container(&id)?;
        if container.process("")?.exit().is_some() {
            return Err(error::precondition(format!("exec in {id}: the container has stopped")));
        }
        let taken = || error::exists(format!("id {exec_id}"));
        if container.processes.borrow().contains_key(&exec_id) {
            return Err(taken());
        }
        let (streams, stdio) = Streams::open(&plan, &container.around, Open::AtStart).await?;
        let names = StdioNames { stdin, stdout, stderr, terminal };
        let process = Process::new(&exec_id, names, streams, Some(Pending { spec, stdio }));
        {
            let mut processes = container.processes.borrow_mut();
            // Looked at again: opening may have waited for a logging program.
            if processes.contains_key(&exec_id) {
                return Err(taken());
            }
            processes.insert(exec_id.clone(), Rc::new(process));
        }
        self.event("/tasks/exec-added", &TaskExecAdded { container_id: id, exec_id });
        Ok(())
    }
}

/// The JSON of an OCI process object.
fn process_spec(spec: Option<Any>) -> Result<Vec<u8>, Error> {
    let Any { type_url, value } =
        spec.ok_or_else(|| error::invalid("exec: the process spec is missing"))?;
    if !type_url.ends_with("/Process") {
        return Err(error::invalid(format!("exec: {type_url:?} is not an OCI process")));
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(&value) {
        Ok(_) => Ok(value),
        Err(e) => Err(error::invalid(format!("exec: the process spec is not JSON: {e}"))),
    }
}

/// Words a runtime's error as clients know it.
pub(super) fn refused(what: &str, e: runtime::Error) -> Error {
    let exec = matches!(e, runtime::Error::Exec { .. });
    let e = Error::from(e);
    if exec {
        e.context("unable to start container process").context(what)
    } else {
        e.context(what)
    }
}
