//! Commands that are ended by ctrl-c.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Owned, Registry, Valve, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{NONE, SLEEP, SOON, asked, detached, soon, told, wait_for_word};

/// So much of an image passes: more than what describes it, less than its layer.
const OF_IMAGE: u64 = 200 << 10;

/// For so long a shim that waits, and is stopped, holds up the start of a container.
const HELD: Duration = Duration::from_secs(5);
/// So many starts a slow machine may make before they are given up.
const ATTEMPTS: u32 = 5;

/// A client that ctrl-c ends, also where tests are run with that ignored.
fn client(daemon: &Daemon, words: &[&str]) -> Command {
    let plain = daemon.gantry_command(words);
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Does to a client what ctrl-c does; it ends at once.
#[track_caller]
fn interrupt(client: &mut Owned) {
    kill(Pid::from_raw(client.id() as i32), Signal::SIGINT).expect("interrupt a client");
    assert_eq!(client.wait_within(SOON), Some(130));
}

/// Clients that are connected to a daemon.
fn clients(daemon: &Daemon) -> usize {
    // It is bound under another name, and then renamed.
    let address = format!("{}.new", daemon.address().display());
    let sockets = fs::read_to_string("/proc/net/unix").expect("a list");
    // One is where it listens.
    sockets.lines().filter(|line| line.ends_with(&address)).count().saturating_sub(1)
}

/// Descriptors of a daemon by which it follows files.
fn followers(daemon: &Daemon) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("a directory");
    let links = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("inotify")).count()
}

/// Threads of a daemon with such a name.
fn threads(daemon: &Daemon, name: &str) -> usize {
    let all = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("a directory");
    let names = all.flatten().filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
    // The system knows the first 15 characters.
    names.filter(|comm| name.starts_with(comm.trim()) && !comm.trim().is_empty()).count()
}

#[test]
fn a_pull_is_gone_on_with() {
    let daemon = Daemon::start();
    let valve = Valve::of_host(&Registry::shared().host(), OF_IMAGE);
    let image = format!("{}/busybox:latest", valve.host());
    let mut pull = start(&mut client(&daemon, &["pull", &image]));
    wait_for("the layer", || (valve.held() > 0).then_some(()));
    interrupt(&mut pull);
    wait_for("the daemon to give it up", || (valve.held() == 0).then_some(()));
    assert_eq!(daemon.gantry(&["images", "-q"]).ok().text(), "");
    valve.open();
    daemon.gantry(&["pull", "-q", &image]).ok();
    daemon.gantry(&[&["run", "--rm"], &NONE[..], &[image.as_str(), "true"]].concat()).ok();
    // What held the pieces of the first attempt is gone.
    wait_for("no lease", || {
        let leases = daemon.ctr(&["-n", "default", "leases", "ls", "-q"]).ok();
        leases.text().is_empty().then_some(())
    });
    daemon.assert_nothing_left();
}

#[test]
fn who_gives_up_while_an_image_is_pulled_gets_no_container() {
    let daemon = Daemon::start();
    for verb in [&["run", "--rm"][..], &["run", "-d"], &["create"]] {
        let valve = Valve::of_host(&Registry::shared().host(), OF_IMAGE);
        let image = format!("{}/busybox:latest", valve.host());
        let line = [verb, &NONE, &[image.as_str()], &SLEEP].concat();
        let mut waiting = start(&mut client(&daemon, &line));
        wait_for("the layer", || (valve.held() > 0).then_some(()));
        interrupt(&mut waiting);
        wait_for("the daemon to give it up", || (valve.held() == 0).then_some(()));
        assert_eq!(daemon.gantry(&["images", "-q"]).ok().text(), "", "{verb:?}");
        assert_eq!(daemon.gantry(&["ps", "-aq"]).ok().text(), "", "{verb:?}");
    }
    daemon.assert_nothing_left();
}

/// The shims of a daemon that wait for a container.
fn warm(daemon: &Daemon) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("a directory");
    let lists = threads.flatten().map(|thread| thread.path().join("children"));
    let lists: Vec<_> = lists.filter_map(|list| fs::read_to_string(list).ok()).collect();
    let children = lists.iter().flat_map(|list| list.split_whitespace());
    let children = children.filter_map(|pid| pid.parse::<u32>().ok());
    let waits = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').any(|word| word == "-warm")
    };
    children.filter(waits).map(|pid| Pid::from_raw(pid as i32)).collect()
}

/// Gives up the start of a container. False when it may have been started before that.
fn gives_up_a_start() -> bool {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let found = wait_for("a shim that waits", || Some(warm(&daemon)).filter(|all| !all.is_empty()));
    let stopped: Vec<_> = found.into_iter().map(super::Stopped::new).collect();
    let run = ["run", "--name", "c", "-v", "/data"];
    let line = [&run[..], &NONE, &[image.as_str()], &SLEEP].concat();
    let begun = Instant::now();
    let mut waiting = start(&mut client(&daemon, &line));
    let none = |list: &[&str]| daemon.gantry(list).ok().text().is_empty();
    wait_for("the container", || (!none(&["ps", "-aq"])).then_some(()));
    kill(Pid::from_raw(waiting.id() as i32), Signal::SIGINT).expect("interrupt a client");
    let code = waiting.wait_within(SOON);
    let unseen = || clients(&daemon) > 0 && begun.elapsed() < HELD;
    wait_for("the daemon to see it", || (!unseen()).then_some(()));
    if begun.elapsed() >= HELD {
        return false;
    }
    assert_eq!(code, Some(130));
    wait_for("nothing of it", || {
        (none(&["ps", "-aq"]) && none(&["volume", "ls", "-q"])).then_some(())
    });
    assert_eq!(told(&daemon, "die"), 0);
    drop(stopped);
    daemon.assert_nothing_left();
    true
}

#[test]
fn who_gives_up_a_start_gets_no_container() {
    assert!((0..ATTEMPTS).any(|_| gives_up_a_start()), "it was always started before that");
}

#[test]
fn who_gives_up_a_stop_can_do_something_else() {
    let daemon = Daemon::start();
    let deaf = "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done";
    detached(&daemon, "c", &["sh", "-c", deaf]);
    wait_for_word(&daemon, "c", "up");
    let mut stop = start(&mut client(&daemon, &["stop", "-t", "60", "c"]));
    wait_for_word(&daemon, "c", "asked");
    interrupt(&mut stop);
    assert_eq!(asked(&daemon, "{{.State.Status}}", "c"), "running");
    soon(&daemon, &["exec", "c", "true"]).ok();
    // The daemon goes on with it, as Docker's does; nothing has to wait for that.
    soon(&daemon, &["stop", "-t", "0", "c"]).ok();
    assert_eq!(asked(&daemon, "{{.State.Status}} {{.State.ExitCode}}", "c"), "exited 137");
    soon(&daemon, &["start", "c"]).ok();
    assert_eq!(asked(&daemon, "{{.State.Status}}", "c"), "running", "that was another run");
    soon(&daemon, &["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn who_only_looks_can_leave() {
    let daemon = Daemon::start();
    detached(&daemon, "c", &["sh", "-c", "echo up; exec sleep 600"]);
    wait_for_word(&daemon, "c", "up");
    let before = followers(&daemon);
    for line in [&["logs", "-f", "c"][..], &["wait", "c"], &["events"], &["stats", "c"]] {
        wait_for("nobody to be there", || (clients(&daemon) == 0).then_some(()));
        let mut looking = start(&mut client(&daemon, line));
        wait_for("the client", || (clients(&daemon) == 1).then_some(()));
        if line[0] == "logs" {
            wait_for("the log to be followed", || (followers(&daemon) > before).then_some(()));
        }
        interrupt(&mut looking);
        wait_for("the daemon to see it", || (clients(&daemon) == 0).then_some(()));
    }
    wait_for("the log to be left", || (followers(&daemon) == before).then_some(()));
    assert_eq!(asked(&daemon, "{{.State.Status}}", "c"), "running");
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn files_are_whole_or_not_there() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let big = "dd if=/dev/urandom of=/data/big bs=1M count=16 2>/dev/null; cp /data/big /big";
    let line =
        ["run", "--name", "c", "-v", "data:/data", NONE[0], NONE[1], &image, "sh", "-c", big];
    daemon.gantry(&line).ok();
    let out = daemon.scratch().join("out");
    fs::create_dir(&out).expect("make a directory");
    let file = out.join("file").display().to_string();
    for (number, (line, thread)) in [
        (&["export", "-o", file.as_str(), "c"][..], "snapshot-archive"),
        (&["volume", "export", "-o", &file, "data"], "volume-export"),
        (&["cp", "c:/data/big", &file], "copy-from"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = daemon.scratch().join(format!("valve{number}"));
        let valve = Valve::of_socket(&daemon.address(), &at, 2 << 20);
        let mut slow = client(&daemon, line);
        let mut taking = start(slow.env("GANTRY_ADDRESS", valve.host()));
        wait_for("the middle", || (valve.held() > 0).then_some(()));
        wait_for("the file to be begun", || (!names(&out).is_empty()).then_some(()));
        interrupt(&mut taking);
        assert_eq!(names(&out), [""; 0], "{line:?}");
        wait_for("the daemon to give it up", || (threads(&daemon, thread) == 0).then_some(()));
    }
    daemon.gantry(&["start", "c"]).ok();
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.gantry(&["volume", "rm", "data"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn a_container_is_not_held_by_who_gave_up_a_copy() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let create = [&["create", "--name", "c"], &NONE[..], &[image.as_str()], &SLEEP].concat();
    daemon.gantry(&create).ok();
    let mut copy = start(client(&daemon, &["cp", "-", "c:/root"]).stdin(Stdio::piped()));
    let mut pipe = copy.stdin.take().expect("it is piped");
    // The first half of a file's header.
    pipe.write_all(&[b'x'; 256]).expect("write");
    wait_for("the copy to be begun", || (threads(&daemon, "copy") > 0).then_some(()));
    interrupt(&mut copy);
    soon(&daemon, &["start", "c"]).ok();
    soon(&daemon, &["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn volumes_are_whole_or_not_there() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let fill = "for n in $(seq 300); do echo $n > /d/$n; done; \
                dd if=/dev/urandom of=/d/big bs=1M count=16 2>/dev/null; md5sum < /d/big";
    let inside = |volume: &str, script: &str| {
        let volume = format!("{volume}:/d");
        let line = ["run", "--rm", "-v", &volume, NONE[0], NONE[1], &image, "sh", "-c", script];
        daemon.gantry(&line).ok().text().to_owned()
    };
    let sum = inside("data", fill);
    let listed = || daemon.gantry(&["volume", "ls", "-q"]).ok().text().to_owned();
    let at = daemon.scratch().join("valve");
    let valve = Valve::of_socket(&daemon.address(), &at, 0);
    let mut slow = client(&daemon, &["volume", "clone", "data", "copy"]);
    let mut cloning = start(slow.env("GANTRY_ADDRESS", valve.host()));
    wait_for("the daemon's first word", || (valve.held() > 0).then_some(()));
    interrupt(&mut cloning);
    drop(valve);
    // It is kept as long as it is copied.
    wait_for("the daemon to have done with it", || {
        (daemon.gantry(&["volume", "rm", "data"]).code == 0).then_some(())
    });
    if listed() == "copy" {
        let whole = "ls /d | wc -l; md5sum < /d/big";
        assert_eq!(inside("copy", whole), format!("301\n{sum}"));
        daemon.gantry(&["volume", "rm", "copy"]).ok();
    }
    let mut import =
        start(client(&daemon, &["volume", "import", "new", "-"]).stdin(Stdio::piped()));
    let mut pipe = import.stdin.take().expect("it is piped");
    pipe.write_all(&[b'x'; 256]).expect("write");
    let there = || names(&daemon.root().join("volumes/default"));
    wait_for("the import to be begun", || (!there().is_empty()).then_some(()));
    assert_eq!(listed(), "", "nobody sees it before it is whole");
    interrupt(&mut import);
    wait_for("nothing of it", || there().is_empty().then_some(()));
    daemon.assert_nothing_left();
}

#[test]
fn one_ctrl_c_is_enough_when_a_shim_hangs() {
    let daemon = Daemon::start();
    detached(&daemon, "c", &SLEEP);
    for line in [&["exec", "c", "touch", "/ran"][..], &["exec", "-d", "c", "touch", "/ran"]] {
        let shim = super::Stopped::new(super::shim_of(&daemon, "c"));
        let mut waiting = start(&mut client(&daemon, line));
        let execs = || asked(&daemon, "{{json .ExecIDs}}", "c");
        wait_for("the exec to be asked for", || execs().contains('"').then_some(()));
        interrupt(&mut waiting);
        wait_for("the daemon to see it", || (clients(&daemon) == 0).then_some(()));
        drop(shim);
        wait_for("it to be taken back", || (!execs().contains('"')).then_some(()));
        soon(&daemon, &["exec", "c", "test", "!", "-e", "/ran"]).ok();
    }
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn one_ctrl_c_is_enough_when_the_daemon_hangs() {
    let daemon = Daemon::start();
    let stopped = super::Stopped::new(Pid::from_raw(daemon.pid() as i32));
    let lines = [&["ps"][..], &["pull", "127.0.0.1:1/x"], &["volume", "ls"], &["run", "x"]];
    for (number, line) in lines.into_iter().enumerate() {
        let mut waiting = start(&mut client(&daemon, line));
        // Those that have gone are there until the daemon looks.
        wait_for("the client", || (clients(&daemon) > number).then_some(()));
        interrupt(&mut waiting);
    }
    drop(stopped);
    daemon.gantry(&["ps"]).ok();
    assert_eq!(daemon.gantry(&["ps", "-aq"]).ok().text(), "");
}
