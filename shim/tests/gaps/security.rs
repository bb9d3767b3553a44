//! The gaps that are holes.

use crate::fixture::{CAPABILITIES, Lab, profile, spec};
use gantry_shim::runtime::{Error, seal};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A spec's process as exec gets it.
fn process(args: &[&str]) -> Value {
    spec(args)["process"].take()
}

fn with_profile(s: &mut Value) {
    s["linux"]["seccomp"] = profile();
}

pub(crate) fn gap_01_exec_gets_seccomp() {
    let mut lab = Lab::new();
    let mut s = spec(&["sh", "-c", "mkdir /tmp/a; grep Seccomp: /proc/self/status; sleep 1000"]);
    with_profile(&mut s);
    let mut live = lab.start(&s);
    let script = "mkdir /tmp/b; echo $?; grep -E 'Seccomp:|NoNewPrivs|CapEff|CapPrm|CapBnd' /proc/self/status";
    for uid in [0, 1000] {
        let mut p = process(&["sh", "-c", script]);
        p["user"] = json!({"uid": uid, "gid": uid});
        let done = live.try_exec(&p).expect("exec");
        assert!(
            done.out.contains("not supported") && done.out.contains("Seccomp:\t2"),
            "{}",
            done.out
        );
        assert!(done.out.contains("NoNewPrivs:\t0"), "{}", done.out);
        let effective =
            if uid == 0 { "CapEff:\t00000000a80425fb" } else { "CapEff:\t0000000000000000" };
        assert!(done.out.contains(effective), "{}", done.out);
        assert!(done.out.contains("CapBnd:\t00000000a80425fb"), "{}", done.out);
    }
    live.kill();
}

pub(crate) fn gap_02_cgroup_mount_is_read_only() {
    let mut lab = Lab::new();
    let v2 = !fs::exists("/sys/fs/cgroup/memory").unwrap_or(false);
    let script = r#"
for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids/pids.max; do
  [ -e $f ] || continue
  echo 999999999 > $f && echo "WROTE $f"
done
for d in /sys/fs/cgroup /sys/fs/cgroup/*; do
  [ -d $d ] || continue
  mkdir $d/escape 2>/dev/null && echo "MADE $d"
  mount -o remount,rw $d 2>/dev/null && echo "REMOUNTED $d"
  umount $d 2>/dev/null && echo "UNMOUNTED $d"
done
cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
"#;
    let limited = |s: &mut Value| s["linux"]["resources"]["memory"] = json!({"limit": 67108864});
    let done = lab.sh(limited, script);
    for bad in ["WROTE", "MADE", "REMOUNTED", "UNMOUNTED"] {
        assert!(!done.out.contains(bad), "v2 {v2}: {}", done.out);
    }
    assert!(done.out.ends_with("67108864\n"), "{}", done.out);
}

pub(crate) fn gap_03_every_hierarchy_is_joined() {
    let mut lab = Lab::new();
    let path = format!("/gantry-test/{}", lab.id);
    let mut live = lab.start(&spec(&["sleep", "1000"]));
    let of_init =
        fs::read_to_string(format!("/proc/{}/cgroup", live.c.pid)).expect("init's cgroups");
    for line in of_init.lines() {
        assert!(line.ends_with(&path), "init is not in its cgroup: {line}");
    }
    // Inside, each hierarchy begins at the container's own.
    let done = live
        .exec("grep -v ':/$' /proc/self/cgroup; cat /sys/fs/cgroup/systemd/cgroup.procs | wc -l");
    assert!(!done.out.contains(':'), "{}", done.out);
    let listed = live.exec("ls /sys/fs/cgroup/systemd /sys/fs/cgroup/unified 2>/dev/null; true");
    assert!(!listed.out.contains("gantry-test"), "{}", listed.out);
    live.kill();
}

/// What libcontainer finds where the host's cgroups are: a hook sees the same.
pub(crate) fn libcontainer_gets_at_no_cgroup() {
    let mut lab = Lab::new();
    let log = lab.path("log");
    let script = format!(
        "cd /sys/fs/cgroup; {{ [ -c cgroup.procs ] && echo null; mkdir x || echo refused; \
         ls -d memory pids; }} >{} 2>/dev/null; true",
        log.display()
    );
    let mut s = spec(&["true"]);
    let (args, env) = (["sh", "-c", script.as_str()], ["PATH=/usr/bin:/bin"]);
    s["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": args, "env": env}]});
    assert_eq!(lab.run(&s).status, 0);
    let text = fs::read_to_string(&log).expect("the hook's log");
    let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|at| fs::exists(format!("{at}/cgroup.controllers")).unwrap_or(false));
    assert_eq!(text, if unified { "null\nrefused\n" } else { "refused\n" });
}

pub(crate) fn gap_04_own_binary_is_read_only() {
    if std::env::var_os("GANTRY_TEST_SEALED").is_none() {
        assert!(!seal::is_sealed());
        // SAFETY: no other thread of this process runs.
        unsafe { std::env::set_var("GANTRY_TEST_SEALED", "1") };
        // As the resident shim is started: it comes back here, sealed.
        let failed = seal::reexec().expect_err("reexec does not return when it succeeds");
        panic!("{failed}");
    }
    assert!(seal::is_sealed());
    assert_eq!(touch_own_binary(), Some(libc::EROFS));
    // A container whose program is this very binary: it gets the read-only one.
    let mut lab = Lab::new();
    let mut s = spec(&["/proc/self/exe"]);
    s["process"]["env"].as_array_mut().expect("a list").push("GANTRY_TEST_PROBE=1".into());
    let done = lab.run(&s);
    assert_eq!(done.out, format!("sealed true, changing it: {:?}\n", Some(libc::EROFS)));
}

/// Tries to change the own binary by way of /proc. (Opening it for writing fails
/// while it runs in any case, so its mode is what is tried.)
pub(crate) fn touch_own_binary() -> Option<i32> {
    fs::set_permissions("/proc/self/exe", fs::Permissions::from_mode(0o777))
        .err()
        .and_then(|e| e.raw_os_error())
}

pub(crate) fn gap_05_missing_capabilities_means_none() {
    let mut lab = Lab::new();
    let mut s = spec(&["sh", "-c", "grep ^Cap /proc/self/status; sleep 1000"]);
    s["process"].as_object_mut().expect("an object").remove("capabilities");
    let mut live = lab.start(&s);
    let mut p = process(&["sh", "-c", "grep ^Cap /proc/self/status"]);
    p.as_object_mut().expect("an object").remove("capabilities");
    let done = live.try_exec(&p).expect("exec");
    let of_init =
        fs::read_to_string(format!("/proc/{}/status", live.c.pid)).expect("init's status");
    for text in [&done.out, &of_init] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(text.contains(&format!("{set}:\t0000000000000000")), "{text}");
        }
    }
    live.kill();
}

pub(crate) fn gap_06_denied_device_stays_denied() {
    let mut lab = Lab::new();
    let script = "mknod /tmp/tun c 10 200; mknod /tmp/ptmx c 5 2; mknod /tmp/full c 1 7
for f in tun ptmx full; do head -c 1 /tmp/$f >/dev/null 2>/tmp/err && echo open $f || cat /tmp/err; done; echo x > /dev/null && echo null";
    let denied = |s: &mut Value| {
        s["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
            {"allow": false, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
        ]);
    };
    let mut s = spec(&["sh", "-c", "sleep 1000"]);
    denied(&mut s);
    let mut live = lab.start(&s);
    let check = |out: &str| {
        assert!(!out.contains("open tun") && !out.contains("open ptmx"), "{out}");
        assert!(
            out.contains("Operation not permitted")
                && out.contains("open full")
                && out.contains("null"),
            "{out}"
        );
    };
    check(&live.exec(script).out);
    // An update that repeats the whole of the resources opens nothing.
    let all = json!({"devices": [{"allow": true, "access": "rwm"}], "pids": {"limit": 50}});
    let all = serde_json::from_value(all).expect("resources");
    live.lab.runtime.update(&live.c, &all).expect("update");
    check(&live.exec(&format!("rm -f /tmp/tun /tmp/ptmx /tmp/full; {script}")).out);
    live.kill();
}

pub(crate) fn gap_07_selinux_label_is_refused() {
    let lab = Lab::new();
    let mut s = spec(&["true"]);
    s["process"]["selinuxLabel"] = "system_u:system_r:container_t:s0".into();
    let e = lab.create(&s).map(drop).expect_err("a label without SELinux");
    assert!(matches!(e, Error::Unsupported(_)) && e.to_string().contains("selinuxLabel"), "{e}");
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

/// On v2 the device program that is attached to the cgroup decides, on v1 the
/// devices controller; the outcome is one. What the program decides is also
/// tested beside its compiler.
pub(crate) fn gap_19_v2_device_rules() {
    let mut lab = Lab::new();
    let script = "mknod /tmp/kmsg c 1 11; (: < /tmp/kmsg) && echo open kmsg
mknod /tmp/tun c 10 200; (: < /tmp/tun) && echo open tun; (: > /tmp/tun) && echo write tun
head -c 1 /dev/urandom >/dev/null && echo open urandom; mknod /tmp/zero c 1 5; echo x > /tmp/zero && echo write zero";
    let rules = |s: &mut Value| {
        s["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
        ]);
    };
    let done = lab.sh(rules, script);
    assert!(!done.out.contains("open kmsg") && !done.out.contains("write tun"), "{}", done.out);
    for ok in ["open tun", "open urandom", "write zero"] {
        assert!(done.out.contains(ok), "{ok}: {}", done.out);
    }
}

/// libcontainer swaps mask and value of SCMP_CMP_MASKED_EQ; Docker's profile
/// keeps new namespaces from clone with it.
pub(crate) fn masked_argument_of_seccomp_is_a_mask() {
    let mut lab = Lab::new();
    let masked = |s: &mut Value| {
        s["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
                "args": [{"index": 0, "value": 0x1000_0000u64, "valueTwo": 0x1000_0000u64, "op": "SCMP_CMP_MASKED_EQ"}]}],
        });
    };
    // 0x10000000 is CLONE_NEWUSER; the other call has a bit that the mask leaves out.
    let done = lab.sh(
        masked,
        "unshare -U true; echo $?; unshare -U -n true; echo $?; unshare -i true; echo $?",
    );
    assert_eq!(done.out.matches("not supported").count(), 2, "{}", done.out);
    assert!(done.out.contains("not permitted"), "{}", done.out);
}

pub(crate) fn setuid_binaries_work() {
    let mut lab = Lab::new();
    for dir in ["upper/bin", "upper/root"] {
        fs::create_dir_all(lab.path(dir)).expect("a directory in the upper layer");
    }
    // busybox gives the right up by itself; the host's cat does not.
    let cat = lab.path("upper/bin/hostcat");
    fs::copy("/bin/cat", &cat).expect("a copy of cat");
    fs::set_permissions(&cat, fs::Permissions::from_mode(0o4755)).expect("the setuid bit");
    let secret = lab.path("upper/root/secret");
    fs::write(&secret, "for root\n").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a mode");
    let as_user = |s: &mut Value| {
        with_profile(s);
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    };
    let done = lab.sh(as_user, "hostcat /root/secret; cat /root/secret");
    assert!(
        done.out.contains("for root") && done.out.contains("Permission denied"),
        "{}",
        done.out
    );
}

pub(crate) fn ambient_capabilities_reach_the_program() {
    let mut lab = Lab::new();
    let ambient = |s: &mut Value| {
        with_profile(s);
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        for set in ["inheritable", "ambient"] {
            s["process"]["capabilities"][set] = json!(["CAP_NET_BIND_SERVICE"]);
        }
    };
    let done = lab.sh(ambient, "grep ^Cap /proc/self/status");
    for set in ["CapEff", "CapPrm", "CapAmb", "CapInh"] {
        assert!(done.out.contains(&format!("{set}:\t0000000000000400")), "{}", done.out);
    }
}

/// Init waits for start with CAP_SYS_ADMIN: what shares its pid namespace and
/// its uid must not get at it.
pub(crate) fn no_tracing_before_execve() {
    let mut other = Lab::new();
    let mut s = spec(&["sleep", "1000"]);
    s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut live = other.start(&s);
    let mut lab = Lab::new();
    lab.id.push_str("-b");
    let mut joined = spec(&["true"]);
    with_profile(&mut joined);
    joined["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    joined["linux"]["namespaces"][0]["path"] = format!("/proc/{}/ns/pid", live.c.pid).into();
    let (created, _out) = lab.create(&joined).expect("create");
    let status = fs::read_to_string(format!("/proc/{}/status", created.pid)).expect("its status");
    assert!(status.contains("CapEff:\t00000000a82425fb"), "waits with CAP_SYS_ADMIN: {status}");
    assert!(status.contains("CapBnd:\t00000000a80425fb"), "which execve takes away: {status}");
    for uid in [0, 1000] {
        let mut p = process(&[
            "sh",
            "-c",
            "for p in /proc/[0-9]*; do [ $p = /proc/1 ] || [ $p = /proc/$$ ] || ls -l $p/exe $p/fd/; done 2>&1; true",
        ]);
        p["user"] = json!({"uid": uid, "gid": uid});
        let done = live.try_exec(&p).expect("exec");
        assert!(done.out.contains("Permission denied"), "{}", done.out);
        assert!(!done.out.contains("socket:"), "{}", done.out);
    }
    lab.block_on(lab.runtime.kill_all(&created.state, libc::SIGKILL)).expect("kill");
    lab.wait(created.pid);
    lab.delete(created.state);
    live.kill();
}

pub(crate) fn no_descriptor_leaks() {
    let mut lab = Lab::new();
    // A descriptor of the shim's that is not closed by execve.
    let leak = fs::File::open("/etc/passwd").expect("a file");
    // SAFETY: duplicates a descriptor; the copy lives as long as the process.
    assert!(unsafe { libc::dup(leak.as_raw_fd()) } > 2);
    let mut s = spec(&["sh", "-c", "ls /proc/self/fd; sleep 1000"]);
    with_profile(&mut s);
    let mut live = lab.start(&s);
    // ls itself has the directory open as 3.
    assert_eq!(live.exec("ls /proc/self/fd").out, "0\n1\n2\n3\n");
    let of_init =
        fs::read_dir(format!("/proc/{}/fd", live.c.pid)).expect("init's descriptors").count();
    assert_eq!(of_init, 3);
    let groups = live.exec("grep Groups /proc/1/status; exec grep SigIgn /proc/self/status").out;
    assert!(groups.contains("Groups:\t \n") || groups.contains("Groups:\t\n"), "{groups:?}");
    assert!(groups.contains("SigIgn:\t0000000000000000"), "{groups:?}");
    live.kill();
}

pub(crate) fn linked_dev_is_refused() {
    let lab = Lab::new();
    // An image may bring any link in place of a directory.
    let marks = lab.path("outside");
    fs::create_dir(&marks).expect("a directory");
    symlink(&marks, lab.path("upper/dev")).expect("a link in the upper layer");
    let e = lab.create(&spec(&["true"])).map(drop).expect_err("a container whose /dev is a link");
    assert!(e.to_string().contains("/dev") && e.to_string().contains("symbolic link"), "{e}");
    assert_eq!(fs::read_dir(&marks).expect("the directory").count(), 0);
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

pub(crate) fn masked_path_may_be_a_link() {
    let mut lab = Lab::new();
    fs::create_dir_all(lab.path("upper/etc")).expect("a directory");
    symlink("/root/secret", lab.path("upper/etc/masked")).expect("a link");
    fs::create_dir_all(lab.path("upper/root")).expect("a directory");
    fs::write(lab.path("upper/root/secret"), "secret").expect("a file");
    let hide = |s: &mut Value| {
        s["linux"]["maskedPaths"] = json!(["/etc/masked", "/bin/ls", "/nowhere", "/srv"]);
        s["linux"]["readonlyPaths"] = json!(["/tmp"]);
    };
    let done = lab.sh(hide, "cat /etc/masked /root/secret; touch /srv/x /tmp/x; /bin/ls; echo end");
    assert!(!done.out.contains("secret\n") && !done.out.contains("secretsecret"), "{}", done.out);
    assert_eq!(done.out.matches("Read-only file system").count(), 2, "{}", done.out);
    assert!(done.out.contains("/bin/ls: Permission denied"), "{}", done.out);
}

pub(crate) fn user_namespace_with_exec() {
    let mut lab = Lab::new();
    let mut s = spec(&["sh", "-c", "id -u; cat /proc/self/uid_map; sleep 1000"]);
    with_profile(&mut s);
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    s["linux"]["uidMappings"] = map.clone();
    s["linux"]["gidMappings"] = map;
    s["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    // What is mapped to nobody can't be searched: the way to the root has to be open.
    for dir in ["", "bundle", "bundle/rootfs", "upper"] {
        fs::set_permissions(lab.path(dir), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let mut live = lab.start(&s);
    let status = fs::read_to_string(format!("/proc/{}/status", live.c.pid)).expect("init's status");
    assert!(status.contains("Uid:\t200000\t"), "{status}");
    let done = live.exec("id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; grep -E 'Seccomp:|CapBnd' /proc/self/status; cat /proc/self/uid_map; echo 0 > /proc/sys/kernel/printk");
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines[0], "0", "{}", done.out);
    assert!(lines[1].starts_with("user:") && lines[1] == lines[2], "{}", done.out);
    assert!(done.out.contains("Seccomp:\t2") && done.out.contains("200000"), "{}", done.out);
    let mut p = process(&["id", "-u"]);
    p["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [50]});
    assert_eq!(live.try_exec(&p).expect("exec").out, "33\n");
    let escape = live.exec("mount -o remount,rw /sys/fs/cgroup; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/pids/x && echo MADE; true");
    assert!(!escape.out.contains("MADE"), "{}", escape.out);
    live.kill();
}

pub(crate) fn joined_namespaces() {
    let mut first = Lab::new();
    let mut live = first.start(&spec(&["sleep", "1000"]));
    let pid = live.c.pid;
    let mut lab = Lab::new();
    lab.id.push_str("-b");
    let mut s =
        spec(&["sh", "-c", "for n in net ipc pid uts mnt; do readlink /proc/self/ns/$n; done"]);
    for ns in s["linux"]["namespaces"].as_array_mut().expect("a list") {
        let file = match ns["type"].as_str() {
            Some("network") => "net",
            Some(kind @ ("ipc" | "pid")) => kind,
            _ => continue,
        };
        ns["path"] = format!("/proc/{pid}/ns/{file}").into();
    }
    let done = lab.run(&s);
    let theirs = live.exec("for n in net ipc pid uts mnt; do readlink /proc/self/ns/$n; done");
    let (a, b): (Vec<&str>, Vec<&str>) = (done.out.lines().collect(), theirs.out.lines().collect());
    assert_eq!(a[..3], b[..3], "joined");
    assert_ne!(a[3], b[3], "own uts");
    assert_ne!(a[4], b[4], "own mnt");
    assert_eq!(CAPABILITIES.len(), 14);
    live.kill();
}

pub(crate) fn no_id_means_leave_as_it_is() {
    let lab = Lab::new();
    for user in [
        json!({"uid": u32::MAX, "gid": 0}),
        json!({"uid": 0, "gid": u32::MAX}),
        json!({"uid": 0, "gid": 0, "additionalGids": [u32::MAX]}),
        json!({"uid": 0, "gid": 0, "username": "4294967295"}),
    ] {
        let mut s = spec(&["id"]);
        s["process"]["user"] = user.clone();
        let e = lab.create(&s).map(drop).expect_err("a process without an id");
        assert!(matches!(e, Error::Invalid(_)), "{user}: {e}");
        assert_eq!(lab.leftovers(), Vec::<String>::new());
    }
    // Nor does an entry of the image's own.
    fs::create_dir_all(lab.path("upper/etc")).expect("a directory");
    fs::write(lab.path("upper/etc/passwd"), "evil:x:4294967295:4294967295::/:/bin/sh\n")
        .expect("a file");
    let mut s = spec(&["id"]);
    s["process"]["user"] = json!({"uid": 0, "gid": 0, "username": "evil"});
    let e = lab.create(&s).map(drop).expect_err("a user without an id");
    assert!(e.to_string().contains("unable to find user evil"), "{e}");
}
