//! Names, the first process, its end, and what a caller sees of it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use gantry_tests::{Terminal, run, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Place;

/// Says that it is there, and ends by a signal with a code.
fn trap(signal: &str, code: u8) -> String {
    format!("trap 'exit {code}' {signal}; echo up; while :; do sleep 0.05; done")
}

#[test]
fn names() {
    let place = Place::new();
    let flags = ["--hostname", "web", "--domainname", "example.org"];
    let tell = "hostname; cat /proc/sys/kernel/domainname";
    assert_eq!(place.inside(&flags, tell), "web\nexample.org");
    assert_eq!(place.inside(&["-h", "short"], "hostname"), "short");
    let flags = ["--user", "app:audio", "--workdir", "/new/dir"];
    assert_eq!(place.inside(&flags, "id -un; id -gn; pwd"), "app\naudio\n/new/dir");
    let entry = place.run(&["--rm", "--entrypoint", "echo"], &["hi"]).ok();
    assert_eq!(entry.text(), "hi");
    place.sleeping("mine", &[]);
    assert_eq!(place.asked("{{.Name}}", "mine"), "/mine");
    place.daemon.gantry(&["rm", "-f", "mine"]).ok();
    place.refused(&["--hostname", "a b"], "invalid hostname");
    place.refused(&["--domainname", "a b"], "invalid domainname");
    place.daemon.assert_nothing_left();
}

#[test]
fn the_first_process() {
    let place = Place::new();
    assert_eq!(place.inside(&[], "echo $$"), "1");
    assert_ne!(place.inside(&["--init"], "echo $$"), "1");
    let zombies = "(sleep 0.1 & exec true) ; sleep 0.5; \
                   grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    assert_eq!(place.inside(&["--init"], zombies), "0");
    place.daemon.assert_nothing_left();
}

#[test]
fn ends() {
    let place = Place::new();
    let up = |name: &str| {
        let logs = || place.daemon.gantry(&["logs", name]).stdout;
        wait_for("its trap", || logs().contains("up").then_some(()));
    };
    let flags = ["--detach", "--name", "s", "--stop-signal", "USR1"];
    place.run(&flags, &["sh", "-c", &trap("USR1", 9)]).ok();
    up("s");
    place.daemon.gantry(&["stop", "s"]).ok();
    assert_eq!(place.asked("{{.State.ExitCode}}", "s"), "9");
    let flags = ["--detach", "--name", "t", "--stop-timeout", "1"];
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    place.run(&flags, &["sh", "-c", deaf]).ok();
    up("t");
    let begun = Instant::now();
    place.daemon.gantry(&["stop", "t"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(place.asked("{{.State.ExitCode}}", "t"), "137");
    let flags = ["--detach", "--name", "r", "--restart", "on-failure:1"];
    place.run(&flags, &["sh", "-c", "exit 3"]).ok();
    wait_for("its restart", || {
        (place.asked("{{.RestartCount}} {{.State.Status}}", "r") == "1 exited").then_some(())
    });
    place.refused(&["--restart", "sometimes"], "unknown policy 'sometimes'");
    place.refused(&["--restart=always", "--rm"], "cannot specify both --restart and --rm");
    place.refused(&["--stop-signal", "NOPE"], "NOPE");
    place.refused(&["--after", "nobody"], "No such container: nobody");
    place.refused(&["--after", "s:well"], "unknown condition 'well'");
    place.daemon.gantry(&["rm", "s", "t", "r"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn logs() {
    let place = Place::new();
    let words = ["sh", "-c", "echo said"];
    let read = |name: &str| place.daemon.gantry(&["logs", name]);
    place.run(&["--name", "l", "--log-driver", "local"], &words).ok();
    assert_eq!(read("l").ok().stdout, "said\n");
    assert_eq!(place.asked("{{.HostConfig.LogConfig.Type}}", "l"), "local");
    place.run(&["--name", "n", "--log-driver=none"], &words).ok();
    assert!(read("n").exits(1).stderr.contains("does not support reading"));
    place.run(&["--name", "o", "--log-opt", "max-size=1m"], &words).ok();
    // What was asked for, and the engine's defaults beside it.
    let options = r#"{"max-file":"3","max-size":"1m"}"#;
    assert_eq!(place.asked("{{json .HostConfig.LogConfig.Config}}", "o"), options);
    place.refused(&["--log-driver", "syslog"], "'syslog'");
    place.refused(&["--log-opt", "max-heap=1"], "unknown log opt 'max-heap'");
    place.daemon.gantry(&["rm", "l", "n", "o"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn health() {
    let place = Place::new();
    let often = ["--health-interval", "100ms", "--health-start-interval=100ms"];
    let state = |name: &str| place.asked("{{.State.Health.Status}}", name);
    let flags = ["--health-cmd", "test -e /good", "--health-timeout", "5s"];
    let more = ["--health-retries", "1", "--health-start-period=1h"];
    place.sleeping("c", &[&flags[..], &more, &often].concat());
    assert_eq!(state("c"), "starting");
    let known = place.asked("{{json .Config.Healthcheck}}", "c");
    for part in [
        r#""Test":["CMD-SHELL","test -e /good"]"#,
        r#""Interval":100000000"#,
        r#""Timeout":5000000000"#,
        r#""StartPeriod":3600000000000"#,
        r#""StartInterval":100000000"#,
        r#""Retries":1"#,
    ] {
        assert!(known.contains(part), "{known} lacks {part}");
    }
    place.exec("c", "touch /good");
    wait_for("health", || (state("c") == "healthy").then_some(()));
    // Nobody listens: of each kind one failure is enough.
    for (name, flag, target) in [
        ("http", "--health-http", "http://127.0.0.1:1/"),
        ("tcp", "--health-tcp", "127.0.0.1:1"),
        ("grpc", "--health-grpc", "127.0.0.1:1"),
    ] {
        let flags = [flag, target, "--health-retries=1", "--health-on-failure", "kill"];
        place.sleeping(name, &[&flags[..], &often].concat());
        wait_for("its end", || {
            let told = place.asked("{{.State.Status}} {{.State.ExitCode}}", name);
            (told == "exited 137").then_some(())
        });
    }
    place.sleeping("n", &["--no-healthcheck"]);
    assert_eq!(place.asked("{{json .Config.Healthcheck.Test}}", "n"), r#"["NONE"]"#);
    place.refused(&["--no-healthcheck", "--health-cmd=x"], "conflicts with --health-* options");
    place.refused(&["--health-interval", "5"], "missing unit in duration");
    place.refused(&["--health-on-failure", "panic"], "panic");
    place.daemon.gantry(&["rm", "-f", "c", "http", "tcp", "grpc", "n"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn images() {
    let place = Place::new();
    let own = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    place.inside(&["--platform", own, "--pull=never"], "true");
    let loud = place.run(&["--rm", "--pull", "always"], &["true"]).ok();
    assert!(loud.stderr.contains("Pulling"), "{}", loud.stderr);
    let quiet = place.run(&["--rm", "--pull=always", "--quiet"], &["true"]).ok();
    assert_eq!(quiet.stderr, "");
    let line = ["run", "--network=none", "--pull=never", "localhost:1/nothing"];
    let missing = place.daemon.gantry(&line).exits(125);
    assert!(missing.stderr.contains("No such image"), "{}", missing.stderr);
    place.daemon.assert_nothing_left();
}

#[test]
fn streams() {
    let place = Place::new();
    let words = ["sh", "-c", "echo out; echo err >&2; exit 4"];
    let shown = |stream: &str| place.run(&["--rm", "--attach", stream], &words).exits(4);
    let (out, err) = (shown("stdout"), shown("STDERR"));
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", ""));
    assert_eq!((err.stdout.as_str(), err.stderr.as_str()), ("", "err\n"));
    let fed = "echo fed | \"$0\" run --rm --interactive --network none \"$1\" cat";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", fed]).arg(gantry_tests::paths::program("gantry")).arg(&place.image);
    command.env("GANTRY_ADDRESS", place.daemon.address());
    assert_eq!(run(&mut command).ok().text(), "fed");

    let flags = ["--rm", "--name", "t", "--tty", "--interactive", "--detach-keys", "ctrl-a,x"];
    let mut terminal = Terminal::start(place.command(&flags, &["sh"]));
    terminal.expect("# ");
    terminal.send("test -t 0 && echo is-a-$((1+1))-tty\n");
    terminal.expect("is-a-2-tty");
    terminal.send("\x01x");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(place.asked("{{.State.Status}}", "t"), "running");
    place.daemon.gantry(&["rm", "-f", "t"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn signals_that_are_not_handed_on() {
    let place = Place::new();
    let script = trap("TERM", 5);
    let words = ["sh", "-c", script.as_str()];
    let mut command = place.command(&["--rm", "--name", "c", "--sig-proxy=false"], &words);
    let mut client = start(command.stdin(Stdio::null()).stdout(Stdio::null()));
    wait_for("its trap", || {
        place.daemon.gantry(&["logs", "c"]).stdout.contains("up").then_some(())
    });
    kill(Pid::from_raw(client.id() as i32), Signal::SIGTERM).expect("signal the client");
    assert_eq!(client.wait_within(Duration::from_secs(20)), Some(143));
    assert_eq!(place.asked("{{.State.Status}}", "c"), "running");
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.assert_nothing_left();
}
