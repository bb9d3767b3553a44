//! What follows from where a container is: routes, rules, relays, and whom it asks for names.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use gantry_core::networks::{Driver, Network, PortWish, Published};

use super::memory::Placed;
use super::options::{GatewayMode, Settings};
use crate::netlink::Route;
use crate::nft::{BridgeRules, Change, PortRule};

/// The default routes of a container: by the network with the highest priority, the first by
/// name of several, of those that lead out.
pub(super) fn routes(placed: &[Placed]) -> Vec<Route> {
    let ipv4 = best(placed, |at| at.endpoint.ipv4_gateway.is_some());
    let ipv6 = best(placed, |at| at.endpoint.ipv6_gateway.is_some());
    let ipv4 = ipv4.and_then(|at| Some((at, IpAddr::from(at.endpoint.ipv4_gateway?))));
    let ipv6 = ipv6.and_then(|at| Some((at, IpAddr::from(at.endpoint.ipv6_gateway?))));
    let route = |(at, gateway): (&Placed, IpAddr)| Route {
        net: None,
        gateway: Some(gateway),
        interface: at.endpoint.interface.clone(),
    };
    ipv4.into_iter().chain(ipv6).map(route).collect()
}

/// Of the places that fit the one that comes first.
fn best(placed: &[Placed], fits: impl Fn(&Placed) -> bool) -> Option<&Placed> {
    let fitting = placed.iter().filter(|at| fits(at));
    fitting.min_by_key(|at| (-i64::from(at.attachment.gateway_priority), &at.network.name))
}

/// Where published ports of a container lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    ipv4: Option<Target>,
    ipv6: Option<Target>,
}

/// An address of a container that ports lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: IpAddr,
    /// ID of its network.
    network: String,
    /// Whether ports of the host lead there; else the address itself is open.
    translated: bool,
    /// Where ports are published that do not say where.
    binding: Option<Ipv4Addr>,
}

impl Targets {
    /// Of a container with these places.
    pub(super) fn of(placed: &[Placed]) -> Self {
        let leads = |at: &Placed| at.network.driver == Driver::Bridge && !at.network.internal;
        let target = |at: &Placed, address: Option<IpAddr>| {
            let address = address?;
            Some(Target {
                address,
                network: at.network.id.clone(),
                translated: at.settings.translates(address.is_ipv6()),
                binding: at.settings.host_binding,
            })
        };
        let ipv4 = best(placed, |at| leads(at) && at.endpoint.ipv4.is_some());
        let ipv6 = best(placed, |at| leads(at) && at.endpoint.ipv6.is_some());
        Self {
            ipv4: ipv4.and_then(|at| target(at, at.endpoint.ipv4.map(|net| net.addr().into()))),
            ipv6: ipv6.and_then(|at| target(at, at.endpoint.ipv6.map(|net| net.addr().into()))),
        }
    }

    /// Whether ports lead nowhere.
    pub(super) fn is_empty(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }

    /// The ports of the host that have to be taken for these wishes, and those of the container
    /// that are only open at its own address.
    pub(super) fn split(&self, wishes: &[PortWish]) -> (Vec<PortWish>, Vec<Published>) {
        let (mut taken, mut open) = (Vec::new(), BTreeSet::new());
        let translated =
            |target: &Option<Target>| target.as_ref().is_none_or(|target| target.translated);
        let both = [&self.ipv4, &self.ipv6].map(translated);
        let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        for wish in wishes {
            let binding = self.ipv4.as_ref().and_then(|target| target.binding);
            let host_ip = wish.host_ip.or(binding.map(IpAddr::from));
            for v6 in [false, true].map(usize::from) {
                let meant = host_ip.is_none_or(|ip| usize::from(ip.is_ipv6()) == v6);
                if meant && !both[v6] {
                    open.insert(Published {
                        host_ip: any[v6],
                        host_port: 0,
                        container_port: wish.container_port,
                        protocol: wish.protocol,
                    });
                }
            }
            match (host_ip, both) {
                (None, [true, true]) => taken.push(wish.clone()),
                (None, [false, false]) => {}
                (None, [ipv4, _]) => {
                    taken.push(PortWish { host_ip: Some(any[usize::from(!ipv4)]), ..wish.clone() });
                }
                (Some(ip), both) if both[usize::from(ip.is_ipv6())] => {
                    taken.push(PortWish { host_ip: Some(ip), ..wish.clone() });
                }
                (Some(_), _) => {}
            }
        }
        (taken, open.into_iter().collect())
    }

    /// The rules for these ports.
    pub(super) fn rules(&self, ports: &[Published]) -> BTreeSet<PortRule> {
        let rule = |port: &Published| {
            let target = self.target(port)?;
            Some(PortRule {
                published: port.clone(),
                target: target.address,
                bridge: target.network.clone(),
            })
        };
        ports.iter().filter_map(rule).collect()
    }

    /// Where the relay at a port leads.
    pub(super) fn relay(&self, port: &Published) -> Option<SocketAddr> {
        let target = self.target(port).filter(|_| port.host_port != 0)?;
        Some(SocketAddr::new(target.address, port.container_port))
    }

    /// Where a port leads: an address of its kind if there is one, else one of the other to which
    /// a relay leads.
    fn target(&self, port: &Published) -> Option<&Target> {
        let (same, other) = match port.host_ip.is_ipv6() {
            true => (&self.ipv6, &self.ipv4),
            false => (&self.ipv4, &self.ipv6),
        };
        same.as_ref().or_else(|| other.as_ref().filter(|_| port.host_port != 0))
    }
}

/// What leads from one set of rules to another: first what goes, then what comes.
pub(super) fn changes(before: &BTreeSet<PortRule>, after: &BTreeSet<PortRule>) -> Vec<Change> {
    let gone = before.difference(after).cloned().map(Change::RemovePort);
    let new = after.difference(before).cloned().map(Change::AddPort);
    gone.chain(new).collect()
}

/// The rules for the bridge of a network.
pub(super) fn bridge_rules(network: &Network, settings: &Settings) -> BridgeRules {
    let translates = |v6| settings.masquerade && settings.translates(v6) && !network.internal;
    BridgeRules {
        interface: network.interface.clone(),
        internal: network.internal,
        subnets: network.subnets.iter().map(|subnet| subnet.subnet).collect(),
        masquerade4: translates(false),
        masquerade6: translates(true),
        isolated_inside: !settings.between,
        isolated_from_others: true,
        trusted: settings.trusted.clone(),
        unprotected4: settings.mode4 == GatewayMode::NatUnprotected,
        unprotected6: settings.mode6 == GatewayMode::NatUnprotected,
        routed4: settings.mode4 == GatewayMode::Routed,
        routed6: settings.mode6 == GatewayMode::Routed,
    }
}

/// Whether something that is asked of a container's networks leaves them.
pub(super) fn leads_out(placed: &[Placed]) -> bool {
    placed.iter().any(|at| !at.network.internal)
}

/// Whether containers are found by name in one of these networks.
pub(super) fn has_names(placed: &[Placed]) -> bool {
    placed.iter().any(|at| at.network.has_names())
}

/// Whether the container has interfaces of its own that lead to networks.
pub(super) fn has_interfaces(placed: &[Placed]) -> bool {
    placed.iter().any(|at| matches!(at.network.driver, Driver::Bridge | Driver::Macvlan))
}

#[cfg(test)]
mod tests {
    use gantry_core::networks::{Attachment, Endpoint, Protocol};
    use gantry_core::{Labels, Timestamp};

    use super::*;

    /// A place in a network of that name, with addresses whose last parts are this number.
    fn placed(name: &str, number: u8, v4: bool, v6: bool) -> Placed {
        let ipv4 = v4.then(|| format!("10.0.{number}.2/24").parse().unwrap());
        let ipv6 = v6.then(|| format!("fd00:{number}::2/64").parse().unwrap());
        let network = Network {
            id: format!("id-{name}"),
            name: name.to_owned(),
            driver: Driver::Bridge,
            labels: Labels::new(),
            options: Default::default(),
            internal: false,
            subnets: Vec::new(),
            created_at: Timestamp::default(),
            interface: format!("br-{name}"),
            predefined: false,
        };
        let endpoint = Endpoint {
            id: format!("at-{name}"),
            network: network.id.clone(),
            container: "c".to_owned(),
            interface: format!("eth{number}"),
            host_interface: format!("veth{number}"),
            mac: [2; 6],
            ipv4,
            ipv6,
            ipv4_gateway: v4.then(|| Ipv4Addr::new(10, 0, number, 1)),
            ipv6_gateway: v6.then(|| format!("fd00:{number}::1").parse().unwrap()),
            dns_names: Vec::new(),
        };
        let attachment = Attachment { network: network.id.clone(), ..Attachment::default() };
        Placed { endpoint, attachment, network, settings: Settings::default() }
    }

    fn internal(mut at: Placed) -> Placed {
        at.network.internal = true;
        at.endpoint.ipv4_gateway = None;
        at.endpoint.ipv6_gateway = None;
        at
    }

    fn port(ip: &str, host_port: u16) -> Published {
        let host_ip = ip.parse().unwrap();
        Published { host_ip, host_port, container_port: 80, protocol: Protocol::Tcp }
    }

    fn wish(ip: Option<&str>) -> PortWish {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortWish { host_ip, container_port: 80, ..PortWish::default() }
    }

    #[test]
    fn the_default_route_has_the_highest_priority() {
        let by = |placed: &[Placed]| -> Vec<String> {
            routes(placed).into_iter().map(|route| route.interface).collect()
        };
        let (b, a) = (placed("b", 0, true, false), placed("a", 1, true, true));
        assert_eq!(by(&[b.clone(), a.clone()]), ["eth1", "eth1"]);
        let mut first = b;
        first.attachment.gateway_priority = 1;
        assert_eq!(by(&[first.clone(), a.clone()]), ["eth0", "eth1"]);
        assert_eq!(by(&[internal(first), a]), ["eth1", "eth1"]);
        assert!(by(&[internal(placed("x", 0, true, true))]).is_empty());
    }

    #[test]
    fn ports_lead_to_addresses_of_their_kind() {
        let targets = Targets::of(&[placed("a", 1, true, false)]);
        let ports = [port("0.0.0.0", 8080), port("::", 8080)];
        let rules = targets.rules(&ports);
        assert_eq!(rules.len(), 2);
        for (port, rule) in ports.iter().zip(&rules) {
            assert_eq!(rule.target.to_string(), "10.0.1.2");
            assert_eq!(targets.relay(port), Some("10.0.1.2:80".parse().unwrap()));
        }
        // An address of the container's own is not relayed.
        assert!(targets.rules(&[port("::", 0)]).is_empty());
        let both = Targets::of(&[placed("a", 1, true, true)]);
        assert_eq!(both.rules(&ports).len(), 2);
        assert_eq!(both.relay(&ports[1]), Some("[fd00:1::2]:80".parse().unwrap()));
        assert!(Targets::of(&[internal(placed("a", 1, true, true))]).is_empty());
        let moved = Targets::of(&[placed("b", 2, true, true)]);
        let changes = changes(&both.rules(&ports), &moved.rules(&ports));
        assert!(matches!(changes[0], Change::RemovePort(_)));
        assert_eq!(changes.len(), 4);
    }

    #[test]
    fn routed_ports_are_open_at_the_containers_address() {
        let mut at = placed("a", 1, true, true);
        at.settings.mode6 = GatewayMode::Routed;
        let targets = Targets::of(&[at.clone()]);
        let (taken, open) = targets.split(&[wish(None), wish(Some("::")), wish(Some("127.0.0.1"))]);
        let taken: Vec<_> = taken.iter().map(|wish| wish.host_ip.unwrap().to_string()).collect();
        assert_eq!(taken, ["0.0.0.0", "127.0.0.1"]);
        assert_eq!(open, [port("::", 0)]);
        assert_eq!(targets.relay(&open[0]), None);
        at.settings.mode4 = GatewayMode::Routed;
        let (taken, open) = Targets::of(&[at]).split(&[wish(None)]);
        assert!(taken.is_empty());
        assert_eq!(open.len(), 2);
        let (taken, open) = Targets::of(&[placed("a", 1, true, true)]).split(&[wish(None)]);
        assert_eq!((taken.len(), open.len()), (1, 0));
    }

    #[test]
    fn a_network_says_where_its_ports_are_published() {
        let mut at = placed("a", 1, true, true);
        at.settings.host_binding = Some(Ipv4Addr::LOCALHOST);
        let (taken, _) = Targets::of(&[at]).split(&[wish(None), wish(Some("192.0.2.1"))]);
        let taken: Vec<_> = taken.iter().map(|wish| wish.host_ip.unwrap().to_string()).collect();
        assert_eq!(taken, ["127.0.0.1", "192.0.2.1"]);
    }
}
