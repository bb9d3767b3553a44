//! `cargo test … --test gaps -- bench [rounds] [gap-ms] [profile.json]`: how
//! long a container takes from create to delete, and that nothing piles up.

use crate::fixture::{Lab, profile, spec};
use gantry_shim::runtime::{Options, Stdio};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p).round() as usize]
}

/// Open descriptors, mounts, cgroups.
fn held() -> (usize, usize, usize) {
    let lines = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cgroups = lines("/proc/cgroups")
        .lines()
        .filter_map(|l| l.split('\t').nth(2)?.parse::<usize>().ok())
        .sum();
    let fds = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    (fds, lines("/proc/self/mountinfo").lines().count(), cgroups)
}

pub(crate) fn run(args: &[String]) {
    let number =
        |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (rounds, gap) = (number(0, 100), number(1, 50));
    let mut s = spec(&["true"]);
    let file = args.get(2).and_then(|f| fs::read_to_string(f).ok());
    s["linux"]["seccomp"] =
        file.and_then(|f| serde_json::from_str(&f).ok()).unwrap_or_else(profile);
    s["linux"]["resources"]["memory"] = json!({"limit": 268435456});
    s["linux"]["resources"]["cpu"] = json!({"quota": 100000, "period": 100000, "shares": 1024});
    s["linux"]["resources"]["pids"] = json!({"limit": 256});
    let mut lab = Lab::new();
    let names = ["create", "start", "exit", "delete", "whole"];
    let mut times: [Vec<f64>; 5] = Default::default();
    let mut before = held();
    for round in 0..rounds + 3 {
        std::thread::sleep(Duration::from_millis(gap));
        if round == 3 {
            before = held();
        }
        let t = [Instant::now(); 1];
        let made = lab.create_with(
            &s,
            Stdio::Fds { stdin: None, stdout: None, stderr: None },
            Options::default(),
        );
        let created = made.unwrap_or_else(|e| panic!("create: {e}"));
        let t1 = Instant::now();
        lab.block_on(lab.runtime.start(&created.state)).unwrap_or_else(|e| panic!("start: {e}"));
        let t2 = Instant::now();
        assert_eq!(lab.wait(created.pid), 0);
        let t3 = Instant::now();
        lab.delete(created.state);
        let t4 = Instant::now();
        if round >= 3 {
            let marks = [t[0], t1, t2, t3, t4];
            for (i, w) in marks.windows(2).enumerate() {
                times[i].push((w[1] - w[0]).as_secs_f64() * 1e3);
            }
            times[4].push((t4 - t[0]).as_secs_f64() * 1e3);
        }
        assert_eq!(lab.leftovers(), Vec::<String>::new());
    }
    // The cgroup's last processes are let go of a moment later.
    std::thread::sleep(Duration::from_millis(300));
    for (name, values) in names.iter().zip(&mut times) {
        println!(
            "{name:8} p50 {:7.3}  p99 {:7.3} ms",
            percentile(values, 0.5),
            percentile(values, 0.99)
        );
    }
    println!("descriptors, mounts, cgroups: {before:?} -> {:?}", held());
}
