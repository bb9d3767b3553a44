//! `gantryd`: the container engine's daemon. This file reads as the wiring
//! diagram; what each part does is in its own crate.
#![deny(unsafe_code)]

mod config;
mod doors;
#[cfg(feature = "failpoints")]
mod faults;
mod introspection;
mod listen;
mod memory;
mod notify;
mod serve;
mod socket;
mod state;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use config::Config;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Gantry's daemon: serves containerd's gRPC API and gantry.engine.v1 on a unix socket, and, when
/// its configuration says so, on further ones and on TCP with certificates.
///
/// Containers outlive it: it may be stopped, killed and replaced while they run.
#[derive(Parser)]
#[command(name = "gantryd", version, max_term_width = 100)]
struct Args {
    /// Configuration file (TOML).
    #[arg(short, long, value_name = "FILE", help = format!("Configuration file, TOML [default: {}]", config::DEFAULT_PATH))]
    config: Option<PathBuf>,
    /// Directory for what outlives a restart of the machine [default: /var/lib/gantry].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory for what is lost with a restart of the machine [default: /run/gantry].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Unix socket to serve on [default: /run/gantry/gantry.sock].
    #[arg(short, long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// trace, debug, info, warn or error [default: info].
    #[arg(short, long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// The parts of the environment that matter. Read once, here.
struct Environment {
    notify_socket: Option<String>,
    docker_config: Option<PathBuf>,
    /// The soft limit of open files, where the daemon has raised its own.
    files: Option<u64>,
}

impl Environment {
    fn read() -> Self {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
        Self {
            notify_socket: std::env::var("NOTIFY_SOCKET").ok(),
            docker_config: std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
            files: raise_files(),
        }
    }
}

/// Lets the daemon open as many files as it may: published ports take one each until a shim has
/// them. Returns the limit from before, which containers are to have.
fn raise_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft == hard {
        return None;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(soft)
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err);
            ExitCode::FAILURE
        }
    }
}

/// For failures before, after or of logging.
#[expect(clippy::print_stderr, reason = "the last word of a program that ends")]
fn complain(err: &anyhow::Error) {
    eprintln!("gantryd: {err:#}");
}

fn start(args: Args) -> Result<()> {
    let config = configure(args)?;
    let environment = Environment::read();
    log(&config);
    #[cfg(feature = "failpoints")]
    faults::arm()?;
    memory::frugal();
    // Directories and files are for root alone unless said otherwise.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_keep_alive(std::time::Duration::from_secs(4))
        // Whatever happens, some worker wakes up for it.
        .on_thread_unpark(memory::forgetter().context("start the forgetter")?)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    let result = runtime.block_on(serve::run(config, environment));
    // What blocks still, such as a hung disk, must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// The configuration file with what the command line says over it.
fn configure(args: Args) -> Result<Config> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(root) = args.root {
        config.root = root;
    }
    if let Some(state) = args.state {
        config.state = state;
    }
    if let Some(address) = args.address {
        config.grpc.address = match address.to_str().and_then(|a| a.strip_prefix("unix://")) {
            Some(path) => path.into(),
            None => address,
        };
    }
    if let Some(level) = args.log_level {
        config.log.level = level;
    }
    config.validate()?;
    Ok(config)
}

/// Log lines go to standard error, where a service manager or a person takes them.
fn log(config: &Config) {
    use std::io::IsTerminal;
    let level = &config.log.level;
    // Libraries speak of themselves only when all is wanted.
    let filter = if level == "trace" {
        level.clone()
    } else {
        format!(
            "{level},h2=warn,hyper=warn,hyper_util=warn,tower=warn,rustls=warn,reqwest=warn,tonic=warn,oci_client=warn"
        )
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
