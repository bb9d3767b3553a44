//! OCI runtime specifications with Docker's defaults.
//!
//! All that containers have in common is prepared once; the seccomp section,
//! by far the largest part, is kept as text.

mod places;
mod process;
pub(crate) mod profile;
pub(crate) mod resources;
pub(crate) mod seccomp;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_core::{Error, Labels, Result};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::files::ContainerFiles;
use crate::host::capabilities::{self, Capabilities};
use crate::host::{Devices, Host, own_oom_score};
use crate::model::{Flags, Network, Security, Settings, UNCONFINED};
use crate::options::Size;
use crate::sharing::Shared;

pub(crate) use process::{check_user, privileged};

/// Files of the kernel that tell of the host.
pub(crate) const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Files of the kernel that change the host.
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the image's environment lacks most often.
pub(crate) const DEFAULT_PATH: &str =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Annotation with the names of further groups, by commas: our shim looks them up in the
/// container.
const GROUPS: &str = "io.gantry.groups";

/// So many filters for unusual sets of capabilities are kept.
const FILTERS: usize = 64;

/// Makes specifications.
#[derive(Debug)]
pub(crate) struct SpecBuilder {
    cgroup_parent: String,
    /// Our program for the first process of containers that want one.
    init: PathBuf,
    available: Capabilities,
    kernel: (u32, u32),
    /// Set for a daemon that the kernel spares: its containers are not to be spared with it.
    oom_score: Option<i32>,
    /// Names of the usual capabilities.
    usual: Vec<&'static str>,
    /// The default filter for them.
    seccomp: Arc<RawValue>,
    /// The default filter for other sets. Held for looking up and adding entries only.
    filters: Mutex<HashMap<Capabilities, Arc<RawValue>>>,
    mounts: Vec<Value>,
    devices: Value,
}

/// What is one container's own.
#[derive(Debug)]
pub(crate) struct SpecInput<'a> {
    pub(crate) id: &'a str,
    pub(crate) settings: &'a Settings,
    pub(crate) files: &'a ContainerFiles,
    pub(crate) size: Option<Size>,
    /// Mounts over what every container has, the upper places first; `null` for what is not
    /// there yet.
    pub(crate) mounts: &'a [Value],
    /// Devices as they are now.
    pub(crate) devices: &'a Devices,
    /// What it shares with other containers.
    pub(crate) shared: &'a Shared,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    oci_version: &'a str,
    process: Value,
    root: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domainname: Option<&'a str>,
    mounts: Vec<Cow<'a, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<&'a BTreeMap<String, Vec<Value>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Labels>,
    linux: Linux<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux<'a> {
    #[serde(skip_serializing_if = "Value::is_null")]
    sysctl: Value,
    cgroups_path: String,
    resources: Value,
    namespaces: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs_propagation: Option<&'a str>,
    masked_paths: &'a [&'a str],
    readonly_paths: &'a [&'a str],
}

impl SpecBuilder {
    /// Prepares what is common to all containers of this machine. `init` is the program that
    /// reaps orphans as a container's first process.
    ///
    /// # Errors
    /// `Unimplemented` on an architecture without a seccomp profile.
    pub(crate) fn new(cgroup_parent: &str, init: &Path, host: &Host) -> Result<Self> {
        let usual = Capabilities::usual().and(host.capabilities).names();
        let kernel = kernel_version();
        Ok(Self {
            cgroup_parent: cgroup_parent.to_owned(),
            init: init.to_owned(),
            available: host.capabilities,
            kernel,
            oom_score: (own_oom_score() < 0).then_some(0),
            seccomp: filter(&usual, kernel)?,
            usual,
            filters: Mutex::default(),
            mounts: places::usual(),
            devices: resources::usual_devices(),
        })
    }

    /// The specification of a container, as JSON.
    ///
    /// # Errors
    /// `InvalidArgument` for a seccomp profile or capabilities that can't be;
    /// `Internal` when it can't be encoded.
    pub(crate) fn build(&self, input: &SpecInput<'_>) -> Result<Vec<u8>> {
        let settings = input.settings;
        let flags = &settings.flags;
        let security = &flags.security;
        let granted = capabilities::granted(security, self.available)?;
        let filter = self.filter(security, granted)?;
        let bare = security.privileged || security.unconfined_paths;
        let own_name = flags.namespaces.uts.is_empty();
        let domain = Some(flags.domainname.as_str()).filter(|name| own_name && !name.is_empty());
        let hooks = Some(&input.devices.edits.hooks).filter(|hooks| !hooks.is_empty());
        let spec = Spec {
            oci_version: "1.1.0",
            process: process::process(input, &self.names(granted), self.oom_score),
            root: json!({"path": "rootfs", "readonly": security.read_only}),
            hostname: own_name.then_some(settings.hostname.as_str()),
            domainname: domain,
            mounts: places::mounts(&self.mounts, &self.init, input),
            hooks,
            annotations: annotations(flags),
            linux: Linux {
                sysctl: sysctl(settings),
                cgroups_path: self.cgroup(&flags.cgroup_parent, input.id),
                resources: resources::section(&self.devices, flags, input.devices),
                namespaces: namespaces(settings, input.shared),
                devices: resources::nodes(settings, input.devices),
                seccomp: filter.as_deref(),
                rootfs_propagation: propagation(settings),
                masked_paths: if bare { &[] } else { &MASKED },
                readonly_paths: if bare { &[] } else { &READ_ONLY },
            },
        };
        serde_json::to_vec(&spec)
            .map_err(|err| Error::internal("encode a runtime specification").with_source(err))
    }

    /// Names of capabilities.
    fn names(&self, granted: Capabilities) -> Cow<'_, [&'static str]> {
        if granted == Capabilities::usual().and(self.available) {
            Cow::Borrowed(self.usual.as_slice())
        } else {
            Cow::Owned(granted.names())
        }
    }

    /// Everything that an exec'd process may be given here.
    pub(crate) fn all_capabilities(&self) -> Vec<&'static str> {
        self.available.names()
    }

    fn cgroup(&self, parent: &str, id: &str) -> String {
        let parent = if parent.is_empty() { self.cgroup_parent.as_str() } else { parent };
        match parent.trim_matches('/') {
            "" => format!("/{id}"),
            parent => format!("/{parent}/{id}"),
        }
    }

    /// The seccomp section; `None` for a container without a filter.
    fn filter(&self, security: &Security, granted: Capabilities) -> Result<Option<Arc<RawValue>>> {
        match security.seccomp.as_str() {
            UNCONFINED => Ok(None),
            text if profile::is_default(text) => {
                if security.privileged {
                    return Ok(None);
                }
                self.default_filter(granted).map(Some)
            }
            text => {
                let names = granted.names();
                let section = profile::section(text, machine(&names, self.kernel))?;
                section.map(|section| raw(&section)).transpose()
            }
        }
    }

    /// The default profile for a set of capabilities: made once for each.
    fn default_filter(&self, granted: Capabilities) -> Result<Arc<RawValue>> {
        if granted == Capabilities::usual().and(self.available) {
            return Ok(Arc::clone(&self.seccomp));
        }
        // Nothing panics under this lock.
        let kept = || self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = kept().get(&granted) {
            return Ok(Arc::clone(made));
        }
        let made = filter(&granted.names(), self.kernel)?;
        let mut kept = kept();
        // Callers choose sets: they must not fill the memory.
        if kept.len() >= FILTERS {
            kept.clear();
        }
        kept.insert(granted, Arc::clone(&made));
        Ok(made)
    }
}

fn machine<'a>(capabilities: &'a [&'a str], kernel: (u32, u32)) -> seccomp::Machine<'a> {
    seccomp::Machine { arch: std::env::consts::ARCH, kernel, capabilities }
}

/// The default profile as text.
fn filter(capabilities: &[&str], kernel: (u32, u32)) -> Result<Arc<RawValue>> {
    raw(&seccomp::profile(machine(capabilities, kernel))?)
}

fn raw(section: &impl Serialize) -> Result<Arc<RawValue>> {
    to_raw_value(section)
        .map(Arc::from)
        .map_err(|err| Error::internal("encode a seccomp profile").with_source(err))
}

/// The caller's annotations, and ours.
fn annotations(flags: &Flags) -> Option<Labels> {
    let names: Vec<&str> = process::named(&flags.groups).collect();
    if flags.annotations.is_empty() && names.is_empty() {
        return None;
    }
    let mut all = flags.annotations.clone();
    if !names.is_empty() {
        all.insert(GROUPS.to_owned(), names.join(","));
    }
    Some(all)
}

/// Namespaces of its own, and those of others that it joins.
fn namespaces(settings: &Settings, shared: &Shared) -> Vec<Value> {
    let modes = &settings.flags.namespaces;
    let own = |kind: &str| json!({"type": kind});
    let mut all = vec![own("mount")];
    if modes.uts.is_empty() {
        all.push(own("uts"));
    }
    for (kind, mode) in [("pid", &modes.pid), ("ipc", &modes.ipc)] {
        match mode.as_str() {
            "host" => {}
            mode if crate::model::other_container(mode).is_some() => {
                all.push(json!({"type": kind, "path": shared.path(kind)}));
            }
            _ => all.push(own(kind)),
        }
    }
    if modes.cgroup != "host" {
        all.push(own("cgroup"));
    }
    match settings.network {
        Network::Host => {}
        Network::Container => {
            all.push(json!({"type": "network", "path": shared.path("network")}));
        }
        Network::None | Network::Attached => all.push(own("network")),
    }
    all
}

/// In a network of its own, ping and low ports need no privilege.
fn sysctl(settings: &Settings) -> Value {
    let asked = &settings.flags.sysctls;
    let mut all = match settings.network {
        Network::Host | Network::Container if asked.is_empty() => return Value::Null,
        Network::Host | Network::Container => json!({}),
        Network::None | Network::Attached => json!({
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        }),
    };
    for (name, value) in asked {
        all[name] = value.as_str().into();
    }
    all
}

/// Mounts that reach the host have to be made in a tree that does.
fn propagation(settings: &Settings) -> Option<&'static str> {
    let shared = settings.mounts.iter().any(|mount| mount.propagation.ends_with("shared"));
    shared.then_some("shared")
}

/// Major and minor number of the kernel's release.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = crate::system::kernel_release();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests;
