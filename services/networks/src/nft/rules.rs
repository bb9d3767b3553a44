//! What the firewall is to do, in the words of networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gantry_core::networks::Published;
use ipnet::IpNet;

/// Everything that the firewall is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The bridges of networks, by the IDs of the networks.
    pub(crate) bridges: BTreeMap<String, BridgeRules>,
    /// The published ports.
    pub(crate) ports: BTreeSet<PortRule>,
    /// Whether chains of others that end by dropping packets of ours are told to accept them.
    pub(crate) accept_elsewhere: bool,
}

/// What is let through a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeRules {
    /// Its name.
    pub(crate) interface: String,
    /// Nothing leaves it and nothing enters.
    pub(crate) internal: bool,
    /// Its addresses.
    pub(crate) subnets: Vec<IpNet>,
    /// IPv4 packets that leave have the host's address.
    pub(crate) masquerade4: bool,
    /// IPv6 packets that leave have the host's address.
    pub(crate) masquerade6: bool,
    /// Its containers do not reach each other but by published ports.
    pub(crate) isolated_inside: bool,
    /// Containers of other bridges do not get in but by published ports. Those of two bridges
    /// that are both not isolated reach each other.
    pub(crate) isolated_from_others: bool,
    /// Interfaces of the host from which containers are reached by their own addresses.
    pub(crate) trusted: Vec<String>,
    /// Containers are reached from everywhere by their own IPv4 addresses.
    pub(crate) unprotected4: bool,
    /// The same for IPv6.
    pub(crate) unprotected6: bool,
    /// IPv4 packets are routed to containers, which answer pings then.
    pub(crate) routed4: bool,
    /// The same for IPv6.
    pub(crate) routed6: bool,
}

/// A published port.
///
/// One of the host's port 0 leads nowhere: that port of the container is open to those who
/// route packets to its own address. One whose address is of another kind than its target's,
/// or `::1`, is not translated: the relay of the container's shim carries it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortRule {
    /// The port.
    pub(crate) published: Published,
    /// The container's address.
    pub(crate) target: IpAddr,
    /// ID of the network that the address is of.
    pub(crate) bridge: String,
}

/// A change of the rules. What is already as it says is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A bridge comes, or other rules for one that is there. By the network's ID.
    AddBridge(String, BridgeRules),
    /// A bridge goes.
    RemoveBridge(String),
    /// A port is published.
    AddPort(PortRule),
    /// A port is not published any more. Connections that are open stay.
    RemovePort(PortRule),
}

impl Rules {
    /// Applies a change; returns what undoes it, or `None` when nothing changed.
    pub(super) fn change(&mut self, change: &Change) -> Option<Change> {
        match change {
            Change::AddBridge(id, rules) => match self.bridges.insert(id.clone(), rules.clone()) {
                Some(old) if old == *rules => None,
                Some(old) => Some(Change::AddBridge(id.clone(), old)),
                None => Some(Change::RemoveBridge(id.clone())),
            },
            Change::RemoveBridge(id) => {
                self.bridges.remove(id).map(|old| Change::AddBridge(id.clone(), old))
            }
            Change::AddPort(port) => {
                self.ports.insert(port.clone()).then(|| Change::RemovePort(port.clone()))
            }
            Change::RemovePort(port) => {
                self.ports.remove(port).then(|| Change::AddPort(port.clone()))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use gantry_core::networks::Protocol;

    use super::*;

    /// Rules with two networks and a few ports.
    pub(in crate::nft) fn sample() -> Rules {
        let mut rules = Rules::default();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        for (id, interface, subnets, internal) in [
            ("a", "gantry0", [net("172.17.0.0/16"), net("fd00:1::/64")], false),
            ("b", "br-b", [net("172.18.0.0/24"), net("fd00:1:0:1::/64")], false),
            ("c", "br-c", [net("172.18.1.0/24"), net("fd00:1:0:2::/64")], true),
        ] {
            let bridge = BridgeRules {
                interface: interface.to_owned(),
                internal,
                subnets: subnets.to_vec(),
                masquerade4: true,
                masquerade6: true,
                isolated_from_others: true,
                ..BridgeRules::default()
            };
            rules.bridges.insert(id.to_owned(), bridge);
        }
        rules.ports.insert(port("0.0.0.0", 8080, "172.17.0.2", "a"));
        rules.ports.insert(port("::", 8080, "fd00:1::2", "a"));
        rules.ports.insert(port("127.0.0.1", 8081, "172.18.0.2", "b"));
        rules
    }

    /// A published port of TCP that leads to port 80.
    pub(in crate::nft) fn port(host: &str, host_port: u16, target: &str, bridge: &str) -> PortRule {
        PortRule {
            published: Published {
                host_ip: host.parse().unwrap(),
                host_port,
                container_port: 80,
                protocol: Protocol::Tcp,
            },
            target: target.parse().unwrap(),
            bridge: bridge.to_owned(),
        }
    }

    #[test]
    fn a_change_is_undone() {
        let mut rules = sample();
        let before = rules.clone();
        let other = BridgeRules { interface: "br-d".to_owned(), ..BridgeRules::default() };
        let changes = [
            Change::AddPort(port("0.0.0.0", 1, "172.17.0.2", "a")),
            Change::RemovePort(port("0.0.0.0", 8080, "172.17.0.2", "a")),
            Change::AddBridge("a".to_owned(), other.clone()),
            Change::AddBridge("d".to_owned(), other),
            Change::RemoveBridge("b".to_owned()),
        ];
        let undo: Vec<_> = changes.iter().map(|change| rules.change(change).unwrap()).collect();
        assert_ne!(rules, before);
        for change in undo.iter().rev() {
            rules.change(change).unwrap();
        }
        assert_eq!(rules, before);
        assert_eq!(rules.change(&Change::RemoveBridge("x".to_owned())), None);
        assert_eq!(rules.change(&Change::AddPort(port("::", 8080, "fd00:1::2", "a"))), None);
    }
}
