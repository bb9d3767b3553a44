//! Drivers of networks: macvlan, the host's, none, another container's; and those that are refused.

use std::net::IpAddr;

use gantry_tests::names::Record;
use gantry_tests::peers::{Server, ask_tcp};
use gantry_tests::{Daemon, Host, Options};

use super::{Place, lookup, reached, unreachable};

#[test]
fn macvlan_puts_containers_on_the_hosts_cable() {
    let mut place = Place::new();
    let before = place.traces();
    // The neighbour is the router there.
    place.ok("network create -d macvlan --subnet 192.0.2.0/24 --gateway 192.0.2.2 \
         --ip-range 192.0.2.64/26 --subnet 2001:db8:1::/64 --gateway 2001:db8:1::2 --ip-range 2001:db8:1::40/122 \
         -o parent=up0 cable");
    let web = place.server("web", 80, "--network cable");
    let app =
        place.server("app", 80, "--network cable --ip 192.0.2.80 --mac-address 02:00:00:00:00:09");
    assert_eq!(place.v4("app", "cable"), IpAddr::from([192, 0, 2, 80]));
    assert!(app.at.run("ip link show eth0").stdout.contains("02:00:00:00:00:09"));
    let IpAddr::V4(address) = place.v4("web", "cable") else { unreachable!("it is of IPv4") };
    assert_eq!(address.octets()[3] & 0xc0, 0x40, "in the range: {address}");
    for address in place.addresses("web", "cable") {
        // Anybody there sees it under its own address, and the other way round.
        reached(place.host.outside(), (address, 80), "web");
        reached(&app.at, (address, 80), "web");
    }
    let _far = Server::tcp(place.host.outside(), 9000, "far");
    let said = ask_tcp(&web.at, (Host::FAR_V4, 9000).into()).expect("over the router");
    assert_eq!(said, format!("far {address}"));
    assert_eq!(lookup(&app.at, "web", Record::A).addresses, [IpAddr::from(address)]);
    place.daemon.kill();
    place.daemon.restart();
    reached(place.host.outside(), (address, 80), "web");
    assert_eq!(lookup(&app.at, "web", Record::A).addresses, [IpAddr::from(address)]);
    // It is no bridge of ours, and its parent is nobody's to remove.
    assert_eq!(place.asked("{{.HostConfig.NetworkMode}}", "web"), "cable");
    place.refused("network create -d macvlan -o parent=nope x", 1, &["nope"]);
    place.refused("network create -d macvlan -o parent=up0 -o macvlan_mode=nope x", 1, &["nope"]);
    place.ok("network create app-net");
    place.ok("network connect app-net web");
    place.ok("network disconnect cable web");
    unreachable(place.host.outside(), (address, 80));
    place.ok("network connect cable web");
    place.ok("rm -f web app");
    place.ok("network rm cable app-net");
    place.assert_only(&before);
}

#[test]
fn what_the_kernel_or_we_lack_is_refused_by_name() {
    let place = Place::new();
    place.refused("network create -d ipvlan -o parent=up0 x", 1, &["ipvlan"]);
    place.refused("network create -d overlay x", 1, &["overlay"]);
    place.refused("network create -d nope x", 1, &["nope"]);
    place.refused("network create -d host x", 1, &["host"]);
    place.refused("network create -d null x", 1, &["null"]);
    assert_eq!(place.ok("network ls --format {{.Name}}"), "bridge\nhost\nnone");
    // SAFETY: takes integers, and the descriptor is closed right away.
    let has_sctp = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP);
        fd >= 0 && libc::close(fd) == 0
    };
    if !has_sctp {
        place.refused("run --rm -p 80:80/sctp {image} true", 125, &["sctp"]);
        assert_eq!(place.ok("ps -aq"), "");
    }
}

#[test]
fn the_hosts_network_and_none() {
    let place = Place::new();
    let own = place.host.inside().number();
    assert_eq!(place.ok("run --rm --network host {image} readlink /proc/self/ns/net"), own);
    let links = place.ok("run --rm --network none {image} ls /sys/class/net");
    assert_eq!(links, "lo");
    // With the host's network ports are where they are.
    place.ok("run -d --name web --network host -p 8080:80 {image} sleep 3600");
    assert_eq!(place.ok("port web"), "");
    place.refused("network connect bridge web", 1, &["host"]);
    place.refused("run --rm --network host --network bridge {image} true", 125, &["conflicting"]);
    place.refused("run --rm --network nope {image} true", 125, &["network nope not found"]);
    assert_eq!(place.ok("ps -a --format {{.Names}}"), "web", "what is refused is not made");
    // A container without a network can be given none.
    place.ok("run -d --name alone --network none {image} sleep 3600");
    place.refused("network connect bridge alone", 1, &["none"]);
}

#[test]
fn what_a_container_needs_and_is_gone_is_named() {
    let place = Place::new();
    place.ok("network create gone");
    place.ok("create --name gg --network gone {image} true");
    place.ok("network rm gone");
    let said = "network gone, which container gg is in, was removed: gantry network disconnect";
    place.refused("start gg", 1, &[said]);
    place.ok("network disconnect gone gg");
    place.refused("network disconnect gone gg", 1, &["network gone not found"]);
    place.ok("run -d --name donor {image} sleep 3600");
    place.ok("create --name side --network container:donor {image} true");
    place.ok("rm -f donor");
    place.refused("start side", 1, &["container side is in the network of container "]);
}

#[test]
fn containers_share_a_network() {
    let mut place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let side = place.sleeper("side", "--network container:web");
    assert_eq!(side.number(), web.at.number());
    let loopback = place.shell("side", "cat /etc/hosts /etc/resolv.conf /etc/hostname");
    assert_eq!(loopback, place.shell("web", "cat /etc/hosts /etc/resolv.conf /etc/hostname"));
    reached(&side, ([127, 0, 0, 1], 80), "web");
    for (flags, said) in [
        ("-p 80:80", "port"),
        ("-P", "port"),
        ("--expose 80", "expos"),
        ("--ip 10.0.0.1", ""),
        ("--dns 192.0.2.2", "dns"),
        ("--add-host a:192.0.2.2", "host"),
        ("--hostname x", "hostname"),
        ("--mac-address 02:00:00:00:00:01", "mac"),
    ] {
        let line = format!("run --rm --network container:web {flags} {{image}} true");
        let output = place.gantry(&line).exits(125);
        assert!(output.stderr.to_lowercase().contains(said), "{flags}: {}", output.stderr);
    }
    place.refused("run --rm --network container:nope {image} true", 125, &["nope"]);
    place.refused("network connect app-net side", 1, &["container"]);
    // Ports that are added to it are no business of the other.
    place.refused("port add side 8090:80", 1, &["container"]);
    place.daemon.kill();
    place.daemon.restart();
    reached(place.host.outside(), (Host::V4, 8080), "web");
    let mode = place.asked("{{.HostConfig.NetworkMode}}", "side");
    assert_eq!(mode, format!("container:{}", place.asked("{{.Id}}", "web")));
    place.ok("stop -t 0 web");
    place.refused("restart -t 0 side", 1, &["running"]);
    place.ok("rm -f web side");
    place.daemon.assert_nothing_left();
}

#[test]
fn a_daemon_without_networks_says_so() {
    let daemon = Daemon::with(Options::default());
    let image = daemon.busybox();
    let refused = daemon.gantry(&["run", "--rm", &image, "true"]).exits(125);
    assert!(refused.stderr.contains("network"), "{}", refused.stderr);
    let refused = daemon.gantry(&["network", "create", "x"]).exits(1);
    assert!(refused.stderr.contains("network"), "{}", refused.stderr);
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
    let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    let line = ["run", "--rm", "--network", "host", &image, "readlink", "/proc/self/ns/net"];
    assert_eq!(daemon.gantry(&line).ok().text(), own.to_str().expect("text"));
    daemon.assert_nothing_left();
}

#[test]
fn nothing_is_touched_before_it_is_needed() {
    let host = Host::with_registry();
    let before = host.traces();
    let forward = || {
        host.inside()
            .inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"))
            .expect("a parameter")
    };
    let forwards = forward();
    let place = Place::on(host.clone(), "");
    place.ok("run --rm --network none {image} true");
    place.ok("run --rm --network host {image} true");
    place.ok("network ls");
    assert!(!host.inside().links().iter().any(|name| name == "gantry0"));
    assert_eq!(forward(), forwards);
    let links: Vec<_> = host.traces().into_iter().filter(|line| !line.contains("gantry")).collect();
    assert_eq!(links, before.into_iter().collect::<Vec<_>>());
}
