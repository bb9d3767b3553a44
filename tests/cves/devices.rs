//! /dev, and what is hidden with its help.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Exchange, Prey};

/// A file of the kernel that runs programs on the host, for who can write to it.
const TARGET: &str = "/proc/sys/kernel/core_pattern";

fn target() -> String {
    fs::read_to_string(TARGET).expect("read")
}

/// A root filesystem in which a link stands for what the engine mounts on.
#[test]
fn links_in_place_of_file_systems_of_the_kernel() {
    let prey = Prey::new();
    for name in ["dev", "proc", "sys"] {
        let to_host = |root: &Path| symlink(&prey.host, root.join(name)).expect("make a link");
        let odd = prey.odd(&format!("link-{name}"), to_host, |_| ());
        let out = prey.run_of(&odd, &[], &["true"]).exits(125);
        let words = format!("/{name} in the root filesystem is a symbolic link");
        assert!(out.stderr.contains(&words), "{out:?}");
        prey.assert_untouched();
    }
    prey.assert_clean();
}

/// What an image has in /dev is hidden there, whatever it is.
#[test]
fn devices_of_the_image_are_not_used() {
    let prey = Prey::new();
    let before = target();
    let files = |root: &Path| {
        fs::create_dir_all(root.join("dev/pts")).expect("make a directory");
        for name in ["null", "console", "ptmx", "shm", "fd", "pts/ptmx", "pts/0"] {
            symlink(TARGET, root.join("dev").join(name)).expect("make a link");
        }
    };
    let odd = prey.odd("devices", files, |_| ());
    let script = "test -t 1 && test -c /dev/console && test -c /dev/null && echo x > /dev/null && \
                  test -c /dev/pts/ptmx && test -d /dev/shm && echo good";
    let line = ["run", "-d", "-t", "--name", "c", "--network", "none", &odd, "sh", "-c", script];
    prey.daemon.gantry(&line).ok();
    prey.daemon.gantry(&["wait", "c"]).ok();
    assert_eq!(prey.daemon.gantry(&["logs", "c"]).ok().text(), "good");
    assert_eq!(target(), before);
    prey.daemon.gantry(&["rm", "c"]).ok();
    prey.assert_clean();
}

/// CVE-2025-31133: files are hidden by the null device; if that is a link, what it leads to would
/// be shown, and could be written, in their places.
#[test]
fn a_null_device_that_is_a_link() {
    let prey = Prey::new();
    let before = target();
    for (number, link) in [TARGET, "/elsewhere", "/proc/sysrq-trigger"].into_iter().enumerate() {
        let name = format!("dev{number}");
        symlink(link, prey.volume(&name).join("null")).expect("make a link");
        let out = prey.run(&["-v", &format!("{name}:/dev")], &["true"]);
        assert_ne!(out.code, 0, "{link}: {out:?}");
    }
    // It becomes one while the container is made. Each is used once: the runtime makes the
    // device itself.
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/latency_stats; do \
                  test ! -e $f || stat -c %t:%T $f; done";
    for round in 0..10 {
        let name = format!("race{round}");
        let top = prey.volume(&name);
        symlink(TARGET, top.join("other")).expect("make a link");
        let exchange = Exchange::begin(top.join("null"), top.join("other"));
        let out = prey.run(&["-v", &format!("{name}:/dev")], &["sh", "-c", script]);
        drop(exchange);
        assert!(out.stdout.lines().all(|device| device == "1:3"), "{out:?}");
    }
    assert_eq!(target(), before);
    prey.assert_clean();
}

/// CVE-2025-52565: the terminal is mounted on /dev/console, or taken from /dev/pts, which lead
/// elsewhere.
#[test]
fn a_console_that_is_a_link() {
    let prey = Prey::new();
    let before = target();
    for (name, links) in [
        ("dev", &["console"][..]),
        ("dev/pts", &["ptmx", "0", "1"]),
        ("dev", &["ptmx", "tty", "full"]),
    ] {
        let volume = format!("vol-{}-{}", name.replace('/', "-"), links[0]);
        let top = prey.volume(&volume);
        for link in links {
            symlink(TARGET, top.join(link)).expect("make a link");
        }
        let flag = format!("{volume}:/{name}");
        let line = ["run", "-d", "--rm", "-t", "--network", "none", "-v", &flag, &prey.image];
        let out = prey.daemon.gantry(&[&line[..], &["sleep", "600"]].concat());
        assert_ne!(out.code, 0, "{name}: {out:?}");
        assert_eq!(target(), before);
    }
    prey.assert_clean();
}

/// What is hidden and what is read-only stays so, also for processes that are added.
#[test]
fn files_of_the_kernel_are_out_of_reach() {
    let prey = Prey::new();
    let before = target();
    prey.sleeper("c", &[]);
    let attack = format!(
        "cat /proc/keys /proc/timer_list /proc/latency_stats 2>/dev/null | head -c 9
         ls /proc/scsi /proc/acpi /sys/firmware 2>/dev/null | grep -v :$ | head -n 9
         for f in {TARGET} /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_helper
         do echo x > $f && echo WRITTEN $f; done
         mount -o remount,rw /proc/sys && echo MOUNTED
         umount /proc/sys && echo UNMOUNTED
         umount /proc/kcore && echo UNMOUNTED
         true"
    );
    let of_first = prey.run(&[], &["sh", "-c", &attack]).ok();
    let of_exec = prey.exec(&[], "c", &["sh", "-c", &attack]).ok();
    let of_root = prey.exec(&["-u", "0:0"], "c", &["sh", "-c", &attack]).ok();
    for out in [of_first, of_exec, of_root] {
        assert_eq!(out.stdout.trim(), "", "{out:?}");
    }
    assert_eq!(target(), before);
    prey.daemon.gantry(&["rm", "-f", "c"]).ok();
    prey.assert_clean();
}
