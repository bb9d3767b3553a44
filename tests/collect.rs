//! What nothing references goes, with its files.

use std::path::Path;
use std::process::Command;

use gantry_tests::{Daemon, Registry, run, wait_for};

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Blobs and snapshots of a daemon, as files.
fn files(daemon: &Daemon) -> (usize, usize) {
    let root = daemon.root();
    (
        count(&root.join("io.containerd.content.v1.content/blobs/sha256")),
        count(&root.join("io.containerd.snapshotter.v1.overlayfs/snapshots")),
    )
}

#[test]
fn a_removed_image_gives_its_space_back() {
    let mut daemon = Daemon::start();
    let image = daemon.busybox();
    assert_eq!(files(&daemon), (3, 1));
    daemon.gantry(&["run", "-d", "--network", "none", "--name", "c1", &image, "sleep", "99"]).ok();
    // As a client of containerd, which may: a container needs its snapshots only.
    daemon.ctr(&["-n", "default", "images", "rm", &image]).ok();
    wait_for("the blobs to go", || (files(&daemon).0 == 0).then_some(()));
    assert_eq!(files(&daemon).1, 2, "what a container lies on stays");
    daemon.kill();
    daemon.restart();
    daemon.gantry(&["exec", "c1", "ls", "/bin/busybox"]).ok();
    daemon.gantry(&["rm", "-f", "c1"]).ok();
    wait_for("the snapshots to go", || (files(&daemon) == (0, 0)).then_some(()));
    daemon.busybox();
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn clients_wait_for_a_collection_and_hold_by_leases() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let ctr = |args: &[&str]| daemon.ctr(&[&["-n", daemon.name()], args].concat());
    ctr(&["images", "pull", "--plain-http", &image]).ok();
    let digest = ctr(&["content", "ls", "-q"]).ok().lines()[0].to_owned();
    ctr(&["leases", "create", "--id", "mine"]).ok();
    ctr(&["images", "rm", "--sync", &image]).ok();
    assert_eq!(ctr(&["content", "ls", "-q"]).ok().text(), "", "{digest} and the rest");
    assert_eq!(files(&daemon).0, 0);
    ctr(&["images", "pull", "--plain-http", &image]).ok();
    ctr(&["run", "--rm", &image, "again", "true"]).ok();
    ctr(&["leases", "rm", "--sync", "mine"]).ok();
    assert_eq!(ctr(&["content", "ls", "-q"]).ok().lines().len(), 3);
    daemon.assert_nothing_left();
}

#[test]
fn a_layer_is_made_of_what_a_container_did() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let ctr = |args: &[&str]| daemon.ctr(&[&["-n", daemon.name()], args].concat());
    ctr(&["images", "pull", "--plain-http", &image]).ok();
    let work = "mkdir /made; echo text > /made/file; rm /bin/busybox";
    ctr(&["run", &image, "c", "sh", "-c", work]).ok();
    let mut listed = Command::new("sh");
    listed.arg("-c").arg("ctr -a \"$0\" -n \"$1\" snapshots diff c | tar tvzf - --numeric-owner");
    let listed = run(listed.arg(daemon.address()).arg(daemon.name())).ok();
    let has = |line: &str| listed.lines().iter().any(|l| l.ends_with(line));
    assert!(has(" bin/.wh.busybox") && has(" made/"), "{}", listed.stdout);
    let file = listed.stdout.lines().find(|l| l.ends_with(" made/file")).expect("the file");
    assert!(file.contains(" 0/0 "), "{file}");
    assert!(!listed.stdout.contains("etc/passwd"), "{}", listed.stdout);
    ctr(&["containers", "rm", "c"]).ok();
    daemon.assert_nothing_left();
}
