//! Power loss: an emulated guest is killed while gantryd works on a disk of its own.
//! Whatever a client was told of is there after the next boot, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_tests::{Daemon, Guest, Options, Registry, run, run_within};

use crate::guest::{inside, script};

/// Where the host's directory is seen in the guest.
const SHARED: &str = "/mnt/run";
/// Power losses.
const ROUNDS: u32 = 20;
/// Guests whose kernel may hang in the emulator beside these: that is a power loss, too.
const HUNG: u32 = 3;
/// What a kernel says whose processors make no progress.
const LOCKUP: &str = "BUG: soft lockup";

#[test]
fn nothing_told_is_lost_with_the_power() {
    if std::env::var_os("GANTRY_TEST_LONG").is_none() {
        return;
    }
    Registry::shared();
    gantry_tests::image("layers");
    let shared = tempfile::Builder::new().prefix("gantry-power-").tempdir().expect("tempdir");
    let disk = shared.path().join("disk");
    fs::File::create(&disk).and_then(|f| f.set_len(4 << 30)).expect("make the disk");
    run(Command::new("mkfs.ext4").arg("-q").arg(&disk)).ok();
    let acks = shared.path().join("acks");
    fs::write(&acks, "").expect("make the list of what was told");
    let work = format!(
        "mkdir -p /run/disk\nmount /dev/vda /run/disk || echo no disk >/mnt/run/output\n{}",
        script("power", "power::")
    );
    let (mut round, mut hung) = (0, 0);
    while round < ROUNDS {
        let before = told(&acks).len();
        let mut guest = Guest::boot(shared.path(), &work, Some(&disk));
        // A different amount of work each time, and not at the end of a step.
        let enough = before + 3 + (round as usize * 7) % 23;
        let end = Instant::now() + Duration::from_secs(420);
        while told(&acks).len() < enough {
            let failed = || fs::read_to_string(shared.path().join("output")).unwrap_or_default();
            assert!(
                guest.running(),
                "round {round}: the guest ended: {}\n{}",
                failed(),
                guest.console()
            );
            assert!(
                Instant::now() < end,
                "round {round}: nothing happens: {}\n{}",
                failed(),
                guest.console()
            );
            if guest.console().contains(LOCKUP) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if told(&acks).len() < enough {
            hung += 1;
            assert!(hung <= HUNG, "round {round}: kernels hang:\n{}", guest.console());
            guest.kill();
            continue;
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(u64::from(round * 137 % 900)));
        guest.kill();
    }
    let mut guest = Guest::boot(
        shared.path(),
        &work.replace("GANTRY_GUEST=power", "GANTRY_GUEST=power POWER_CHECK=1"),
        Some(&disk),
    );
    guest.wait(Duration::from_secs(600));
    let output = fs::read_to_string(shared.path().join("output")).unwrap_or_default();
    let status = fs::read_to_string(shared.path().join("status")).unwrap_or_default();
    assert_eq!(status.trim(), "0", "{output}");
}

/// Lines `begin VERB NAME` and `done VERB NAME`.
fn told(acks: &Path) -> Vec<String> {
    let text = fs::read_to_string(acks).unwrap_or_default();
    // A last line that was cut is one that nobody was told.
    let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
    whole.lines().map(str::to_owned).collect()
}

/// What must be there, and what may be: after a beginning without an end, either.
fn expected(lines: &[String], make: &str, unmake: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut state: BTreeMap<String, Option<bool>> = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let (Some(when), Some(verb), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let there = match verb {
            v if v == make => true,
            v if v == unmake => false,
            _ => continue,
        };
        state.insert(name.to_owned(), (when == "done").then_some(there));
    }
    let of = |wanted: Option<bool>| {
        state.iter().filter(|(_, s)| **s == wanted).map(|(n, _)| n.clone()).collect()
    };
    (of(Some(true)), of(None))
}

fn note(line: &str) {
    let file = OpenOptions::new().append(true).open(format!("{SHARED}/acks"));
    let mut file = file.expect("open the list");
    file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_all()).expect("note");
}

fn step(daemon: &Daemon, verb: &str, name: &str, args: &[&str]) {
    note(&format!("begin {verb} {name}"));
    run_within(&mut daemon.gantry_command(args), Duration::from_secs(240)).ok();
    note(&format!("done {verb} {name}"));
}

/// What the guest does: check what was told before, then work until the power goes.
#[test]
fn work_until_the_power_goes() {
    if !inside("power") {
        return;
    }
    let lines = told(Path::new(SHARED).join("acks").as_path());
    let daemon =
        Daemon::with(Options { root: Some("/run/disk/gantry".into()), ..Options::default() });
    // Its port would differ from boot to boot.
    let registry = Registry::start_at(5999);
    check(&daemon, &lines);
    if std::env::var_os("POWER_CHECK").is_some() {
        return;
    }
    registry.push("busybox", "busybox:latest");
    registry.push("layers", "layers:latest");
    let small = registry.reference("busybox:latest");
    let large = registry.reference("layers:latest");
    let boot = lines.len();
    step(&daemon, "pull", &small, &["pull", "-q", &small]);
    for n in 0..200 {
        let name = format!("c{boot}-{n}");
        step(
            &daemon,
            "create",
            &name,
            &["create", "--network", "none", "--name", &name, &small, "true"],
        );
        if n % 3 == 2 {
            let old = format!("c{boot}-{}", n - 1);
            step(&daemon, "rm", &old, &["rm", &old]);
        }
        if n == 3 {
            step(&daemon, "pull", &large, &["pull", "-q", &large]);
        }
        if n == 6 {
            step(&daemon, "rmi", &large, &["rmi", &large]);
        }
    }
}

fn check(daemon: &Daemon, lines: &[String]) {
    let (must, may) = expected(lines, "create", "rm");
    let names = daemon.gantry(&["ps", "-a", "--no-trunc"]).ok();
    let there: BTreeSet<String> = names
        .lines()
        .into_iter()
        .skip(1)
        .filter_map(|l| l.split_whitespace().next_back())
        .map(str::to_owned)
        .collect();
    let lost: Vec<_> = must.difference(&there).collect();
    assert!(lost.is_empty(), "containers that a client was told of are gone: {lost:?}");
    let extra: Vec<_> = there.iter().filter(|n| !must.contains(*n) && !may.contains(*n)).collect();
    assert!(extra.is_empty(), "removed containers are back: {extra:?}");
    let (must, _) = expected(lines, "pull", "rmi");
    for image in &must {
        let probe = if image.contains("layers") {
            vec!["run", "--rm", "--network", "none", image, "perl", "-e", "print 6*7"]
        } else {
            vec![
                "run",
                "--rm",
                "--network",
                "none",
                image,
                "sh",
                "-c",
                "md5sum /bin/busybox >/dev/null && printf 42",
            ]
        };
        let out = run_within(&mut daemon.gantry_command(&probe), Duration::from_secs(120)).ok();
        assert_eq!(out.stdout, "42", "{image} is not whole");
    }
    let blobs = daemon.root().join("io.containerd.content.v1.content/blobs/sha256");
    for blob in fs::read_dir(blobs).into_iter().flatten().flatten() {
        let sum = run(Command::new("sha256sum").arg(blob.path())).ok();
        let name = blob.file_name().to_string_lossy().into_owned();
        assert!(sum.stdout.starts_with(&name), "blob {name} is damaged");
    }
}
