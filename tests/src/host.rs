use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Namespace, Registry, Valve, wait_for};

/// A machine of the test's own, as far as networks go: a namespace in which a daemon runs, and one
/// outside of it, at the other end of a cable. Neither sees the network of the real machine.
///
/// ```text
///  host                         outside
///  up0  192.0.2.1/24      ───   out0  192.0.2.2/24
///       2001:db8:1::1/64               2001:db8:1::2/64
///                                lo    198.51.100.1, 2001:db8:2::1     far away
/// ```
///
/// Outside knows no way to networks of containers. The host's default routes lead there, and its
/// resolv.conf names it as the server.
#[derive(Debug)]
pub struct Host {
    inside: Namespace,
    outside: Namespace,
    /// Servers of the real machine that are reached from inside.
    relays: Mutex<Vec<Valve>>,
    dir: TempDir,
}

impl Host {
    /// The host's IPv4 address.
    pub const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The host's IPv6 address.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
    /// The neighbour's IPv4 address.
    pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The neighbour's IPv6 address.
    pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
    /// An IPv4 address behind the neighbour.
    pub const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    /// An IPv6 address behind the neighbour.
    pub const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
    /// The interface that leads out.
    pub const UPLINK: &str = "up0";

    /// Makes one.
    pub fn new() -> Arc<Self> {
        let dir = tempfile::Builder::new().prefix("gantry-host-").tempdir().expect("tempdir");
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\n", Self::OUTSIDE_V4))
            .expect("write a resolv.conf");
        let (inside, outside) = (Namespace::with_resolv_conf(&file), Namespace::new());
        let there = outside.path();
        // With one number for both ends, the kernel takes up to a second to see that they are up.
        inside.run(&format!(
            "ip link add up0 index 10 type veth peer name out0 index 20 netns {there}"
        ));
        let end = |at: &Namespace, name: &str, v4: Ipv4Addr, v6: Ipv6Addr| {
            at.run(&format!("ip address add {v4}/24 dev {name}"));
            at.run(&format!("ip address add {v6}/64 dev {name} nodad"));
            // Ready to forward at once, as one that has been up for a while.
            at.set(&format!("ipv6/conf/{name}/accept_dad"), "0");
            at.run(&format!("ip link set {name} up"));
        };
        end(&inside, "up0", Self::V4, Self::V6);
        end(&outside, "out0", Self::OUTSIDE_V4, Self::OUTSIDE_V6);
        for (at, name) in [(&inside, "up0"), (&outside, "out0")] {
            wait_for("a link that hears its neighbours", || {
                hears_neighbours(at, name).then_some(())
            });
        }
        outside.run(&format!("ip address add {}/32 dev lo", Self::FAR_V4));
        outside.run(&format!("ip address add {}/128 dev lo nodad", Self::FAR_V6));
        inside.run(&format!("ip route add default via {}", Self::OUTSIDE_V4));
        inside.run(&format!("ip -6 route add default via {}", Self::OUTSIDE_V6));
        Arc::new(Self { inside, outside, relays: Mutex::default(), dir })
    }

    /// Makes one from which images can be pulled.
    pub fn with_registry() -> Arc<Self> {
        let host = Self::new();
        host.reach(&Registry::shared().host());
        host
    }

    /// Lets programs inside reach a server on the real machine's loopback, by the same `HOST:PORT`.
    pub fn reach(&self, server: &str) {
        let listener = self.inside.inside(|| TcpListener::bind(server).expect("listen inside"));
        let relay = Valve::of_listener(listener, server);
        self.relays.lock().expect("no panic while held").push(relay);
    }

    /// Where the daemon runs.
    pub fn inside(&self) -> &Namespace {
        &self.inside
    }

    /// Where its clients are.
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The host's addresses, as outside sees them.
    pub fn addresses() -> [IpAddr; 2] {
        [Self::V4.into(), Self::V6.into()]
    }

    /// Replaces the host's resolv.conf.
    pub fn set_resolv_conf(&self, text: &str) {
        // The same file: it is mounted.
        std::fs::write(self.dir.path().join("resolv.conf"), text).expect("write a resolv.conf");
    }

    /// Has a command run inside.
    pub fn enter(&self, command: &mut Command) {
        self.inside.enter(command);
    }

    /// All that containers may leave behind in the host's network, as lines.
    pub fn traces(&self) -> BTreeSet<String> {
        let mut lines: BTreeSet<String> =
            self.inside.links().into_iter().map(|name| format!("link {name}")).collect();
        lines.extend(self.addresses_and_routes());
        lines.extend(self.rules());
        lines
    }

    fn addresses_and_routes(&self) -> Vec<String> {
        let json = |line: &str| -> Value {
            serde_json::from_str(&self.inside.run(line).stdout).expect("ip tells JSON")
        };
        let mut lines = Vec::new();
        for link in json("ip -j address show").as_array().expect("links") {
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let scope = address["scope"].as_str().unwrap_or_default();
                // The kernel's own, which come and go with who is on a bridge.
                if scope != "link" {
                    lines.push(format!("address {} {}", link["ifname"], address["local"]));
                }
            }
        }
        for family in ["-4", "-6"] {
            for route in
                json(&format!("ip {family} -j route show table main")).as_array().expect("routes")
            {
                let to = route["dst"].as_str().unwrap_or_default();
                if !to.starts_with("fe80") && !to.starts_with("ff") {
                    lines.push(format!("route {to} {}", route["dev"]));
                }
            }
        }
        lines
    }

    /// Rules and elements of all tables of the firewall, without what they counted.
    pub fn rules(&self) -> Vec<String> {
        let shown = self.inside.run("nft -j list ruleset").stdout;
        let mut rules: Value = serde_json::from_str(&shown).expect("nft tells JSON");
        let mut lines = Vec::new();
        for object in rules["nftables"].as_array_mut().expect("objects") {
            let Some((kind, value)) = object.as_object_mut().and_then(|o| o.iter_mut().next())
            else {
                continue;
            };
            if kind == "metainfo" {
                continue;
            }
            forget(value);
            let elements = value.as_object_mut().and_then(|object| object.remove("elem"));
            lines.push(format!("{kind} {value}"));
            // Their order says nothing.
            let elements = elements.iter().flat_map(|all| all.as_array()).flatten();
            let mut elements: Vec<_> =
                elements.map(|one| format!("{kind} {} has {one}", value["name"])).collect();
            elements.sort();
            lines.extend(elements);
        }
        lines
    }
}

/// Takes away what differs between two rulesets that do the same.
fn forget(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for name in ["handle", "packets", "bytes"] {
                object.remove(name);
            }
            object.values_mut().for_each(forget);
        }
        Value::Array(all) => all.iter_mut().for_each(forget),
        _ => {}
    }
}

/// Whether a link takes IPv6's solicitations: it has a route for multicast once it is up.
fn hears_neighbours(at: &Namespace, name: &str) -> bool {
    let read = || std::fs::read_to_string("/proc/thread-self/net/ipv6_route");
    let routes = at.inside(read).expect("read the routes");
    routes.lines().any(|line| line.starts_with("ff00") && line.trim_end().ends_with(name))
}
