//! Logging programs (`binary://`), with containerd's contract: the program
//! reads standard output from descriptor 3 and standard error from 4, closes
//! or writes to 5 when it is ready, and finds `CONTAINER_ID` and
//! `CONTAINER_NAMESPACE` in its environment. It ends at the end of its input.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::input::watched;
use super::{Binary, Surroundings};
use crate::error::{self, Error};

/// How long a logging program may take until it is ready.
const READY: Duration = Duration::from_secs(10);

/// Starts the program and waits until it is ready; gives the write ends of its
/// standard output and standard error.
///
/// # Errors
/// It cannot be executed, or is not ready in time.
pub(super) async fn spawn(binary: &Binary, around: &Surroundings) -> Result<[OwnedFd; 2], Error> {
    let failed =
        |e: io::Error| error::io(format!("start the logging program {}", binary.path.display()), e);
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(e.into()));
    let (stdout_reader, stdout) = pipe()?;
    let (stderr_reader, stderr) = pipe()?;
    let (ready, ready_writer) = pipe()?;
    let theirs = [stdout_reader.as_raw_fd(), stderr_reader.as_raw_fd(), ready_writer.as_raw_fd()];
    let mut command = Command::new(&binary.path);
    command
        .args(&binary.args)
        .env("CONTAINER_ID", &around.container)
        .env("CONTAINER_NAMESPACE", &around.namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only fcntl and dup2 are called, both
    // async-signal-safe, on descriptors that are open in the parent.
    unsafe { command.pre_exec(move || place(theirs)) };
    // Reaped by the shim's reaper with everything else.
    command.spawn().map_err(failed)?;
    drop((stdout_reader, stderr_reader, ready_writer));
    let ready = watched(ready)?;
    if tokio::time::timeout(READY, ready.readable()).await.is_err() {
        let e = io::Error::new(io::ErrorKind::TimedOut, format!("not ready after {READY:?}"));
        return Err(failed(e));
    }
    Ok([stdout, stderr])
}

/// Puts `fds` at 3, 4 and 5, whatever is there. Runs in the forked child.
fn place(fds: [i32; 3]) -> io::Result<()> {
    let check = |r: i32| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) };
    let mut high = [0; 3];
    for (slot, fd) in high.iter_mut().zip(fds) {
        // SAFETY: F_DUPFD_CLOEXEC has no memory arguments.
        *slot = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 6) })?;
    }
    for (target, fd) in (3..).zip(high) {
        // SAFETY: dup2 has no memory arguments; 3 to 5 belong to this child.
        check(unsafe { libc::dup2(fd, target) })?;
    }
    Ok(())
}
