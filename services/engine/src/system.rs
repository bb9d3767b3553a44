//! The daemon and the machine it runs on.

use std::fs;

use gantry_core::filter::Filters;
use gantry_core::{Context, Result};

use crate::Engine;
use crate::model::Phase;

/// Version of the API `gantry.engine.v1`.
const API_VERSION: &str = "1.0";

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
    /// `1` (also hybrid) or `2`.
    pub cgroup_version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the operating system.
    pub os_name: String,
    /// `x86_64`, …
    pub arch: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Name of the machine.
    pub name: String,
    /// What an administrator should know, a line each.
    pub warnings: Vec<String>,
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
        let images = self.parts.images.list(ctx, &Filters::all()).await?;
        let config = &self.parts.config;
        let unified = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false);
        let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
        Ok(Info {
            containers: containers.len() as u64,
            running: count(Phase::Running),
            paused: count(Phase::Paused),
            images: images.len() as u64,
            root: config.root.display().to_string(),
            state: config.state.display().to_string(),
            snapshotter: self.parts.snapshotters.default.clone(),
            cgroup_version: if unified { "2" } else { "1" }.to_owned(),
            kernel: kernel_release(),
            os_name: os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            name: host_name(),
            warnings: Vec::new(),
        })
    }
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

/// `PRETTY_NAME` of os-release(5).
fn os_name(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).to_owned()
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
        assert_eq!(os_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(os_name(""), "Linux");
        assert_eq!(memory("MemTotal:       1024 kB\nMemFree: 1 kB\n"), 1 << 20);
        assert!(kernel_release().contains('.'));
    }
}
