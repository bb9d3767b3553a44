//! Bridges of the host's.

use std::net::IpAddr;

use gantry_core::networks::Network;
use gantry_core::{Error, Result};
use ipnet::IpNet;

use super::config::NetworkConfig;
use super::options::{self, Settings};
use crate::addresses::{AddressPool, choose, overlap};
use crate::names::HostResolver;
use crate::netlink::{Link, Mac, Netlink, sysctl};

/// CAP_NET_ADMIN, as a bit.
const NET_ADMIN: u64 = 1 << 12;
/// How the MAC addresses of our bridges begin.
const OURS: [u8; 2] = [0x02, 0x67];

/// A bridge as it is.
#[derive(Debug)]
pub(super) struct Made {
    /// Its number.
    pub(super) index: u32,
    /// Whether the kernel forwards IPv6 for its sake.
    pub(super) forwards6: bool,
    /// What users should know.
    pub(super) warnings: Vec<String>,
}

/// Whether this process may make networks.
pub(super) fn is_allowed() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|bits| bits & NET_ADMIN != 0)
}

/// Makes a network's bridge, or brings the one that is there in order.
pub(super) fn make(config: &NetworkConfig, network: &Network, settings: &Settings) -> Result<Made> {
    let netlink = Netlink::open()?;
    let name = network.interface.as_str();
    let found = netlink.link(name)?;
    let newly = found.is_none();
    let foreign = found.as_ref().is_some_and(|link| !is_ours(link));
    let index = match found {
        Some(link) if link.kind != "bridge" => {
            return Err(Error::failed_precondition(format!(
                "the host's interface {name} of network {} is no bridge",
                network.name
            )));
        }
        Some(Link { mtu, .. }) if network.ipv6().is_some() && options::is_short(mtu) => {
            return Err(Error::failed_precondition(format!(
                "IPv6 needs an MTU of 1280 or more, and the bridge {name} of network {} has {mtu}",
                network.name
            )));
        }
        Some(Link { index, up, .. }) => {
            if !up {
                netlink.set_up(index)?;
            }
            index
        }
        None => {
            let mtu = options::mtu(network, settings, config.mtu);
            netlink.add_bridge(name, mtu, mac(&network.id))?
        }
    };
    match prepare(&netlink, network, settings, index, foreign)
        .and_then(|()| forward_for(&netlink, config, network))
    {
        Ok((forwards6, warnings)) => Ok(Made { index, forwards6, warnings }),
        Err(err) => {
            if newly && let Err(left) = netlink.delete_link(name) {
                tracing::warn!(error = %left, bridge = name, "a bridge stays that is of no use");
            }
            Err(err)
        }
    }
}

/// Whether a bridge is one that was made here, and not somebody else's.
pub(super) fn is_ours(link: &Link) -> bool {
    link.mac.is_some_and(|mac| mac.starts_with(&OURS))
}

/// Addresses and settings. A bridge that is somebody else's keeps its own.
fn prepare(
    netlink: &Netlink,
    network: &Network,
    settings: &Settings,
    index: u32,
    foreign: bool,
) -> Result<()> {
    let (name, v6) = (network.interface.as_str(), network.ipv6().is_some());
    match foreign {
        true => sysctl::prepare_foreign_bridge(name, needs_localnet(network), v6)?,
        false => sysctl::prepare_bridge(name, needs_localnet(network), v6)?,
    }
    let there = netlink.addresses()?;
    let wanted = addresses(network, settings);
    for address in &wanted {
        if !there.contains(&(index, *address)) {
            netlink.add_address(index, *address)?;
        }
    }
    if network.predefined && !foreign {
        // It had another subnet once.
        let own = there.iter().filter(|(of, address)| *of == index && !wanted.contains(address));
        for (_, address) in own.filter(|(_, address)| !is_link_local(address)) {
            netlink.delete_address(index, *address)?;
        }
    }
    Ok(())
}

/// Whether 127.0.0.1 of the host may lead to a network's containers.
pub(super) fn needs_localnet(network: &Network) -> bool {
    network.ipv4().is_some() && !network.internal
}

/// Has the kernel forward what comes from a network and goes there, where the daemon may. Answers
/// with whether it forwards IPv6 then, and with what users should know.
fn forward_for(
    netlink: &Netlink,
    config: &NetworkConfig,
    network: &Network,
) -> Result<(bool, Vec<String>)> {
    if !config.forwarding || network.internal {
        return Ok((false, Vec::new()));
    }
    let v6 = network.ipv6().is_some();
    let warnings = forward(netlink, [network.ipv4().is_some(), v6])?;
    Ok((v6 && warnings.is_empty(), warnings))
}

/// Lets packets of IPv4, and of IPv6, through the host. Answers with what users should know.
pub(super) fn forward(netlink: &Netlink, [v4, v6]: [bool; 2]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if v4 {
        sysctl::forward_ipv4()?;
    }
    if v6 {
        let learning = sysctl::forward_ipv6(netlink)?;
        warnings.extend(learning.iter().map(|name| {
            format!(
                "IPv6 does not leave the host: it has a default route by {name} from a router \
                 that announces itself, which it would lose if it forwarded packets; set \
                 net.ipv6.conf.{name}.accept_ra=2 and net.ipv6.conf.all.forwarding=1"
            )
        }));
    }
    Ok(warnings)
}

/// Whether the kernel has given an interface this address by itself.
fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// The addresses that the host has in a network.
pub(super) fn addresses(network: &Network, settings: &Settings) -> Vec<IpNet> {
    let subnets = network.subnets.iter();
    let with_address =
        subnets.filter(|subnet| subnet.subnet.addr().is_ipv6() || !settings.no_address4);
    let addresses = with_address.filter_map(|subnet| {
        let length = subnet.subnet.prefix_len();
        IpNet::new(subnet.gateway?, length).ok()
    });
    addresses.collect()
}

/// Takes what was added for a network from a bridge that stays, if it is there: these addresses,
/// with their routes, and `localnet`, the setting for 127.0.0.1.
pub(super) fn give_back(name: &str, addresses: &[IpNet], localnet: bool) -> Result<()> {
    let netlink = Netlink::open()?;
    let Some(link) = netlink.link(name)? else { return Ok(()) };
    if localnet {
        sysctl::set_localnet(name, false)?;
    }
    // With the first address of a subnet the kernel takes all others as well, unless told not to.
    let promote = format!("net/ipv4/conf/{name}/promote_secondaries");
    let before = sysctl::sysctl(&promote)?;
    sysctl::set_sysctl(&promote, "1")?;
    let taken =
        addresses.iter().try_for_each(|address| netlink.delete_address(link.index, *address));
    let restored = before.map_or(Ok(()), |value| sysctl::set_sysctl(&promote, &value));
    taken.and(restored)
}

/// The MAC address of a bridge: the same one whenever it is made, as containers remember it.
fn mac(id: &str) -> Mac {
    let byte = |at: usize| id.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let [a, b, c, d] = [0, 2, 4, 6].map(|at| byte(at).unwrap_or_default());
    let [first, second] = OURS;
    [first, second, a, b, c, d]
}

/// What the host reaches by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct HostAddresses {
    /// Networks that it has an address of, and servers of names: no network may have a part.
    own: Vec<IpNet>,
    /// What it has routes to.
    routed: Vec<IpNet>,
    /// Its own addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Those of the interface that is left out.
    pub(super) left_out: Vec<IpNet>,
}

impl HostAddresses {
    /// As they are now, without those of the interface of this name. It blocks.
    pub(super) fn read(config: &NetworkConfig, without: Option<&str>) -> Result<Self> {
        let netlink = Netlink::open()?;
        let without = match without {
            Some(name) => netlink.link(name)?.map(|link| link.index),
            None => None,
        };
        let mut read = Self::default();
        for route in netlink.routes()? {
            // The default route leads to everything, and so do the halves that a VPN has instead.
            if Some(route.index) != without && route.net.prefix_len() > 1 {
                read.routed.push(route.net);
            }
        }
        for (index, address) in netlink.addresses()? {
            if Some(index) == without {
                read.left_out.push(address);
            } else {
                read.own.push(address.trunc());
                read.addresses.push(address.addr());
            }
        }
        let servers = HostResolver::read(&config.resolv_conf)?.servers;
        let servers = servers.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        read.own.extend(servers.map(IpNet::from));
        Ok(read)
    }

    /// The first subnet of these pools that has nothing in common with those that are taken and
    /// with what the host reaches; when its routes leave none, as those of a VPN may, the first
    /// one that the host has no address of.
    pub(super) fn choose(&self, pools: &[AddressPool], v6: bool, taken: &[IpNet]) -> Option<IpNet> {
        let own: Vec<_> = taken.iter().chain(&self.own).copied().collect();
        let all: Vec<_> = own.iter().chain(&self.routed).copied().collect();
        choose(pools, v6, &all).or_else(|| choose(pools, v6, &own))
    }

    /// Whether the host has an address of this subnet, or asks a server of names there.
    pub(super) fn is_in(&self, subnet: &IpNet) -> bool {
        self.own.iter().any(|other| overlap(other, subnet))
    }

    /// Refuses a subnet that is the host's in part, or that has all of what the host has a route
    /// to. Answers as [`HostAddresses::warning`].
    pub(super) fn check(&self, subnet: IpNet) -> Result<Option<String>> {
        let own = self.own.iter().find(|other| overlap(other, &subnet));
        let taken = own.or_else(|| self.routed.iter().find(|other| subnet.contains(*other)));
        match taken {
            Some(other) => Err(Error::failed_precondition(format!(
                "invalid pool request: Pool overlaps with other one on this address space: \
                 {subnet} has addresses of {other}, which the host reaches already"
            ))),
            None => Ok(self.warning(subnet)),
        }
    }

    /// What is to be told of a subnet with addresses that the host has a route to.
    pub(super) fn warning(&self, subnet: IpNet) -> Option<String> {
        let other = self.routed.iter().find(|other| overlap(other, &subnet))?;
        Some(format!(
            "{subnet} has addresses of {other}, to which the host has a route: hosts with these \
             addresses are not reached any more"
        ))
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::Kind;

    use super::*;

    #[test]
    fn subnets_of_the_host_are_refused() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let host = HostAddresses {
            own: vec![net("192.0.2.0/24")],
            routed: vec![net("10.0.0.0/8")],
            ..HostAddresses::default()
        };
        assert_eq!(host.check(net("172.18.0.0/24")).unwrap(), None);
        assert!(host.check(net("10.1.0.0/16")).unwrap().is_some());
        for refused in ["192.0.2.0/25", "192.0.0.0/16", "10.0.0.0/8", "10.0.0.0/7"] {
            let err = host.check(net(refused)).unwrap_err();
            assert_eq!(err.kind(), Kind::FailedPrecondition, "{refused}");
        }
    }

    #[test]
    fn routes_to_everywhere_leave_something() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let pools = ["172.18.0.0/15", "192.168.0.0/16"];
        let pools = pools.map(|base| AddressPool { base: net(base), size: 24 });
        let chosen = |own: &[&str], routed: &[&str]| {
            let nets = |all: &[&str]| -> Vec<_> { all.iter().map(|text| net(text)).collect() };
            let (own, routed) = (nets(own), nets(routed));
            let host = HostAddresses { own, routed, ..HostAddresses::default() };
            let subnet = host.choose(&pools, false, &[net("172.18.0.0/24")]);
            subnet.map(|subnet| (subnet.to_string(), host.warning(subnet).is_some()))
        };
        let is = |subnet: &str, warns| Some((subnet.to_owned(), warns));
        assert_eq!(chosen(&[], &[]), is("172.18.1.0/24", false));
        assert_eq!(chosen(&[], &["172.16.0.0/12"]), is("192.168.0.0/24", false));
        let both = ["172.16.0.0/12", "192.168.0.0/16"];
        assert_eq!(chosen(&[], &both), is("172.18.1.0/24", true));
        assert_eq!(chosen(&["172.18.0.0/16"], &both), is("172.19.0.0/24", true));
        assert_eq!(chosen(&both, &[]), None);
    }

    #[test]
    fn a_bridge_has_one_mac_address() {
        assert_eq!(mac("0123456789ab"), [0x02, 0x67, 0x01, 0x23, 0x45, 0x67]);
    }
}
