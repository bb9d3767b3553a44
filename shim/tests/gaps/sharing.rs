//! What is shared with other containers, and what the container's own files say.

use crate::behaviour::{add_mount, bind, process};
use crate::fixture::{Lab, spec};
use gantry_shim::runtime::{ExecSpec, Options, Stdio};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Names groups by the annotation.
fn with_groups(names: &str) -> impl Fn(&mut Value) {
    move |s| {
        s["annotations"] = json!({"io.gantry.groups": names});
        s["process"]["user"] = json!({"uid": 0, "gid": 0, "username": "33:44"});
    }
}

pub(crate) fn further_groups_by_name() {
    let mut lab = Lab::new();
    assert_eq!(lab.sh(with_groups("logs"), "id -G").out, "44 50\n");
    let mut s = spec(&["sleep", "1000"]);
    with_groups("logs,root")(&mut s);
    let mut live = lab.start(&s);
    let mut further = process(&["id", "-G"]);
    further["user"] = s["process"]["user"].clone();
    assert_eq!(live.try_exec(&further).expect("exec").out, "44 0 50\n");
    live.kill();
    with_groups("none")(&mut s);
    let e = lab.create(&s).map(drop).expect_err("an unknown group").to_string();
    assert_eq!(e, "Unable to find group none: no matching entries in group file");
}

pub(crate) fn device_nodes_outside_of_dev() {
    let mut lab = Lab::new();
    let change = |s: &mut Value| {
        s["linux"]["devices"] =
            json!([{"path": "/opt/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640}]);
    };
    let script = "echo x > /opt/null && stat -c '%F %a' /opt/null; [ -c /dev/null ] && echo both";
    // The second finds the node of the first.
    for _ in 0..2 {
        assert_eq!(lab.sh(change, script).out, "character special file 640\nboth\n");
    }
}

pub(crate) fn processes_and_memory_of_another_container() {
    let mut first = Lab::new();
    let mut live = first.start(&spec(&["sleep", "1000"]));
    assert_eq!(live.exec("echo shared > /dev/shm/x").status, 0);
    let pid = live.c.pid;
    let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    let files = ["pid", "ipc", "mnt"].map(open);
    let path = |n: usize| format!("/proc/{}/fd/{}", std::process::id(), files[n].as_raw_fd());
    let mut lab = Lab::new();
    lab.id.push_str("-b");
    let script = "cat /dev/shm/x; tr '\\0' ' ' < /proc/1/cmdline; echo back > /dev/shm/y; \
                  grep -c ' /dev/shm ' /proc/self/mounts";
    let mut s = spec(&["sh", "-c", script]);
    for namespace in s["linux"]["namespaces"].as_array_mut().expect("a list") {
        match namespace["type"].as_str() {
            Some("pid") => namespace["path"] = path(0).into(),
            Some("ipc") => namespace["path"] = path(1).into(),
            _ => {}
        }
    }
    let mounts = s["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| mount["destination"] != "/dev/shm");
    let from = format!("gantry.namespace={}", path(2));
    add_mount(
        &mut s,
        json!({
            "destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
            "options": ["bind", "rprivate", "nosuid", "noexec", "nodev", from],
        }),
    );
    // A working directory there is made there.
    s["process"]["cwd"] = "/dev/shm/work".into();
    assert_eq!(lab.run(&s).out, "shared\nsleep 1000 1\n");
    assert_eq!(live.exec("cat /dev/shm/y; ls /dev/shm").out, "back\nwork\nx\ny\n");
    live.kill();
}

pub(crate) fn cgroups_of_the_host() {
    let mut lab = Lab::new();
    let top = Path::new("/sys/fs/cgroup");
    let known = ["memory", "cgroup.controllers"].into_iter().find(|name| top.join(name).exists());
    let name = known.expect("cgroups");
    let bind = json!({
        "destination": "/host", "type": "bind", "source": top, "options": ["rbind", "rro"],
    });
    let script =
        format!("[ -e /host/{name} ] && echo there; mkdir /host/x 2>/dev/null || echo refused");
    assert_eq!(lab.sh(|s| add_mount(s, bind), &script).out, "there\nrefused\n");
}

pub(crate) fn devices_of_the_host() {
    let dev = Path::new("/dev");
    let ptmx = || fs::symlink_metadata(dev.join("ptmx")).map(|meta| meta.ino()).ok();
    let before = (ptmx(), dev.join("kcore").is_symlink());
    let mut lab = Lab::new();
    let change = |s: &mut Value| {
        let mounts = s["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| !m["destination"].as_str().is_some_and(|at| at.starts_with("/dev")));
        let options = ["rbind", "rprivate"];
        add_mount(
            s,
            json!({"destination": dev, "type": "bind", "source": dev, "options": options}),
        );
        add_mount(s, json!({"destination": "/dev/shm", "type": "tmpfs", "options": ["size=1m"]}));
    };
    let script = "stat -c '%d %i' /dev; echo x > /dev/null && touch /dev/shm/of-a-lab && echo done";
    let here = dev.metadata().expect("/dev");
    assert_eq!(lab.sh(change, script).out, format!("{} {}\ndone\n", here.dev(), here.ino()));
    assert!(!dev.join("shm/of-a-lab").exists());
    assert_eq!((ptmx(), dev.join("kcore").is_symlink()), before);
}

/// Talks to a shell at a terminal until it ends: it says what its terminal is, and what it reads.
fn talk(console: Option<OwnedFd>) {
    let mut console = File::from(console.expect("a terminal has a master side"));
    console.write_all(b"hello\n").expect("input");
    let mut said = Vec::new();
    // Reading ends with EIO when the last user of the other side is gone.
    console.read_to_end(&mut said).ok();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("/dev/pts/") && said.contains("33 99"), "{said}");
    assert!(said.contains("told") && said.contains("got hello"), "{said}");
}

pub(crate) fn terminals_among_devices_of_the_host() {
    let console = || {
        let node = fs::symlink_metadata("/dev/console").map(|meta| (meta.ino(), meta.rdev()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        (node.ok(), mounts.matches(" /dev/console ").count())
    };
    let before = console();
    let of_host = |words: &[&str]| {
        let mut s = spec(words);
        let mounts = s["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| !m["destination"].as_str().is_some_and(|at| at.starts_with("/dev")));
        add_mount(&mut s, bind(Path::new("/dev"), "/dev", &["rbind", "rprivate"]));
        s["process"]["consoleSize"] = json!({"height": 33, "width": 99});
        s["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        s
    };
    let shell = of_host(&["sh", "-c", "tty; stty size; echo told > /dev/tty; read x; echo got $x"]);
    let mut lab = Lab::new();
    let created = lab.create_with(&shell, Stdio::Terminal, Options::default());
    let created = created.unwrap_or_else(|e| panic!("create: {e}"));
    lab.block_on(lab.runtime.start(&created.state)).unwrap_or_else(|e| panic!("start: {e}"));
    talk(created.console);
    assert_eq!(lab.wait(created.pid), 0);
    lab.delete(created.state);
    let live = lab.start(&of_host(&["sleep", "1000"]));
    let process = shell["process"].to_string().into_bytes();
    let request = ExecSpec { exec_id: "e".into(), process, stdio: Stdio::Terminal };
    let made = live.lab.block_on(live.lab.runtime.exec(&live.c, request));
    let made = made.unwrap_or_else(|e| panic!("exec: {e}"));
    talk(made.console);
    assert_eq!(live.lab.wait(made.pid), 0);
    live.kill();
    assert_eq!(console(), before);
}

pub(crate) fn memory_takes_on_the_mode_of_its_place() {
    let mut lab = Lab::new();
    let memory = |at: &str, options: &[&str]| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options});
    let change = |s: &mut Value| {
        add_mount(s, memory("/root", &["nosuid"]));
        add_mount(s, memory("/new", &[]));
        add_mount(s, memory("/srv", &["mode=711"]));
        add_mount(s, memory("/tmp", &["ro"]));
    };
    assert_eq!(lab.sh(change, "stat -c %a /root /new /srv /tmp").out, "700\n1777\n711\n1777\n");
}
