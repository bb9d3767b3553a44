//! Debian's dockerd with gantryd in containerd's place.

use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_tests::{Daemon, Dockerd, Registry, Terminal, run, wait_for};

/// A daemon, and a dockerd on its socket with an image.
fn start() -> (Daemon, Dockerd, String) {
    let daemon = Daemon::start();
    let docker = Dockerd::start(Some(&daemon.address()));
    let image = Registry::shared().reference("busybox:latest");
    docker.docker(&["pull", "-q", &image]).ok();
    (daemon, docker, image)
}

fn state(docker: &Dockerd, name: &str, field: &str) -> String {
    let format = format!("{{{{.State.{field}}}}}");
    docker.docker(&["inspect", "-f", &format, name]).ok().text().to_owned()
}

#[test]
fn dockers_commands() {
    let (daemon, docker, image) = start();
    let none = ["--network", "none"];
    let with = |first: &[&str], rest: &[&str]| docker.docker(&[first, &none, rest].concat());
    assert_eq!(with(&["run", "--rm"], &[&image, "echo", "hello"]).ok().stdout, "hello\n");
    with(&["run", "--rm"], &[&image, "sh", "-c", "exit 3"]).exits(3);
    with(&["run", "--rm"], &[&image, "/nope"]).exits(127);

    let mut piped = Command::new("sh");
    piped.arg("-c").arg("printf 'in\\nput\\n' | \"$@\"").arg("sh").arg("/usr/bin/docker");
    let run_i = docker.command(&["run", "-i", "--rm", "--network", "none", &image, "cat"]);
    piped.args(run_i.get_args()).stdout(Stdio::piped());
    assert_eq!(run(&mut piped).ok().stdout, "in\nput\n");
    let shell = ["run", "-it", "--rm", "--network", "none", &image, "sh"];
    let mut terminal = Terminal::start(docker.command(&shell));
    terminal.expect("# ");
    terminal.send("tty; exit 5\n");
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.wait(), 5);

    let long =
        [&image, "sh", "-c", "echo started; trap 'exit 7' TERM; while :; do sleep 0.1; done"];
    with(&["run", "-d", "--init", "--name", "c1"], &long).ok();
    wait_for("its output", || (docker.docker(&["logs", "c1"]).stdout == "started\n").then_some(()));
    assert_eq!(docker.docker(&["exec", "c1", "echo", "inside"]).ok().stdout, "inside\n");
    docker.docker(&["exec", "c1", "sh", "-c", "exit 4"]).exits(4);
    let top = docker.docker(&["top", "c1"]).ok();
    assert!(top.stdout.contains("init"), "{}", top.stdout);
    let format = "{{.MemUsage}} {{.PIDs}}";
    let stats = docker.docker(&["stats", "--no-stream", "--format", format, "c1"]).ok();
    assert!(!stats.stdout.contains("0B / 0B") && stats.stdout.contains('B'), "{}", stats.stdout);
    docker.docker(&["pause", "c1"]).ok();
    assert_eq!(state(&docker, "c1", "Status"), "paused");
    docker.docker(&["unpause", "c1"]).ok();
    assert_eq!(state(&docker, "c1", "Status"), "running");
    docker.docker(&["update", "--memory", "64m", "--memory-swap", "-1", "c1"]).ok();
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let limit = docker.docker(&["exec", "c1", "sh", "-c", limit]);
    assert!(limit.stdout.contains("67108864"), "{limit:?}");
    docker.docker(&["stop", "c1"]).ok();
    assert_eq!(state(&docker, "c1", "ExitCode"), "7");
    docker.docker(&["start", "c1"]).ok();
    docker.docker(&["kill", "c1"]).ok();
    wait_for("its end", || (state(&docker, "c1", "ExitCode") == "137").then_some(()));
    docker.docker(&["restart", "c1"]).ok();
    docker.docker(&["rm", "-f", "c1"]).ok();

    let again = [&image, "sh", "-c", "sleep 0.2; exit 1"];
    with(&["run", "-d", "--restart", "on-failure:2", "--name", "r1"], &again).ok();
    let count = || docker.docker(&["inspect", "-f", "{{.RestartCount}}", "r1"]).ok().stdout;
    wait_for("two restarts", || (count().trim() == "2").then_some(()));
    wait_for("its end", || (state(&docker, "r1", "Status") == "exited").then_some(()));
    docker.docker(&["rm", "r1"]).ok();
    assert_eq!(docker.docker(&["ps", "-aq"]).ok().text(), "");
    drop(docker);
    daemon.assert_nothing_left();
}

#[test]
fn dockerd_outlives_our_daemon() {
    let (mut daemon, docker, image) = start();
    for name in ["a1", "b1"] {
        let args = ["run", "-d", "--network", "none", "--name", name, &image, "sleep", "600"];
        docker.docker(&args).ok();
    }
    daemon.kill();
    daemon.restart();
    // It notices by and by that the connection is there again.
    wait_for("dockerd to be back", || {
        let inside = docker.docker(&["exec", "a1", "echo", "inside"]);
        (inside.code == 0 && inside.stdout == "inside\n").then_some(())
    });
    assert_eq!(docker.docker(&["ps", "-q"]).ok().lines().len(), 2);
    docker.docker(&["kill", "a1"]).ok();
    wait_for("the event of its end", || (state(&docker, "a1", "Status") == "exited").then_some(()));
    docker.docker(&["start", "a1"]).ok();
    docker.docker(&["exec", "a1", "true"]).ok();
    // One ends while nobody is there.
    let pid: i32 = state(&docker, "b1", "Pid").parse().expect("a process ID");
    daemon.kill();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    std::thread::sleep(Duration::from_millis(100));
    daemon.restart();
    wait_for("the exit of b", || (state(&docker, "b1", "Status") == "exited").then_some(()));
    assert_eq!(state(&docker, "b1", "ExitCode"), "137");
    docker.docker(&["rm", "-f", "a1", "b1"]).ok();
    drop(docker);
    daemon.assert_nothing_left();
}
