//! What networks and ports are in the sets of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gantry_core::networks::Protocol;
use ipnet::IpNet;

use super::layout::name_of;
use super::rules::{BridgeRules, Change, PortRule, Rules};
use super::sets::{
    BRIDGES, DIRECT4, DIRECT6, INTERNAL, MASQUERADED4, MASQUERADED6, OPEN, OWN4, OWN6, PORTS4,
    PORTS4_AT, PORTS6, PORTS6_AT, REACH4, REACH6, RELAYED4, RELAYED4_AT, RELAYED6, RELAYED6_AT,
    ROUTED4, ROUTED6, SAME, SETS, TRUSTED,
};
use super::wire::Element;

/// An element, with the name of its set.
pub(super) type Placed = (&'static str, Element);

/// What is in each set.
pub(super) type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

/// Everything that these rules put into the sets. Every set is there.
pub(super) fn of_rules(rules: &Rules) -> Elements {
    let mut all: Elements = SETS.iter().map(|set| (set.name, BTreeSet::new())).collect();
    let bridges = rules.bridges.values().flat_map(of_bridge);
    for (set, element) in bridges.chain(rules.ports.iter().flat_map(of_port)) {
        let elements = all.entry(set).or_default();
        // Two rules for one port: the kernel would take neither.
        let bare = Element { key_end: None, data: None, ..element.clone() };
        let other = elements.range(bare..).next().filter(|other| other.key == element.key);
        match other.filter(|other| other.end == element.end && **other != element) {
            Some(_) => tracing::warn!(set, key = ?element.key, "a port is published twice"),
            None => {
                elements.insert(element);
            }
        }
    }
    all
}

/// What comes and what goes.
#[derive(Debug, Default)]
pub(super) struct Delta {
    come: BTreeSet<Placed>,
    gone: BTreeSet<Placed>,
}

impl Delta {
    /// Adds what a change did; `undo` is what undoes it, `rules` are those after it.
    pub(super) fn add(&mut self, rules: &Rules, change: &Change, undo: &Change) {
        for placed in of_change(undo) {
            // Another port of the same container may be the same element.
            if matches!(undo, Change::AddPort(_)) && still_there(rules, &placed) {
                continue;
            }
            if !self.come.remove(&placed) {
                self.gone.insert(placed);
            }
        }
        for placed in of_change(change) {
            if !self.gone.remove(&placed) {
                self.come.insert(placed);
            }
        }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.come.is_empty() && self.gone.is_empty()
    }

    /// What goes, by set.
    pub(super) fn gone(&self) -> BTreeMap<&'static str, Vec<Element>> {
        by_set(&self.gone)
    }

    /// What comes, by set.
    pub(super) fn come(&self) -> BTreeMap<&'static str, Vec<Element>> {
        by_set(&self.come)
    }
}

fn by_set(placed: &BTreeSet<Placed>) -> BTreeMap<&'static str, Vec<Element>> {
    let mut sets: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (set, element) in placed {
        sets.entry(*set).or_default().push(element.clone());
    }
    sets
}

fn still_there(rules: &Rules, placed: &Placed) -> bool {
    rules.ports.iter().any(|port| of_port(port).contains(placed))
}

/// What a change that adds something adds.
fn of_change(change: &Change) -> Vec<Placed> {
    match change {
        Change::AddBridge(_, bridge) => of_bridge(bridge),
        Change::AddPort(port) => of_port(port),
        Change::RemoveBridge(_) | Change::RemovePort(_) => Vec::new(),
    }
}

/// What a bridge has in the sets.
fn of_bridge(bridge: &BridgeRules) -> Vec<Placed> {
    let name = name_of(&bridge.interface);
    let mut placed = vec![(BRIDGES.name, plain(name.clone()))];
    if !bridge.isolated_inside {
        placed.push((SAME.name, plain([name.clone(), name.clone()].concat())));
    }
    if bridge.internal {
        placed.push((INTERNAL.name, plain(name)));
        return placed;
    }
    for interface in &bridge.trusted {
        placed.push((TRUSTED.name, plain([name_of(interface), name.clone()].concat())));
    }
    let flags = [
        (!bridge.isolated_from_others, OPEN.name),
        (bridge.unprotected4, DIRECT4.name),
        (bridge.unprotected6, DIRECT6.name),
        (bridge.routed4, ROUTED4.name),
        (bridge.routed6, ROUTED6.name),
    ];
    for (_, set) in flags.into_iter().filter(|(wanted, _)| *wanted) {
        placed.push((set, plain(name.clone())));
    }
    for subnet in &bridge.subnets {
        let (own, masqueraded, wanted) = match subnet {
            IpNet::V4(_) => (OWN4.name, MASQUERADED4.name, bridge.masquerade4),
            IpNet::V6(_) => (OWN6.name, MASQUERADED6.name, bridge.masquerade6),
        };
        placed.push((own, with_name(subnet, &name)));
        if wanted {
            placed.extend(interval(subnet).into_iter().map(|element| (masqueraded, element)));
        }
    }
    placed
}

/// The elements of a port.
fn of_port(rule: &PortRule) -> Vec<Placed> {
    let published = &rule.published;
    let (outer, inner) = (
        port_key(published.protocol, published.host_port),
        port_key(published.protocol, published.container_port),
    );
    if published.host_port == 0 {
        let reach = if rule.target.is_ipv4() { REACH4.name } else { REACH6.name };
        return vec![(reach, plain([octets(rule.target), inner].concat()))];
    }
    let host = published.host_ip;
    let (ports, relayed) = match (host, host.is_unspecified()) {
        (IpAddr::V4(_), true) => (PORTS4.name, RELAYED4.name),
        (IpAddr::V4(_), false) => (PORTS4_AT.name, RELAYED4_AT.name),
        (IpAddr::V6(_), true) => (PORTS6.name, RELAYED6.name),
        (IpAddr::V6(_), false) => (PORTS6_AT.name, RELAYED6_AT.name),
    };
    let key = if host.is_unspecified() { outer } else { [octets(host), outer].concat() };
    let mut placed = Vec::new();
    // Nobody but the host itself gets to its loopback addresses.
    if !host.is_loopback() {
        placed.push((relayed, plain(key.clone())));
    }
    let only_relayed = host.is_ipv6() && host.is_loopback();
    if host.is_ipv4() == rule.target.is_ipv4() && !only_relayed {
        let target = [octets(rule.target), inner[4..].to_vec()].concat();
        placed.push((ports, Element { data: Some(target), ..plain(key) }));
    }
    placed
}

/// Protocol and port, as registers have them.
fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol_number(protocol), 0, 0, 0, high, low, 0, 0]
}

/// The number of a protocol.
pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// An address as it is in a packet.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn plain(key: Vec<u8>) -> Element {
    Element { key, end: false, key_end: None, data: None }
}

/// All addresses of a subnet, with a name.
fn with_name(subnet: &IpNet, name: &[u8]) -> Element {
    let joined = |address| [octets(address), name.to_vec()].concat();
    Element { key_end: Some(joined(subnet.broadcast())), ..plain(joined(subnet.network())) }
}

/// All addresses of a subnet: the first one, and the first one behind them, if there is one.
fn interval(subnet: &IpNet) -> Vec<Element> {
    let next: Option<IpAddr> = match subnet.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| IpAddr::V6(next.into())),
    };
    let end = next.map(|next| Element { end: true, ..plain(octets(next)) });
    std::iter::once(plain(octets(subnet.network()))).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::{port, sample};
    use super::*;

    #[test]
    fn elements_are_as_registers_have_them() {
        let all = of_rules(&sample());
        let port4 = all["ports4"].first().unwrap();
        assert_eq!(port4.key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(port4.data.as_deref().unwrap(), [172, 17, 0, 2, 0, 80, 0, 0]);
        let at = all["ports4-at"].first().unwrap();
        assert_eq!(at.key, [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x91, 0, 0]);
        assert_eq!(all["ports6"].first().unwrap().data.as_deref().unwrap().len(), 20);
        assert_eq!((all["bridges"].len(), all["internal"].len(), all["open"].len()), (3, 1, 0));
        // The internal network is not in it.
        assert_eq!(all["masquerade4"].len(), 4);
        let own = all["own4"].first().unwrap();
        assert_eq!(own.key[..12], *b"\xac\x11\x00\x00gantry0\0");
        assert_eq!(own.key_end.as_deref().unwrap()[..4], [172, 17, 255, 255]);
        for (name, elements) in &all {
            let set = SETS.iter().find(|set| set.name == *name).unwrap();
            for element in elements {
                assert_eq!(element.key.len(), set.key_length() as usize, "{name}");
                let data = element.data.as_ref().map_or(0, Vec::len);
                assert_eq!(data, set.data_length() as usize, "{name}");
            }
        }
    }

    #[test]
    fn the_last_subnet_has_no_end() {
        assert_eq!(interval(&"255.255.255.0/24".parse().unwrap()).len(), 1);
        assert_eq!(interval(&"10.0.0.0/8".parse().unwrap())[1].key, [11, 0, 0, 0]);
    }

    #[test]
    fn ports_are_where_they_are_translated_and_where_they_are_relayed() {
        let sets = |host: &str, number: u16, target: &str| -> Vec<&'static str> {
            of_port(&port(host, number, target, "a")).into_iter().map(|(set, _)| set).collect()
        };
        assert_eq!(sets("0.0.0.0", 80, "172.17.0.2"), ["relayed4", "ports4"]);
        assert_eq!(sets("::", 80, "172.17.0.2"), ["relayed6"]);
        assert_eq!(sets("192.0.2.1", 80, "fd00:1::2"), ["relayed4-at"]);
        assert_eq!(sets("2001:db8::1", 80, "fd00:1::2"), ["relayed6-at", "ports6-at"]);
        assert_eq!(sets("127.0.0.1", 80, "172.17.0.2"), ["ports4-at"]);
        assert_eq!(sets("::1", 80, "fd00:1::2"), [""; 0]);
        assert_eq!(sets("0.0.0.0", 0, "172.17.0.2"), ["reach4"]);
    }

    #[test]
    fn what_comes_and_goes_at_once_is_nothing() {
        let mut rules = sample();
        let mut delta = Delta::default();
        let play = [
            Change::AddPort(port("0.0.0.0", 9, "172.17.0.2", "a")),
            Change::RemovePort(port("0.0.0.0", 9, "172.17.0.2", "a")),
            // The same key, another target.
            Change::RemovePort(port("0.0.0.0", 8080, "172.17.0.2", "a")),
            Change::AddPort(port("0.0.0.0", 8080, "172.17.0.9", "a")),
        ];
        for change in &play {
            let undo = rules.change(change).unwrap();
            delta.add(&rules, change, &undo);
        }
        assert_eq!((delta.come()["ports4"].len(), delta.gone()["ports4"].len()), (1, 1));
        // It is relayed as before.
        assert!(!delta.come().contains_key("relayed4") && !delta.gone().contains_key("relayed4"));
    }

    #[test]
    fn an_element_of_two_ports_goes_with_the_last() {
        let mut rules = sample();
        let both = [port("0.0.0.0", 0, "172.17.0.2", "a"), port("10.0.0.1", 0, "172.17.0.2", "a")];
        let mut gone = Vec::new();
        for rule in &both {
            rules.change(&Change::AddPort(rule.clone())).unwrap();
        }
        for rule in &both {
            let change = Change::RemovePort(rule.clone());
            let undo = rules.change(&change).unwrap();
            let mut delta = Delta::default();
            delta.add(&rules, &change, &undo);
            gone.push(delta.gone().len());
        }
        assert_eq!(gone, [0, 1]);
    }
}
