//! Sweeps that take long: run by `make test-long`.

use std::time::Duration;

use gantry_tests::{Daemon, leftovers, run_within, wait_for};

/// Whether the long sweeps were asked for.
fn wanted() -> bool {
    std::env::var_os("GANTRY_TEST_LONG").is_some()
}

#[test]
fn a_thousand_runs_leave_nothing_behind() {
    if !wanted() {
        return;
    }
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let args = ["run", "--rm", "--network", "none", &image, "true"];
    for _ in 0..20 {
        daemon.gantry(&args).ok();
    }
    daemon.assert_nothing_left();
    let files = leftovers::open_files(daemon.pid());
    for _ in 0..1000 {
        daemon.gantry(&args).ok();
    }
    check(&daemon, files);
    for _ in 0..32 {
        let script = "for i in $(seq 32); do \"$0\" \"$@\" & pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit 1; done";
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script]).arg(gantry_tests::paths::program("gantry")).args(args);
        command.env("GANTRY_ADDRESS", daemon.address());
        run_within(&mut command, Duration::from_secs(120)).ok();
    }
    check(&daemon, files);
}

fn check(daemon: &Daemon, files: usize) {
    daemon.assert_nothing_left();
    wait_for("the containers to be forgotten", || {
        daemon.gantry(&["ps", "-a", "-q"]).ok().text().is_empty().then_some(())
    });
    wait_for("the snapshots to go", || {
        leftovers::active_snapshots(daemon, "default").is_empty().then_some(())
    });
    wait_for("the open files to be as few as before", || {
        (leftovers::open_files(daemon.pid()) <= files + 4).then_some(())
    });
    let upper = daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    wait_for("the snapshots' files to go", || {
        (std::fs::read_dir(&upper).map(Iterator::count).unwrap_or(0) <= 1).then_some(())
    });
}
