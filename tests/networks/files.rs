//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` of containers.

use gantry_tests::Host;

use super::Place;

#[test]
fn files_are_written_as_docker_writes_them() {
    let place = Place::new();
    place.host.set_resolv_conf("nameserver 192.0.2.2\nsearch example.org\noptions timeout:2\n");
    place.ok("network create app-net");
    place.sleeper("app", "--network app-net --hostname box --add-host far:198.51.100.1");
    let text = place.shell("app", "cat /etc/resolv.conf");
    assert!(text.contains("nameserver 127.0.0.11"), "{text}");
    assert!(text.contains("search example.org"), "{text}");
    assert!(text.contains("options") && text.contains("ndots:0"), "{text}");
    let hosts = place.shell("app", "cat /etc/hosts");
    let has = |address: &str, name: &str| {
        hosts.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(address) && words.any(|word| word == name)
        })
    };
    assert!(has("127.0.0.1", "localhost") && has("::1", "localhost"), "{hosts}");
    assert!(has(&place.v4("app", "app-net").to_string(), "box"), "{hosts}");
    assert!(has(&place.v6("app", "app-net").to_string(), "box"), "{hosts}");
    assert!(has("198.51.100.1", "far"), "{hosts}");
    assert_eq!(place.shell("app", "cat /etc/hostname; hostname"), "box\nbox");
    // The default network has the host's servers.
    place.sleeper("plain", "--dns-search . --add-host host:host-gateway");
    let text = place.shell("plain", "cat /etc/resolv.conf");
    assert!(text.contains(&format!("nameserver {}", Host::OUTSIDE_V4)), "{text}");
    assert!(!text.contains("127.0.0.11") && !text.contains("search example.org"), "{text}");
    let gateway = place.asked("{{.NetworkSettings.Gateway}}", "plain");
    let hosts = place.shell("plain", "cat /etc/hosts");
    assert!(hosts.lines().any(|line| line.starts_with(&format!("{gateway}\thost"))), "{hosts}");
    assert_eq!(place.asked("{{json .HostConfig.ExtraHosts}}", "app"), r#"["far:198.51.100.1"]"#);
}

#[test]
fn what_somebody_writes_into_them_stays() {
    let place = Place::new();
    place.ok("network create app-net");
    place.ok("network create other");
    place.sleeper("app", "--network app-net");
    let mine = "echo '# mine' >> /etc/resolv.conf; echo '10.9.9.9 mine' >> /etc/hosts";
    place.shell("app", mine);
    let is_there = |what: &str| {
        assert!(place.shell("app", "cat /etc/resolv.conf").contains("# mine"), "{what}");
        assert!(place.shell("app", "cat /etc/hosts").contains("10.9.9.9 mine"), "{what}");
    };
    is_there("at once");
    place.ok("network connect other app");
    is_there("after a connect");
    let hosts = place.shell("app", "cat /etc/hosts");
    assert!(hosts.contains(&place.v4("app", "other").to_string()), "{hosts}");
    let gone = place.v4("app", "other").to_string();
    place.ok("network disconnect other app");
    is_there("after a disconnect");
    assert!(!place.shell("app", "cat /etc/hosts").contains(&gone), "the address went");
    place.ok("restart -t 0 app");
    assert!(place.shell("app", "cat /etc/resolv.conf").contains("# mine"), "after a restart");
    let hosts = place.shell("app", "cat /etc/hosts");
    assert!(hosts.contains(&place.v4("app", "app-net").to_string()), "{hosts}");
}

#[test]
fn a_host_without_servers_is_no_failure() {
    let place = Place::new();
    place.host.set_resolv_conf("");
    place.ok("network create app-net");
    for network in ["app-net", "bridge"] {
        place.ok(&format!("run --rm --network {network} {{image}} cat /etc/resolv.conf"));
    }
    // Nobody is asked whom the host does not know.
    let text = place.ok("run --rm --network bridge {image} cat /etc/resolv.conf");
    assert!(!text.contains("8.8.8.8"), "{text}");
}
