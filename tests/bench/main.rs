//! `make bench`: speed and memory side by side with what is installed of
//! containerd, docker, podman, runc and crun, in one run. Prints a table and writes
//! `bench.json` beside it. Figures are medians of whole processes; what counts is their
//! ratio, since machines differ.

mod crowd;
mod many;
mod memory;
mod network;
mod peers;
mod report;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Registry, run_within, start};
use peers::Peer;
use report::Report;

/// Runs of each command and way.
const ROUNDS: usize = 20;
/// Containers at once.
const CROWD: usize = 32;
/// Pulls of each engine.
const PULLS: usize = 3;

fn main() {
    let registry = Registry::start();
    registry.push("busybox", "busybox:latest");
    registry.push("layers", "layers:latest");
    let mut report = Report::default();
    let peers = peers::start(&registry, &mut report);
    starts(&peers, "spaced by 100 ms", Duration::from_millis(100), &mut report);
    starts(&peers, "back to back", Duration::ZERO, &mut report);
    crowds(&peers, &mut report);
    pulls(&peers, &registry, &mut report);
    memory::measure(&peers, &mut report);
    let docker = peers.iter().any(|peer| matches!(peer, Peer::Docker(..)));
    drop(peers);
    network::measure(&registry, docker, &mut report);
    crowd::measure(&registry, &mut report);
    many::measure(&mut report);
    report.finish();
}

/// Milliseconds that a command takes; it must succeed.
fn time(command: &mut Command) -> f64 {
    let (taken, code) = attempt(command);
    assert_eq!(code, Some(0), "{command:?} failed");
    taken
}

/// Milliseconds that a command takes, and its exit code unless it had to be killed.
fn attempt(command: &mut Command) -> (f64, Option<i32>) {
    // Nothing of ours runs beside it.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let code = start(command).wait_within(Duration::from_secs(300));
    (begin.elapsed().as_secs_f64() * 1e3, code)
}

fn starts(peers: &[Peer], how: &str, gap: Duration, report: &mut Report) {
    let mut times = vec![Vec::new(); peers.len()];
    for round in 0..ROUNDS + 2 {
        // In turn, so that a change of the machine's pace meets all alike.
        for (peer, times) in peers.iter().zip(&mut times) {
            if !gap.is_zero() {
                settle();
            }
            thread::sleep(gap);
            let taken = time(&mut peer.run());
            if round >= 2 {
                times.push(taken);
            }
        }
    }
    for (peer, times) in peers.iter().zip(times) {
        report.add(&format!("run --rm busybox true, {how}"), peer.name(), times, "ms");
    }
}

fn crowds(peers: &[Peer], report: &mut Report) {
    for peer in peers {
        let mut times = Vec::new();
        let mut failed = 0;
        for _ in 0..3 {
            let begin = Instant::now();
            failed += thread::scope(|scope| {
                let run = || scope.spawn(|| attempt(&mut peer.run()).1);
                let members: Vec<_> = (0..CROWD).map(|_| run()).collect();
                members
                    .into_iter()
                    .map(|m| m.join())
                    .filter(|end| !matches!(end, Ok(Some(0))))
                    .count()
            });
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        assert!(failed == 0 || !matches!(peer, Peer::Gantry(..)), "{failed} runs failed");
        if failed > 0 {
            let (name, all) = (peer.name(), 3 * CROWD);
            report.note(format!("{name}: {failed} of {all} failed with {CROWD} at once"));
        }
        report.add(&format!("{CROWD} at once"), peer.name(), times, "ms");
    }
}

/// Nobody waits for what the one before has yet to write.
fn settle() {
    nix::unistd::sync();
}

fn pulls(peers: &[Peer], registry: &Registry, report: &mut Report) {
    let image = registry.reference("layers:latest");
    let mut times = vec![Vec::new(); peers.len()];
    for _ in 0..PULLS {
        for (peer, times) in peers.iter().zip(&mut times) {
            settle();
            if let Peer::Gantry(..) = peer {
                // An empty root: what a collection takes is no part of a pull.
                let daemon = Daemon::start();
                times.push(time(&mut daemon.gantry_command(&["pull", "-q", &image])));
                continue;
            }
            let Some((mut pull, forget)) = peer.pull(&image) else { continue };
            times.push(time(&mut pull));
            for mut command in forget {
                run_within(&mut command, Duration::from_secs(120));
            }
        }
    }
    for (peer, times) in peers.iter().zip(times).filter(|(_, times)| !times.is_empty()) {
        report.add("pull and unpack 6 layers, 116 MB", peer.name(), times, "ms");
    }
}
