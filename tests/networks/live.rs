//! What changes while a container runs: its ports, and its networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use gantry_tests::names::Record;
use gantry_tests::peers::{Client, Server, ask_tcp, ask_udp};
use gantry_tests::{Host, wait_for};

use super::{Place, lookup, reached, unreachable};

#[test]
fn ports_come_and_go() {
    let mut place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net");
    let host = Arc::clone(&place.host);
    let outside = host.outside();
    unreachable(outside, (Host::V4, 8080));
    let told = place.ok("port add web 80/udp");
    let free = told.lines().next().and_then(|line| line.rsplit(':').next()).expect("a port");
    let free: u16 = free.parse().expect("a number");
    for address in Host::addresses() {
        let said = ask_udp(outside, (address, free).into()).expect("an answer");
        assert!(said.starts_with("web "), "{said}");
    }
    place.ok("port rm web 80/udp");
    unreachable(outside, (Host::V4, free));
    place.ok("port add web 8080:80 8080:80/udp");
    for address in Host::addresses() {
        reached(outside, (address, 8080), "web");
    }
    reached(host.inside(), ([127, 0, 0, 1], 8080), "web");
    place.ok("port add web 8081-8082:80-81");
    assert!(place.ok("port web").contains("81/tcp -> 0.0.0.0:8082"));
    place.refused("port add web 8080:81", 1, &["8080", "web"]);
    place.refused("port add nope 8080:81", 1, &["No such container"]);
    let mut client = Client::connect(outside, (Host::V4, 8080).into()).expect("connect");
    let mut over_v6 = Client::connect(outside, (Host::V6, 8080).into()).expect("connect");
    client.echo("before").expect("it is open");
    place.ok("port rm web 8080:80 8080:80/udp");
    for address in Host::addresses() {
        unreachable(outside, (address, 8080));
    }
    unreachable(host.inside(), ([127, 0, 0, 1], 8080));
    unreachable(host.inside(), (Ipv6Addr::LOCALHOST, 8080));
    // Who is connected stays so.
    client.echo("after").expect("it is still open");
    over_v6.echo("after").expect("it is still open");
    ask_tcp(outside, (Host::V4, 8081).into()).expect("others stay");
    // The port is free for anybody.
    let own = Server::tcp(host.inside(), 8080, "own");
    let said = ask_tcp(outside, (Host::V4, 8080).into()).expect("it is reached");
    assert!(said.starts_with("own "), "{said}");
    drop(own);
    // Those that were added are kept, over a restart of the daemon and of the container.
    place.daemon.kill();
    place.daemon.restart();
    ask_tcp(outside, (Host::V4, 8081).into()).expect("it is reached");
    drop(web);
    place.ok("restart -t 0 web");
    assert!(place.ok("port web").contains("80/tcp -> 0.0.0.0:8081"));
    place.ok("port rm web 8081:80");
    place.ok("port rm web 81");
    assert_eq!(place.ok("port web"), "");
    place.ok("rm -f web");
    place.ok("network rm app-net");
}

#[test]
fn what_is_taken_away_does_not_come_back() {
    let mut place = Place::new();
    let _web = place.server("web", 80, "-p 127.0.0.1:8080:80 -p [::1]:8080:80 -p 8100-8110:80");
    let host = Arc::clone(&place.host);
    let (inside, outside) = (host.inside(), host.outside());
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        ask_tcp(inside, (address, 8080).into()).expect("it is reached");
    }
    ask_tcp(outside, (Host::V4, 8100).into()).expect("it is reached");
    // It got another one of the range.
    place.refused("port rm web 8105:80", 1, &["8105", "not published"]);
    place.refused("port add web 127.0.0.1:8080:80", 1, &["8080", "published already"]);
    place.ok("port rm web 8080:80 8100-8110:80");
    for killed in [false, true] {
        if killed {
            place.daemon.kill();
            place.daemon.restart();
        }
        unreachable(inside, (Ipv4Addr::LOCALHOST, 8080));
        unreachable(inside, (Ipv6Addr::LOCALHOST, 8080));
        unreachable(outside, (Host::V4, 8100));
    }
    assert_eq!(place.ok("port web"), "");
}

#[test]
fn ports_of_a_routed_network_stay_open_until_they_are_taken_away() {
    let mut place = Place::new();
    let mode = "com.docker.network.bridge.gateway_mode";
    place.ok(&format!(
        "network create --subnet 10.53.0.0/24 -o {mode}_ipv4=routed -o {mode}_ipv6=routed routed"
    ));
    let way = format!("ip route add 10.53.0.0/24 via {}", Host::V4);
    place.host.outside().run(&way);
    let _web = place.server("web", 80, "--network routed -p 8080:80 -p 8080:80/udp");
    let address = place.v4("web", "routed");
    reached(place.host.outside(), (address, 80), "web");
    place.daemon.kill();
    place.daemon.restart();
    reached(place.host.outside(), (address, 80), "web");
    place.refused("port rm web 8081:80", 1, &["not published"]);
    place.ok("port rm web 8080:80 8080:80/udp");
    unreachable(place.host.outside(), (address, 80));
}

/// How many files a process may open: the soft and the hard limit.
fn files(pid: u32) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let mut lines = limits.lines();
    let line = lines.find(|line| line.starts_with("Max open files")).expect("the limit");
    let words: Vec<&str> = line.split_whitespace().collect();
    [words[3], words[4]].map(str::to_owned)
}

#[test]
fn many_ports_change_no_limits_of_containers() {
    let place = Place::new();
    let [soft, hard] = files(place.daemon.pid());
    assert_eq!(soft, hard, "ports take files");
    // What the daemon was started with.
    let own = files(std::process::id());
    for name in ["first", "second"] {
        place.sleeper(name, "-p 80");
        assert_eq!(files(place.pid(name)), own, "{name}");
    }
}

#[test]
fn ports_of_a_container_that_does_not_run() {
    let place = Place::new();
    place.ok("create --name web -p 8080:80 {image} sleep 3600");
    place.ok("port add web 8081:80");
    place.ok("port rm web 8080:80");
    place.ok("start web");
    assert_eq!(place.ok("port web"), "80/tcp -> 0.0.0.0:8081\n80/tcp -> [::]:8081");
}

#[test]
fn a_container_is_attached_and_detached() {
    let place = Place::new();
    place.ok("network create first");
    place.ok("network create --subnet 10.50.0.0/24 --subnet fd00:50::/64 second");
    let db = place.server("db", 80, "--network second");
    let app = place.server("app", 80, "--network first -p 8080:80 -p 8080:80/udp");
    let before = app.at.links();
    unreachable(&app.at, (place.v4("db", "second"), 80));
    assert!(lookup(&app.at, "db", Record::A).addresses.is_empty());
    place.ok("network connect --alias backend --ip 10.50.0.9 --ip6 fd00:50::9 second app");
    assert_eq!(app.at.links().len(), before.len() + 1);
    assert_eq!(place.v4("app", "second"), "10.50.0.9".parse::<IpAddr>().expect("one"));
    reached(&app.at, (place.v4("db", "second"), 80), "db");
    reached(&app.at, (place.v6("db", "second"), 80), "db");
    for name in ["app", "backend"] {
        assert_eq!(lookup(&db.at, name, Record::A).addresses, [place.v4("app", "second")]);
        assert_eq!(lookup(&db.at, name, Record::Aaaa).addresses, [place.v6("app", "second")]);
    }
    assert_eq!(lookup(&app.at, "db", Record::A).addresses, [place.v4("db", "second")]);
    place.refused("network connect second app", 1, &["already"]);
    // It is reached by its port as before, whichever network is which.
    reached(place.host.outside(), (Host::V4, 8080), "app");
    let mut client = Client::connect(place.host.outside(), (Host::V4, 8080).into()).expect("one");
    place.ok("network disconnect second app");
    client.echo("still").expect("the other network was not touched");
    assert_eq!(app.at.links(), before);
    unreachable(&app.at, (place.v4("db", "second"), 80));
    assert!(lookup(&db.at, "app", Record::A).addresses.is_empty());
    assert!(lookup(&app.at, "db", Record::A).addresses.is_empty());
    place.refused("network disconnect second app", 1, &["is not connected"]);
    // Its address is free again.
    place.ok("run --rm --network second --ip 10.50.0.9 {image} true");
    // The port goes on where the first network goes.
    place.ok("network connect second app");
    place.ok("network disconnect first app");
    assert_eq!(place.asked("{{.HostConfig.NetworkMode}}", "app"), "first", "as it was made");
    wait_for("the port over the other network", || {
        ask_tcp(place.host.outside(), (Host::V4, 8080).into()).ok()
    });
    place.ok("rm -f app db");
    place.ok("network rm first second");
    place.daemon.assert_nothing_left();
}

#[test]
fn without_any_network_ports_wait() {
    let place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    place.ok("network disconnect app-net web");
    assert_eq!(web.at.links(), ["lo"]);
    unreachable(place.host.outside(), (Host::V4, 8080));
    place.ok("network connect app-net web");
    reached(place.host.outside(), (Host::V4, 8080), "web");
    // Those that are taken away meanwhile don't come back.
    place.ok("network disconnect app-net web");
    place.ok("port rm web 8080:80 8080:80/udp");
    place.ok("network connect app-net web");
    unreachable(place.host.outside(), (Host::V4, 8080));
}

#[test]
fn what_does_not_run_is_attached_when_it_starts() {
    let place = Place::new();
    place.ok("network create one");
    place.ok("network create two");
    place.ok("create --name app --network one {image} sleep 3600");
    place.ok("network connect --alias other two app");
    place.ok("start app");
    assert_eq!(place.inside("app").links().len(), 3);
    let client = place.sleeper("client", "--network two");
    assert_eq!(lookup(&client, "other", Record::A).addresses, [place.v4("app", "two")]);
    place.ok("stop -t 0 app");
    place.ok("network disconnect one app");
    place.ok("start app");
    assert_eq!(place.inside("app").links().len(), 2);
    assert!(place.addresses("app", "one").is_empty());
    // One that was made without any can have some; how it was made is told still.
    place.ok("create --name lone --network none {image} sleep 3600");
    place.ok("network disconnect none lone");
    place.ok("network connect one lone");
    assert_eq!(place.asked("{{.HostConfig.NetworkMode}}", "lone"), "none");
}

#[test]
fn several_networks_from_the_beginning_and_which_leads_out() {
    let place = Place::new();
    place.ok("network create --subnet 10.51.0.0/24 a");
    place.ok("network create --subnet 10.52.0.0/24 b");
    let gateway = |name: &str| -> String {
        let routes = place.inside(name).run("ip route show default").stdout;
        routes.split_whitespace().nth(2).expect("a default route").to_owned()
    };
    place.sleeper("first", "--network b --network a");
    assert_eq!(gateway("first"), "10.51.0.1", "of several the first by name");
    place
        .sleeper("second", "--network name=a,gw-priority=-1 --network name=b,alias=x,ip=10.52.0.7");
    assert_eq!(gateway("second"), "10.52.0.1");
    assert_eq!(place.v4("second", "b").to_string(), "10.52.0.7");
    place.sleeper("third", "--network a");
    place.ok("network connect --gw-priority 7 b third");
    assert_eq!(gateway("third"), "10.52.0.1");
    place.ok("network disconnect b third");
    assert_eq!(gateway("third"), "10.51.0.1");
    // Any of them lets nothing through to who is in the other alone.
    let only_a = place.server("only-a", 80, "--network a");
    let only_b = place.sleeper("only-b", "--network b");
    reached(&place.inside("first"), (place.v4("only-a", "a"), 80), "only-a");
    unreachable(&only_b, (place.v4("only-a", "a"), 80));
    drop(only_a);
}
