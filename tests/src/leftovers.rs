//! What containers must not leave behind: processes, mounts, cgroups,
//! snapshots, bundles.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Daemon, run, wait_for};

/// All that is there of a daemon's containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Processes whose working directory or arguments point into the state
    /// directory, the daemon and ready-made shims aside.
    pub shims: Vec<u32>,
    /// Mount points below the daemon's directories.
    pub mounts: Vec<String>,
    /// Cgroups below the daemon's parent.
    pub cgroups: Vec<PathBuf>,
    /// Bundles.
    pub bundles: Vec<PathBuf>,
}

/// Looks at what is there now.
pub fn find(daemon: &Daemon) -> Found {
    Found {
        shims: shims(daemon),
        mounts: mounts(daemon),
        cgroups: cgroups(&daemon.cgroup()),
        bundles: bundles(daemon),
    }
}

/// Fails unless all is gone within the time of [`wait_for`].
#[track_caller]
pub fn assert_none(daemon: &Daemon) {
    let what = "nothing to be left over";
    let mut last = Found::default();
    let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(what, || {
            last = find(daemon);
            (last == Found::default()).then_some(())
        });
    }));
    assert!(clean.is_ok(), "left over: {last:#?}");
}

fn shims(daemon: &Daemon) -> Vec<u32> {
    let state = daemon.state();
    processes(|pid| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        cwd.starts_with(&state)
    })
}

/// Process IDs for which `wanted` holds.
pub fn processes(wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there");
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| wanted(*pid)).collect()
}

fn mounts(daemon: &Daemon) -> Vec<String> {
    let table = daemon.mounts();
    let points = table.lines().filter_map(|l| l.split(' ').nth(1));
    let below = |point: &&str| {
        Path::new(point).starts_with(daemon.scratch())
            && **point != *daemon.root().to_string_lossy()
    };
    points.filter(below).map(str::to_owned).collect()
}

/// The cgroups strictly below this one, in all hierarchies.
pub fn cgroups(parent: &str) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies() {
        let mut todo = vec![hierarchy.join(parent.trim_start_matches('/'))];
        while let Some(dir) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                found.insert(entry.path());
                todo.push(entry.path());
            }
        }
    }
    found.into_iter().collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.into()];
    }
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.is_dir() && !p.is_symlink()).collect()
}

fn bundles(daemon: &Daemon) -> Vec<PathBuf> {
    let top = daemon.state().join("io.containerd.runtime.v2.task");
    let namespaces = std::fs::read_dir(top).into_iter().flatten().flatten();
    let ids = namespaces.flat_map(|n| std::fs::read_dir(n.path()).into_iter().flatten().flatten());
    ids.map(|e| e.path()).collect()
}

/// Ends and removes what is there, for a test that is over.
pub(crate) fn remove(daemon: &Daemon) {
    for pid in shims(daemon) {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    let mut groups = cgroups(&daemon.cgroup());
    groups
        .extend(hierarchies().into_iter().map(|h| h.join(daemon.cgroup().trim_start_matches('/'))));
    groups.sort_by_key(|g| std::cmp::Reverse(g.components().count()));
    for group in &groups {
        let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|l| l.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = std::fs::write(group.join("freezer.state"), "THAWED");
    }
    for group in &groups {
        for _ in 0..200 {
            if std::fs::remove_dir(group).is_ok() || !group.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    for point in mounts(daemon) {
        let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
    }
}

/// Open files of a process.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or_default()
}

/// Snapshots of a namespace that are not committed, as `ctr` tells them.
pub fn active_snapshots(daemon: &Daemon, namespace: &str) -> Vec<String> {
    let listing = run(&mut daemon.ctr_command(&["-n", namespace, "snapshots", "ls"])).ok();
    let active = listing.stdout.lines().skip(1).filter(|l| !l.contains("Committed"));
    active.map(str::to_owned).collect()
}
