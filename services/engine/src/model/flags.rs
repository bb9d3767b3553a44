//! What a container was asked to have beside its command: limits, rights, namespaces, devices.
//!
//! What is at its default is not stored.

use gantry_core::Labels;
use serde::{Deserialize, Serialize};

use super::{Settings, is_default};

/// Bytes of /dev/shm when nobody says how many.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

/// Log driver when nobody names one.
pub(crate) const LOG_DRIVER: &str = "json-file";

/// The seccomp "profile" of a container that has none.
pub(crate) const UNCONFINED: &str = "unconfined";

/// What precedes the container whose namespace is joined.
const CONTAINER: &str = "container:";

/// Limits of what a container uses (`Resources` of the API), after they were checked: what
/// the host can't do is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory.
    #[serde(skip_serializing_if = "is_default")]
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit on swap.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swap: Option<i64>,
    /// Bytes below which memory is not reclaimed first.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_reservation: Option<i64>,
    /// 0 to 100: how willingly memory is swapped out.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swappiness: Option<u32>,
    /// Processes and threads; 0 and below for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub pids: Option<i64>,
    /// Processors, in billionths.
    #[serde(skip_serializing_if = "is_default")]
    pub nano_cpus: Option<i64>,
    /// Relative weight, 1024 is usual.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_shares: Option<i64>,
    /// Microseconds of a period that may be used.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_quota: Option<i64>,
    /// Microseconds of a period.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_period: Option<i64>,
    /// Processors that may be used, `0-2,4`.
    #[serde(skip_serializing_if = "is_default")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    #[serde(skip_serializing_if = "is_default")]
    pub cpuset_mems: Option<String>,
    /// 10 to 1000: relative weight of its input and output.
    #[serde(skip_serializing_if = "is_default")]
    pub blkio_weight: Option<u32>,
    /// Limits of devices.
    #[serde(skip_serializing_if = "is_default")]
    pub device_limits: Vec<DeviceLimit>,
    /// Its processes are not killed for want of memory.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_kill_disable: Option<bool>,
    /// Microseconds of a period for real-time scheduling.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_runtime: Option<i64>,
    /// Microseconds of a period of real-time scheduling.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_period: Option<i64>,
}

/// What a limit of a device counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceLimitKind {
    /// Bytes read in a second.
    ReadBps,
    /// Bytes written in a second.
    WriteBps,
    /// Reads in a second.
    ReadIops,
    /// Writes in a second.
    WriteIops,
    /// Relative weight, 10 to 1000.
    Weight,
}

/// The limit of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// What is counted.
    pub kind: DeviceLimitKind,
    /// The device's path on the host.
    pub path: String,
    /// The most of it.
    pub rate: u64,
}

/// What a container may do and see (`Security` of the API).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Everything that the host's root may.
    #[serde(skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Capabilities over the usual ones, as the caller wrote them.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_add: Vec<String>,
    /// Capabilities that it lacks, as the caller wrote them.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_drop: Vec<String>,
    /// Programs gain nothing by setuid bits or file capabilities.
    #[serde(skip_serializing_if = "is_default")]
    pub no_new_privileges: bool,
    /// A seccomp profile as JSON, or `unconfined`; the default profile when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub seccomp: String,
    /// No path of /proc and /sys is masked or read-only.
    #[serde(skip_serializing_if = "is_default")]
    pub unconfined_paths: bool,
    /// Nothing of the root file system can be written.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// Namespaces that are not the container's own; empty for its own. `container:` is followed by
/// the ID of the other container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// `host` or `container:ID`.
    #[serde(skip_serializing_if = "is_default")]
    pub pid: String,
    /// `host`, `container:ID`, `shareable`, `private`, `none`.
    #[serde(skip_serializing_if = "is_default")]
    pub ipc: String,
    /// `host`.
    #[serde(skip_serializing_if = "is_default")]
    pub uts: String,
    /// `host`.
    #[serde(skip_serializing_if = "is_default")]
    pub user: String,
    /// `host` or `private`.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup: String,
    /// `container:ID`; what else there is to say of networks stands elsewhere.
    #[serde(skip_serializing_if = "is_default")]
    pub network: String,
}

/// The container that a mode `container:NAME` names.
pub(crate) fn other_container(mode: &str) -> Option<&str> {
    mode.strip_prefix(CONTAINER)
}

/// The mode that joins a container.
pub(crate) fn joining(id: &str) -> String {
    format!("{CONTAINER}{id}")
}

/// A device of the host in a container (`Device` of the API).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceSetting {
    /// Path on the host; a directory stands for the devices below it.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Some of `r`, `w` and `m`.
    pub access: String,
}

/// Limit of a resource of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Soft limit; -1 for none.
    pub soft: i64,
    /// Hard limit; -1 for none.
    pub hard: i64,
}

/// The part of [`Settings`] that few containers have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flags {
    /// Domain name.
    #[serde(skip_serializing_if = "is_default")]
    pub domainname: String,
    /// Limits.
    #[serde(skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// What it may do.
    #[serde(skip_serializing_if = "is_default")]
    pub security: Security,
    /// Namespaces that it shares.
    #[serde(skip_serializing_if = "is_default")]
    pub namespaces: Namespaces,
    /// A first process of ours reaps orphans and hands signals on.
    #[serde(skip_serializing_if = "is_default")]
    pub init: bool,
    /// Devices of the host.
    #[serde(skip_serializing_if = "is_default")]
    pub devices: Vec<DeviceSetting>,
    /// Further devices that it may use, as cgroup v1 writes them.
    #[serde(skip_serializing_if = "is_default")]
    pub device_cgroup_rules: Vec<String>,
    /// Devices by the Container Device Interface.
    #[serde(skip_serializing_if = "is_default")]
    pub cdi_devices: Vec<String>,
    /// Limits of its processes.
    #[serde(skip_serializing_if = "is_default")]
    pub ulimits: Vec<Ulimit>,
    /// Settings of the kernel in its namespaces.
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: Labels,
    /// Further groups of its user, by name or number.
    #[serde(skip_serializing_if = "is_default")]
    pub groups: Vec<String>,
    /// Annotations of its specification.
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: Labels,
    /// Bytes of /dev/shm; 64 MiB when 0.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_size: u64,
    /// -1000 to 1000: how willingly the kernel ends it for want of memory.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_score_adj: Option<i32>,
    /// The cgroup below which it gets its own; the daemon's choice when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_parent: String,
    /// Log driver; `json-file` when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub log_driver: String,
    /// Options of the log driver, as the caller wrote them.
    #[serde(skip_serializing_if = "is_default")]
    pub log_options: Labels,
}

impl Namespaces {
    /// The kinds of namespaces that it joins, as the OCI specification names them, each with
    /// the ID of the other container.
    pub(crate) fn joined(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("pid", &self.pid), ("ipc", &self.ipc), ("network", &self.network)];
        all.into_iter().filter_map(|(kind, mode)| Some((kind, other_container(mode)?)))
    }
}

impl Flags {
    /// Whether devices of the host are looked at for the specification.
    pub(crate) fn has_devices(&self) -> bool {
        self.security.privileged
            || !self.devices.is_empty()
            || !self.cdi_devices.is_empty()
            || !self.resources.device_limits.is_empty()
    }

    /// Whether the specification can be another at each start: devices by their numbers, other
    /// containers by their processes, limits that were updated, our own program by its place.
    pub(crate) fn can_change(&self) -> bool {
        self.has_devices()
            || self.init
            || self.resources != Resources::default()
            || self.namespaces.joined().next().is_some()
    }

    /// Bytes of /dev/shm.
    pub fn shm_size(&self) -> u64 {
        if self.shm_size == 0 { SHM_SIZE } else { self.shm_size }
    }

    /// Log driver.
    pub fn log_driver(&self) -> &str {
        if self.log_driver.is_empty() { LOG_DRIVER } else { &self.log_driver }
    }
}

impl Settings {
    /// Whether an init of ours is the first process: not in somebody else's pid namespace,
    /// which has one.
    pub(crate) fn has_init(&self) -> bool {
        self.flags.init && self.flags.namespaces.pid.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_not_stored() {
        assert_eq!(serde_json::to_string(&Flags::default()).unwrap(), "{}");
        let flags = Flags {
            resources: Resources { memory: Some(1 << 30), ..Resources::default() },
            namespaces: Namespaces { pid: "container:c1".into(), ..Namespaces::default() },
            ..Flags::default()
        };
        let json = serde_json::to_string(&flags).unwrap();
        assert_eq!(
            json,
            r#"{"resources":{"memory":1073741824},"namespaces":{"pid":"container:c1"}}"#
        );
        assert_eq!(serde_json::from_str::<Flags>(&json).unwrap(), flags);
        assert_eq!(flags.namespaces.joined().collect::<Vec<_>>(), [("pid", "c1")]);
        assert!(flags.can_change() && !flags.has_devices() && !Flags::default().can_change());
    }

    #[test]
    fn defaults() {
        let flags = Flags::default();
        assert_eq!((flags.shm_size(), flags.log_driver()), (64 << 20, "json-file"));
        let mut settings = Settings::default();
        settings.flags.init = true;
        assert!(settings.has_init());
        settings.flags.namespaces.pid = "host".into();
        assert!(!settings.has_init());
    }
}
