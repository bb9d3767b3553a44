//! The throw-away process in which libcontainer runs.
//!
//! libcontainer changes its caller (working directory, dumpable,
//! oom_score_adj) and leaks descriptors when it fails. So each operation is
//! done in a child of the shim that answers over a socket and ends.

use super::types::Error;
use super::{descriptors, sys};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use tokio::io::Interest;

/// The longest answer: bounded by one packet of the socket.
const MAX_ANSWER: usize = 32 * 1024;

/// How long a worker may take to end after its answer.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// What a worker tells the shim.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Answer {
    /// Host pid of the process that was made.
    pub(crate) pid: i32,
    /// Its start time.
    pub(crate) start_time: u64,
}

/// An [`Error`] on its way through the socket.
#[derive(serde::Serialize, serde::Deserialize)]
enum Wire {
    Done(Answer),
    Exec(i32, String),
    Invalid(String),
    Unsupported(String),
    State(String),
    NotFound(String),
    Failed(String),
}

impl From<Result<Answer, Error>> for Wire {
    fn from(r: Result<Answer, Error>) -> Self {
        match r {
            Ok(a) => Self::Done(a),
            Err(Error::Exec { errno, message }) => Self::Exec(errno, message),
            Err(Error::Invalid(m)) => Self::Invalid(m),
            Err(Error::Unsupported(m)) => Self::Unsupported(m),
            Err(Error::State(m)) => Self::State(m),
            Err(Error::NotFound(m)) => Self::NotFound(m),
            Err(e) => Self::Failed(e.to_string()),
        }
    }
}

impl From<Wire> for Result<Answer, Error> {
    fn from(w: Wire) -> Self {
        Err(match w {
            Wire::Done(a) => return Ok(a),
            Wire::Exec(errno, message) => Error::Exec { errno, message },
            Wire::Invalid(m) => Error::Invalid(m),
            Wire::Unsupported(m) => Error::Unsupported(m),
            Wire::State(m) => Error::State(m),
            Wire::NotFound(m) => Error::NotFound(m),
            Wire::Failed(m) => Error::Failed(m),
        })
    }
}

/// Kills the worker unless it has answered.
struct Guard {
    pidfd: Option<OwnedFd>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(fd) = &self.pidfd {
            // It may have ended by itself: then there is nothing to kill.
            let _ = sys::pidfd_kill(fd.as_fd(), libc::SIGKILL);
        }
    }
}

/// How a worker is started.
pub(crate) struct Job<'a> {
    /// What is done, for messages.
    pub(crate) what: &'a str,
    /// Descriptors that the worker needs besides 0, 1, 2 and its socket.
    pub(crate) keep: Vec<RawFd>,
    /// A cgroup v2 directory to be born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// Runs `work` in a worker, waits for its answer, and until it has ended.
pub(crate) async fn run<F>(job: Job<'_>, work: F) -> Result<(Answer, Option<OwnedFd>), Error>
where
    F: FnOnce() -> Result<(Answer, Option<OwnedFd>), Error>,
{
    let (answer, fd, ending) = answered(job, work).await?;
    ending.wait().await;
    Ok((answer, fd))
}

/// Runs `work` in a worker and waits for its answer. Of one that failed nothing is left then;
/// any other may take a moment to end.
pub(crate) async fn answered<F>(
    job: Job<'_>,
    work: F,
) -> Result<(Answer, Option<OwnedFd>, Ending), Error>
where
    F: FnOnce() -> Result<(Answer, Option<OwnedFd>), Error>,
{
    let what = job.what;
    let failed = |step: &str, e| Error::io(format!("{what}: {step}"), e);
    let (ours, theirs) = sys::seqpacket().map_err(|e| failed("make the worker's socket", e))?;
    // SAFETY: the shim is single-threaded by design: its runtime is tokio's
    // current-thread one and no part of it starts a thread.
    match unsafe { sys::fork(job.cgroup) }.map_err(|e| failed("start the worker", e))? {
        sys::Fork::Child => child(theirs, job.keep, work),
        sys::Fork::Parent(pid) => {
            drop(theirs);
            let mut guard = Guard { pidfd: sys::pidfd_open(pid).ok() };
            let answer = tokio::time::timeout(job.limit, receive(ours)).await;
            let (bytes, fd) = match answer {
                Err(_) => {
                    let s = job.limit.as_secs();
                    return Err(Error::Timeout(format!(
                        "{what}: no answer within {s} s; the attempt was ended"
                    )));
                }
                Ok(r) => r.map_err(|e| failed("read the worker's answer", e))?,
            };
            if bytes.is_empty() {
                return Err(Error::Failed(format!("{what}: the worker ended without an answer")));
            }
            let ending = Ending { pidfd: guard.pidfd.take() };
            let wire: Result<Wire, _> = serde_json::from_slice(&bytes);
            let answer = wire.map_err(|e| {
                Error::Failed(format!("{what}: the worker's answer is unreadable: {e}"))
            });
            match answer.and_then(Result::<Answer, Error>::from) {
                Ok(answer) => Ok((answer, fd, ending)),
                Err(e) => {
                    ending.wait().await;
                    Err(e)
                }
            }
        }
    }
}

/// The end of a worker that has answered.
#[derive(Debug)]
pub(crate) struct Ending {
    pidfd: Option<OwnedFd>,
}

impl Ending {
    /// Waits for it. A worker that has joined the container's cgroup is no longer in it then.
    pub(crate) async fn wait(self) {
        let Some(pidfd) = self.pidfd else { return };
        if sys::is_ready(pidfd.as_fd()) {
            return;
        }
        if let Ok(ending) = sys::readable(pidfd)
            && tokio::time::timeout(EXIT_LIMIT, ending.readable()).await.is_err()
        {
            tracing::warn!("a worker answered but does not end");
        }
    }
}

async fn receive(sock: OwnedFd) -> std::io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let sock = sys::readable(sock)?;
    let mut buf = vec![0; MAX_ANSWER];
    let (n, fd) = sock.async_io(Interest::READABLE, |s| sys::receive(s.as_fd(), &mut buf)).await?;
    buf.truncate(n);
    Ok((buf, fd))
}

/// The worker's whole life.
fn child<F>(sock: OwnedFd, mut keep: Vec<RawFd>, work: F) -> !
where
    F: FnOnce() -> Result<(Answer, Option<OwnedFd>), Error>,
{
    keep.push(sock.as_raw_fd());
    clean_slate(&mut keep);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::Failed("the worker panicked".into())));
    let (done, fd) = match done {
        Ok((a, fd)) => (Ok(a), fd),
        Err(e) => (Err(e), None),
    };
    let mut wire = serde_json::to_vec(&Wire::from(done)).unwrap_or_default();
    if wire.len() > MAX_ANSWER {
        wire = br#"{"Failed":"the worker's answer was too long"}"#.to_vec();
    }
    // If the shim is gone there is nobody to tell.
    let _ = sys::send(sock.as_fd(), &wire, fd.as_ref().map(AsFd::as_fd));
    // SAFETY: ends the process without running the shim's destructors, which
    // belong to the parent's objects.
    unsafe { libc::_exit(0) }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Takes off what the worker inherited from the shim and must not pass on to a
/// container: descriptors and their limit, signal handlers and mask,
/// supplementary groups, a real-time scheduling class.
fn clean_slate(keep: &mut [RawFd]) {
    // SAFETY: plain calls on our own process; every pointer is to a live local.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // A handler of tokio's would write into a descriptor that is closed below.
        // By the system call itself: libc's keeps two signals for itself, and a
        // container must not find any ignored. All zeroes is the default action.
        let default = [0u64; 4];
        let none = std::ptr::null_mut::<u64>();
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8);
        }
        // A hook may end without reading its input. Handled, not ignored: that
        // would reach the container, and execve takes handlers away.
        libc::signal(libc::SIGPIPE, nothing as extern "C" fn(libc::c_int) as libc::sighandler_t);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        // cgroup v1's cpu controller refuses a real-time process.
        let normal: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &normal);
        // libcontainer leaves the groups alone when the spec names none.
        libc::setgroups(0, std::ptr::null());
    }
    descriptors::restore();
    sys::close_all_but(keep);
}
