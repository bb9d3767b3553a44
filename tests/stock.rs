//! Debian's containerd with our shim.

use std::path::PathBuf;

use gantry_tests::{Containerd, Registry, leftovers, wait_for};

#[test]
fn a_stock_containerd_runs_our_shim() {
    let server = Containerd::start();
    let namespace = format!("stock{}", std::process::id());
    let ctr = |args: &[&str]| server.ctr(&[&["-n", &namespace], args].concat());
    let image = Registry::shared().reference("busybox:latest");
    ctr(&["images", "pull", "--plain-http", &image]).ok();
    let runtime = ["--runtime", "io.containerd.gantry.v2"];
    let with = |args: &[&str]| {
        let mut all = vec!["run"];
        all.extend(runtime);
        all.extend(args);
        ctr(&all)
    };
    assert_eq!(with(&["--rm", &image, "a", "echo", "hello"]).ok().stdout, "hello\n");
    with(&["--rm", &image, "b", "sh", "-c", "exit 3"]).exits(3);
    with(&["-d", &image, "c", "sleep", "600"]).ok();
    assert!(ctr(&["tasks", "ls"]).ok().stdout.contains("RUNNING"));
    assert_eq!(ctr(&["tasks", "exec", "--exec-id", "e", "c", "echo", "in"]).ok().stdout, "in\n");
    ctr(&["tasks", "pause", "c"]).ok();
    ctr(&["tasks", "resume", "c"]).ok();
    ctr(&["tasks", "metrics", "c"]).ok();
    ctr(&["tasks", "kill", "-s", "9", "c"]).ok();
    wait_for("the end", || ctr(&["tasks", "ls"]).ok().stdout.contains("STOPPED").then_some(()));
    ctr(&["tasks", "rm", "c"]);
    ctr(&["containers", "rm", "c"]).ok();
    assert_eq!(ctr(&["containers", "ls", "-q"]).ok().text(), "");
    let groups = leftovers::cgroups(&format!("/{}", namespace));
    assert_eq!(groups, Vec::<PathBuf>::new());
    wait_for("the shims to end", || {
        let of_us = |pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.starts_with(server.state()))
        };
        leftovers::processes(of_us).is_empty().then_some(())
    });
}
