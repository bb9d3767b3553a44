//! Start, Kill, Pause, Resume and Delete.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use gantry_ttrpc::containerd::events::{
    TaskDelete, TaskExecStarted, TaskPaused, TaskResumed, TaskStart,
};

use super::create::refused;
use super::process::Pending;
use super::{Container, Process, Service};
use crate::clock;
use crate::error::{self, Error};
use crate::exits;
use crate::reaper::Exit;
use crate::runtime::{self, ExecSpec};

/// How long Delete lets a client take the last output.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How long an init that failed to start may take to end.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// What Delete tells.
#[derive(Debug)]
pub(super) struct Deleted {
    pub(super) pid: i32,
    pub(super) exit: Exit,
}

impl Service {
    /// Starts a created container or a prepared process; gives its pid.
    ///
    /// A command that cannot be executed leaves a process that has exited with
    /// 127 (not there) or 126 (not executable): this is what Wait, State and
    /// Delete tell, so nobody needs to read the error's text.
    ///
    /// # Errors
    /// It was started before, has ended, or cannot be started.
    pub(super) async fn start(self: &Rc<Self>, id: &str, exec_id: &str) -> Result<i32, Error> {
        let (container, process) = self.process(id, exec_id)?;
        let order = process.order.lock().await;
        if process.exit().is_some() {
            return Err(error::precondition("cannot start a stopped process"));
        }
        if process.started() {
            return Err(error::precondition("cannot start a running process"));
        }
        if process.is_init() {
            if let Err(e) = self.start_init(&container, &process).await {
                // Who is told of the failure may delete it at once: it has ended by then.
                drop(order);
                let _ = tokio::time::timeout(LAST_BREATH, process.wait()).await;
                return Err(e);
            }
        } else {
            let pending = process.take_pending();
            let pending =
                pending.ok_or_else(|| error::precondition("cannot start a process twice"))?;
            self.start_exec(&container, &process, pending).await?;
        }
        Ok(process.pid())
    }

    async fn start_init(&self, container: &Container, process: &Process) -> Result<(), Error> {
        if let Err(e) = self.runtime.start(&container.state).await {
            process.judge(e.exit_code().unwrap_or(255));
            // Whatever is left of init goes, and then its exit is announced.
            let _ = self.signal(container, process, libc::SIGKILL);
            return Err(refused("OCI runtime start failed", e));
        }
        process.set_started();
        self.event(
            "/tasks/start",
            &TaskStart { container_id: container.id.clone(), pid: process.pid() as u32 },
        );
        Ok(())
    }

    async fn start_exec(
        self: &Rc<Self>,
        container: &Rc<Container>,
        process: &Rc<Process>,
        Pending { spec, stdio }: Pending,
    ) -> Result<(), Error> {
        let spec = ExecSpec { exec_id: process.exec_id.clone(), process: spec, stdio };
        let created = match self.runtime.exec(&container.state, spec).await {
            Ok(created) => created,
            Err(e) => {
                let exit = Exit { status: e.exit_code().unwrap_or(255), at: clock::now() };
                process.streams.finish(exit.status as i32);
                process.streams.close();
                process.set_exit(exit);
                return Err(refused("OCI runtime exec failed", e));
            }
        };
        let exit = self.reaper.exit_of(created.pid, created.pidfd.as_ref().map(AsFd::as_fd));
        let connected = process.exists(created);
        process.set_started();
        tokio::task::spawn_local(self.clone().follow_exit(
            container.clone(),
            process.clone(),
            exit,
        ));
        if let Err(e) = connected {
            let _ = process.kill(libc::SIGKILL);
            return Err(e);
        }
        self.event(
            "/tasks/exec-started",
            &TaskExecStarted {
                container_id: container.id.clone(),
                exec_id: process.exec_id.clone(),
                pid: process.pid() as u32,
            },
        );
        Ok(())
    }

    /// Sends a signal to one process, or to all of the container.
    ///
    /// # Errors
    /// `NotFound` when the process has finished.
    pub(super) async fn kill(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), Error> {
        let (container, process) = self.process(id, exec_id)?;
        let signal = i32::try_from(signal)
            .map_err(|_| error::invalid(format!("signal {signal} does not exist")))?;
        if all && process.is_init() {
            self.runtime.kill_all(&container.state, signal).await?;
            if process.exit().is_some() {
                return Err(error::not_found("process already finished"));
            }
            return Ok(());
        }
        self.signal(&container, &process, signal)
    }

    /// Signals one process. Init dies of SIGKILL even while it is frozen, and
    /// the container with it.
    fn signal(&self, container: &Container, process: &Process, signal: i32) -> Result<(), Error> {
        process.kill(signal)?;
        if signal == libc::SIGKILL && process.is_init() {
            self.runtime.let_die(&container.state)?;
        }
        Ok(())
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// It does not run.
    pub(super) async fn pause(&self, id: &str) -> Result<(), Error> {
        let container = self.running(id, "pause")?;
        if container.paused.get() {
            return Err(error::precondition(format!("cannot pause container {id}: it is paused")));
        }
        self.runtime.pause(&container.state).await?;
        container.paused.set(true);
        self.event("/tasks/paused", &TaskPaused { container_id: id.to_owned() });
        Ok(())
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// It is not paused.
    pub(super) async fn resume(&self, id: &str) -> Result<(), Error> {
        let container = self.running(id, "resume")?;
        if !container.paused.get() {
            return Err(error::precondition(format!(
                "cannot resume container {id}: it is not paused"
            )));
        }
        self.runtime.resume(&container.state).await?;
        container.paused.set(false);
        self.event("/tasks/resumed", &TaskResumed { container_id: id.to_owned() });
        Ok(())
    }

    pub(super) fn running(&self, id: &str, what: &str) -> Result<Rc<Container>, Error> {
        let (container, init) = self.process(id, "")?;
        if init.exit().is_some() || !init.started() {
            return Err(error::precondition(format!(
                "cannot {what} container {id}: it is not running"
            )));
        }
        Ok(container)
    }

    /// Removes a process that has ended, or the container with its init.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs.
    pub(super) async fn delete(&self, id: &str, exec_id: &str) -> Result<Deleted, Error> {
        let (container, process) = self.process(id, exec_id)?;
        let exit = match process.exit() {
            Some(exit) => exit,
            None if process.started() => {
                return Err(error::precondition("cannot delete a running process"));
            }
            None if process.is_init() => {
                // Created and never started: it goes without having run.
                self.signal(&container, &process, libc::SIGKILL)?;
                process.wait().await
            }
            None => Exit { status: 0, at: clock::now() },
        };
        let _order = process.order.lock().await;
        // Again, now that nobody else is at it.
        if !Rc::ptr_eq(&self.process(id, exec_id)?.1, &process) {
            return Err(error::not_found(format!("process {exec_id} was deleted already")));
        }
        if process.started() && process.exit().is_none() {
            return Err(error::precondition("cannot delete a running process"));
        }
        process.streams.drain(LAST_OUTPUT).await;
        if process.is_init() {
            self.delete_container(&container, &process, exit).await?;
        } else {
            container.processes.borrow_mut().remove(exec_id);
            exits::remove(&container.bundle, exec_id);
        }
        process.streams.close();
        Ok(Deleted { pid: process.pid(), exit })
    }

    async fn delete_container(
        &self,
        container: &Container,
        init: &Process,
        exit: Exit,
    ) -> Result<(), Error> {
        self.runtime.delete(container.state.clone()).await.map_err(|e: runtime::Error| {
            Error::from(e).context(format!("delete container {}", container.id))
        })?;
        for (_, process) in container.processes.borrow_mut().drain() {
            process.streams.close();
        }
        self.containers.borrow_mut().remove(&container.id);
        self.event(
            "/tasks/delete",
            &TaskDelete {
                container_id: container.id.clone(),
                // Only that of an exec is named.
                id: String::new(),
                pid: init.pid() as u32,
                exit_status: exit.status,
                exited_at: Some(clock::timestamp(exit.at)),
            },
        );
        Ok(())
    }
}
