//! Who follows a log while the daemon goes away, or is too slow for it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Owned, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{files, inspect, log_path, logs, start};

/// A client that follows a log.
struct Follower {
    client: Owned,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Follower {
    /// Starts one, which `label` tells from others of the same container.
    fn start(daemon: &Daemon, label: &str, flags: &[&str], name: &str) -> Self {
        let file = |what: &str| daemon.scratch().join(format!("{name}.{label}.{what}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let make = |path: &Path| Stdio::from(File::create(path).expect("make a file"));
        let mut command = daemon.gantry_command(&[&["logs", "-f"][..], flags, &[name]].concat());
        command.stdin(Stdio::null()).stdout(make(&stdout)).stderr(make(&stderr));
        Self { client: gantry_tests::start(&mut command), stdout, stderr }
    }

    fn shown(&self) -> String {
        std::fs::read_to_string(&self.stdout).expect("read what was shown")
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("read what was told")
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.stdout).map_or(0, |meta| meta.len())
    }

    /// Waits until a text was shown.
    #[track_caller]
    fn expect(&self, text: &str) {
        wait_for(text, || self.shown().contains(text).then_some(()));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.client.id() as i32), signal).expect("signal the client");
    }

    #[track_caller]
    fn ends(&mut self, limit: Duration) {
        let code = self.client.wait_within(limit);
        assert_eq!(code, Some(0), "the client: {}", self.told());
    }
}

/// The most memory that a process has used, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// A container's first process.
fn pid(daemon: &Daemon, name: &str) -> u64 {
    inspect(daemon, name)["State"]["Pid"].as_u64().expect("it runs")
}

/// The shim that is the parent of a container's first process.
fn shim_of(daemon: &Daemon, name: &str) -> u32 {
    let pid = pid(daemon, name);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let rest = stat.rsplit_once(") ").expect("a process has a name").1;
    rest.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("a parent")
}

/// [`wait_for`] what may take longer.
#[track_caller]
fn wait_long(what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !look() {
        assert!(Instant::now() < end, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of a line of the flood, with its end.
const LINE: usize = 128;

fn line(n: u64) -> String {
    let number = format!("{n:09} ");
    let rest = "x".repeat(LINE - number.len() - 1);
    number + &rest
}

/// A container that says as much while the daemon is killed and restarted so often.
fn flood(bytes: u64, kills: u64, max_size: &str, limit: Duration) {
    let mut daemon = Daemon::start();
    let count = bytes / LINE as u64;
    let script = format!(
        "while [ ! -e /go ]; do usleep 10000; done; \
         awk 'BEGIN {{ x = \"{}\"; for (i = 0; i < {count}; i++) printf \"%09d %s\\n\", i, x }}'; \
         echo done; while [ ! -e /end ]; do usleep 10000; done",
        "x".repeat(LINE - 11)
    );
    let max_size = format!("max-size={max_size}");
    start(&daemon, "flood", &["--log-opt", &max_size, "--log-opt", "max-file=20"], &script);
    let path = log_path(&daemon, "flood");
    let shim = shim_of(&daemon, "flood");
    let mut follower = Follower::start(&daemon, "one", &[], "flood");
    daemon.gantry(&["exec", "flood", "touch", "/go"]).ok();
    let written = || -> u64 {
        files(&path).iter().map(|f| std::fs::metadata(f).map_or(0, |meta| meta.len())).sum()
    };
    let mut most = 0;
    for n in 1..=kills {
        // What is on the disk is more than what was said.
        wait_long("output", limit, || written() >= bytes * n / (kills + 1));
        most = most.max(peak(daemon.pid()));
        daemon.kill();
        daemon.restart();
        // Or it could miss the next time.
        let again = || follower.told().matches("connected again").count() >= n as usize;
        wait_long("the follower", limit, again);
    }
    let all = count * LINE as u64 + "done\n".len() as u64;
    wait_long("the end of the output", limit, || follower.bytes() >= all);
    most = most.max(peak(daemon.pid()));
    assert!(peak(shim) < 32 << 10, "the shim used {} KiB", peak(shim));
    let client = peak(follower.client.id());
    assert!(client < 64 << 10, "the client used {client} KiB");
    assert!(most < 256 << 10, "the daemon used {most} KiB");
    daemon.gantry(&["exec", "flood", "touch", "/end"]).ok();
    follower.ends(limit);
    let told = follower.told();
    assert!(!told.contains("rotated away"), "{told}");
    assert!(told.matches("connected again").count() >= kills as usize, "{told}");
    let mut wanted = (0..count).map(line).chain(["done".to_owned()]);
    for shown in BufReader::new(File::open(&follower.stdout).expect("open")).lines() {
        assert_eq!(Some(shown.expect("text")), wanted.next(), "what was shown");
    }
    assert_eq!(wanted.next(), None, "what was shown");
    let mut wanted = (0..count).map(line).chain(["done".to_owned()]);
    for file in files(&path) {
        for record in BufReader::new(File::open(&file).expect("open a log")).lines() {
            let record = record.expect("text");
            let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
            let said = record["log"].as_str().expect("text").trim_end_matches('\n');
            assert_eq!(Some(said), wanted.next().as_deref(), "{}", file.display());
        }
    }
    assert_eq!(wanted.next(), None, "what is in the files");
    daemon.gantry(&["rm", "-f", "flood"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn nothing_is_lost_or_doubled_while_the_daemon_is_killed() {
    flood(30 << 20, 2, "4m", Duration::from_secs(60));
}

#[test]
fn nothing_is_lost_or_doubled_of_a_gigabyte() {
    if std::env::var_os("GANTRY_TEST_LONG").is_some() {
        flood(1 << 30, 5, "100m", Duration::from_secs(900));
    }
}

#[test]
fn a_follower_goes_on_where_it_was() {
    let mut daemon = Daemon::start();
    let script = "echo old; while [ ! -e /go ]; do usleep 10000; done; echo new; \
                  while [ ! -e /end ]; do usleep 10000; done; echo last; exit 3";
    for driver in ["json-file", "local"] {
        start(&daemon, driver, &["--log-driver", driver], script);
        wait_for("output", || (logs(&daemon, &[], driver).stdout == "old\n").then_some(()));
        let before = watches(daemon.pid());
        let mut all = Follower::start(&daemon, "all", &["-t"], driver);
        // It has seen nothing yet, and is not to see what was before.
        let mut late = Follower::start(&daemon, "late", &["-n", "0"], driver);
        all.expect("old");
        // Two descriptors each.
        wait_for("both to watch", || (watches(daemon.pid()) >= before + 4).then_some(()));
        daemon.stop();
        daemon.restart();
        daemon.gantry(&["exec", driver, "touch", "/go"]).ok();
        all.expect("new");
        // It ends while nobody is there.
        let process = pid(&daemon, driver);
        daemon.gantry(&["exec", "-d", driver, "sh", "-c", "usleep 700000; touch /end"]).ok();
        daemon.kill();
        wait_for("the end of the container", || {
            (!Path::new(&format!("/proc/{process}")).exists()).then_some(())
        });
        daemon.restart();
        all.ends(Duration::from_secs(30));
        late.ends(Duration::from_secs(30));
        let shown = all.shown();
        let words: Vec<_> = shown.lines().filter_map(|l| l.split(' ').nth(1)).collect();
        assert_eq!(words, ["old", "new", "last"], "{shown}");
        assert_eq!(late.shown(), "new\nlast\n", "{}", late.told());
        assert!(all.told().contains("lost the connection"), "{}", all.told());
        daemon.gantry(&["rm", driver]).ok();
    }
    daemon.assert_nothing_left();
}

/// How many descriptors of a process tell of changes of files.
fn watches(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.filter(|text| text.contains("inotify wd:")).count()
}

#[test]
fn a_follower_that_is_too_slow_is_told() {
    let daemon = Daemon::start();
    let script = "echo 0; while [ ! -e /go ]; do usleep 10000; done; seq 1 500000";
    for driver in ["json-file", "local"] {
        let small = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
        let flags = [&["--log-driver", driver], &small[..]].concat();
        start(&daemon, driver, &flags, script);
        let mut follower = Follower::start(&daemon, "slow", &[], driver);
        follower.expect("0\n");
        follower.signal(Signal::SIGSTOP);
        daemon.gantry(&["exec", driver, "touch", "/go"]).ok();
        daemon.gantry(&["wait", driver]).ok();
        follower.signal(Signal::SIGCONT);
        follower.ends(Duration::from_secs(60));
        let shown = follower.shown();
        let lines: Vec<u32> = shown.lines().map(|l| l.parse().expect("a number")).collect();
        assert!(lines.is_sorted_by(|a, b| a < b));
        assert_eq!(lines.last(), Some(&500_000));
        assert!(lines.len() < 500_000, "it was slow");
        let told = follower.told();
        assert!(told.contains("rotated away before it could be read"), "{told}");
    }
}

#[test]
fn a_daemon_that_stays_away_is_not_waited_for_without_following() {
    let mut daemon = Daemon::start();
    start(&daemon, "on", &[], "echo up; exec sleep 600");
    wait_for("output", || (!logs(&daemon, &[], "on").stdout.is_empty()).then_some(()));
    daemon.kill();
    let refused = daemon.gantry(&["logs", "-f", "on"]).exits(1);
    assert!(refused.stderr.contains("Is it running"), "{}", refused.stderr);
    daemon.restart();
    daemon.gantry(&["rm", "-f", "on"]).ok();
    daemon.assert_nothing_left();
}
