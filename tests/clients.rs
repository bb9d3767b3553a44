//! Clients in other languages, and of other people, against a real daemon.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use gantry_tests::{Daemon, Output, Registry, paths, run_within};

/// Their packages and generated code; made once and kept.
fn set_up() -> PathBuf {
    let out = paths::fixtures().with_file_name("clients");
    let script = paths::source().join("tests/setup/clients");
    run_within(Command::new(script).arg(&out), Duration::from_secs(900)).ok();
    out
}

fn client(name: &str) -> PathBuf {
    paths::source().join("tests/clients").join(name)
}

fn python(name: &str, args: &[&str], daemon: &Daemon) -> Output {
    let out = set_up();
    let mut command = Command::new(out.join("python/bin/python"));
    command.env("PYTHONPATH", out.join("generated")).arg("-B").arg(client(name));
    command.arg(daemon.address()).args(args);
    run_within(&mut command, Duration::from_secs(120)).ok()
}

const EVENTS: &str = "events created started died removed";

#[test]
fn python_through_the_engine() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let out = python("python/engine.py", &[&image], &daemon);
    let want = [
        &format!("pulled {image}"),
        "exec 0 x",
        "log hello from python",
        "exit 137",
        EVENTS,
        "error gantry.dev NOT_FOUND container",
    ];
    assert_eq!(out.lines(), want);
    daemon.assert_nothing_left();
}

#[test]
fn python_through_containerds_api() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let out = python("python/tasks.py", &[&image, &daemon.cgroup()], &daemon);
    assert_eq!(out.lines(), ["pulled", "started True", "exit 137", "gone NOT_FOUND"]);
    daemon.assert_nothing_left();
}

/// With the crate `containerd-client`.
#[test]
fn rust_through_containerds_api() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let mut command = Command::new(set_up().join("rust/release/containerd-client-example"));
    command.arg(daemon.address()).arg(&image).arg(daemon.cgroup());
    let out = run_within(&mut command, Duration::from_secs(120)).ok();
    assert_eq!(out.lines(), ["pulled", "started true", "exit 137", "gone true"]);
    daemon.assert_nothing_left();
}

#[test]
fn node_through_the_engine() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let out = set_up();
    let mut command = Command::new("node");
    // Packages are looked for beside the program.
    let program = out.join("node/engine.js");
    std::fs::copy(client("node/engine.js"), &program).expect("copy the client");
    command.arg(program).arg(daemon.address()).arg(&image).arg(paths::source().join("proto"));
    let out = run_within(&mut command, Duration::from_secs(120)).ok();
    let want = [
        &format!("pulled {image}"),
        "run 0 hello",
        "exec 0 inside",
        "log from node",
        "exit 137",
        EVENTS,
        "error NOT_FOUND",
    ];
    assert_eq!(out.lines(), want);
    daemon.assert_nothing_left();
}
