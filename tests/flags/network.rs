//! Networks, ports and names.

use gantry_tests::{Host, Options};

use super::*;

/// One whose containers can have networks.
fn connected() -> Place {
    let options = Options { host: Some(Host::with_registry()), ..Options::default() };
    let daemon = Daemon::with(options);
    let image = daemon.busybox();
    Place { daemon, image }
}

fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{text:?} lacks {wanted:?}");
    }
}

#[test]
fn a_container_in_a_network_has_what_its_flags_say() {
    let place = connected();
    let create = ["network", "create", "--subnet", "10.61.0.0/24", "--subnet", "fd00:61::/64"];
    place.daemon.gantry(&[&create[..], &["lab"]].concat()).ok();
    let network = ["--network", "lab", "--network-alias", "www", "--ip", "10.61.0.7"];
    let more = ["--ip6", "fd00:61::7", "--mac-address", "02-42-0a-3d-00-07"];
    let local = ["--link-local-ip", "169.254.7.7"];
    place.sleeping("c", &[&network[..], &more, &local].concat());
    let shown = place.exec("c", "ip addr show eth0");
    let link = "link/ether 02:42:0a:3d:00:07 ";
    has(&shown, &[link, "inet 10.61.0.7/24 ", "inet6 fd00:61::7/64 ", "inet 169.254.7.7/"]);
    has(&place.exec("c", "nslookup www"), &["10.61.0.7"]);
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.gantry(&["network", "rm", "lab"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn ports_are_published_and_exposed() {
    let place = connected();
    let flags = ["--network", "bridge", "--publish", "8080:80", "--expose", "9000"];
    place.sleeping("c", &[&flags[..], &["--publish-all"]].concat());
    let ports = place.daemon.gantry(&["port", "c"]).ok();
    has(&ports.stdout, &["80/tcp -> 0.0.0.0:8080\n", "9000/tcp -> 0.0.0.0:"]);
    assert_eq!(place.asked("{{.HostConfig.PublishAllPorts}}", "c"), "true");
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn names_are_found_as_the_flags_say() {
    let place = connected();
    let dns = ["--dns", "198.51.100.1", "--dns-search", "corp", "--dns-option", "timeout:3"];
    let hosts = ["--network", "bridge", "--add-host", "far=198.51.100.2"];
    place.sleeping("c", &[&hosts[..], &dns].concat());
    let wanted = ["nameserver 198.51.100.1", "search corp", "options timeout:3"];
    has(&place.exec("c", "cat /etc/resolv.conf"), &wanted);
    has(&place.exec("c", "cat /etc/hosts"), &["198.51.100.2\tfar"]);
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn what_contradicts_itself_is_refused() {
    let place = Place::new();
    place.refused(&["--network", "host", "--network", "app"], "cannot attach both");
    place.refused(&["--network", "app", "--network", "app"], "is specified multiple times");
    place.refused(&["--network", "host", "--network-alias", "x"], "network-scoped aliases");
    place.refused(&["--publish", "80/x"], "invalid proto: x");
    place.refused(&["--dns", "x"], "IP address is not correctly formatted: x");
    place.refused(&["--add-host", "x"], "bad format for add-host");
    place.refused(&["--mac-address", "x"], "x is not a valid mac address");
    place.daemon.assert_nothing_left();
}
