//! The engines that are measured, each with root and state of its own: the
//! state on a tmpfs, as /run is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use gantry_tests::{Containerd, Daemon, Dockerd, Options, Registry, image, run_within};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::report::Report;

/// In place of podman's own, which may be above what a machine allows.
const PODMAN_LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// An engine or a runtime.
pub(crate) enum Peer {
    Gantry(Box<Daemon>, String),
    Containerd(Containerd, String),
    Docker(Dockerd, String),
    Podman(Storage, String),
    /// A low-level runtime, `runc` or `crun`, with its bundle and its state.
    Runtime(&'static str, PathBuf, PathBuf),
}

/// Podman's storage. It keeps its directory mounted on itself; left behind, every
/// mount table of the machine would be longer from then on.
pub(crate) struct Storage(TempDir);

impl Drop for Storage {
    fn drop(&mut self) {
        let mounted = self.0.path().join("root/overlay");
        // Once for each command, at most.
        let detach = || nix::mount::umount2(&mounted, nix::mount::MntFlags::MNT_DETACH);
        while detach().is_ok() {}
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn tempdir(name: &str) -> TempDir {
    tempfile::Builder::new().prefix(&format!("gantry-bench-{name}-")).tempdir().expect("tempdir")
}

fn ok(command: &mut Command) -> String {
    run_within(command, Duration::from_secs(300)).ok().stdout
}

/// Starts what is installed and gives each the image.
pub(crate) fn start(registry: &Registry, report: &mut Report) -> Vec<Peer> {
    let busybox = registry.reference("busybox:latest");
    let gantry = Daemon::with(Options { in_service: true, ..Options::default() });
    gantry.gantry(&["pull", "-q", &busybox]).ok();
    let bundle = bundle(&gantry, &busybox);
    let runtimes = gantry.state().with_file_name("runtimes");
    let mut peers = vec![Peer::Gantry(Box::new(gantry), busybox.clone())];
    if installed("containerd") && installed("ctr") {
        peers.push(containerd(&busybox));
    } else {
        report.note("containerd is not installed".into());
    }
    if installed("dockerd") {
        peers.push(docker(&busybox));
    } else {
        report.note("docker is not installed".into());
    }
    if installed("podman") && installed("runc") {
        let peer = Peer::Podman(Storage(tempdir("podman")), busybox.clone());
        ok(peer.podman().args(["pull", "-q", "--tls-verify=false", &busybox]));
        peers.push(peer);
    } else {
        report.note("podman or runc is not installed".into());
    }
    for runtime in ["runc", "crun"] {
        if installed(runtime) {
            peers.push(Peer::Runtime(runtime, bundle.clone(), runtimes.join(runtime)));
        } else {
            report.note(format!("{runtime} is not installed"));
        }
    }
    peers.retain(|peer| {
        let probe = run_within(&mut peer.run(), Duration::from_secs(60));
        if probe.code != 0 {
            report.note(format!("{} does not run here: {}", peer.name(), probe.stderr.trim()));
        }
        probe.code == 0
    });
    peers
}

fn containerd(busybox: &str) -> Peer {
    let peer = Peer::Containerd(Containerd::start(), busybox.into());
    ok(peer.client().args(["images", "pull", "--plain-http", busybox]));
    peer
}

fn docker(busybox: &str) -> Peer {
    let peer = Peer::Docker(Dockerd::start(None), busybox.into());
    ok(peer.client().args(["pull", "-q", busybox]));
    peer
}

/// A bundle with the specification that Gantry makes, seccomp profile included, for bare
/// runtimes.
fn bundle(daemon: &Daemon, busybox: &str) -> PathBuf {
    let name = "bench-spec";
    let id = daemon.gantry(&["create", "--network", "none", "--name", name, busybox, "true"]).ok();
    let info = daemon.ctr(&["-n", "default", "containers", "info", id.text()]).ok();
    let info: Value = serde_json::from_str(&info.stdout).expect("JSON");
    let mut spec = info["Spec"].clone();
    let dir = daemon.scratch().join("bundle");
    fs::create_dir_all(&dir).expect("make the bundle");
    let layout = format!("{}:latest", image("busybox").display());
    ok(Command::new("umoci").args(["unpack", "--image", &layout]).arg(dir.join("image")));
    spec["root"] = json!({"path": dir.join("image/rootfs")});
    spec["linux"]["cgroupsPath"] = json!(format!("{}/bench", daemon.cgroup()));
    if let Some(user) = spec["process"]["user"].as_object_mut() {
        user.remove("username");
    }
    let mounts = spec["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|m| m["type"] != "bind");
    fs::write(dir.join("config.json"), spec.to_string()).expect("write the bundle");
    daemon.gantry(&["rm", name]).ok();
    dir
}

impl Peer {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Peer::Gantry(..) => "gantry",
            Peer::Containerd(..) => "containerd + ctr",
            Peer::Docker(..) => "docker",
            Peer::Podman(..) => "podman + runc",
            Peer::Runtime("runc", ..) => "runc run (bare)",
            Peer::Runtime(..) => "crun run (bare)",
        }
    }

    fn podman(&self) -> Command {
        let Peer::Podman(Storage(dir), _) = self else { unreachable!("asked of podman only") };
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(dir.path().join("root"))
            .arg("--runroot")
            .arg(dir.path().join("run"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        // crun, its first choice, refuses machines with both kinds of cgroups.
        command.args(["--runtime", "runc"]);
        command
    }

    fn client(&self) -> Command {
        match self {
            Peer::Gantry(daemon, _) => daemon.gantry_command(&[]),
            Peer::Containerd(server, _) => server.ctr_command(&[]),
            Peer::Docker(server, _) => server.command(&[]),
            Peer::Podman(..) => self.podman(),
            Peer::Runtime(runtime, _, state) => {
                let mut command = Command::new(runtime);
                command.arg("--root").arg(state);
                command
            }
        }
    }

    /// The command that runs a container to its end.
    pub(crate) fn run(&self) -> Command {
        let unique = unique();
        let mut command = self.client();
        match self {
            Peer::Gantry(_, image) | Peer::Docker(_, image) => {
                command.args(["run", "--rm", "--network", "none", image, "true"])
            }
            Peer::Podman(_, image) => {
                command.arg("run").args(PODMAN_LIMITS).args(["--rm", "--network", "none"]);
                command.args([image, "true"])
            }
            Peer::Containerd(_, image) => command.args(["run", "--rm", image, &unique, "true"]),
            Peer::Runtime(_, bundle, _) => {
                command.arg("run").arg("--bundle").arg(bundle).arg(unique)
            }
        };
        command
    }

    /// Commands that pull an image and forget it again.
    pub(crate) fn pull(&self, image: &str) -> Option<(Command, Vec<Command>)> {
        let with = |args: &[&str]| {
            let mut command = self.client();
            command.args(args);
            command
        };
        match self {
            Peer::Containerd(..) => Some((
                with(&["images", "pull", "--plain-http", image]),
                vec![with(&["images", "rm", "--sync", image])],
            )),
            Peer::Docker(..) => Some((with(&["pull", "-q", image]), vec![with(&["rmi", image])])),
            Peer::Podman(..) => Some((
                with(&["pull", "-q", "--tls-verify=false", image]),
                vec![with(&["rmi", image])],
            )),
            Peer::Gantry(..) | Peer::Runtime(..) => None,
        }
    }

    /// Process IDs of the daemon, and the name of its shims.
    pub(crate) fn processes(&self) -> Option<(Vec<u32>, &'static str)> {
        match self {
            Peer::Gantry(daemon, _) => Some((vec![daemon.pid()], "containerd-shim-gantry-v2")),
            Peer::Containerd(server, _) => Some((vec![server.pid()], "containerd-shim-runc-v2")),
            Peer::Docker(server, _) => {
                let parent = server.pid().to_string();
                let children = gantry_tests::leftovers::processes(|pid| {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    stat.rsplit_once(") ")
                        .is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(&parent))
                });
                Some((
                    std::iter::once(server.pid()).chain(children).collect(),
                    "containerd-shim-runc-v2",
                ))
            }
            Peer::Podman(..) | Peer::Runtime(..) => None,
        }
    }

    /// Starts container number `n`, which sleeps.
    pub(crate) fn sleep(&self, n: usize) {
        let name = format!("sleeper{n}");
        let mut command = self.client();
        match self {
            Peer::Gantry(_, image) | Peer::Docker(_, image) => command.args([
                "run",
                "-d",
                "--network",
                "none",
                "--name",
                &name,
                image,
                "sleep",
                "600",
            ]),
            Peer::Containerd(_, image) => command.args(["run", "-d", image, &name, "sleep", "600"]),
            // Without a daemon there is nothing to measure.
            Peer::Podman(..) | Peer::Runtime(..) => return,
        };
        ok(&mut command);
    }

    /// Ends container number `n`.
    pub(crate) fn end(&self, n: usize) {
        let name = format!("sleeper{n}");
        let with = |args: &[&str]| {
            let mut command = self.client();
            run_within(command.args(args), Duration::from_secs(60));
        };
        match self {
            Peer::Containerd(..) => {
                with(&["tasks", "rm", "-f", &name]);
                with(&["containers", "rm", &name]);
            }
            Peer::Runtime(..) => {}
            _ => with(&["rm", "-f", &name]),
        }
    }
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
