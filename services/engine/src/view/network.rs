//! `NetworkSettings`: addresses and ports. Networks without them show what Docker shows then.

use std::collections::BTreeMap;

use gantry_core::networks::{Attachment, BRIDGE, Endpoint, PortWish, Published};
use serde_json::{Map, Value, json};

use super::Summary;
use crate::fields::{Fields, listed};
use crate::model::{Attached, ExposedPort, Network, Networking};
use crate::networks::mac;

/// The object.
pub(super) fn fields(summary: &Summary) -> Fields {
    let connected = &summary.state.connected;
    let settings = &summary.settings;
    let attached = settings.network == Network::Attached;
    let of = |name: &str| {
        let attached = settings.networking.attached.iter().find(|a| a.name == name)?;
        endpoint_in(&connected.endpoints, &attached.attachment.network)
    };
    // Where Docker shows these beside its networks, it is for the usual one.
    let usual = Shown::of(of(BRIDGE));
    let runs = attached && summary.state.phase.is_running();
    let place = runs.then(|| format!("/proc/{}/ns/net", summary.state.pid));
    let ports = if runs { ports(&settings.networking, &connected.ports) } else { Map::new() };
    Fields::default()
        .with("Bridge", "")
        .with("SandboxID", if runs { summary.id.as_str() } else { "" })
        .with("SandboxKey", place.unwrap_or_default())
        .with("Ports", ports)
        .with("HairpinMode", false)
        .with("LinkLocalIPv6Address", "")
        .with("LinkLocalIPv6PrefixLen", 0)
        .with("SecondaryIPAddresses", Value::Null)
        .with("SecondaryIPv6Addresses", Value::Null)
        .with("EndpointID", usual.id)
        .with("Gateway", usual.gateway)
        .with("GlobalIPv6Address", usual.ipv6)
        .with("GlobalIPv6PrefixLen", usual.ipv6_length)
        .with("IPAddress", usual.ipv4)
        .with("IPPrefixLen", usual.ipv4_length)
        .with("IPv6Gateway", usual.ipv6_gateway)
        .with("MacAddress", usual.mac)
        .with("Networks", networks(summary))
}

fn endpoint_in<'a>(endpoints: &'a [Endpoint], network: &str) -> Option<&'a Endpoint> {
    endpoints.iter().find(|endpoint| endpoint.network == network)
}

/// Networks by their names.
fn networks(summary: &Summary) -> BTreeMap<&str, Fields> {
    let settings = &summary.settings;
    let nothing = Attachment::default();
    match settings.network {
        Network::None => [("none", endpoint(&nothing, None))].into(),
        Network::Host => [("host", endpoint(&nothing, None))].into(),
        Network::Container => BTreeMap::new(),
        Network::Attached => {
            let one = |attached: &'_ Attached| {
                let wish = &attached.attachment;
                endpoint(wish, endpoint_in(&summary.state.connected.endpoints, &wish.network))
            };
            let all = settings.networking.attached.iter();
            all.map(|attached| (attached.name.as_str(), one(attached))).collect()
        }
    }
}

/// Where a container is, as texts and numbers; empty and 0 for what it has not.
#[derive(Default)]
struct Shown {
    id: String,
    mac: String,
    ipv4: String,
    ipv4_length: u8,
    gateway: String,
    ipv6: String,
    ipv6_length: u8,
    ipv6_gateway: String,
}

impl Shown {
    fn of(endpoint: Option<&Endpoint>) -> Self {
        let Some(endpoint) = endpoint else { return Self::default() };
        Self {
            id: endpoint.id.clone(),
            mac: mac(endpoint.mac),
            ipv4: endpoint.ipv4.map(|net| net.addr().to_string()).unwrap_or_default(),
            ipv4_length: endpoint.ipv4.map_or(0, |net| net.prefix_len()),
            gateway: endpoint.ipv4_gateway.map(|ip| ip.to_string()).unwrap_or_default(),
            ipv6: endpoint.ipv6.map(|net| net.addr().to_string()).unwrap_or_default(),
            ipv6_length: endpoint.ipv6.map_or(0, |net| net.prefix_len()),
            ipv6_gateway: endpoint.ipv6_gateway.map(|ip| ip.to_string()).unwrap_or_default(),
        }
    }
}

fn endpoint(wish: &Attachment, endpoint: Option<&Endpoint>) -> Fields {
    let shown = Shown::of(endpoint);
    let asked = wish.mac.map(mac).unwrap_or_default();
    let names = endpoint.map(|endpoint| endpoint.dns_names.as_slice()).unwrap_or_default();
    Fields::default()
        .with("IPAMConfig", wished(wish).some())
        .with("Links", Value::Null)
        .with("Aliases", listed(&wish.aliases))
        .with("MacAddress", if endpoint.is_some() { shown.mac } else { asked })
        .with("DriverOpts", (!wish.options.is_empty()).then_some(&wish.options))
        .with("GwPriority", wish.gateway_priority)
        .with("NetworkID", &wish.network)
        .with("EndpointID", shown.id)
        .with("Gateway", shown.gateway)
        .with("IPAddress", shown.ipv4)
        .with("IPPrefixLen", shown.ipv4_length)
        .with("IPv6Gateway", shown.ipv6_gateway)
        .with("GlobalIPv6Address", shown.ipv6)
        .with("GlobalIPv6PrefixLen", shown.ipv6_length)
        .with("DNSNames", listed(names))
}

/// Addresses that were asked for.
fn wished(wish: &Attachment) -> Fields {
    let link_local = wish.link_local.iter().map(ToString::to_string);
    Fields::default()
        .with_some("IPv4Address", wish.ipv4.map(|ip| ip.to_string()))
        .with_some("IPv6Address", wish.ipv6.map(|ip| ip.to_string()))
        .with_set("LinkLocalIPs", link_local.collect::<Vec<_>>())
}

/// Ports of a container that runs, `null` for those that are not published.
fn ports(networking: &Networking, published: &[Published]) -> Map<String, Value> {
    let exposed = networking.exposed.iter().map(|port| (port.to_string(), Value::Null));
    let mut all: Map<String, Value> = exposed.collect();
    for port in published {
        let key = key(port.container_port, port.protocol);
        let bound = json!({
            "HostIp": port.host_ip.to_string(),
            "HostPort": port.host_port.to_string(),
        });
        match all.get_mut(&key).and_then(Value::as_array_mut) {
            Some(list) => list.push(bound),
            None => drop(all.insert(key, json!([bound]))),
        }
    }
    all
}

fn key(port: u16, protocol: gantry_core::networks::Protocol) -> String {
    ExposedPort { port, protocol }.to_string()
}

/// `PortBindings`: ports as they were asked for.
pub(super) fn bindings(wishes: &[PortWish]) -> Map<String, Value> {
    let mut all = Map::new();
    for wish in wishes {
        let number = match (wish.host_port, wish.host_port_end) {
            (0, _) => String::new(),
            (first, last) if last > first => format!("{first}-{last}"),
            (first, _) => first.to_string(),
        };
        let address = wish.host_ip.map(|address| address.to_string()).unwrap_or_default();
        let bound = json!({"HostIp": address, "HostPort": number});
        let list = all.entry(key(wish.container_port, wish.protocol)).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(bound);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use gantry_core::containers::Container;

    use super::*;
    use crate::model::{Connected, Meta, Phase, Settings, State};

    fn attached() -> Attached {
        let wish = Attachment {
            network: "n1".into(),
            aliases: vec!["db".into()],
            ipv4: Some([172, 18, 0, 9].into()),
            gateway_priority: 3,
            ..Attachment::default()
        };
        Attached { name: "app".into(), attachment: wish }
    }

    fn there() -> Endpoint {
        Endpoint {
            id: "e1".into(),
            network: "n1".into(),
            container: "c1".into(),
            interface: "eth0".into(),
            host_interface: "veth1".into(),
            mac: [2, 0x42, 0xac, 0x12, 0, 9],
            ipv4: Some("172.18.0.9/24".parse().unwrap()),
            ipv6: Some("fd00::9/64".parse().unwrap()),
            ipv4_gateway: Some([172, 18, 0, 1].into()),
            ipv6_gateway: None,
            dns_names: vec!["web".into(), "db".into()],
        }
    }

    fn shown(name: &str, running: bool) -> Value {
        let mut settings = Settings { network: Network::Attached, ..Settings::default() };
        settings.networking.attached = vec![Attached { name: name.into(), ..attached() }];
        settings.networking.exposed = vec!["80".parse().unwrap(), "443".parse().unwrap()];
        let port = |host_ip: &str| Published {
            host_ip: host_ip.parse().unwrap(),
            host_port: 8080,
            container_port: 80,
            protocol: Default::default(),
        };
        let connected =
            Connected { endpoints: vec![there()], ports: vec![port("0.0.0.0"), port("::")] };
        let state = match running {
            true => State {
                phase: Phase::Running,
                pid: 7,
                connected: connected.into(),
                ..State::default()
            },
            false => State { phase: Phase::Exited, ..State::default() },
        };
        let container = Container { id: "c1".into(), ..Container::default() };
        let summary = Summary::of(&container, Meta { settings, ..Meta::default() }, state);
        serde_json::from_str(&fields(&summary).to_string()).unwrap()
    }

    #[test]
    fn a_container_that_runs() {
        let all = shown("app", true);
        let bound = |ip: &str| json!({"HostIp": ip, "HostPort": "8080"});
        let ports = json!({"80/tcp": [bound("0.0.0.0"), bound("::")], "443/tcp": null});
        assert_eq!((&all["Ports"], &all["SandboxKey"]), (&ports, &json!("/proc/7/ns/net")));
        assert_eq!(all["IPAddress"], "", "that is for the usual network");
        let app = &all["Networks"]["app"];
        let wanted = [
            ("IPAMConfig", json!({"IPv4Address": "172.18.0.9"})),
            ("Aliases", json!(["db"])),
            ("MacAddress", json!("02:42:ac:12:00:09")),
            ("GwPriority", json!(3)),
            ("NetworkID", json!("n1")),
            ("EndpointID", json!("e1")),
            ("Gateway", json!("172.18.0.1")),
            ("IPAddress", json!("172.18.0.9")),
            ("IPPrefixLen", json!(24)),
            ("GlobalIPv6Address", json!("fd00::9")),
            ("GlobalIPv6PrefixLen", json!(64)),
            ("DNSNames", json!(["web", "db"])),
        ];
        for (name, value) in wanted {
            assert_eq!(app[name], value, "{name}");
        }
        assert_eq!(shown("bridge", true)["IPAddress"], "172.18.0.9");
    }

    #[test]
    fn one_that_does_not() {
        let all = shown("app", false);
        assert_eq!((&all["Ports"], &all["SandboxKey"]), (&json!({}), &json!("")));
        let app = &all["Networks"]["app"];
        assert_eq!((&app["NetworkID"], &app["IPAddress"]), (&json!("n1"), &json!("")));
    }

    #[test]
    fn ports_as_they_were_asked_for() {
        let wish = |host_port, host_port_end| PortWish {
            host_port,
            host_port_end,
            container_port: 80,
            ..PortWish::default()
        };
        let local = PortWish { host_ip: Some([127, 0, 0, 1].into()), ..wish(8080, 8080) };
        let made = bindings(&[local, wish(0, 0), wish(9000, 9009)]);
        let wanted = json!({"80/tcp": [
            {"HostIp": "127.0.0.1", "HostPort": "8080"},
            {"HostIp": "", "HostPort": ""},
            {"HostIp": "", "HostPort": "9000-9009"},
        ]});
        assert_eq!(Value::Object(made), wanted);
    }
}
