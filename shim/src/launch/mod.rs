//! From a command line to a serving process.

mod address;
mod cli;
mod delete;
mod dialect;
mod features;
mod info;
mod start;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

pub use address::{Bound, bind, group_of, socket_path, strip_scheme, write_atomically};
pub use cli::{Command, Flags, USAGE, parse};
pub use dialect::Dialect;
pub(crate) use start::detach;

use crate::error::{self, Error};
use crate::runtime::seal;
use crate::server;

/// What the caller's environment says, read once at start.
#[derive(Debug, Default, Clone)]
pub struct Environment {
    /// `TTRPC_ADDRESS`: where events go.
    pub ttrpc_address: String,
    /// `GRPC_ADDRESS`: the daemon, if `-address` is absent.
    pub grpc_address: String,
    /// `NAMESPACE`, if `-namespace` is absent.
    pub namespace: String,
    /// `MAX_SHIM_VERSION`, if the caller sets it.
    pub max_shim_version: Option<u32>,
    /// `SCHED_CORE`: give the container a core-scheduling cookie of its own.
    pub sched_core: bool,
}

impl Environment {
    fn read() -> Self {
        let get = |name| std::env::var(name).unwrap_or_default();
        Self {
            ttrpc_address: get("TTRPC_ADDRESS"),
            grpc_address: get("GRPC_ADDRESS"),
            namespace: get("NAMESPACE"),
            max_shim_version: get("MAX_SHIM_VERSION").parse().ok(),
            sched_core: !matches!(get("SCHED_CORE").as_str(), "" | "0" | "false"),
        }
    }
}

/// Runs the program: everything behind `main`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let env = Environment::read();
    let command = match parse(args, &env) {
        Ok(command) => command,
        Err(e) => {
            complain(&format!("{e}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let done = match command {
        // Containers must not reach this program's file: see `runtime::seal`.
        Command::Start(flags) => sealed().and_then(|()| start::run(&flags, &env)),
        Command::Delete(flags) => delete::run(&flags).and_then(|answer| say(&answer)),
        Command::Info => start::read_stdin()
            .and_then(|options| info::message(&options))
            .and_then(|info| say(&info)),
        Command::Version => say(info::version().as_bytes()),
        Command::Help => say(format!("{USAGE}\n").as_bytes()),
        Command::Warm(fd) => sealed().and_then(|()| server::warm(fd)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn sealed() -> Result<(), Error> {
    seal::reexec().map_err(Error::from)
}

fn say(bytes: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| error::io("answer on standard output", e))
}

fn complain(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "containerd-shim-gantry-v2: {text}");
}
