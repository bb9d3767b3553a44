//! `start`: listen, leave a serving process behind, print where it is.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::ForkResult;

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
    if let Bound::New(listener) = address::bind(&socket)? {
        let left = leave_server(listener, &socket, &bundle, flags, env, &dialect);
        if left.is_err() {
            // Nobody serves it.
            let _ = std::fs::remove_file(&socket);
        }
        left?;
    }
    // Where containerd 1.6 looks for the shim after its own restart.
    address::write_atomically(&bundle.join("address"), uri.as_bytes())?;
    say(&dialect.answer(&uri))
}

fn read_stdin() -> Result<Vec<u8>, Error> {
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
    bundle: &Path,
    flags: &Flags,
    env: &Environment,
    dialect: &Dialect,
) -> Result<(), Error> {
    let runtime = Runtime::open()?;
    if env.sched_core {
        separate_core()?;
    }
    // SAFETY: the process has one thread, so the child may do anything.
    match unsafe { nix::unistd::fork() }.map_err(|e| error::io("leave the shim behind", e))? {
        ForkResult::Parent { child } => address::write_atomically(
            &bundle.join("shim.pid"),
            child.as_raw().to_string().as_bytes(),
        ),
        ForkResult::Child => {
            let identity = Identity {
                namespace: flags.namespace.clone(),
                id: flags.id.clone(),
                bundle: bundle.to_owned(),
                ttrpc_address: dialect.ttrpc_address().unwrap_or(&env.ttrpc_address).to_owned(),
                debug: flags.debug,
            };
            let served = detach().and_then(|()| server::cold(runtime, listener, socket, &identity));
            std::process::exit(i32::from(served.is_err()));
        }
    }
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
