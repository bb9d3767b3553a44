//! Processes that tests start, and those that these leave behind.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// Children that somebody waits for by name: the reaper leaves them alone.
fn owned() -> &'static Mutex<HashSet<u32>> {
    static OWNED: OnceLock<Mutex<HashSet<u32>>> = OnceLock::new();
    OWNED.get_or_init(Mutex::default)
}

/// Makes this process the parent of orphans, such as the shims of a daemon that was
/// killed, and reaps them: tests then see that they are gone.
pub fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
        thread::spawn(|| {
            loop {
                // Until a child has ended, without a look at the others of the machine.
                let _ = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
                reap_orphans();
                // There is none, or it is for somebody else to reap.
                thread::sleep(Duration::from_millis(20));
            }
        });
    });
}

fn reap_orphans() {
    let me = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        if fields.next() != Some("Z") || fields.next() != Some(&me.to_string()) {
            continue;
        }
        // Held over the wait: a child is entered before it can end unseen.
        let owned = owned().lock().expect("no panic while held");
        if !owned.contains(&pid) {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            let _ = waitid(Id::Pid(Pid::from_raw(pid as i32)), flags);
        }
    }
}

/// A child that is waited for; killed and reaped when dropped.
pub struct Owned(Child);

/// Starts a command as a child that the reaper leaves alone.
pub(crate) fn own(command: &mut Command) -> Option<Owned> {
    adopt_orphans();
    let mut owned = owned().lock().expect("no panic while held");
    let started = command.spawn();
    owned.extend(started.as_ref().map(Child::id));
    drop(owned);
    let child = started.unwrap_or_else(|err| panic!("start {command:?}: {err}"));
    Some(Owned(child))
}

/// Has a process killed, and its directory removed, when this one ends, for what
/// no test owns.
pub(crate) fn end_with_us(pid: u32, dir: &Path) {
    static OURS: Mutex<Vec<(u32, PathBuf)>> = Mutex::new(Vec::new());
    static ONCE: Once = Once::new();
    extern "C" fn at_exit() {
        for (pid, dir) in OURS.lock().map(|ours| ours.clone()).unwrap_or_default() {
            let pid = Pid::from_raw(pid as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            // It may write until it is gone.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED);
            let _ = std::fs::remove_dir_all(dir);
        }
    }
    OURS.lock().expect("no panic while held").push((pid, dir.to_owned()));
    // SAFETY: the handler is a function of the C ABI that lives as long as
    // the program, and does not unwind.
    ONCE.call_once(|| unsafe {
        libc::atexit(at_exit);
    });
}

/// Starts a command that the test waits for itself.
pub fn start(command: &mut Command) -> Owned {
    own(command).unwrap_or_else(|| panic!("{command:?} does not start"))
}

impl Owned {
    /// Waits; `None` when it still runs at the end of the limit. 128 plus the
    /// signal for one that was killed.
    pub fn wait_within(&mut self, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.0.try_wait() {
                let signal = || 128 + status.signal().unwrap_or_default();
                return Some(status.code().unwrap_or_else(signal));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.end_within(left);
        }
    }

    /// Returns when it has ended, or earlier.
    fn end_within(&self, limit: Duration) {
        // SAFETY: takes integers and gives a descriptor of our own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.0.id(), 0) };
        assert!(fd >= 0, "open process {}: {}", self.0.id(), std::io::Error::last_os_error());
        // SAFETY: it was just opened, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        let limit = limit.min(Duration::from_secs(30));
        // A signal ends it early, too.
        let _ = poll(&mut polled, PollTimeout::try_from(limit).expect("30 s fit"));
    }

    /// Kills and reaps it.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
        owned().lock().expect("no panic while held").remove(&self.0.id());
    }
}

impl Deref for Owned {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}
