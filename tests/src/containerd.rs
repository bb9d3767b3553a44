use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::in_memory;
use crate::processes::{Owned, own};
use crate::{Output, paths, run, run_within, wait_for};

/// Debian's containerd, one of the test's own. Its state lies on a tmpfs, as /run
/// is, and it finds the built shim by the name of its runtime.
pub struct Containerd {
    dir: TempDir,
    state: TempDir,
    child: Owned,
}

impl Containerd {
    /// Starts one, and waits until it serves.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-containerd-").tempdir().expect("tempdir");
        let state = in_memory("gantry-containerd");
        let config = format!(
            "version = 2\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             root = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n",
            dir.path().join("root"),
            state.path(),
            dir.path().join("c.sock"),
        );
        std::fs::write(dir.path().join("config.toml"), config).expect("write the configuration");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        let search = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.path().join("config.toml"));
        command.env("PATH", format!("{}:{search}", paths::bin().display()));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share")).stderr(log);
        let child = own(&mut command).expect("containerd starts");
        let containerd = Self { dir, state, child };
        wait_for("containerd", || {
            let mut version = containerd.ctr_command(&["version"]);
            (run_within(&mut version, Duration::from_secs(5)).code == 0).then_some(())
        });
        containerd
    }

    /// A command of `ctr` for it.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.address()).args(args);
        command
    }

    /// Runs `ctr`.
    pub fn ctr(&self, args: &[&str]) -> Output {
        run(&mut self.ctr_command(args))
    }

    /// Its state directory, in which its shims work.
    pub fn state(&self) -> PathBuf {
        self.state.path().to_owned()
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    /// A directory for the test's own files, gone with it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}
