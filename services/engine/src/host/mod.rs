//! What this machine has and gives.

pub(crate) mod capabilities;
pub(crate) mod cdi;
pub(crate) mod devices;
mod facts;
pub(crate) mod sysctls;
pub(crate) mod ulimits;

use std::path::PathBuf;
use std::sync::OnceLock;

use gantry_core::Result;

use self::capabilities::Capabilities;
use self::cdi::Edits;
use self::devices::Node;
use crate::model::Flags;

pub(crate) use self::facts::{Facts, numbers};

/// Where devices are described, the later the more they count.
const CDI_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// This machine, as containers can have it.
#[derive(Debug)]
pub(crate) struct Host {
    /// Capabilities that can be granted.
    pub(crate) capabilities: Capabilities,
    /// Where devices are described.
    cdi: Vec<PathBuf>,
    /// Read when it is needed first.
    facts: OnceLock<Facts>,
}

impl Host {
    /// This machine, with devices described in these directories; the usual ones when empty.
    pub(crate) fn new(cdi: &[PathBuf]) -> Self {
        let usual = || CDI_DIRECTORIES.map(PathBuf::from).to_vec();
        Self {
            capabilities: Capabilities::available(),
            cdi: if cdi.is_empty() { usual() } else { cdi.to_vec() },
            facts: OnceLock::new(),
        }
    }

    /// What its control groups can limit.
    pub(crate) fn facts(&self) -> &Facts {
        self.facts.get_or_init(Facts::read)
    }

    /// Where devices are described.
    pub(crate) fn cdi(&self) -> Vec<PathBuf> {
        self.cdi.clone()
    }
}

/// How willingly the kernel ends the daemon for want of memory, which what it starts inherits.
pub(crate) fn own_oom_score() -> i32 {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or_default()
}

/// The devices that a container gets, as they are right now.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    /// Nodes, and what may be done with them.
    pub(crate) nodes: Vec<Node>,
    /// What devices of the Container Device Interface change.
    pub(crate) edits: Edits,
    /// Numbers of the devices that have limits, in the limits' order.
    pub(crate) limited: Vec<(u64, u64)>,
}

impl Devices {
    /// Looks at the host's devices. Blocks for system calls.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is not there.
    pub(crate) fn find(flags: &Flags, cdi: &[PathBuf]) -> Result<Self> {
        let mut nodes = if flags.security.privileged { devices::all() } else { Vec::new() };
        for setting in &flags.devices {
            // All of them are there already, where they are on the host.
            if flags.security.privileged && setting.host_path == setting.container_path {
                continue;
            }
            for node in devices::of_setting(setting)? {
                nodes.retain(|other| other.path != node.path);
                nodes.push(node);
            }
        }
        let edits = if flags.cdi_devices.is_empty() {
            Edits::default()
        } else {
            cdi::edits(cdi, &flags.cdi_devices)?
        };
        for node in &edits.nodes {
            nodes.retain(|other| other.path != node.path);
        }
        let limited = flags.resources.device_limits.iter().map(devices::of_limit);
        Ok(Self { nodes, edits, limited: limited.collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceSetting, Security};

    #[test]
    fn the_last_that_is_named_counts() {
        let device = |host: &str, access: &str| DeviceSetting {
            host_path: host.into(),
            container_path: "/dev/x".into(),
            access: access.into(),
        };
        let flags = Flags {
            devices: vec![device("/dev/null", "r"), device("/dev/zero", "w")],
            ..Flags::default()
        };
        let found = Devices::find(&flags, &[]).unwrap();
        assert_eq!(found.nodes.len(), 1);
        assert_eq!((found.nodes[0].minor, found.nodes[0].access.as_str()), (5, "w"));
    }

    #[test]
    fn privileged_containers_have_all() {
        let security = Security { privileged: true, ..Security::default() };
        let flags = Flags { security, ..Flags::default() };
        let found = Devices::find(&flags, &[]).unwrap();
        assert!(found.nodes.iter().any(|node| node.path == "/dev/null"));
    }
}
