//! A container's own side: its interfaces get names, addresses and routes in one batch.

use std::collections::BTreeMap;

use gantry_core::Result;
use ipnet::IpNet;

use super::message::Message;
use super::routes::{added, describe, route};
use super::{Link, Netlink, Route, links, sysctl, unexpected};

/// The loopback interface.
const LOOPBACK: &str = "lo";

/// What a container's network namespace is to have beside what it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inside {
    /// Interfaces that have just been made.
    pub(crate) interfaces: Vec<Interface>,
    /// Routes, by these interfaces or by others that are there. One to the same destination
    /// is replaced.
    pub(crate) routes: Vec<Route>,
}

/// An interface that has just been made in the container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interface {
    /// The name that it was made with.
    pub(crate) made_as: String,
    /// The name that it gets.
    pub(crate) name: String,
    /// Its addresses, with the lengths of their networks' prefixes.
    pub(crate) addresses: Vec<IpNet>,
    /// Whether it has IPv6. It has not even a link-local address otherwise.
    pub(crate) ipv6: bool,
    /// Whether routers that announce themselves are believed.
    pub(crate) router_advertisements: bool,
}

/// Messages, and what each of them is for.
#[derive(Default)]
struct Plan {
    messages: Vec<Message>,
    purposes: Vec<String>,
}

impl Plan {
    fn add(&mut self, message: Message, purpose: String) {
        self.messages.push(message);
        self.purposes.push(purpose);
    }
}

impl Netlink {
    /// Sets loopback up and makes these interfaces work, in the namespace that this was opened
    /// in and which has to be this thread's. Neighbours that still have another MAC address
    /// for one of the addresses are told.
    ///
    /// # Errors
    /// `NotFound` for an interface; the kernel's. What was done until then stays.
    pub(crate) fn configure(&self, inside: &Inside) -> Result<()> {
        let found = self.find(inside)?;
        for interface in &inside.interfaces {
            settings(interface)?;
        }
        let mut plan = Plan::default();
        if found.get(LOOPBACK).is_some_and(|loopback| !loopback.up) {
            let index = found[LOOPBACK].index;
            plan.add(links::change(index, Some(true)), format!("set {LOOPBACK} up"));
        }
        for interface in &inside.interfaces {
            plan_interface(&mut plan, interface, &found[interface.made_as.as_str()]);
        }
        for wanted in &inside.routes {
            let index = found[inside.made_as(&wanted.interface)].index;
            let message = route(wanted.net, wanted.gateway, index)?;
            let route = describe(wanted.net, wanted.gateway);
            plan.add(message, format!("make the route {route} by {}", wanted.interface));
        }
        for interface in &inside.interfaces {
            let link = &found[interface.made_as.as_str()];
            if let Some(mac) = link.mac.filter(|_| !interface.addresses.is_empty()) {
                let purpose = format!("announce the addresses of {}", interface.name);
                plan.add(links::with_mac(link.index, mac), purpose);
            }
        }
        let Plan { mut messages, purposes } = plan;
        self.all(&mut messages, |index| purposes.get(index).cloned().unwrap_or_default()).map(drop)
    }

    /// All interfaces that are spoken of, by the names that they have so far.
    fn find<'a>(&self, inside: &'a Inside) -> Result<BTreeMap<&'a str, Link>> {
        let mut names = vec![LOOPBACK];
        let made = inside.interfaces.iter().map(|interface| interface.made_as.as_str());
        let used = inside.routes.iter().map(|route| inside.made_as(&route.interface));
        for name in made.chain(used) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut messages: Vec<_> = names.iter().map(|name| links::get(name)).collect();
        let answers = self.all(&mut messages, |index| {
            format!("look for the interface {} in the container", names.get(index).unwrap_or(&""))
        })?;
        let links: Option<Vec<_>> = answers.iter().map(Link::parse).collect();
        match links.filter(|links| links.len() == names.len()) {
            Some(links) => Ok(names.into_iter().zip(links).collect()),
            None => Err(unexpected("a container's interfaces")),
        }
    }
}

impl Inside {
    /// The name with which the interface was made that is to have this one.
    fn made_as<'a>(&'a self, name: &'a str) -> &'a str {
        let made = self.interfaces.iter().find(|interface| interface.name == name);
        made.map_or(name, |interface| &interface.made_as)
    }
}

/// Name, up, addresses.
fn plan_interface(plan: &mut Plan, interface: &Interface, link: &Link) {
    let Interface { made_as, name, .. } = interface;
    if name != made_as {
        plan.add(links::renamed(link.index, name), format!("rename {made_as} to {name}"));
    }
    // An address of IPv6 that comes first would be looked for elsewhere when the interface
    // comes up, whatever it is said.
    let own = link
        .mac
        .map_or_else(String::new, |mac| format!(" with the MAC address {}", super::shown_mac(mac)));
    plan.add(links::change(link.index, Some(true)), format!("set {name} up{own}"));
    for address in &interface.addresses {
        let purpose = format!("give {name} the address {address}");
        plan.add(added(link.index, *address), purpose);
    }
}

/// What is set before the interface comes up, under the name that it has so far.
fn settings(interface: &Interface) -> Result<()> {
    let name = &interface.made_as;
    // It is a favour to the neighbours only.
    let _ = sysctl::set_sysctl(&format!("net/ipv4/conf/{name}/arp_notify"), "1");
    if !sysctl::has_ipv6() {
        return Ok(());
    }
    if !interface.ipv6 {
        return sysctl::disable_ipv6(name);
    }
    let of = |setting: &str| format!("net/ipv6/conf/{name}/{setting}");
    let believe = if interface.router_advertisements { "1" } else { "0" };
    sysctl::set_sysctl(&of("accept_ra"), believe)?;
    sysctl::set_sysctl(&of("disable_ipv6"), "0")?;
    let _ = sysctl::set_sysctl(&of("ndisc_notify"), "1");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use gantry_core::Kind;

    use super::super::testing::{Process, elsewhere};
    use super::super::{Veth, in_namespace};
    use super::*;

    fn inside(addresses: &[&str], ipv6: bool) -> Inside {
        let gateways = ["10.9.0.1", "fd00:9::1"];
        let routes = gateways[..if ipv6 { 2 } else { 1 }].iter().map(|gateway| Route {
            net: None,
            gateway: Some(gateway.parse().unwrap()),
            interface: "eth0".to_owned(),
        });
        let interface = Interface {
            made_as: "made0".to_owned(),
            name: "eth0".to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ipv6,
            ..Interface::default()
        };
        Inside { interfaces: vec![interface], routes: routes.collect() }
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    /// A bridge with addresses, a container at it.
    fn attach(process: &Process) -> Netlink {
        let netlink = Netlink::open().unwrap();
        let master = netlink.add_bridge("br0", None, [2, 0, 0, 0, 0, 1]).unwrap();
        netlink.add_address(master, "10.9.0.1/24".parse().unwrap()).unwrap();
        netlink.add_address(master, "fd00:9::1/64".parse().unwrap()).unwrap();
        let veth = Veth {
            name: "veth0",
            master,
            mtu: None,
            peer: "made0",
            mac: [2, 0x42, 10, 9, 0, 2],
            pid: process.id(),
            isolated: false,
            hairpin: false,
        };
        netlink.add_veth(&veth).unwrap();
        netlink
    }

    #[test]
    fn a_container_is_reached_at_once() {
        elsewhere(|| {
            let process = Process::new();
            let _netlink = attach(&process);
            let listeners = block_on(in_namespace(process.id(), || {
                let inside = inside(&["10.9.0.2/24", "fd00:9::2/64"], true);
                let netlink = Netlink::open()?;
                netlink.configure(&inside)?;
                let gateways: Vec<_> =
                    netlink.routes()?.into_iter().filter_map(|route| route.gateway).collect();
                assert_eq!(gateways.len(), 2, "{gateways:?}");
                assert!(netlink.link("made0")?.is_none());
                // Not tentative: it can be bound.
                Ok(["10.9.0.2:80", "[fd00:9::2]:80"].map(|at| TcpListener::bind(at).unwrap()))
            }))
            .unwrap();
            for listener in &listeners {
                let address = listener.local_addr().unwrap();
                TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
            }
        });
    }

    #[test]
    fn without_ipv6_there_is_no_address_of_it() {
        elsewhere(|| {
            let process = Process::new();
            let _netlink = attach(&process);
            let addresses = block_on(in_namespace(process.id(), || {
                let netlink = Netlink::open()?;
                netlink.configure(&inside(&["10.9.0.2/24"], false))?;
                let eth0 = netlink.link("eth0")?.map(|link| link.index);
                let all = netlink.addresses()?;
                Ok(all.into_iter().filter(|(index, _)| Some(*index) == eth0).collect::<Vec<_>>())
            }))
            .unwrap();
            assert_eq!(addresses.len(), 1, "{addresses:?}");
        });
    }

    #[test]
    fn what_is_missing_is_named() {
        elsewhere(|| {
            let netlink = Netlink::open().unwrap();
            let err = netlink.configure(&inside(&[], false)).unwrap_err();
            assert_eq!(err.kind(), Kind::NotFound);
            assert!(err.to_string().contains("the interface made0"), "{err}");
        });
    }
}
