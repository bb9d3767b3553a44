//! Networks of containers.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use gantry_networks::{AddressPool, NetworkConfig};
use ipnet::IpNet;
use serde::Deserialize;

/// Networks of containers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Networks {
    /// Whether the daemon makes bridges, addresses and rules in its own network namespace, which
    /// it does when unset. Otherwise containers have the networks `host` and `none`.
    pub(crate) enabled: Option<bool>,
    /// The bridge of the default network; `gantry0` when unset.
    pub(crate) bridge: Option<String>,
    /// Subnet of the default network; a free one when unset.
    pub(crate) bridge_subnet: Option<IpNet>,
    /// Whether the default network has IPv6 as well.
    pub(crate) bridge_ipv6: bool,
    /// The table of nftables; `gantry` when unset.
    pub(crate) table: Option<String>,
    /// Longest packet, where a network does not say; the kernel's default when unset.
    pub(crate) mtu: Option<u32>,
    /// Where networks get their subnets from; the usual private ranges when unset.
    pub(crate) pools: Option<Vec<Pool>>,
    /// Whether chains of others that end by dropping what goes to published ports, and what
    /// containers send, are told there to accept it.
    pub(crate) accept_elsewhere: bool,
    /// Whether the daemon lets the kernel forward packets, which it does when unset; otherwise
    /// somebody else has to.
    pub(crate) forwarding: Option<bool>,
    /// The host's name servers; `/etc/resolv.conf` when unset.
    pub(crate) resolv_conf: Option<PathBuf>,
}

/// Subnets of one size.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    /// What they are parts of.
    base: IpNet,
    /// Length of their prefixes.
    size: u8,
}

impl Networks {
    /// The same for the networks of a daemon with this state directory.
    pub(crate) fn made(&self, state: PathBuf) -> NetworkConfig {
        let usual = NetworkConfig::new(state);
        let pool = |pool: &Pool| AddressPool { base: pool.base, size: pool.size };
        NetworkConfig {
            enabled: self.enabled.unwrap_or(usual.enabled),
            bridge: self.bridge.clone().unwrap_or(usual.bridge),
            bridge_subnet: self.bridge_subnet,
            bridge_ipv6: self.bridge_ipv6,
            table: self.table.clone().unwrap_or(usual.table),
            mtu: self.mtu.or(usual.mtu),
            pools: match &self.pools {
                Some(pools) => pools.iter().map(pool).collect(),
                None => usual.pools,
            },
            accept_elsewhere: self.accept_elsewhere,
            forwarding: self.forwarding.unwrap_or(usual.forwarding),
            resolv_conf: self.resolv_conf.clone().unwrap_or(usual.resolv_conf),
            ..usual
        }
    }

    /// Checks what the types can't.
    pub(super) fn validate(&self, state: PathBuf) -> Result<()> {
        if self.pools.as_ref().is_some_and(Vec::is_empty) {
            bail!("networks.pools: there must be one at least");
        }
        if let Some(path) = self.resolv_conf.as_ref().filter(|path| !path.is_absolute()) {
            bail!("networks.resolv_conf {} must be an absolute path", path.display());
        }
        self.made(state).validate().context("networks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Networks {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_unset_is_usual() {
        let made = parse("").made("/s".into());
        let usual = NetworkConfig::new("/s".into());
        assert_eq!((made.enabled, made.forwarding), (usual.enabled, usual.forwarding));
        assert_eq!((made.bridge, made.table), (usual.bridge, usual.table));
        assert_eq!(made.pools.len(), usual.pools.len());
        parse("").validate("/s".into()).unwrap();
    }

    #[test]
    fn what_is_set_counts() {
        let text = "enabled = false\nbridge = \"test0\"\nbridge_subnet = \"10.9.0.0/24\"\n\
                    table = \"test\"\npools = [{ base = \"10.10.0.0/16\", size = 26 }]\n\
                    mtu = 1400\nresolv_conf = \"/x\"\n";
        let config = parse(text);
        config.validate("/s".into()).unwrap();
        let made = config.made("/s".into());
        assert!(!made.enabled);
        assert_eq!((made.bridge.as_str(), made.table.as_str()), ("test0", "test"));
        assert_eq!((made.pools.len(), made.pools[0].size, made.mtu), (1, 26, Some(1400)));
        assert_eq!(made.bridge_subnet, "10.9.0.0/24".parse().ok());
    }

    #[test]
    fn mistakes_are_named() {
        assert!(toml::from_str::<Networks>("bridgee = \"x\"").is_err());
        assert!(toml::from_str::<Networks>("bridge_subnet = \"x\"").is_err());
        for bad in ["pools = []", "bridge = \"a/b\"", "resolv_conf = \"x\""] {
            assert!(parse(bad).validate("/s".into()).is_err(), "{bad}");
        }
    }
}
