//! Containers and archives that mean harm.

use std::fs;
use std::path::PathBuf;

use gantry_tests::Daemon;

use super::{cp, fed, inside, refused, sleeper, write};

/// A file of the host that no container may read or change, and its directory.
fn secret(daemon: &Daemon) -> PathBuf {
    write(daemon, "host/secret", "of the host");
    daemon.scratch().join("host")
}

fn assert_untouched(host: &std::path::Path) {
    let names: Vec<_> =
        fs::read_dir(host).expect("list").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read_to_string(host.join("secret")).expect("read"), "of the host");
}

#[test]
fn links_lead_nowhere_outside() {
    let daemon = Daemon::start();
    let host = secret(&daemon);
    let at = host.to_str().expect("UTF-8");
    sleeper(&daemon, "c", &[]);
    let up = "../".repeat(30);
    inside(
        &daemon,
        "c",
        &format!(
            "ln -s {at} /abs; ln -s {up}{at} /rel; ln -s {at}/secret /file; ln -s /rel /chain"
        ),
    );
    write(&daemon, "new", "planted");
    let check = || {
        for link in ["abs", "rel", "chain"] {
            let out = cp(&daemon, &format!("c:/{link}/secret"), "-");
            assert!(out.code == 1 && !out.stdout.contains("of the host"), "{link}: {out:?}");
            assert_eq!(cp(&daemon, "new", &format!("c:/{link}/new")).code, 1, "{link}");
            let slash = daemon.gantry(&["cp", &format!("c:/{link}/"), "-"]);
            assert!(slash.code == 1 && !slash.stdout.contains("of the host"), "{link}: {slash:?}");
        }
        let followed = daemon.gantry(&["cp", "-L", "c:/file", "-"]);
        assert!(followed.code == 1 && !followed.stdout.contains("of the host"), "{followed:?}");
        assert_untouched(&host);
    };
    check();
    daemon.gantry(&["stop", "-t", "0", "c"]).ok();
    check();
}

#[test]
fn the_kernels_own_links_are_not_followed() {
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    inside(
        &daemon,
        "c",
        "echo mine > /root/mine; ln -s /proc/self/fd /fds; ln -s /proc/1/root /top",
    );
    for path in ["/proc/self/fd/0", "/proc/self/exe", "/fds/3", "/proc/self/cwd/gantryd.log"] {
        let out = daemon.gantry(&["cp", "-L", &format!("c:{path}"), "-"]);
        assert_eq!(out.code, 1, "{path}: {} bytes", out.stdout.len());
    }
    for path in ["/proc/1/root/root/mine", "/top/root/mine", "/proc/1/cwd/root/mine"] {
        let out = daemon.gantry(&["cp", &format!("c:{path}"), "-"]).ok();
        assert!(out.stdout.contains("mine"), "{path} means the container's own root");
    }
    write(&daemon, "new", "planted");
    for path in ["/proc/1/root/../../../../root/new", "/top/../../root/new2"] {
        cp(&daemon, "new", &format!("c:{path}")).ok();
    }
    assert_eq!(inside(&daemon, "c", "cat /root/new /root/new2"), "plantedplanted");
    // Its kernel file systems are not walked.
    let all = cp(&daemon, "c:/", "-").ok();
    assert!(all.stdout.contains("./root/mine") && !all.stdout.contains("./proc/1/"));
    for (from, to) in [("/proc", "proc"), ("/sys/kernel/.", "kernel"), ("/proc/1/task", "task")] {
        cp(&daemon, &format!("c:{from}"), to).ok();
        let copied = fs::read_dir(daemon.scratch().join(to)).expect("a directory");
        assert_eq!(copied.count(), 0, "{from} is empty");
    }
    cp(&daemon, "c:/proc/version", "version").ok();
}

#[test]
fn directories_exchanged_for_links_meanwhile() {
    let daemon = Daemon::start();
    let host = secret(&daemon);
    sleeper(&daemon, "c", &[]);
    let swap = format!(
        "mkdir -p /swap; echo 'of the container' > /swap/secret
         while :; do mv /swap /kept; ln -s {} /swap; rm /swap; mv /kept /swap; done",
        host.display()
    );
    daemon.gantry(&["exec", "-d", "c", "sh", "-c", &swap]).ok();
    write(&daemon, "planted", "planted");
    let mut read = 0;
    for round in 0..60 {
        let out = cp(&daemon, "c:/swap/secret", "-");
        assert!(!out.stdout.contains("of the host"), "round {round}");
        read += usize::from(out.stdout.contains("of the container"));
        // It may be a link just now.
        let _ = cp(&daemon, "planted", "c:/swap/");
        let _ = cp(&daemon, "planted", &format!("c:/swap/{round}"));
        assert_untouched(&host);
    }
    assert!(read > 0, "the directory was there at least once");
}

/// Makes a tar archive of these: type, name, target of a link, data.
fn tar(entries: &[(u8, &str, &str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, name, link, data) in entries {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", data.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        header[156] = *kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(data.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[test]
fn archives_stay_in_the_container() {
    let daemon = Daemon::start();
    let host = secret(&daemon);
    let at = host.to_str().expect("UTF-8").trim_start_matches('/');
    sleeper(&daemon, "c", &[]);
    inside(&daemon, "c", "mkdir /into");
    let up = format!("{}{at}/up", "../".repeat(8));
    let (absolute, link) = (format!("/{at}/abs"), format!("/{at}"));
    let (from, deep) = (format!("/{at}/secret"), format!("{}{at}/secret", "../".repeat(8)));
    let hostile = [
        tar(&[(b'0', &up, "", "x")]),
        tar(&[(b'0', &absolute, "", "x")]),
        tar(&[(b'2', "out", &link, ""), (b'0', "out/planted", "", "x")]),
        tar(&[(b'2', "up", &"../".repeat(20), ""), (b'0', "up/etc/planted", "", "x")]),
        tar(&[(b'1', "got", &from, "")]),
        tar(&[(b'1', "got", &deep, "")]),
        tar(&[(b'2', "s", &from, ""), (b'0', "s", "", "x")]),
        tar(&[(b'2', "s", &link, ""), (b'1', "got", "s/secret", "")]),
    ];
    for (number, archive) in hostile.iter().enumerate() {
        // Refused, or done within the container.
        let _ = fed(&mut daemon.gantry_command(&["cp", "-", "c:/into"]), archive);
        assert_untouched(&host);
        let leaked = inside(&daemon, "c", "grep -rl 'of the host' /into || true");
        assert_eq!(leaked, "", "archive {number}");
    }
    assert_eq!(inside(&daemon, "c", "cat /etc/planted"), "x", "its own root is `/`");
    let cut = tar(&[(b'0', "cut", "", &"x".repeat(9000))]);
    let cut = fed(&mut daemon.gantry_command(&["cp", "-", "c:/into"]), &cut[..4000]);
    refused(&cut, "not a whole tar archive");
    assert_eq!(inside(&daemon, "c", "ls -A /into | grep -E 'cut|gantry' || true"), "");
}
