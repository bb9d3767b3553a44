//! Logs: drivers and their options, what of them is shown, and that nothing of them is lost or
//! told twice, whoever goes away meanwhile.

mod follow;

use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_tests::{Daemon, Output, run, wait_for};

/// Makes a container without a network, detached, that runs a script.
#[track_caller]
fn start(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let image = daemon.busybox();
    let mut line = vec!["run", "-d", "--network", "none", "--name", name];
    line.extend(flags);
    line.extend([image.as_str(), "sh", "-c", script]);
    daemon.gantry(&line).ok();
}

/// The same, to its end.
#[track_caller]
fn say(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    start(daemon, name, flags, script);
    daemon.gantry(&["wait", name]).ok();
}

fn logs(daemon: &Daemon, flags: &[&str], name: &str) -> Output {
    daemon.gantry(&[&["logs"][..], flags, &[name]].concat()).ok()
}

fn inspect(daemon: &Daemon, name: &str) -> serde_json::Value {
    let shown = daemon.gantry(&["inspect", name]).ok();
    let all: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    all[0].clone()
}

/// Where a container's log lies.
fn log_path(daemon: &Daemon, name: &str) -> PathBuf {
    let path = inspect(daemon, name)["LogPath"].as_str().expect("a path").to_owned();
    assert!(!path.is_empty(), "{name} has no log");
    path.into()
}

/// The files of a log that are there, oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let numbered = (1..1000).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
    let found = numbered.map_while(|plain| {
        let packed = PathBuf::from(format!("{}.gz", plain.display()));
        [plain, packed].into_iter().find(|file| file.exists())
    });
    let mut all: Vec<_> = [path.to_owned()].into_iter().chain(found).collect();
    all.reverse();
    all
}

/// The content of a file, which may be compressed.
fn content(file: &Path) -> String {
    if file.extension().is_some_and(|e| e == "gz") {
        return run(Command::new("zcat").arg(file)).ok().stdout;
    }
    std::fs::read_to_string(file).expect("read a log")
}

/// Numbers, a line each.
fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

#[test]
fn every_driver_keeps_what_was_said() {
    let daemon = Daemon::start();
    // With time between the streams, so that their order is known.
    let script = "echo one; usleep 100000; echo two >&2; usleep 100000; \
                  head -c 300000 /dev/zero | tr '\\0' x; echo; echo three; printf end";
    for driver in ["json-file", "local"] {
        say(&daemon, driver, &["--log-driver", driver], script);
        let all = logs(&daemon, &[], driver);
        let long = "x".repeat(300_000);
        assert!(all.stdout == format!("one\n{long}\nthree\nend"), "{} bytes", all.stdout.len());
        assert_eq!(all.stderr, "two\n");
        assert_eq!(logs(&daemon, &["-n", "2"], driver).stdout, "three\nend");
        assert_eq!(logs(&daemon, &["--tail", "0"], driver).stdout, "");
        // A long line has one time.
        let timed = logs(&daemon, &["-t", "--tail", "3"], driver).stdout;
        let line = timed.lines().next().expect("a line");
        assert_eq!(line.len(), "2026-01-02T03:04:05.000000000Z ".len() + long.len());
        assert_eq!(timed.matches("Z ").count(), 3);
        let config = &inspect(&daemon, driver)["HostConfig"]["LogConfig"];
        assert_eq!(config["Type"], driver);
        // The next shim goes on where the last one was.
        daemon.gantry(&["start", driver]).ok();
        daemon.gantry(&["wait", driver]).ok();
        let twice = logs(&daemon, &["-f"], driver);
        assert_eq!(twice.stdout.matches("one\n").count(), 2);
        assert_eq!(twice.stdout.len(), 2 * all.stdout.len());
        daemon.gantry(&["rm", driver]).ok();
    }
    daemon.assert_nothing_left();
}

#[test]
fn files_are_dockers() {
    let daemon = Daemon::start();
    let flags = ["--log-opt", "labels=tier", "--label", "tier=front"];
    say(&daemon, "web", &flags, "echo 'a \"b\" <c>'; echo e >&2");
    let text = std::fs::read_to_string(log_path(&daemon, "web")).expect("read the log");
    let mut said = Vec::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        let mut keys: Vec<_> = record.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["attrs", "log", "stream", "time"]);
        assert_eq!(record["attrs"], serde_json::json!({"tier": "front"}));
        let time = record["time"].as_str().expect("a time");
        assert!(time.len() == 30 && time.ends_with('Z'), "{time}");
        let part = |key: &str| record[key].as_str().expect("text").to_owned();
        said.push((part("log"), part("stream")));
    }
    said.sort();
    let wanted = [("a \"b\" <c>\n", "stdout"), ("e\n", "stderr")];
    assert_eq!(said, wanted.map(|(log, stream)| (log.to_owned(), stream.to_owned())));
}

#[test]
fn without_a_log_there_is_nothing_to_read() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let flags = ["run", "--network", "none", "--log-driver", "none", "--name", "quiet", &image];
    let shown = daemon.gantry(&[&flags[..], &["echo", "seen"]].concat()).ok();
    assert_eq!(shown.stdout, "seen\n");
    for follow in [&["logs", "quiet"][..], &["logs", "-f", "quiet"]] {
        let refused = daemon.gantry(follow).exits(1);
        let words = "configured logging driver does not support reading";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    let shown = inspect(&daemon, "quiet");
    assert_eq!(shown["HostConfig"]["LogConfig"]["Type"], "none");
    assert_eq!(shown["LogPath"], "");
}

#[test]
fn what_no_log_has_is_refused_by_name() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    for (flags, words) in [
        (&["--log-driver", "syslog"][..], "no log driver named 'syslog'"),
        (&["--log-driver", "fluentd"], "json-file, local and none"),
        (&["--log-opt", "nope=1"], "unknown log opt 'nope' for json-file log driver"),
        (&["--log-driver", "local", "--log-opt", "nope=1"], "unknown log opt 'nope'"),
        (&["--log-opt", "max-size=0"], "max-size"),
        (&["--log-opt", "max-file=0"], "max-file"),
        (&["--log-opt", "max-age=soon"], "max-age"),
        (&["--log-opt", "mode=fast"], "fast"),
        (&["--log-opt", "max-buffer-size=1m"], "mode=non-blocking"),
        (&["--log-opt", "compress=true", "--log-opt", "max-file=1"], "compress"),
        (&["--log-opt", "labels-regex=("], "labels-regex"),
        (&["--log-opt", "tag={{.Nope}}"], "{{.Nope}}"),
    ] {
        let line = [&["run", "--network", "none"][..], flags, &[image.as_str(), "true"]].concat();
        let refused = daemon.gantry(&line).exits(125);
        assert!(refused.stderr.contains(words), "{flags:?}: {}", refused.stderr);
    }
    assert_eq!(daemon.gantry(&["ps", "-a", "-q"]).ok().text(), "");
}

#[test]
fn details_are_shown_as_docker_shows_them() {
    let daemon = Daemon::start();
    for driver in ["json-file", "local"] {
        let flags = [
            "--log-driver",
            driver,
            "--label",
            "tier=front end",
            "--label",
            "other=x",
            "-e",
            "STAGE=test",
            "-e",
            "STEP=2",
            "--log-opt",
            "labels=tier,missing",
            "--log-opt",
            "env-regex=^ST",
            "--log-opt",
            "tag={{.Name}}/1",
        ];
        say(&daemon, driver, &flags, "echo one; echo two");
        let shown = logs(&daemon, &["--details"], driver).stdout;
        let details = format!("STAGE=test,STEP=2,tag={driver}%2F1,tier=front+end");
        assert_eq!(shown, format!("{details} one\n{details} two\n"));
        let timed = logs(&daemon, &["--details", "-t", "-n", "1"], driver).stdout;
        assert!(timed.ends_with(&format!("Z {details} two\n")), "{timed}");
        assert_eq!(logs(&daemon, &[], driver).stdout, "one\ntwo\n");
    }
    say(&daemon, "plain", &[], "echo one");
    assert_eq!(logs(&daemon, &["--details"], "plain").stdout, " one\n");
}

#[test]
fn lines_of_a_time() {
    let daemon = Daemon::start();
    for driver in ["json-file", "local"] {
        let script = "echo one; usleep 200000; echo two; usleep 200000; echo three";
        say(&daemon, driver, &["--log-driver", driver], script);
        let timed = logs(&daemon, &["-t"], driver).stdout;
        let times: Vec<_> = timed.lines().map(|l| l.split(' ').next().expect("a time")).collect();
        let of = |flags: &[&str]| logs(&daemon, flags, driver).stdout;
        assert_eq!(of(&["--since", times[1]]), "two\nthree\n");
        assert_eq!(of(&["--until", times[1]]), "one\ntwo\n");
        assert_eq!(of(&["--since", times[1], "--until", times[1]]), "two\n");
        assert_eq!(of(&["--since", "1h"]), "one\ntwo\nthree\n");
        assert_eq!(of(&["--since", "1h30m", "--until", "1h"]), "");
        assert_eq!(of(&["--until", "1h"]), "");
        assert_eq!(of(&["--since", "0"]), "one\ntwo\nthree\n");
        assert_eq!(of(&["--since", "4102444800.5"]), "");
        // First the last lines, then those of the time.
        assert_eq!(of(&["--since", times[1], "-n", "1"]), "three\n");
        assert_eq!(of(&["-f", "--until", times[0]]), "one\n");
    }
    let refused = daemon.gantry(&["logs", "--since", "yesterday", "local"]).exits(1);
    assert!(refused.stderr.contains("invalid value for \"since\""), "{}", refused.stderr);
}

#[test]
fn following_ends_when_the_time_has_come() {
    let daemon = Daemon::start();
    start(&daemon, "on", &[], "echo up; exec sleep 600");
    wait_for("output", || (!logs(&daemon, &[], "on").stdout.is_empty()).then_some(()));
    assert_eq!(logs(&daemon, &["-f", "--until=-1s"], "on").stdout, "up\n");
    daemon.gantry(&["rm", "-f", "on"]).ok();
}

#[test]
fn files_are_rotated_by_size_and_compressed() {
    let daemon = Daemon::start();
    for (name, flags) in [
        ("plain", &["--log-opt", "max-size=100k", "--log-opt", "max-file=100"][..]),
        (
            "packed",
            &[
                "--log-opt",
                "max-size=100k",
                "--log-opt",
                "max-file=100",
                "--log-opt",
                "compress=true",
            ],
        ),
    ] {
        say(&daemon, name, flags, "seq 1 20000");
        let files = files(&log_path(&daemon, name));
        let packed = files.iter().filter(|f| f.extension().is_some_and(|e| e == "gz")).count();
        assert!(files.len() > 10, "{files:?}");
        // The last one that was rotated may not have been compressed to its end.
        let wanted = if name == "packed" { files.len() - 2..files.len() } else { 0..1 };
        assert!(wanted.contains(&packed), "{packed} of {}", files.len());
        let text: String = files.iter().map(|file| content(file)).collect();
        let said: String = text
            .lines()
            .map(|line| {
                let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
                record["log"].as_str().expect("text").to_owned()
            })
            .collect();
        assert!(said == numbers(1..=20_000), "{name}: {} bytes", said.len());
        assert!(logs(&daemon, &[], name).stdout == numbers(1..=20_000));
        assert_eq!(logs(&daemon, &["-n", "5000"], name).stdout, numbers(15_001..=20_000));
    }
    // Unless one says otherwise, the binary form is compressed; it keeps only so much.
    let flags = ["--log-driver", "local", "--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    say(&daemon, "binary", &flags, "seq 1 20000");
    let shown = logs(&daemon, &[], "binary").stdout;
    let first = shown.lines().next().and_then(|l| l.parse().ok()).expect("a number");
    assert!(first > 10_000 && shown == numbers(first..=20_000), "from {first}");
}

#[test]
fn files_are_rotated_by_age() {
    let daemon = Daemon::start();
    let script = "for n in 1 2 3; do echo $n; usleep 1100000; done; echo 4";
    say(&daemon, "old", &["--log-opt", "max-age=1s"], script);
    let files = files(&log_path(&daemon, "old"));
    // Three are kept.
    let text: Vec<_> = files.iter().map(|file| content(file).lines().count()).collect();
    assert_eq!(text, [1, 1, 1]);
    assert_eq!(logs(&daemon, &[], "old").stdout, "2\n3\n4\n");
    say(&daemon, "young", &["--log-opt", "max-age=1h"], script);
    assert_eq!(self::files(&log_path(&daemon, "young")).len(), 1);
    say(&daemon, "usual", &["--log-opt", "mode=non-blocking"], "echo x");
    assert_eq!(logs(&daemon, &[], "usual").stdout, "x\n");
}
