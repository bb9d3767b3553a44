//! `gantry` as people use it.

use std::io::{Read, Write};
use std::process::Stdio;

use gantry_tests::{Daemon, Registry, Terminal, run, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn run_pulls_and_gives_output_and_exit_code() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let first = ["run", "--rm", "--network", "none", &image, "echo", "hello"];
    assert_eq!(daemon.gantry(&first).ok().stdout, "hello\n");
    let quiet = daemon
        .gantry(&["run", "--rm", "--network", "none", &image, "sh", "-c", "echo e >&2; exit 3"])
        .exits(3);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", "e\n"));
    assert_eq!(daemon.gantry(&["ps", "-a", "-q"]).ok().text(), "");
    daemon.assert_nothing_left();
}

#[test]
fn commands_that_cannot_run_have_their_own_exit_codes() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let missing = daemon.gantry(&["run", "--rm", "--network", "none", &image, "nope"]).exits(127);
    assert!(
        missing.stderr.contains("nope") && missing.stderr.contains("not found"),
        "{}",
        missing.stderr
    );
    let missing =
        daemon.gantry(&["run", "--rm", "--network", "none", &image, "/no/such"]).exits(127);
    assert!(missing.stderr.contains("/no/such"), "{}", missing.stderr);
    let denied =
        daemon.gantry(&["run", "--rm", "--network", "none", &image, "/etc/passwd"]).exits(126);
    assert!(denied.stderr.to_lowercase().contains("permission denied"), "{}", denied.stderr);
    let unknown = Registry::shared().reference("nothing:here");
    let unknown = daemon.gantry(&["run", "--rm", "--network", "none", &unknown, "true"]).exits(125);
    assert!(unknown.stderr.contains("not found"), "{}", unknown.stderr);
    assert_eq!(daemon.gantry(&["ps", "-a", "-q"]).ok().text(), "");
    daemon.assert_nothing_left();
}

#[test]
fn flags_reach_the_process() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut command = daemon.gantry_command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-e",
        "A=b",
        "-e",
        "FROM_CALLER",
        "-w",
        "/new/dir",
        "-u",
        "app:audio",
        "--hostname",
        "web",
        "-l",
        "k=v",
        "--entrypoint",
        "sh",
        &image,
        "-c",
        "echo $A $FROM_CALLER; pwd; id; hostname; echo $HOME",
    ]);
    command.env("FROM_CALLER", "yes");
    let out = run(&mut command).ok();
    let lines = out.lines();
    assert_eq!(lines[0], "b yes");
    assert_eq!(lines[1], "/new/dir");
    assert!(lines[2].starts_with("uid=1000(app) gid=29(audio)"), "{}", lines[2]);
    assert_eq!(&lines[3..], ["web", "/home"]);
    let nobody =
        daemon.gantry(&["run", "--rm", "--network", "none", "-u", "ghost", &image, "true"]);
    assert_ne!(nobody.code, 0);
    assert!(nobody.stderr.contains("unable to find user ghost"), "{}", nobody.stderr);
}

#[test]
fn the_default_container_is_confined() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let script = "grep -E 'Seccomp:|CapEff|CapBnd' /proc/self/status; cat /proc/timer_list | wc -c; \
                  echo 1 2>/dev/null > /proc/sys/kernel/sysrq || echo ro; mount -t tmpfs t /mnt 2>/dev/null || echo no-mount; \
                  ls -l /proc/self/fd | wc -l; cat /proc/1/comm; ls /dev | tr '\\n' ' '; ls /sys/firmware | wc -l";
    let out = daemon.gantry(&["run", "--rm", "--network", "none", &image, "sh", "-c", script]).ok();
    let lines = out.lines();
    assert!(lines[0].ends_with("00000000a80425fb"), "Docker's 14 capabilities: {}", out.stdout);
    assert!(lines[1].ends_with("00000000a80425fb"), "{}", out.stdout);
    assert!(lines[2].ends_with('2'), "{}", out.stdout);
    assert_eq!(&lines[3..6], ["0", "ro", "no-mount"], "{}", out.stdout);
    assert_eq!(lines[7], "sh");
    assert!(
        lines[8].ends_with(" 0")
            && lines[8].contains("null")
            && lines[8].contains("pts")
            && !lines[8].contains("vda"),
        "{}",
        out.stdout
    );
}

#[test]
fn life_of_a_detached_container() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let id = daemon
        .gantry(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "web",
            &image,
            "sh",
            "-c",
            "echo up; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done",
        ])
        .ok()
        .text()
        .to_owned();
    assert_eq!(id.len(), 64);
    let ps = daemon.gantry(&["ps"]).ok();
    let row = ps.lines()[1].to_owned();
    assert!(
        row.starts_with(&id[..12]) && row.contains("Up ") && row.ends_with("web"),
        "{}",
        ps.stdout
    );
    assert_eq!(daemon.gantry(&["ps", "-q"]).ok().text(), &id[..12]);
    let logs = wait_for("the first line", || {
        let logs = daemon.gantry(&["logs", "web"]).ok();
        (!logs.stdout.is_empty()).then_some(logs)
    });
    assert_eq!(logs.stdout, "up\n");
    assert_eq!(daemon.gantry(&["exec", "web", "echo", "in"]).ok().stdout, "in\n");
    daemon.gantry(&["exec", "web", "sh", "-c", "exit 9"]).exits(9);
    daemon.gantry(&["exec", "web", "nope"]).exits(127);
    daemon.gantry(&["exec", "web", "/etc/passwd"]).exits(126);
    for command in ["nope", "/etc/passwd"] {
        let refused = daemon.gantry(&["exec", "-d", "web", command]).exits(1);
        assert!(refused.stderr.contains("exec: "), "{}", refused.stderr);
    }
    let nobody = daemon.gantry(&["exec", "-u", "ghost", "web", "ls"]).exits(126);
    assert!(nobody.stderr.contains("unable to find user ghost"), "{}", nobody.stderr);
    let nothing = daemon.gantry(&["exec", "web", ""]).exits(127);
    assert!(nothing.stderr.contains("executable file not found in $PATH"), "{}", nothing.stderr);
    let nowhere = daemon.gantry(&["exec", "-w", "/nope", "web", "ls"]).exits(126);
    assert!(nowhere.stderr.contains("chdir to cwd (\"/nope\") failed"), "{}", nowhere.stderr);
    daemon.gantry(&["exec", "web", &format!("/{}", "x".repeat(300))]).exits(126);
    daemon.gantry(&["exec", "nope", "ls"]).exits(1);
    let env = daemon
        .gantry(&[
            "exec",
            "-e",
            "DEBUG=1",
            "-w",
            "/tmp",
            "-u",
            "1000",
            "web",
            "sh",
            "-c",
            "echo $DEBUG $PWD; id -u",
        ])
        .ok();
    assert_eq!(env.stdout, "1 /tmp\n1000\n");
    let taken = daemon
        .gantry(&["run", "-d", "--network", "none", "--name", "web", &image, "true"])
        .exits(125);
    assert!(taken.stderr.contains("web") && taken.stderr.contains("in use"), "{}", taken.stderr);
    let running = daemon.gantry(&["rm", "web"]).exits(1);
    assert!(running.stderr.contains("running"), "{}", running.stderr);
    assert_eq!(daemon.gantry(&["stop", &id[..6]]).ok().text(), &id[..6]);
    let ps = daemon.gantry(&["ps", "-a"]).ok();
    assert!(ps.stdout.contains("Exited (7)"), "{}", ps.stdout);
    assert_eq!(daemon.gantry(&["logs", "web"]).ok().stdout, "up\nbye\n");
    assert_eq!(daemon.gantry(&["logs", "--tail", "1", "web"]).ok().stdout, "bye\n");
    assert_eq!(daemon.gantry(&["wait", "web"]).ok().text(), "7");
    let inspect = daemon.gantry(&["inspect", "web"]).ok();
    let inspect: serde_json::Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    assert_eq!(inspect[0]["State"]["ExitCode"], 7);
    assert_eq!(inspect[0]["State"]["Status"], "exited");
    assert_eq!(inspect[0]["Name"], "/web");
    daemon.gantry(&["start", "web"]).ok();
    assert!(daemon.gantry(&["ps"]).ok().stdout.contains("web"));
    let listed = daemon.ctr(&["-n", "default", "containers", "ls", "-q"]).ok();
    assert_eq!(listed.text(), id, "ctr and gantry agree");
    daemon.gantry(&["rm", "-f", "web"]).ok();
    let gone = daemon.gantry(&["logs", "web"]).exits(1);
    assert!(gone.stderr.contains("No such container: web"), "{}", gone.stderr);
    daemon.assert_nothing_left();
}

#[test]
fn kill_sends_signals_and_follow_ends_with_the_container() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    daemon
        .gantry(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "kk",
            &image,
            "sh",
            "-c",
            "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done",
        ])
        .ok();
    let mut follow = Terminal::start(daemon.gantry_command(&["logs", "-f", "kk"]));
    follow.expect("ready");
    daemon.gantry(&["kill", "-s", "USR1", "kk"]).ok();
    follow.expect("usr1");
    daemon.gantry(&["kill", "kk"]).ok();
    assert_eq!(follow.wait(), 0);
    wait_for("the end", || {
        daemon.gantry(&["ps", "-a"]).ok().stdout.contains("Exited (137)").then_some(())
    });
    let late = daemon.gantry(&["kill", "kk"]).exits(1);
    assert!(late.stderr.contains("not running"), "{}", late.stderr);
}

#[test]
fn a_follower_misses_nothing_without_being_told() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut args = vec!["run", "-d", "-i", "--network", "none", "--name", "fast"];
    args.extend(["--log-opt", "max-size=20k", "--log-opt", "max-file=2", &image, "sh", "-c"]);
    args.push("while [ ! -e /go ]; do usleep 10000; done; seq 1 100000");
    daemon.gantry(&args).ok();
    let (daemon, go) = (&daemon, &["exec", "fast", "touch", "/go"]);
    let follow = std::thread::scope(|scope| {
        let follow = scope.spawn(move || daemon.gantry(&["logs", "-f", "fast"]).ok());
        daemon.gantry(go).ok();
        follow.join().expect("the client ends")
    });
    let lines: Vec<u32> = follow.lines().iter().map(|l| l.parse().expect("a number")).collect();
    assert!(lines.is_sorted_by(|a, b| a < b));
    assert_eq!(lines.last(), Some(&100_000));
    let told = follow.stderr.contains("rotated away before it could be read");
    assert_eq!(told, lines.len() < 100_000, "{} lines: {}", lines.len(), follow.stderr);
}

#[test]
fn standard_input_and_much_output_pass_unharmed() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let lines = "yes 0123456789abcdef0123456789abcdef | head -n 100000";
    let script =
        format!("{lines} | \"$0\" run --rm -i --network none \"$1\" md5sum; {lines} | md5sum");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).arg(gantry_tests::paths::program("gantry")).arg(&image);
    let sums = run(command.env("GANTRY_ADDRESS", daemon.address())).ok();
    assert_eq!(sums.lines().len(), 2, "{sums:?}");
    assert_eq!(sums.lines()[0], sums.lines()[1]);
    let seq =
        daemon.gantry(&["run", "--rm", "--network", "none", &image, "seq", "1", "200000"]).ok();
    let mut wanted = String::new();
    for n in 1..=200_000 {
        wanted += &format!("{n}\n");
    }
    assert!(seq.stdout == wanted, "{} bytes of {}", seq.stdout.len(), wanted.len());
}

#[test]
fn a_terminal_is_raw_resized_detached_and_restored() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut terminal = Terminal::start(daemon.gantry_command(&[
        "run",
        "-it",
        "--network",
        "none",
        "--name",
        "tty",
        &image,
        "sh",
    ]));
    let before = terminal.modes();
    terminal.expect("# ");
    assert_ne!(terminal.modes(), before, "the terminal is raw");
    terminal.send("stty size; echo a$((1+1))b\n");
    terminal.expect("24 80");
    terminal.expect("a2b");
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(terminal.modes(), before, "the terminal is as it was");
    assert!(daemon.gantry(&["ps"]).ok().stdout.contains("tty"), "it runs on");
    let mut again = Terminal::start(daemon.gantry_command(&["attach", "tty"]));
    again.send("\n");
    again.expect("# ");
    again.send("exit 6\n");
    assert_eq!(again.wait(), 6);
    assert_eq!(again.modes(), before);
    let piped = daemon.gantry(&["run", "--rm", "-it", "--network", "none", &image, "sh"]).exits(1);
    assert!(piped.stderr.contains("not a TTY"), "{}", piped.stderr);
}

#[test]
fn whoever_joins_a_terminal_sees_it_drawn_anew_and_ends_alone() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let draw = "trap 'echo drawn $(stty size)' WINCH; trap 'exit 5' TERM INT; echo up; \
                while :; do sleep 0.05; done";
    let made = ["run", "-it", "--network", "none", "--name", "tty", &image, "sh", "-c", draw];
    let mut first = Terminal::start(daemon.gantry_command(&made));
    first.expect("up");
    first.send("\x10\x11");
    assert_eq!(first.wait(), 0);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut terminal = Terminal::start(daemon.gantry_command(&["attach", "tty"]));
        terminal.expect("drawn 24 80");
        // Signals are proxied by those who attach only where there is no terminal.
        kill(Pid::from_raw(terminal.pid() as i32), signal).expect("signal the client");
        assert_eq!(terminal.wait(), 128 + signal as i32);
    }
    daemon.gantry(&["exec", "tty", "true"]).ok();
    daemon.gantry(&["rm", "-f", "tty"]).ok();
}

#[test]
fn signals_are_proxied_and_the_daemon_cleans_up_after_a_lost_client() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let trap = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut client = Terminal::start(daemon.gantry_command(&[
        "run",
        "--rm",
        "--network",
        "none",
        &image,
        "sh",
        "-c",
        trap,
    ]));
    client.expect("ready");
    kill(Pid::from_raw(client.pid() as i32), Signal::SIGTERM).expect("signal the client");
    client.expect("got");
    assert_eq!(client.wait(), 5);
    let mut client = Terminal::start(daemon.gantry_command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--name",
        "lost",
        &image,
        "sh",
        "-c",
        trap,
    ]));
    client.expect("ready");
    kill(Pid::from_raw(client.pid() as i32), Signal::SIGKILL).expect("kill the client");
    assert_eq!(client.wait(), 137);
    assert!(daemon.gantry(&["ps"]).ok().stdout.contains("lost"), "the container runs on");
    daemon.gantry(&["stop", "lost"]).ok();
    wait_for("its removal", || {
        daemon.gantry(&["ps", "-a", "-q"]).ok().text().is_empty().then_some(())
    });
    daemon.assert_nothing_left();
}

#[test]
fn input_ends_with_its_only_caller() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let run = ["run", "-i", "--rm", "--network", "none", "--name", "filter", &image, "cat"];
    let mut command = daemon.gantry_command(&run);
    let mut client = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let (mut to, mut from) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    to.write_all(b"x").expect("write");
    from.read_exact(&mut [0]).expect("it answers");
    let exec = ["exec", "-i", "filter", "sh", "-c", "echo y; cat; touch /ended"];
    let mut command = daemon.gantry_command(&exec);
    let mut other = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    other.stdout.take().unwrap().read_exact(&mut [0]).expect("it answers");
    other.kill();
    wait_for("the end of the input of exec", || {
        (daemon.gantry(&["exec", "filter", "test", "-e", "/ended"]).code == 0).then_some(())
    });
    client.kill();
    wait_for("the end of the container", || {
        daemon.gantry(&["ps", "-a", "-q"]).ok().text().is_empty().then_some(())
    });
    daemon.assert_nothing_left();
}

#[test]
fn containers_are_named_by_name_id_or_unique_prefix() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut ids = Vec::new();
    for n in 0..17 {
        let name = format!("c{n}");
        ids.push(
            daemon
                .gantry(&["create", "--network", "none", "--name", &name, &image, "true"])
                .ok()
                .text()
                .to_owned(),
        );
    }
    // Of 17 IDs two share their first digit.
    let shared =
        ids.iter().find(|a| ids.iter().filter(|b| b[..1] == a[..1]).count() > 1).expect("pigeons");
    let ambiguous = daemon.gantry(&["rm", &shared[..1]]).exits(1);
    assert!(
        ambiguous.stderr.contains(&shared[..12]),
        "the candidates are named: {}",
        ambiguous.stderr
    );
    let typo = daemon.gantry(&["inspect", "c1x"]).exits(1);
    assert!(typo.stderr.to_lowercase().contains("no such"), "{}", typo.stderr);
    for id in &ids {
        daemon.gantry(&["rm", id]).ok();
    }
    let bad = daemon.gantry(&["create", "--name", "-bad/", "--network", "none", &image]).code;
    assert_ne!(bad, 0);
    assert_eq!(daemon.gantry(&["ps", "-aq"]).ok().text(), "");
    daemon.assert_nothing_left();
}

#[test]
fn images_are_pulled_listed_and_removed() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("debian:latest");
    let pull = daemon.gantry(&["pull", &image]).ok();
    assert!(
        pull.stdout.contains(&image) || pull.stderr.contains(&image),
        "{} {}",
        pull.stdout,
        pull.stderr
    );
    let again = daemon.gantry(&["pull", &image]).ok();
    assert!(
        format!("{}{}", again.stdout, again.stderr).contains("up to date"),
        "{}{}",
        again.stdout,
        again.stderr
    );
    let images = daemon.gantry(&["images"]).ok();
    let row: Vec<_> = images.lines()[1].split_whitespace().collect();
    assert_eq!(
        (row[0], row[1]),
        (image.trim_end_matches(":latest"), "latest"),
        "{}",
        images.stdout
    );
    assert!(row.last().is_some_and(|s| s.ends_with("MB")), "{}", images.stdout);
    let python = daemon
        .gantry(&["run", "--rm", "--network", "none", &image, "python3", "-c", "print(6*7)"])
        .ok();
    assert_eq!(python.stdout, "42\n");
    let inspect = daemon.gantry(&["inspect", &image]).ok();
    let inspect: serde_json::Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    assert_eq!(inspect[0]["Config"]["Cmd"], serde_json::json!(["bash"]));
    let id = inspect[0]["Id"].as_str().expect("an ID");
    let removed = daemon.gantry(&["rmi", &image]).ok();
    assert!(removed.stdout.contains("Untagged"), "{}", removed.stdout);
    assert!(removed.stdout.ends_with(&format!("Deleted: {id}\n")), "{}", removed.stdout);
    assert_eq!(daemon.gantry(&["images", "-q"]).ok().text(), "");
    daemon.gantry(&["rmi", &image]).exits(1);
}

#[test]
fn an_image_for_another_platform_is_not_run() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let other = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    for command in ["run", "create"] {
        for pull in ["missing", "never"] {
            let args = [command, "--network", "none", "--pull", pull, "--platform", other, &image];
            let refused = daemon.gantry(&args);
            assert_ne!(refused.code, 0);
            let words = format!("does not match the specified platform: wanted {other}, actual: ");
            assert!(refused.stderr.contains(&words), "{}", refused.stderr);
        }
    }
    assert_eq!(daemon.gantry(&["ps", "-a", "-q"]).ok().text(), "");
    let own = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    daemon.gantry(&["run", "--rm", "--network", "none", "--platform", own, &image, "true"]).ok();
}

#[test]
fn an_image_whose_files_were_lost_is_shown_and_pulled_again() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    let whole = daemon.gantry(&["images"]).ok();
    let blobs = daemon.root().join("io.containerd.content.v1.content/blobs/sha256");
    for (n, blob) in std::fs::read_dir(&blobs).expect("blobs").flatten().enumerate() {
        if n == 0 {
            std::fs::write(blob.path(), "short").expect("shorten a blob");
        } else {
            std::fs::remove_file(blob.path()).expect("remove a blob");
        }
    }
    // What was read once is known until then.
    daemon.stop();
    daemon.restart();
    let listed = daemon.gantry(&["images"]).ok();
    assert_eq!(listed.lines().len(), 2, "{}", listed.stdout);
    assert!(listed.stderr.contains(&format!("{image} is damaged")), "{}", listed.stderr);
    daemon.gantry(&["pull", "-q", &image]).ok();
    let listed = daemon.gantry(&["images"]).ok();
    assert_eq!((listed.stdout, listed.stderr.as_str()), (whole.stdout, ""));
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
}

#[test]
fn a_container_is_removed_by_force_while_it_is_being_started() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    for _ in 0..10 {
        let args = ["run", "-d", "--network", "none", "--name", "race", &image, "sleep", "600"];
        let mut command = daemon.gantry_command(&args);
        let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
        let mut start = gantry_tests::start(command.stdout(out).stderr(err));
        wait_for("the end of the client", || {
            daemon.gantry(&["rm", "-f", "race"]).ok();
            start.try_wait().expect("it can be waited for")
        });
        daemon.gantry(&["rm", "-f", "race"]).ok();
    }
    daemon.assert_nothing_left();
}

#[test]
fn version_info_and_a_missing_daemon() {
    let mut daemon = Daemon::start();
    let version = daemon.gantry(&["version"]).ok();
    assert!(
        version.stdout.contains("Client") && version.stdout.contains("Server"),
        "{}",
        version.stdout
    );
    let info = daemon.gantry(&["info"]).ok();
    assert!(info.stdout.contains("overlayfs"), "{}", info.stdout);
    daemon.stop();
    let absent = daemon.gantry(&["ps"]).exits(1);
    assert!(absent.stderr.contains("Is it running"), "{}", absent.stderr);
    daemon.gantry(&["run", "busybox"]).exits(125);
}

#[test]
fn a_daemon_without_work_gives_its_program_back_to_the_page_cache() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
    wait_for("pages of files to be given back", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("RssFile:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        (kib < 10 << 10).then_some(())
    });
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
}
