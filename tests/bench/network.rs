//! Networks, side by side with Docker's: what a network and a published port add to a start, how
//! much gets through, and what many ports take. Each engine has a machine of its own in network
//! namespaces, with a client outside of it.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gantry_tests::leftovers::processes;
use gantry_tests::{Daemon, Dockerd, Host, Namespace, Options, Registry, run_within, wait_for};
use serde_json::Value;

use crate::report::Report;
use crate::{attempt, memory, settle, time};

/// Runs of each command and way.
const ROUNDS: usize = 20;
/// Containers at once.
const CROWD: usize = 32;
/// Measurements of each path, and how long one takes.
const TRANSFERS: usize = 5;
const SECONDS: u64 = 3;
/// Where iperf3 listens, and where it is published.
const PORT: u16 = 5201;
const PUBLISHED: u16 = 15201;
/// Published ports of one container.
const PORTS: u16 = 500;

/// An engine on a machine of its own.
enum Engine {
    Gantry(Box<Daemon>),
    Docker(Box<Dockerd>),
}

struct Side {
    name: &'static str,
    engine: Engine,
    host: Arc<Host>,
}

impl Side {
    fn gantry(registry: &Registry) -> Self {
        let host = machine(registry);
        let options =
            Options { host: Some(Arc::clone(&host)), in_service: true, ..Options::default() };
        Self { name: "gantry", engine: Engine::Gantry(Box::new(Daemon::with(options))), host }
    }

    fn docker(registry: &Registry) -> Self {
        let host = machine(registry);
        let engine = Engine::Docker(Box::new(Dockerd::on(&host)));
        Self { name: "docker", engine, host }
    }

    fn command(&self, line: &str) -> Command {
        let words: Vec<_> = line.split_whitespace().collect();
        match &self.engine {
            Engine::Gantry(daemon) => daemon.gantry_command(&words),
            Engine::Docker(server) => server.command(&words),
        }
    }

    fn ok(&self, line: &str) -> String {
        let output = run_within(&mut self.command(line), Duration::from_secs(300)).ok();
        output.text().to_owned()
    }

    /// The namespace of a container.
    fn inside(&self, name: &str) -> Namespace {
        let pid = self.ok(&format!("inspect --format {{{{.State.Pid}}}} {name}"));
        Namespace::of(pid.parse().expect("a process"))
    }

    fn address(&self, name: &str) -> IpAddr {
        let field = "{{.NetworkSettings.Networks.benchnet.IPAddress}}";
        self.ok(&format!("inspect --format {field} {name}")).parse().expect("an address")
    }

    /// Memory of all processes in its network that are no containers', in MB, and how many.
    fn weight(&self) -> (f64, usize) {
        let own = self.host.inside().number();
        let all = processes(|pid| {
            let namespace = std::fs::read_link(format!("/proc/{pid}/ns/net"));
            namespace.is_ok_and(|namespace| namespace.to_string_lossy() == own)
        });
        (all.iter().filter_map(|pid| memory::pss(*pid)).sum(), all.len())
    }
}

fn machine(registry: &Registry) -> Arc<Host> {
    let host = Host::new();
    host.reach(&registry.host());
    host
}

/// Measures gantry, and docker where it is installed and works.
pub(crate) fn measure(registry: &Registry, docker: bool, report: &mut Report) {
    registry.push("iperf3", "iperf3:latest");
    let mut sides = vec![Side::gantry(registry)];
    if docker {
        sides.push(Side::docker(registry));
    }
    let busybox = registry.reference("busybox:latest");
    let iperf3 = registry.reference("iperf3:latest");
    for side in &sides {
        side.ok(&format!("pull -q {busybox}"));
        side.ok(&format!("pull -q {iperf3}"));
    }
    starts(&sides, &busybox, report);
    crowds(&sides, &busybox, report);
    transfers(&sides, &iperf3, report);
    drop(sides);
    // What others had it do would count as memory that it gives back.
    let idle = Side::gantry(registry);
    idle.ok(&format!("pull -q {busybox}"));
    many_ports(&idle, &busybox, report);
}

/// What a network adds to a start.
fn starts(sides: &[Side], image: &str, report: &mut Report) {
    for (what, flags) in [
        ("no network", "--network none"),
        ("the default network", "--network bridge"),
        ("a published port", "--network bridge -p 8080:80"),
    ] {
        for (how, gap) in [("spaced by 100 ms", 100), ("back to back", 0)] {
            let mut times = vec![Vec::new(); sides.len()];
            for round in 0..ROUNDS + 2 {
                // In turn, so that a change of the machine's pace meets all alike.
                for (side, times) in sides.iter().zip(&mut times) {
                    if gap > 0 {
                        settle();
                        thread::sleep(Duration::from_millis(gap));
                    }
                    let taken = time(&mut side.command(&format!("run --rm {flags} {image} true")));
                    if round >= 2 {
                        times.push(taken);
                    }
                }
            }
            for (side, times) in sides.iter().zip(times) {
                report.add(
                    &format!("run --rm busybox true, {what}, {how}"),
                    side.name,
                    times,
                    "ms",
                );
            }
        }
    }
}

fn crowds(sides: &[Side], image: &str, report: &mut Report) {
    for side in sides {
        let mut times = Vec::new();
        let mut failed = 0;
        for _ in 0..3 {
            let begin = Instant::now();
            let line = format!("run --rm --network bridge -p 80 {image} true");
            failed += thread::scope(|scope| {
                let all: Vec<_> = (0..CROWD)
                    .map(|_| scope.spawn(|| attempt(&mut side.command(&line)).1))
                    .collect();
                all.into_iter()
                    .map(|one| one.join())
                    .filter(|end| !matches!(end, Ok(Some(0))))
                    .count()
            });
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        if failed > 0 {
            let all = 3 * CROWD;
            report.note(format!("{}: {failed} of {all} with a port failed", side.name));
        }
        report.add(&format!("{CROWD} at once with a published port"), side.name, times, "ms");
    }
}

/// How much gets through.
fn transfers(sides: &[Side], image: &str, report: &mut Report) {
    for side in sides {
        side.ok("network create benchnet");
        side.ok(&format!(
            "run -d --name server --network benchnet -p {PUBLISHED}:{PORT} {image} iperf3 -s"
        ));
        side.ok(&format!("run -d --name client --network benchnet {image} sleep 3600"));
        wait_for("iperf3", || {
            let client = side.inside("client");
            client.inside(|| std::net::TcpStream::connect((side.address("server"), PORT))).ok()
        });
    }
    let host: IpAddr = Host::V4.into();
    // The cable itself, without containers.
    let bare = |side: &Side| {
        let mut server = gantry_tests::start(
            &mut side.host.inside().command(&["iperf3", "-s", "-1", "-p", "7777"]),
        );
        thread::sleep(Duration::from_millis(300));
        let rate = rate(side.host.outside(), host, 7777);
        server.kill();
        rate
    };
    let mut rates = vec![vec![Vec::new(); 5]; sides.len()];
    for _ in 0..TRANSFERS {
        for (side, rates) in sides.iter().zip(&mut rates) {
            let (server, client) = (side.address("server"), side.inside("client"));
            let (inside, outside) = (side.host.inside(), side.host.outside());
            rates[0].push(rate(&client, server, PORT));
            rates[1].push(rate(inside, host, PUBLISHED));
            rates[2].push(rate(inside, [127, 0, 0, 1].into(), PUBLISHED));
            rates[3].push(rate(outside, host, PUBLISHED));
            rates[4].push(bare(side));
        }
    }
    let paths = [
        "iperf3, container to container",
        "iperf3, host to published port",
        "iperf3, host to published port by 127.0.0.1",
        "iperf3, outside to published port",
        "iperf3, outside to host without containers",
    ];
    for (side, rates) in sides.iter().zip(rates) {
        for (path, rates) in paths.iter().zip(rates) {
            report.add(path, side.name, rates, "Gbit/s");
        }
        side.ok("rm -f server client");
        side.ok("network rm benchnet");
    }
}

/// Gbit/s from a client to a server.
fn rate(from: &Namespace, to: IpAddr, port: u16) -> f64 {
    let (to, port, seconds) = (to.to_string(), port.to_string(), SECONDS.to_string());
    let words = ["iperf3", "-c", &to, "-p", &port, "-t", &seconds, "-J"];
    // It serves one at a time.
    let output = wait_for("a transfer", || {
        let output = run_within(&mut from.command(&words), Duration::from_secs(60));
        (output.code == 0).then_some(output)
    });
    let told: Value = serde_json::from_str(&output.stdout).expect("iperf3 tells JSON");
    let bits = told["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.expect("iperf3 tells what was received") / 1e9
}

/// What published ports take.
fn many_ports(side: &Side, image: &str, report: &mut Report) {
    side.ok(&format!("run -d --name first --network bridge -p 9000:80 {image} sleep 3600"));
    thread::sleep(Duration::from_secs(6));
    let (before, count) = side.weight();
    let last = 10_000 + PORTS - 1;
    let ports = format!("-p 10000-{last}:10000-{last}");
    let line = format!("run -d --name many --network bridge {ports} {image} sleep 3600");
    let taken = time(&mut side.command(&line));
    // An idle daemon gives memory back some seconds after its last work.
    thread::sleep(Duration::from_secs(6));
    let (after, now) = side.weight();
    let what = |what: &str| format!("{PORTS} published ports, {what}");
    report.add(&what("start"), side.name, vec![taken], "ms");
    report.add(&what("memory, the shim's own included"), side.name, vec![after - before], "MB");
    report.add(&what("processes"), side.name, vec![now as f64 - count as f64], "");
    side.ok("rm -f many first");
}
