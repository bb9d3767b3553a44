//! Collects every child that exits, and tells whoever asked for it.
//!
//! Children appear here that nobody asked for: workers, and processes whose
//! pid the worker is about to report. The statuses of the latest of them are
//! kept for those who ask a moment later.

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::clock;

/// Statuses kept for those who ask late.
const EARLY: usize = 512;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 plus the signal.
    pub status: u32,
    /// When it was noticed.
    pub at: Duration,
}

/// The table of those who wait. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    early: VecDeque<(i32, Exit)>,
}

impl Reaper {
    /// Starts to collect children, for as long as the runtime runs.
    ///
    /// # Errors
    /// The signal cannot be caught.
    pub fn start() -> std::io::Result<Self> {
        let reaper = Self::default();
        let mut children = signal(SignalKind::child())?;
        let table = reaper.clone();
        tokio::spawn(async move {
            loop {
                table.collect();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// The exit of `pid`, a child; `pidfd` tells it from an earlier process
    /// that had the same number, and is absent if it was collected already.
    pub fn exit_of(&self, pid: i32, pidfd: Option<BorrowedFd<'_>>) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let gone = pidfd.is_none_or(is_gone);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = table.early.iter().rposition(|(early, _)| *early == pid);
        let early = at.and_then(|at| table.early.remove(at)).filter(|_| gone);
        match early {
            // The receiver is in our hands.
            Some((_, exit)) => drop(sender.send(exit)),
            None => drop(table.waiting.insert(pid, sender)),
        }
        receiver
    }

    /// Collects all children that have exited.
    fn collect(&self) {
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the one integer that is
            // written. (nix's waitpid loses children that die of a real-time
            // signal, which has no name there.)
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            match pid {
                0 => return,
                1.. => self.note(pid, Exit { status: code(status), at: clock::now() }),
                _ if Errno::last() == Errno::EINTR => {}
                _ => return,
            }
        }
    }

    fn note(&self, pid: i32, exit: Exit) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match table.waiting.remove(&pid) {
            Some(sender) => drop(sender.send(exit)),
            None => {
                if table.early.len() == EARLY {
                    table.early.pop_front();
                }
                table.early.push_back((pid, exit));
            }
        }
    }
}

/// The exit code that shells give a wait status.
fn code(status: i32) -> u32 {
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    // Both are small and positive.
    code as u32
}

/// Whether the process of a pidfd has exited.
fn is_gone(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    // A zero timeout never waits; an error counts as living, and the signal
    // then decides.
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::process::Command;

    fn pidfd(pid: u32) -> OwnedFd {
        // SAFETY: pidfd_open takes two integers and gives a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        assert!(fd >= 0);
        // SAFETY: the descriptor is new and belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(fd as i32) }
    }

    fn dead() -> OwnedFd {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let fd = pidfd(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        fd
    }

    const EXIT: Exit = Exit { status: 3, at: Duration::from_secs(1) };

    #[test]
    fn an_exit_before_anyone_asks_is_kept() {
        let (reaper, fd) = (Reaper::default(), dead());
        reaper.note(10, Exit { status: 1, ..EXIT });
        reaper.note(10, EXIT);
        assert_eq!(reaper.exit_of(10, Some(fd.as_fd())).try_recv(), Ok(EXIT));
    }

    #[test]
    fn a_reused_pid_does_not_inherit_an_exit() {
        let (reaper, living) = (Reaper::default(), pidfd(std::process::id()));
        reaper.note(10, Exit { status: 1, ..EXIT });
        let mut receiver = reaper.exit_of(10, Some(living.as_fd()));
        assert!(receiver.try_recv().is_err());
        reaper.note(10, EXIT);
        assert_eq!(receiver.try_recv(), Ok(EXIT));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let reaper = Reaper::default();
        for pid in 0..2 * EARLY as i32 {
            reaper.note(pid, EXIT);
        }
        assert_eq!(reaper.0.lock().unwrap().early.len(), EARLY);
    }

    #[test]
    fn codes() {
        assert_eq!(code(0), 0);
        assert_eq!(code(127 << 8), 127);
        assert_eq!(code(libc::SIGKILL), 137);
        assert_eq!(code(libc::SIGSEGV | 0x80), 139);
        assert_eq!(code(64), 192);
    }
}
