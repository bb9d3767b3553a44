//! One process of a container: init, or one that was exec'd.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gantry_ttrpc::containerd::v1::types::Status as TaskStatus;
use tokio::sync::{Mutex, watch};

use crate::error::{self, Error};
use crate::reaper::Exit;
use crate::runtime::{Created, Stdio};
use crate::stdio::Streams;

/// The stdio of a request, as it is told back.
#[derive(Debug, Clone, Default)]
pub struct StdioNames {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// One terminal instead.
    pub terminal: bool,
}

/// What an exec'd process is started with.
#[derive(Debug)]
pub struct Pending {
    /// The OCI process object, JSON.
    pub spec: Vec<u8>,
    /// The process's ends of its streams.
    pub stdio: Stdio,
}

/// A process, from its request until it is deleted.
#[derive(Debug)]
pub struct Process {
    /// Its exec id; empty for init.
    pub exec_id: String,
    /// The stdio it was asked for with.
    pub names: StdioNames,
    /// The shim's side of its streams.
    pub streams: Streams,
    /// Held by whatever has to be announced before the exit is.
    pub order: Mutex<()>,
    pid: Cell<i32>,
    pidfd: RefCell<Option<OwnedFd>>,
    started: Cell<bool>,
    /// Exit status to tell instead of the process's own: 127 or 126 after its
    /// command could not be executed.
    verdict: Cell<Option<u32>>,
    pending: RefCell<Option<Pending>>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    /// A process that does not exist yet.
    pub fn new(
        exec_id: &str,
        names: StdioNames,
        streams: Streams,
        pending: Option<Pending>,
    ) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            names,
            streams,
            order: Mutex::new(()),
            pid: Cell::new(0),
            pidfd: RefCell::new(None),
            started: Cell::new(false),
            verdict: Cell::new(None),
            pending: RefCell::new(pending),
            exit: watch::Sender::new(None),
        }
    }

    /// Whether this is the container's init.
    pub fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    /// The process exists: connects its streams.
    ///
    /// # Errors
    /// A stream cannot be watched.
    pub fn exists(&self, created: Created) -> Result<(), Error> {
        self.pid.set(created.pid);
        self.pidfd.replace(created.pidfd);
        self.streams.connect(created.console)
    }

    /// The process runs its own program.
    pub fn set_started(&self) {
        self.started.set(true);
    }

    /// What it is to be started with; once.
    pub fn take_pending(&self) -> Option<Pending> {
        self.pending.take()
    }

    /// Host pid, 0 before it exists.
    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// Whether it was started.
    pub fn started(&self) -> bool {
        self.started.get()
    }

    /// Its exit, once announced.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Tells `status` instead of what the process itself says when it ends.
    pub fn judge(&self, status: u32) {
        self.verdict.set(Some(status));
    }

    /// The exit to tell, given the process's own.
    pub fn judged(&self, exit: Exit) -> Exit {
        Exit { status: self.verdict.get().unwrap_or(exit.status), ..exit }
    }

    /// Announces the exit to everyone who waits.
    pub fn set_exit(&self, exit: Exit) {
        self.pidfd.take();
        self.exit.send_replace(Some(exit));
    }

    /// Waits for the exit.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return exit;
            }
            // The sender is in self.
            let _ = exit.changed().await;
        }
    }

    /// Its state, in a container that is `paused` or not.
    pub fn status(&self, paused: bool) -> TaskStatus {
        match (self.exit(), self.started.get()) {
            (Some(_), _) => TaskStatus::Stopped,
            (None, false) => TaskStatus::Created,
            (None, true) if paused => TaskStatus::Paused,
            (None, true) => TaskStatus::Running,
        }
    }

    /// Sends a signal to exactly this process, never to a later one of its pid.
    ///
    /// # Errors
    /// `NotFound` when it has finished, `FailedPrecondition` when it does not
    /// exist yet, `InvalidArgument` for a signal that does not exist.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        if self.exit().is_some() {
            return Err(error::not_found("process already finished"));
        }
        if self.pid() == 0 {
            return Err(error::precondition("process is not started"));
        }
        let pidfd = self.pidfd.borrow();
        let Some(pidfd) = pidfd.as_ref() else {
            return Err(error::not_found("process already finished"));
        };
        // SAFETY: the descriptor is open for the call, and the null siginfo
        // means that the kernel makes one.
        let r = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_fd().as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if r == 0 {
            return Ok(());
        }
        match nix::Error::last() {
            nix::Error::ESRCH => Err(error::not_found("process already finished")),
            nix::Error::EINVAL => Err(error::invalid(format!("signal {signal} does not exist"))),
            e => Err(error::io(format!("send signal {signal} to process {}", self.pid()), e)),
        }
    }
}
