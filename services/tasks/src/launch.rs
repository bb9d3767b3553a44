//! Getting a shim that listens, for a bundle that exists.

use std::process::Stdio;
use std::time::Duration;

use gantry_core::{Any, Error, Kind, Result, faults};
use gantry_ttrpc::containerd::runtime::bootstrap::v1::{BootstrapParams, Extension, LogLevel};
use gantry_ttrpc::convert;
use prost::Message;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::TaskConfig;
use crate::bundle::Bundle;
use crate::dialect::{self, Endpoint};
use crate::runtime::Program;
use crate::shim::Shim;

/// A shim that does not print its address by then never will.
const START: Duration = Duration::from_secs(30);
/// The most that is read of what a shim prints.
const MAX_OUTPUT: usize = 64 * 1024;
/// A field that an Any has not. Among `BootstrapParams` it would be a text, and is none.
const NO_PARAMS: [u8; 3] = [0x22, 1, 0xff];

/// Starts a shim the way containerd does, and connects to it.
///
/// There are two dialects of standard input, with no middle ground: older
/// shims take nothing or their options and die of anything else; the newest
/// insist on `BootstrapParams`. The older way is tried first, since it fails without a trace.
/// An answer to the newer way counts only when it is given in that.
///
/// # Errors
/// `Internal` with what the shim said, `Unavailable` when it does not listen.
pub(crate) async fn cold(
    config: &TaskConfig,
    bundle: &Bundle,
    program: &Program,
    options: Option<&Any>,
) -> Result<Shim> {
    let first = start(config, bundle, program, &plain(options)).await;
    let read = |answer: Vec<u8>| dialect::parse(&answer).map_err(|e| e.context("start the shim"));
    let endpoint = match first.and_then(read) {
        Err(first) if !program.own && first.kind() != Kind::DeadlineExceeded => {
            newest(config, bundle, program, options).await.ok_or(first)?
        }
        other => other?,
    };
    let connected = match bundle.write_endpoint(&endpoint) {
        Ok(()) => Shim::connect(endpoint.clone(), &bundle.namespace).await,
        Err(err) => Err(err),
    };
    if connected.is_err() {
        end(endpoint, bundle).await;
    }
    connected
}

/// Starts a shim in the newest way.
async fn newest(
    config: &TaskConfig,
    bundle: &Bundle,
    program: &Program,
    options: Option<&Any>,
) -> Option<Endpoint> {
    let params = params(config, bundle, options).encode_to_vec();
    let answer = match start(config, bundle, program, &params).await {
        Ok(answer) => answer,
        Err(err) => {
            tracing::debug!(error = %err, "the shim refused bootstrap parameters as well");
            return None;
        }
    };
    let endpoint = dialect::newest(&answer);
    // One that knows no parameters may have taken them for something else.
    if endpoint.is_none()
        && let Ok(other) = dialect::parse(&answer)
    {
        end(other, bundle).await;
    }
    endpoint
}

/// Ends a shim that is of no use, as far as it can be reached.
async fn end(endpoint: Endpoint, bundle: &Bundle) {
    if let Ok(shim) = Shim::connect(endpoint, &bundle.namespace).await {
        let _ = shim.shutdown(&bundle.id).await;
    }
}

async fn start(
    config: &TaskConfig,
    bundle: &Bundle,
    program: &Program,
    stdin: &[u8],
) -> Result<Vec<u8>> {
    let mut command = command(config, bundle, program);
    command.arg("start");
    run(config, command, stdin, START).await
}

/// The command line that every shim understands; the action is still to come.
pub(crate) fn command(config: &TaskConfig, bundle: &Bundle, program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command.args(["-namespace", bundle.namespace.as_str(), "-address", &config.grpc_address]);
    command.arg("-publish-binary").arg(&config.daemon_path).args(["-id", &bundle.id]);
    if config.debug {
        command.arg("-debug");
    }
    command.current_dir(&bundle.path);
    environment(config, &mut command);
    command
        .env("TTRPC_ADDRESS", &config.ttrpc_address)
        .env("GRPC_ADDRESS", &config.grpc_address)
        .env("NAMESPACE", bundle.namespace.as_str())
        .env("MAX_SHIM_VERSION", "2");
    command
}

/// What a shim gets of the daemon's environment: hardly anything, since it
/// outlives the daemon.
pub(crate) fn environment(config: &TaskConfig, command: &mut Command) {
    command.env_clear();
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.env("PATH", path);
    if !config.seccomp_cache.as_os_str().is_empty() {
        command.env("GANTRY_SECCOMP_CACHE", &config.seccomp_cache);
    }
}

/// Runs a shim's command to its end; returns what it printed.
///
/// # Errors
/// `Internal` with its standard error when it fails, `DeadlineExceeded` when
/// it takes too long: it is killed then.
pub(crate) async fn run(
    config: &TaskConfig,
    mut command: Command,
    stdin: &[u8],
    limit: Duration,
) -> Result<Vec<u8>> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    // Its own group: a Ctrl-C at the daemon's terminal is not for shims.
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |err| Error::io(format!("run {program}"), err);
    let mut child = faults::around("run a shim's program", || command.spawn()).map_err(failed)?;
    limit_files(config, &child);
    let input = child.stdin.take();
    let work = async {
        if let Some(mut input) = input {
            // A program that does not read its input is free to do so.
            let _ = input.write_all(stdin).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(limit, work).await {
        Ok(output) => output.map_err(failed)?,
        Err(_) => {
            return Err(Error::new(
                Kind::DeadlineExceeded,
                format!("run {program}: no end in {limit:?}: deadline exceeded"),
            ));
        }
    };
    if output.status.success() {
        let mut out = output.stdout;
        out.truncate(MAX_OUTPUT);
        return Ok(out);
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said[..said.len().min(2048)]);
    Err(Error::internal(format!("run {program}: {}: {}", output.status, said.trim())))
}

/// Gives a program that has just been started the limit of open files that shims are to have, and
/// what they start inherits. Our own start nothing before they have read what is sent to them.
pub(crate) fn limit_files(config: &TaskConfig, child: &Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (Some(soft), Some(pid)) = (config.files, pid) else { return };
    let limit = Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) };
    if let Err(err) = prlimit(Some(pid), Resource::Nofile, limit) {
        tracing::debug!(error = %err, "limit the open files of a shim");
    }
}

/// Options as older shims take them: an Any, which the newest don't take for parameters.
fn plain(options: Option<&Any>) -> Vec<u8> {
    let Some(options) = options else { return Vec::new() };
    [convert::any(options.clone()).encode_to_vec().as_slice(), &NO_PARAMS].concat()
}

fn params(config: &TaskConfig, bundle: &Bundle, options: Option<&Any>) -> BootstrapParams {
    let level = if config.debug { LogLevel::Debug } else { LogLevel::Info };
    let options = options.map(|options| Extension { value: Some(convert::any(options.clone())) });
    BootstrapParams {
        instance_id: bundle.id.clone(),
        namespace: bundle.namespace.as_str().to_owned(),
        log_level: level.into(),
        containerd_version: env!("CARGO_PKG_VERSION").to_owned(),
        containerd_ttrpc_address: config.ttrpc_address.clone(),
        containerd_grpc_address: config.grpc_address.clone(),
        containerd_binary: config.daemon_path.display().to_string(),
        extensions: options.into_iter().collect(),
        ..BootstrapParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_have_their_own_limit_of_files() {
        let config = TaskConfig { files: Some(64), ..TaskConfig::default() };
        let mut command = Command::new("sh");
        command.args(["-c", "read line; ulimit -Sn"]);
        let told = run(&config, command, b"go\n", START).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&told), "64\n");
    }

    #[test]
    fn options_are_no_parameters() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0x20, 7] };
        let any = convert::any(options.clone());
        assert!(BootstrapParams::decode(any.encode_to_vec().as_slice()).is_ok());
        let plain = plain(Some(&options));
        assert!(BootstrapParams::decode(plain.as_slice()).is_err());
        assert_eq!(prost_types::Any::decode(plain.as_slice()).unwrap(), any);
    }
}
