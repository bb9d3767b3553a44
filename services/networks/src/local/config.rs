//! What networks are made with.

use std::path::PathBuf;

use gantry_core::{Error, Result};
use ipnet::IpNet;

use super::options::{check_mtu, is_short};
use crate::addresses::AddressPool;
use crate::netlink::is_interface_name;

/// How networks of this daemon are made. Two daemons in one network namespace need other names
/// of bridge and table, and other pools.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Whether the daemon may make bridges, addresses and rules in its own network namespace.
    /// Otherwise containers have the networks `host` and `none`.
    pub enabled: bool,
    /// The daemon's state directory: names are kept below it.
    pub state: PathBuf,
    /// The bridge of the default network.
    pub bridge: String,
    /// The table of nftables.
    pub table: String,
    /// Subnet of the default network; a free one when `None`.
    pub bridge_subnet: Option<IpNet>,
    /// Whether the default network has IPv6 as well.
    pub bridge_ipv6: bool,
    /// Longest packet, where a network does not say; the kernel's default when `None`.
    pub mtu: Option<u32>,
    /// Where networks get subnets of IPv4 from, and of IPv6 when there is such a pool: otherwise
    /// from a range of unique local addresses that is this installation's.
    pub pools: Vec<AddressPool>,
    /// Whether chains of others that end by dropping what goes into our networks, and what their
    /// containers send, are told there to accept it.
    pub accept_elsewhere: bool,
    /// Whether the daemon lets the kernel forward packets between interfaces, as containers need
    /// it; otherwise somebody else has to. The kernel does so for all of the host's neighbours
    /// then, unless another firewall keeps it from that: a drop of ours could not be lifted by
    /// those who forward for others here, such as other container engines.
    pub forwarding: bool,
    /// The host's resolv.conf(5).
    pub resolv_conf: PathBuf,
}

impl NetworkConfig {
    /// The usual one, for a daemon with this state directory.
    pub fn new(state: PathBuf) -> Self {
        Self {
            enabled: true,
            state,
            bridge: "gantry0".to_owned(),
            table: "gantry".to_owned(),
            bridge_subnet: None,
            bridge_ipv6: false,
            mtu: None,
            pools: default_pools(),
            accept_elsewhere: false,
            forwarding: true,
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }

    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn validate(&self) -> Result<()> {
        if !is_interface_name(&self.bridge) {
            return Err(Error::invalid_argument(format!(
                "{:?} can't be the name of a bridge",
                self.bridge
            )));
        }
        if self.bridge_subnet.is_some_and(|subnet| subnet.addr().is_ipv6()) {
            return Err(Error::invalid_argument("the default network's subnet is one of IPv4"));
        }
        if let Some(mtu) = self.mtu {
            check_mtu(mtu)?;
            if self.bridge_ipv6 && is_short(mtu) {
                return Err(Error::invalid_argument(format!(
                    "the default network can't have IPv6 with an MTU of {mtu}: IPv6 needs one of \
                     1280 or more"
                )));
            }
        }
        self.pools.iter().try_for_each(AddressPool::validate)
    }

    /// Where the default network gets its subnet of IPv4 from.
    pub(super) fn bridge_pools(&self) -> Vec<AddressPool> {
        if let Some(subnet) = self.bridge_subnet {
            return vec![AddressPool { base: subnet, size: subnet.prefix_len() }];
        }
        let mut pools = Vec::new();
        if self.pools == default_pools() {
            // One of its usual size first, and then smaller ones.
            pools.extend(pool("172.17.0.0/16", 16));
            pools.extend(pool("172.18.0.0/15", 16));
            pools.extend(pool("172.20.0.0/14", 16));
            pools.extend(pool("172.24.0.0/13", 16));
            pools.extend(pool("172.16.0.0/12", 20));
        }
        pools.extend(&self.pools);
        pools
    }
}

fn default_pools() -> Vec<AddressPool> {
    ["172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13", "192.168.0.0/16"]
        .into_iter()
        .filter_map(|base| pool(base, 24))
        .collect()
}

fn pool(base: &str, size: u8) -> Option<AddressPool> {
    Some(AddressPool { base: base.parse().ok()?, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_one_is_valid() {
        let config = NetworkConfig::new("/run/gantry".into());
        config.validate().unwrap();
        assert_eq!(config.pools.len(), 4);
        assert_eq!(config.bridge_pools()[0].base, "172.17.0.0/16".parse().unwrap());
        let subnet = Some("10.1.0.0/24".parse().unwrap());
        let config = NetworkConfig { bridge_subnet: subnet, ..config };
        assert_eq!(config.bridge_pools().len(), 1);
        assert!(NetworkConfig { bridge: "a/b".into(), ..config.clone() }.validate().is_err());
        let config = NetworkConfig { mtu: Some(1200), ..config };
        config.validate().unwrap();
        assert!(NetworkConfig { bridge_ipv6: true, ..config }.validate().is_err());
    }
}
