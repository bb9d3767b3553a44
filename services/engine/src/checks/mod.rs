//! The rules that wishes for a container have to keep, with Docker's words. All of them are
//! checked before anything is made.

mod labels;
mod mounts;
pub(crate) mod resources;

use gantry_core::{Error, Labels, Result};

use crate::host::capabilities::{self, Capabilities, SYS_RESOURCE};
use crate::host::devices::{self, EVERYTHING};
use crate::host::{self, Host, cdi, sysctls, ulimits};
use crate::model::{
    DeviceSetting, Flags, Namespaces, Network, RestartMode, RestartPolicy, other_container,
};
use crate::spec;

pub(crate) use labels::{of_caller, of_image};
pub(crate) use mounts::mounts;

/// Longest name of a host or domain that the kernel takes.
const LONGEST_NAME: usize = 64;
/// What annotations of our own begin with, and those that say which shim serves a container.
const RESERVED: [&str; 3] =
    ["io.gantry.", "io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid_argument(message)
}

/// Checks flags and completes them. Gives what a user should know, a line each.
///
/// `hostname`: the caller names one.
///
/// # Errors
/// `InvalidArgument`, saying what is wrong; `FailedPrecondition` for what this host does not give.
pub(crate) fn flags(
    flags: &mut Flags,
    network: Network,
    hostname: bool,
    host: &Host,
) -> Result<Vec<String>> {
    if !flags.domainname.is_empty() && !is_host_name(&flags.domainname) {
        return Err(invalid(format!("invalid domainname: {:?}", flags.domainname)));
    }
    modes(&flags.namespaces)?;
    if flags.namespaces.uts == "host" {
        let conflict = |what| invalid(format!("conflicting options: {what} and the UTS mode"));
        if hostname {
            return Err(conflict("hostname"));
        }
        if !flags.domainname.is_empty() {
            return Err(conflict("domainname"));
        }
    }
    let mut warnings = Vec::new();
    if flags.resources != Default::default() {
        warnings = resources::check(&mut flags.resources, host.facts(), false)?;
    }
    capabilities::granted(&flags.security, host.capabilities)?;
    spec::profile::check(&flags.security.seccomp)?;
    warnings.extend(devices(flags)?);
    ulimits::check(&flags.ulimits)?;
    sysctls::check(&mut flags.sysctls, &flags.namespaces, network)?;
    groups(&flags.groups)?;
    annotations(&flags.annotations)?;
    if i64::try_from(flags.shm_size).is_err() {
        return Err(invalid("SHM size can not be less than 0"));
    }
    oom_score(flags.oom_score_adj)?;
    cgroup_parent(&flags.cgroup_parent)?;
    Ok(warnings)
}

/// Whether a text can be the name of a host or a domain.
pub(crate) fn is_host_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    name.len() <= LONGEST_NAME && name.bytes().all(allowed)
}

/// Refuses modes of namespaces that nobody knows.
fn modes(namespaces: &Namespaces) -> Result<()> {
    let known: [(&str, &str, &[&str], bool); 6] = [
        ("PID", &namespaces.pid, &["host"], true),
        ("IPC", &namespaces.ipc, &["host", "private", "shareable", "none"], true),
        ("UTS", &namespaces.uts, &["host"], false),
        ("USER", &namespaces.user, &["host"], false),
        ("cgroup namespace", &namespaces.cgroup, &["host", "private"], false),
        ("network", &namespaces.network, &[], true),
    ];
    for (kind, mode, known, joins) in known {
        let joined = joins && other_container(mode).is_some_and(|other| !other.is_empty());
        if !mode.is_empty() && !known.contains(&mode) && !joined {
            return Err(invalid(format!("invalid {kind} mode: {mode}")));
        }
    }
    Ok(())
}

/// Completes devices, and refuses what names none. Whether they are there is seen later.
fn devices(flags: &mut Flags) -> Result<Option<String>> {
    let privileged = flags.security.privileged;
    let mut warning = None;
    for DeviceSetting { host_path, container_path, access } in &mut flags.devices {
        if container_path.is_empty() {
            container_path.clone_from(host_path);
        }
        if access.is_empty() {
            EVERYTHING.clone_into(access);
        }
        if !devices::is_access(access) {
            return Err(invalid(format!("invalid device mode: {access}")));
        }
        for path in [&*host_path, &*container_path] {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(invalid(format!("invalid device path: {path:?} is not absolute")));
            }
        }
        *container_path =
            gantry_core::paths::clean(&*container_path).to_string_lossy().into_owned();
        if privileged && *access != EVERYTHING {
            warning = Some(format!(
                "Custom {access} permissions for device {host_path} are ignored in privileged mode"
            ));
            EVERYTHING.clone_into(access);
        }
    }
    for rule in &flags.device_cgroup_rules {
        devices::rule(rule)?;
    }
    flags.cdi_devices.iter().try_for_each(|name| cdi::check_name(name))?;
    Ok(warning)
}

/// Names of groups are looked up in the container; numbers have to be ones.
fn groups(groups: &[String]) -> Result<()> {
    for group in groups {
        if group.is_empty() || group.contains([',', ':', '\n', '\0']) {
            return Err(invalid(format!("Unable to find group {group}: that is no group's name")));
        }
    }
    groups.iter().try_for_each(|group| spec::check_user(group))
}

fn annotations(annotations: &Labels) -> Result<()> {
    for key in annotations.keys() {
        if key.is_empty() {
            return Err(invalid(
                "invalid Annotations: the empty string is not permitted as an annotation key",
            ));
        }
        if RESERVED.iter().any(|reserved| key.starts_with(reserved)) {
            return Err(invalid(format!("invalid Annotations: {key:?} is the engine's own")));
        }
    }
    Ok(())
}

/// Refuses scores that there are not, and those that this daemon can't give.
fn oom_score(score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    if !(-1000..=1000).contains(&score) {
        return Err(invalid(format!(
            "Invalid value {score}, range for oom score adj is [-1000, 1000]"
        )));
    }
    let own = host::own_oom_score();
    if score < own && !Capabilities::own().has(SYS_RESOURCE) {
        return Err(Error::failed_precondition(format!(
            "oom score adj {score} is below the daemon's own, {own}, and lowering it needs \
             {SYS_RESOURCE}, which the daemon does not have on this host"
        )));
    }
    Ok(())
}

fn cgroup_parent(parent: &str) -> Result<()> {
    let upwards = parent.split('/').any(|part| part == "..");
    if upwards || parent.contains(['\n', '\0', ':']) {
        return Err(invalid(format!("invalid cgroup-parent {parent:?}: it must be a plain path")));
    }
    Ok(())
}

/// Refuses restart policies that contradict themselves or a container that goes with its end.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn restart(policy: RestartPolicy, auto_remove: bool) -> Result<()> {
    if policy.maximum_retries > 0 && policy.mode != RestartMode::OnFailure {
        return Err(invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    if auto_remove && policy.mode != RestartMode::No {
        return Err(invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Resources, Security, Ulimit};
    use gantry_core::Kind;

    fn checked(mut wishes: Flags) -> Result<Flags> {
        flags(&mut wishes, Network::None, false, &Host::new(&[]))?;
        Ok(wishes)
    }

    fn namespaces(change: impl FnOnce(&mut Namespaces)) -> Flags {
        let mut flags = Flags::default();
        change(&mut flags.namespaces);
        flags
    }

    fn one<T>(value: T) -> Vec<T> {
        vec![value]
    }

    #[test]
    fn nothing_is_fine() {
        assert_eq!(checked(Flags::default()).unwrap(), Flags::default());
    }

    #[test]
    fn modes_of_namespaces() {
        for good in ["host", "container:web", ""] {
            checked(namespaces(|n| n.pid = good.into())).unwrap();
        }
        for good in ["none", "shareable", "private", "container:x"] {
            checked(namespaces(|n| n.ipc = good.into())).unwrap();
        }
        let said = |flags| checked(flags).unwrap_err().to_string();
        assert_eq!(said(namespaces(|n| n.pid = "web".into())), "invalid PID mode: web");
        assert_eq!(
            said(namespaces(|n| n.ipc = "container:".into())),
            "invalid IPC mode: container:"
        );
        assert_eq!(
            said(namespaces(|n| n.uts = "container:x".into())),
            "invalid UTS mode: container:x"
        );
        assert_eq!(said(namespaces(|n| n.user = "x".into())), "invalid USER mode: x");
        assert_eq!(said(namespaces(|n| n.cgroup = "x".into())), "invalid cgroup namespace mode: x");
    }

    #[test]
    fn host_names_and_the_hosts_uts() {
        let mut host = namespaces(|n| n.uts = "host".into());
        let asked = |wishes: &mut Flags, hostname| {
            flags(wishes, Network::None, hostname, &Host::new(&[])).map_err(|err| err.to_string())
        };
        assert!(asked(&mut host, false).is_ok());
        let refused = "conflicting options: hostname and the UTS mode".to_owned();
        assert_eq!(asked(&mut host, true), Err(refused));
        host.domainname = "example.com".into();
        let refused = "conflicting options: domainname and the UTS mode".to_owned();
        assert_eq!(asked(&mut host, false), Err(refused));
        assert!(checked(Flags { domainname: "a b".into(), ..Flags::default() }).is_err());
    }

    #[test]
    fn devices_are_completed() {
        let device = DeviceSetting { host_path: "/dev/fuse".into(), ..DeviceSetting::default() };
        let made = checked(Flags { devices: vec![device.clone()], ..Flags::default() }).unwrap();
        assert_eq!(made.devices[0].container_path, "/dev/fuse");
        assert_eq!(made.devices[0].access, "rwm");
        let said = |device| {
            checked(Flags { devices: vec![device], ..Flags::default() }).unwrap_err().to_string()
        };
        let bad = DeviceSetting { access: "x".into(), ..device.clone() };
        assert_eq!(said(bad), "invalid device mode: x");
        let bad = DeviceSetting { container_path: "fuse".into(), ..device.clone() };
        assert!(said(bad).starts_with("invalid device path"));
        let mut wishes = Flags {
            devices: vec![DeviceSetting { access: "r".into(), ..device }],
            security: Security { privileged: true, ..Security::default() },
            ..Flags::default()
        };
        let warnings = flags(&mut wishes, Network::None, false, &Host::new(&[])).unwrap();
        assert!(warnings[0].contains("ignored in privileged mode"), "{warnings:?}");
    }

    #[test]
    fn refusals() {
        let labels = |k: &str| Labels::from([(k.to_owned(), "v".to_owned())]);
        let resources = Resources { memory: Some(1), ..Resources::default() };
        let security = |change: fn(&mut Security)| {
            let mut security = Security::default();
            change(&mut security);
            Flags { security, ..Flags::default() }
        };
        let ulimit = Ulimit { name: "nope".into(), soft: 1, hard: 1 };
        let base = Flags::default;
        for bad in [
            Flags { resources, ..base() },
            security(|s| s.cap_add = vec!["nope".into()]),
            security(|s| s.seccomp = "{".into()),
            Flags { device_cgroup_rules: one("x".into()), ..base() },
            Flags { cdi_devices: one("x".into()), ..base() },
            Flags { ulimits: one(ulimit), ..base() },
            Flags { sysctls: labels("kernel.panic"), ..base() },
            Flags { groups: one("a,b".into()), ..base() },
            Flags { groups: one("2147483648".into()), ..base() },
            Flags { annotations: labels(""), ..base() },
            Flags { annotations: labels("io.gantry.groups"), ..base() },
            Flags { annotations: labels("io.kubernetes.cri.sandbox-id"), ..base() },
            Flags { shm_size: u64::MAX, ..base() },
            Flags { oom_score_adj: Some(1001), ..base() },
            Flags { cgroup_parent: "/a/../../b".into(), ..base() },
        ] {
            let shown = format!("{bad:?}");
            let err = checked(bad).expect_err(&shown);
            assert_eq!(err.kind(), Kind::InvalidArgument, "{shown}: {err}");
        }
    }

    #[test]
    fn restart_policies() {
        let policy = |mode, maximum_retries| RestartPolicy { mode, maximum_retries };
        restart(policy(RestartMode::OnFailure, 3), false).unwrap();
        assert!(restart(policy(RestartMode::Always, 3), false).is_err());
        let err = restart(policy(RestartMode::Always, 0), true).unwrap_err();
        assert_eq!(err.to_string(), "can't create 'AutoRemove' container with restart policy");
        restart(policy(RestartMode::No, 0), true).unwrap();
    }
}
