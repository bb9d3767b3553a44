//! What idle daemons and shims take: proportional set size.

use std::path::Path;
use std::time::Duration;

use gantry_tests::leftovers::processes;

use crate::peers::Peer;
use crate::report::Report;

/// Containers that run while shims are measured.
const CONTAINERS: usize = 10;

/// A process' proportional set size in MB.
pub(crate) fn pss(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|l| l.starts_with("Pss:"))?;
    let kb: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kb / 1024.0)
}

/// Processes of a program by the name of its file.
fn named(name: &str) -> Vec<u32> {
    processes(|pid| {
        let exe = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = exe.split(|b| *b == 0).next().unwrap_or_default();
        Path::new(&String::from_utf8_lossy(first).into_owned())
            .file_name()
            .is_some_and(|n| n == name)
    })
}

/// Measures with containers that sleep.
pub(crate) fn measure(peers: &[Peer], report: &mut Report) {
    for peer in peers {
        let Some((daemons, shim)) = peer.processes() else { continue };
        let before = named(shim);
        for n in 0..CONTAINERS {
            peer.sleep(n);
        }
        // An idle daemon gives memory back some seconds after its last work.
        std::thread::sleep(Duration::from_secs(6));
        let shims: Vec<f64> =
            named(shim).into_iter().filter(|p| !before.contains(p)).filter_map(pss).collect();
        let total = daemons.iter().filter_map(|pid| pss(*pid)).sum();
        report.add("PSS of the daemon, 10 containers asleep", peer.name(), vec![total], "MB");
        if !shims.is_empty() {
            report.add("PSS of a shim", peer.name(), shims, "MB");
        }
        for n in 0..CONTAINERS {
            peer.end(n);
        }
    }
}
