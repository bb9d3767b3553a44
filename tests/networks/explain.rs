//! Which rule decides whether packets to a port get in, and what opens the way.

use std::net::{Ipv4Addr, SocketAddr};

use gantry_tests::Host;
use gantry_tests::peers::{Server, ask_tcp};
use serde_json::Value;

use super::{Place, reached, unreachable, within};

/// Chains of other programs, as they are set up with nft.
const OTHERS: [(&str, &[&str]); 3] = [
    (
        "a policy",
        &[
            "add table inet other",
            "add chain inet other forward { type filter hook forward priority 10 ; policy drop ; }",
            "add rule inet other forward ct state established,related accept",
        ],
    ),
    (
        "as Docker's",
        &[
            "add table ip filter",
            "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
            "add chain ip filter DOCKER-USER",
            "add rule ip filter DOCKER-USER return",
            "add rule ip filter FORWARD jump DOCKER-USER",
            "add rule ip filter FORWARD oifname docker0 ct state established,related accept",
            "add rule ip filter FORWARD iifname docker0 accept",
        ],
    ),
    (
        "a rule about the container's port",
        &[
            "add table inet other",
            "add chain inet other forward { type filter hook forward priority 5 ; }",
            "add rule inet other forward meta l4proto { tcp, udp } th dport 80 counter drop",
        ],
    ),
];

fn explained(place: &Place, port: &str) -> Value {
    let text = place.ok(&format!("port explain --format json {port}"));
    serde_json::from_str(&text).expect("JSON")
}

fn chains(told: &Value) -> &Vec<Value> {
    told["Chains"].as_array().expect("chains")
}

/// The chains that do not let packets pass.
fn closed(told: &Value) -> Vec<&Value> {
    chains(told).iter().filter(|chain| chain["Verdict"] == "drop").collect()
}

/// What is told to do about the one chain that is in the way.
fn remedy(place: &Place, port: &str, what: &str) -> String {
    let told = explained(place, port);
    assert_eq!(told["Reachable"], false, "{what}: {told}");
    let closed = closed(&told);
    assert_eq!(closed.len(), 1, "{what}: {told}");
    assert!(matches!(closed[0]["Table"].as_str(), Some("other" | "filter")), "{told}");
    assert_eq!(closed[0]["Hook"], "forward");
    let reason = closed[0]["Reason"].as_str().expect("a reason");
    let wanted = if what.contains("rule") { "dport 80" } else { "policy drop" };
    assert!(reason.contains(wanted), "{what}: {reason}");
    let remedy = closed[0]["Remedy"].as_str().expect("a remedy");
    assert!(!remedy.is_empty(), "{what}: {told}");
    remedy.to_owned()
}

#[test]
fn a_port_that_is_open_says_so() {
    let place = Place::new();
    let _web = place.server("web", 80, "-p 8080:80 -p 8080:80/udp");
    reached(place.host.outside(), (Host::V4, 8080), "web");
    for port in ["8080", "8080/udp"] {
        let told = explained(&place, port);
        assert_eq!(told["Reachable"], true, "{told}");
        assert_eq!(told["Published"][0]["Container"], "web");
        assert_eq!(told["Published"][0]["ContainerPort"], 80);
        assert!(closed(&told).is_empty(), "{told}");
        let own = chains(&told).iter().filter(|chain| chain["Table"] == "gantry");
        let hooks: Vec<_> = own.map(|chain| chain["Hook"].as_str().expect("a hook")).collect();
        assert!(hooks.contains(&"prerouting") && hooks.contains(&"forward"), "{hooks:?}");
    }
    let text = place.ok("port explain 8080");
    assert!(text.contains("web: 80/tcp -> 0.0.0.0:8080"), "{text}");
    assert!(text.contains("Packets from outside get in."), "{text}");
}

#[test]
fn chains_of_others_are_named_and_the_remedy_works() {
    for (what, lines) in OTHERS {
        let place = Place::new();
        let _web = place.server("web", 80, "-p 0.0.0.0:8080:80 -p 0.0.0.0:8080:80/udp");
        let (host, outside) = (place.host.inside(), place.host.outside());
        reached(outside, (Host::V4, 8080), "web");
        for line in lines {
            host.run(&format!("nft {line}"));
        }
        unreachable(outside, (Host::V4, 8080));
        let remedies = ["8080", "8080/udp"].map(|port| remedy(&place, port, what));
        for (port, remedy) in ["8080", "8080/udp"].into_iter().zip(remedies) {
            // The first one may be enough.
            if explained(&place, port)["Reachable"] == false {
                for line in remedy.lines() {
                    let done = host.shell(line);
                    assert_eq!(done.code, 0, "{what}: {line}: {}", done.stderr);
                }
            }
            assert_eq!(explained(&place, port)["Reachable"], true, "{what}");
        }
        reached(outside, (Host::V4, 8080), "web");
        let text = place.ok("port explain 8080");
        assert!(text.contains("Packets from outside get in."), "{what}: {text}");
    }
}

#[test]
fn ipv4_and_ipv6_are_told_apart() {
    let place = Place::new();
    // Its network has no IPv6: a shim carries that, past the chains of what is forwarded.
    let _web = place.server("web", 80, "-p 8080:80 -p 8080:80/udp");
    let (host, outside) = (place.host.inside(), place.host.outside());
    for line in OTHERS[0].1 {
        host.run(&format!("nft {line}"));
    }
    unreachable(outside, (Host::V4, 8080));
    reached(outside, (Host::V6, 8080), "web");
    let told = explained(&place, "8080");
    assert_eq!(told["Reachable"], true, "{told}");
    let reasons: Vec<_> = closed(&told).iter().map(|chain| &chain["Reason"]).collect();
    assert_eq!(reasons, ["IPv4: policy drop"]);
    let text = place.ok("port explain 8080");
    assert!(text.contains("Packets from outside get in by one of IPv4 and IPv6"), "{text}");
    host.run("nft add rule inet gantry host-input-policy meta l4proto { tcp, udp } ct original proto-dst 8080 drop");
    unreachable(outside, (Host::V6, 8080));
    assert_eq!(explained(&place, "8080")["Reachable"], false);
}

#[test]
fn chains_of_others_are_left_alone_unless_wanted() {
    let mut place = Place::new();
    let web = place.server("web", 80, "-p 8080:80 -p 8080:80/udp");
    let host = place.host.clone();
    let other = || host.inside().run("nft list table ip filter").stdout;
    for line in OTHERS[1].1 {
        host.inside().run(&format!("nft {line}"));
    }
    let before = other();
    unreachable(host.outside(), (Host::V4, 8080));
    assert_eq!(other(), before);
    // Only who says so lets us in there.
    place.daemon.stop();
    place.daemon.set_config("[networks]\naccept_elsewhere = true\n");
    place.daemon.restart();
    let limit = std::time::Duration::from_secs(2);
    let open = || ask_tcp(host.outside(), (Host::V4, 8080).into()).is_ok();
    within(limit, "the way in", open);
    reached(host.outside(), (Host::V4, 8080), "web");
    let now = other();
    let more: Vec<_> = now.lines().filter(|line| !before.contains(line.trim())).collect();
    assert!(!more.is_empty() && more.iter().all(|line| line.contains("comment")), "{now}");
    // What is not published stays closed.
    let address = place.v4("web", "bridge");
    host.outside().run(&format!("ip route add {address}/32 via {}", Host::V4));
    unreachable(host.outside(), (address, 80));
    // Somebody makes the chain anew: we are let in again.
    host.inside().run("nft delete table ip filter");
    for line in OTHERS[1].1 {
        host.inside().run(&format!("nft {line}"));
    }
    within(limit, "the way in, again", open);
    // Who does not want it any more has it as it was.
    place.daemon.stop();
    place.daemon.set_config("");
    place.daemon.restart();
    within(limit, "the other's table as it was", || other() == before);
    drop(web);
}

#[test]
fn programs_of_the_host_and_nobody() {
    let place = Place::new();
    let _web = place.server("web", 80, "-p 127.0.0.1:8080:80 -p 127.0.0.1:8080:80/udp");
    let told = explained(&place, "8080");
    assert_eq!(told["Reachable"], false, "it is for the host alone: {told}");
    assert_eq!(told["Published"][0]["HostIp"], "127.0.0.1");
    let told = explained(&place, "9000");
    assert_eq!(told["Reachable"], false);
    assert_eq!(told["Listener"], "");
    assert!(place.ok("port explain 9000").contains("Packets from outside reach nobody."));
    let _own = Server::tcp(place.host.inside(), 9000, "own");
    let told = explained(&place, "9000");
    let listener = told["Listener"].as_str().expect("a listener");
    assert!(listener.contains(&format!("(pid {})", std::process::id())), "{listener}");
    assert_eq!(told["Reachable"], true, "{told}");
    let host = place.host.inside();
    // Who listens for the host alone hears nobody outside.
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 9001));
    let _local = Server::tcp_on(host, &[loopback], "local");
    let told = explained(&place, "9001");
    assert_eq!(told["Reachable"], false, "{told}");
    assert_eq!(told["Listener"], "", "{told}");
    // It is the chains of the input hook that decide there.
    host.run("nft add table inet other");
    host.run("nft add chain inet other in { type filter hook input priority 0 ; }");
    host.run("nft add rule inet other in ip saddr 198.51.100.7 drop");
    let text = place.ok("port explain 9000");
    assert!(text.contains("Packets from outside may get in"), "{text}");
    host.run("nft add chain inet other in { type filter hook input priority 0 ; policy drop ; }");
    let told = explained(&place, "9000");
    assert_eq!(told["Reachable"], false, "{told}");
    assert_eq!(closed(&told)[0]["Hook"], "input");
    assert_ne!(place.gantry("port explain 0").code, 0);
    assert_ne!(place.gantry("port explain 70000").code, 0);
}
