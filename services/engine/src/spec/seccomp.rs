//! The default seccomp profile as data, and its translation to the OCI runtime
//! specification (config-linux.md, "Seccomp") for this machine and a set of
//! capabilities.

use gantry_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// System calls that containers may make: `families` lists architectures with
/// those they run beside their own, a rule allows its names when its
/// conditions hold.
const PROFILE: &str = include_str!("../../data/seccomp.json");

/// What the profile is applied to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    /// Rust's name, `x86_64`.
    pub(crate) arch: &'a str,
    /// Major and minor version.
    pub(crate) kernel: (u32, u32),
    /// Capabilities that the container has.
    pub(crate) capabilities: &'a [&'a str],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    default_errno: u32,
    families: Vec<Vec<String>>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    /// Fails with this number in place of being allowed.
    errno: Option<u32>,
    #[serde(default)]
    args: Vec<Arg>,
    /// All of these capabilities are there.
    #[serde(default)]
    caps: Vec<String>,
    /// One of these architectures, in Go's names.
    #[serde(default)]
    arches: Vec<String>,
    /// At least this kernel.
    kernel: Option<(u32, u32)>,
    /// None of these capabilities is there.
    #[serde(default)]
    not_caps: Vec<String>,
    /// None of these architectures.
    #[serde(default)]
    not_arches: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arg {
    index: u32,
    op: String,
    value: u64,
    #[serde(default)]
    second: u64,
}

/// The section of the specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seccomp {
    default_action: &'static str,
    default_errno_ret: u32,
    architectures: Vec<String>,
    pub(crate) syscalls: Vec<Syscall>,
}

/// One rule of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Syscall {
    pub(crate) names: Vec<String>,
    pub(crate) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) args: Vec<SyscallArg>,
}

/// One condition on an argument.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SyscallArg {
    index: u32,
    value: u64,
    value_two: u64,
    op: String,
}

impl Rule {
    fn holds(&self, machine: Machine<'_>) -> bool {
        let arch = gantry_core::go_arch(machine.arch);
        let has = |cap: &String| machine.capabilities.contains(&cap.as_str());
        let is = |list: &[String]| list.iter().any(|a| a == arch);
        self.caps.iter().all(has)
            && !self.not_caps.iter().any(has)
            && (self.arches.is_empty() || is(&self.arches))
            && !is(&self.not_arches)
            && self.kernel.is_none_or(|least| machine.kernel >= least)
    }

    fn into_syscall(self) -> Syscall {
        let arg = |a: Arg| SyscallArg {
            index: a.index,
            value: a.value,
            value_two: a.second,
            op: format!("SCMP_CMP_{}", a.op.to_ascii_uppercase()),
        };
        Syscall {
            names: self.names,
            action: if self.errno.is_some() { "SCMP_ACT_ERRNO" } else { "SCMP_ACT_ALLOW" },
            errno_ret: self.errno,
            args: self.args.into_iter().map(arg).collect(),
        }
    }
}

/// The default profile for a machine.
///
/// # Errors
/// `Internal` when the data is damaged; `Unimplemented` for an architecture
/// that the profile does not know.
pub(crate) fn profile(machine: Machine<'_>) -> Result<Seccomp> {
    let profile: Profile = serde_json::from_str(PROFILE)
        .map_err(|err| Error::internal("read the default seccomp profile").with_source(err))?;
    let family =
        profile.families.into_iter().find(|f| f.first().is_some_and(|a| a == machine.arch));
    let family = family.ok_or_else(|| {
        Error::unimplemented(format!(
            "the default seccomp profile does not know the architecture {}",
            machine.arch
        ))
    })?;
    let architectures =
        family.iter().map(|a| format!("SCMP_ARCH_{}", a.to_ascii_uppercase())).collect();
    let rules = profile.rules.into_iter().filter(|rule| rule.holds(machine));
    Ok(Seccomp {
        default_action: "SCMP_ACT_ERRNO",
        default_errno_ret: profile.default_errno,
        architectures,
        syscalls: rules.map(Rule::into_syscall).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Seccomp, name: &str) -> bool {
        let allowing = |s: &&Syscall| s.action == "SCMP_ACT_ALLOW" && s.args.is_empty();
        profile.syscalls.iter().filter(allowing).any(|s| s.names.iter().any(|n| n == name))
    }

    fn host<'a>(capabilities: &'a [&'a str]) -> Machine<'a> {
        Machine { arch: "x86_64", kernel: (6, 1), capabilities }
    }

    #[test]
    fn default_capabilities() {
        let profile = profile(host(&["CAP_SYS_CHROOT", "CAP_CHOWN"])).unwrap();
        for name in ["read", "execve", "arch_prctl", "chroot", "ptrace"] {
            assert!(allowed(&profile, name), "{name}");
        }
        for name in ["mount", "bpf", "reboot", "clone3", "kexec_load", "riscv_flush_icache"] {
            assert!(!allowed(&profile, name), "{name}");
        }
        // New namespaces are refused by a mask; clone3 does not exist.
        let clone = profile.syscalls.iter().find(|s| s.names == ["clone"]).unwrap();
        assert_eq!(clone.args[0].op, "SCMP_CMP_MASKED_EQ");
        assert_eq!((clone.args[0].index, clone.args[0].value), (0, 0x7e02_0000));
        let clone3 = profile.syscalls.iter().find(|s| s.names == ["clone3"]).unwrap();
        assert_eq!((clone3.action, clone3.errno_ret), ("SCMP_ACT_ERRNO", Some(38)));
    }

    #[test]
    fn capabilities_open_more() {
        let profile = profile(host(&["CAP_SYS_ADMIN", "CAP_SYS_BOOT"])).unwrap();
        for name in ["mount", "clone3", "reboot", "unshare"] {
            assert!(allowed(&profile, name), "{name}");
        }
        assert!(!profile.syscalls.iter().any(|s| s.errno_ret == Some(38)));
    }

    #[test]
    fn kernels_and_architectures() {
        let old = profile(Machine { kernel: (4, 7), ..host(&[]) }).unwrap();
        assert!(!allowed(&old, "ptrace"));
        let arm = profile(Machine { arch: "aarch64", ..host(&[]) }).unwrap();
        assert!(allowed(&arm, "set_tls") && !allowed(&arm, "arch_prctl"));
        assert_eq!(arm.architectures, ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
        assert!(profile(Machine { arch: "z80", ..host(&[]) }).is_err());
    }
}
