//! Who does not reach whom.

use std::net::IpAddr;
use std::sync::Arc;

use gantry_tests::Host;
use gantry_tests::peers::{Server, ask_tcp};

use super::{Place, reached, unreachable};

#[test]
fn networks_do_not_reach_each_other() {
    let place = Place::new();
    place.ok("network create one");
    place.ok("network create two");
    let one = place.server("a", 80, "--network one");
    let two = place.server("b", 80, "--network two -p 8080:80 -p 8080:80/udp");
    let plain = place.server("c", 80, "");
    let networks = [(&one, "a", "one"), (&two, "b", "two"), (&plain, "c", "bridge")];
    for (from, _, own) in networks {
        for (_, name, network) in networks.iter().filter(|(_, _, network)| *network != own) {
            for address in place.addresses(name, network) {
                unreachable(&from.at, (address, 80));
            }
        }
    }
    // What is published is for everybody.
    reached(&one.at, (Host::V4, 8080), "b");
    reached(&plain.at, (Host::V4, 8080), "b");
}

#[test]
fn an_internal_network_leads_nowhere() {
    let place = Place::new();
    place.ok("network create --internal closed");
    let db = place.server("db", 80, "--network closed -p 8080:80 -p 8080:80/udp");
    let app = place.sleeper("app", "--network closed");
    let plain = place.sleeper("plain", "");
    let _outside = Server::tcp(place.host.outside(), 9000, "outside");
    for address in place.addresses("db", "closed") {
        reached(&app, (address, 80), "db");
        unreachable(&plain, (address, 80));
        let via = if address.is_ipv4() { Host::V4.to_string() } else { Host::V6.to_string() };
        place.host.outside().run(&format!("ip route add {address} via {via}"));
        unreachable(place.host.outside(), (address, 80));
    }
    for address in Host::addresses() {
        unreachable(place.host.outside(), (address, 8080));
    }
    for far in [IpAddr::from(Host::OUTSIDE_V4), Host::OUTSIDE_V6.into(), Host::FAR_V4.into()] {
        assert!(ask_tcp(&app, (far, 9000).into()).is_err(), "{far}");
    }
    // Also when a container makes itself a way.
    let gateway = first_of(place.v4("app", "closed"));
    app.shell(&format!("ip route replace default via {gateway}"));
    assert!(ask_tcp(&app, (Host::OUTSIDE_V4, 9000).into()).is_err());
    drop(db);
}

/// The first address of the /24 of one.
fn first_of(address: IpAddr) -> IpAddr {
    let IpAddr::V4(address) = address else { unreachable!("it is of IPv4") };
    let [a, b, c, _] = address.octets();
    [a, b, c, 1].into()
}

#[test]
fn containers_reach_out_as_the_host() {
    let place = Place::new();
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    let plain = place.sleeper("plain", "");
    let _server = Server::tcp(place.host.outside(), 9000, "far");
    let ask = |from, to: IpAddr| ask_tcp(from, (to, 9000).into()).expect("it is reached");
    assert_eq!(ask(&app, Host::FAR_V4.into()), format!("far {}", Host::V4));
    assert_eq!(ask(&app, Host::FAR_V6.into()), format!("far {}", Host::V6));
    assert_eq!(ask(&plain, Host::FAR_V4.into()), format!("far {}", Host::V4));
    // The host's own servers are open to them, unless it says otherwise.
    let _own = Server::tcp(place.host.inside(), 9001, "own");
    let said = ask_tcp(&app, (Host::V4, 9001).into()).expect("it is reached");
    assert_eq!(said, format!("own {}", place.v4("app", "app-net")));
}

#[test]
fn containers_of_one_network_may_be_kept_apart() {
    let place = Place::new();
    place.ok("network create -o com.docker.network.bridge.enable_icc=false apart");
    let _a = place.server("a", 80, "--network apart -p 8080:80 -p 8080:80/udp");
    let b = place.sleeper("b", "--network apart");
    for address in place.addresses("a", "apart") {
        unreachable(&b, (address, 80));
    }
    let _far = Server::tcp(place.host.outside(), 9000, "far");
    ask_tcp(&b, (Host::FAR_V4, 9000).into()).expect("the way out is open");
    reached(place.host.outside(), (Host::V4, 8080), "a");
}

#[test]
fn a_neighbour_that_knows_a_way_gets_only_what_is_published() {
    let place = Place::new();
    place.ok("network create app-net");
    let _web = place.server("web", 80, "--network app-net -p 8080:8080");
    for address in place.addresses("web", "app-net") {
        let via = if address.is_ipv4() { Host::V4.to_string() } else { Host::V6.to_string() };
        place.host.outside().run(&format!("ip route add {address} via {via}"));
        unreachable(place.host.outside(), (address, 80));
    }
}

#[test]
fn an_administrator_has_the_last_word_on_published_ports() {
    let mut place = Place::new();
    let flags = "-p 8080:80 -p 8080:80/udp -p 8081:80 -p 8081:80/udp";
    let _web = place.server("web", 80, flags);
    let host = Arc::clone(&place.host);
    reached(host.outside(), (Host::V4, 8080), "web");
    let only_8081 = |when: &str| {
        assert!(ask_tcp(host.outside(), (Host::V4, 8080).into()).is_err(), "{when}");
        reached(host.outside(), (Host::V4, 8081), "web");
    };
    // The chain that is there for it sees the port that was asked for.
    let rule = "iifname up0 meta l4proto { tcp, udp } ct original proto-dst 8080 drop";
    host.inside().run(&format!("nft add rule inet gantry host-input-policy {rule}"));
    only_8081("at once");
    place.ok("run --rm -p 8082:80 {image} true");
    only_8081("after changes of ours");
    place.daemon.kill();
    place.daemon.restart();
    only_8081("after a restart");
    host.inside().run("nft flush chain inet gantry host-input-policy");
    reached(host.outside(), (Host::V4, 8080), "web");
    // And so does a chain of the administrator's own.
    host.inside().run("nft add table inet admin");
    let chain = "{ type filter hook forward priority -10 ; }";
    host.inside().run(&format!("nft add chain inet admin forward {chain}"));
    host.inside().run(&format!("nft add rule inet admin forward {rule}"));
    only_8081("with a table of its own");
}
