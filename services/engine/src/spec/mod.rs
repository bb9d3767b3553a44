//! OCI runtime specifications with Docker's defaults.
//!
//! All that containers have in common is prepared once; the seccomp section,
//! by far the largest part, is kept as text.

pub(crate) mod seccomp;

use std::path::Path;

use gantry_core::{Error, Result};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::files::ContainerFiles;
use crate::model::{Network, Settings};
use crate::options::Size;

/// What a container's root may do: Docker's fourteen capabilities.
pub(crate) const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Files of the kernel that tell of the host.
const MASKED: [&str; 12] = [
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
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the image's environment lacks most often.
pub(crate) const DEFAULT_PATH: &str =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes specifications.
#[derive(Debug)]
pub(crate) struct SpecBuilder {
    cgroup_parent: String,
    seccomp: Box<RawValue>,
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
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    oci_version: &'a str,
    process: Value,
    root: Value,
    hostname: &'a str,
    mounts: Vec<&'a Value>,
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
    seccomp: &'a RawValue,
    masked_paths: &'a [&'a str],
    readonly_paths: &'a [&'a str],
}

impl SpecBuilder {
    /// Prepares what is common to all containers of this machine.
    ///
    /// # Errors
    /// `Unimplemented` on an architecture without a seccomp profile.
    pub(crate) fn new(cgroup_parent: &str) -> Result<Self> {
        let host = seccomp::Host {
            arch: std::env::consts::ARCH,
            kernel: kernel_version(),
            capabilities: &CAPABILITIES,
        };
        let seccomp = serde_json::value::to_raw_value(&seccomp::profile(host)?)
            .map_err(|err| Error::internal("encode the seccomp profile").with_source(err))?;
        let cgroup_parent = cgroup_parent.trim_end_matches('/').to_owned();
        Ok(Self { cgroup_parent, seccomp, mounts: mounts(), devices: devices() })
    }

    /// The specification of a container, as JSON.
    ///
    /// # Errors
    /// `Internal` when it can't be encoded.
    pub(crate) fn build(&self, input: &SpecInput<'_>) -> Result<Vec<u8>> {
        let settings = input.settings;
        let own: Vec<Value> =
            input.files.binds().into_iter().map(|(from, to)| bind(&from, to)).collect();
        let spec = Spec {
            oci_version: "1.1.0",
            process: process(settings, input.size),
            root: json!({"path": "rootfs", "readonly": false}),
            hostname: &settings.hostname,
            mounts: self.mounts.iter().chain(&own).collect(),
            linux: Linux {
                sysctl: sysctl(settings.network),
                cgroups_path: format!("{}/{}", self.cgroup_parent, input.id),
                resources: json!({"devices": self.devices}),
                namespaces: namespaces(settings.network),
                seccomp: &self.seccomp,
                masked_paths: &MASKED,
                readonly_paths: &READ_ONLY,
            },
        };
        serde_json::to_vec(&spec)
            .map_err(|err| Error::internal("encode a runtime specification").with_source(err))
    }
}

fn process(settings: &Settings, size: Option<Size>) -> Value {
    let mut process = json!({
        "terminal": settings.tty,
        "user": user(&settings.user),
        "args": settings.args().collect::<Vec<_>>(),
        "env": settings.env,
        "cwd": settings.working_dir,
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES,
        },
    });
    if let Some(size) = size.filter(|_| settings.tty) {
        process["consoleSize"] = json!({"height": size.rows, "width": size.columns});
    }
    process
}

/// Refuses IDs of users and groups that the system has not. Names are the shim's to look up.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_user(user: &str) -> Result<()> {
    for id in user.splitn(2, ':') {
        let digits = id.strip_prefix(['-', '+']).unwrap_or(id);
        let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if numeric && !id.parse::<i32>().is_ok_and(|id| id >= 0) {
            return Err(Error::invalid_argument(format!(
                "user {user:?}: uids and gids must be in range 0-{}",
                i32::MAX
            )));
        }
    }
    Ok(())
}

/// The user as it was written: the shim looks it up in the container's own
/// files, with its further groups.
pub(crate) fn user(user: &str) -> Value {
    let name = if user.is_empty() { "0" } else { user };
    json!({"uid": 0, "gid": 0, "username": name})
}

fn bind(source: &Path, target: &str) -> Value {
    json!({
        "destination": target,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate"],
    })
}

fn mounts() -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
        ),
    ]
}

/// Nothing, then what every container may use. Making nodes of other devices
/// is allowed, opening them is not.
fn devices() -> Value {
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
        // Terminals of /dev/pts.
        json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
        );
    }
    Value::Array(rules)
}

fn namespaces(network: Network) -> Vec<Value> {
    let mut kinds = vec!["mount", "uts", "pid", "ipc", "cgroup"];
    if network != Network::Host {
        kinds.push("network");
    }
    kinds.into_iter().map(|kind| json!({"type": kind})).collect()
}

/// In a network of its own, ping and low ports need no privilege.
fn sysctl(network: Network) -> Value {
    if network == Network::Host {
        return Value::Null;
    }
    json!({
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    })
}

fn kernel_version() -> (u32, u32) {
    let release = crate::system::kernel_release();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(settings: &Settings) -> Value {
        let files = ContainerFiles::below(Path::new("/root/c"), "c1");
        let builder = SpecBuilder::new("/gantry/").unwrap();
        let size = Some(Size { columns: 80, rows: 24 });
        let input = SpecInput { id: "c1", settings, files: &files, size };
        serde_json::from_slice(&builder.build(&input).unwrap()).unwrap()
    }

    #[test]
    fn a_container_with_defaults() {
        let spec = build(&Settings {
            entrypoint: vec!["/bin/sh".into()],
            command: vec!["-c".into(), "true".into()],
            working_dir: "/".into(),
            hostname: "h".into(),
            ..Settings::default()
        });
        assert_eq!(spec["process"]["args"], json!(["/bin/sh", "-c", "true"]));
        assert_eq!(spec["process"]["user"]["username"], "0");
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
        assert!(spec["process"]["capabilities"].get("ambient").is_none());
        assert!(spec["process"].get("noNewPrivileges").is_none());
        assert!(spec["process"].get("consoleSize").is_none());
        assert_eq!(spec["linux"]["cgroupsPath"], "/gantry/c1");
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 6);
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
        let targets: Vec<_> = spec["mounts"].as_array().unwrap().iter().collect();
        let has = |t: &str| targets.iter().any(|m| m["destination"] == t);
        assert!(["/proc", "/dev/shm", "/etc/hosts", "/etc/resolv.conf"].into_iter().all(has));
        let cgroup = targets.iter().find(|m| m["type"] == "cgroup").unwrap();
        assert!(cgroup["options"].as_array().unwrap().contains(&json!("ro")));
    }

    #[test]
    fn the_hosts_network_and_a_terminal() {
        let spec = build(&Settings {
            network: Network::Host,
            tty: true,
            user: "web:www".into(),
            ..Settings::default()
        });
        let kinds = spec["linux"]["namespaces"].as_array().unwrap();
        assert!(!kinds.contains(&json!({"type": "network"})));
        assert!(spec["linux"].get("sysctl").is_none());
        assert_eq!(spec["process"]["consoleSize"], json!({"height": 24, "width": 80}));
        assert_eq!(spec["process"]["user"]["username"], "web:www");
    }
}
