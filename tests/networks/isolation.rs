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
    // IPv4 is translated, IPv6 is carried by its shim.
    let _open = place.server("open", 80, "-p 8081:80 -p 8081:80/udp");
    place.ok("network create app-net");
    let other = place.sleeper("other", "--network app-net");
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
        reached(&other, (address, 8081), "open");
    }
    for address in place.addresses("app", "closed") {
        unreachable(&app, (first_of(address), 8081));
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

/// The first address of the /24 of one, or of its /64.
fn first_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 1].into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d, 0, 0, 0, 1].into()
        }
    }
}

#[test]
fn containers_reach_out_as_the_host() {
    let place = Place::new();
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    let plain = place.sleeper("plain", "");
    let _server = Server::tcp(place.host.outside(), 9000, "far");
    let ask = |from, to: IpAddr| {
        ask_tcp(from, (to, 9000).into()).unwrap_or_else(|err| panic!("{to}: {err}"))
    };
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
    // IPv4 is translated, IPv6 is carried by its shim.
    let all = || {
        for address in Host::addresses() {
            reached(host.outside(), (address, 8080), "web");
        }
    };
    all();
    let only_8081 = |when: &str| {
        for address in Host::addresses() {
            let asked = ask_tcp(host.outside(), (address, 8080).into());
            assert!(asked.is_err(), "{when}: {address}");
            reached(host.outside(), (address, 8081), "web");
        }
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
    all();
    // And so do chains of the administrator's own.
    host.inside().run("nft add table inet admin");
    for hook in ["forward", "input"] {
        let chain = format!("{hook} {{ type filter hook {hook} priority -10 ; }}");
        host.inside().run(&format!("nft add chain inet admin {chain}"));
        host.inside().run(&format!("nft add rule inet admin {hook} {rule}"));
    }
    only_8081("with a table of its own");
}

#[test]
fn a_network_that_is_routed_to_answers_pings() {
    let place = Place::new();
    let mode = |kind: u8| format!("-o com.docker.network.bridge.gateway_mode_ipv{kind}=routed");
    place.ok(&format!("network create {} {} routed", mode(4), mode(6)));
    place.ok("network create app-net");
    let _web = place.server("web", 80, "--network routed");
    let app = place.sleeper("app", "--network app-net");
    for address in place.addresses("web", "routed") {
        place.shell("app", &format!("ping -c 1 -W 2 {address}"));
        unreachable(&app, (address, 80));
    }
}
