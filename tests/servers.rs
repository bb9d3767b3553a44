//! Real programs in real images: PostgreSQL, nginx, Redis and Python.

use std::fs;
use std::io::{self, Write};
use std::process::Stdio;
use std::time::Duration;

use gantry_tests::{Daemon, Output, Registry, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The image of a server, in the shared registry.
fn server(kind: &str) -> String {
    let name = format!("{kind}:latest");
    Registry::shared().push(kind, &name);
    Registry::shared().reference(&name)
}

const NONE: [&str; 2] = ["--network", "none"];

fn postgres(daemon: &Daemon, image: &str) -> String {
    let flags = [
        "--name",
        "db",
        "-e",
        "POSTGRES_USER=admin",
        "-e",
        "POSTGRES_PASSWORD=secret",
        "-e",
        "POSTGRES_DB=myapp",
        "-v",
        "pgdata:/var/lib/postgresql/data",
    ];
    let id = daemon.gantry(&[&["run", "-d"], &NONE[..], &flags, &[image]].concat()).ok();
    wait_until_it_answers(daemon);
    id.text().to_owned()
}

fn sql(daemon: &Daemon, statement: &str) -> Output {
    daemon.gantry(&["exec", "db", "psql", "-U", "admin", "-d", "myapp", "-Atc", statement])
}

fn wait_until_it_answers(daemon: &Daemon) {
    wait_for("PostgreSQL", || (sql(daemon, "SELECT 1").code == 0).then_some(()));
}

fn pid_of(daemon: &Daemon, name: &str) -> Pid {
    let out = daemon.gantry(&["inspect", "--format", "{{.State.Pid}}", name]).ok();
    Pid::from_raw(out.text().parse().expect("a process"))
}

/// The shim of a container: the parent of its first process.
fn shim_of(daemon: &Daemon, name: &str) -> Pid {
    let status = fs::read_to_string(format!("/proc/{}/status", pid_of(daemon, name)));
    let status = status.expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    Pid::from_raw(parent.trim().parse().expect("a process"))
}

fn ended(daemon: &Daemon, name: &str) {
    wait_for("its end", || {
        let out = daemon.gantry(&["inspect", "--format", "{{.State.Status}}", name]).ok();
        (out.text() == "exited").then_some(())
    });
}

#[test]
fn postgresql_keeps_its_data_over_everything() {
    let mut daemon = Daemon::start();
    let image = server("postgres");
    postgres(&daemon, &image);
    sql(&daemon, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").ok();
    let more = |daemon: &Daemon, n: u32| {
        sql(daemon, &format!("INSERT INTO kept VALUES ({n})")).ok();
        assert_eq!(sql(daemon, "SELECT count(*) FROM kept").ok().text(), n.to_string());
    };
    // Removed, and made again.
    daemon.gantry(&["stop", "-t", "20", "db"]).ok();
    daemon.gantry(&["rm", "db"]).ok();
    postgres(&daemon, &image);
    more(&daemon, 2);
    // Its process is killed.
    kill(pid_of(&daemon, "db"), Signal::SIGKILL).expect("it runs");
    ended(&daemon, "db");
    daemon.gantry(&["start", "db"]).ok();
    wait_until_it_answers(&daemon);
    more(&daemon, 3);
    // Its shim is killed.
    kill(shim_of(&daemon, "db"), Signal::SIGKILL).expect("it runs");
    ended(&daemon, "db");
    daemon.gantry(&["start", "db"]).ok();
    wait_until_it_answers(&daemon);
    more(&daemon, 4);
    // The daemon is killed: it does not even notice.
    let before = pid_of(&daemon, "db");
    daemon.kill();
    daemon.restart();
    assert_eq!(pid_of(&daemon, "db"), before);
    more(&daemon, 5);
    daemon.gantry(&["rm", "-f", "db"]).ok();
    daemon.gantry(&["volume", "rm", "pgdata"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn postgresql_tells_its_health() {
    let daemon = Daemon::start();
    let image = server("postgres");
    let health = ["--health-cmd", "pg_isready -U admin -d myapp", "--health-interval", "200ms"];
    let flags =
        ["-e", "POSTGRES_USER=admin", "-e", "POSTGRES_PASSWORD=x", "-e", "POSTGRES_DB=myapp"];
    let line = [&["run", "-d", "--name", "db"], &NONE[..], &health, &flags, &[&image]].concat();
    daemon.gantry(&line).ok();
    wait_for("it to be healthy", || {
        daemon.gantry(&["ps"]).ok().stdout.contains("(healthy)").then_some(())
    });
    let version = ["exec", "db", "psql", "-U", "admin", "-d", "myapp", "-c", "SELECT version();"];
    assert!(daemon.gantry(&version).ok().stdout.contains("PostgreSQL 15"));
    let logs = daemon.gantry(&["logs", "--tail", "20", "db"]).ok();
    assert!(logs.stderr.contains("ready to accept connections"), "{}", logs.stderr);
}

#[test]
fn nginx_serves_what_is_bound_into_it() {
    let daemon = Daemon::start();
    let image = server("nginx");
    let site = daemon.scratch().join("site");
    fs::create_dir(&site).expect("make a directory");
    fs::write(site.join("index.html"), "hello from the host\n").expect("write a page");
    let bind = format!("{}:/var/www/html:ro", site.display());
    let flags = ["--name", "web", "-v", &bind];
    daemon.gantry(&[&["run", "-d"], &NONE[..], &flags, &[&image]].concat()).ok();
    let get = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let page = wait_for("a page", || {
        let out = daemon.gantry(&["exec", "web", "bash", "-c", get]);
        out.stdout.contains("200 OK").then_some(out.stdout)
    });
    assert!(page.ends_with("hello from the host\n"), "{page}");
    wait_for("the access to be logged", || {
        daemon.gantry(&["logs", "web"]).stdout.contains("GET / HTTP/1.0").then_some(())
    });
    let top = daemon.gantry(&["top", "web"]).ok();
    assert!(top.stdout.contains("nginx: worker process"), "{}", top.stdout);
    // Its image says SIGQUIT, by which nginx ends well.
    daemon.gantry(&["stop", "web"]).ok();
    let code = daemon.gantry(&["inspect", "--format", "{{.State.ExitCode}}", "web"]).ok();
    assert_eq!(code.text(), "0");
}

#[test]
fn redis_keeps_its_data_in_its_images_volume() {
    let daemon = Daemon::start();
    let image = server("redis");
    daemon.gantry(&[&["run", "-d", "--name", "cache"], &NONE[..], &[&image]].concat()).ok();
    let redis = |line: &[&str]| daemon.gantry(&[&["exec", "cache", "redis-cli"], line].concat());
    wait_for("Redis", || (redis(&["ping"]).text() == "PONG").then_some(()));
    redis(&["set", "k", "v"]).ok();
    daemon.gantry(&["restart", "cache"]).ok();
    wait_for("Redis", || (redis(&["ping"]).text() == "PONG").then_some(()));
    assert_eq!(redis(&["get", "k"]).ok().text(), "v");
    let mounts = "{{range .Mounts}}{{.Type}} {{.Destination}}{{end}}";
    let mounts = daemon.gantry(&["inspect", "--format", mounts, "cache"]).ok();
    assert_eq!(mounts.text(), "volume /data");
    daemon.gantry(&["rm", "-f", "-v", "cache"]).ok();
    assert_eq!(daemon.gantry(&["volume", "ls", "-q"]).ok().text(), "");
}

#[test]
fn python_runs_scripts_from_standard_input() {
    let daemon = Daemon::start();
    let image = server("python");
    let line = [&["run", "--rm"], &NONE[..], &[&image, "python3", "-c", "print(6 * 7)"]].concat();
    assert_eq!(daemon.gantry(&line).ok().text(), "42");
    let script = daemon.scratch().join("script.py");
    fs::write(&script, "import sys\nprint(len(sys.stdin.read()))\n").expect("write a script");
    let bind = format!("{}:/script.py:ro", script.display());
    let mut command = daemon.gantry_command(
        &[&["run", "-i", "--rm"], &NONE[..], &["-v", &bind, &image, "python3", "/script.py"]]
            .concat(),
    );
    let mut child = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    child.stdin.take().expect("it is piped").write_all(&[b'x'; 100_000]).expect("write");
    let said = io::read_to_string(child.stdout.take().expect("it is piped")).expect("its output");
    assert_eq!((said.as_str(), child.wait_within(Duration::from_secs(20))), ("100000\n", Some(0)));
}
