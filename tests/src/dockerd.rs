use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::daemon::in_memory;
use crate::processes::{Owned, own};
use crate::{Host, Output, run, run_within, wait_for};

/// Debian's dockerd, one of the test's own, which leaves the machine's network and
/// firewall alone.
pub struct Dockerd {
    dir: TempDir,
    _state: TempDir,
    child: Owned,
    _host: Option<Arc<Host>>,
}

impl Dockerd {
    /// Starts one with a containerd of its own, or on the socket of a server that
    /// stands in for it, and waits until it serves.
    pub fn start(containerd: Option<&Path>) -> Self {
        Self::with(containerd, None)
    }

    /// Starts one with networks, as it is by default, on a machine of the test's own.
    pub fn on(host: &Arc<Host>) -> Self {
        Self::with(None, Some(Arc::clone(host)))
    }

    fn with(containerd: Option<&Path>, host: Option<Arc<Host>>) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-dockerd-").tempdir().expect("tempdir");
        let state = in_memory("gantry-dockerd");
        let mut command = Command::new("dockerd");
        for (flag, path) in [
            ("--data-root", dir.path().join("root")),
            ("--exec-root", state.path().to_owned()),
            ("--pidfile", dir.path().join("pid")),
        ] {
            command.arg(flag).arg(path);
        }
        command.arg("-H").arg(format!("unix://{}", dir.path().join("d.sock").display()));
        match &host {
            Some(host) => host.enter(&mut command),
            None => {
                command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
                command.args(["--ip-forward=false", "--ip-masq=false"]);
            }
        }
        if let Some(containerd) = containerd {
            command.arg("--containerd").arg(containerd);
        }
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share")).stderr(log);
        let child = own(&mut command).expect("dockerd starts");
        let docker = Self { dir, _state: state, child, _host: host };
        wait_for("dockerd", || {
            let version = run_within(&mut docker.command(&["version"]), Duration::from_secs(5));
            (version.code == 0).then_some(())
        });
        docker
    }

    /// A command of Debian's `docker` for it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        let socket = self.dir.path().join("d.sock");
        command.arg("-H").arg(format!("unix://{}", socket.display())).args(args);
        command
    }

    /// Runs `docker`.
    pub fn docker(&self, args: &[&str]) -> Output {
        run(&mut self.command(args))
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containers and its containerd.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait_within(Duration::from_secs(30));
    }
}
