//! What others break in the host's network is whole again.

use std::time::Duration;

use gantry_tests::peers::{ask_tcp, ask_udp};
use gantry_tests::{Host, Namespace};

use super::{Place, reached, within};

/// What the rules have to be back in.
const SOON: Duration = Duration::from_secs(1);

/// Whether a server is reached, and sees who asks: that is so only with rules.
fn direct(from: &Namespace) -> bool {
    let to = (Host::V4, 8080).into();
    let seen = format!("web {}", Host::OUTSIDE_V4);
    ask_tcp(from, to).is_ok_and(|said| said == seen)
        && ask_udp(from, to).is_ok_and(|said| said == seen)
}

/// Whether the rules are those from before.
fn whole(place: &Place, before: &[String]) -> bool {
    let shown = place.host.inside().shell("nft -j list ruleset");
    shown.code == 0 && place.host.rules() == before
}

#[test]
fn flushed_rules_are_back_within_a_second() {
    let place = Place::new();
    place.ok("network create app-net");
    let _web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let outside = place.host.outside();
    assert!(direct(outside));
    let before = place.host.rules();
    for how in [
        "nft flush ruleset",
        "nft delete table inet gantry",
        "nft flush table inet gantry",
        "nft flush ruleset inet",
        "nft add table inet gantry { flags dormant ; }",
    ] {
        place.host.inside().run(how);
        let taken = within(SOON, how, || whole(&place, &before));
        assert!(direct(outside), "{how}: {taken:?}");
    }
    // One after the other, as a script that loads a firewall's rules does it.
    for _ in 0..5 {
        place.host.inside().run("nft flush ruleset");
        place.host.inside().run("nft add table inet other");
    }
    place.host.inside().run("nft delete table inet other");
    within(SOON, "rules after several flushes", || whole(&place, &before));
    assert!(direct(outside));
    // What it is that somebody else makes stays as it is.
    place.host.inside().run("nft add table inet other");
    place.host.inside().run("nft add chain inet other own");
    place.ok("run --rm -p 81 {image} true");
    let tables = place.host.inside().run("nft list table inet other").stdout;
    assert!(tables.contains("chain own"), "{tables}");
}

#[test]
fn a_single_rule_that_goes_is_missed() {
    let place = Place::new();
    let _web = place.server("web", 80, "-p 8080:80 -p 8080:80/udp");
    let before = place.host.rules();
    let shown = place.host.inside().run("nft -a list table inet gantry").stdout;
    let mut chain = "";
    let mut rules = Vec::new();
    for line in shown.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.split_whitespace().next().expect("a name");
        } else if let Some((rule, handle)) = line.rsplit_once(" # handle ")
            && !rule.ends_with('{')
        {
            rules.push((chain.to_owned(), handle.to_owned()));
        }
    }
    assert!(!rules.is_empty(), "{shown}");
    let (chain, handle) = &rules[rules.len() / 2];
    place.host.inside().run(&format!("nft delete rule inet gantry {chain} handle {handle}"));
    within(SOON, "the rule", || whole(&place, &before));
    assert!(direct(place.host.outside()));
}

#[test]
fn a_deleted_bridge_is_made_again() {
    let place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let db = place.server("db", 80, "--network app-net");
    let bridge = place.interface("app-net");
    let before = place.host.traces();
    let whole = || {
        place.host.traces() == before
            && direct(place.host.outside())
            && ask_tcp(&web.at, (place.v4("db", "app-net"), 80).into()).is_ok()
            && ask_tcp(&web.at, (place.v6("db", "app-net"), 80).into()).is_ok()
    };
    assert!(whole());
    let limit = Duration::from_secs(3);
    place.host.inside().run(&format!("ip link delete {bridge}"));
    within(limit, "a deleted bridge", whole);
    place.host.inside().run(&format!("ip link set {bridge} down"));
    within(limit, "a bridge that was taken down", whole);
    place.host.inside().run(&format!("ip address flush dev {bridge}"));
    within(limit, "a bridge without addresses", whole);
    reached(&web.at, (place.v4("db", "app-net"), 80), "db");
    drop(db);
}

#[test]
fn an_uplink_may_go_down_and_up() {
    let place = Place::new();
    let _web = place.server("web", 80, "-p 8080:80 -p 8080:80/udp");
    let host = place.host.inside();
    for _ in 0..3 {
        host.run("ip link set up0 down");
        assert!(!direct(place.host.outside()));
        host.run("ip link set up0 up");
        within(Duration::from_secs(5), "the port", || direct(place.host.outside()));
    }
    // The way out is the host's to restore; then containers have it, too.
    host.run(&format!("ip route replace default via {}", Host::OUTSIDE_V4));
    let server = gantry_tests::peers::Server::tcp(place.host.outside(), 9000, "far");
    let said = ask_tcp(&place.inside("web"), (Host::FAR_V4, 9000).into()).expect("a way out");
    assert_eq!(said, format!("far {}", Host::V4));
    drop(server);
}

#[test]
fn what_was_broken_meanwhile_is_whole_after_a_restart() {
    let mut place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    place.ok("run -d --name plain -p 8081:80 {image} sleep 3600");
    let bridge = place.interface("app-net");
    let before = place.host.traces();
    place.daemon.kill();
    place.host.inside().run("nft flush ruleset");
    place.host.inside().run(&format!("ip link delete {bridge}"));
    place.host.inside().run("ip link set gantry0 down");
    place.daemon.restart();
    let limit = Duration::from_secs(5);
    within(limit, "everything", || place.host.traces() == before && direct(place.host.outside()));
    drop(web);
}
