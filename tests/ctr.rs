//! Debian's `ctr`, which nobody here wrote, against our socket.

use std::process::Command;
use std::time::Duration;

use gantry_tests::{Daemon, Output, Registry, Terminal, run, wait_for};

/// A daemon with a namespace of the test's own, which also names the cgroups.
struct Ctr {
    daemon: Daemon,
    image: String,
}

impl Ctr {
    fn start() -> Self {
        Self { daemon: Daemon::start(), image: Registry::shared().reference("busybox:latest") }
    }

    fn pulled() -> Self {
        let ctr = Self::start();
        ctr.run(&["images", "pull", "--plain-http", &ctr.image]).ok();
        ctr
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut all = vec!["-n", self.daemon.name()];
        all.extend(args);
        self.daemon.ctr_command(&all)
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&mut self.command(args))
    }

    fn container(&self, args: &[&str]) -> Output {
        let mut all = vec!["run", "--rm"];
        all.extend(args);
        self.run(&all)
    }
}

#[test]
fn version_and_namespaces() {
    let ctr = Ctr::start();
    let version = ctr.run(&["version"]).ok();
    assert!(version.stdout.contains("Server:"), "{}", version.stdout);
    ctr.run(&["namespaces", "create", "xx", "k=v"]).ok();
    ctr.run(&["namespaces", "label", "xx", "a=b"]).ok();
    let list = ctr.run(&["namespaces", "ls"]).ok();
    let row =
        list.lines().into_iter().find(|l| l.starts_with("xx")).expect("xx is listed").to_owned();
    assert!(row.contains("k=v") && row.contains("a=b"), "{row}");
    let again = ctr.run(&["namespaces", "create", "xx"]).exits(1);
    assert!(again.stderr.contains("already exists"), "{}", again.stderr);
    ctr.run(&["namespaces", "rm", "xx"]).ok();
    assert!(!ctr.run(&["namespaces", "ls"]).ok().stdout.contains("xx"));
    let plugins = ctr.run(&["plugins", "ls"]).ok();
    assert!(plugins.stdout.contains("overlayfs"), "{}", plugins.stdout);
}

#[test]
fn images_come_and_go() {
    let ctr = Ctr::pulled();
    let list = ctr.run(&["images", "ls"]).ok();
    let row =
        list.lines().into_iter().find(|l| l.starts_with(&ctr.image)).expect("listed").to_owned();
    assert!(row.contains("linux/amd64"), "{row}");
    let names = ctr.run(&["images", "ls", "-q"]).ok();
    assert_eq!(names.text(), ctr.image);
    let check = ctr.run(&["images", "check"]).ok();
    assert!(check.stdout.contains("complete"), "{}", check.stdout);
    ctr.run(&["images", "label", &ctr.image, "foo=bar"]).ok();
    let list = ctr.run(&["images", "ls"]).ok();
    assert!(list.stdout.contains("foo=bar"), "{}", list.stdout);
    ctr.run(&["images", "rm", &ctr.image]).ok();
    assert_eq!(ctr.run(&["images", "ls", "-q"]).ok().text(), "");
    let gone = ctr.container(&[&ctr.image, "x", "true"]).exits(1);
    assert!(gone.stderr.contains("not found"), "{}", gone.stderr);
}

#[test]
fn run_gives_output_and_exit_code() {
    let ctr = Ctr::pulled();
    assert_eq!(ctr.container(&[&ctr.image, "a", "echo", "hello"]).ok().stdout, "hello\n");
    ctr.container(&[&ctr.image, "b", "sh", "-c", "exit 3"]).exits(3);
    let both = ctr.container(&[&ctr.image, "c", "sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let missing = ctr.container(&[&ctr.image, "d", "/nope"]).exits(1);
    assert!(missing.stderr.contains("no such file or directory"), "{}", missing.stderr);
    let scratch = ctr.daemon.scratch().display().to_string();
    let mount = format!("type=bind,src={scratch},dst=/mnt,options=rbind:ro");
    let options = ctr
        .container(&[
            "--net-host",
            "--env",
            "A=b",
            "--cwd",
            "/tmp",
            "--memory-limit",
            "67108864",
            "--label",
            "x=y",
            "--mount",
            &mount,
            &ctr.image,
            "e",
            "sh",
            "-c",
            "pwd; echo $A; touch /mnt/x || echo read-only",
        ])
        .ok();
    assert_eq!(options.stdout, "/tmp\nb\nread-only\n", "{}", options.stderr);
    ctr.daemon.assert_nothing_left();
}

#[test]
fn run_on_a_terminal() {
    let ctr = Ctr::pulled();
    let mut terminal = Terminal::start(ctr.command(&["run", "--rm", "-t", &ctr.image, "t", "sh"]));
    terminal.expect("# ");
    terminal.send("tty; stty size\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("24 80");
    terminal.resize(30, 100);
    wait_for("the new size", || {
        terminal.send("stty size\n");
        terminal.expect("# ").contains("30 100").then_some(())
    });
    terminal.send("exit 5\n");
    assert_eq!(terminal.wait(), 5);
    ctr.daemon.assert_nothing_left();
}

#[test]
fn tasks_are_listed_entered_paused_measured_and_ended() {
    let ctr = Ctr::pulled();
    ctr.run(&["run", "-d", &ctr.image, "d", "sleep", "600"]).ok();
    let list = ctr.run(&["tasks", "ls"]).ok();
    assert!(list.stdout.contains("RUNNING"), "{}", list.stdout);
    assert_eq!(
        ctr.run(&["tasks", "exec", "--exec-id", "e1", "d", "echo", "ex"]).ok().stdout,
        "ex\n"
    );
    ctr.run(&["tasks", "exec", "--exec-id", "e2", "d", "sh", "-c", "exit 4"]).exits(4);
    ctr.run(&["tasks", "exec", "-d", "--exec-id", "e3", "d", "sleep", "300"]).ok();
    let ps = ctr.run(&["tasks", "ps", "d"]).ok();
    assert_eq!(ps.lines().len(), 3, "two processes and a heading: {}", ps.stdout);
    ctr.run(&["tasks", "kill", "--exec-id", "e3", "-s", "KILL", "d"]).ok();
    let metrics = ctr.run(&["tasks", "metrics", "--format", "json", "d"]).ok();
    let metrics: serde_json::Value =
        serde_json::from_str(&metrics.stdout).expect("metrics are JSON");
    assert!(metrics["memory"]["usage"]["usage"].as_u64().is_some_and(|n| n > 0), "{metrics}");
    assert!(metrics["cpu"]["usage"]["total"].as_u64().is_some_and(|n| n > 0), "{metrics}");
    ctr.run(&["tasks", "pause", "d"]).ok();
    assert!(ctr.run(&["tasks", "ls"]).ok().stdout.contains("PAUSED"));
    ctr.run(&["tasks", "resume", "d"]).ok();
    assert!(ctr.run(&["tasks", "ls"]).ok().stdout.contains("RUNNING"));
    let refused = ctr.run(&["tasks", "rm", "d"]).exits(1);
    assert!(
        refused.stderr.contains("failed precondition")
            || refused.stderr.contains("must be stopped"),
        "{}",
        refused.stderr
    );
    ctr.run(&["tasks", "kill", "-a", "-s", "9", "d"]).ok();
    wait_for("the end of the task", || {
        ctr.run(&["tasks", "ls"]).ok().stdout.contains("STOPPED").then_some(())
    });
    // `ctr tasks rm` ends with the exit code of the task it removed.
    ctr.run(&["tasks", "rm", "d"]);
    assert_eq!(ctr.run(&["tasks", "ls", "-q"]).ok().text(), "");
    ctr.run(&["tasks", "start", "-d", "d"]).ok();
    ctr.run(&["tasks", "rm", "-f", "d"]);
    ctr.run(&["containers", "rm", "d"]).ok();
    ctr.daemon.assert_nothing_left();
}

#[test]
fn containers_are_records() {
    let ctr = Ctr::pulled();
    ctr.run(&["containers", "create", &ctr.image, "c", "sleep", "9"]).ok();
    let twice = ctr.run(&["containers", "create", &ctr.image, "c", "sleep", "9"]).exits(1);
    assert!(twice.stderr.contains("already exists"), "{}", twice.stderr);
    let bad = ctr.run(&["containers", "create", &ctr.image, "x/bad", "echo"]).exits(1);
    assert!(bad.stderr.contains("x/bad"), "{}", bad.stderr);
    ctr.run(&["containers", "label", "c", "k=v"]).ok();
    let info = ctr.run(&["containers", "info", "c"]).ok();
    let info: serde_json::Value = serde_json::from_str(&info.stdout).expect("info is JSON");
    assert_eq!(info["ID"], "c");
    assert_eq!(info["Image"], ctr.image.as_str());
    assert_eq!(info["Labels"]["k"], "v");
    assert_eq!(info["Spec"]["process"]["args"], serde_json::json!(["sleep", "9"]));
    assert_eq!(ctr.run(&["containers", "ls", "-q"]).ok().text(), "c");
    assert_eq!(ctr.run(&["containers", "ls", "-q", "id~=zz"]).ok().text(), "");
    ctr.run(&["containers", "rm", "c"]).ok();
    ctr.run(&["containers", "rm", "c"]).exits(1);
    assert_eq!(ctr.run(&["containers", "ls", "-q"]).ok().text(), "");
}

#[test]
fn snapshots_and_content() {
    let ctr = Ctr::pulled();
    let list = ctr.run(&["snapshots", "ls"]).ok();
    let committed: Vec<_> = list.lines().into_iter().filter(|l| l.contains("Committed")).collect();
    assert_eq!(committed.len(), 1, "{}", list.stdout);
    let chain = committed[0].split_whitespace().next().expect("a name").to_owned();
    ctr.run(&["snapshots", "prepare", "act", &chain]).ok();
    let mounts = ctr.run(&["snapshots", "mounts", "/x", "act"]).ok();
    assert!(
        mounts.stdout.contains("overlay") && mounts.stdout.contains("upperdir="),
        "{}",
        mounts.stdout
    );
    let held = ctr.run(&["snapshots", "rm", &chain]).exits(1);
    assert!(held.stderr.contains("failed precondition"), "{}", held.stderr);
    ctr.run(&["snapshots", "commit", "com", "act"]).ok();
    ctr.run(&["snapshots", "usage", "com"]).ok();
    ctr.run(&["snapshots", "rm", "com"]).ok();
    assert!(!ctr.run(&["snapshots", "ls"]).ok().stdout.contains("com "));

    let blobs = ctr.run(&["content", "ls", "-q"]).ok();
    assert_eq!(blobs.lines().len(), 3, "manifest, configuration and layer: {}", blobs.stdout);
    let mut kinds = Vec::new();
    for digest in blobs.lines() {
        let mut hash = Command::new("sh");
        hash.arg("-c").arg("ctr --address \"$0\" -n \"$1\" content get \"$2\" | sha256sum");
        hash.arg(ctr.daemon.address()).args([ctr.daemon.name(), digest]);
        let sum = run(&mut hash).ok().stdout;
        kinds.push(format!("sha256:{}", sum.split_whitespace().next().unwrap_or_default()));
    }
    assert_eq!(kinds, blobs.lines());
    let missing = ctr.run(&["content", "get", &format!("sha256:{}", "0".repeat(64))]).exits(1);
    assert!(missing.stderr.contains("not found"), "{}", missing.stderr);
}

#[test]
fn events_tell_the_life_of_a_container() {
    let ctr = Ctr::pulled();
    let mut listener = Terminal::start(ctr.command(&["events"]));
    // The subscription is there when an event of it is seen.
    wait_for("the subscription", || {
        ctr.run(&["containers", "create", &ctr.image, "probe", "true"]).ok();
        ctr.run(&["containers", "rm", "probe"]).ok();
        std::thread::sleep(Duration::from_millis(50));
        listener.poll();
        listener.rest().contains("/containers/delete").then_some(())
    });
    ctr.container(&[&ctr.image, "ev", "sh", "-c", "exit 3"]).exits(3);
    for topic in [
        "/snapshot/prepare",
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/containers/delete",
    ] {
        let line = listener.expect(topic);
        assert!(line.contains(ctr.daemon.name()), "{line}");
    }
    assert!(!listener.rest().contains("/tasks/exit"), "told twice: {}", listener.rest());
}
