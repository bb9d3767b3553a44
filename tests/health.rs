//! Health checks: commands, HTTP, TCP and gRPC, and what follows from them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_core::tasks::PROBE;
use gantry_core::{Digest, Timestamp};
use gantry_grpc::gantry::engine::v1::containers_client::ContainersClient;
use gantry_grpc::gantry::engine::v1::events_client::EventsClient;
use gantry_grpc::gantry::engine::v1::subscribe_request::Since;
use gantry_grpc::gantry::engine::v1::{
    ContainerAction as Action, HealthStatus, SubscribeRequest, WatchContainersRequest,
};
use gantry_tests::{Daemon, Output, Registry, endpoint, image, run, wait_for};
use serde_json::{Value, json};
use tonic::transport::Channel;

/// Answers on a port of the container's loopback: HTTP or gRPC, badly while /sick is there.
const SERVER: &str = r#"
import os, socket, sys
kind, port = sys.argv[1], int(sys.argv[2])
sick = lambda: os.path.exists("/sick")

def http(c):
    c.recv(65536)
    status = b"503 Out of order" if sick() else b"200 OK"
    c.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nbody")

def read(c, n):
    data = b""
    while len(data) < n:
        more = c.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data

def frame(kind, flags, stream, payload):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload

def header(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

def grpc(c):
    read(c, 24)
    c.sendall(frame(4, 0, 0, b""))
    while True:
        head = read(c, 9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big")
        payload = read(c, length)
        if kind == 4 and not flags & 1:
            c.sendall(frame(4, 1, 0, b""))
        elif kind == 6 and not flags & 1:
            c.sendall(frame(6, 1, 0, payload))
        elif kind in (0, 1) and flags & 1:
            body = bytes([8, 2 if sick() else 1])
            c.sendall(
                frame(1, 4, stream, b"\x88" + header(b"content-type", b"application/grpc"))
                + frame(0, 0, stream, b"\0" + len(body).to_bytes(4, "big") + body)
                + frame(1, 5, stream, header(b"grpc-status", b"0")))

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
listener.listen(16)
while True:
    connection = listener.accept()[0]
    try:
        {"http": http, "grpc": grpc}[kind](connection)
    except (EOFError, OSError):
        pass
    connection.close()
"#;

/// Often, and soon taken for bad.
const QUICK: [&str; 4] = ["--health-interval", "200ms", "--health-retries", "2"];

/// Starts a detached container without a network of others.
#[track_caller]
fn detached(daemon: &Daemon, image: &str, flags: &[&str], command: &[&str]) {
    let line = [&["run", "-d", "--network", "none"], flags, &[image], command].concat();
    daemon.gantry(&line).ok();
}

fn inspect(daemon: &Daemon, name: &str) -> Value {
    let out = daemon.gantry(&["inspect", name]).ok();
    let all: Value = serde_json::from_str(&out.stdout).expect("JSON");
    all[0].clone()
}

fn health(daemon: &Daemon, name: &str) -> Value {
    inspect(daemon, name)["State"]["Health"].clone()
}

#[track_caller]
fn wait_for_health(daemon: &Daemon, name: &str, wanted: &str) -> Value {
    wait_for(&format!("{name} to be {wanted}"), || {
        let health = health(daemon, name);
        (health["Status"] == wanted).then_some(health)
    })
}

/// The last result of which there is one like this.
#[track_caller]
fn wait_for_result(daemon: &Daemon, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("a result of {name}"), || {
        let log = health(daemon, name)["Log"].as_array().cloned().unwrap_or_default();
        log.into_iter().rev().find(&wanted)
    })
}

/// The line of `ps` about a container.
fn row(daemon: &Daemon, name: &str) -> String {
    let ps = daemon.gantry(&["ps", "-a"]).ok();
    let row = ps.lines().into_iter().find(|line| line.ends_with(name)).map(str::to_owned);
    row.unwrap_or_else(|| panic!("{name} is not in\n{}", ps.stdout))
}

fn touch(daemon: &Daemon, name: &str, path: &str) {
    daemon.gantry(&["exec", name, "touch", path]).ok();
}

fn remove(daemon: &Daemon, name: &str, path: &str) {
    daemon.gantry(&["exec", name, "rm", "-f", path]).ok();
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(words), "{:?} lacks {words:?}", output.stderr);
}

#[test]
fn a_command_tells_the_health() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let flags = ["--name", "c", "--health-cmd", "echo looked; test -e /well"];
    let starting = ["--health-start-period", "1h", "--health-start-interval", "200ms"];
    let flags = [&flags[..], &starting, &QUICK].concat();
    detached(&daemon, &image, &flags, &["sleep", "600"]);
    assert!(row(&daemon, "c").contains("(health: starting)"));
    let bad = wait_for_result(&daemon, "c", |result| result["ExitCode"] == 1);
    assert_eq!(bad["Output"], "looked\n");
    let starting = health(&daemon, "c");
    assert_eq!((&starting["Status"], &starting["FailingStreak"]), (&json!("starting"), &json!(0)));
    touch(&daemon, "c", "/well");
    wait_for_health(&daemon, "c", "healthy");
    let ps = row(&daemon, "c");
    assert!(ps.contains("Up ") && ps.contains("(healthy)"), "{ps}");
    assert_eq!(daemon.gantry(&["ps", "-q", "--filter", "health=healthy"]).ok().lines().len(), 1);
    assert_eq!(daemon.gantry(&["ps", "-q", "--filter", "health=unhealthy"]).ok().text(), "");
    remove(&daemon, "c", "/well");
    let bad = wait_for_health(&daemon, "c", "unhealthy");
    assert!(bad["FailingStreak"].as_u64() >= Some(2), "{bad}");
    assert!(row(&daemon, "c").contains("(unhealthy)"));
    wait_for("five results", || {
        (health(&daemon, "c")["Log"].as_array().map(Vec::len) == Some(5)).then_some(())
    });
    let config = inspect(&daemon, "c")["Config"]["Healthcheck"].clone();
    assert_eq!(config["Test"], json!(["CMD-SHELL", "echo looked; test -e /well"]));
    assert_eq!((&config["Interval"], &config["Retries"]), (&json!(200_000_000), &json!(2)));
    daemon.gantry(&["stop", "-t", "0", "c"]).ok();
    assert!(!row(&daemon, "c").contains("healthy"));
    assert_eq!(health(&daemon, "c")["Status"], "unhealthy");
    // The next run begins anew.
    daemon.gantry(&["start", "c"]).ok();
    assert_eq!(health(&daemon, "c")["Status"], "starting");
    touch(&daemon, "c", "/well");
    wait_for_health(&daemon, "c", "healthy");
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_command_that_cannot_run_is_told_of() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let flags = [&["--name", "c", "--health-cmd", "nope"][..], &QUICK].concat();
    detached(&daemon, &image, &flags, &["sleep", "600"]);
    let bad = wait_for_health(&daemon, "c", "unhealthy");
    assert_eq!(bad["Log"][0]["ExitCode"], 127, "the shell says so: {bad}");
    assert!(bad["Log"][0]["Output"].as_str().is_some_and(|o| o.contains("not found")), "{bad}");
}

#[test]
fn a_check_that_hangs_is_ended_with_what_it_started() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let hang =
        ["--health-cmd", "echo in; sleep 777 & sleep 778; true", "--health-timeout", "300ms"];
    let flags = [&["--name", "c"][..], &hang, &QUICK].concat();
    detached(&daemon, &image, &flags, &["sleep", "600"]);
    let bad = wait_for_health(&daemon, "c", "unhealthy");
    let result = &bad["Log"][0];
    assert_eq!(result["ExitCode"], -1, "{bad}");
    assert_eq!(result["Output"], "Health check exceeded timeout (300ms): in\n");
    wait_for("five results", || {
        (health(&daemon, "c")["Log"].as_array().map(Vec::len) == Some(5)).then_some(())
    });
    // Those of the check that runs now, at most.
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null; true";
    let ps = daemon.gantry(&["exec", "c", "sh", "-c", look]).ok().stdout;
    let hanging = ps.matches("sleep\u{0}777").count() + ps.matches("sleep\u{0}778").count();
    assert!(hanging <= 2, "{hanging} processes of checks: {ps:?}");
    let begun = Instant::now();
    daemon.gantry(&["ps"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(2), "nobody waits for a check");
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn probes_from_inside_the_network() {
    let daemon = Daemon::start();
    let debian = Registry::shared().reference("debian:latest");
    daemon.gantry(&["pull", "-q", &debian]).ok();
    let server = |kind, port| ["python3", "-c", SERVER, kind, port];
    let probe = |name, flag, target| [&["--name", name, flag, target][..], &QUICK].concat();
    let http = probe("http", "--health-http", "http://localhost:8080/health?deep=1");
    detached(&daemon, &debian, &http, &server("http", "8080"));
    let grpc = probe("grpc", "--health-grpc", "localhost:50051/some.Service");
    detached(&daemon, &debian, &grpc, &server("grpc", "50051"));
    let tcp = probe("tcp", "--health-tcp", "127.0.0.1:8080");
    detached(&daemon, &debian, &tcp, &server("http", "8080"));
    let dead = probe("dead", "--health-tcp", "127.0.0.1:8081");
    detached(&daemon, &debian, &dead, &server("http", "8080"));
    let last = |health: Value| {
        let log = health["Log"].as_array().cloned().expect("a log");
        log.last().expect("a result")["Output"].as_str().expect("text").to_owned()
    };
    for (name, words) in [("http", "HTTP/1.1 200 OK"), ("grpc", "SERVING"), ("tcp", "")] {
        assert_eq!(last(wait_for_health(&daemon, name, "healthy")), words, "{name}");
    }
    let refused = last(wait_for_health(&daemon, "dead", "unhealthy"));
    assert!(refused.contains("connect to 127.0.0.1:8081: Connection refused"), "{refused}");
    for (name, words) in [("http", "HTTP/1.1 503 Out of order"), ("grpc", "NOT_SERVING")] {
        touch(&daemon, name, "/sick");
        let said = last(wait_for_health(&daemon, name, "unhealthy"));
        assert!(said.starts_with(words), "{name}: {said}");
        remove(&daemon, name, "/sick");
        wait_for_health(&daemon, name, "healthy");
    }
    // The host's network is another one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = listener.local_addr().expect("an address").to_string();
    detached(&daemon, &debian, &probe("host", "--health-tcp", &here), &["sleep", "600"]);
    wait_for_health(&daemon, "host", "unhealthy");
    daemon.gantry(&["rm", "-f", "http", "grpc", "tcp", "dead", "host"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let create = |flags: &[&str]| {
        let line = [&["create", "--network", "none"], flags, &[image.as_str(), "true"]].concat();
        daemon.gantry(&line)
    };
    refused(&create(&["--health-http", "https://localhost/"]), "https is not supported");
    refused(&create(&["--health-http", "http://example.com/"]), "not looked up");
    refused(&create(&["--health-tcp", "localhost"]), "HOST:PORT");
    refused(&create(&["--health-grpc", "db:50051"]), "not looked up");
    refused(&create(&["--health-cmd", "x", "--health-interval", "1us"]), "less than 1ms");
    refused(&create(&["--health-on-failure", "stop"]), "without a health check");
    assert_eq!(daemon.gantry(&["ps", "-aq"]).ok().text(), "", "nothing was made");
}

#[test]
fn a_failed_check_restarts_stops_or_kills() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    // What is written there goes with the run.
    let check = ["--health-cmd", "test ! -e /dev/shm/sick", "--stop-signal", "SIGKILL"];
    for (name, policy) in [("restart", "no"), ("stop", "always"), ("kill", "no")] {
        let flags = ["--name", name, "--health-on-failure", name, "--restart", policy];
        let flags = [&flags[..], &check, &QUICK].concat();
        detached(&daemon, &image, &flags, &["sleep", "600"]);
        wait_for_health(&daemon, name, "healthy");
    }
    let begun = inspect(&daemon, "restart")["State"]["StartedAt"].clone();
    for name in ["restart", "stop", "kill"] {
        touch(&daemon, name, "/dev/shm/sick");
    }
    for name in ["stop", "kill"] {
        wait_for(&format!("the end of {name}"), || {
            (inspect(&daemon, name)["State"]["Status"] == "exited").then_some(())
        });
        assert_eq!(inspect(&daemon, name)["State"]["ExitCode"], 137);
    }
    wait_for("a restart", || {
        (inspect(&daemon, "restart")["State"]["StartedAt"] != begun).then_some(())
    });
    wait_for_health(&daemon, "restart", "healthy");
    daemon.gantry(&["rm", "-f", "restart", "stop", "kill"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn restarts_that_do_not_help_become_rare() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let flags = ["--name", "c", "--health-cmd", "false", "--health-on-failure", "restart"];
    let often = ["--health-interval", "100ms", "--health-retries", "1", "--stop-signal", "KILL"];
    let command = ["sh", "-c", "echo go; exec sleep 600"];
    detached(&daemon, &image, &[&flags[..], &often].concat(), &command);
    let times: Vec<i128> = wait_for("four restarts", || {
        let logs = daemon.gantry(&["logs", "-t", "c"]).ok();
        let times = logs.lines().into_iter().filter_map(|line| line.split(' ').next());
        let times: Vec<_> = times.filter_map(Timestamp::parse_rfc3339).collect();
        (times.len() > 4).then(|| times.into_iter().map(Timestamp::unix_nanos).collect())
    });
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    for (gap, delay) in gaps.iter().zip([100, 200, 400, 800]) {
        assert!(*gap >= delay, "{gaps:?} ms");
    }
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

/// Replaces the blob that a descriptor leads to.
fn replace(layout: &Path, descriptor: &mut Value, change: impl FnOnce(&mut Value)) {
    let blob =
        |digest: &str| layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let old = fs::read(blob(descriptor["digest"].as_str().expect("a digest"))).expect("a blob");
    let mut value: Value = serde_json::from_slice(&old).expect("JSON");
    change(&mut value);
    let new = serde_json::to_vec(&value).expect("JSON");
    let digest = Digest::of(&new).to_string();
    fs::write(blob(&digest), &new).expect("write a blob");
    descriptor["digest"] = json!(digest);
    descriptor["size"] = json!(new.len());
}

/// An image whose configuration has a health check, as `docker build` writes it.
fn checked_image(daemon: &Daemon, name: &str, healthcheck: Value) -> String {
    let layout = daemon.scratch().join(name);
    run(Command::new("cp").arg("-a").arg(image("busybox")).arg(&layout)).ok();
    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    replace(&layout, &mut index["manifests"][0], |manifest| {
        replace(&layout, &mut manifest["config"], |config| {
            config["config"]["Healthcheck"] = healthcheck;
        });
    });
    fs::write(&path, index.to_string()).expect("write the index");
    let name = format!("{name}:latest");
    Registry::shared().push_layout(&layout, &name);
    Registry::shared().reference(&name)
}

#[test]
fn an_image_says_how_it_is_checked() {
    let daemon = Daemon::start();
    let check = json!({
        "Test": ["CMD", "test", "-e", "/well"],
        "Interval": 200_000_000,
        "Retries": 1,
        "StartPeriod": 0,
    });
    let image = checked_image(&daemon, "checked", check);
    detached(&daemon, &image, &["--name", "c"], &["sleep", "600"]);
    wait_for_health(&daemon, "c", "unhealthy");
    touch(&daemon, "c", "/well");
    wait_for_health(&daemon, "c", "healthy");
    // The rest of the image's check stays.
    let own = ["--name", "own", "--health-cmd", "true", "--health-timeout", "5s"];
    detached(&daemon, &image, &own, &["sleep", "600"]);
    wait_for_health(&daemon, "own", "healthy");
    let config = inspect(&daemon, "own")["Config"]["Healthcheck"].clone();
    assert_eq!(config["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!((&config["Interval"], &config["Retries"]), (&json!(200_000_000), &json!(1)));
    detached(&daemon, &image, &["--name", "no", "--no-healthcheck"], &["sleep", "600"]);
    assert!(!row(&daemon, "no").contains("health"));
    assert_eq!(health(&daemon, "no"), Value::Null);
    let odd = checked_image(&daemon, "odd", json!({"Test": ["WHATEVER", "x"], "Interval": -5}));
    detached(&daemon, &odd, &["--name", "odd"], &["sleep", "600"]);
    assert_eq!(health(&daemon, "odd"), Value::Null);
    daemon.gantry(&["rm", "-f", "c", "own", "no", "odd"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn health_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    let check = [&["--health-cmd", "test -e /well"][..], &QUICK].concat();
    for name in ["well", "sick"] {
        let flags = [&["--name", name][..], &check].concat();
        let script = "touch /well; exec sleep 600";
        detached(&daemon, &image, &flags, &["sh", "-c", script]);
        wait_for_health(&daemon, name, "healthy");
    }
    remove(&daemon, "sick", "/well");
    let before = wait_for_health(&daemon, "sick", "unhealthy");
    for _ in 0..2 {
        daemon.kill();
        daemon.restart();
        assert!(row(&daemon, "well").contains("(healthy)"));
        let after = health(&daemon, "sick");
        assert_eq!(after["Status"], "unhealthy");
        assert!(after["FailingStreak"].as_u64() >= Some(2), "{after}");
        assert!(!after["Log"].as_array().expect("a log").is_empty(), "{before} {after}");
    }
    // The checks go on.
    touch(&daemon, "sick", "/well");
    wait_for_health(&daemon, "sick", "healthy");
    remove(&daemon, "well", "/well");
    wait_for_health(&daemon, "well", "unhealthy");
    daemon.gantry(&["rm", "-f", "well", "sick"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn who_is_paused_is_left_alone() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let flags = ["--name", "c", "--health-cmd", "true", "--health-interval", "100ms"];
    let strict = ["--health-retries", "1", "--health-timeout", "300ms"];
    detached(&daemon, &image, &[&flags[..], &strict].concat(), &["sleep", "600"]);
    wait_for_health(&daemon, "c", "healthy");
    daemon.gantry(&["pause", "c"]).ok();
    let paused = Timestamp::now();
    // Several checks would have come and failed.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(health(&daemon, "c")["Status"], "healthy");
    assert!(row(&daemon, "c").contains("(Paused)"));
    let unpaused = Timestamp::now();
    daemon.gantry(&["unpause", "c"]).ok();
    let start = |result: &Value| {
        let start = result["Start"].as_str().and_then(Timestamp::parse_rfc3339);
        start.expect("a time")
    };
    let next = wait_for_result(&daemon, "c", |result| start(result) > unpaused);
    assert_eq!(next["ExitCode"], 0);
    let after = health(&daemon, "c");
    assert_eq!(after["Status"], "healthy");
    let log = after["Log"].as_array().expect("a log");
    let meanwhile = |result: &&Value| {
        let late = paused.unix_nanos() + 500_000_000;
        (late..unpaused.unix_nanos()).contains(&start(result).unix_nanos())
    };
    assert_eq!(log.iter().filter(meanwhile).count(), 0, "{after}");
}

async fn connect(daemon: &Daemon) -> Channel {
    endpoint(&daemon.address()).connect().await.expect("the daemon serves")
}

#[tokio::test]
async fn checks_are_told_of_and_are_no_history() {
    let daemon = Daemon::start();
    let mut client = EventsClient::new(connect(&daemon).await);
    let filters = vec!["topic==\"/tasks/exec-started\"".to_owned()];
    let started = SubscribeRequest { filters, ..SubscribeRequest::default() };
    let live = client.subscribe(started.clone()).await;
    let mut live = live.expect("events").into_inner();
    let told = tokio::task::spawn_blocking(move || {
        let image = daemon.busybox();
        let flags = [&["--name", "c", "--health-cmd", "true"][..], &QUICK].concat();
        detached(&daemon, &image, &flags, &["sleep", "600"]);
        wait_for("three results", || {
            (health(&daemon, "c")["Log"].as_array().map(Vec::len) >= Some(3)).then_some(())
        });
        daemon.gantry(&["exec", "c", "true"]).ok();
        daemon.gantry(&["rm", "-f", "c"]).ok();
        daemon
    });
    let daemon = told.await.expect("the story ends");
    let mut checks = 0;
    let own = loop {
        let event = live.message().await.expect("an event").expect("there is more");
        let id = event.attributes["exec_id"].clone();
        if !id.ends_with(PROBE) {
            break id;
        }
        checks += 1;
    };
    assert!(checks >= 3, "{checks} were told");
    let request = SubscribeRequest {
        since: Some(Since::Time(prost_types::Timestamp { seconds: 0, nanos: 1 })),
        until: Some(gantry_grpc::convert::timestamp(Timestamp::now())),
        ..started
    };
    let mut kept = client.subscribe(request).await.expect("events").into_inner();
    let mut ids = Vec::new();
    while let Some(event) = kept.message().await.expect("an event") {
        ids.push(event.attributes["exec_id"].clone());
    }
    assert_eq!(ids, [own]);
    daemon.assert_nothing_left();
}

#[tokio::test]
async fn changes_of_health_are_told_once() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut client = ContainersClient::new(connect(&daemon).await);
    let watch = client.watch(WatchContainersRequest::default()).await;
    let mut changes = watch.expect("changes").into_inner();
    let told = tokio::task::spawn_blocking(move || {
        let flags = [&["--name", "c", "--health-cmd", "test -e /well"][..], &QUICK].concat();
        detached(&daemon, &image, &flags, &["sh", "-c", "touch /well; exec sleep 600"]);
        wait_for_health(&daemon, "c", "healthy");
        remove(&daemon, "c", "/well");
        wait_for_health(&daemon, "c", "unhealthy");
        daemon.gantry(&["rm", "-f", "c"]).ok();
        daemon
    });
    let daemon = told.await.expect("the story ends");
    let mut actions = Vec::new();
    while actions.last().is_none_or(|(action, _)| *action != Action::Removed) {
        let change = changes.message().await.expect("a change").expect("there is more");
        let health = change.container.as_ref().map(|c| c.health()).unwrap_or_default();
        actions.push((change.action(), health));
    }
    actions.retain(|(action, _)| *action != Action::Updated);
    let expected = [
        (Action::Created, HealthStatus::None),
        (Action::Started, HealthStatus::Starting),
        (Action::Healthy, HealthStatus::Healthy),
        (Action::Unhealthy, HealthStatus::Unhealthy),
        (Action::Died, HealthStatus::Unhealthy),
        (Action::Removed, HealthStatus::Unhealthy),
    ];
    assert_eq!(actions, expected);
    daemon.assert_nothing_left();
}
