//! All that is known of containers, images and volumes, in Docker's words.

use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Output, run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const RUN: [&str; 4] = ["run", "-d", "--network", "none"];

fn inspected(daemon: &Daemon, line: &[&str]) -> Value {
    let output = daemon.gantry(line).ok();
    let mut all: Value = serde_json::from_str(&output.stdout).expect("JSON");
    all[0].take()
}

fn shown(daemon: &Daemon, format: &str, name: &str) -> String {
    daemon.gantry(&["inspect", "--format", format, name]).ok().text().to_owned()
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains(words), "{:?} lacks {words:?}", output.stderr);
}

#[test]
fn what_was_asked_for_is_shown() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let image = image.as_str();
    let host = daemon.scratch().join("host");
    std::fs::create_dir(&host).expect("make a directory");
    let bind = format!("{}:/in:ro", host.display());
    let flags = [
        "--name",
        "web",
        "-v",
        "data:/data",
        "-v",
        &bind,
        "-v",
        "/anonymous",
        "--tmpfs",
        "/t:size=1m",
        "-m",
        "64m",
        "--cap-add",
        "net_admin",
        "--restart",
        "always",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "--stop-signal",
        "INT",
        "--stop-timeout",
        "3",
        "--read-only",
        "--init",
        "-h",
        "box",
        "--health-cmd",
        "true",
        "--health-interval",
        "100ms",
        "-l",
        "k=v",
    ];
    daemon.gantry(&[&RUN[..], &flags, &[image, "sleep", "600"]].concat()).ok();
    let format = "{{.State.Health.Status}}";
    wait_for("its health", || (shown(&daemon, format, "web") == "healthy").then_some(()));
    let web = inspected(&daemon, &["inspect", "-s", "web"]);
    let host_config = &web["HostConfig"];
    assert_eq!(host_config["Binds"], json!(["data:/data", bind]));
    assert_eq!(host_config["Tmpfs"], json!({"/t": "size=1m"}));
    assert_eq!((&host_config["Memory"], &host_config["Init"]), (&json!(64 << 20), &json!(true)));
    assert_eq!(host_config["CapAdd"], json!(["CAP_NET_ADMIN"]));
    assert_eq!(host_config["RestartPolicy"]["Name"], "always");
    assert_eq!(host_config["ReadonlyRootfs"], true);
    let config = &web["Config"];
    assert_eq!((&config["Hostname"], &config["WorkingDir"]), (&json!("box"), &json!("/tmp")));
    assert_eq!((&config["StopSignal"], &config["StopTimeout"]), (&json!("SIGINT"), &json!(3)));
    assert_eq!(config["Env"][0], "A=1");
    assert_eq!(config["Volumes"], json!({"/anonymous": {}}));
    assert_eq!(config["Healthcheck"]["Interval"], 100_000_000);
    assert!(web["State"]["Health"]["Log"][0]["ExitCode"] == 0, "{}", web["State"]);
    let mounts = web["Mounts"].as_array().expect("a list");
    let kinds: Vec<_> = mounts.iter().map(|m| (m["Type"].as_str(), m["RW"].as_bool())).collect();
    let (volume, bound) = (Some("volume"), Some("bind"));
    assert_eq!(kinds, [(volume, Some(true)), (bound, Some(false)), (volume, Some(true))]);
    assert!(web["SizeRootFs"].as_u64() > Some(0) && web["SizeRw"].is_u64(), "{}", web["SizeRw"]);
    let merged = web["GraphDriver"]["Data"]["MergedDir"].as_str().expect("a path");
    assert!(std::path::Path::new(merged).join("bin/sh").exists(), "{merged}");
    let data = inspected(&daemon, &["volume", "inspect", "data"]);
    assert_eq!(data["Mountpoint"], mounts[0]["Source"]);
}

#[test]
fn further_processes_are_shown_while_they_run() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let image = image.as_str();
    daemon.gantry(&[&RUN[..], &["--name", "c", image, "sleep", "600"]].concat()).ok();
    assert_eq!(shown(&daemon, "{{json .ExecIDs}}", "c"), "null");
    daemon.gantry(&["exec", "-d", "c", "sleep", "600"]).ok();
    let ids: Vec<String> =
        serde_json::from_str(&shown(&daemon, "{{json .ExecIDs}}", "c")).expect("a list");
    assert_eq!((ids.len(), ids[0].len()), (1, 64));
    daemon.gantry(&["restart", "-t", "0", "c"]).ok();
    wait_for("none", || (shown(&daemon, "{{json .ExecIDs}}", "c") == "null").then_some(()));
}

#[test]
fn no_shim_is_waited_for() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let image = image.as_str();
    daemon.gantry(&[&RUN[..], &["--name", "c", image, "sleep", "600"]].concat()).ok();
    let pid = shown(&daemon, "{{.State.Pid}}", "c");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    let shim = Pid::from_raw(shim.trim().parse().expect("a process"));
    kill(shim, Signal::SIGSTOP).expect("stop the shim");
    let begun = Instant::now();
    let status = shown(&daemon, "{{.State.Status}}", "c");
    let took = begun.elapsed();
    kill(shim, Signal::SIGCONT).expect("let the shim go on");
    assert_eq!(status, "running");
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

#[test]
fn what_was_probably_meant_is_told() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let image = image.as_str();
    daemon.gantry(&["create", "--name", "web", "--network", "none", image, "true"]).ok();
    daemon.gantry(&["volume", "create", "pgdata"]).ok();
    let typo = image.replace("busybox", "busybx");
    refused(&daemon.gantry(&["start", "wbe"]), "No such container: wbe. Did you mean web?");
    refused(&daemon.gantry(&["inspect", "wbe"]), "No such object: wbe. Did you mean web?");
    refused(&daemon.gantry(&["inspect", "nothing"]), "No such object: nothing\n");
    let meant = "get pgdta: no such volume. Did you mean pgdata?";
    refused(&daemon.gantry(&["volume", "inspect", "pgdta"]), meant);
    refused(&daemon.gantry(&["volume", "rm", "pgdta"]), meant);
    let meant = format!("No such image: {typo}. Did you mean {image}?");
    refused(&daemon.gantry(&["image", "inspect", &typo]), &meant);
    refused(&daemon.gantry(&["rmi", &typo]), &meant);
    let never = ["create", "--pull", "never", "--network", "none", &typo, "true"];
    refused(&daemon.gantry(&never), &meant);
    // One that is removed is not what was meant.
    daemon.gantry(&["rm", "web"]).ok();
    refused(&daemon.gantry(&["start", "web"]), "No such container: web\n");
}

#[test]
fn what_fails_for_one_is_shown_of_the_others() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    daemon.gantry(&["create", "--name", "web", "--network", "none", &image, "true"]).ok();
    daemon.gantry(&["volume", "create", "data"]).ok();
    let name = daemon.gantry(&["inspect", "-f", "{{.Name}}", "missing", "web", "data"]);
    refused(&name, "No such object: missing");
    assert_eq!(name.stdout, "/web\ndata\n");
    // Only containers have a state, only volumes have a scope.
    for (format, shown) in [("{{.State.Status}}", "created\n"), ("{{.Scope}}", "local\n")] {
        let some = daemon.gantry(&["inspect", "-f", format, "data", "web"]);
        refused(&some, "template parsing error");
        assert_eq!(some.stdout, shown);
    }
    let volumes = daemon.gantry(&["volume", "inspect", "-f", "{{.Name}}", "missing", "data"]);
    refused(&volumes, "no such volume");
    assert_eq!(volumes.stdout, "data\n");
    for command in ["stop", "inspect", "start"] {
        let said = "invalid container name or ID: value is empty";
        refused(&daemon.gantry(&[command, ""]), said);
    }
}

#[test]
fn an_image_whose_name_is_gone_is_listed_by_its_id() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    daemon.gantry(&["create", "--name", "web", "--network", "none", &image, "true"]).ok();
    let listed = || {
        let line = ["ps", "-a", "--filter", "", "--format", "{{.Image}}"];
        daemon.gantry(&line).ok().text().to_owned()
    };
    assert_eq!(listed(), image);
    let id = shown(&daemon, "{{.Image}}", "web");
    daemon.gantry(&["rmi", "-f", &image]).ok();
    assert_eq!(listed(), id["sha256:".len()..][..12]);
    assert_eq!(shown(&daemon, "{{.Config.Image}}", "web"), image, "as it was named");
}

#[test]
fn volumes_are_made_in_the_callers_zone() {
    let daemon = Daemon::start();
    daemon.gantry(&["volume", "create", "data"]).ok();
    let made = |zone: &str, line: &[&str]| {
        let line = [line, &["-f", "{{.CreatedAt}}", "data"]].concat();
        run(daemon.gantry_command(&line).env("TZ", zone)).ok().text().to_owned()
    };
    let (here, tokyo) = (made("UTC0", &["inspect"]), made("JST-9", &["volume", "inspect"]));
    assert!(here.ends_with('Z') && here.len() == "2024-05-01T08:00:00Z".len(), "{here}");
    assert!(tokyo.ends_with("+09:00") && tokyo[11..19] != here[11..19], "{tokyo}, {here}");
}
