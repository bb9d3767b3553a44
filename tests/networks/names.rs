//! Names: who is found by which, and who is asked for all others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gantry_tests::names::{Answer, Nameserver, Record, ask, ask_by_tcp, reverse};
use gantry_tests::{Host, Namespace, Registry};

use super::{Place, lookup, resolver};

const NO_SUCH_NAME: u8 = 3;

/// The server that the host's resolv.conf names, and what it knows.
fn upstream(host: &Host) -> Nameserver {
    let many: Vec<_> = (1..=40).map(|n| IpAddr::from([203, 0, 113, n])).collect();
    let one = [IpAddr::from([203, 0, 113, 1]), "2001:db8:9::1".parse().expect("an address")];
    let zone = [("www.example.org", &one[..]), ("many.example.org", &many[..])];
    Nameserver::start(host.outside(), Host::OUTSIDE_V4.into(), &zone)
}

/// What a container's resolver answers on TCP.
#[track_caller]
fn lookup_by_tcp(from: &Namespace, name: &str, record: Record) -> Answer {
    from.inside(|| ask_by_tcp(resolver(), name, record)).expect("an answer")
}

#[test]
fn containers_are_found_by_name_id_and_alias() {
    let place = Place::new();
    place.ok("network create app-net");
    let db = place.sleeper("db", "--network app-net --network-alias store --hostname box");
    let app = place.sleeper("app", "--network app-net");
    let id = place.asked("{{.Id}}", "db");
    let (v4, v6) = (place.v4("db", "app-net"), place.v6("db", "app-net"));
    for name in ["db", "DB", "store", "db.app-net", &id[..12]] {
        assert_eq!(lookup(&app, name, Record::A).addresses, [v4], "{name}");
        assert_eq!(lookup(&app, name, Record::Aaaa).addresses, [v6], "{name}");
        assert_eq!(lookup_by_tcp(&app, name, Record::A).addresses, [v4], "{name}");
    }
    // Also by itself, and what the C library makes of it.
    assert_eq!(lookup(&db, "db", Record::A).addresses, [v4]);
    for address in [v4, v6] {
        let told = lookup(&app, &reverse(address), Record::Ptr);
        assert!(told.names.iter().any(|name| name.starts_with("db.app-net")), "{told:?}");
    }
    let debian = Registry::shared().reference("debian:latest");
    place.ok(&format!("pull -q {debian}"));
    let told = place.ok(&format!("run --rm --network app-net {debian} getent ahostsv4 store"));
    assert!(told.starts_with(&v4.to_string()), "{told}");
    let told = place.shell("app", "nslookup db 2>&1");
    assert!(told.contains(&v4.to_string()), "{told}");
    // Another name is known at once; the old one is nobody's.
    place.ok("rename db database");
    assert_eq!(lookup(&app, "database", Record::A).addresses, [v4]);
    assert!(lookup(&app, "db", Record::A).addresses.is_empty());
    assert_eq!(lookup(&app, "store", Record::A).addresses, [v4]);
    place.ok("rm -f database");
    for name in ["database", "store", &id[..12]] {
        assert!(lookup(&app, name, Record::A).addresses.is_empty(), "{name}");
    }
}

#[test]
fn a_name_without_addresses_of_a_kind_is_still_a_name() {
    let place = Place::new();
    let names = upstream(&place.host);
    place.ok("network create --ipv6=false four");
    place.ok("network create --ipv4=false six");
    let four = place.sleeper("a", "--network four");
    let six = place.sleeper("b", "--network six");
    let told = lookup(&four, "a", Record::Aaaa);
    assert_eq!((told.code, told.addresses.len()), (0, 0));
    let told = lookup(&six, "b", Record::A);
    assert_eq!((told.code, told.addresses.len()), (0, 0));
    // It is nobody else's business either.
    assert_eq!(names.asked_at_all(), 0);
    let told = lookup(&four, "nobody", Record::A);
    assert_eq!((told.code, told.addresses.len()), (NO_SUCH_NAME, 0));
}

#[test]
fn many_of_one_alias_come_in_random_order() {
    let place = Place::new();
    place.ok("network create app-net");
    for n in 0..4 {
        place.sleeper(&format!("s{n}"), "--network app-net --network-alias service");
    }
    let client = place.sleeper("client", "--network app-net");
    let mut wanted: Vec<_> = (0..4).map(|n| place.v4(&format!("s{n}"), "app-net")).collect();
    wanted.sort();
    let mut first = BTreeSet::new();
    for _ in 0..60 {
        let mut told = lookup(&client, "service", Record::A).addresses;
        first.insert(told[0]);
        told.sort();
        assert_eq!(told, wanted);
    }
    assert_eq!(first.len(), 4, "each is the first at times: {first:?}");
    place.ok("stop -t 0 s0");
    assert_eq!(lookup(&client, "service", Record::A).addresses.len(), 3);
}

#[test]
fn all_others_are_asked_of_the_hosts_servers() {
    let place = Place::new();
    let names = upstream(&place.host);
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    let www: IpAddr = [203, 0, 113, 1].into();
    assert_eq!(lookup(&app, "www.example.org", Record::A).addresses, [www]);
    assert_eq!(lookup(&app, "www.example.org", Record::Aaaa).addresses.len(), 1);
    assert_eq!(lookup(&app, "nothing.example.org", Record::A).code, NO_SUCH_NAME);
    // It is kept for as long as it is valid.
    let before = names.asked("www.example.org", "udp");
    for _ in 0..10 {
        assert_eq!(lookup(&app, "www.example.org", Record::A).addresses, [www]);
    }
    assert_eq!(names.asked("www.example.org", "udp"), before);
    // What does not fit is fetched by TCP, and told by TCP to who asks again.
    let told = lookup(&app, "many.example.org", Record::A);
    assert!(told.truncated || told.addresses.len() == 40, "{told:?}");
    assert_eq!(lookup_by_tcp(&app, "many.example.org", Record::A).addresses.len(), 40);
    assert!(names.asked("many.example.org", "tcp") > 0);
    // A container's name is no question for others.
    for record in [Record::A, Record::Aaaa] {
        assert_eq!(lookup(&app, "app", record).addresses.len(), 1, "{record:?}");
    }
    assert_eq!(names.asked("app", "udp") + names.asked("app", "tcp"), 0);
}

#[test]
fn a_server_that_is_silent_is_not_the_last() {
    let place = Place::new();
    let far: IpAddr = Host::FAR_V4.into();
    let www: IpAddr = [203, 0, 113, 1].into();
    // The first refuses, the second never answers.
    place.host.outside().run("nft add table ip silence");
    place.host.outside().run("nft add chain ip silence in { type filter hook input priority 0 ; }");
    place.host.outside().run("ip address add 198.51.100.2/32 dev lo");
    place.host.outside().run("nft add rule ip silence in ip daddr 198.51.100.2 drop");
    place.host.set_resolv_conf(
        "nameserver 192.0.2.2\nnameserver 198.51.100.2\nnameserver 198.51.100.1\n",
    );
    let names = Nameserver::start(place.host.outside(), far, &[("www.example.org", &[www][..])]);
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    // Before the C library gives up.
    assert_eq!(lookup(&app, "www.example.org", Record::A).addresses, [www]);
    assert!(names.asked("www.example.org", "udp") > 0);
}

#[test]
fn a_changed_resolv_conf_of_the_host_counts() {
    let place = Place::new();
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    let www: IpAddr = [203, 0, 113, 1].into();
    let far: IpAddr = Host::FAR_V4.into();
    let _names = Nameserver::start(place.host.outside(), far, &[("www.example.org", &[www][..])]);
    assert!(lookup(&app, "www.example.org", Record::A).addresses.is_empty());
    place.host.set_resolv_conf(&format!("nameserver {}\n", Host::FAR_V4));
    super::within(Duration::from_secs(5), "the new server is asked", || {
        let told = app.inside(|| ask(resolver(), "www.example.org", Record::A));
        told.is_ok_and(|told| told.addresses == [www])
    });
}

#[test]
fn servers_and_domains_of_its_own() {
    let place = Place::new();
    let host = upstream(&place.host);
    let far: IpAddr = Host::FAR_V4.into();
    let (www, other): (IpAddr, IpAddr) = ([203, 0, 113, 1].into(), [203, 0, 113, 9].into());
    let own = Nameserver::start(
        place.host.outside(),
        far,
        &[("www.example.org", &[other][..]), ("intra.corp", &[www][..])],
    );
    place.ok("network create app-net");
    let debian = Registry::shared().reference("debian:latest");
    place.ok(&format!("pull -q {debian}"));
    let flags = "--dns 198.51.100.1 --dns-search corp --dns-option ndots:1";
    place.ok(&format!("run -d --name app --network app-net {flags} {debian} sleep 3600"));
    let app = place.inside("app");
    assert_eq!(lookup(&app, "www.example.org", Record::A).addresses, [other]);
    let told = place.shell("app", "getent ahostsv4 intra");
    assert!(told.starts_with(&www.to_string()), "{told}");
    assert!(own.asked("intra.corp", "udp") > 0);
    assert_eq!(host.asked_at_all(), 0);
    let text = place.shell("app", "cat /etc/resolv.conf");
    assert!(text.contains("nameserver 127.0.0.11"), "{text}");
    assert!(text.contains("search corp") && text.contains("ndots:1"), "{text}");
    // A container of the default network asks that server itself.
    place.ok(&format!("run -d --name plain {flags} {debian} sleep 3600"));
    let text = place.shell("plain", "cat /etc/resolv.conf");
    assert!(text.contains("nameserver 198.51.100.1"), "{text}");
    let told = place.shell("plain", "getent ahostsv4 intra");
    assert!(told.starts_with(&www.to_string()), "{told}");
}

#[test]
fn a_host_that_asks_itself_asks_for_its_containers_as_well() {
    let host = Host::with_registry();
    let www: IpAddr = [203, 0, 113, 1].into();
    let loopback = Ipv4Addr::new(127, 0, 1, 1);
    let _names =
        Nameserver::start(host.inside(), loopback.into(), &[("www.example.org", &[www][..])]);
    host.set_resolv_conf("nameserver 127.0.1.1\n");
    let place = Place::on(host, "");
    place.ok("network create app-net");
    for (name, flags) in [("own", "--network app-net"), ("plain", "")] {
        let at = place.sleeper(name, flags);
        let text = place.shell(name, "cat /etc/resolv.conf");
        assert!(text.contains("nameserver 127.0.0.11"), "{text}");
        assert_eq!(lookup(&at, "www.example.org", Record::A).addresses, [www], "{name}");
    }
}

#[test]
fn an_internal_network_asks_nobody() {
    let place = Place::new();
    let names = upstream(&place.host);
    place.ok("network create --internal closed");
    let app = place.sleeper("app", "--network closed");
    let db = place.sleeper("db", "--network closed");
    assert_eq!(lookup(&app, "db", Record::A).addresses, [place.v4("db", "closed")]);
    for record in [Record::A, Record::Aaaa] {
        let told = lookup(&app, "www.example.org", record);
        assert!(told.code != 0 && told.addresses.is_empty(), "{told:?}");
    }
    assert_eq!(names.asked_at_all(), 0, "names lead nothing out");
    // Who has a way out as well may ask.
    place.ok("network create open");
    place.ok("network connect open db");
    assert_eq!(lookup(&db, "www.example.org", Record::A).addresses.len(), 1);
    place.ok("network disconnect open db");
    assert!(lookup(&db, "www.example.org", Record::A).addresses.is_empty());
}

#[test]
fn a_server_of_names_in_a_container_has_port_53() {
    let place = Place::new();
    place.ok("network create app-net");
    let own = place.sleeper("own", "--network app-net -p 5353:53 -p 5353:53/udp");
    let www: IpAddr = [203, 0, 113, 7].into();
    let address = place.v4("own", "app-net");
    // On all addresses of the container, as most of them do.
    let _any = Nameserver::start(&own, Ipv4Addr::UNSPECIFIED.into(), &[("here", &[www][..])]);
    let to = (Host::V4, 5353).into();
    let told = place.host.outside().inside(|| ask(to, "here", Record::A)).expect("an answer");
    assert_eq!(told.addresses, [www]);
    let neighbour = place.sleeper("neighbour", "--network app-net");
    let told = neighbour.inside(|| ask_by_tcp((address, 53).into(), "here", Record::A));
    assert_eq!(told.expect("an answer").addresses, [www]);
    // And its own lookups go where they always do.
    assert_eq!(lookup(&own, "neighbour", Record::A).addresses, [place.v4("neighbour", "app-net")]);
}

#[test]
fn hostile_questions_don_t_end_the_resolver() {
    let place = Place::new();
    place.ok("network create app-net");
    let app = place.sleeper("app", "--network app-net");
    let wanted = [place.v4("app", "app-net")];
    app.inside(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        for length in 0..64 {
            // Pointers that lead to themselves, lengths that lead beyond the end.
            for fill in [0x00, 0xc0, 0x3f, 0xff] {
                let _ = socket.send_to(&[fill; 64][..length], resolver());
            }
        }
        let _ = socket.send_to(&[0x41; 9000], resolver());
        // Streams that say how much comes, and send nothing.
        let _idle: Vec<_> = (0..64)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(resolver()).expect("connect");
                let _ = std::io::Write::write_all(&mut stream, &[0xff, 0xff, 1]);
                stream
            })
            .collect();
        let told = ask(resolver(), "app", Record::A).expect("it still answers");
        assert_eq!(told.addresses, wanted);
    });
    assert_eq!(lookup_by_tcp(&app, "app", Record::A).addresses, wanted);
}
