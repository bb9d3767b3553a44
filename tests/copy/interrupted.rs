//! Copies that end early, or take long.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Owned, leftovers, run_within, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cp, create, inside, refused, script, sleeper, write};

/// Begins to copy `first` and `second` to a directory, and stops in the middle of the second.
fn begin(daemon: &Daemon, to: &str) -> Owned {
    write(daemon, "first", "whole");
    fs::write(daemon.scratch().join("second"), vec![b'x'; 2_000_000]).expect("write");
    script(daemon, "tar cf two first second").ok();
    let archive = fs::read(daemon.scratch().join("two")).expect("read");
    let mut command = daemon.gantry_command(&["cp", "-", to]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = start(&mut command);
    let mut pipe = child.stdin.take().expect("it is piped");
    pipe.write_all(&archive[..1_500_000]).expect("write");
    // Open as long as the test has it.
    child.stdin = Some(pipe);
    child
}

#[test]
fn what_is_given_up_leaves_nothing_half_done() {
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    inside(&daemon, "c", "mkdir /into; echo old > /into/second");
    let mut client = begin(&daemon, "c:/into");
    let ls = || inside(&daemon, "c", "ls -A /into");
    wait_for("the second file to be begun", || ls().contains(".gantry-").then_some(()));
    assert_eq!(inside(&daemon, "c", "cat /into/first /into/second"), "wholeold");
    // Tests may run where an interrupt is ignored; this one has the same effect.
    kill(Pid::from_raw(client.id() as i32), Signal::SIGTERM).expect("end the client");
    assert_eq!(client.wait_within(Duration::from_secs(20)), Some(143));
    wait_for("what was begun to go", || (ls() == "first\nsecond").then_some(()));
    assert_eq!(inside(&daemon, "c", "cat /into/second"), "old");
}

#[test]
fn a_daemon_that_is_killed_leaves_nothing_mounted() {
    let mut daemon = Daemon::start();
    create(&daemon, "c", &["-v", "data:/data"]);
    let mut client = begin(&daemon, "c:/root");
    let find = format!("find {} -name '.gantry-*' -size +100k", daemon.root().display());
    wait_for("the second file to be begun", || {
        (!script(&daemon, &find).text().is_empty()).then_some(())
    });
    assert_eq!(leftovers::find(&daemon).mounts, Vec::<String>::new(), "nobody else sees it");
    daemon.kill();
    assert_eq!(client.wait_within(Duration::from_secs(20)), Some(1));
    assert_eq!(leftovers::find(&daemon).mounts, Vec::<String>::new());
    daemon.restart();
    daemon.gantry(&["start", "c"]).ok();
    assert_eq!(inside(&daemon, "c", "cat /root/first; ls /root"), "wholefirst");
    cp(&daemon, "second", "c:/root").ok();
    daemon.gantry(&["rm", "-f", "-v", "c"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_stuck_shim_holds_up_its_own_container() {
    let daemon = Daemon::start();
    sleeper(&daemon, "stuck", &[]);
    let shims = leftovers::find(&daemon).shims;
    sleeper(&daemon, "c", &[]);
    write(&daemon, "file", "f");
    let signal = |signal| {
        shims.iter().for_each(|pid| kill(Pid::from_raw(*pid as i32), signal).expect("signal"));
    };
    signal(Signal::SIGSTOP);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cp(&daemon, "file", "stuck:/root"));
        let begun = Instant::now();
        cp(&daemon, "file", "c:/root").ok();
        cp(&daemon, "c:/root/file", "back").ok();
        daemon.gantry(&["diff", "stuck"]).ok();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let waited = waiting.join().expect("the client ends");
        signal(Signal::SIGCONT);
        refused(&waited, "the shim of container stuck does not answer");
    });
    cp(&daemon, "file", "stuck:/root").ok();
}

#[test]
fn a_container_that_is_copied_to_is_started_afterwards() {
    let daemon = Daemon::start();
    create(&daemon, "c", &[]);
    let mut client = begin(&daemon, "c:/root");
    let find = format!("find {} -name '.gantry-*'", daemon.root().display());
    wait_for("the copy to be begun", || (!script(&daemon, &find).text().is_empty()).then_some(()));
    let mut starting = start(daemon.gantry_command(&["start", "c"]).stdout(Stdio::null()));
    // What reads is not held up.
    cp(&daemon, "c:/root/first", "back").ok();
    assert_eq!(starting.wait_within(Duration::from_millis(300)), None);
    client.kill();
    assert_eq!(starting.wait_within(Duration::from_secs(20)), Some(0));
    assert_eq!(inside(&daemon, "c", "ls -A /root"), "first");
}

#[test]
fn a_gigabyte_passes_in_little_memory() {
    if std::env::var_os("GANTRY_TEST_LONG").is_none() {
        return;
    }
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    inside(&daemon, "c", "dd if=/dev/zero of=/big bs=1M count=1024 2>/dev/null");
    let most = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let before = most(daemon.pid());
    let copy = |from: &str, to: &str| {
        let mut command = daemon.gantry_command(&["cp", from, to]);
        run_within(command.current_dir(daemon.scratch()), Duration::from_secs(300)).ok();
    };
    copy("c:/big", "big");
    copy("big", "c:/again");
    let grown = most(daemon.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "the daemon grew by {grown} KiB");
    assert_eq!(inside(&daemon, "c", "cmp /big /again && echo same"), "same");
}
