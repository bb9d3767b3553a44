//! Ready-made shims of our own: started before they are needed, turned into
//! the shim of a container by one call.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_core::{Error, Result, faults};
use gantry_ttrpc::gantry::shim::v1::{AdoptRequest, ShimClient};
use gantry_ttrpc::{CallOptions, Client};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::TaskConfig;
use crate::bundle::Bundle;
use crate::dialect::Endpoint;
use crate::launch;
use crate::shim::Shim;

/// A living shim answers within microseconds.
const ADOPT: Duration = Duration::from_secs(5);
/// After a shim was taken, the next one is made when a task has been deleted,
/// or after this long: until then the container that took it, which may be a short
/// one, needs the processor more.
const REFILL: Duration = Duration::from_millis(100);
/// Between attempts to start one, when that fails.
const RETRY: Duration = Duration::from_secs(5);

/// The shims that wait. Dropping the pool closes their connections, which
/// ends them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    filler: tokio::task::JoinHandle<()>,
}

struct Shared {
    config: Arc<TaskConfig>,
    /// Oldest first. Held for pushing and popping only.
    ready: Mutex<VecDeque<Ready>>,
    taken: Notify,
    refill: Notify,
}

struct Ready {
    client: Client,
    child: Child,
}

impl Pool {
    /// Begins to fill a pool of `config.warm` shims.
    pub(crate) fn start(config: Arc<TaskConfig>) -> Self {
        let shared = Arc::new(Shared {
            config,
            ready: Mutex::default(),
            taken: Notify::new(),
            refill: Notify::new(),
        });
        let filler = tokio::spawn(fill(Arc::clone(&shared)));
        Self { shared, filler }
    }

    /// Turns a ready shim into the one of this bundle. When none is left, one
    /// that was started this moment: it reads the call as soon as it can. `None` when that failed.
    pub(crate) async fn adopt(&self, bundle: &Bundle) -> Option<Shim> {
        let ready = match self.take() {
            Some(ready) => Ok(ready),
            None => spawn(&self.shared.config),
        };
        let adopted = match ready {
            Ok(ready) => self.hand_over(ready, bundle).await,
            Err(err) => Err(err),
        };
        match adopted {
            Ok(shim) => Some(shim),
            Err(err) => {
                tracing::warn!(id = %bundle.id, error = %err, "a ready-made shim failed");
                None
            }
        }
    }

    /// The moment has come to make up for what was taken. Says nothing to whoever
    /// waits later: that would be in the middle of the next start.
    pub(crate) fn refill(&self) {
        self.shared.refill.notify_waiters();
    }

    fn take(&self) -> Option<Ready> {
        let found = loop {
            let ready = self.shared.lock().pop_front();
            match ready {
                Some(dead) if dead.client.is_closed() => reap(dead.child),
                other => break other,
            }
        };
        self.shared.taken.notify_one();
        found
    }

    async fn hand_over(&self, mut ready: Ready, bundle: &Bundle) -> Result<Shim> {
        let config = &self.shared.config;
        let request = AdoptRequest {
            namespace: bundle.namespace.as_str().to_owned(),
            id: bundle.id.clone(),
            bundle: bundle.path.display().to_string(),
            ttrpc_address: config.ttrpc_address.clone(),
            grpc_address: config.grpc_address.clone(),
            debug: config.debug,
        };
        let client = ShimClient::new(ready.client.clone());
        let adopted = client.adopt(&request, &CallOptions::default().timeout(ADOPT)).await;
        let adopted = match adopted {
            Ok(adopted) => adopted,
            Err(status) => {
                // It may have taken the bundle and failed to say so.
                let _ = ready.child.kill().await;
                return Err(Error::from(status).context("adopt"));
            }
        };
        let endpoint = Endpoint::ttrpc(3, adopted.address);
        if let Err(err) = bundle.write_endpoint(&endpoint) {
            // It would stay without its connection, and nobody would find it.
            let _ = ready.child.kill().await;
            return Err(err);
        }
        reap(ready.child);
        Ok(Shim::new(ready.client, endpoint, &bundle.namespace))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.filler.abort();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Ready>> {
        // Nothing panics under this lock.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fill(shared: Arc<Shared>) {
    loop {
        while shared.lock().len() < shared.config.warm {
            match spawn(&shared.config) {
                Ok(ready) => shared.lock().push_back(ready),
                Err(err) => {
                    tracing::warn!(error = %err, "can't keep a shim ready; starts take longer");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        shared.taken.notified().await;
        let _ = tokio::time::timeout(REFILL, shared.refill.notified()).await;
    }
}

/// Starts a shim that waits. Its end of the socket pair is its standard
/// input, so that no other program inherits it by accident.
fn spawn(config: &TaskConfig) -> Result<Ready> {
    let failed = |err| Error::io(format!("start {} -warm", config.shim_path.display()), err);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let mut command = Command::new(&config.shim_path);
    launch::environment(config, &mut command);
    command.args(["-warm", "0"]).current_dir("/").process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let child = faults::around("start a shim that waits", || command.spawn()).map_err(failed)?;
    launch::limit_files(config, &child);
    let client = Client::new(UnixStream::from_std(ours).map_err(failed)?);
    Ok(Ready { client, child })
}

/// Collects a child's exit status whenever it comes.
fn reap(mut child: Child) {
    tokio::spawn(async move { child.wait().await });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Program;
    use gantry_core::Namespace;

    #[tokio::test(start_paused = true)]
    async fn one_is_made_when_the_container_that_took_the_last_is_gone() {
        let config = TaskConfig { shim_path: "/bin/true".into(), warm: 1, ..TaskConfig::default() };
        let pool = Pool::start(Arc::new(config));
        let ready = || pool.shared.lock().len();
        // Time stands still, so only what is said moves the filler.
        let settled = || async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        settled().await;
        assert_eq!(ready(), 1);
        // Nobody waits for it: the next start is not to hear of it.
        pool.refill();
        assert!(pool.shared.lock().pop_front().is_some());
        pool.shared.taken.notify_one();
        settled().await;
        assert_eq!(ready(), 0, "made beside the container that took one");
        pool.refill();
        settled().await;
        assert_eq!(ready(), 1);
    }

    /// Needs root, and our own shim beside the tests' directory.
    #[tokio::test]
    async fn one_that_nobody_could_find_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let beside = exe.parent().unwrap().with_file_name("containerd-shim-gantry-v2");
        let config = Arc::new(TaskConfig {
            state: dir.path().join("state"),
            root: dir.path().join("root"),
            shim_path: std::env::var_os("GANTRY_SHIM").map_or(beside, Into::into),
            grpc_address: dir.path().join("d.sock").display().to_string(),
            ..TaskConfig::default()
        });
        let pool = Pool::start(Arc::clone(&config));
        let bundle = Bundle::of(&config, &Namespace::new("default").unwrap(), "c1");
        let program = Program::at(&config, config.shim_path.clone());
        bundle.create(b"{}", "", &program).unwrap();
        // No file can be put in its place.
        std::fs::create_dir(bundle.path.join("bootstrap.json")).unwrap();
        assert!(pool.adopt(&bundle).await.is_none());
        let endpoint = bundle.endpoint().expect("it had taken the bundle");
        let there = Shim::connect(endpoint, &bundle.namespace).await;
        assert!(there.is_err(), "it listens");
    }
}
