//! The daemon and the machine it runs on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gantry_core::db::blocking;
use gantry_core::filter::Filters;
use gantry_core::{Context, Result, Timestamp};

use crate::Engine;
use crate::model::{LOG_DRIVER, Phase};
use crate::stats::{Hierarchies, Version as Cgroups};

/// Version of the API `gantry.engine.v1`.
const API_VERSION: &str = "1.0";
/// Drivers of logs, volumes and networks.
const LOG_DRIVERS: [&str; 2] = [LOG_DRIVER, "local"];
const VOLUME_DRIVERS: [&str; 1] = [gantry_core::volumes::DRIVER];
const NETWORK_DRIVERS: [&str; 4] = ["bridge", "host", "macvlan", "null"];
/// What confines containers that are not privileged.
const SECURITY: [&str; 2] = ["name=seccomp,profile=builtin", "name=cgroupns"];

/// What the daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Release.
    pub version: String,
    /// Commit it was built from; may be empty.
    pub revision: String,
    /// Version of the API.
    pub api_version: String,
    /// Release of the kernel.
    pub kernel: String,
}

/// How the daemon does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Names this installation.
    pub id: String,
    /// Release.
    pub version: String,
    /// Containers in all.
    pub containers: u64,
    /// Containers that run.
    pub running: u64,
    /// Containers that are frozen.
    pub paused: u64,
    /// Images.
    pub images: u64,
    /// Where data lies.
    pub root: String,
    /// Where the state of what runs lies.
    pub state: String,
    /// Snapshotter used by default.
    pub snapshotter: String,
    /// Drivers of logs; the first is that of new containers.
    pub log_drivers: Vec<String>,
    /// Drivers of volumes.
    pub volume_drivers: Vec<String>,
    /// Kinds of networks.
    pub network_drivers: Vec<String>,
    /// Runtime of new containers.
    pub runtime: String,
    /// Runtimes by their names.
    pub runtimes: Vec<String>,
    /// What confines containers, as Docker writes it.
    pub security_options: Vec<String>,
    /// The machine.
    pub machine: Machine,
}

/// The machine that a daemon runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// `x86_64`, …
    pub arch: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the operating system.
    pub os_name: String,
    /// Its version; may be empty.
    pub os_version: String,
    /// The time there.
    pub time: Timestamp,
    /// `1` (also hybrid) or `2`.
    pub cgroup_version: String,
    /// Limits that it can't hold: `memory`, `swap`, `cpu`, `cpuset`, `pids`, `blkio`.
    pub missing_limits: Vec<String>,
    /// Whether it forwards packets between networks.
    pub ip_forwarding: bool,
}

impl Engine {
    /// What the daemon is.
    pub fn version(&self) -> Version {
        Version {
            version: self.parts.config.version.clone(),
            revision: self.parts.config.revision.clone(),
            api_version: API_VERSION.to_owned(),
            kernel: kernel_release(),
        }
    }

    /// How the daemon does.
    ///
    /// # Errors
    /// The store's.
    pub async fn info(&self, ctx: &Context) -> Result<Info> {
        let containers = self.list(ctx, true).await?;
        let count = |phase| containers.iter().filter(|c| c.state.phase == phase).count() as u64;
        let records = self.parts.images.list(ctx, &Filters::all()).await?;
        // However many names they have.
        let images: BTreeSet<_> = records.iter().map(|image| &image.target.digest).collect();
        let config = &self.parts.config;
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let mut runtimes = config.runtimes.clone();
        if !runtimes.contains(&config.runtime) {
            runtimes.insert(0, config.runtime.clone());
        }
        Ok(Info {
            id: config.id.clone(),
            version: config.version.clone(),
            containers: containers.len() as u64,
            running: count(Phase::Running),
            paused: count(Phase::Paused),
            images: images.len() as u64,
            root: config.root.display().to_string(),
            state: config.state.display().to_string(),
            snapshotter: self.parts.snapshotters.default.clone(),
            log_drivers: owned(&LOG_DRIVERS),
            volume_drivers: owned(&VOLUME_DRIVERS),
            network_drivers: owned(&NETWORK_DRIVERS),
            runtime: config.runtime.clone(),
            runtimes,
            security_options: owned(&SECURITY),
            machine: blocking(|| Ok(Machine::look())).await?,
        })
    }
}

impl Machine {
    /// Looks at this one. Blocks for some system calls.
    fn look() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let unified = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false);
        let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
        let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
        Self {
            name: host_name(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: machine_memory(),
            kernel: kernel_release(),
            os_name: of_release(&release, "PRETTY_NAME").unwrap_or("Linux").to_owned(),
            os_version: of_release(&release, "VERSION_ID").unwrap_or_default().to_owned(),
            time: Timestamp::now(),
            cgroup_version: if unified { "2" } else { "1" }.to_owned(),
            missing_limits: missing_limits(&Hierarchies::find()),
            ip_forwarding: forward.trim() == "1",
        }
    }

    /// What an administrator should know, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let told = [
            ("memory", "No memory limit support"),
            ("swap", "No swap limit support"),
            ("cpu", "No cpu cfs quota support"),
            ("cpuset", "No cpuset support"),
            ("pids", "No pids limit support"),
            ("blkio", "No blkio throttle support"),
        ];
        let missing = |limit: &str| self.missing_limits.iter().any(|missing| missing == limit);
        let told = told.into_iter().filter(|(limit, _)| missing(limit));
        told.map(|(_, text)| text.to_owned()).collect()
    }
}

/// Limits for which this machine's kernel lacks what they need.
fn missing_limits(hierarchies: &Hierarchies) -> Vec<String> {
    let swap = match hierarchies.mounted("memory") {
        Some((Cgroups::V1, mounted)) => there(mounted, "memory.memsw.limit_in_bytes"),
        // It is not shown at the top; a kernel of these years has it.
        Some((Cgroups::V2, _)) => true,
        None => false,
    };
    let there = [
        ("memory", hierarchies.has("memory")),
        ("swap", swap),
        ("cpu", hierarchies.has("cpu")),
        ("cpuset", hierarchies.has("cpuset")),
        ("pids", hierarchies.has("pids")),
        ("blkio", hierarchies.has("blkio") || hierarchies.has("io")),
    ];
    let missing = there.into_iter().filter(|(_, there)| !there);
    missing.map(|(limit, _)| limit.to_owned()).collect()
}

fn there(dir: &Path, name: &str) -> bool {
    fs::exists(dir.join(name)).unwrap_or(false)
}

/// Release of the kernel, `6.1.0-13-amd64`.
pub(crate) fn kernel_release() -> String {
    let uname = nix::sys::utsname::uname();
    uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Name of the machine.
pub(crate) fn host_name() -> String {
    nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A value of os-release(5).
fn of_release<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    text.lines().find_map(value).map(|value| value.trim_matches(['"', '\'']))
}

/// Memory of the machine in bytes.
pub(crate) fn machine_memory() -> u64 {
    memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn memory(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine() {
        let release = "ID=x\nPRETTY_NAME=\"Debian 12\"\nVERSION_ID=\"12\"\n";
        assert_eq!(of_release(release, "PRETTY_NAME"), Some("Debian 12"));
        assert_eq!(of_release(release, "VERSION_ID"), Some("12"));
        assert_eq!(of_release(release, "VERSION"), None);
        assert_eq!(memory("MemTotal:       1024 kB\nMemFree: 1 kB\n"), 1 << 20);
        assert!(kernel_release().contains('.'));
        let machine = Machine::look();
        assert!(machine.memory > 0 && machine.cpus > 0);
        assert_eq!(machine.warnings().len(), machine.missing_limits.len());
    }

    #[test]
    fn a_machine_without_cgroups_has_no_limits() {
        let missing = missing_limits(&Hierarchies::default());
        assert_eq!(missing, ["memory", "swap", "cpu", "cpuset", "pids", "blkio"]);
        let machine = Machine { missing_limits: vec!["swap".into()], ..Machine::default() };
        assert_eq!(machine.warnings(), ["No swap limit support"]);
    }
}
