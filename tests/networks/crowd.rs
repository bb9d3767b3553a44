//! Many at once, and many ports.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use gantry_tests::leftovers::processes;
use gantry_tests::peers::{Server, ask_tcp};
use gantry_tests::{Host, run_within, wait_for};

use super::Place;

const CROWD: usize = 32;
const PORTS: u16 = 500;
/// What their memory may grow by.
const MEMORY: u64 = 10 << 20;

#[test]
fn many_containers_start_at_once() {
    let place = Place::new();
    let before = place.traces();
    place.ok("network create app-net");
    thread::scope(|scope| {
        for n in 0..CROWD {
            let place = &place;
            scope.spawn(move || {
                let network = if n % 2 == 0 { "app-net" } else { "bridge" };
                let line =
                    format!("run -d --name c{n} --network {network} -p 80 {{image}} sleep 3600");
                place.ok(&line);
            });
        }
    });
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for n in 0..CROWD {
        let (name, network) = (format!("c{n}"), if n % 2 == 0 { "app-net" } else { "bridge" });
        let all = place.addresses(&name, network);
        assert!(!all.is_empty() && all.into_iter().all(|address| addresses.insert(address)));
        let told = place.ok(&format!("port {name} 80"));
        let port = told.lines().next().and_then(|line| line.rsplit(':').next()).expect("a port");
        assert!(ports.insert(port.to_owned()), "{port} is given twice");
        let at = place.inside(&name);
        let _server = Server::tcp(&at, 80, &name);
        let to = (Host::V4, port.parse::<u16>().expect("a number")).into();
        let said = ask_tcp(place.host.outside(), to).expect("it is reached");
        assert!(said.starts_with(&format!("{name} ")), "{said}");
    }
    thread::scope(|scope| {
        for n in 0..CROWD {
            let place = &place;
            scope.spawn(move || place.ok(&format!("rm -f c{n}")));
        }
    });
    place.ok("network rm app-net");
    place.assert_only(&before);
}

#[test]
fn networks_come_and_go_at_once() {
    let place = Place::new();
    let before = place.traces();
    thread::scope(|scope| {
        for n in 0..8 {
            let place = &place;
            scope.spawn(move || {
                for _ in 0..4 {
                    place.ok(&format!("network create n{n}"));
                    place.ok(&format!("run --rm --network n{n} {{image}} true"));
                    place.ok(&format!("network rm n{n}"));
                }
            });
        }
    });
    // Of many who want one name, one gets it.
    let made = thread::scope(|scope| {
        let ask = || scope.spawn(|| place.gantry("network create same").code == 0);
        let all: Vec<_> = (0..8).map(|_| ask()).collect();
        all.into_iter().filter_map(|one| one.join().ok()).filter(|made| *made).count()
    });
    assert_eq!(made, 1);
    place.ok("network rm same");
    place.assert_only(&before);
}

/// Processes in the host's network.
fn in_the_host(place: &Place) -> Vec<u32> {
    let own = place.host.inside().number();
    processes(|pid| {
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/net"));
        namespace.is_ok_and(|namespace| namespace.to_string_lossy() == own)
    })
}

/// Bytes of a process' memory that are its own, and its share of what others have as well.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
    let kb: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kb << 10
}

#[test]
fn five_hundred_ports_cost_no_process_and_little_memory() {
    let mut place = Place::new();
    // One to begin with, so that all is loaded that ever is.
    place.sleeper("first", "-p 9000:80");
    let idle = || in_the_host(&place).into_iter().map(memory).sum::<u64>();
    let wait_for_processes = |what: &str, count: usize| {
        wait_for(what, || (in_the_host(&place).len() == count).then_some(()));
    };
    // The daemon, a shim, and the one that lies ready.
    wait_for_processes("a ready-made shim", 3);
    let before = idle();
    let last = 10_000 + PORTS - 1;
    let flags = format!("-p 10000-{last}:10000-{last}");
    place.sleeper("many", &flags);
    let at = place.inside("many");
    for port in [10_000, 10_250, last] {
        let _server = Server::tcp(&at, port, "many");
        for address in Host::addresses() {
            ask_tcp(place.host.outside(), (address, port).into()).expect("it is reached");
        }
        let loopback = (std::net::Ipv6Addr::LOCALHOST, port).into();
        ask_tcp(place.host.inside(), loopback).expect("it is reached");
    }
    // Its shim is one more; the ready-made one is replaced.
    wait_for_processes("one more process", 4);
    let grown = idle().saturating_sub(before);
    assert!(grown < MEMORY, "{PORTS} ports take {} KB", grown >> 10);
    assert_eq!(place.ok("port many").lines().count(), 2 * usize::from(PORTS));
    // A restart of the daemon is as quick as ever, and everything is as it was.
    place.daemon.kill();
    place.daemon.restart();
    let _server = Server::tcp(&at, last, "many");
    ask_tcp(place.host.outside(), (Host::V4, last).into()).expect("it is reached");
    let mut remove = place.daemon.gantry_command(&["rm", "-f", "many", "first"]);
    run_within(&mut remove, std::time::Duration::from_secs(20)).ok();
    place.daemon.assert_nothing_left();
}
