use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::processes::{Owned, own};
use crate::{Host, Output, Registry, leftovers, paths, run, wait_for};

/// How a test wants its daemon.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further lines of the configuration.
    pub config: String,
    /// A build other than `gantryd`.
    pub program: Option<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    /// Root directory in place of one below the test's own directory.
    pub root: Option<PathBuf>,
    /// As in service, for measurements: its log at the default level, its state
    /// on a tmpfs, as /run is.
    pub in_service: bool,
    /// Where it runs. Without one it may not have networks: they would be the real machine's.
    pub host: Option<Arc<Host>>,
}

/// A daemon of the test's own. Dropping it ends its containers and itself and removes
/// its files.
pub struct Daemon {
    dir: TempDir,
    /// The state, when it lies elsewhere.
    memory: Option<TempDir>,
    root: PathBuf,
    name: String,
    options: Options,
    child: Option<Owned>,
}

/// A directory on a tmpfs.
pub fn in_memory(name: &str) -> TempDir {
    let prefix = format!("{name}-");
    tempfile::Builder::new().prefix(&prefix).tempdir_in("/dev/shm").expect("tempdir")
}

impl Daemon {
    /// Starts one.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts one with options.
    pub fn with(options: Options) -> Self {
        let mut daemon = Self::unstarted(options);
        daemon.restart();
        daemon
    }

    /// One that does not run yet.
    pub fn unstarted(options: Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        crate::adopt_orphans();
        let name = format!("gt{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().expect("tempdir");
        let root = options.root.clone().unwrap_or_else(|| dir.path().join("root"));
        let memory = options.in_service.then(|| in_memory(&name));
        let daemon = Self { dir, memory, root, name, options, child: None };
        daemon.write_config();
        daemon
    }

    fn write_config(&self) {
        let networks = match self.options.host {
            Some(_) => "",
            None => "[networks]\nenabled = false\n",
        };
        let config = format!(
            "{networks}[containers]\ncgroup_parent = \"/{}\"\n{}\n",
            self.name, self.options.config
        );
        std::fs::write(self.config(), config).expect("write the configuration");
    }

    /// Replaces the further lines of its configuration, for its next start.
    pub fn set_config(&mut self, config: &str) {
        self.options.config = config.to_owned();
        self.write_config();
    }

    /// Further environment, for its next start.
    pub fn set_env(&mut self, env: Vec<(String, String)>) {
        self.options.env = env;
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command =
            Command::new(paths::program(self.options.program.as_deref().unwrap_or("gantryd")));
        command.arg("--config").arg(self.config());
        command.arg("--root").arg(self.root()).arg("--state").arg(self.state());
        command.arg("--address").arg(self.address());
        if !self.options.in_service {
            command.args(["--log-level", "debug"]);
        }
        command.envs(self.options.env.iter().map(|(k, v)| (k, v)));
        if let Some(host) = &self.options.host {
            host.enter(&mut command);
        }
        command
    }

    /// Starts it when it does not run, and waits until it serves.
    pub fn restart(&mut self) {
        self.try_restart().unwrap_or_else(|why| panic!("{why}"));
    }

    /// [`Daemon::restart`] for one that may end at once.
    ///
    /// # Errors
    /// What it said.
    pub fn try_restart(&mut self) -> Result<(), String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = log.expect("open the daemon's log");
        let err = log.try_clone().expect("share the log");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(err);
        self.child = own(&mut command);
        let log = self.log_path();
        let address = self.address();
        let child = self.child.as_mut().expect("it was just started");
        wait_for("the daemon's socket", || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(format!("the daemon ended with {status}:\n{}", tail(&log))));
            }
            std::os::unix::net::UnixStream::connect(&address).ok().map(|_| Ok(()))
        })
    }

    /// Whether it ends by itself within a second.
    pub fn ends_soon(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started");
        child.wait_within(Duration::from_secs(1)).is_some()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill();
        }
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            let code = child.wait_within(Duration::from_secs(20));
            assert_eq!(
                code,
                Some(0),
                "the daemon does not end on SIGTERM: {}",
                tail(&self.log_path())
            );
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(|c| c.id()).expect("the daemon runs")
    }

    /// What is mounted where it is, as long as it runs.
    pub(crate) fn mounts(&self) -> String {
        let process = self.child.as_ref().map_or("self".to_owned(), |child| child.id().to_string());
        std::fs::read_to_string(format!("/proc/{process}/mounts")).unwrap_or_default()
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.dir.path().join("g.sock")
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.memory.as_ref().unwrap_or(&self.dir).path().join("state")
    }

    /// A directory for the test's own files, gone with the daemon.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The cgroup below which its containers are.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    /// Its name, unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("gantryd.log")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A `gantry` command for this daemon.
    pub fn gantry_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(paths::program("gantry"));
        command.env("GANTRY_ADDRESS", self.address()).env("NO_COLOR", "1").args(args);
        command
    }

    /// Runs `gantry`.
    pub fn gantry(&self, args: &[&str]) -> Output {
        run(&mut self.gantry_command(args))
    }

    /// A command of Debian's `ctr` for this daemon.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        // Its FIFOs, so that tests see which are whose.
        command.arg("--address").arg(self.address()).args(args);
        command
    }

    /// Runs Debian's `ctr`.
    pub fn ctr(&self, args: &[&str]) -> Output {
        run(&mut self.ctr_command(args))
    }

    /// Pulls `busybox` and returns its reference.
    pub fn busybox(&self) -> String {
        let reference = Registry::shared().reference("busybox:latest");
        self.gantry(&["pull", "-q", &reference]).ok();
        reference
    }

    /// Fails when something of its containers is left over.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        leftovers::assert_none(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln_log(&self.log_path());
        }
        self.kill();
        leftovers::remove(self);
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// For a failed test: what the daemon had to say last.
#[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
fn eprintln_log(path: &Path) {
    eprintln!("--- end of the daemon's log\n{}", tail(path));
}
