//! The daemon is killed, and nothing in the networks notices.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gantry_tests::names::{Nameserver, Record, ask, ask_by_tcp};
use gantry_tests::peers::Client;
use gantry_tests::{Daemon, Host, Namespace, Options, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Place, lookup, reached, resolver, unreachable};

const KILLS: usize = 5;
/// From one lookup to the next: a hundred a second.
const PACE: Duration = Duration::from_millis(10);
/// However it goes, it ends then.
const LIMIT: Duration = Duration::from_secs(60);

/// The point before a shim gets what the daemon has changed.
const HAND_OVER: &str = "hand a shim what it serves, before";

/// A place whose daemon can be told where to die.
fn mortal() -> Place {
    let host = Host::with_registry();
    let program = Some("gantryd-failpoints".to_owned());
    let daemon =
        Daemon::with(Options { program, host: Some(Arc::clone(&host)), ..Options::default() });
    let image = daemon.busybox();
    Place { daemon, host, image }
}

/// Has the daemon die at a point while it does what a line says, and starts it again.
#[track_caller]
fn cut(place: &mut Place, point: &str, line: &str) {
    place.daemon.kill();
    place.daemon.set_env(vec![("GANTRY_FAULT".to_owned(), point.to_owned())]);
    place.daemon.restart();
    assert_ne!(place.gantry(line).code, 0, "{line}: the daemon lives on");
    place.daemon.kill();
    place.daemon.set_env(Vec::new());
    place.daemon.restart();
}

/// Looks names up until it is told to end; how often, and what failed.
fn look_up(at: &Namespace, names: &[(&str, IpAddr)], over: &AtomicBool) -> (usize, Vec<String>) {
    let (count, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let one = |name: &str, wanted: IpAddr, by_tcp: bool| {
        let begin = Instant::now();
        let record = if wanted.is_ipv4() { Record::A } else { Record::Aaaa };
        let told = match by_tcp {
            true => ask_by_tcp(resolver(), name, record),
            false => ask(resolver(), name, record),
        };
        if !told.as_ref().is_ok_and(|told| told.addresses == [wanted]) {
            let why = format!("{name} after {:?}: {told:?}", begin.elapsed());
            failed.lock().expect("no panic while held").push(why);
        }
    };
    at.inside(|| {
        thread::scope(|scope| {
            let begin = Instant::now();
            let mut next = begin;
            while !over.load(Ordering::SeqCst) && begin.elapsed() < LIMIT {
                let n = count.fetch_add(1, Ordering::SeqCst);
                let (name, wanted) = names[n % names.len()];
                let one = &one;
                // On time, also when one takes long. Threads stay in the network of who makes them.
                scope.spawn(move || one(name, wanted, n % 10 == 9));
                next += PACE;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
    });
    (count.into_inner(), failed.into_inner().expect("no panic while held"))
}

/// Looks names up while the daemon is killed so often; how often, and what failed.
pub(super) fn look_up_over_kills(
    daemon: &mut Daemon,
    kills: usize,
    at: &Namespace,
    names: &[(&str, IpAddr)],
) -> (usize, Vec<String>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| look_up(at, names, &over));
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(300));
            daemon.kill();
            thread::sleep(Duration::from_millis(400));
            daemon.restart();
        }
        thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::SeqCst);
        client.join().expect("the client does not panic")
    })
}

#[test]
fn a_hundred_lookups_a_second_over_five_kills() {
    let mut place = Place::new();
    let www: [IpAddr; 2] = [[203, 0, 113, 1].into(), "2001:db8:9::1".parse().expect("an address")];
    let upstream = Host::OUTSIDE_V4.into();
    let _names =
        Nameserver::start(place.host.outside(), upstream, &[("www.example.org", &www[..])]);
    place.ok("network create app-net");
    place.sleeper("db", "--network app-net --network-alias store");
    let app = place.sleeper("app", "--network app-net");
    let (v4, v6) = (place.v4("db", "app-net"), place.v6("db", "app-net"));
    let [www_v4, www_v6] = www.map(|address| ("www.example.org", address));
    let names = [("db", v4), ("db", v6), ("store", v6), ("store", v4), www_v4, www_v6];
    let begin = Instant::now();
    let (count, failed) = look_up_over_kills(&mut place.daemon, KILLS, &app, &names);
    let taken = begin.elapsed();
    assert!(failed.is_empty(), "{} of {count} failed: {failed:#?}", failed.len());
    let wanted = (taken.as_secs_f64() * 100.0) as usize;
    assert!(count * 10 >= wanted * 9, "{count} lookups in {taken:?}");
}

#[test]
fn traffic_goes_on_while_the_daemon_is_away() {
    let mut place = Place::new();
    place.ok("network create app-net");
    let web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let db = place.server("db", 80, "--network app-net");
    let outside = place.host.outside();
    let mut clients: Vec<_> = Host::addresses()
        .into_iter()
        .map(|address| Client::connect(outside, (address, 8080).into()).expect("connect"))
        .collect();
    let loopback = ([127, 0, 0, 1], 8080).into();
    clients.push(Client::connect(place.host.inside(), loopback).expect("connect"));
    let loopback = (std::net::Ipv6Addr::LOCALHOST, 8080).into();
    clients.push(Client::connect(place.host.inside(), loopback).expect("connect"));
    let address = place.v4("db", "app-net");
    let before = place.host.rules();
    place.daemon.kill();
    let all_is_well = |clients: &mut Vec<Client>| {
        for client in clients {
            client.echo("still").expect("connections stay");
        }
        for address in Host::addresses() {
            reached(outside, (address, 8080), "web");
            reached(place.host.inside(), (address, 8080), "web");
        }
        reached(place.host.inside(), ([127, 0, 0, 1], 8080), "web");
        reached(place.host.inside(), (std::net::Ipv6Addr::LOCALHOST, 8080), "web");
        reached(&web.at, (address, 80), "db");
        assert_eq!(lookup(&web.at, "db", Record::A).addresses, [address]);
    };
    all_is_well(&mut clients);
    place.daemon.restart();
    all_is_well(&mut clients);
    assert_eq!(place.host.rules(), before, "a restart changes no rule");
    // A stop with good manners is the same.
    place.daemon.stop();
    all_is_well(&mut clients);
    place.daemon.restart();
    all_is_well(&mut clients);
    drop(db);
    place.ok("rm -f web db");
    place.ok("network rm app-net");
    place.daemon.assert_nothing_left();
}

#[test]
fn a_daemon_starts_beside_a_stuck_shim() {
    let mut place = Place::new();
    place.ok("network create app-net");
    let _web = place.server("web", 80, "--network app-net -p 8080:80 -p 8080:80/udp");
    let status = format!("/proc/{}/status", place.pid("web"));
    let status = std::fs::read_to_string(status).expect("it runs");
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    let shim = Pid::from_raw(shim.trim().parse().expect("a process"));
    place.daemon.kill();
    kill(shim, Signal::SIGSTOP).expect("stop the shim");
    let before = place.daemon.log().len();
    place.daemon.restart();
    // That is said when the shim is given up.
    let waited = place.daemon.log()[before..].contains("it takes too long");
    place.ok("run --rm --network app-net {image} true");
    reached(place.host.outside(), (Host::V4, 8080), "web");
    kill(shim, Signal::SIGCONT).expect("let it go on");
    assert!(!waited, "the daemon serves before that");
    // Who wants the container waits for it.
    place.ok("port rm web 8080:80 8080:80/udp");
    for address in Host::addresses() {
        unreachable(place.host.outside(), (address, 8080));
    }
}

#[test]
fn shims_hear_of_what_a_killed_daemon_has_changed() {
    let mut place = mortal();
    place.ok("network create one");
    place.ok("network create two");
    let ports = "-p 8080:80 -p 8080:80/udp -p 8081:80 -p 8081:80/udp";
    let web = place.server("web", 80, &format!("--network one --network two {ports}"));
    // The shim carries these.
    let relayed = |port: u16| SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    reached(place.host.inside(), relayed(8080), "web");
    cut(&mut place, HAND_OVER, "port rm web 8080:80 8080:80/udp");
    unreachable(place.host.inside(), relayed(8080));
    reached(place.host.inside(), relayed(8081), "web");
    place.ok("port add web 8080:80 8080:80/udp");
    // They led to its first network.
    let gone = place.addresses("web", "one");
    cut(&mut place, HAND_OVER, "network disconnect one web");
    for port in [8080, 8081] {
        reached(place.host.inside(), relayed(port), "web");
    }
    let hosts = place.shell("web", "cat /etc/hosts");
    for address in gone {
        assert!(!hosts.contains(&format!("{address}\t")), "{hosts}");
    }
    drop(web);
    place.ok("rm -f web");
    place.ok("network rm one two");
    place.daemon.assert_nothing_left();
}

#[test]
fn a_connect_that_was_cut_off_is_whole() {
    let mut place = mortal();
    place.ok("network create app-net");
    place.sleeper("db", "--network app-net");
    let db = place.v4("db", "app-net");
    for (name, point) in [("early", "make an interface, before"), ("late", HAND_OVER)] {
        let app = place.sleeper(name, "");
        cut(&mut place, point, &format!("network connect app-net {name}"));
        assert_eq!(lookup(&app, "db", Record::A).addresses, [db], "{point}");
        let own = place.v4(name, "app-net");
        assert_eq!(lookup(&app, name, Record::A).addresses, [own], "{point}");
        let text = place.shell(name, "cat /etc/resolv.conf");
        assert!(text.contains("nameserver 127.0.0.11"), "{point}: {text}");
        let hosts = place.shell(name, "cat /etc/hosts");
        assert!(hosts.contains(&format!("{own}\t")), "{point}: {hosts}");
    }
}

#[test]
fn what_ended_meanwhile_is_taken_away() {
    let mut place = Place::new();
    let before = place.traces();
    place.ok("network create --subnet 10.60.0.0/29 app-net");
    place.sleeper("web", "--network app-net --network-alias www -p 8080:80");
    let app = place.sleeper("app", "--network app-net");
    let address = place.v4("web", "app-net");
    let pid = Pid::from_raw(place.pid("web") as i32);
    place.daemon.kill();
    kill(pid, Signal::SIGKILL).expect("it runs");
    wait_for("its end", || kill(pid, None).is_err().then_some(()));
    place.daemon.restart();
    wait_for("the end to be known", || {
        (place.asked("{{.State.Status}}", "web") == "exited").then_some(())
    });
    wait_for("its name to go", || {
        lookup(&app, "www", Record::A).addresses.is_empty().then_some(())
    });
    unreachable(place.host.outside(), (Host::V4, 8080));
    // Its address and its port are free.
    place.ok(&format!("run --rm --network app-net --ip {address} -p 8080:80 {{image}} true"));
    place.ok("rm -f web app");
    place.ok("network rm app-net");
    place.assert_only(&before);
}

#[test]
fn addresses_are_not_lost_over_kills() {
    let mut place = Place::new();
    let before = place.traces();
    // Five of them are for containers.
    place.ok("network create --ipv6=false --subnet 10.61.0.0/29 small");
    for round in 0..12 {
        let line = ["run", "-d", "--rm", "--network", "small", "-p", "80", &place.image];
        let mut command = place.daemon.gantry_command(&line);
        let mut client = gantry_tests::start(command.args(["sleep", "3600"]));
        // In the middle, each time somewhere else.
        thread::sleep(Duration::from_millis(4 * round));
        place.daemon.kill();
        let _ = client.wait_within(Duration::from_secs(20));
        place.daemon.restart();
        let left = place.ok("ps -aq").replace('\n', " ");
        if !left.is_empty() {
            place.gantry(&format!("rm -f {left}"));
        }
    }
    for n in 0..5 {
        place.sleeper(&format!("c{n}"), "--network small");
    }
    place.refused("run --rm --network small {image} true", 125, &["small", "address"]);
    place.ok("rm -f c0 c1 c2 c3 c4");
    place.ok("network rm small");
    place.assert_only(&before);
}

#[test]
fn a_network_that_was_being_made_is_there_or_not() {
    let mut place = Place::new();
    let before = place.traces();
    for round in 0..10 {
        let mut command = place.daemon.gantry_command(&["network", "create", "cut"]);
        let mut client = gantry_tests::start(&mut command);
        thread::sleep(Duration::from_millis(round));
        place.daemon.kill();
        let _ = client.wait_within(Duration::from_secs(20));
        place.daemon.restart();
        if place.ok("network ls -q --filter name=cut").is_empty() {
            place.ok("network create cut");
        }
        place.ok("run --rm --network cut {image} true");
        place.ok("network rm cut");
        place.assert_only(&before);
    }
}
