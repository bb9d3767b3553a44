//! Capabilities (capabilities(7)): sets of them, and which of them a container gets.

use std::fs;

use gantry_core::{Error, Result};

use crate::model::Security;

/// Their names, in the order of the kernel's bits.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container's root may do: Docker's fourteen.
const USUAL: Capabilities = Capabilities(0xa804_25fb);

/// Raises limits of processes.
pub(crate) const SYS_RESOURCE: &str = "CAP_SYS_RESOURCE";

/// Stands for all of them.
const ALL: &str = "ALL";

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// What a container's root may do when nobody says otherwise.
    pub(crate) fn usual() -> Self {
        USUAL
    }

    /// What can be granted here: what the kernel knows, and the daemon has not lost.
    pub(crate) fn available() -> Self {
        Self::of_status("CapBnd:")
    }

    /// What the daemon itself has.
    pub(crate) fn own() -> Self {
        Self::of_status("CapEff:")
    }

    fn of_status(field: &str) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        let known = (1_u64 << NAMES.len()) - 1;
        Self(u64::from_str_radix(line.trim(), 16).unwrap_or_default() & known)
    }

    /// Whether one is in the set.
    pub(crate) fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Those that are in both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Their names.
    pub(crate) fn names(self) -> Vec<&'static str> {
        NAMES.into_iter().enumerate().filter(|(n, _)| self.0 >> n & 1 == 1).map(|n| n.1).collect()
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|n| 1 << n)
}

/// Names as users write them: `net_admin`, `CAP_NET_ADMIN`, `ALL`. Whether all are meant, and
/// the others.
///
/// # Errors
/// `InvalidArgument` for a name that Linux has not.
fn parse(names: &[String]) -> Result<(bool, Capabilities)> {
    let (mut all, mut set) = (false, Capabilities::default());
    for name in names {
        let mut long = name.trim().to_ascii_uppercase();
        if long == ALL {
            all = true;
            continue;
        }
        if !long.starts_with("CAP_") {
            long.insert_str(0, "CAP_");
        }
        let Some(bit) = bit(&long) else {
            return Err(Error::invalid_argument(format!("unknown capability: {long:?}")));
        };
        set.0 |= bit;
    }
    Ok((all, set))
}

/// What a container gets of what is `available`.
///
/// # Errors
/// `InvalidArgument` for a name that Linux has not; `FailedPrecondition` for a capability that
/// was asked for and is not available.
pub(crate) fn granted(security: &Security, available: Capabilities) -> Result<Capabilities> {
    let usual = Capabilities::usual().and(available);
    let (add_all, added) = parse(&security.cap_add)?;
    let (drop_all, dropped) = parse(&security.cap_drop)?;
    if security.privileged {
        return Ok(available);
    }
    if let Some(name) = added.without(available).names().first() {
        return Err(Error::failed_precondition(format!(
            "capability not supported by your kernel or not available in the current \
             environment: {name:?}"
        )));
    }
    Ok(if add_all {
        available.without(dropped)
    } else if drop_all {
        added
    } else {
        usual.without(dropped).with(added)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    /// All but one.
    fn here() -> Capabilities {
        Capabilities(((1_u64 << NAMES.len()) - 1) & !bit(SYS_RESOURCE).unwrap())
    }

    fn of(add: &[&str], drop: &[&str]) -> Result<Capabilities> {
        let texts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let security =
            Security { cap_add: texts(add), cap_drop: texts(drop), ..Security::default() };
        granted(&security, here())
    }

    #[test]
    fn the_bits_are_the_kernels() {
        assert_eq!(bit("CAP_CHOWN"), Some(1));
        assert_eq!(bit("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(bit("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(
            Capabilities::usual().names(),
            [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP",
            ]
        );
    }

    #[test]
    fn over_and_under_the_usual() {
        assert_eq!(of(&[], &[]).unwrap(), Capabilities::usual());
        let some = of(&["net_admin", "CAP_SYS_TIME"], &["chown", "Cap_Kill"]).unwrap();
        assert!(some.has("CAP_NET_ADMIN") && some.has("CAP_SYS_TIME") && some.has("CAP_MKNOD"));
        assert!(!some.has("CAP_CHOWN") && !some.has("CAP_KILL"));
        // What is dropped and added is there.
        assert!(of(&["CHOWN"], &["CHOWN"]).unwrap().has("CAP_CHOWN"));
    }

    #[test]
    fn all_of_them() {
        assert_eq!(of(&["ALL"], &[]).unwrap(), here());
        let some = of(&["all"], &["SYS_ADMIN"]).unwrap();
        assert!(!some.has("CAP_SYS_ADMIN") && some.has("CAP_SYS_MODULE"));
        assert_eq!(of(&[], &["ALL"]).unwrap(), Capabilities::default());
        assert_eq!(of(&["SETUID"], &["ALL"]).unwrap().names(), ["CAP_SETUID"]);
        let security = Security { privileged: true, ..Security::default() };
        assert_eq!(granted(&security, here()).unwrap(), here());
    }

    #[test]
    fn refusals() {
        let err = of(&["nope"], &[]).unwrap_err();
        assert_eq!(err.to_string(), "unknown capability: \"CAP_NOPE\"");
        assert_eq!(of(&[], &["nope"]).unwrap_err().kind(), Kind::InvalidArgument);
        let err = of(&["SYS_RESOURCE"], &[]).unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition);
        assert!(err.to_string().contains("\"CAP_SYS_RESOURCE\""), "{err}");
        // It is not there anyway.
        assert!(of(&[], &["SYS_RESOURCE"]).is_ok());
    }
}
