//! Checks that run a command in the container.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_core::attach::LogUri;
use gantry_core::tasks::{ExecProcess, PROBE, Stdio};
use gantry_core::{Any, Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::monitor::Outcome;
use super::{OUTPUT, limited, too_long};
use crate::Engine;
use crate::attach::{Attached, Frame, Input, Output};
use crate::files::attach_socket;
use crate::names;
use crate::run::NotRun;
use crate::signal::KILL;

/// For a process to be there: that is not the command's own time.
const START: Duration = Duration::from_secs(30);
/// Between two attempts to kill one that hangs.
const AGAIN: Duration = Duration::from_secs(5);
/// What a process ended with that was killed with its shim.
const KILLED: u32 = 137;

/// A command in a container, run once.
pub(super) struct Command {
    pub(super) engine: Arc<Engine>,
    pub(super) ctx: Context,
    pub(super) id: String,
    pub(super) process: Any,
    /// What it runs, for errors.
    pub(super) name: String,
    pub(super) limit: Duration,
}

/// A process that was started.
struct Started {
    pid: u32,
    from: Output,
    /// Kept open: its end would mean that the caller is gone.
    _to: Input,
}

/// What a process has said so far, up to a bit more than is kept of it.
#[derive(Default)]
struct Heard(Mutex<Vec<u8>>);

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: &[u8]) {
        let mut heard = self.lock();
        let room = (OUTPUT + 1).saturating_sub(heard.len());
        heard.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    fn text(&self) -> String {
        limited(&self.lock())
    }
}

/// The ID of a process that is not to fill the history.
fn exec_id() -> String {
    names::random_id() + PROBE
}

impl Command {
    /// Runs it and tells what it came to as soon as that is known. Returns when the process
    /// is gone: one that hangs is told of, and killed until it ends.
    pub(super) async fn run(self, tell: oneshot::Sender<Outcome>) {
        let exec_id = exec_id();
        let heard = Heard::default();
        let mut tell = Some(tell);
        // Whoever asked may have given up.
        let mut tell = move |outcome| drop(tell.take().map(|tell| tell.send(outcome)));
        let mut start = pin!(self.start(&exec_id));
        let (started, limit) = match timeout(START, &mut start).await {
            Ok(started) => (started, self.limit),
            Err(_) => {
                tell(Outcome::none("timed out starting the health check".to_owned()));
                // It may still come into being.
                (start.await, Duration::ZERO)
            }
        };
        match started {
            Err(err) => {
                let not_run = NotRun::of(&err, &self.name);
                tell(Outcome::none(not_run.map_or_else(|| err.to_string(), |not| not.text)));
            }
            Ok(started) => {
                let pid = started.pid;
                let mut end = pin!(self.listen(&exec_id, started, &heard));
                match timeout(limit, &mut end).await {
                    Ok(status) => {
                        let exit_code = i32::try_from(status).unwrap_or(-1);
                        tell(Outcome { exit_code, output: heard.text() });
                    }
                    Err(_) => {
                        tell(too_long(self.limit, &heard.text()));
                        loop {
                            self.kill(&exec_id, pid).await;
                            if timeout(AGAIN, &mut end).await.is_ok() {
                                break;
                            }
                        }
                    }
                }
            }
        }
        self.engine.clean_exec(&self.ctx, &self.id, &exec_id).await;
    }

    async fn start(&self, exec_id: &str) -> Result<Started> {
        let Engine { parts, .. } = &*self.engine;
        let socket = attach_socket(&parts.config.state, exec_id);
        let uri = LogUri { attach: socket.display().to_string(), ..LogUri::default() };
        let stdio = Stdio { stdout: uri.format(), ..Stdio::default() };
        let process = ExecProcess {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            stdio,
            spec: self.process.clone(),
        };
        parts.tasks.exec(&self.ctx, process).await?;
        let Attached { from, to } = Attached::connect(&socket).await?;
        let pid = parts.tasks.start(&self.ctx, &self.id, exec_id).await?;
        Ok(Started { pid, from, _to: to })
    }

    /// Takes in what the process says, until its end.
    async fn listen(&self, exec_id: &str, mut started: Started, heard: &Heard) -> u32 {
        loop {
            match started.from.next().await {
                Ok(Some(Frame::Stdout(bytes) | Frame::Stderr(bytes))) => heard.add(&bytes),
                Ok(Some(Frame::Exit(status))) => return status,
                Ok(None) | Err(_) => break,
            }
        }
        // The shim ends the connection before it answers, or it was killed.
        let exit = self.engine.parts.tasks.wait(&self.ctx, &self.id, exec_id).await;
        exit.map_or(KILLED, |exit| exit.status)
    }

    /// Kills the process with what it has started: those would stay, more with every check.
    async fn kill(&self, exec_id: &str, pid: u32) {
        // It leads a group of its own; that group's ID is not given to others while one
        // of them is there, and it has not been seen to end.
        if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)
            && getpgid(Some(pid)) == Ok(pid)
        {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        // Whether it helped is seen by whether it ends.
        let killed = self.engine.parts.tasks.kill(&self.ctx, &self.id, exec_id, KILL, false);
        let _ = timeout(AGAIN, killed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_checks_are_valid() {
        gantry_core::validate_identifier(&exec_id()).unwrap();
    }

    #[test]
    fn not_much_is_kept_of_what_is_said() {
        let heard = Heard::default();
        heard.add(b"ab");
        assert_eq!(heard.text(), "ab");
        for _ in 0..3 {
            heard.add(&[b'x'; 4096]);
        }
        assert_eq!(heard.lock().len(), OUTPUT + 1);
        assert_eq!(heard.text().len(), OUTPUT + "...".len());
    }
}
