//! Kill -9 of the daemon, of a shim, in the middle of a pull: nothing is lost and
//! nothing is left over.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gantry_tests::{Daemon, Registry, leftovers, run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn containers_outlive_the_daemon_and_lose_no_output() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    let count = "i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); [ $((i%20)) = 0 ] && usleep 20000; done; exit 4";
    for name in ["w0", "w1", "w2"] {
        daemon
            .gantry(&["run", "-d", "--network", "none", "--name", name, &image, "sh", "-c", count])
            .ok();
    }
    // The fourth ends while the daemon is away.
    daemon
        .gantry(&[
            "run",
            "-d",
            "-i",
            "--network",
            "none",
            "--name",
            "fourth",
            &image,
            "sh",
            "-c",
            "echo waiting; usleep 1500000; exit 9",
        ])
        .ok();
    wait_for("output", || (daemon.gantry(&["logs", "w2"]).ok().lines().len() > 100).then_some(()));
    let fourth = pid(&daemon, "fourth");
    daemon.kill();
    wait_for("the fourth to end without a daemon", || {
        (!Path::new(&format!("/proc/{fourth}")).exists()).then_some(())
    });
    daemon.restart();
    for name in ["w0", "w1", "w2"] {
        assert_eq!(daemon.gantry(&["wait", name]).ok().text(), "4");
        let logs = daemon.gantry(&["logs", name]).ok();
        let wanted: Vec<String> = (0..4000).map(|n| format!("line {n}")).collect();
        assert!(
            logs.lines() == wanted,
            "{name}: {} lines, not each once and in order",
            logs.lines().len()
        );
    }
    assert_eq!(daemon.gantry(&["wait", "fourth"]).ok().text(), "9");
    assert_eq!(daemon.gantry(&["logs", "fourth"]).ok().stdout, "waiting\n");
    for name in ["w0", "w1", "w2", "fourth"] {
        daemon.gantry(&["rm", name]).ok();
    }
    daemon.assert_nothing_left();
    assert_eq!(leftovers::active_snapshots(&daemon, "default"), Vec::<String>::new());
}

fn pid(daemon: &Daemon, name: &str) -> u32 {
    let inspect = daemon.gantry(&["inspect", name]).ok();
    let inspect: serde_json::Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    inspect[0]["State"]["Pid"].as_u64().expect("it runs") as u32
}

/// The shim that is the parent of a container's first process.
fn shim_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let rest = stat.rsplit_once(") ").expect("a process has a name").1;
    rest.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("a parent")
}

#[test]
fn a_killed_shim_is_noticed_and_cleaned_up_after() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    daemon
        .gantry(&["run", "-d", "--network", "none", "--name", "victim", &image, "sleep", "600"])
        .ok();
    daemon
        .gantry(&["run", "-d", "--network", "none", "--name", "bystander", &image, "sleep", "600"])
        .ok();
    let first = pid(&daemon, "victim");
    kill(Pid::from_raw(shim_of(first) as i32), Signal::SIGKILL).expect("kill the shim");
    assert_eq!(daemon.gantry(&["wait", "victim"]).ok().text(), "137");
    let ps = daemon.gantry(&["ps", "-a"]).ok();
    assert!(ps.stdout.contains("Exited (137)"), "{}", ps.stdout);
    wait_for("the end of its process", || {
        (!Path::new(&format!("/proc/{first}")).exists()).then_some(())
    });
    assert_eq!(daemon.gantry(&["exec", "bystander", "echo", "fine"]).ok().stdout, "fine\n");
    daemon.gantry(&["start", "victim"]).ok();
    assert_eq!(daemon.gantry(&["exec", "victim", "echo", "again"]).ok().stdout, "again\n");
    daemon.gantry(&["rm", "-f", "victim", "bystander"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_shim_killed_while_the_daemon_is_away_is_cleaned_up_after() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    daemon
        .gantry(&["run", "-d", "--network", "none", "--name", "victim", &image, "sleep", "600"])
        .ok();
    daemon
        .gantry(&[
            "run",
            "-d",
            "--rm",
            "--network",
            "none",
            "--name",
            "vanishing",
            &image,
            "sleep",
            "600",
        ])
        .ok();
    let pids = [pid(&daemon, "victim"), pid(&daemon, "vanishing")];
    daemon.kill();
    for pid in pids {
        kill(Pid::from_raw(shim_of(pid) as i32), Signal::SIGKILL).expect("kill the shim");
    }
    daemon.restart();
    assert_eq!(daemon.gantry(&["wait", "victim"]).ok().text(), "137");
    wait_for("the removal", || {
        (!daemon.gantry(&["ps", "-a"]).ok().stdout.contains("vanishing")).then_some(())
    });
    for pid in pids {
        wait_for("the end of its process", || {
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }
    daemon.gantry(&["rm", "victim"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_graceful_stop_leaves_containers_running() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    daemon.gantry(&["run", "-d", "--network", "none", "--name", "on", &image, "sleep", "600"]).ok();
    let before = pid(&daemon, "on");
    daemon.stop();
    assert!(Path::new(&format!("/proc/{before}")).exists());
    daemon.restart();
    assert_eq!(pid(&daemon, "on"), before);
    assert_eq!(daemon.gantry(&["exec", "on", "echo", "x"]).ok().stdout, "x\n");
    daemon.gantry(&["rm", "-f", "on"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_daemon_with_another_root_leaves_the_containers_alone() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    daemon.gantry(&["run", "-d", "--network", "none", "--name", "on", &image, "sleep", "600"]).ok();
    let before = pid(&daemon, "on");
    let other = |daemon: &Daemon| {
        let mut command = Command::new(gantry_tests::paths::program("gantryd"));
        command.arg("--root").arg(daemon.scratch().join("other"));
        command.arg("--state").arg(daemon.state());
        command.arg("--address").arg(daemon.scratch().join("other.sock"));
        run(&mut command).exits(1).stderr
    };
    let said = other(&daemon);
    assert!(said.contains("is in use by another gantryd"), "{said}");
    daemon.stop();
    let said = other(&daemon);
    assert!(said.contains("belongs to the daemon with root"), "{said}");
    daemon.restart();
    assert_eq!(pid(&daemon, "on"), before);
    daemon.gantry(&["rm", "-f", "on"]).ok();
    daemon.assert_nothing_left();
}

/// Bytes that the registry has sent as blobs, from its log.
fn blob_bytes(log: &str) -> u64 {
    let answers = log.lines().filter(|l| {
        l.contains("response completed")
            && l.contains("/blobs/sha256:")
            && l.contains("http.request.method=GET")
    });
    answers
        .filter_map(|l| {
            l.split("http.response.written=").nth(1)?.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

/// Bytes of the files below directories; one with two names counts once.
fn tree_size(dirs: &[&Path]) -> u64 {
    fn look(dir: &Path, sizes: &mut BTreeMap<u64, u64>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => look(&entry.path(), sizes),
                Ok(meta) => drop(sizes.insert(meta.ino(), meta.len())),
                // It went just now.
                Err(_) => {}
            }
        }
    }
    let mut sizes = BTreeMap::new();
    dirs.iter().for_each(|dir| look(dir, &mut sizes));
    sizes.values().sum()
}

#[test]
fn a_pull_goes_on_where_the_killed_daemon_was() {
    let registry = Registry::start();
    registry.push("layers", "layers:latest");
    let image = registry.reference("layers:latest");
    let mut daemon = Daemon::start();
    let ingests = daemon.root().join("io.containerd.content.v1.content/ingest");
    let blobs = daemon.root().join("io.containerd.content.v1.content/blobs");
    let mut pull = daemon.gantry_command(&["pull", "-q", &image]);
    let mut pull = gantry_tests::start(pull.stdin(std::process::Stdio::null()));
    // In the middle: something is in flight and much is here.
    wait_for("half of it", || {
        (tree_size(&[&ingests]) > 1 << 20 && tree_size(&[&ingests, &blobs]) > 30 << 20)
            .then_some(())
    });
    daemon.kill();
    assert_ne!(pull.wait_within(Duration::from_secs(20)), Some(0), "the client ends with an error");
    let here = tree_size(&[&ingests, &blobs]);
    let total: u64 = tree_size(&[&gantry_tests::image("layers").join("blobs")]);
    assert!(here < total, "it was killed too late: {here} of {total}");
    // The registry notes the answers that were cut off once it sees that.
    let mut lengths = (0, 0);
    wait_for("the registry to settle", || {
        let now = registry.log().len();
        lengths = if now == lengths.0 { (now, lengths.1 + 1) } else { (now, 0) };
        (lengths.1 > 30).then_some(())
    });
    let log_before = registry.log().len();
    daemon.restart();
    daemon.gantry(&["pull", "-q", &image]).ok();
    let sent = blob_bytes(&registry.log()[log_before..]);
    let missing = total - here;
    assert!(sent <= missing + (4 << 20), "{sent} bytes were fetched where {missing} were missing");
    assert!(registry.log()[log_before..].contains("206"), "no range was asked for");
    let perl = daemon
        .gantry(&["run", "--rm", "--network", "none", &image, "perl", "-e", "print 6*7"])
        .ok();
    assert_eq!(perl.stdout, "42");
}

#[test]
fn layers_that_were_lost_are_unpacked_again() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    let create = ["create", "--network", "none", "--name", "old", &image, "true"];
    daemon.gantry(&create).ok();
    daemon.stop();
    let snapshots = daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    for lost in std::fs::read_dir(&snapshots).expect("snapshots").flatten() {
        std::fs::remove_dir_all(lost.path()).expect("remove a snapshot");
    }
    daemon.restart();
    let refused = daemon.gantry(&["start", "old"]);
    assert_ne!(refused.code, 0, "its own files are gone for good");
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
    daemon.gantry(&["rm", "old"]).ok();
    daemon.assert_nothing_left();
}
