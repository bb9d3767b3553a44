//! Containers in networks, on a host in namespaces of its own, with clients outside of it. The
//! machine's own network is never touched.

mod addresses;
mod crowd;
mod drivers;
mod explain;
mod families;
mod files;
mod isolation;
mod kills;
mod lists;
mod live;
mod names;
mod published;
mod repair;
mod rounds;
mod servers;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_tests::names::{Answer, Record, ask};
use gantry_tests::peers::{Server, ask_tcp, ask_udp};
use gantry_tests::{Daemon, Host, Namespace, Options, Output, Registry, wait_for};
use serde_json::Value;

/// A host, its daemon, and an image.
struct Place {
    daemon: Daemon,
    host: Arc<Host>,
    image: String,
}

impl Place {
    fn new() -> Self {
        Self::with("")
    }

    /// One whose daemon has further configuration.
    fn with(config: &str) -> Self {
        Self::on(Host::with_registry(), config)
    }

    /// One on a host that is there.
    fn on(host: Arc<Host>, config: &str) -> Self {
        let options = Options {
            host: Some(Arc::clone(&host)),
            config: config.to_owned(),
            ..Options::default()
        };
        let daemon = Daemon::with(options);
        let image = daemon.busybox();
        Self { daemon, host, image }
    }

    /// Runs `gantry` with a line of words, of which `{image}` stands for the image.
    fn gantry(&self, line: &str) -> Output {
        let words = line.split_whitespace();
        let words: Vec<_> =
            words.map(|word| if word == "{image}" { &*self.image } else { word }).collect();
        self.daemon.gantry(&words)
    }

    /// What a line that succeeds prints.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.gantry(line).ok().text().to_owned()
    }

    /// Sees that a line is refused, and why.
    #[track_caller]
    fn refused(&self, line: &str, code: i32, said: &[&str]) {
        let output = self.gantry(line).exits(code);
        for said in said {
            assert!(output.stderr.contains(said), "{line}: {:?} lacks {said:?}", output.stderr);
        }
    }

    /// Starts a container that sleeps; where it is.
    #[track_caller]
    fn sleeper(&self, name: &str, flags: &str) -> Namespace {
        self.ok(&format!("run -d --name {name} {flags} {{image}} sleep 3600"));
        self.inside(name)
    }

    /// Starts a container with servers on a port of both protocols; they say its name.
    #[track_caller]
    fn server(&self, name: &str, port: u16, flags: &str) -> Serving {
        let at = self.sleeper(name, flags);
        let (tcp, udp) = (Server::tcp(&at, port, name), Server::udp(&at, port, name));
        Serving { at, _servers: [tcp, udp] }
    }

    /// Where a container is.
    #[track_caller]
    fn inside(&self, name: &str) -> Namespace {
        Namespace::of(self.pid(name))
    }

    #[track_caller]
    fn pid(&self, name: &str) -> u32 {
        self.asked("{{.State.Pid}}", name).parse().expect("a process")
    }

    /// What is known of a container, by a template.
    #[track_caller]
    fn asked(&self, format: &str, name: &str) -> String {
        self.daemon.gantry(&["inspect", "--format", format, name]).ok().text().to_owned()
    }

    /// What a shell in a container prints.
    #[track_caller]
    fn shell(&self, name: &str, script: &str) -> String {
        self.daemon.gantry(&["exec", name, "sh", "-c", script]).ok().text().to_owned()
    }

    /// All that is known of a container or a network.
    #[track_caller]
    fn inspect(&self, line: &str) -> Value {
        let mut all: Value = serde_json::from_str(&self.ok(line)).expect("JSON");
        all[0].take()
    }

    /// Addresses of a container in a network.
    #[track_caller]
    fn addresses(&self, name: &str, network: &str) -> Vec<IpAddr> {
        let container = self.inspect(&format!("container inspect {name}"));
        let endpoint = &container["NetworkSettings"]["Networks"][network];
        let address = |field: &str| endpoint[field].as_str().and_then(|text| text.parse().ok());
        ["IPAddress", "GlobalIPv6Address"].into_iter().filter_map(address).collect()
    }

    /// The IPv4 address of a container in a network.
    #[track_caller]
    fn v4(&self, name: &str, network: &str) -> IpAddr {
        let all = self.addresses(name, network);
        all.into_iter().find(IpAddr::is_ipv4).expect("an IPv4 address")
    }

    /// The IPv6 address of a container in a network.
    #[track_caller]
    fn v6(&self, name: &str, network: &str) -> IpAddr {
        let all = self.addresses(name, network);
        all.into_iter().find(IpAddr::is_ipv6).expect("an IPv6 address")
    }

    /// The interface of a network on the host.
    #[track_caller]
    fn interface(&self, network: &str) -> String {
        let known = self.inspect(&format!("network inspect {network}"));
        let named = known["Options"]["com.docker.network.bridge.name"].as_str();
        named.map_or_else(
            || format!("br-{}", &known["Id"].as_str().expect("an ID")[..12]),
            str::to_owned,
        )
    }

    /// What is in the host's network once the default bridge is there and nothing uses it.
    fn traces(&self) -> BTreeSet<String> {
        self.ok("run --rm -p 80 --network bridge {image} true");
        let mut last = self.host.traces();
        wait_for("the host's network to settle", || {
            std::thread::sleep(Duration::from_millis(200));
            let before = std::mem::replace(&mut last, self.host.traces());
            let busy = last.iter().any(|line| line.starts_with("link veth"));
            (before == last && !busy).then_some(())
        });
        last
    }

    /// Fails unless everything is as it was, once containers and networks are gone.
    #[track_caller]
    fn assert_only(&self, before: &BTreeSet<String>) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let now = self.host.traces();
            if now == *before {
                break;
            }
            let (more, less) = (now.difference(before), before.difference(&now));
            let said = format!(
                "{:#?}\nis gone: {:#?}",
                more.collect::<Vec<_>>(),
                less.collect::<Vec<_>>()
            );
            assert!(Instant::now() < limit, "left over: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemon.assert_nothing_left();
    }
}

/// A container with servers in it.
struct Serving {
    at: Namespace,
    _servers: [Server; 2],
}

/// Protocols of servers.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    Udp,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// What a server says.
    fn ask(self, from: &Namespace, to: SocketAddr) -> std::io::Result<String> {
        match self {
            Self::Tcp => ask_tcp(from, to),
            Self::Udp => ask_udp(from, to),
        }
    }
}

/// Sees that a server is reached, and who it says it is.
#[track_caller]
fn reached(from: &Namespace, to: impl Into<SocketAddr>, name: &str) -> String {
    let to = to.into();
    let mut peer = String::new();
    for way in Way::BOTH {
        let said = way.ask(from, to).unwrap_or_else(|err| panic!("{way:?} to {to}: {err}"));
        let (who, seen) = said.split_once(' ').expect("a name and an address");
        assert_eq!(who, name, "{way:?} to {to}");
        peer = seen.to_owned();
    }
    peer
}

/// Sees that a server is not reached.
#[track_caller]
fn unreachable(from: &Namespace, to: impl Into<SocketAddr>) {
    let to = to.into();
    for way in Way::BOTH {
        let said = way.ask(from, to);
        assert!(said.is_err(), "{way:?} to {to} is answered: {said:?}");
    }
}

/// The resolver of a container.
fn resolver() -> SocketAddr {
    ([127, 0, 0, 11], 53).into()
}

/// What a container's resolver answers.
#[track_caller]
fn lookup(from: &Namespace, name: &str, record: Record) -> Answer {
    let answer = from.inside(|| ask(resolver(), name, record));
    answer.unwrap_or_else(|err| panic!("{record:?} of {name}: {err}"))
}

/// How long something takes to be so, within a limit.
#[track_caller]
fn within(limit: Duration, what: &str, mut look: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !look() {
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begin.elapsed()
}

/// The image of a server, in the shared registry.
fn server_image(kind: &str) -> String {
    let name = format!("{kind}:latest");
    Registry::shared().push(kind, &name);
    Registry::shared().reference(&name)
}
