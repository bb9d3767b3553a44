//! One container or shim that hangs is nobody else's trouble; who gives up gets away at once,
//! and leaves nothing half-done.

mod given_up;

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Output, leftovers, run_within, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What waits for nobody takes less, on a machine with other things to do as well. A shim is
/// given up after longer.
const SOON: Duration = Duration::from_secs(8);
const NONE: [&str; 2] = ["--network", "none"];
const SLEEP: [&str; 2] = ["sleep", "600"];

/// Starts a detached container.
#[track_caller]
fn detached(daemon: &Daemon, name: &str, command: &[&str]) -> String {
    let image = daemon.busybox();
    let line = [&["run", "-d", "--name", name][..], &NONE, &[image.as_str()], command].concat();
    daemon.gantry(&line).ok().text().to_owned()
}

/// A command that must not wait for anybody.
#[track_caller]
fn soon(daemon: &Daemon, line: &[&str]) -> Output {
    run_within(&mut daemon.gantry_command(line), SOON)
}

fn asked(daemon: &Daemon, format: &str, name: &str) -> String {
    soon(daemon, &["inspect", "--format", format, name]).ok().text().to_owned()
}

/// Waits until a container has said something.
#[track_caller]
fn wait_for_word(daemon: &Daemon, name: &str, word: &str) {
    wait_for(&format!("{word:?} of {name}"), || {
        daemon.gantry(&["logs", name]).stdout.contains(word).then_some(())
    });
}

/// The shim of a container: the parent of its first process.
fn shim_of(daemon: &Daemon, name: &str) -> Pid {
    let status = format!("/proc/{}/status", asked(daemon, "{{.State.Pid}}", name));
    let status = fs::read_to_string(status).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    Pid::from_raw(parent.trim().parse().expect("a process"))
}

/// A process that is stopped, until it is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).expect("stop a process");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// What everybody does all the time, beside a container `bad` that hangs.
fn nobody_waits(daemon: &Daemon) {
    let image = daemon.busybox();
    for line in [
        &["ps"][..],
        &["ps", "-a", "--no-trunc"],
        &["inspect", "bad"],
        &["inspect", "good"],
        &["stats", "--no-stream"],
        &["logs", "bad"],
        &["logs", "good"],
        &["top", "good"],
        &["exec", "good", "true"],
        &["pause", "good"],
        &["unpause", "good"],
        &["update", "--restart", "no", "good"],
        &["rename", "good", "fine"],
        &["rename", "fine", "good"],
        &["images"],
        &["volume", "ls"],
        &["info"],
        &["system", "df"],
        &["events", "--since", "1h", "--until", "0s"],
        &["run", "--rm", NONE[0], NONE[1], &image, "true"],
        &["run", "-d", "--name", "third", NONE[0], NONE[1], &image, "sleep", "600"],
        &["stop", "-t", "0", "third"],
        &["start", "third"],
        &["restart", "-t", "0", "third"],
        &["rm", "-f", "third"],
    ] {
        soon(daemon, line).ok();
    }
    let ps = soon(daemon, &["ps", "--format", "{{.Names}} {{.State}}"]).ok();
    let mut lines = ps.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["bad running", "good running"]);
}

#[test]
fn a_stuck_shim_holds_up_its_own_container() {
    let daemon = Daemon::start();
    for name in ["bad", "good"] {
        detached(&daemon, name, &SLEEP);
    }
    let shim = Stopped::new(shim_of(&daemon, "bad"));
    let exec = ["exec", "bad", "true"];
    let mut waiting = start(daemon.gantry_command(&exec).stdout(Stdio::null()));
    nobody_waits(&daemon);
    assert_eq!(waiting.wait_within(Duration::ZERO), None, "it hangs all the time");
    drop(shim);
    assert_eq!(waiting.wait_within(Duration::from_secs(20)), Some(0));
    daemon.gantry(&["rm", "-f", "bad", "good"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_daemon_starts_beside_a_stuck_shim() {
    let mut daemon = Daemon::start();
    for name in ["bad", "good"] {
        detached(&daemon, name, &SLEEP);
    }
    let pid = asked(&daemon, "{{.State.Pid}}", "bad");
    let shim = Stopped::new(shim_of(&daemon, "bad"));
    daemon.kill();
    daemon.restart();
    daemon.gantry(&["ps"]).ok();
    assert_eq!(asked(&daemon, "{{.State.Status}} {{.State.Pid}}", "bad"), format!("running {pid}"));
    let stats = soon(&daemon, &["stats", "--no-stream", "--format", "{{.Name}}"]).ok();
    assert_eq!(stats.lines(), ["bad", "good"]);
    nobody_waits(&daemon);
    drop(shim);
    wait_for("its shim", || (daemon.gantry(&["exec", "bad", "true"]).code == 0).then_some(()));
    assert_eq!(asked(&daemon, "{{.State.Pid}}", "bad"), pid);
    daemon.gantry(&["stop", "-t", "0", "bad"]).ok();
    assert_eq!(asked(&daemon, "{{.State.ExitCode}}", "bad"), "137");
    daemon.gantry(&["rm", "-f", "bad", "good"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn what_a_stuck_shim_could_not_tell_is_told_when_it_goes_on() {
    let mut daemon = Daemon::start();
    detached(&daemon, "paused", &SLEEP);
    daemon.gantry(&["pause", "paused"]).ok();
    let trap = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";
    detached(&daemon, "ended", &["sh", "-c", trap]);
    detached(&daemon, "good", &SLEEP);
    wait_for_word(&daemon, "ended", "up");
    let ended = asked(&daemon, "{{.State.Pid}}", "ended").parse().expect("a process");
    let shims = ["paused", "ended"].map(|name| Stopped::new(shim_of(&daemon, name)));
    daemon.kill();
    kill(Pid::from_raw(ended), Signal::SIGTERM).expect("it runs");
    daemon.restart();
    // As far as anybody knows.
    for name in ["paused", "ended"] {
        assert_eq!(asked(&daemon, "{{.State.Status}}", name), "running");
    }
    soon(&daemon, &["exec", "good", "true"]).ok();
    drop(shims);
    wait_for("what is paused", || {
        (asked(&daemon, "{{.State.Status}}", "paused") == "paused").then_some(())
    });
    assert_eq!(soon(&daemon, &["wait", "ended"]).ok().text(), "7");
    soon(&daemon, &["unpause", "paused"]).ok();
    soon(&daemon, &["exec", "paused", "true"]).ok();
    daemon.gantry(&["rm", "-f", "paused", "ended", "good"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn what_a_stuck_shim_does_late_is_known() {
    let daemon = Daemon::start();
    let names = ["paused", "updated", "removed"];
    names.iter().for_each(|name| drop(detached(&daemon, name, &SLEEP)));
    let limit = || {
        let script = "cat /sys/fs/cgroup/pids.max || cat /sys/fs/cgroup/pids/pids.max";
        daemon.gantry(&["exec", "updated", "sh", "-c", script]).ok().text().to_owned()
    };
    let before = limit();
    let shims = names.map(|name| Stopped::new(shim_of(&daemon, name)));
    let lines = [
        &["pause", "paused"][..],
        &["update", "--pids-limit", "55", "updated"],
        &["rm", "-f", "removed"],
    ];
    let clients = lines
        .map(|line| start(daemon.gantry_command(line).stdout(Stdio::null()).stderr(Stdio::null())));
    let codes = clients.map(|mut client| client.wait_within(Duration::from_secs(60)));
    assert_eq!(codes, [Some(1), Some(1), Some(0)]);
    let names = daemon.gantry(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    assert!(!names.stdout.contains("removed"), "{}", names.stdout);
    drop(shims);
    wait_for("what is paused", || {
        (asked(&daemon, "{{.State.Status}}", "paused") == "paused").then_some(())
    });
    soon(&daemon, &["unpause", "paused"]).ok();
    soon(&daemon, &["exec", "paused", "true"]).ok();
    wait_for("the limit of before", || (limit() == before).then_some(()));
    daemon.gantry(&["rm", "-f", "paused", "updated"]).ok();
    daemon.assert_nothing_left();
}

/// So often something was told.
fn told(daemon: &Daemon, action: &str) -> usize {
    let line = ["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"];
    let events = daemon.gantry(&line).ok();
    events.lines().iter().filter(|line| **line == action).count()
}

#[test]
fn a_removal_that_a_new_daemon_finishes_tells_the_end() {
    let mut daemon = Daemon::start();
    detached(&daemon, "c", &SLEEP);
    let shim = Stopped::new(shim_of(&daemon, "c"));
    let remove = ["rm", "-f", "c"];
    let mut client = start(daemon.gantry_command(&remove).stderr(Stdio::null()));
    wait_for("the signal", || (told(&daemon, "kill") == 1).then_some(()));
    daemon.kill();
    assert_ne!(client.wait_within(SOON), Some(0));
    drop(shim);
    daemon.restart();
    wait_for("the removal", || (told(&daemon, "destroy") == 1).then_some(()));
    assert_eq!(told(&daemon, "die"), 1);
    daemon.assert_nothing_left();
}

#[test]
fn a_removal_that_a_new_daemon_finishes_needs_no_shim() {
    let mut daemon = Daemon::start();
    detached(&daemon, "c", &SLEEP);
    let _shim = Stopped::new(shim_of(&daemon, "c"));
    let remove = ["rm", "-f", "c"];
    let mut client = start(daemon.gantry_command(&remove).stderr(Stdio::null()));
    wait_for("the signal", || (told(&daemon, "kill") == 1).then_some(()));
    daemon.kill();
    assert_ne!(client.wait_within(SOON), Some(0));
    daemon.restart();
    let begun = Instant::now();
    while told(&daemon, "destroy") == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the shim is not given up");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(told(&daemon, "die"), 1);
    daemon.assert_nothing_left();
}

/// Freezes a container behind the daemon's back.
fn freeze(daemon: &Daemon, id: &str) {
    let all = leftovers::cgroups(&daemon.cgroup());
    let find = |file: &str| {
        let mut own = all.iter().filter(|dir| dir.ends_with(id)).map(|dir| dir.join(file));
        own.find(|path| path.exists())
    };
    let (switch, word, told, frozen) = match find("freezer.state") {
        Some(state) => (state.clone(), "FROZEN", state, "FROZEN\n"),
        None => {
            let switch = find("cgroup.freeze").expect("a hierarchy can freeze it");
            (switch, "1", find("cgroup.events").expect("it tells"), "frozen 1")
        }
    };
    fs::write(&switch, word).expect("freeze");
    wait_for("frost", || fs::read_to_string(&told).ok().filter(|text| text.contains(frozen)));
}

#[test]
fn a_frozen_container_holds_up_nobody() {
    let daemon = Daemon::start();
    let id = detached(&daemon, "bad", &SLEEP);
    detached(&daemon, "good", &SLEEP);
    freeze(&daemon, &id);
    nobody_waits(&daemon);
    assert_ne!(soon(&daemon, &["exec", "bad", "true"]).code, 0);
    // It can't end by itself, and is killed.
    soon(&daemon, &["stop", "-t", "1", "bad"]).ok();
    assert_eq!(asked(&daemon, "{{.State.ExitCode}}", "bad"), "137");
    daemon.gantry(&["rm", "-f", "bad", "good"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn many_are_stopped_at_once() {
    const MANY: u32 = 20;
    const GRACE: Duration = Duration::from_secs(2);
    let daemon = Daemon::start();
    let deaf = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"];
    let names: Vec<String> = (0..MANY).map(|n| format!("deaf{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.iter().for_each(|name| drop(detached(&daemon, name, &deaf)));
    names.iter().for_each(|name| wait_for_word(&daemon, name, "up"));
    let begun = Instant::now();
    let stop = [&["stop", "-t", "2"], &names[..]].concat();
    let stopped = run_within(&mut daemon.gantry_command(&stop), GRACE * MANY).ok();
    let took = begun.elapsed();
    assert_eq!(stopped.lines(), names, "told in the order of the line");
    assert!(took >= GRACE && took < GRACE * MANY / 2, "{took:?}");
    let inspect = [&["inspect", "--format", "{{.State.ExitCode}}"], &names[..]].concat();
    let codes = daemon.gantry(&inspect).ok();
    assert_eq!(codes.lines(), vec!["137"; MANY as usize]);
    daemon.gantry(&[&["rm"], &names[..]].concat()).ok();
    daemon.assert_nothing_left();
}
