//! Published ports: who reaches them, as whom, and what is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use gantry_tests::peers::{Server, ask_tcp};
use gantry_tests::{Host, Namespace, Options};
use serde_json::Value;

use super::{Place, reached, unreachable, within};

/// Ports of the host of a container's port, as `gantry port` tells them.
fn ports(place: &Place, name: &str, port: &str) -> Vec<SocketAddr> {
    let told = place.ok(&format!("port {name} {port}"));
    told.lines().map(|line| line.parse().expect("an address and a port")).collect()
}

#[test]
fn a_chosen_port_is_reached_from_everywhere() {
    let place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let other = place.sleeper("other", "");
    for address in Host::addresses() {
        // From outside the server sees who it is.
        let seen = reached(place.host.outside(), (address, 8080), "web");
        let outside: [IpAddr; 2] = [Host::OUTSIDE_V4.into(), Host::OUTSIDE_V6.into()];
        assert_eq!(seen, outside[usize::from(address.is_ipv6())].to_string());
        reached(place.host.inside(), (address, 8080), "web");
        // Also its own, over the host.
        reached(&web.at, (address, 8080), "web");
    }
    reached(place.host.inside(), (Ipv4Addr::LOCALHOST, 8080), "web");
    reached(place.host.inside(), (Ipv6Addr::LOCALHOST, 8080), "web");
    reached(&other, (Host::V4, 8080), "web");
    let neighbour = place.sleeper("neighbour", "--network app-net");
    for address in Host::addresses() {
        reached(&neighbour, (address, 8080), "web");
    }
    assert_eq!(
        place.ok("port web"),
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n80/udp -> 0.0.0.0:8080\n80/udp -> [::]:8080"
    );
    assert_eq!(place.ok("port web 80/udp"), "0.0.0.0:8080\n[::]:8080");
    let bindings = place.asked("{{json .HostConfig.PortBindings}}", "web");
    let one = r#"[{"HostIp":"","HostPort":"8080"}]"#;
    assert_eq!(bindings, format!(r#"{{"80/tcp":{one},"80/udp":{one}}}"#));
    let shown = place.asked("{{json .NetworkSettings.Ports}}", "web");
    assert!(shown.contains(r#"{"HostIp":"0.0.0.0","HostPort":"8080"}"#), "{shown}");
    place.ok("rm -f web other neighbour");
    unreachable(place.host.outside(), (Host::V4, 8080));
    unreachable(place.host.inside(), (Ipv6Addr::LOCALHOST, 8080));
}

#[test]
fn the_default_network_publishes_as_well() {
    let place = Place::new();
    let _web = place.server("web", 80, "-p 8080:80 -p 8080:80/udp");
    assert_eq!(
        reached(place.host.outside(), (Host::V4, 8080), "web"),
        Host::OUTSIDE_V4.to_string()
    );
    reached(place.host.outside(), (Host::V6, 8080), "web");
    reached(place.host.inside(), (Ipv4Addr::LOCALHOST, 8080), "web");
    reached(place.host.inside(), (Ipv6Addr::LOCALHOST, 8080), "web");
    place.ok("rm -f web");
    place.daemon.assert_nothing_left();
}

#[test]
fn a_port_of_one_address_is_reached_there_alone() {
    let place = Place::new();
    let flags = "-p 127.0.0.1:8081:80 -p 127.0.0.1:8081:80/udp \
                 -p [::1]:8082:80 -p [::1]:8082:80/udp \
                 -p 192.0.2.1:8083:80 -p 192.0.2.1:8083:80/udp";
    let _web = place.server("web", 80, flags);
    let (host, outside) = (place.host.inside(), place.host.outside());
    reached(host, (Ipv4Addr::LOCALHOST, 8081), "web");
    unreachable(host, (Host::V4, 8081));
    unreachable(outside, (Host::V4, 8081));
    unreachable(outside, (Host::V6, 8081));
    reached(host, (Ipv6Addr::LOCALHOST, 8082), "web");
    unreachable(host, (Ipv4Addr::LOCALHOST, 8082));
    unreachable(outside, (Host::V6, 8082));
    reached(outside, (Host::V4, 8083), "web");
    reached(host, (Host::V4, 8083), "web");
    unreachable(host, (Ipv4Addr::LOCALHOST, 8083));
    // Others on the host may have the same port of another address.
    place.sleeper("second", "-p 127.0.0.1:8083:80");
    assert_eq!(place.ok("port second"), "80/tcp -> 127.0.0.1:8083");
}

#[test]
fn loopback_of_the_host_is_not_reached_from_its_neighbours() {
    let host = Host::with_registry();
    let outside = host.outside();
    // The neighbour sends what is for 127.0.0.1 over the cable, and the host, as some programs
    // want it, takes it.
    for (at, name) in [(host.inside(), "up0"), (outside, "out0")] {
        at.set("ipv4/conf/all/route_localnet", "1");
        at.set(&format!("ipv4/conf/{name}/route_localnet"), "1");
        at.set("ipv4/conf/all/rp_filter", "0");
        at.set(&format!("ipv4/conf/{name}/rp_filter"), "0");
    }
    outside.run("ip address del 127.0.0.1/8 dev lo");
    outside.run("ip route add 127.0.0.1/32 via 192.0.2.1 dev out0 src 192.0.2.2");
    let _own = Server::tcp(host.inside(), 9000, "own");
    let loopback = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let said = ask_tcp(outside, loopback(9000)).expect("without a daemon it is reached");
    assert!(said.starts_with("own "), "{said}");
    let place = Place::on(host.clone(), "");
    let _web = place.server("web", 80, "-p 127.0.0.1:8081:80 -p 127.0.0.1:8081:80/udp");
    reached(host.inside(), loopback(8081), "web");
    unreachable(outside, loopback(8081));
    assert!(ask_tcp(outside, loopback(9000)).is_err(), "nor is anything else");
}

#[test]
fn neighbours_without_another_address_are_served() {
    let place = Place::new();
    place.ok("network create app-net");
    let _web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let (host, outside) = (place.host.inside(), place.host.outside());
    let json = |at: &Namespace, line: &str| -> Value {
        serde_json::from_str(&at.run(line).stdout).expect("ip tells JSON")
    };
    let link_local = |at: &Namespace, name: &str| -> Option<Ipv6Addr> {
        let line = format!("ip -j -6 address show dev {name} scope link -tentative");
        // What the filter leaves out is an empty object.
        let shown = json(at, &line)[0]["addr_info"].as_array()?.clone();
        shown.iter().find_map(|address| address["local"].as_str())?.parse().ok()
    };
    // They make sure first that nobody else has theirs.
    let limit = Duration::from_secs(5);
    let ready = || link_local(host, "up0").is_some() && link_local(outside, "out0").is_some();
    within(limit, "link-local addresses", ready);
    let address = link_local(host, "up0").expect("an address");
    let index = json(outside, "ip -j link show dev out0")[0]["ifindex"].as_u64();
    let index = index.and_then(|index| index.try_into().ok()).expect("its number");
    reached(outside, SocketAddrV6::new(address, 8080, 0, index), "web");
}

#[test]
fn free_ports_are_found() {
    let place = Place::new();
    let _one = place.server("one", 80, "-p 80 -p 80/udp -p 81");
    let _two = place.server("two", 80, "-p 80 -p 80/udp --expose 90-91/udp -P");
    let mut seen = std::collections::BTreeSet::new();
    for name in ["one", "two"] {
        let tcp = ports(&place, name, "80/tcp");
        let (port, of_udp) = (tcp[0].port(), ports(&place, name, "80/udp")[0].port());
        assert!(tcp.iter().all(|other| other.port() == port), "the same for both kinds: {tcp:?}");
        let said = ask_tcp(place.host.outside(), (Host::V4, port).into()).expect("it is reached");
        assert!(said.starts_with(&format!("{name} ")), "{said}");
        assert!(seen.insert((port, "tcp")) && seen.insert((of_udp, "udp")), "they are its own");
    }
    assert_eq!(ports(&place, "two", "90/udp").len(), 2);
    assert_eq!(ports(&place, "two", "91/udp").len(), 2);
    let missing = place.gantry("port two 92").exits(1);
    assert!(missing.stderr.to_lowercase().contains("no public port '92"), "{}", missing.stderr);
    // A restart finds others or the same, and they work.
    place.ok("restart -t 0 one");
    let again = ports(&place, "one", "80/tcp")[0].port();
    let at = place.inside("one");
    let _server = Server::tcp(&at, 80, "again");
    let said = ask_tcp(place.host.outside(), (Host::V4, again).into()).expect("it is reached");
    assert!(said.starts_with("again "), "{said}");
}

#[test]
fn ranges_of_ports() {
    let place = Place::new();
    let web = place.sleeper("web", "-p 7010-7012:8010-8012 -p 7020-7022:80");
    let servers = [80, 8010, 8011, 8012].map(|port| Server::tcp(&web, port, &port.to_string()));
    for (host, wanted) in [(7010, "8010 "), (7011, "8011 "), (7012, "8012 "), (7020, "80 ")] {
        let said = ask_tcp(place.host.outside(), (Host::V4, host).into()).expect("it is reached");
        assert!(said.starts_with(wanted), "{host}: {said}");
    }
    drop(servers);
    let shown = place.ok("ps --format {{.Ports}}");
    assert!(shown.contains("0.0.0.0:7010->8010/tcp"), "{shown}");
    // The next one takes what is left of the second range.
    place.sleeper("next", "-p 7020-7022:80");
    assert_eq!(ports(&place, "next", "80")[0].port(), 7021);
    place.sleeper("last", "-p 7020-7022:80");
    place.refused("run --rm -p 7020-7022:80 {image} true", 125, &["702", "allocated"]);
}

#[test]
fn a_port_in_use_is_refused_with_who_has_it() {
    let place = Place::new();
    place.sleeper("web", "-p 8080:80 -p 5353:53/udp -p 127.0.0.1:8086:80");
    let taken = "port is already allocated";
    place.refused("run --rm -p 8080:81 {image} true", 125, &["8080", taken, "web"]);
    place.refused("run --rm -p 127.0.0.1:8080:81 {image} true", 125, &["8080", taken, "web"]);
    place.refused("run --rm -p 5353:53/udp {image} true", 125, &["5353", taken, "web"]);
    place.refused("run --rm -p 8086:80 {image} true", 125, &["8086", taken, "web"]);
    // The other protocol is another port.
    place.ok("run --rm -p 5353:53/tcp {image} true");
    // A program of the host: this one.
    let _own = Server::tcp(place.host.inside(), 8090, "own");
    let _also = Server::udp(place.host.inside(), 8091, "own");
    let me = std::process::id().to_string();
    place.refused("run --rm -p 8090:80 {image} true", 125, &["8090", &me]);
    place.refused("run --rm -p 8091:80/udp {image} true", 125, &["8091", &me]);
    // Of several ports none is taken when one is refused.
    place.refused("run --rm -p 8095:80 -p 8090:81 {image} true", 125, &["8090"]);
    place.ok("run --rm -p 8095:80 {image} true");
    // A container that was made before has its port when it is started, or not at all.
    place.ok("create --name late -p 8080:80 {image} sleep 3600");
    place.refused("start late", 1, &["8080", taken, "web"]);
    assert_eq!(place.asked("{{.State.Status}}", "late"), "created");
    place.ok("rm -f web");
    place.ok("start late");
    assert_eq!(place.ok("port late 80"), "0.0.0.0:8080\n[::]:8080");
    place.ok("rm -f late");
    place.daemon.assert_nothing_left();
}

#[test]
fn two_daemons_of_a_host_have_ports_of_their_own() {
    let place = Place::new();
    place.sleeper("web", "-p 8080:80");
    let options = Options { host: Some(place.host.clone()), ..second_daemon() };
    let other = gantry_tests::Daemon::with(options);
    let image = other.busybox();
    let refused = other.gantry(&["run", "--rm", "-p", "8080:80", &image, "true"]).exits(125);
    assert!(refused.stderr.contains("8080"), "{}", refused.stderr);
    other.gantry(&["run", "-d", "--name", "own", "-p", "8081:80", &image, "sleep", "600"]).ok();
    let pid = other.gantry(&["inspect", "--format", "{{.State.Pid}}", "own"]).ok();
    let at = gantry_tests::Namespace::of(pid.text().parse().expect("a process"));
    let _server = Server::tcp(&at, 80, "own");
    let said = ask_tcp(place.host.outside(), (Host::V4, 8081).into()).expect("it is reached");
    assert!(said.starts_with("own "), "{said}");
    // What the first one does to its rules is nothing to the second.
    place.ok("rm -f web");
    ask_tcp(place.host.outside(), (Host::V4, 8081).into()).expect("it is still reached");
    other.gantry(&["rm", "-f", "own"]).ok();
}

/// What sets a second daemon on a host apart.
fn second_daemon() -> Options {
    let config = "[networks]\ntable = \"gantry-second\"\nbridge = \"gantry1\"\n".to_owned();
    Options { config, ..Options::default() }
}

#[test]
fn exposed_ports_are_not_published() {
    let place = Place::new();
    let server = place.server("web", 80, "--expose 80 --expose 9000-9001/udp");
    assert_eq!(place.ok("port web"), "");
    assert_eq!(place.ok("ps --format {{.Ports}}"), "80/tcp, 9000-9001/udp");
    let address = place.v4("web", "bridge");
    reached(place.host.inside(), (address, 80), "web");
    // Not even by who knows a way to it.
    place.host.outside().run(&format!("ip route add {address}/32 via {}", Host::V4));
    unreachable(place.host.outside(), (address, 80));
    drop(server);
}
