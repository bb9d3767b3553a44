//! The built binary against a daemon that is played: exit codes, streams,
//! signals, and the terminal, which is as before whatever happened.

mod fake;
mod networks;
mod shells;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::gantry::engine::v1::{PullPolicy, Resize, RunContainer};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use fake::{Fake, LOG_ENTRIES, LOG_ENTRY};

const BINARY: &str = env!("CARGO_BIN_EXE_gantry");

/// How long something that must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn gantry(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.env("GANTRY_ADDRESS", fake.socket()).env_remove("GANTRY_NAMESPACE").args(arguments);
    command
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("run gantry")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Starts with all three streams as pipes.
fn piped(fake: &Fake, arguments: &[&str]) -> Child {
    let mut command = gantry(fake, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start gantry")
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("send a signal");
}

fn next(fake: &Fake) -> Input {
    fake.seen.recv_timeout(PATIENCE).expect("something came")
}

/// Reads until `ready` was printed.
fn wait_ready(from: &mut impl Read) {
    let mut seen = Vec::new();
    let mut piece = [0; 256];
    while !text(&seen).contains("ready") {
        let n = from.read(&mut piece).expect("read");
        assert_ne!(n, 0, "ended after {:?}", text(&seen));
        seen.extend_from_slice(&piece[..n]);
    }
}

#[test]
fn the_exit_code_is_the_commands() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["run", "--network", "none", "exit", "42"]));
    assert_eq!(ended.status.code(), Some(42));
    assert_eq!((text(&ended.stdout), text(&ended.stderr)), ("", ""));
    let ended = output(&mut gantry(&fake, &["run", "missing"]));
    assert_eq!(ended.status.code(), Some(127));
    assert_eq!(text(&ended.stderr), "Error: no such command\n");
}

#[test]
fn what_the_daemon_refuses_or_loses_is_125_for_run() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["run", "--network=none", "-d", "x"]));
    assert_eq!(ended.status.code(), Some(125));
    assert_eq!(text(&ended.stderr), "Error: No such image: x\n");
    let ended = output(&mut gantry(&fake, &["run", "--network=none", "lost"]));
    assert_eq!(ended.status.code(), Some(125));
    assert!(text(&ended.stderr).contains("ended the session"), "{}", text(&ended.stderr));
}

#[test]
fn without_a_daemon_users_are_told_what_to_do() {
    for (command, code) in [(&["run", "--network=none", "x"][..], 125), (&["ps"], 1)] {
        let mut gantry = Command::new(BINARY);
        let ended = output(gantry.args(["--address", "unix:///nowhere/g.sock"]).args(command));
        assert_eq!(ended.status.code(), Some(code));
        assert_eq!(
            text(&ended.stderr),
            "Error: Cannot connect to gantryd at unix:///nowhere/g.sock. \
             Is it running? Start it with: systemctl start gantryd\n"
        );
    }
}

#[test]
fn standard_input_flows_both_ways_and_ends() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["run", "-i", "--network=none", "echo"]);
    let sent: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut stdin = child.stdin.take().expect("piped");
    let copy = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let ended = child.wait_with_output().expect("wait");
    writer.join().expect("no panic").expect("all is written");
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.stdout[6..] == sent, "{} bytes came back", ended.stdout.len());
}

#[test]
fn an_open_standard_input_does_not_hold_up_the_end() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["run", "-i", "exit", "3"]);
    let stdin = child.stdin.take();
    assert_eq!(child.wait().expect("wait").code(), Some(3));
    drop(stdin);
}

#[test]
fn signals_are_handed_on() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["run", "hang"]);
    wait_ready(child.stdout.as_mut().expect("piped"));
    assert!(matches!(next(&fake), Input::Run(_)));
    signal(&child, Signal::SIGTERM);
    assert_eq!(next(&fake), Input::Signal("SIGTERM".to_owned()));
    assert_eq!(child.wait().expect("wait").code(), Some(7));
}

#[test]
fn signals_overtake_standard_input() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["run", "-i", "hang"]);
    wait_ready(child.stdout.as_mut().expect("piped"));
    assert!(matches!(next(&fake), Input::Run(_)));
    signal(&child, Signal::SIGUSR1);
    assert_eq!(next(&fake), Input::Signal("kill SIGUSR1".to_owned()));
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn three_interrupts_end_the_client() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["run", "stubborn"]);
    wait_ready(child.stdout.as_mut().expect("piped"));
    assert!(matches!(next(&fake), Input::Run(_)));
    for _ in 0..2 {
        signal(&child, Signal::SIGINT);
        assert_eq!(next(&fake), Input::Signal("SIGINT".to_owned()));
    }
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().expect("wait").code(), Some(130));
}

#[test]
fn one_signal_ends_who_waits_for_a_start() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["run", "-i", "--attach=stdin", "slow"]);
    // It is told as soon as there is a container.
    let mut id = [0; 64];
    child.stdout.as_mut().expect("piped").read_exact(&mut id).expect("read");
    assert_eq!(text(&id), fake::id());
    signal(&child, Signal::SIGTERM);
    let begun = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().expect("wait") {
            break ended;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(ended.signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let fake = Fake::start();
    for arguments in [&["run", "--network=none", "flood"][..], &["ps"]] {
        let mut child = piped(&fake, arguments);
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("wait");
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{arguments:?}");
    }
}

/// Starts with a pipe as standard output on which writing does not wait.
fn unwaiting(fake: &Fake, arguments: &[&str]) -> (Child, PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("make a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("set the flags");
    let end = writer.try_clone().expect("share the pipe");
    let mut command = gantry(fake, arguments);
    command.stdin(Stdio::null()).stdout(end).stderr(Stdio::piped());
    (command.spawn().expect("start gantry"), reader, writer)
}

/// Waits until the pipe is full; false when its writer has ended.
fn is_filled(writer: &PipeWriter, child: &mut Child) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut fds = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, PollTimeout::ZERO).expect("poll") == 0 {
            return true;
        }
        if child.try_wait().expect("wait").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the pipe does not fill");
}

#[test]
fn a_slow_reader_gets_all_where_writing_does_not_wait() {
    let fake = Fake::start();
    let (mut child, mut reader, writer) = unwaiting(&fake, &["logs", "web"]);
    let mut piece = [0; 50_000];
    let mut seen = Vec::new();
    while is_filled(&writer, &mut child) {
        let n = reader.read(&mut piece).expect("read");
        seen.extend_from_slice(&piece[..n]);
    }
    drop(writer);
    reader.read_to_end(&mut seen).expect("read");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""));
    assert_eq!(seen.len(), LOG_ENTRIES * LOG_ENTRY);
    for (n, entry) in seen.chunks(LOG_ENTRY).enumerate() {
        assert!(entry.iter().all(|byte| *byte == n as u8), "entry {n}");
    }
}

#[test]
fn a_reader_may_go_where_writing_does_not_wait() {
    let fake = Fake::start();
    for arguments in [&["run", "--network=none", "flood"][..], &["logs", "web"]] {
        let (mut child, reader, writer) = unwaiting(&fake, arguments);
        assert!(is_filled(&writer, &mut child), "{arguments:?}");
        drop((reader, writer));
        let ended = child.wait_with_output().expect("wait");
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_log_goes_on_where_it_was_when_the_daemon_is_back() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["logs", "-f", "flaky"]));
    assert_eq!(ended.status.code(), Some(0));
    let wanted: String = (0..10).map(|n| format!("{n}\n")).collect();
    assert_eq!(text(&ended.stdout), wanted);
    assert_eq!(text(&ended.stderr).matches("connected again").count(), 2);
    // Only who follows waits for it.
    let ended = output(&mut gantry(&fake, &["logs", "flaky"]));
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(text(&ended.stdout), "0\n1\n2\n3\n");
    assert_eq!(text(&ended.stderr), "Error: the daemon ends\n");
}

/// What the daemon is asked for.
fn asked(fake: &Fake, arguments: &str) -> RunContainer {
    output(gantry(fake, &["run"]).args(arguments.split(' ')));
    let Input::Run(run) = next(fake) else { panic!("not a run") };
    run
}

#[test]
fn of_repeated_options_the_last_counts() {
    let fake = Fake::start();
    let run = asked(&fake, "-u 0 --network none --pull never -u 1 --pull always exit 0");
    assert_eq!(run.pull(), PullPolicy::Always);
    let spec = run.spec.expect("a container");
    assert_eq!((spec.user.as_str(), spec.network.as_str()), ("1", "none"));
    let spec = asked(&fake, "-e A=1 -e B=2 -l a -l b exit 0").spec.expect("a container");
    assert_eq!(spec.env, ["A=1", "B=2"]);
    assert_eq!(spec.labels.len(), 2);
    assert_eq!(output(&mut gantry(&fake, &["ps", "-a", "--all", "-qq"])).status.code(), Some(0));
}

#[test]
fn switches_may_have_values() {
    let fake = Fake::start();
    for (line, rm, stdin, tty, detach) in [
        ("--rm --rm lost", true, false, false, false),
        ("--rm=true --tty=false lost", true, false, false, false),
        ("--rm --rm=0 -t -t=F lost", false, false, false, false),
        ("--rm=false --rm lost", true, false, false, false),
        ("-itd lost", false, true, true, true),
        ("-it=false -d=0 lost", false, true, false, false),
        ("-itdi=0 --rm=T lost", true, false, true, true),
        ("-i --rm=false lost --rm --tty=maybe", false, true, false, false),
        ("-iu 1 --sig-proxy=f lost", false, true, false, false),
    ] {
        let run = asked(&fake, line);
        let spec = run.spec.expect("a container");
        assert_eq!(spec.image, "lost", "{line}");
        let got = (spec.auto_remove, spec.open_stdin, spec.tty, run.detach);
        assert_eq!(got, (rm, stdin, tty, detach), "{line}");
    }
    let apart = asked(&fake, "-d --rm false lost").spec.expect("a container");
    assert_eq!((apart.image.as_str(), apart.command), ("false", vec!["lost".to_owned()]));
    for value in ["--rm=maybe", "--rm=", "-i=yes", "--sig-proxy=2"] {
        let ended = output(&mut gantry(&fake, &["run", value, "lost"]));
        assert_eq!(ended.status.code(), Some(125), "{value}");
        let name = value.split('=').next().expect("a name");
        let said = text(&ended.stderr);
        let name = if name == "-i" { "--interactive" } else { name };
        assert!(said.contains(name) && said.contains("write true or false"), "{said}");
    }
}

#[test]
fn a_variable_without_a_value_is_the_callers_or_taken_away() {
    let fake = Fake::start();
    let mut command = gantry(&fake, &["run", "-e", "MINE", "-e", "NOBODYS", "exit", "0"]);
    output(command.env("MINE", "a b").env_remove("NOBODYS"));
    let Input::Run(run) = next(&fake) else { panic!("not a run") };
    assert_eq!(run.spec.expect("a container").env, ["MINE=a b", "NOBODYS"]);
}

#[test]
fn the_file_of_the_id_is_there_with_its_container_only() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("make a directory");
    let path = dir.path().join("id");
    let file = path.to_str().expect("text");
    for (line, code) in [
        (["run", "--cidfile", file, "exit", "3"], 125),
        (["create", "--cidfile", file, "x", "y"], 1),
    ] {
        output(&mut gantry(&fake, &line));
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), fake::id(), "{line:?}");
        let again = output(&mut gantry(&fake, &line));
        assert_eq!(again.status.code(), Some(code), "{line:?}");
        let said = text(&again.stderr);
        assert!(said.contains("container ID file found, make sure the other"), "{said}");
        std::fs::remove_file(&path).expect("remove the file");
    }
    for line in
        [["run", "-d", "--cidfile", file, "x"], ["create", "-t", "--cidfile", file, "missing"]]
    {
        let ended = output(&mut gantry(&fake, &line));
        assert!(text(&ended.stderr).contains("No such image"), "{}", text(&ended.stderr));
        assert!(!path.exists(), "{line:?}");
    }
}

#[test]
fn only_streams_that_were_asked_for_are_shown() {
    let fake = Fake::start();
    let shown = |streams: &[&str]| {
        let line = [&["run", "--network=none", "-i"][..], streams, &["echo"]].concat();
        let ended = output(&mut gantry(&fake, &line));
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{streams:?}");
        text(&ended.stdout).to_owned()
    };
    assert_eq!(shown(&["-a", "stdin", "-a", "stdout"]), "ready\n");
    assert_eq!(shown(&["-a", "STDERR"]), "");
    assert_eq!(shown(&["--attach=stdin"]), format!("{}\n", fake::id()));
    let both = output(&mut gantry(&fake, &["run", "-d", "-a", "stdout", "x"]));
    assert_eq!(both.status.code(), Some(125));
    let said = "Error: conflicting options: cannot specify both --attach and --detach\n";
    assert_eq!(text(&both.stderr), said);
}

#[test]
fn what_docker_has_and_gantry_has_not_is_refused_by_name() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["run", "--security-opt=label=user:u", "x"]));
    assert_eq!(ended.status.code(), Some(125));
    let said = text(&ended.stderr);
    assert!(said.contains("--security-opt") && !said.contains("unexpected argument"), "{said}");
    for (line, name) in
        [(["start", "--checkpoint=x", "c"], "--checkpoint"), (["rm", "-l", "c"], "--link")]
    {
        let ended = output(&mut gantry(&fake, &line));
        assert_eq!(ended.status.code(), Some(1));
        let said = format!("Error: {name} is not supported: ");
        assert!(text(&ended.stderr).starts_with(&said), "{}", text(&ended.stderr));
    }
}

#[test]
fn options_of_sessions_reach_the_daemon() {
    let fake = Fake::start();
    output(&mut gantry(&fake, &["exec", "-d", "--privileged", "-w", "/x", "c", "true", "-d"]));
    let Input::Exec(exec) = next(&fake) else { panic!("not an exec") };
    assert!(exec.detach && exec.privileged && !exec.attach_stdin);
    assert_eq!((exec.working_dir.as_str(), exec.command.len()), ("/x", 2));
    output(&mut gantry(&fake, &["start", "-ai", "c"]));
    let Input::Attach(attach) = next(&fake) else { panic!("not an attach") };
    assert!(attach.start && attach.attach_stdin);
    assert_eq!(attach.container, fake::id());
    let several = output(&mut gantry(&fake, &["start", "-a", "c", "d"]));
    let said = "Error: you cannot start and attach multiple containers at once\n";
    assert_eq!((several.status.code(), text(&several.stderr)), (Some(1), said));
    let nothing = output(&mut gantry(&fake, &["update", "c"]));
    assert!(text(&nothing.stderr).contains("you must provide one or more flags"));
}

#[test]
fn calls_that_the_daemon_does_not_know_are_named() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["volume", "ls"]));
    assert_eq!(ended.status.code(), Some(1));
    let said = "Error: the daemon does not know gantry.engine.v1.Volumes/List: is it older than \
                this gantry?\n";
    assert_eq!(text(&ended.stderr), said);
}

#[test]
fn what_is_not_text_is_refused() {
    let fake = Fake::start();
    let bytes = OsStr::from_bytes(b"a\xffb");
    let mut command = gantry(&fake, &["run", "-e", "BYTES", "exit", "0"]);
    let ended = output(command.env("BYTES", bytes));
    assert_eq!(ended.status.code(), Some(125));
    assert_eq!(
        text(&ended.stderr),
        "Error: your value of environment variable \"BYTES\" is not UTF-8\n"
    );
    let ended = output(gantry(&fake, &["run", "echo"]).arg(bytes));
    assert_eq!(ended.status.code(), Some(125));
    assert_eq!(text(&ended.stderr), "error: arguments must be UTF-8, unlike \"a\\xFFb\"\n");
    let ended = output(gantry(&fake, &["ps"]).env("GANTRY_NAMESPACE", bytes));
    assert_eq!(ended.status.code(), Some(125));
    assert!(text(&ended.stderr).contains("UTF-8"), "{}", text(&ended.stderr));
}

#[test]
fn every_target_is_tried() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["rm", "a", "no-b", "c"]));
    assert_eq!(ended.status.code(), Some(1));
    let mut removed: Vec<_> = text(&ended.stdout).lines().collect();
    removed.sort_unstable();
    assert_eq!(removed, ["a", "c"]);
    assert_eq!(text(&ended.stderr), "Error: No such container: no-b\n");
    assert_eq!(output(&mut gantry(&fake, &["rm", "-f", "no-b"])).status.code(), Some(0));
}

#[test]
fn a_terminal_is_asked_for_only_when_it_is_typed_at() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["run", "-it", "exit", "0"]));
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(text(&ended.stderr), "Error: the input device is not a TTY\n");
    assert_eq!(output(&mut gantry(&fake, &["run", "-t", "exit", "0"])).status.code(), Some(0));
}

/// gantry on a terminal.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Child,
}

impl Terminal {
    fn start(fake: &Fake, arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("open a terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("share the terminal"));
        // Not as its controlling terminal: that would be reset when gantry
        // ends, and always look restored.
        let mut command = gantry(fake, arguments);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("start");
        Self { master: File::from(pty.master), slave: pty.slave, child }
    }

    /// Whether keys go to the program one by one.
    fn is_raw(&self) -> bool {
        let modes = tcgetattr(self.slave.as_fd()).expect("read the modes");
        !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn end(&mut self) -> Option<i32> {
        self.child.wait().expect("wait").code()
    }
}

#[test]
fn the_terminal_is_raw_in_a_session_and_not_after_it() {
    let fake = Fake::start();
    let mut terminal = Terminal::start(&fake, &["run", "-it", "--network=none", "hang"]);
    wait_ready(&mut terminal.master);
    assert!(terminal.is_raw());
    let Input::Run(run) = next(&fake) else { panic!("not a run") };
    assert_eq!(run.size, Some(Resize { columns: 80, rows: 24 }));

    let resized = Command::new("stty")
        .args(["cols", "100", "rows", "30"])
        .stdin(terminal.slave.try_clone().expect("share the terminal"))
        .status();
    assert!(resized.expect("run stty").success());
    signal(&terminal.child, Signal::SIGWINCH);
    assert_eq!(next(&fake), Input::Resize(Resize { columns: 100, rows: 30 }));

    // ctrl-p ctrl-q
    terminal.master.write_all(&[16, 17]).expect("type");
    assert_eq!(terminal.end(), Some(0));
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_is_restored_when_the_container_ends() {
    let fake = Fake::start();
    let mut terminal = Terminal::start(&fake, &["run", "-it", "--network=none", "exit", "9"]);
    assert_eq!(terminal.end(), Some(9));
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_is_restored_when_a_signal_ends_the_client() {
    let fake = Fake::start();
    for (number, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut terminal = Terminal::start(&fake, &["run", "-it", "--network=none", "hang"]);
        wait_ready(&mut terminal.master);
        assert!(terminal.is_raw());
        assert!(matches!(next(&fake), Input::Run(_)));
        signal(&terminal.child, number);
        assert_eq!(terminal.end(), Some(code));
        assert!(!terminal.is_raw());
        assert_eq!(next(&fake), Input::Signal(format!("kill {number}")));
    }
}
