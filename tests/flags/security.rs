//! Capabilities, filters, namespaces and devices, as a container's processes see them.

use std::fs;

use gantry_tests::{Daemon, Options};

use super::Place;

/// A line of /proc/self/status.
fn status(key: &str) -> String {
    format!("sed -n 's/^{key}:[[:space:]]*//p' /proc/self/status")
}

/// What this process may do: that of the host's root.
fn own_capabilities() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("read the own status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a set");
    line.trim().to_owned()
}

#[test]
fn capabilities() {
    let place = Place::new();
    let granted = status("CapEff");
    for (flags, set) in [
        (&["--cap-add", "NET_ADMIN"][..], "00000000a80435fb"),
        (&["--cap-add=CAP_NET_ADMIN"], "00000000a80435fb"),
        (&["--cap-drop", "MKNOD"], "00000000a00425fb"),
        (&["--cap-drop=ALL"], "0000000000000000"),
        (&["--cap-drop=all", "--cap-add=chown"], "0000000000000001"),
    ] {
        assert_eq!(place.inside(flags, &granted), set, "{flags:?}");
    }
    assert_eq!(place.inside(&["--cap-add=ALL"], &granted), own_capabilities());
    place.refused(&["--cap-add", "FLY"], "FLY");
    let privileged = "test -e /dev/kmsg && mount -t tmpfs t /tmp && echo mounted";
    assert_eq!(place.inside(&["--privileged"], privileged), "mounted");
    assert_eq!(place.inside(&["--privileged"], &granted), own_capabilities());
    assert_eq!(place.inside(&["--privileged"], &status("Seccomp")), "0");
    place.sleeping("c", &[]);
    assert_eq!(place.exec("c", &granted), "00000000a80425fb");
    let exec = ["exec", "--privileged", "c", "sh", "-c", &granted];
    assert_eq!(place.daemon.gantry(&exec).ok().text(), own_capabilities());
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn options_of_security() {
    let place = Place::new();
    let nothing_new = status("NoNewPrivs");
    assert_eq!(place.inside(&[], &nothing_new), "0");
    assert_eq!(place.inside(&["--security-opt", "no-new-privileges"], &nothing_new), "1");
    assert_eq!(place.inside(&["--security-opt=seccomp=unconfined"], &status("Seccomp")), "0");
    let profile = place.daemon.scratch().join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, text).expect("write a profile");
    let option = format!("--security-opt=seccomp={}", profile.display());
    assert_eq!(place.inside(&[&option], "mkdir /x 2>/dev/null || echo refused"), "refused");
    let masks = "grep -c ' /proc/[a-z]' /proc/mounts || true";
    assert_ne!(place.inside(&[], masks), "0");
    assert_eq!(place.inside(&["--security-opt=systempaths=unconfined"], masks), "0");
    assert_eq!(place.inside(&["--read-only"], "touch /x 2>/dev/null || echo refused"), "refused");
    place.refused(&["--security-opt=apparmor=mine"], "profiles of AppArmor are not supported");
    place.refused(&["--security-opt=label=type:x"], "labels of SELinux are not supported");
    place.refused(&["--security-opt=seccomp=/no/such"], "opening seccomp profile (/no/such)");
    fs::write(&profile, "{").expect("write a profile");
    place.refused(&[&option], "seccomp");
    place.daemon.assert_nothing_left();
}

#[test]
fn groups() {
    let place = Place::new();
    let flags = ["--user", "app", "--group-add", "audio", "--group-add", "4242"];
    let groups = place.inside(&flags, "id -G");
    let groups: Vec<_> = groups.split_whitespace().collect();
    assert!(["1000", "29", "4242"].iter().all(|group| groups.contains(group)), "{groups:?}");
    let refused = place.run(&["--rm", "--group-add", "nobodys"], &["true"]);
    assert!(refused.code != 0 && refused.stderr.contains("nobodys"), "{refused:?}");
    place.daemon.assert_nothing_left();
}

#[test]
fn namespaces_of_the_host() {
    let place = Place::new();
    for (flag, kind) in
        [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup")]
    {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        let host = host.to_str().expect("text");
        let tell = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(place.inside(&[flag, "host"], &tell), host, "{flag}");
        assert_ne!(place.inside(&[], &tell), host, "{flag}");
    }
    let map = place.inside(&["--userns", "host"], "cat /proc/self/uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    let net = fs::read_link("/proc/self/ns/net").expect("a namespace");
    let tell = "readlink /proc/self/ns/net";
    assert_eq!(place.inside(&["--network", "host"], tell), net.to_str().expect("text"));
    assert_ne!(place.inside(&["--net=none"], tell), net.to_str().expect("text"));
    place.refused(&["--pid", "private"], "--pid: invalid PID mode");
    place.refused(&["--uts", "private"], "--uts: invalid UTS mode");
    place.refused(&["--userns", "keep-id"], "--userns: invalid USER mode");
    place.refused(&["--uts=host", "--hostname=x"], "hostname");
    place.daemon.assert_nothing_left();
}

#[test]
fn namespaces_of_containers() {
    let place = Place::new();
    place.sleeping("a", &["--ipc", "shareable"]);
    place.exec("a", "echo shared > /dev/shm/x");
    assert_eq!(place.inside(&["--ipc", "container:a"], "cat /dev/shm/x"), "shared");
    let seen = place.inside(&["--pid", "container:a"], "cat /proc/1/cmdline | tr '\\0' ' '");
    assert_eq!(seen, "sleep 600");
    let mounted = "grep -c ' /dev/shm ' /proc/mounts || true";
    assert_eq!(place.inside(&["--ipc", "none"], mounted), "0");
    place.sleeping("b", &["--ipc", "private"]);
    place.refused(&["--ipc", "container:b"], "b");
    place.refused(&["--pid", "container:nobody"], "nobody");
    place.daemon.gantry(&["rm", "-f", "a", "b"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn devices() {
    let dir = tempfile::tempdir().expect("make a directory");
    let config = format!("cdi_directories = [{:?}]\n", dir.path());
    let daemon = Daemon::with(Options { config, ..Options::default() });
    let place = Place { image: daemon.busybox(), daemon };
    let write = "true 2>/dev/null > /dev/mine && echo written || echo refused";
    assert_eq!(place.inside(&["--device", "/dev/kmsg:/dev/mine"], write), "written");
    assert_eq!(place.inside(&["--device=/dev/kmsg:/dev/mine:r"], write), "refused");
    let make = format!("mknod /dev/mine c 1 11; {write}");
    assert_eq!(place.inside(&[], &make), "refused");
    assert_eq!(place.inside(&["--device-cgroup-rule", "c 1:11 w"], &make), "written");
    let text = r#"{"cdiVersion": "0.6.0", "kind": "gantry.example/thing", "devices": [
        {"name": "one", "containerEdits": {"env": ["THING=one"]}}]}"#;
    fs::write(dir.path().join("thing.json"), text).expect("write a description");
    let name = "gantry.example/thing=one";
    assert_eq!(place.inside(&["--cdi", name], "echo $THING"), "one");
    assert_eq!(place.inside(&["--device", name], "echo $THING"), "one");
    place.refused(&["--cdi", "gantry.example/thing=two"], "thing=two");
    place.refused(&["--cdi", "nothing"], "it is no CDI name");
    place.refused(&["--gpus", "device=none-such"], "nvidia.com/gpu=none-such");
    place.refused(&["--gpus", "many"], "invalid count (many)");
    place.refused(&["--device", "/dev/no-such"], "/dev/no-such");
    place.refused(&["--device", "/dev/kmsg:/dev/mine:x"], "bad mode specified: x");
    place.refused(&["--device-cgroup-rule", "c 1 w"], "invalid device cgroup format 'c 1 w'");
    place.daemon.assert_nothing_left();
}
