//! Which addresses networks and containers get, and which they may ask for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use gantry_tests::Host;

use super::Place;

/// The IPv4 subnet of a network: its address and the length of its prefix.
fn subnet(place: &Place, network: &str) -> (Ipv4Addr, u8) {
    let known = place.inspect(&format!("network inspect {network}"));
    let all = known["IPAM"]["Config"].as_array().expect("subnets");
    let mut texts = all.iter().filter_map(|subnet| subnet["Subnet"].as_str());
    let text = texts.find(|text| text.contains('.')).expect("one of IPv4");
    let (address, length) = text.split_once('/').expect("a subnet");
    (address.parse().expect("an address"), length.parse().expect("a length"))
}

#[test]
fn subnets_come_from_pools_and_spare_what_is_there() {
    let host = Host::with_registry();
    // The host knows ways to where the pools begin.
    host.inside().run("ip route add 172.17.0.0/16 via 192.0.2.2");
    host.inside().run("ip route add 172.18.0.0/16 via 192.0.2.2");
    let place = Place::on(host, "");
    let mut seen = BTreeSet::new();
    for n in 0..6 {
        place.ok(&format!("network create n{n}"));
        let (address, length) = subnet(&place, &format!("n{n}"));
        assert_eq!(length, 24, "{address}");
        assert!(address.is_private(), "{address}");
        let [a, b, ..] = address.octets();
        assert!(!(a == 172 && (b == 17 || b == 18)), "{address}");
        assert!(seen.insert(address), "{address} is given twice");
    }
    place.sleeper("plain", "");
    let IpAddr::V4(plain) = place.v4("plain", "bridge") else { unreachable!("it is of IPv4") };
    assert_ne!(plain.octets()[..2], [172, 17]);
    place.ok("rm -f plain");
    // What is given back is there to be given again.
    place.ok("network rm n0 n1 n2 n3 n4 n5");
    for n in 0..6 {
        place.ok(&format!("network create m{n}"));
    }
}

#[test]
fn the_default_network_is_where_docker_has_it() {
    let place = Place::new();
    place.sleeper("plain", "");
    let IpAddr::V4(plain) = place.v4("plain", "bridge") else { unreachable!("it is of IPv4") };
    assert_eq!(plain.octets()[..2], [172, 17]);
    assert_eq!(place.asked("{{.NetworkSettings.IPAddress}}", "plain"), plain.to_string());
    assert_eq!(place.asked("{{.NetworkSettings.Gateway}}", "plain"), "172.17.0.1");
    // Its MAC address is made of it.
    let [a, b, c, d] = plain.octets();
    let mac = format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    assert_eq!(place.asked("{{.NetworkSettings.MacAddress}}", "plain"), mac);
    assert!(place.inside("plain").run("ip link show eth0").stdout.contains(&mac));
}

#[test]
fn subnets_that_are_asked_for() {
    let place = Place::new();
    place.ok(
        "network create --subnet 10.70.0.0/16 --gateway 10.70.255.254 --ip-range 10.70.4.0/24 \
         --aux-address printer=10.70.4.0 --aux-address router=10.70.4.1 wide",
    );
    let known = place.inspect("network inspect wide");
    let four = &known["IPAM"]["Config"][0];
    assert_eq!(four["Subnet"], "10.70.0.0/16");
    assert_eq!(four["Gateway"], "10.70.255.254");
    assert_eq!(four["IPRange"], "10.70.4.0/24");
    assert_eq!(four["AuxiliaryAddresses"]["router"], "10.70.4.1");
    let app = place.sleeper("app", "--network wide");
    let IpAddr::V4(address) = place.v4("app", "wide") else { unreachable!("it is of IPv4") };
    assert_eq!(address.octets()[..3], [10, 70, 4]);
    assert!(address.octets()[3] > 1, "{address} is reserved");
    assert!(app.run("ip route show default").stdout.contains("via 10.70.255.254"));
    assert!(place.host.inside().run("ip -4 address").stdout.contains("10.70.255.254/16"));
    for (flags, said) in [
        ("--subnet 10.70.3.0/24", "overlap"),
        ("--subnet 192.0.2.0/25", "overlap"),
        ("--subnet 10.71.0.0/33", "10.71.0.0/33"),
        ("--subnet 10.71.0.5/24", "10.71.0.5/24"),
        ("--subnet 10.71.0.0/24 --gateway 10.72.0.1", "10.72.0.1"),
        ("--subnet 10.71.0.0/24 --ip-range 10.72.0.0/24", "10.72.0.0/24"),
        ("--subnet 10.71.0.0/24 --subnet 10.72.0.0/24", "subnet"),
        ("--gateway 10.71.0.1", "corresponding subnet"),
        ("-o nope=1", "nope"),
        ("-o com.docker.network.driver.mtu=x", "mtu"),
        ("-o com.docker.network.bridge.name=up0", "up0"),
        ("-o com.docker.network.bridge.name=a/b", "a/b"),
    ] {
        let output = place.gantry(&format!("network create {flags} refused")).exits(1);
        let text = output.stderr.to_lowercase();
        assert!(text.contains(said), "{flags}: {} lacks {said}", output.stderr);
    }
    assert_eq!(place.ok("network ls -q --filter name=refused"), "", "nothing was made of them");
}

#[test]
fn names_of_networks() {
    let place = Place::new();
    let id = place.ok("network create app-net");
    assert!(id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    place.refused("network create app-net", 1, &["network with name app-net already exists"]);
    for name in ["bridge", "host", "none"] {
        place.refused(&format!("network create {name}"), 1, &[name]);
        place.refused(
            &format!("network rm {name}"),
            1,
            &["pre-defined network and cannot be removed"],
        );
    }
    for name in ["-x", "a/b", ".x", "container:x"] {
        assert_ne!(place.gantry(&format!("network create -- {name}")).code, 0, "{name}");
    }
    // Others know it by its ID, or the beginning of it.
    place.ok(&format!("run --rm --network {} {{image}} true", &id[..12]));
    assert_eq!(place.ok(&format!("network inspect --format {{{{.Name}}}} {id}")), "app-net");
    place.refused("network inspect nope", 1, &["network nope not found"]);
    place.refused("network rm nope", 1, &["network nope not found"]);
    // One that was removed and made again is another.
    place.ok("network rm app-net");
    assert_ne!(place.ok("network create app-net"), id);
    // Another namespace has names of its own.
    place.ok("--namespace other network create app-net");
    assert_eq!(
        place.ok("--namespace other network ls -q --filter name=app-net").lines().count(),
        1
    );
    place.ok("network rm app-net");
    place.ok("--namespace other network rm app-net");
}

#[test]
fn addresses_that_containers_ask_for() {
    let place = Place::new();
    place.ok("network create --subnet 10.72.0.0/24 --subnet fd00:72::/64 app-net");
    let flags =
        "--network app-net --ip 10.72.0.50 --ip6 fd00:72::50 --mac-address 02:11:22:33:44:55";
    let app = place.sleeper("app", &format!("{flags} --link-local-ip 169.254.7.7"));
    let shown = app.run("ip address show dev eth0").stdout;
    for part in ["10.72.0.50/24", "fd00:72::50/64", "02:11:22:33:44:55", "169.254.7.7"] {
        assert!(shown.contains(part), "{shown} lacks {part}");
    }
    // It has them again when it is started again, whoever came in between.
    place.ok("stop -t 0 app");
    for n in 0..4 {
        place.sleeper(&format!("c{n}"), "--network app-net");
    }
    place.ok("start app");
    assert_eq!(place.v4("app", "app-net").to_string(), "10.72.0.50");
    place.refused(
        "run --rm --network app-net --ip 10.72.0.50 {image} true",
        125,
        &["already in use"],
    );
    place.refused("run --rm --network app-net --ip 10.72.0.1 {image} true", 125, &["10.72.0.1"]);
    place.refused("run --rm --network app-net --ip 10.73.0.1 {image} true", 125, &["10.73.0.1"]);
    place.refused("run --rm --network app-net --ip nope {image} true", 125, &["nope"]);
    place.refused("run --rm --network app-net --mac-address nope {image} true", 125, &["nope"]);
    place.refused("run --rm --ip 172.17.0.9 {image} true", 125, &["user", "networks only"]);
    assert_eq!(place.ok("ps -aq --filter status=created"), "", "what is refused is not made");
}

#[test]
fn options_of_bridges() {
    let place = Place::new();
    place.ok("network create -o com.docker.network.driver.mtu=1400 \
         -o com.docker.network.bridge.name=mybridge0 mine");
    let app = place.sleeper("app", "--network mine");
    assert!(app.run("ip link show eth0").stdout.contains("mtu 1400"));
    assert!(place.host.inside().links().iter().any(|name| name == "mybridge0"));
    place.refused(
        "network create -o com.docker.network.bridge.name=mybridge0 other",
        1,
        &["mybridge0"],
    );
    // Without masquerade the neighbour sees who it is.
    place.ok("network create --subnet 10.74.0.0/24 \
         -o com.docker.network.bridge.enable_ip_masquerade=false \
         -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 routed");
    let routed = place.server("routed", 80, "--network routed --ip 10.74.0.9 -p 8080:80");
    place.host.outside().run(&format!("ip route add 10.74.0.0/24 via {}", Host::V4));
    let _far = gantry_tests::peers::Server::tcp(place.host.outside(), 9000, "far");
    let said = gantry_tests::peers::ask_tcp(&routed.at, (Host::FAR_V4, 9000).into());
    assert_eq!(said.expect("it is reached"), "far 10.74.0.9");
    assert!(place.ok("port routed").starts_with("80/tcp -> 127.0.0.1:8080"));
    place.ok("rm -f app routed");
    place.ok("network rm mine routed");
    assert!(!place.host.inside().links().iter().any(|name| name == "mybridge0"));
}
