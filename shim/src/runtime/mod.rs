//! The container runtime half of the shim.
//!
//! [`Runtime`] is opened once, before any thread exists. Each operation that
//! needs libcontainer runs in a throw-away worker process forked from the
//! shim, so that its side effects die with the worker. All processes made here
//! (worker, intermediate, init, exec'd processes) are direct children of the
//! shim: it reaps them with `waitpid(-1)`.
//!
//! **Architecture invariant:** the shim has one thread. The worker goes on
//! running Rust code after fork, which is sound only so.
//!
//! | module | what it does |
//! | --- | --- |
//! | `spec` | looks through config.json, refuses by name, adapts it for libcontainer |
//! | `worker` | forks the throw-away process and carries its answer back |
//! | `launch` | what the worker does: create and exec |
//! | `executor` | what runs last in the container's process: seccomp, execve |
//! | `apifs` | /dev, /sys and the like, masked and read-only paths, where they are plain |
//! | `binds` | binds of the host's cgroups and of /dev |
//! | `mounts` | root filesystem, idmapped mounts, copy-up, propagation, the view of cgroups |
//! | `nodes` | device nodes outside of /dev |
//! | `cwd` | the working directory, made where it is missing |
//! | `paths` | the root filesystem's paths, which nothing in it leads out of |
//! | `procfs` | /proc, which nothing may hide |
//! | `terminals` | terminals where libcontainer would open none |
//! | `cgroup` | v1, hybrid and v2: limits, devices, freezing, killing, readings |
//! | `record` | `shim.json`, from which a dead shim's container is torn down |

mod apifs;
mod binds;
pub mod cgroup;
mod cwd;
pub(crate) mod descriptors;
mod executor;
mod faults;
mod hooks;
mod launch;
mod loopdev;
mod mounts;
mod nodes;
mod paths;
mod procfs;
mod record;
mod rootfs;
pub mod seal;
mod seccomp;
mod spec;
pub(crate) mod sys;
mod teardown;
mod terminals;
mod types;
mod userns;
mod users;
mod worker;

pub use cgroup::oom::OomEvents;
pub use cgroup::stats::Metrics;
pub use types::{
    Cleaned, ContainerState, CreateSpec, Created, Error, ExecSpec, Options, RootfsMount, Stdio,
};

use cgroup::{Group, Host};
use executor::GO;
use hooks::When;
use launch::{STATE_DIR, Work};
use oci_spec::runtime::{LinuxResources, Process};
use record::Record;
use spec::Plan;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use types::{Inner, Pending};
use worker::{Answer, Ending, Job};

/// A network namespace whose `lo` is up.
fn spare_network() -> Result<OwnedFd, Error> {
    let own = || std::fs::File::open("/proc/self/ns/net").map(OwnedFd::from);
    let failed = |e| Error::io("make a network namespace", e);
    let home = own().map_err(failed)?;
    sys::unshare(libc::CLONE_NEWNET).map_err(failed)?;
    let made = launch::own_loopback_up().and_then(|()| own().map_err(failed));
    // A shim that can't go back must not go on.
    sys::setns(home.as_fd(), libc::CLONE_NEWNET).unwrap_or_else(|_| std::process::abort());
    made
}

/// How long a worker may take. Hooks run in it, and they may take their time.
const CREATE_LIMIT: Duration = Duration::from_secs(120);
const EXEC_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take until a started program is executed.
const START_LIMIT: Duration = Duration::from_secs(30);
/// When a container's beginning is over.
const SETTLED: Duration = Duration::from_millis(500);

/// What a worker is asked for, apart from what it does.
struct Errand<'a> {
    what: &'a str,
    id: &'a str,
    group: &'a Group,
    bundle: &'a Path,
    stdio: Stdio,
    keyring: bool,
    limit: Duration,
    /// To be born inside the container's cgroup, where that can be.
    inside: bool,
    orders: Option<OwnedFd>,
}

/// What a worker has done. It may take a moment to end.
struct Worked {
    answer: Answer,
    console: Option<OwnedFd>,
    /// Read end of the process' error pipe.
    errors: OwnedFd,
    ending: Ending,
}

/// Host facts and cgroup handles, opened once.
#[derive(Debug)]
pub struct Runtime {
    host: Host,
    seccomp_cache: PathBuf,
    /// A network namespace for the first container. Behind a lock only because
    /// it is taken through a shared reference.
    network: Mutex<Option<OwnedFd>>,
}

impl Runtime {
    /// Opens the cgroup hierarchies. Compiled seccomp filters are kept in
    /// `$GANTRY_SECCOMP_CACHE`, or in `/run/gantry/seccomp`.
    ///
    /// # Errors
    /// When no cgroup hierarchy is mounted.
    pub fn open() -> Result<Self, Error> {
        let cache = std::env::var_os("GANTRY_SECCOMP_CACHE")
            .unwrap_or_else(|| "/run/gantry/seccomp".into());
        Ok(Self { host: Host::open()?, seccomp_cache: cache.into(), network: Mutex::new(None) })
    }

    /// Makes a network namespace for the first container, and has what it needs of this
    /// program in memory, while nobody waits. A namespace that can't be made is made when it is
    /// needed, or is an error then.
    pub fn make_ready(&self) {
        spec::rehearse();
        *self.network.lock().unwrap_or_else(|e| e.into_inner()) = spare_network().ok();
    }

    /// Moves the calling process, which has one thread, into a cgroup that exists.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no hierarchy has it.
    pub fn enter(&self, path: &Path) -> Result<(), Error> {
        self.host.enter(&Group::new(path)?)
    }

    /// Creates the container; its init waits for [`Runtime::start`].
    ///
    /// # Errors
    /// A spec that can't be honoured is refused before anything is changed;
    /// whatever fails later is undone.
    pub async fn create(&self, spec: CreateSpec) -> Result<Created, Error> {
        let CreateSpec { id, bundle, rootfs, stdio, options } = spec;
        let state = bundle.join(STATE_DIR);
        if state.exists() {
            return Err(Error::State(format!(
                "container {id} exists already in {}",
                bundle.display()
            )));
        }
        let plan = Plan::read(&bundle, &id, &options, &self.host)?;
        let group = plan.group.clone();
        let poststop = !hooks::of(&plan.spec, When::Poststop).is_empty();
        let mut record = Record {
            id: id.clone(),
            cgroup: group.path().to_owned(),
            poststop,
            ..Record::default()
        };
        record.write(&bundle)?;
        let made = self.host.create(&group);
        if let Err(e) = made {
            if !matches!(e, Error::State(_)) {
                self.host.remove(&group);
            }
            Record::remove(&bundle);
            return Err(e);
        }
        match self.create_in(&group, &mut record, &bundle, plan, &rootfs, stdio, &options).await {
            Ok(created) => Ok(created),
            Err(e) => {
                self.undo(&group, &bundle).await;
                Err(e)
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request, taken apart once")]
    async fn create_in(
        &self,
        group: &Group,
        record: &mut Record,
        bundle: &Path,
        plan: Plan,
        rootfs: &[RootfsMount],
        stdio: Stdio,
        options: &Options,
    ) -> Result<Created, Error> {
        for dir in [STATE_DIR, "rootfs"] {
            let dir = bundle.join(dir);
            std::fs::create_dir_all(&dir)
                .map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        }
        self.host.restrict_devices(group, &plan.devices)?;
        let shares_pids = !spec::has_own_pids(&plan.spec);
        let program = program_of(plan.spec.process().as_ref());
        let poststart = hooks::of(&plan.spec, When::Poststart);
        let spec_for_hooks = (!poststart.is_empty()).then(|| plan.spec.clone());
        let hooked = hooks::at_start(&plan.spec);
        let (taken, orders) = sys::pipe().map_err(|e| Error::io("make the pipe for orders", e))?;
        let errand = Errand {
            what: "create the container",
            id: &record.id,
            group,
            bundle,
            stdio,
            keyring: options.no_new_keyring,
            limit: CREATE_LIMIT,
            inside: !rootfs::has_device(rootfs),
            orders: Some(taken),
        };
        let Worked { answer, console, errors, ending } =
            self.work(errand, |w| w.create(plan.spec, rootfs, options.no_pivot_root)).await?;
        let ending = if plan.limits.is_empty() {
            Some(ending)
        } else {
            // With the worker and libcontainer's helpers gone the limits are the container's alone.
            ending.wait().await;
            self.host.apply(group, &plan.limits)?;
            None
        };
        record.pid = answer.pid;
        record.start_time = answer.start_time;
        record.complete(bundle)?;
        let inner = Inner {
            group: group.clone(),
            program,
            poststart: spec_for_hooks.map(|spec| (poststart, spec)),
            hooked,
            shares_pids,
            pending: Mutex::new(Some(Pending { errors, orders, worker: ending })),
            mounts: Mutex::new(sys::mount_namespace(answer.pid).ok()),
            volatile: rootfs.iter().any(|m| m.options.iter().any(|o| o == "volatile")),
        };
        let state = ContainerState {
            id: record.id.clone(),
            bundle: bundle.to_path_buf(),
            pid: answer.pid,
            inner: Arc::new(inner),
        };
        trim_later();
        Ok(Created { pid: answer.pid, pidfd: sys::pidfd_open(answer.pid).ok(), console, state })
    }

    /// Runs a worker with what creating and executing have in common.
    async fn work<F>(&self, errand: Errand<'_>, f: F) -> Result<Worked, Error>
    where
        F: FnOnce(Work<'_>) -> Result<(Answer, Option<OwnedFd>), Error>,
    {
        let Errand { what, id, group, bundle, stdio, keyring, limit, inside, orders } = errand;
        let streams = streams(stdio)?;
        let (errors, writer) = sys::pipe().map_err(|e| Error::io("make the error pipe", e))?;
        let unified = self.host.unified().filter(|_| inside);
        let born = unified.and_then(|h| h.open(group).ok());
        let mut keep: Vec<RawFd> = self.host.descriptors().collect();
        keep.extend(streams.iter().flatten().map(AsRawFd::as_raw_fd));
        keep.push(writer.as_raw_fd());
        keep.extend(orders.as_ref().map(AsRawFd::as_raw_fd));
        let network = types::take(&self.network);
        keep.extend(network.as_ref().map(AsRawFd::as_raw_fd));
        let job = Job { what, keep, cgroup: born.as_ref().map(AsFd::as_fd), limit };
        let work = Work {
            host: &self.host,
            group,
            id,
            bundle,
            cache: &self.seccomp_cache,
            streams,
            errors: writer,
            orders,
            born: born.is_some(),
            keyring,
            network,
        };
        let (answer, console, ending) = worker::answered(job, move || f(work)).await?;
        Ok(Worked { answer, console, errors, ending })
    }

    /// Lets the created init run.
    ///
    /// # Errors
    /// [`Error::Exec`] when the executable is missing or can't be executed; the
    /// process has ended then, with the status of [`Error::exit_code`].
    pub async fn start(&self, c: &ContainerState) -> Result<(), Error> {
        let pending = types::take(&c.inner.pending);
        let Pending { errors, orders, worker } = pending
            .ok_or_else(|| Error::State(format!("container {} was started already", c.id)))?;
        if let Some(worker) = worker {
            worker.wait().await;
        }
        let failed = |e| Error::io(format!("tell container {} to start", c.id), e);
        if c.inner.hooked {
            launch::wake(&c.bundle.join(STATE_DIR).join(&c.id)).map_err(failed)?;
        }
        sys::write(orders.as_fd(), &[GO]).map_err(failed)?;
        drop(orders);
        outcome(errors, &c.inner.program, START_LIMIT).await?;
        if let Some((list, spec)) = &c.inner.poststart {
            let job = Job {
                what: "run the poststart hooks",
                keep: Vec::new(),
                cgroup: None,
                limit: CREATE_LIMIT,
            };
            let ran = worker::run(job, || {
                hooks::run(list, spec, &c.id, &c.bundle, c.pid, When::Poststart)?;
                Ok((Answer::default(), None))
            });
            if let Err(e) = ran.await {
                tracing::warn!("container {}: {e}", c.id);
            }
        }
        Ok(())
    }

    /// Runs a further process in the container: it runs when this returns.
    ///
    /// # Errors
    /// [`Error::Exec`] as with [`Runtime::start`]; [`Error::State`] while the
    /// container is paused.
    pub async fn exec(&self, c: &ContainerState, p: ExecSpec) -> Result<Created, Error> {
        let process: Process = serde_json::from_slice(&p.process).map_err(|e| {
            Error::Invalid(format!("process of {}: not a valid OCI process: {e}", p.exec_id))
        })?;
        if self.host.is_frozen(&c.inner.group) {
            return Err(Error::State(format!("container {} is paused; resume it first", c.id)));
        }
        if types::holds(&c.inner.pending) {
            return Err(Error::State(format!("container {} was not started yet", c.id)));
        }
        mark_running(&c.bundle.join(STATE_DIR).join(&c.id))?;
        let program = program_of(Some(&process));
        let init = c.pid;
        let errand = Errand {
            what: "execute the process",
            id: &c.id,
            group: &c.inner.group,
            bundle: &c.bundle,
            stdio: p.stdio,
            keyring: false,
            limit: EXEC_LIMIT,
            inside: true,
            orders: None,
        };
        let Worked { answer, console, errors, ending } =
            self.work(errand, |w| w.exec(process, init)).await?;
        ending.wait().await;
        outcome(errors, &program, START_LIMIT).await?;
        let pidfd = sys::pidfd_open(answer.pid).ok();
        Ok(Created { pid: answer.pid, pidfd, console, state: c.clone() })
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, c: &ContainerState) -> Result<(), Error> {
        self.host.freeze(&c.inner.group).await
    }

    /// Thaws the container.
    pub async fn resume(&self, c: &ContainerState) -> Result<(), Error> {
        self.host.thaw(&c.inner.group)
    }

    /// Whether the container is frozen.
    pub fn is_paused(&self, c: &ContainerState) -> bool {
        self.host.is_frozen(&c.inner.group)
    }

    /// Host pids of every process in the container's cgroup.
    pub fn pids(&self, c: &ContainerState) -> Result<Vec<i32>, Error> {
        let mut pids = self.host.pids(&c.inner.group)?;
        // libcontainer's helpers leave the cgroup a moment after they are done.
        pids.retain(|pid| !sys::is_exiting(*pid));
        Ok(pids)
    }

    /// Sends `signal` to every process of the container.
    pub async fn kill_all(&self, c: &ContainerState, signal: i32) -> Result<(), Error> {
        self.host.signal_all(&c.inner.group, signal)
    }

    /// Lets a frozen container die of the SIGKILL that its init got.
    pub fn let_die(&self, c: &ContainerState) -> Result<(), Error> {
        self.host.let_die(&c.inner.group)
    }

    /// Applies limits to the living container: all of them, or none. Device rules are never
    /// touched.
    pub fn update(&self, c: &ContainerState, resources: &LinuxResources) -> Result<(), Error> {
        let steps = cgroup::limits::plan(&self.host, resources)?;
        self.host.change(&c.inner.group, &steps)
    }

    /// What the container has used so far; of one whose init does not run, all but its network.
    pub fn stats(&self, c: &ContainerState, runs: bool) -> Result<Metrics, Error> {
        self.host.stats(&c.inner.group, runs.then_some(c.pid))
    }

    /// Opens the stream of out-of-memory kills.
    pub fn oom_events(&self, c: &ContainerState) -> Result<OomEvents, Error> {
        self.host.oom_events(&c.inner.group)
    }
}

/// What a process executes.
fn program_of(process: Option<&Process>) -> String {
    let args = process.and_then(|process| process.args().as_ref());
    args.and_then(|args| args.first()).cloned().unwrap_or_default()
}

/// Three open streams, `/dev/null` for those left out; nothing for a terminal.
fn streams(stdio: Stdio) -> Result<Option<[OwnedFd; 3]>, Error> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(None) };
    let null = || {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        opened.map(OwnedFd::from).map_err(|e| Error::io("open /dev/null", e))
    };
    let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Ok);
    Ok(Some([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?]))
}

/// Waits until the error pipe closes, which execve does, or tells why there was none.
async fn outcome(errors: OwnedFd, program: &str, limit: Duration) -> Result<(), Error> {
    let what = |e| Error::io("read the error pipe", e);
    let pipe = sys::readable(errors).map_err(what)?;
    let mut buf = [0; 16];
    let read = pipe.async_io(Interest::READABLE, |fd| sys::read(fd.as_fd(), &mut buf));
    let n = match tokio::time::timeout(limit, read).await {
        Ok(r) => r.map_err(what)?,
        Err(_) => {
            return Err(Error::Timeout(format!(
                "{program:?} was not executed within {} s",
                limit.as_secs()
            )));
        }
    };
    launch::failure(program, &buf[..n]).map_or(Ok(()), Err)
}

/// libcontainer lets processes into a container only when its state says that it runs.
fn mark_running(state: &Path) -> Result<(), Error> {
    let path = state.join("state.json");
    let what = |e: std::io::Error| Error::io(format!("update {}", path.display()), e);
    let text = std::fs::read(&path).map_err(what)?;
    let mut value: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| Error::Failed(format!("{} is unreadable: {e}", path.display())))?;
    if value["status"] == "running" {
        return Ok(());
    }
    value["status"] = "running".into();
    record::replace(&path, value.to_string().as_bytes()).map_err(what)
}

/// Gives memory back that a container's creation has left free, once nobody waits for anything:
/// one that ends at once takes it all along.
fn trim_later() {
    tokio::spawn(async {
        tokio::time::sleep(SETTLED).await;
        trim();
    });
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: returns free pages to the system, touches nothing in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
