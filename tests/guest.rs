//! Containers on cgroup v2, in an emulated guest: `make test-v2`.
//!
//! The test binary boots the guest and runs itself in there, where the
//! functions of [`inside`] do their work.

use std::time::Duration;

use gantry_tests::{Guest, Registry};

/// Set inside of the guest, to what it is to do.
const INSIDE: &str = "GANTRY_GUEST";

/// Whether this process runs inside of a guest that is to do `what`.
pub(crate) fn inside(what: &str) -> bool {
    std::env::var(INSIDE).is_ok_and(|v| v == what)
}

/// A script that runs tests of this binary inside of the guest.
pub(crate) fn script(what: &str, filter: &str) -> String {
    let exe = std::env::current_exe().expect("a running program has a path");
    format!(
        "{INSIDE}={what} {} --test-threads 1 --nocapture {filter} >/mnt/run/output 2>&1\necho $? >/mnt/run/status",
        exe.display()
    )
}

#[test]
fn containers_on_cgroup_v2() {
    if std::env::var_os("GANTRY_TEST_GUEST").is_none() {
        return;
    }
    // The guest can't build images: they have to be here.
    Registry::shared();
    let shared = tempfile::Builder::new().prefix("gantry-guest-").tempdir().expect("tempdir");
    let mut guest = Guest::boot(shared.path(), &script("v2", "guest::v2::"), None);
    guest.wait(Duration::from_secs(900));
    let output = std::fs::read_to_string(shared.path().join("output")).unwrap_or_default();
    let status = std::fs::read_to_string(shared.path().join("status")).unwrap_or_default();
    assert_eq!(status.trim(), "0", "{output}\n--- console\n{}", guest.console());
    assert!(!output.contains("running 0 tests"), "{output}");
}

/// What runs inside of the guest.
mod v2 {
    use std::path::Path;

    use gantry_tests::{Daemon, wait_for};

    use super::inside;

    fn group(daemon: &Daemon, id: &str) -> std::path::PathBuf {
        Path::new("/sys/fs/cgroup").join(daemon.cgroup().trim_start_matches('/')).join(id)
    }

    fn read(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name))
            .unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()))
            .trim()
            .to_owned()
    }

    #[test]
    fn limits_read_back() {
        if !inside("v2") {
            return;
        }
        let daemon = Daemon::start();
        let image = daemon.busybox();
        let space = daemon.name().to_owned();
        let ctr = |args: &[&str]| {
            let mut all = vec!["-n", space.as_str()];
            all.extend(args);
            daemon.ctr(&all)
        };
        ctr(&["images", "pull", "--plain-http", &image]).ok();
        ctr(&[
            "run",
            "-d",
            "--memory-limit",
            "67108864",
            "--cpus",
            "0.5",
            &image,
            "lim",
            "sleep",
            "600",
        ])
        .ok();
        let dir = group(&daemon, "lim");
        assert_eq!(read(&dir, "memory.max"), "67108864");
        assert_eq!(read(&dir, "cpu.max"), "50000 100000");
        let metrics = ctr(&["tasks", "metrics", "--format", "json", "lim"]).ok();
        let metrics: serde_json::Value = serde_json::from_str(&metrics.stdout).expect("JSON");
        assert_eq!(metrics["memory"]["usage_limit"], 67_108_864, "{metrics}");
        assert!(metrics["cpu"]["usage_usec"].as_u64().is_some_and(|n| n > 0), "{metrics}");
        ctr(&["tasks", "pause", "lim"]).ok();
        assert_eq!(read(&dir, "cgroup.freeze"), "1");
        assert!(ctr(&["tasks", "ls"]).ok().stdout.contains("PAUSED"));
        ctr(&["tasks", "resume", "lim"]).ok();
        assert_eq!(read(&dir, "cgroup.freeze"), "0");
        ctr(&["tasks", "kill", "-s", "9", "lim"]).ok();
        wait_for("the end", || ctr(&["tasks", "ls"]).ok().stdout.contains("STOPPED").then_some(()));
        ctr(&["tasks", "rm", "lim"]);
        ctr(&["containers", "rm", "lim"]).ok();
        daemon.assert_nothing_left();
    }

    #[test]
    fn devices_are_denied() {
        if !inside("v2") {
            return;
        }
        let daemon = Daemon::start();
        let image = daemon.busybox();
        let script = "head -c1 /dev/zero | wc -c; mknod /tmp/tun c 10 200; cat /tmp/tun 2>&1; mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>&1";
        let out = daemon.gantry(&["run", "--rm", "--network", "none", &image, "sh", "-c", script]);
        let lines = out.lines();
        assert_eq!(lines[0], "1", "{out:?}");
        assert!(
            lines[1].contains("Operation not permitted")
                && lines[2].contains("Operation not permitted"),
            "{out:?}"
        );
        daemon.assert_nothing_left();
    }

    #[test]
    fn out_of_memory_is_reported() {
        if !inside("v2") {
            return;
        }
        let daemon = Daemon::start();
        let image = daemon.busybox();
        let space = daemon.name().to_owned();
        daemon.ctr(&["-n", &space, "images", "pull", "--plain-http", &image]).ok();
        let mut events =
            gantry_tests::Terminal::start(daemon.ctr_command(&["-n", &space, "events"]));
        wait_for("the subscription", || {
            daemon.ctr(&["-n", &space, "containers", "create", &image, "probe", "true"]).ok();
            daemon.ctr(&["-n", &space, "containers", "rm", "probe"]).ok();
            events.poll();
            events.rest().contains("/containers/delete").then_some(())
        });
        let eat = [
            "-n",
            &space,
            "run",
            "--rm",
            "--memory-limit",
            "16777216",
            &image,
            "oom",
            "sh",
            "-c",
            "x=a; while :; do x=$x$x; done",
        ];
        let out = daemon.ctr(&eat);
        assert_eq!(out.code, 137, "{out:?}");
        events.expect("/tasks/oom");
        daemon.assert_nothing_left();
    }

    #[test]
    fn run_exec_kill_and_exit_codes() {
        if !inside("v2") {
            return;
        }
        let daemon = Daemon::start();
        let image = daemon.busybox();
        daemon.gantry(&["run", "--rm", "--network", "none", &image, "sh", "-c", "exit 3"]).exits(3);
        daemon
            .gantry(&["run", "-d", "--network", "none", "--name", "xx", &image, "sleep", "600"])
            .ok();
        let cgroup = daemon.gantry(&["exec", "xx", "cat", "/proc/self/cgroup"]).ok();
        assert_eq!(cgroup.text(), "0::/", "an exec'd process is in the container's cgroup");
        let seccomp = daemon.gantry(&["exec", "xx", "grep", "Seccomp:", "/proc/self/status"]).ok();
        assert!(seccomp.text().ends_with('2'));
        let own = daemon.gantry(&["exec", "xx", "cat", "/sys/fs/cgroup/memory.max"]).ok();
        assert_eq!(own.text(), "max", "the container sees its own cgroup");
        let other =
            daemon.gantry(&["exec", "-u", "1000", "xx", "cat", "/sys/fs/cgroup/memory.max"]).ok();
        assert_eq!(other.text(), "max", "not only root may look");
        let raise = "echo 1 > /sys/fs/cgroup/pids.max; mount -o remount,rw /sys/fs/cgroup && echo 2 > /sys/fs/cgroup/pids.max";
        let raised = daemon.gantry(&["exec", "xx", "sh", "-c", raise]);
        assert_ne!(raised.code, 0, "the container must not change its own limits: {raised:?}");
        daemon.gantry(&["kill", "xx"]).ok();
        assert_eq!(daemon.gantry(&["wait", "xx"]).ok().text(), "137");
        daemon.gantry(&["rm", "xx"]).ok();
        daemon.assert_nothing_left();
    }
}
