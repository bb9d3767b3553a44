//! Debian's containerd with our shim.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gantry_tests::{Output, Registry, paths, run, wait_for};

/// A containerd of the test's own.
struct Containerd {
    dir: tempfile::TempDir,
    child: std::process::Child,
    namespace: String,
}

impl Containerd {
    fn start() -> Self {
        gantry_tests::adopt_orphans();
        let dir = tempfile::Builder::new().prefix("gantry-stock-").tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{}\"\n",
            path("root"),
            path("state"),
            path("c.sock")
        );
        fs::write(dir.path().join("config.toml"), config).expect("write the configuration");
        let log = fs::File::create(dir.path().join("log")).expect("log");
        // The shim is found on the path.
        let search =
            format!("{}:{}", paths::bin().display(), std::env::var("PATH").unwrap_or_default());
        let child = Command::new("containerd")
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .env("PATH", search)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share"))
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        let namespace = format!("stock{}", std::process::id());
        let containerd = Self { dir, child, namespace };
        wait_for("containerd", || (containerd.ctr(&["version"]).code == 0).then_some(()));
        containerd
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    fn ctr(&self, args: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        run(command.arg("--address").arg(self.socket()).args(["-n", &self.namespace]).args(args))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stock_containerd_runs_our_shim() {
    let containerd = Containerd::start();
    let image = Registry::shared().reference("busybox:latest");
    containerd.ctr(&["images", "pull", "--plain-http", &image]).ok();
    let runtime = ["--runtime", "io.containerd.gantry.v2"];
    let with = |args: &[&str]| {
        let mut all = vec!["run"];
        all.extend(runtime);
        all.extend(args);
        containerd.ctr(&all)
    };
    assert_eq!(with(&["--rm", &image, "a", "echo", "hello"]).ok().stdout, "hello\n");
    with(&["--rm", &image, "b", "sh", "-c", "exit 3"]).exits(3);
    with(&["-d", &image, "c", "sleep", "600"]).ok();
    assert!(containerd.ctr(&["tasks", "ls"]).ok().stdout.contains("RUNNING"));
    assert_eq!(
        containerd.ctr(&["tasks", "exec", "--exec-id", "e", "c", "echo", "in"]).ok().stdout,
        "in\n"
    );
    containerd.ctr(&["tasks", "pause", "c"]).ok();
    containerd.ctr(&["tasks", "resume", "c"]).ok();
    containerd.ctr(&["tasks", "metrics", "c"]).ok();
    containerd.ctr(&["tasks", "kill", "-s", "9", "c"]).ok();
    wait_for("the end", || {
        containerd.ctr(&["tasks", "ls"]).ok().stdout.contains("STOPPED").then_some(())
    });
    containerd.ctr(&["tasks", "rm", "c"]);
    containerd.ctr(&["containers", "rm", "c"]).ok();
    assert_eq!(containerd.ctr(&["containers", "ls", "-q"]).ok().text(), "");
    let groups = gantry_tests::leftovers::cgroups(&format!("/{}", containerd.namespace));
    assert_eq!(groups, Vec::<PathBuf>::new());
    let dir = containerd.dir.path().to_owned();
    wait_for("the shims to end", || {
        let of_us = |pid| {
            fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.starts_with(dir.join("state")))
        };
        gantry_tests::leftovers::processes(of_us).is_empty().then_some(())
    });
}
