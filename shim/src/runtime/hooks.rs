//! The hooks that run outside the container's creation: poststart and
//! poststop. The other kinds are libcontainer's to run.

use super::types::Error;
use oci_spec::runtime::{Hook, Spec};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which hooks to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// After the program was started.
    Poststart,
    /// After the container was torn down.
    Poststop,
}

/// The hooks of a spec for one occasion.
pub(crate) fn of(spec: &Spec, when: When) -> Vec<Hook> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    let list = match when {
        When::Poststart => hooks.poststart(),
        When::Poststop => hooks.poststop(),
    };
    list.clone().unwrap_or_default()
}

/// Whether there are hooks that libcontainer runs after the start and before the program.
pub(crate) fn at_start(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    hooks.is_some_and(|hooks| !hooks.is_empty())
}

/// Runs hooks one after the other; the container's state comes on their standard
/// input. To be called in a worker: it waits for its own children.
pub(crate) fn run(
    hooks: &[Hook],
    spec: &Spec,
    id: &str,
    bundle: &Path,
    pid: i32,
    when: When,
) -> Result<(), Error> {
    let status = if when == When::Poststop { "stopped" } else { "running" };
    let mut state = serde_json::json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": status,
        "bundle": bundle,
        "annotations": spec.annotations().clone().unwrap_or_default(),
    });
    if when == When::Poststart {
        state["pid"] = pid.into();
    }
    let state = state.to_string();
    let mut failed = None;
    for hook in hooks {
        if let Err(e) = one(hook, &state) {
            // The rest is run all the same: later hooks may undo what earlier ones did.
            tracing::warn!("{e}");
            failed.get_or_insert(e);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn one(hook: &Hook, state: &str) -> Result<(), Error> {
    let name = hook.path().display();
    let what = |step: &str, e| Error::io(format!("hook {name}: {step}"), e);
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_deref().and_then(|a| a.split_first()) {
        use std::os::unix::process::CommandExt;
        command.arg0(first).args(rest);
    }
    command.env_clear().envs(hook.env().iter().flatten().filter_map(|e| e.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| what("start it", e))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read its input.
        let _ = input.write_all(state.as_bytes());
    }
    let limit = hook
        .timeout()
        .and_then(|t| u64::try_from(t).ok())
        .filter(|t| *t > 0)
        .map(Duration::from_secs);
    let status = wait(&mut child, limit).map_err(|e| what("wait for it", e))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Failed(format!("hook {name} failed: {status}")))
    }
}

fn wait(child: &mut Child, limit: Option<Duration>) -> std::io::Result<std::process::ExitStatus> {
    let Some(limit) = limit else { return child.wait() };
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "it took longer than its timeout",
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
