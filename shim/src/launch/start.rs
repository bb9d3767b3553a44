//! `start`: listen, leave a serving process behind, print where it is.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use super::address::{self, Bound};
use super::{Dialect, Environment, Flags, say};
use crate::error::{self, Error};
use crate::runtime::Runtime;
use crate::server::{self, Identity};

/// Standard input is not read beyond this.
const MAX_STDIN: u64 = 4 * 1024 * 1024;

/// Starts the shim of a container, or finds that of its group.
///
/// What can fail is done before the process is left behind, so that the caller
/// sees why.
///
/// # Errors
/// The socket cannot be made, or the host lacks what a runtime needs.
pub(super) fn run(flags: &Flags, env: &Environment) -> Result<(), Error> {
    let dialect = Dialect::of(&read_stdin()?, flags, env);
    let bundle = bundle(flags)?;
    let group = address::group_of(&bundle, &flags.id);
    let socket = address::socket_path(
        &flags.address,
        &flags.namespace,
        &group,
        dialect.socket_dir().as_deref(),
    );
    let uri = format!("unix://{}", socket.display());
    let Bound::New(listener) = address::bind(&socket)? else {
        return tell(&bundle, &uri, &dialect);
    };
    let identity = Identity {
        namespace: flags.namespace.clone(),
        id: flags.id.clone(),
        bundle,
        address: uri,
        ttrpc_address: dialect.ttrpc_address().unwrap_or(&env.ttrpc_address).to_owned(),
        debug: flags.debug,
    };
    let done = leave_server(listener, &socket, &identity, env.sched_core).and_then(|child| {
        let done = write_pid(&identity.bundle, child)
            .and_then(|()| tell(&identity.bundle, &identity.address, &dialect));
        if done.is_err() {
            // Nobody learns of it.
            let _ = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
        }
        done
    });
    if done.is_err() {
        // Nobody serves it.
        let _ = std::fs::remove_file(&socket);
    }
    done
}

fn write_pid(bundle: &Path, child: Pid) -> Result<(), Error> {
    address::write_atomically(&bundle.join("shim.pid"), child.to_string().as_bytes())
}

/// Says where the shim listens, also where containerd 1.6 looks after its own restart.
fn tell(bundle: &Path, uri: &str, dialect: &Dialect) -> Result<(), Error> {
    address::write_atomically(&bundle.join("address"), uri.as_bytes())?;
    say(&dialect.answer(uri))
}

/// What the caller sends on standard input; nothing at a terminal.
pub(super) fn read_stdin() -> Result<Vec<u8>, Error> {
    let stdin = std::io::stdin();
    let mut bytes = Vec::new();
    if !stdin.is_terminal() {
        stdin
            .take(MAX_STDIN)
            .read_to_end(&mut bytes)
            .map_err(|e| error::io("read standard input", e))?;
    }
    Ok(bytes)
}

/// The bundle: `-bundle`, or the working directory.
pub(super) fn bundle(flags: &Flags) -> Result<PathBuf, Error> {
    let path = flags.bundle.clone().unwrap_or_else(|| ".".into());
    std::fs::canonicalize(&path)
        .map_err(|e| error::io(format!("find the bundle {}", path.display()), e))
}

fn leave_server(
    listener: UnixListener,
    socket: &Path,
    identity: &Identity,
    sched_core: bool,
) -> Result<Pid, Error> {
    let runtime = Runtime::open()?;
    if sched_core {
        separate_core()?;
    }
    // SAFETY: the process has one thread, so the child may do anything.
    match unsafe { nix::unistd::fork() }.map_err(|e| error::io("leave the shim behind", e))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let served = detach()
                .and_then(|()| listen_anew(&listener))
                .and_then(|()| server::cold(runtime, listener, socket, identity));
            std::process::exit(i32::from(served.is_err()));
        }
    }
}

/// Who connects is told by the kernel who listens: from now on this process.
fn listen_anew(listener: &UnixListener) -> Result<(), Error> {
    listen(listener, Backlog::MAXCONN).map_err(|e| error::io("listen in the shim", e))
}

/// Leaves the caller's session and standard streams.
pub(crate) fn detach() -> Result<(), Error> {
    let failed = |e| error::io("detach from the caller", e);
    // Fails only for the leader of a session, which has what it wants.
    let _ = nix::unistd::setsid();
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| error::io("open /dev/null", e))?;
    nix::unistd::dup2_stdin(null.as_fd()).map_err(failed)?;
    nix::unistd::dup2_stdout(null.as_fd()).map_err(failed)?;
    nix::unistd::dup2_stderr(null.as_fd()).map_err(failed)
}

/// Gives this process and its children a core-scheduling cookie, so that no
/// other container runs on a sibling hardware thread.
fn separate_core() -> Result<(), Error> {
    const PROCESS_GROUP: libc::c_ulong = 2;
    // SAFETY: PR_SCHED_CORE_CREATE has integer arguments only.
    let r = unsafe {
        libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, PROCESS_GROUP, 0)
    };
    if r == 0 {
        Ok(())
    } else {
        Err(error::io("make a core-scheduling cookie", std::io::Error::last_os_error()))
    }
}
