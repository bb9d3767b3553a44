//! The life of containers: restart policies, pause, names, updates, and who they wait for.

use gantry_tests::{Daemon, Output, Owned, leftovers, start, wait_for};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Starts a detached container without a network.
#[track_caller]
fn detached(daemon: &Daemon, flags: &[&str], command: &[&str]) -> String {
    let image = daemon.busybox();
    let mut line = vec!["run", "-d", "--network", "none"];
    line.extend(flags);
    line.push(&image);
    line.extend(command);
    daemon.gantry(&line).ok().text().to_owned()
}

fn asked(daemon: &Daemon, format: &str, name: &str) -> String {
    daemon.gantry(&["inspect", "--format", format, name]).ok().text().to_owned()
}

fn status(daemon: &Daemon, name: &str) -> String {
    asked(daemon, "{{.State.Status}}", name)
}

fn restarts(daemon: &Daemon, name: &str) -> u32 {
    asked(daemon, "{{.RestartCount}}", name).parse().expect("a number")
}

#[track_caller]
fn wait_for_status(daemon: &Daemon, name: &str, wanted: &str) {
    wait_for(&format!("{name} to be {wanted}"), || (status(daemon, name) == wanted).then_some(()));
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &str) {
    assert_eq!(output.code, code, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(words), "{:?} lacks {words:?}", output.stderr);
}

const SLEEP: [&str; 2] = ["sleep", "600"];
/// Ends by the usual signal, at once.
const WAITER: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"];

/// Waits until a [`WAITER`] takes signals.
#[track_caller]
fn wait_until_up(daemon: &Daemon, name: &str) {
    wait_for("its trap", || daemon.gantry(&["logs", name]).stdout.contains("up").then_some(()));
}

#[test]
fn every_state_and_what_is_refused_in_it() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut line = vec!["create", "--name", "c", "--network", "none", image.as_str()];
    line.extend(SLEEP);
    daemon.gantry(&line).ok();
    assert_eq!(status(&daemon, "c"), "created");
    refused(&daemon.gantry(&["pause", "c"]), 1, "is not running");
    refused(&daemon.gantry(&["unpause", "c"]), 1, "is not paused");
    refused(&daemon.gantry(&["kill", "c"]), 1, "is not running");
    refused(&daemon.gantry(&["exec", "c", "true"]), 1, "is not running");
    refused(&daemon.gantry(&["top", "c"]), 1, "is not running");
    daemon.gantry(&["stop", "c"]).ok();
    daemon.gantry(&["start", "c"]).ok();
    assert_eq!(status(&daemon, "c"), "running");
    daemon.gantry(&["start", "c"]).ok();
    refused(&daemon.gantry(&["rm", "c"]), 1, "container is running");
    assert_eq!(daemon.gantry(&["pause", "c"]).ok().text(), "c");
    assert_eq!(status(&daemon, "c"), "paused");
    refused(&daemon.gantry(&["pause", "c"]), 1, "already paused");
    refused(&daemon.gantry(&["exec", "c", "true"]), 1, "is paused");
    refused(&daemon.gantry(&["attach", "c"]), 1, "unpause it first");
    refused(&daemon.gantry(&["rm", "c"]), 1, "is running");
    assert_eq!(daemon.gantry(&["unpause", "c"]).ok().text(), "c");
    assert_eq!(status(&daemon, "c"), "running");
    daemon.gantry(&["stop", "-t", "0", "c"]).ok();
    assert_eq!(status(&daemon, "c"), "exited");
    refused(&daemon.gantry(&["attach", "c"]), 1, "start it first");
    daemon.gantry(&["rm", "c"]).ok();
    refused(&daemon.gantry(&["start", "c"]), 1, "No such container");
    daemon.assert_nothing_left();
}

#[test]
fn a_paused_container_can_be_stopped_and_killed() {
    let daemon = Daemon::start();
    for (name, end) in [("s", ["stop", "-t", "10", "s"].as_slice()), ("k", &["kill", "k"])] {
        detached(&daemon, &["--name", name], &WAITER);
        wait_until_up(&daemon, name);
        daemon.gantry(&["pause", name]).ok();
        daemon.gantry(end).ok();
        wait_for_status(&daemon, name, "exited");
    }
    assert_eq!(asked(&daemon, "{{.State.ExitCode}}", "s"), "7");
    assert_eq!(asked(&daemon, "{{.State.ExitCode}}", "k"), "137");
}

#[test]
fn names_change_and_stay_unique() {
    let daemon = Daemon::start();
    let id = detached(&daemon, &["--name", "a"], &SLEEP);
    detached(&daemon, &["--name", "b"], &SLEEP);
    refused(&daemon.gantry(&["rename", "a", "b"]), 1, "already in use");
    refused(&daemon.gantry(&["rename", "a", "a"]), 1, "same name");
    refused(&daemon.gantry(&["rename", "a", "x y"]), 1, "Invalid container name");
    refused(&daemon.gantry(&["rename", "nope", "c"]), 1, "No such container");
    daemon.gantry(&["rename", "a", "c"]).ok();
    assert_eq!(asked(&daemon, "{{.Name}} {{.Id}}", "c"), format!("/c {id}"));
    refused(&daemon.gantry(&["container", "inspect", "a"]), 1, "No such");
    // The old name is free at once, and goes with the right container.
    detached(&daemon, &["--name", "a"], &SLEEP);
    daemon.gantry(&["rm", "-f", "c"]).ok();
    assert_eq!(status(&daemon, "a"), "running");
    daemon.gantry(&["rm", "-f", "a", "b"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_container_that_fails_is_restarted_so_often() {
    let daemon = Daemon::start();
    detached(&daemon, &["--name", "f", "--restart", "on-failure:3"], &["sh", "-c", "exit 3"]);
    wait_for_status(&daemon, "f", "exited");
    assert_eq!(restarts(&daemon, "f"), 3);
    assert_eq!(asked(&daemon, "{{.State.ExitCode}}", "f"), "3");
    // By hand it begins anew.
    daemon.gantry(&["start", "f"]).ok();
    wait_for("a new row", || (restarts(&daemon, "f") < 3).then_some(()));
    wait_for_status(&daemon, "f", "exited");
    detached(&daemon, &["--name", "w", "--restart", "on-failure"], &["true"]);
    wait_for_status(&daemon, "w", "exited");
    assert_eq!(restarts(&daemon, "w"), 0);
}

#[test]
fn delays_grow_and_the_user_has_the_last_word() {
    let daemon = Daemon::start();
    detached(&daemon, &["--name", "r", "--restart", "always"], &["sh", "-c", "echo go"]);
    // 100, 200, 400, 800 and 1600 ms behind each other, and then 3.2 s for what follows.
    wait_for("five restarts", || (restarts(&daemon, "r") >= 5).then_some(()));
    wait_for_status(&daemon, "r", "restarting");
    let ps = daemon.gantry(&["ps"]).ok();
    assert!(ps.stdout.contains("Restarting (0)"), "{}", ps.stdout);
    refused(&daemon.gantry(&["rm", "r"]), 1, "is restarting");
    refused(&daemon.gantry(&["exec", "r", "true"]), 1, "is restarting");
    let begun = Instant::now();
    daemon.gantry(&["stop", "r"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "it does not wait for the restart");
    assert_eq!(status(&daemon, "r"), "exited");
    let count = restarts(&daemon, "r");
    // Its time would come.
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!((status(&daemon, "r").as_str(), restarts(&daemon, "r")), ("exited", count));
    daemon.gantry(&["start", "r"]).ok();
    wait_for("it goes on", || (restarts(&daemon, "r") >= 1).then_some(()));
    daemon.gantry(&["rm", "-f", "r"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn policies_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    let always = ["--restart", "always"];
    detached(&daemon, &["--name", "killed", always[0], always[1]], &SLEEP);
    detached(&daemon, &["--name", "stopped", "--restart", "unless-stopped"], &SLEEP);
    detached(&daemon, &["--name", "always", always[0], always[1]], &SLEEP);
    detached(&daemon, &["--name", "never"], &SLEEP);
    daemon.gantry(&["stop", "-t", "0", "stopped", "always", "never"]).ok();
    let pid = |name: &str| asked(&daemon, "{{.State.Pid}}", name);
    let killed = pid("killed");
    daemon.kill();
    // It ends while nobody looks.
    end(&killed);
    daemon.restart();
    wait_for_status(&daemon, "killed", "running");
    assert_ne!(asked(&daemon, "{{.State.Pid}}", "killed"), killed);
    // Docker starts these with the daemon, though their user stopped them.
    wait_for_status(&daemon, "always", "running");
    assert_eq!(status(&daemon, "stopped"), "exited");
    assert_eq!(status(&daemon, "never"), "exited");
    daemon.gantry(&["rm", "-f", "killed", "stopped", "always", "never"]).ok();
    daemon.assert_nothing_left();
}

/// Kills a container's process.
fn end(pid: &str) {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a process"));
    kill(pid, Signal::SIGKILL).expect("it is there");
    wait_for("its end", || kill(pid, None).is_err().then_some(()));
}

#[test]
fn containers_start_behind_those_that_they_need() {
    let mut daemon = Daemon::start();
    let always = ["--restart", "always"];
    detached(&daemon, &["--name", "db", always[0], always[1]], &SLEEP);
    detached(&daemon, &["--name", "web", "--after", "db", always[0], always[1]], &SLEEP);
    refused(
        &daemon.gantry(&["create", "--network=none", "--after", "nope", &daemon.busybox(), "true"]),
        1,
        "No such container: nope",
    );
    let pids = ["db", "web"].map(|name| asked(&daemon, "{{.State.Pid}}", name));
    daemon.kill();
    pids.iter().for_each(|pid| end(pid));
    daemon.restart();
    for name in ["db", "web"] {
        wait_for_status(&daemon, name, "running");
    }
    let begun = ["db", "web"].map(|name| asked(&daemon, "{{.State.StartedAt}}", name));
    assert!(begun[0] < begun[1], "{begun:?}");
}

#[test]
fn restart_is_a_stop_and_a_start() {
    let daemon = Daemon::start();
    detached(&daemon, &["--name", "w", "--rm"], &WAITER);
    wait_until_up(&daemon, "w");
    let pid = asked(&daemon, "{{.State.Pid}}", "w");
    assert_eq!(daemon.gantry(&["restart", "-t", "5", "w"]).ok().text(), "w");
    assert_eq!(status(&daemon, "w"), "running", "one with --rm outlives its restart");
    assert_ne!(asked(&daemon, "{{.State.Pid}}", "w"), pid);
    wait_for("its trap", || {
        (daemon.gantry(&["logs", "w"]).stdout.matches("up").count() == 2).then_some(())
    });
    daemon.gantry(&["stop", "w"]).ok();
    wait_for("it goes", || (daemon.gantry(&["inspect", "w"]).code == 1).then_some(()));
    let image = daemon.busybox();
    daemon.gantry(&["create", "--name", "n", "--network", "none", &image, "sleep", "600"]).ok();
    daemon.gantry(&["restart", "n"]).ok();
    assert_eq!(status(&daemon, "n"), "running");
    daemon.gantry(&["rm", "-f", "n"]).ok();
    daemon.assert_nothing_left();
}

/// Has a container restarted that does not end when it is asked to, and waits until it was.
fn restart_of_deaf(daemon: &Daemon, name: &str, policy: &str) -> Owned {
    let deaf = "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done";
    detached(daemon, &["--name", name, "--restart", policy], &["sh", "-c", deaf]);
    wait_until_up(daemon, name);
    let mut restart = daemon.gantry_command(&["restart", "-t", "60", name]);
    let restart = start(restart.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for("its signal", || {
        daemon.gantry(&["logs", name]).stdout.contains("asked").then_some(())
    });
    restart
}

#[test]
fn what_was_asked_for_last_counts_while_it_is_restarted() {
    let daemon = Daemon::start();
    let patience = Duration::from_secs(20);
    for (name, policy, end) in [
        ("s", "no", &["stop", "-t", "0", "s"][..]),
        ("a", "always", &["stop", "-t", "0", "a"]),
        ("k", "always", &["kill", "k"]),
    ] {
        let mut restart = restart_of_deaf(&daemon, name, policy);
        daemon.gantry(end).ok();
        assert_eq!(restart.wait_within(patience), Some(0), "{end:?}");
        assert_eq!(asked(&daemon, "{{.State.Status}} {{.State.ExitCode}}", name), "exited 137");
    }
    let mut restart = restart_of_deaf(&daemon, "r", "always");
    daemon.gantry(&["rm", "-f", "r"]).ok();
    assert!(restart.wait_within(patience).is_some());
    assert_eq!(daemon.gantry(&["inspect", "r"]).code, 1);
    // Of two that want the same, one has to do it.
    let mut restart = restart_of_deaf(&daemon, "t", "no");
    let pid = asked(&daemon, "{{.State.Pid}}", "t");
    daemon.gantry(&["restart", "-t", "0", "t"]).ok();
    assert_eq!(restart.wait_within(patience), Some(0));
    assert_eq!(status(&daemon, "t"), "running");
    assert_ne!(asked(&daemon, "{{.State.Pid}}", "t"), pid);
    daemon.gantry(&["rm", "-f", "s", "a", "k", "t"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn start_can_join_what_it_starts() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let create = ["create", "--name", "c", "--network", "none", &image, "sh", "-c"];
    daemon.gantry(&[&create[..], &["echo out; echo err >&2; exit 5"]].concat()).ok();
    let joined = daemon.gantry(&["start", "-a", "c"]).exits(5);
    assert_eq!((joined.stdout.as_str(), joined.stderr.as_str()), ("out\n", "err\n"));
    let again = daemon.gantry(&["start", "-a", "c"]).exits(5);
    assert_eq!(again.stdout, "out\n");
    let missing = ["create", "--name", "m", "--network", "none", &image, "nope"];
    daemon.gantry(&missing).ok();
    for line in [&["start", "-a", "m"][..], &["start", "m"]] {
        refused(&daemon.gantry(line), 1, "executable file not found in $PATH");
    }
    assert_eq!(asked(&daemon, "{{.State.Status}} {{.State.ExitCode}}", "m"), "created 127");
}

#[test]
fn who_waits_learns_of_the_end_that_was_meant() {
    let daemon = Daemon::start();
    detached(&daemon, &["--name", "c"], &WAITER);
    wait_until_up(&daemon, "c");
    let mut waiting = start(daemon.gantry_command(&["wait", "c"]).stdout(Stdio::piped()));
    daemon.gantry(&["stop", "c"]).ok();
    assert_eq!(waiting.wait_within(Duration::from_secs(20)), Some(0));
    let told = std::io::read_to_string(waiting.stdout.take().expect("it is piped"));
    assert_eq!(told.expect("its output"), "7\n");
    assert_eq!(daemon.gantry(&["wait", "c"]).ok().text(), "7");
}

#[test]
fn limits_and_policy_change_while_it_runs() {
    let daemon = Daemon::start();
    detached(&daemon, &["--name", "c", "-m", "64m"], &SLEEP);
    daemon
        .gantry(&["update", "-m", "128m", "--memory-swap", "256m", "--pids-limit", "50", "c"])
        .ok();
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null \
                  || cat /sys/fs/cgroup/memory.max";
    let limit = daemon.gantry(&["exec", "c", "sh", "-c", script]).ok();
    assert_eq!(limit.text(), (128 << 20).to_string());
    assert_eq!(asked(&daemon, "{{.HostConfig.Memory}}", "c"), (128 << 20).to_string());
    daemon.gantry(&["update", "--restart", "always", "c"]).ok();
    let pid = asked(&daemon, "{{.State.Pid}}", "c");
    end(&pid);
    wait_for("the new policy starts it", || {
        (status(&daemon, "c") == "running" && asked(&daemon, "{{.State.Pid}}", "c") != pid)
            .then_some(())
    });
    // It holds for what is started later as well.
    let limit = daemon.gantry(&["exec", "c", "sh", "-c", script]).ok();
    assert_eq!(limit.text(), (128 << 20).to_string());
    refused(&daemon.gantry(&["update", "-m", "1k", "c"]), 1, "Minimum memory limit");
    refused(&daemon.gantry(&["update", "c"]), 1, "flag");
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    let daemon = Daemon::start();
    let limits = ["-m", "64m", "--memory-swap", "128m", "--pids-limit", "40"];
    detached(&daemon, &[&["--name", "c"][..], &limits].concat(), &SLEEP);
    let id = asked(&daemon, "{{.Id}}", "c");
    let groups = leftovers::cgroups(&daemon.cgroup());
    let file = |name: &str| {
        let own = groups.iter().filter(|group| group.ends_with(&id));
        own.map(|group| group.join(name)).find(|path| path.exists())
    };
    // In version 2 a group can be given more than the one above it has.
    let Some(quota) = file("cpu.cfs_quota_us") else { return };
    let above = quota.ancestors().nth(2).expect("the daemon's own group");
    fs::write(above.join("cpu.cfs_quota_us"), "50000").expect("limit the group above");
    let shown = "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}} \
                 {{.HostConfig.RestartPolicy.Name}}";
    let names = [
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "pids.max",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
    ];
    let set = || names.map(|name| file(name).and_then(|path| fs::read_to_string(path).ok()));
    let before = (asked(&daemon, shown, "c"), set());
    assert!(before.1[0].is_some() && before.1[2].is_some(), "{before:?}");
    let change = ["update", "-m", "96m", "--memory-swap", "192m", "--pids-limit", "50"];
    let refused_one = ["--restart", "always", "--cpus", "1", "c"];
    let line = [&change[..], &refused_one].concat();
    refused(&daemon.gantry(&line), 1, "cpu.cfs_quota_us");
    assert_eq!((asked(&daemon, shown, "c"), set()), before);
    daemon.gantry(&[&change[..], &["--cpus", "0.5", "c"]].concat()).ok();
    assert_eq!(set()[2].as_deref(), Some("50\n"));
    assert_eq!(set()[3].as_deref(), Some("50000\n"));
}

#[test]
fn processes_are_shown() {
    let daemon = Daemon::start();
    detached(&daemon, &["--name", "c"], &["sleep", "321"]);
    let top = daemon.gantry(&["top", "c"]).ok();
    let lines = top.lines();
    assert!(lines[0].starts_with("UID") && lines[0].contains("CMD"), "{}", top.stdout);
    assert!(lines[1].contains("sleep 321") && lines.len() == 2, "{}", top.stdout);
    let own = daemon.gantry(&["top", "c", "-o", "pid,args"]).ok();
    assert!(own.lines()[0].contains("PID") && own.stdout.contains("sleep 321"), "{}", own.stdout);
    refused(&daemon.gantry(&["top", "c", "-o", "args"]), 1, "PID");
}

#[test]
fn a_container_that_can_not_be_made_leaves_nothing() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let line = ["run", "--rm", "--network", "none", &image, "true"];
    daemon.gantry(&line).ok();
    daemon.assert_nothing_left();
    let snapshots = daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    let aside = snapshots.with_file_name("aside");
    fs::rename(&snapshots, &aside).expect("no file system can be made");
    // Its shim is there by then.
    assert_ne!(daemon.gantry(&line).code, 0);
    assert_eq!(daemon.gantry(&["ps", "-a", "-q"]).ok().text(), "");
    daemon.assert_nothing_left();
    fs::rename(&aside, &snapshots).expect("it can again");
    daemon.gantry(&line).ok();
    daemon.assert_nothing_left();
}
