//! IPv4 alone, IPv6 alone and both: each has the same tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_tests::names::{Record, reverse};
use gantry_tests::peers::{Client, Server, ask_tcp};
use gantry_tests::{Host, Namespace};

use super::kills::look_up_over_kills;
use super::{Place, lookup, reached, unreachable, within};

/// What a network has.
#[derive(Clone, Copy, Debug)]
struct Families {
    v4: bool,
    v6: bool,
}

const V4: Families = Families { v4: true, v6: false };
const V6: Families = Families { v4: false, v6: true };
const BOTH: Families = Families { v4: true, v6: true };

impl Families {
    /// Flags of `network create`.
    fn flags(self) -> String {
        format!("--ipv4={} --ipv6={}", self.v4, self.v6)
    }

    /// Of two addresses those of its kinds.
    fn of(self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
        let v4 = self.v4.then_some(v4.into());
        v4.into_iter().chain(self.v6.then_some(v6.into())).collect()
    }

    fn host(self) -> Vec<IpAddr> {
        self.of(Host::V4, Host::V6)
    }

    fn loopback(self) -> Vec<IpAddr> {
        self.of(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
    }
}

/// A host with two containers in such a network.
struct Pair {
    place: Place,
    families: Families,
    web: Namespace,
    app: Namespace,
    _servers: [Server; 2],
}

impl Pair {
    fn new(families: Families) -> Self {
        let place = Place::new();
        place.ok(&format!("network create {} app-net", families.flags()));
        let ports = "-p 8080:80 -p 8080:80/udp";
        let web = place.sleeper("web", &format!("--network app-net --network-alias www {ports}"));
        let servers = [Server::tcp(&web, 80, "web"), Server::udp(&web, 80, "web")];
        let app = place.sleeper("app", "--network app-net");
        Self { place, families, web, app, _servers: servers }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.place.addresses("web", "app-net")
    }

    fn has_its_addresses(&self) {
        let all = self.addresses();
        let Families { v4, v6 } = self.families;
        assert_eq!((all.iter().any(IpAddr::is_ipv4), all.iter().any(IpAddr::is_ipv6)), (v4, v6));
        let shown = self.web.run("ip address show dev eth0 scope global").stdout;
        for address in &all {
            assert!(shown.contains(&format!(" {address}/")), "{shown}");
        }
        assert_eq!(shown.contains("inet "), v4, "{shown}");
        assert_eq!(shown.contains("inet6 "), v6, "{shown}");
        for (family, has) in [("-4", v4), ("-6", v6)] {
            let routes = self.web.run(&format!("ip {family} route show default")).stdout;
            assert_eq!(routes.contains("via"), has, "{routes}");
        }
        let known = self.place.inspect("network inspect app-net");
        assert_eq!(known["EnableIPv4"], v4);
        assert_eq!(known["EnableIPv6"], v6);
        let subnets = known["IPAM"]["Config"].as_array().expect("subnets");
        assert_eq!(subnets.len(), usize::from(v4) + usize::from(v6), "{subnets:?}");
    }

    fn containers_reach_each_other(&self) {
        for address in self.addresses() {
            reached(&self.app, (address, 80), "web");
            reached(self.place.host.inside(), (address, 80), "web");
        }
        for name in ["web", "www"] {
            let told = [Record::A, Record::Aaaa].map(|record| lookup(&self.app, name, record));
            assert!(told.iter().all(|told| told.code == 0), "it is a name: {told:?}");
            let all: Vec<_> = told.into_iter().flat_map(|told| told.addresses).collect();
            assert_eq!(all, self.addresses());
        }
        for address in self.addresses() {
            let told = lookup(&self.app, &reverse(address), Record::Ptr);
            assert!(!told.names.is_empty(), "{address}");
        }
    }

    fn ports_are_published(&self) {
        let (host, outside) = (self.place.host.inside(), self.place.host.outside());
        for address in self.families.host() {
            let seen = reached(outside, (address, 8080), "web");
            let wanted: IpAddr = match address {
                IpAddr::V4(_) => Host::OUTSIDE_V4.into(),
                IpAddr::V6(_) => Host::OUTSIDE_V6.into(),
            };
            assert_eq!(seen, wanted.to_string());
            reached(host, (address, 8080), "web");
            reached(&self.app, (address, 8080), "web");
            reached(&self.web, (address, 8080), "web");
        }
        for address in self.families.loopback() {
            reached(host, (address, 8080), "web");
        }
    }

    fn the_way_out_is_open(&self) {
        let _far = Server::tcp(self.place.host.outside(), 9000, "far");
        for to in self.families.of(Host::FAR_V4, Host::FAR_V6) {
            let said = ask_tcp(&self.app, (to, 9000).into()).expect("it is reached");
            let own = if to.is_ipv4() { Host::V4.to_string() } else { Host::V6.to_string() };
            assert_eq!(said, format!("far {own}"));
        }
    }

    fn ports_come_and_go(&self) {
        let outside = self.place.host.outside();
        for address in self.families.host() {
            unreachable(outside, (address, 8090));
        }
        self.place.ok("port add web 8090:80 8090:80/udp");
        let mut clients = Vec::new();
        for address in self.families.host() {
            reached(outside, (address, 8090), "web");
            clients.push(Client::connect(outside, (address, 8090).into()).expect("connect"));
        }
        self.place.ok("port rm web 8090:80 8090:80/udp");
        for address in self.families.host() {
            unreachable(outside, (address, 8090));
        }
        for client in &mut clients {
            client.echo("still").expect("connections stay");
        }
    }

    fn networks_come_and_go(&self) {
        let place = &self.place;
        place.ok(&format!("network create {} second", self.families.flags()));
        let other = place.server("other", 80, "--network second");
        let all = place.addresses("other", "second");
        for address in &all {
            unreachable(&self.app, (*address, 80));
        }
        place.ok("network connect second app");
        for address in &all {
            reached(&self.app, (*address, 80), "other");
        }
        assert_eq!(lookup(&other.at, "app", self.record()).addresses.len(), 1);
        place.ok("network disconnect second app");
        for address in &all {
            unreachable(&self.app, (*address, 80));
        }
        assert!(lookup(&other.at, "app", self.record()).addresses.is_empty());
        place.ok("rm -f other");
        place.ok("network rm second");
    }

    fn an_internal_one_leads_nowhere(&self) {
        let place = &self.place;
        place.ok(&format!("network create --internal {} closed", self.families.flags()));
        let db = place.server("db", 80, "--network closed");
        let shut = place.sleeper("shut", "--network closed");
        for address in place.addresses("db", "closed") {
            reached(&shut, (address, 80), "db");
            unreachable(&self.app, (address, 80));
        }
        let _far = Server::tcp(place.host.outside(), 9000, "far");
        for to in self.families.of(Host::FAR_V4, Host::FAR_V6) {
            assert!(ask_tcp(&shut, (to, 9000).into()).is_err(), "{to}");
        }
        drop(db);
        place.ok("rm -f db shut");
        place.ok("network rm closed");
    }

    fn record(&self) -> Record {
        if self.families.v4 { Record::A } else { Record::Aaaa }
    }

    fn survives(&mut self) {
        let before = self.place.host.rules();
        self.place.host.inside().run("nft flush ruleset");
        let limit = std::time::Duration::from_secs(1);
        within(limit, "the rules", || self.place.host.rules() == before);
        self.ports_are_published();
        self.place.daemon.kill();
        self.ports_are_published();
        self.containers_have_names();
        self.place.daemon.restart();
        self.ports_are_published();
        self.containers_reach_each_other();
        let names: Vec<_> = self.addresses().into_iter().map(|at| ("www", at)).collect();
        let (count, failed) = look_up_over_kills(&mut self.place.daemon, 1, &self.app, &names);
        assert!(count > 0 && failed.is_empty(), "of {count}: {failed:#?}");
    }

    fn containers_have_names(&self) {
        assert_eq!(lookup(&self.app, "www", self.record()).addresses.len(), 1);
    }

    fn all(mut self) {
        self.has_its_addresses();
        self.containers_reach_each_other();
        self.ports_are_published();
        self.the_way_out_is_open();
        self.ports_come_and_go();
        self.networks_come_and_go();
        self.an_internal_one_leads_nowhere();
        self.survives();
        let before = self.addresses();
        self.place.ok("rm -f web app");
        // What was taken is free again.
        let flag = |address: &IpAddr| match address {
            IpAddr::V4(address) => format!("--ip {address}"),
            IpAddr::V6(address) => format!("--ip6 {address}"),
        };
        let flags: Vec<_> = before.iter().map(flag).collect();
        let flags = flags.join(" ");
        self.place.ok(&format!("run --rm --network app-net {flags} -p 8080:80 {{image}} true"));
        self.place.ok("network rm app-net");
        self.place.daemon.assert_nothing_left();
    }
}

#[test]
fn ipv4_only() {
    Pair::new(V4).all();
}

#[test]
fn ipv6_only() {
    Pair::new(V6).all();
}

#[test]
fn dual_stack() {
    Pair::new(BOTH).all();
}

#[test]
fn a_network_has_both_unless_told_otherwise() {
    let place = Place::new();
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    let all = place.addresses("app", "app-net");
    assert_eq!(all.len(), 2, "{all:?}");
    // Unique local addresses (RFC 4193), the same beginning for all networks of an installation.
    place.ok("network create other");
    place.sleeper("b", "--network other");
    let prefix = |address: IpAddr| match address {
        IpAddr::V6(address) => address.segments()[..3].to_vec(),
        IpAddr::V4(_) => Vec::new(),
    };
    let (one, two) = (place.v6("app", "app-net"), place.v6("b", "other"));
    assert_eq!(prefix(one), prefix(two));
    assert_eq!(prefix(one)[0] >> 8, 0xfd);
    assert_eq!(app.links(), ["lo", "eth0"]);
    place.refused("network create --ipv4=false --ipv6=false none-at-all", 1, &["IPv4", "IPv6"]);
}
