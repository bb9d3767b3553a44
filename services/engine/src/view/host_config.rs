//! `HostConfig`: what of a container has to do with this host.

use serde_json::{Value, json};

use super::object::Object;
use super::{mounts, network};
use crate::fields::{Fields, listed};
use crate::model::{
    Dependency, DeviceLimitKind, DeviceSetting, Flags, Networking, Resources, RestartPolicy,
    Security, Settings, Ulimit,
};
use crate::{logs, spec};

/// The mode of a namespace of the container's own.
const PRIVATE: &str = "private";
/// Stands for all capabilities.
const ALL: &str = "ALL";

/// The object.
pub(super) fn fields(object: &Object<'_>) -> Fields {
    let settings = &object.summary.settings;
    let log = Fields::default()
        .with("Type", settings.flags.log_driver())
        .with("Config", logs::shown(settings));
    let first = Fields::default()
        .with("Binds", listed(&mounts::binds(settings)))
        .with("ContainerIDFile", "")
        .with("LogConfig", log)
        .with("NetworkMode", settings.network_mode())
        .with("PortBindings", network::bindings(&settings.networking.ports))
        .with("RestartPolicy", restart(settings.restart))
        .with("AutoRemove", settings.auto_remove)
        .with("VolumeDriver", "")
        .with("VolumesFrom", listed(&settings.volumes_from))
        .with("ConsoleSize", [0, 0])
        .with_set("Annotations", settings.flags.annotations.clone());
    let second = rights(first, settings)
        .with("Runtime", &object.container.runtime.name)
        .with("Isolation", "");
    let third = limits(second, &settings.flags, object.can_spare);
    let paths = |all: &'static [&'static str]| match &settings.flags.security {
        Security { privileged: true, .. } => None,
        Security { unconfined_paths: true, .. } => Some(&all[..0]),
        _ => Some(all),
    };
    third
        .with_some("Mounts", some(mounts::specs(settings)))
        .with("MaskedPaths", paths(&spec::MASKED))
        .with("ReadonlyPaths", paths(&spec::READ_ONLY))
        .with_some("Init", settings.flags.init.then_some(true))
        .with_some("After", some(after(&settings.after)))
}

/// What a container may do and see.
fn rights(fields: Fields, settings: &Settings) -> Fields {
    let Flags { security, namespaces, groups, sysctls, .. } = &settings.flags;
    let Networking { dns, extra_hosts, publish_all, .. } = &settings.networking;
    fields
        .with("CapAdd", listed(&capabilities(&security.cap_add)))
        .with("CapDrop", listed(&capabilities(&security.cap_drop)))
        .with("CgroupnsMode", or(&namespaces.cgroup, PRIVATE))
        .with("Dns", &dns.servers)
        .with("DnsOptions", &dns.options)
        .with("DnsSearch", &dns.search)
        .with("ExtraHosts", listed(extra_hosts))
        .with("GroupAdd", listed(groups))
        .with("IpcMode", or(&namespaces.ipc, PRIVATE))
        .with("Cgroup", "")
        .with("Links", Value::Null)
        .with("OomScoreAdj", settings.flags.oom_score_adj.unwrap_or(0))
        .with("PidMode", &namespaces.pid)
        .with("Privileged", security.privileged)
        .with("PublishAllPorts", publish_all)
        .with("ReadonlyRootfs", security.read_only)
        .with("SecurityOpt", listed(&options(security)))
        .with_set("Tmpfs", mounts::tmpfs(settings))
        .with("UTSMode", &namespaces.uts)
        .with("UsernsMode", &namespaces.user)
        .with("ShmSize", settings.flags.shm_size())
        .with_set("Sysctls", sysctls.clone())
}

/// Limits. What is not limited is 0, where Docker does not tell it apart from that.
fn limits(fields: Fields, flags: &Flags, can_spare: bool) -> Fields {
    let resources = &flags.resources;
    let devices = |kind, unit| device_limits(resources, kind, unit);
    let spared = resources.oom_kill_disable.or(can_spare.then_some(false));
    let ulimits: Vec<_> = flags.ulimits.iter().map(ulimit).collect();
    fields
        .with("CpuShares", resources.cpu_shares.unwrap_or(0))
        .with("Memory", resources.memory.unwrap_or(0))
        .with("NanoCpus", resources.nano_cpus.unwrap_or(0))
        .with("CgroupParent", &flags.cgroup_parent)
        .with("BlkioWeight", resources.blkio_weight.unwrap_or(0))
        .with("BlkioWeightDevice", devices(DeviceLimitKind::Weight, "Weight"))
        .with("BlkioDeviceReadBps", devices(DeviceLimitKind::ReadBps, "Rate"))
        .with("BlkioDeviceWriteBps", devices(DeviceLimitKind::WriteBps, "Rate"))
        .with("BlkioDeviceReadIOps", devices(DeviceLimitKind::ReadIops, "Rate"))
        .with("BlkioDeviceWriteIOps", devices(DeviceLimitKind::WriteIops, "Rate"))
        .with("CpuPeriod", resources.cpu_period.unwrap_or(0))
        .with("CpuQuota", resources.cpu_quota.unwrap_or(0))
        .with("CpuRealtimePeriod", resources.cpu_rt_period.unwrap_or(0))
        .with("CpuRealtimeRuntime", resources.cpu_rt_runtime.unwrap_or(0))
        .with("CpusetCpus", resources.cpuset_cpus.as_deref().unwrap_or_default())
        .with("CpusetMems", resources.cpuset_mems.as_deref().unwrap_or_default())
        .with("Devices", flags.devices.iter().map(device).collect::<Vec<_>>())
        .with("DeviceCgroupRules", listed(&flags.device_cgroup_rules))
        .with("DeviceRequests", listed(&requests(&flags.cdi_devices)))
        .with("MemoryReservation", resources.memory_reservation.unwrap_or(0))
        .with("MemorySwap", resources.memory_swap.unwrap_or(0))
        .with("MemorySwappiness", resources.memory_swappiness)
        .with("OomKillDisable", spared)
        .with("PidsLimit", resources.pids.map(|limit| limit.max(0)))
        .with("Ulimits", ulimits)
        // Of another operating system.
        .with("CpuCount", 0)
        .with("CpuPercent", 0)
        .with("IOMaximumIOps", 0)
        .with("IOMaximumBandwidth", 0)
}

fn or<'a>(mode: &'a str, usual: &'a str) -> &'a str {
    if mode.is_empty() { usual } else { mode }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn restart(policy: RestartPolicy) -> Fields {
    Fields::default()
        .with("Name", policy.mode.as_str())
        .with("MaximumRetryCount", policy.maximum_retries)
}

/// As the kernel calls them.
fn capabilities(names: &[String]) -> Vec<String> {
    let long = |name: &String| {
        let name = name.trim().to_ascii_uppercase();
        if name == ALL || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let mut all: Vec<_> = names.iter().map(long).collect();
    all.sort();
    all.dedup();
    all
}

fn options(security: &Security) -> Vec<String> {
    let mut all = Vec::new();
    if security.no_new_privileges {
        all.push("no-new-privileges".to_owned());
    }
    if !security.seccomp.is_empty() {
        all.push(format!("seccomp={}", security.seccomp));
    }
    all
}

fn device_limits(resources: &Resources, kind: DeviceLimitKind, unit: &'static str) -> Vec<Fields> {
    let limits = resources.device_limits.iter().filter(|limit| limit.kind == kind);
    limits.map(|limit| Fields::default().with("Path", &limit.path).with(unit, limit.rate)).collect()
}

fn device(device: &DeviceSetting) -> Fields {
    Fields::default()
        .with("PathOnHost", &device.host_path)
        .with("PathInContainer", &device.container_path)
        .with("CgroupPermissions", &device.access)
}

fn requests(names: &[String]) -> Vec<Value> {
    if names.is_empty() {
        return Vec::new();
    }
    vec![json!({
        "Driver": "cdi",
        "Count": 0,
        "DeviceIDs": names,
        "Capabilities": null,
        "Options": null,
    })]
}

fn ulimit(limit: &Ulimit) -> Fields {
    Fields::default().with("Name", &limit.name).with("Hard", limit.hard).with("Soft", limit.soft)
}

/// Containers that are to be there first, as users write them. Docker has none.
fn after(all: &[Dependency]) -> Vec<String> {
    let written = |first: &Dependency| {
        let healthy = if first.healthy { ":healthy" } else { "" };
        format!("{}{healthy}", first.container)
    };
    all.iter().map(written).collect()
}
