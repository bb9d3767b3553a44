//! The end of a container: deleted, undone after a failed create, or torn down
//! from its bundle alone when its shim was killed.

use super::cgroup::{Group, Host};
use super::hooks::{self, When};
use super::launch::STATE_DIR;
use super::record::Record;
use super::worker::{self, Answer, Job};
use super::{CREATE_LIMIT, Cleaned, ContainerState, Error, Runtime, spec, types};
use std::path::Path;
use std::time::Duration;

/// By then a shim with one container has ended, and the mounts with it.
const HELD: Duration = Duration::from_millis(200);

/// Lets go of the container's mounts. Unless the root filesystem is given up as
/// well, its users may mount it again next, so it is unmounted when this returns.
fn release_mounts(c: &ContainerState) {
    let held = types::take(&c.inner.mounts);
    if c.inner.volatile {
        tokio::spawn(async move {
            tokio::time::sleep(HELD).await;
            drop(held);
        });
    }
}

impl Runtime {
    /// Removes what is left of a container whose init has exited: processes
    /// that outlived it, cgroups, state; then runs the poststop hooks. Idempotent.
    pub async fn delete(&self, c: ContainerState) -> Result<(), Error> {
        let record = Record::read(&c.bundle)?;
        if record.as_ref().is_some_and(Record::alive) {
            return Err(Error::State(format!("container {} still runs; stop it first", c.id)));
        }
        release_mounts(&c);
        let group = &c.inner.group;
        if !self.host.remove(group) {
            self.host.signal_all(group, libc::SIGKILL)?;
            self.host.remove_patiently(group).await?;
        }
        remove_state(&c.bundle)?;
        if record.is_some_and(|r| r.poststop) {
            let job = Job {
                what: "run the poststop hooks",
                keep: Vec::new(),
                cgroup: None,
                limit: CREATE_LIMIT,
            };
            let ran =
                worker::run(job, || poststop(&c.bundle, &c.id).map(|()| (Answer::default(), None)));
            if let Err(e) = ran.await {
                tracing::warn!("container {}: {e}", c.id);
            }
        }
        Record::remove(&c.bundle);
        Ok(())
    }

    /// Undoes a create that failed half-way.
    pub(super) async fn undo(&self, group: &Group, bundle: &Path) {
        let undone = async {
            self.host.signal_all(group, libc::SIGKILL)?;
            self.host.remove_patiently(group).await
        };
        if let Err(e) = undone.await {
            // The record stays, so that the next cleanup finds what is left.
            tracing::warn!("undo a failed create: {e}");
            return;
        }
        if let Err(e) = remove_state(bundle) {
            tracing::warn!("undo a failed create: {e}");
            return;
        }
        Record::remove(bundle);
    }

    /// Tear-down that knows only the bundle: kills what is left, removes
    /// cgroups and state, runs the poststop hooks. For a process of its own,
    /// after the shim was killed. Idempotent.
    pub fn cleanup(bundle: &Path, id: &str) -> Result<Cleaned, Error> {
        let Some(record) = Record::read(bundle)? else {
            remove_state(bundle)?;
            return Ok(Cleaned { pid: 0, exit_status: 137 });
        };
        let host = Host::open()?;
        if record.alive() {
            // SAFETY: takes integers; the pid is init's, by its start time.
            unsafe { libc::kill(record.pid, libc::SIGKILL) };
        }
        if let Ok(group) = Group::new(Path::new(&record.cgroup)) {
            host.signal_all(&group, libc::SIGKILL)?;
            host.remove_blocking(&group)?;
        }
        remove_state(bundle)?;
        if record.poststop
            && let Err(e) = poststop(bundle, id)
        {
            tracing::warn!("container {id}: {e}");
        }
        Record::remove(bundle);
        Ok(Cleaned { pid: u32::try_from(record.pid).unwrap_or(0), exit_status: 137 })
    }
}

fn poststop(bundle: &Path, id: &str) -> Result<(), Error> {
    let spec = spec::load(bundle)?;
    hooks::run(&hooks::of(&spec, When::Poststop), &spec, id, bundle, 0, When::Poststop)
}

fn remove_state(bundle: &Path) -> Result<(), Error> {
    let state = bundle.join(STATE_DIR);
    match std::fs::remove_dir_all(&state) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", state.display()), e))
        }
        _ => Ok(()),
    }
}
