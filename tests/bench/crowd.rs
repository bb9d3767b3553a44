//! Hundreds of containers at once: what it takes to look at them, also while one of their shims
//! does not answer.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Options, Registry, run_within, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::report::Report;
use crate::time;

/// Containers that sleep.
const CONTAINERS: usize = 300;
/// Started side by side.
const STARTERS: usize = 8;
/// Runs of each command.
const ROUNDS: usize = 20;
/// Their use of processors is watched for so long.
const WATCHED: Duration = Duration::from_secs(10);

/// Starts the containers, and measures with and without a stopped shim.
pub(crate) fn measure(registry: &Registry, report: &mut Report) {
    let daemon = Daemon::with(Options { in_service: true, ..Options::default() });
    let image = registry.reference("busybox:latest");
    run_within(&mut daemon.gantry_command(&["pull", "-q", &image]), Duration::from_secs(60)).ok();
    let begin = Instant::now();
    crowd(&daemon, &image);
    let taken = begin.elapsed().as_secs_f64() * 1e3;
    report.add(
        &format!("{CONTAINERS} containers, {STARTERS} at a time"),
        "gantry",
        vec![taken],
        "ms",
    );
    look(&daemon, &image, "", report);
    let share = vec![watched(&daemon)];
    report.add(&format!("daemon while stats watches {CONTAINERS}"), "gantry", share, "% of a core");
    let shim = shim(&daemon, "c0");
    kill(shim, Signal::SIGSTOP).expect("stop a shim");
    look(&daemon, &image, ", a shim stopped", report);
    kill(shim, Signal::SIGCONT).expect("let the shim go on");
}

fn crowd(daemon: &Daemon, image: &str) {
    thread::scope(|scope| {
        for starter in 0..STARTERS {
            scope.spawn(move || {
                for n in (starter..CONTAINERS).step_by(STARTERS) {
                    let name = format!("c{n}");
                    let run = ["run", "-d", "--network", "none", "--name", &name, image];
                    let mut command = daemon.gantry_command(&run);
                    run_within(command.args(["sleep", "3600"]), Duration::from_secs(120)).ok();
                }
            });
        }
    });
    let listed = daemon.gantry(&["ps", "-q"]).ok();
    assert_eq!(listed.lines().len(), CONTAINERS, "all of them run");
}

/// Times commands that look at all containers, or at one that is as it should be.
fn look(daemon: &Daemon, image: &str, how: &str, report: &mut Report) {
    let run = ["run", "--rm", "--network", "none", image, "true"];
    let commands: [(&str, &[&str]); 7] = [
        ("ps", &["ps"]),
        ("stats --no-stream", &["stats", "--no-stream"]),
        ("inspect", &["inspect", "c150"]),
        ("system df", &["system", "df"]),
        ("top", &["top", "c150"]),
        ("exec true", &["exec", "c150", "true"]),
        ("run --rm true", &run),
    ];
    for (what, arguments) in commands {
        let command = || -> Command { daemon.gantry_command(arguments) };
        time(&mut command());
        let times: Vec<f64> = (0..ROUNDS).map(|_| time(&mut command())).collect();
        report.add(&format!("{what}, {CONTAINERS} containers{how}"), "gantry", times, "ms");
    }
}

/// The share of one core that the daemon takes while somebody watches what containers use.
fn watched(daemon: &Daemon) -> f64 {
    let mut command = daemon.gantry_command(&["stats"]);
    let mut client =
        start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    // What it takes to begin with is no part of it.
    thread::sleep(Duration::from_secs(2));
    let (before, begin) = (worked(daemon.pid()), Instant::now());
    thread::sleep(WATCHED);
    let share = (worked(daemon.pid()) - before) as f64 / begin.elapsed().as_nanos() as f64;
    client.kill();
    share * 100.0
}

/// Nanoseconds that all threads of a process have run.
fn worked(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_thread = |thread: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(of_thread).sum()
}

fn shim(daemon: &Daemon, name: &str) -> Pid {
    let pid = daemon.gantry(&["inspect", "--format", "{{.State.Pid}}", name]).ok();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.text())).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    Pid::from_raw(parent.trim().parse().expect("a process"))
}
