//! The gaps that are wrong behaviour.

use crate::fixture::{Done, Lab, profile, spec};
use gantry_shim::runtime::{Error, ExecSpec, Options, Runtime, Stdio};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

pub(crate) fn process(args: &[&str]) -> Value {
    spec(args)["process"].take()
}

pub(crate) fn bind(from: &Path, to: &str, options: &[&str]) -> Value {
    json!({"destination": to, "type": "bind", "source": from, "options": options})
}

pub(crate) fn add_mount(s: &mut Value, mount: Value) {
    s["mounts"].as_array_mut().expect("a list").push(mount);
}

pub(crate) fn gap_08_no_new_privileges_false_with_seccomp() {
    for (given, seen) in [(false, "NoNewPrivs:\t0"), (true, "NoNewPrivs:\t1")] {
        let mut lab = Lab::new();
        let change = |s: &mut Value| {
            s["process"]["noNewPrivileges"] = given.into();
            s["linux"]["seccomp"] = profile();
        };
        let done = lab.sh(change, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status");
        assert!(done.out.contains(seen) && done.out.contains("Seccomp:\t2"), "{}", done.out);
    }
}

fn failed_start(lab: &mut Lab, program: &str) -> (Error, i32) {
    let (created, _out) =
        lab.create(&spec(&[program])).unwrap_or_else(|e| panic!("create {program}: {e}"));
    let e = lab.block_on(lab.runtime.start(&created.state)).expect_err("it can't be executed");
    let status = lab.wait(created.pid);
    lab.delete(created.state);
    assert_eq!(lab.leftovers(), Vec::<String>::new());
    (e, status)
}

pub(crate) fn gap_09_missing_and_unexecutable_programs() {
    let cases = [
        ("nope", 127, "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", 127, "exec: \"/nope\": stat /nope: no such file or directory"),
        ("/tmp", 126, "exec: \"/tmp\": permission denied"),
        ("unexecutable", 126, "exec: \"unexecutable\": permission denied"),
    ];
    let mut lab = Lab::new();
    for (program, code, text) in cases {
        let (e, status) = failed_start(&mut lab, program);
        assert_eq!(
            (e.exit_code(), status, e.to_string().as_str()),
            (Some(code), code as i32, text)
        );
    }
    let mut live = lab.start(&spec(&["sleep", "1000"]));
    for (program, code, text) in cases {
        let e = live.try_exec(&process(&[program])).expect_err("it can't be executed");
        assert_eq!((e.exit_code(), e.to_string().as_str()), (Some(code), text));
    }
    live.kill();
}

pub(crate) fn gap_10_no_shell_fallback_and_default_path() {
    let mut lab = Lab::new();
    let (e, status) = failed_start(&mut lab, "/bin/plain");
    assert_eq!((status, e.to_string().as_str()), (126, "exec: \"/bin/plain\": exec format error"));
    let mut s = spec(&["sh", "-c", "echo path $PATH"]);
    s["process"]["env"] = json!([]);
    assert!(lab.run(&s).out.starts_with("path "));
}

pub(crate) fn gap_11_cwd_is_made_and_mount_errors_name_the_mount() {
    let mut lab = Lab::new();
    let data = lab.path("data");
    fs::create_dir(&data).expect("a directory");
    let deep = |s: &mut Value| s["process"]["cwd"] = "/made/for/me".into();
    assert_eq!(lab.sh(deep, "pwd").out, "/made/for/me\n");
    let in_bind = |s: &mut Value| {
        add_mount(s, bind(&data, "/data", &["rbind"]));
        s["process"]["cwd"] = "/data/a/b".into();
    };
    assert_eq!(lab.sh(in_bind, "pwd").out, "/data/a/b\n");
    assert!(data.join("a/b").is_dir());

    let mut s = spec(&["true"]);
    add_mount(&mut s, bind(&lab.path("absent"), "/in", &["bind"]));
    let e = lab.create(&s).map(drop).expect_err("a bind of nothing").to_string();
    assert!(e.contains("absent") && e.contains("/in"), "{e}");
    let mut s = spec(&["true"]);
    add_mount(&mut s, json!({"destination": "/odd", "type": "nofs", "source": "x"}));
    let e = lab.create(&s).map(drop).expect_err("a mount of an unknown type").to_string();
    assert!(e.contains("/odd") && !e.contains("cgroup"), "{e}");
    assert_eq!(lab.leftovers(), Vec::<String>::new());

    let mut live = lab.start(&spec(&["sleep", "1000"]));
    let mut p = process(&["pwd"]);
    p["cwd"] = "/not/there".into();
    let e = live.try_exec(&p).expect_err("a working directory that is not there");
    assert!(e.to_string().contains("/not/there") && e.exit_code() == Some(127), "{e}");
    live.kill();
}

pub(crate) fn gap_12_bind_propagation() {
    let mut lab = Lab::new();
    let shared = lab.path("shared");
    fs::create_dir_all(shared.join("sub")).expect("a directory");
    let place = std::ffi::CString::new(shared.display().to_string()).expect("a path");
    let none = std::ptr::null();
    // SAFETY: the paths end with NUL; the other arguments are unused here.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        assert_eq!(
            libc::mount(
                c"".as_ptr(),
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast()
            ),
            0
        );
        assert_eq!(
            libc::mount(c"tmpfs".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()),
            0
        );
        assert_eq!(libc::mount(none, place.as_ptr(), none, libc::MS_SHARED, none.cast()), 0);
    }
    let sub = shared.join("late");
    fs::create_dir(&sub).expect("a directory");
    let look = "sleep 0; grep -E ' /(slave|private|plain|shared) ' /proc/self/mountinfo";
    let mut s = spec(&["sleep", "1000"]);
    for (at, option) in
        [("/slave", "rslave"), ("/private", "rprivate"), ("/plain", ""), ("/shared", "rshared")]
    {
        let options: Vec<&str> = ["rbind", option].into_iter().filter(|o| !o.is_empty()).collect();
        add_mount(&mut s, bind(&shared, at, &options));
    }
    let mut live = lab.start(&s);
    let out = live.exec(look).out;
    let line = |at: &str| {
        out.lines().find(|l| l.contains(&format!(" {at} "))).unwrap_or_default().to_owned()
    };
    assert!(line("/slave").contains("master:") && !line("/slave").contains("shared:"), "{out}");
    assert!(line("/shared").contains("shared:"), "{out}");
    for private in ["/private", "/plain"] {
        assert!(!line(private).contains("master:") && !line(private).contains("shared:"), "{out}");
    }
    // What is mounted later reaches the slave and no other.
    let late = std::ffi::CString::new(sub.display().to_string()).expect("a path");
    // SAFETY: the paths end with NUL.
    unsafe {
        assert_eq!(
            libc::mount(c"tmpfs".as_ptr(), late.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()),
            0
        )
    };
    fs::write(sub.join("file"), "").expect("a file");
    assert_eq!(
        live.exec("ls /slave/late /private/late /plain/late").out.matches("file").count(),
        1
    );
    live.kill();
    // With a shared root, what the container mounts comes out.
    let mut s = spec(&[
        "sh",
        "-c",
        "mkdir /both/in && mount -t tmpfs t /both/in && touch /both/in/seen && sleep 1000",
    ]);
    s["linux"]["rootfsPropagation"] = "rshared".into();
    for set in ["bounding", "effective", "permitted"] {
        s["process"]["capabilities"][set]
            .as_array_mut()
            .expect("a list")
            .push("CAP_SYS_ADMIN".into());
    }
    add_mount(&mut s, bind(&shared, "/both", &["rbind", "rshared"]));
    let live = lab.start(&s);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !shared.join("in/seen").exists() {
        assert!(std::time::Instant::now() < deadline, "the container's mount does not come out");
        std::thread::yield_now();
    }
    live.kill();
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains("bundle/rootfs"), "the root filesystem came out: {mounts}");
    for at in [shared.join("in"), sub, shared] {
        let c = std::ffi::CString::new(at.display().to_string()).expect("a path");
        // SAFETY: the path ends with NUL.
        unsafe { libc::umount2(c.as_ptr(), libc::MNT_DETACH) };
    }
}

pub(crate) fn gap_13_copy_up_and_idmapped_mounts() {
    let mut lab = Lab::new();
    let data = lab.path("data");
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join("file"), "x").expect("a file");
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 65536}]);
    let change = |s: &mut Value| {
        add_mount(
            s,
            json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "nosuid", "mode=755"]}),
        );
        let mut m = bind(&data, "/data", &["rbind", "idmap"]);
        m["uidMappings"] = map.clone();
        m["gidMappings"] = map.clone();
        add_mount(s, m);
    };
    let done = lab.sh(
        change,
        "grep ^web /etc/passwd; touch /etc/new && mount | grep ' /etc '; stat -c %u:%g /data/file",
    );
    assert!(done.out.contains("web:x:33") && done.out.contains("tmpfs on /etc"), "{}", done.out);
    assert!(done.out.ends_with("5000:5000\n"), "{}", done.out);
    assert!(!lab.path("upper/etc/new").exists());
    // Without mappings there is nothing to map by: refused by name.
    let mut s = spec(&["true"]);
    add_mount(&mut s, bind(&data, "/data", &["rbind", "idmap"]));
    let e = lab.create(&s).map(drop).expect_err("idmap without mappings").to_string();
    assert!(e.contains("/data") && e.contains("uidMappings"), "{e}");
}

pub(crate) fn gap_14_loopback_is_up_and_home_is_set() {
    let mut lab = Lab::new();
    let script =
        "ip -o addr show lo | grep -o 127.0.0.1/8; ip link show lo | grep -o ',UP'; echo $HOME";
    assert_eq!(lab.sh(|_| {}, script).out, "127.0.0.1/8\n,UP\n/root\n");
    let unknown = |s: &mut Value| s["process"]["user"] = json!({"uid": 4321, "gid": 4321});
    assert_eq!(lab.sh(unknown, "echo $HOME").out, "/\n");
    let mut live = lab.start(&spec(&["sleep", "1000"]));
    let mut p = process(&["sh", "-c", "echo $HOME"]);
    p["user"] = json!({"uid": 33, "gid": 33});
    assert_eq!(live.try_exec(&p).expect("exec").out, "/srv\n");
    p["env"].as_array_mut().expect("a list").push("HOME=/mine".into());
    assert_eq!(live.try_exec(&p).expect("exec").out, "/mine\n");
    live.kill();
}

pub(crate) fn gap_15_exec_gets_the_containers_rlimits() {
    let mut lab = Lab::new();
    let mut s = spec(&["sleep", "1000"]);
    s["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 777, "hard": 888}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let mut live = lab.start(&s);
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c; grep NoNewPrivs /proc/self/status";
    assert_eq!(live.exec(script).out, "777\n888\n0\nNoNewPrivs:\t0\n");
    live.kill();
    let mut s = spec(&["true"]);
    s["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": u64::MAX, "hard": u64::MAX}]);
    match lab.create(&s) {
        Err(e) => assert!(
            e.to_string().contains("RLIMIT_NOFILE") && e.to_string().contains("CAP_SYS_RESOURCE"),
            "{e}"
        ),
        Ok(_) => panic!("the kernel allows no unlimited NOFILE"),
    }
    let scored = |s: &mut Value| s["process"]["oomScoreAdj"] = 555.into();
    assert_eq!(lab.sh(scored, "cat /proc/self/oom_score_adj").out, "555\n");
}

pub(crate) fn gap_16_kill_keeps_running_and_state_is_replaced_whole() {
    let mut lab = Lab::new();
    let script =
        "trap 'echo got' USR1; while :; do read x < /tmp/none; sleep 0.05; done 2>/dev/null";
    let mut live = lab.start(&spec(&["sh", "-c", script]));
    let state = live.lab.bundle.join(".libcontainer").join(&live.lab.id).join("state.json");
    let inode = |p: &Path| fs::metadata(p).expect("a state file").ino();
    assert_eq!(live.exec("echo alive").out, "alive\n");
    let before = inode(&state);
    live.lab.block_on(live.lab.runtime.kill_all(&live.c, libc::SIGUSR1)).expect("a signal");
    // A signal that does not end it leaves it running: exec still works.
    assert_eq!(live.exec("echo alive").out, "alive\n");
    let text = fs::read_to_string(&state).expect("a state file");
    assert!(text.contains("\"status\":\"running\""), "{text}");
    assert_eq!(before, inode(&state));
    assert_eq!(live.kill(), 137);
}

/// It has its filter by the time of the start, and goes with who could have started it.
pub(crate) fn init_waits_for_its_start() {
    let mut lab = Lab::new();
    let mut s = spec(&["true"]);
    s["linux"]["seccomp"] = profile();
    let (created, _out) = lab.create(&s).unwrap_or_else(|e| panic!("create: {e}"));
    let request = ExecSpec {
        exec_id: "e".into(),
        process: process(&["true"]).to_string().into_bytes(),
        stdio: Stdio::Fds { stdin: None, stdout: None, stderr: None },
    };
    let early = lab.block_on(lab.runtime.exec(&created.state, request));
    assert!(matches!(early, Err(Error::State(_))), "{early:?}");
    let status = format!("/proc/{}/status", created.pid);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !fs::read_to_string(&status).expect("its status").contains("Seccomp:\t2") {
        assert!(std::time::Instant::now() < deadline, "no filter before the start");
        std::thread::yield_now();
    }
    let pid = created.pid;
    drop(created);
    assert_eq!(lab.wait(pid), 1);
    Runtime::cleanup(&lab.bundle, &lab.id).expect("cleanup");
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

pub(crate) fn a_filter_may_forbid_to_read() {
    let mut lab = Lab::new();
    let forbid = |s: &mut Value| {
        s["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
    };
    // It is started, and then even its libraries can't be read.
    let done = lab.sh(forbid, "echo never");
    assert!(done.status != 0 && done.out.contains("shared libraries"), "{done:?}");
}

pub(crate) fn users_by_name() {
    let mut lab = Lab::new();
    let named =
        |name: &'static str| move |s: &mut Value| s["process"]["user"]["username"] = name.into();
    let ids = "id -u; id -g; grep Groups /proc/self/status";
    assert_eq!(lab.sh(named("web"), ids).out, "33\n44\nGroups:\t44 50 \n");
    assert_eq!(lab.sh(named("web:logs"), ids).out, "33\n50\nGroups:\t50 \n");
    assert_eq!(lab.sh(named("77:88"), ids).out, "77\n88\nGroups:\t88 \n");
    let mut s = spec(&["true"]);
    named("nobody")(&mut s);
    let e = lab.create(&s).map(drop).expect_err("an unknown user");
    assert_eq!(e.to_string(), "unable to find user nobody: no matching entries in passwd file");
    assert_eq!(lab.leftovers(), Vec::<String>::new());
    let mut live = lab.start(&spec(&["sleep", "1000"]));
    let mut p = process(&["id", "-u"]);
    p["user"] = json!({"uid": 0, "gid": 0, "username": "web"});
    assert_eq!(live.try_exec(&p).expect("exec").out, "33\n");
    live.kill();
}

pub(crate) fn hooks_run() {
    let mut lab = Lab::new();
    let log = lab.path("log");
    let hook = |name: &str| {
        let script = format!(
            "echo {name} $(cat | tr -d ' ' | grep -o '\"status\":\"[a-z]*\"') >> {}",
            log.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    let mut s = spec(&["true"]);
    s["hooks"] = json!({});
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        s["hooks"][kind] = hook(kind);
    }
    s["hooks"]["startContainer"] =
        json!([{"path": "/bin/touch", "args": ["touch", "/tmp/started"]}]);
    assert_eq!(lab.run(&s).status, 0);
    let text = fs::read_to_string(&log).expect("the hooks' log");
    let names: Vec<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(
        names,
        ["prestart", "createRuntime", "createContainer", "poststart", "poststop"],
        "{text}"
    );
    assert!(
        text.contains("poststart \"status\":\"running\"")
            && text.contains("poststop \"status\":\"stopped\""),
        "{text}"
    );
    assert!(lab.path("upper/tmp/started").exists());
    s["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    assert!(lab.create(&s).is_err());
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

pub(crate) fn terminal() {
    let mut lab = Lab::new();
    let mut s = spec(&["sh", "-c", "tty; stty size; read x; echo got $x"]);
    s["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    let created =
        lab.create_with(&s, Stdio::Terminal, Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut console = fs::File::from(created.console.expect("a terminal has a master side"));
    lab.block_on(lab.runtime.start(&created.state)).unwrap_or_else(|e| panic!("{e}"));
    console.write_all(b"hello\n").expect("input");
    let mut out = Vec::new();
    // Reading ends with EIO when the last user of the other side is gone.
    console.read_to_end(&mut out).ok();
    assert_eq!(lab.wait(created.pid), 0);
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    assert!(text.contains("33 99") && text.contains("got hello"), "{text}");
    lab.delete(created.state);
}

pub(crate) fn read_only_root_and_sysctl() {
    let mut lab = Lab::new();
    let change = |s: &mut Value| {
        s["root"]["readonly"] = true.into();
        s["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    };
    let done = lab.sh(
        change,
        "touch /x; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; touch /dev/shm/y; hostname",
    );
    assert!(
        done.out.contains("Read-only file system") && done.out.ends_with("77\ninside\n"),
        "{}",
        done.out
    );
}

pub(crate) fn mounts_keep_their_order() {
    let mut lab = Lab::new();
    let mine = lab.path("mine");
    fs::create_dir(&mine).expect("a directory");
    fs::write(mine.join("mark"), "mine").expect("a file");
    let script =
        "cat /dev/shm/mark; ls /dev/null /dev/pts/ptmx /dev/mqueue -d; ls -A /sys/firmware";
    let told = "mine/dev/mqueue\n/dev/null\n/dev/pts/ptmx\n";
    // Over one of the kernel's own filesystems, and below one that is not plain.
    let over = |s: &mut Value| add_mount(s, bind(&mine, "/dev/shm", &["rbind"]));
    assert_eq!(lab.sh(over, script).out, told);
    let below = |s: &mut Value| {
        s["mounts"][1]["options"] = json!(["nosuid"]);
        add_mount(s, bind(&mine, "/dev/shm", &["rbind"]));
    };
    assert_eq!(lab.sh(below, script).out, told);
    // What the spec mounts first lies below.
    let under = |s: &mut Value| {
        let mounts = s["mounts"].as_array_mut().expect("mounts");
        mounts.insert(0, bind(&mine, "/dev/shm", &["rbind"]));
    };
    let done = lab.sh(under, "ls -A /dev/shm; ls -d /dev/null");
    assert_eq!(done.out, "/dev/null\n");
}

pub(crate) fn masks_hold_for_every_user() {
    for uid in [0, 1000] {
        let mut lab = Lab::new();
        let change = |s: &mut Value| {
            s["process"]["user"] = json!({"uid": uid, "gid": uid});
            s["linux"]["sysctl"] = json!({"fs.mqueue.msg_max": "7", "kernel.domainname": "out"});
        };
        let script = "wc -c < /proc/keys; ls -A /sys/firmware; echo 1 > /proc/sys/kernel/panic; \
            mount | grep -c ' /proc/sys .*(ro,'; cat /proc/sys/fs/mqueue/msg_max \
            /proc/sys/kernel/domainname; touch /dev/shm/x && umount /proc/keys || echo held";
        let done = lab.sh(change, script);
        let (first, rest) = done.out.split_once('\n').expect("lines");
        assert_eq!(first, "0", "{}", done.out);
        assert!(
            rest.ends_with(
                "\n1\n7\nout\numount: can't unmount /proc/keys: Operation not permitted\nheld\n"
            ),
            "{}",
            done.out
        );
    }
}

pub(crate) fn umask_is_the_usual_one() {
    let mut lab = Lab::new();
    // SAFETY: takes an integer and can't fail; this process is the case's own.
    unsafe { libc::umask(0o077) };
    let mut s = spec(&["sh", "-c", "umask; stat -c %a / /new /new/cwd; sleep 600"]);
    s["process"]["cwd"] = "/new/cwd".into();
    s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut live = lab.start(&s);
    assert_eq!(live.exec("umask").out, "0022\n");
    let mut own = spec(&["sh", "-c", "umask"])["process"].take();
    own["user"] = json!({"uid": 0, "gid": 0, "umask": 0o77});
    assert_eq!(live.try_exec(&own).expect("exec").out, "0077\n");
    live.kill();
    let mut s = spec(&["sh", "-c", "umask; stat -c %a /new /new/cwd"]);
    s["process"]["cwd"] = "/new/cwd".into();
    assert_eq!(lab.run(&s).out, "0022\n755\n755\n");
}

pub(crate) fn execs_at_once() {
    let mut lab = Lab::new();
    let mut live = lab.start(&spec(&["sleep", "600"]));
    let process = process(&["true"]);
    for _ in 0..10 {
        assert_eq!(live.four_at_once(&process), [0; 4]);
    }
    live.kill();
}

pub(crate) fn tmpfs_needs_no_source() {
    let mut lab = Lab::new();
    let mount = json!({"destination": "/mnt", "type": "tmpfs", "options": ["size=1m"]});
    let done = lab.sh(|s| add_mount(s, mount), "grep -c ' /mnt tmpfs' /proc/mounts");
    assert_eq!(done.out, "1\n");
}

pub(crate) fn refusals_change_nothing() {
    let lab = Lab::new();
    let cases: [(&str, Value, &str); 8] = [
        ("/process/apparmorProfile", "docker-default".into(), "apparmorProfile"),
        ("/linux/resources/rdma", json!({"mlx": {"hcaHandles": 3}}), "rdma"),
        ("/linux/resources/memory", json!({"kernel": 4096}), "kernel memory"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY"),
        ("/linux/rootfsPropagation", "odd".into(), "rootfsPropagation"),
        ("/linux/cgroupsPath", "/a/../../b".into(), "cgroupsPath"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "mount namespace"),
        ("/process/args", json!([]), "process.args"),
    ];
    for (at, value, names) in cases {
        let mut s = spec(&["true"]);
        let (parent, key) = at.rsplit_once('/').expect("a pointer");
        s.pointer_mut(parent).expect("a parent")[key] = value;
        let e = lab.create(&s).map(drop).expect_err(at);
        assert!(e.to_string().contains(names), "{at}: {e}");
        assert_eq!(lab.leftovers(), Vec::<String>::new(), "{at}");
    }
}

pub(crate) fn cleanup_after_a_killed_shim() {
    let lab = Lab::new();
    let (created, mut out) =
        lab.create(&spec(&["sh", "-c", "sleep 1000 & echo up; sleep 1000"])).expect("create");
    lab.block_on(lab.runtime.start(&created.state)).expect("start");
    let mut first = [0; 3];
    out.read_exact(&mut first).expect("its first line");
    // From here only the bundle is known.
    let cleaned = Runtime::cleanup(&lab.bundle, &lab.id).expect("cleanup");
    assert_eq!((cleaned.pid, cleaned.exit_status), (created.pid as u32, 137));
    assert_eq!(lab.leftovers(), Vec::<String>::new());
    let again = Runtime::cleanup(&lab.bundle, &lab.id).expect("cleanup again");
    assert_eq!(again.pid, 0);
    let mut lab = lab;
    assert_eq!(lab.wait(created.pid), 137);
    // A record whose pid is somebody else's by now kills nobody.
    let record = json!({"id": lab.id, "cgroup": "gantry-test/none", "pid": std::process::id(), "start_time": 1});
    fs::write(lab.bundle.join("shim.json"), record.to_string()).expect("a record");
    Runtime::cleanup(&lab.bundle, &lab.id).expect("cleanup of another's pid");
    let Done { status, .. } = lab.sh(|_| {}, "exit 7");
    assert_eq!(status, 7);
    assert_eq!(fs::metadata(&lab.bundle).expect("the bundle").permissions().mode() & 0o7000, 0);
}
