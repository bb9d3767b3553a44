//! Resources: limits, readings, freezing, killing, out of memory.

use crate::fixture::{Lab, spec};
use gantry_shim::runtime::{Error, Metrics, Options, Stdio};
use serde_json::{Value, json};
use std::fs;

/// A file of the container's cgroup by its v1 and its v2 name.
fn setting(lab: &Lab, v1: (&str, &str), v2: &str) -> String {
    let dir = format!("gantry-test/{}", lab.id);
    let old = format!("/sys/fs/cgroup/{}/{dir}/{}", v1.0, v1.1);
    let text = fs::read_to_string(&old)
        .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{dir}/{v2}")));
    text.unwrap_or_else(|e| panic!("{old}: {e}")).trim().to_owned()
}

fn is_v1() -> bool {
    fs::exists("/sys/fs/cgroup/memory").unwrap_or(false)
}

pub(crate) fn gap_17_cpu_usage_in_nanoseconds() {
    let mut lab = Lab::new();
    let mut live = lab.start(&spec(&["sleep", "1000"]));
    let done = live.exec("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; cat /proc/$$/stat");
    let fields: Vec<&str> =
        done.out.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    // Clock ticks of 10 ms each.
    let user: u64 = fields[11].parse().expect("a number of ticks");
    let (counted, total) = match live.lab.runtime.stats(&live.c, true).expect("stats") {
        Metrics::V1(m) => {
            let usage = m.cpu.and_then(|c| c.usage).expect("CPU usage");
            (usage.user, usage.total)
        }
        Metrics::V2(m) => {
            let cpu = m.cpu.expect("CPU usage");
            (cpu.user_usec * 1000, cpu.usage_usec * 1000)
        }
    };
    let expected = user * 10_000_000;
    assert!(user >= 5, "the loop was too short to be measured: {user} ticks");
    assert!(
        counted >= expected / 2 && counted <= expected * 3,
        "{counted} ns counted, {expected} ns used"
    );
    // v1 samples what is user's at each tick, so it may be ahead of the exact total.
    assert!(total >= counted / 10 * 8, "{total} ns in all, {counted} ns for the user");
    live.kill();
}

pub(crate) fn gap_18_real_time_caller() {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` is a live sched_param.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) };
    assert_eq!(set, 0, "root may become a real-time process");
    let mut lab = Lab::new();
    // Field 41 of stat is the scheduling policy: 0 is the normal one.
    let done = lab.sh(|_| {}, "cut -d' ' -f41 /proc/self/stat");
    assert_eq!(done.out, "0\n");
}

pub(crate) fn limits_and_update() {
    let mut lab = Lab::new();
    let mut s = spec(&["sleep", "1000"]);
    s["linux"]["resources"]["memory"] =
        json!({"limit": 67108864, "swap": 134217728, "reservation": 33554432});
    s["linux"]["resources"]["cpu"] =
        json!({"quota": 50000, "period": 100000, "shares": 512, "cpus": "0", "mems": "0"});
    s["linux"]["resources"]["pids"] = json!({"limit": 64});
    let live = lab.start(&s);
    let memory = |lab: &Lab| setting(lab, ("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(memory(live.lab), "67108864");
    assert_eq!(setting(live.lab, ("pids", "pids.max"), "pids.max"), "64");
    assert_eq!(setting(live.lab, ("cpuset", "cpuset.cpus"), "cpuset.cpus"), "0");
    if is_v1() {
        assert_eq!(setting(live.lab, ("memory", "memory.memsw.limit_in_bytes"), ""), "134217728");
        assert_eq!(setting(live.lab, ("cpu", "cpu.cfs_quota_us"), ""), "50000");
        assert_eq!(setting(live.lab, ("cpu", "cpu.shares"), ""), "512");
    } else {
        assert_eq!(setting(live.lab, ("", ""), "cpu.max"), "50000 100000");
        assert_eq!(setting(live.lab, ("", ""), "cpu.weight"), "20");
        assert_eq!(setting(live.lab, ("", ""), "memory.swap.max"), "67108864");
    }
    let update = |v: Value| {
        let r = serde_json::from_value(v).expect("resources");
        live.lab.runtime.update(&live.c, &r)
    };
    // Up beyond the limit with swap, and down again: either way round.
    update(json!({"memory": {"limit": 268435456, "swap": 536870912}, "pids": {"limit": 99}}))
        .expect("raise");
    assert_eq!(memory(live.lab), "268435456");
    assert_eq!(setting(live.lab, ("pids", "pids.max"), "pids.max"), "99");
    update(json!({"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"quota": 20000}}))
        .expect("lower");
    assert_eq!(memory(live.lab), "67108864");
    assert!(update(json!({"memory": {"kernel": 4096}})).is_err());
    assert!(matches!(update(json!({"cpu": {"cpus": "4000"}})), Err(Error::Invalid(_))));
    if is_v1() {
        let e = update(json!({"unified": {"memory.high": "1"}})).expect_err("a v2 setting on v1");
        assert!(e.to_string().contains("unified"), "{e}");
    }
    let stats = live.lab.runtime.stats(&live.c, true).expect("stats");
    match stats {
        Metrics::V1(m) => {
            assert_eq!(m.pids.expect("pids").limit, 99);
            assert_eq!(m.memory.and_then(|m| m.usage).expect("memory").limit, 67108864);
        }
        Metrics::V2(m) => {
            assert_eq!(m.pids.expect("pids").limit, 99);
            assert_eq!(m.memory.expect("memory").usage_limit, 67108864);
        }
    }
    live.kill();
}

pub(crate) fn pids_limit_of_zero_and_one() {
    let mut lab = Lab::new();
    // 0 says nothing, -1 is no limit, and 1 is a container of one process.
    for (limit, file) in [(0, "max"), (-1, "max"), (1, "1")] {
        let mut s = spec(&["sleep", "1000"]);
        s["linux"]["resources"]["pids"] = json!({"limit": limit});
        let live = lab.start(&s);
        assert_eq!(setting(live.lab, ("pids", "pids.max"), "pids.max"), file, "limit {limit}");
        live.kill();
    }
}

pub(crate) fn pause_kill_and_list() {
    let mut lab = Lab::new();
    let mut live = lab.start(&spec(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"]));
    assert!(live.exec("true").status == 0);
    let pids = live.lab.runtime.pids(&live.c).expect("pids");
    assert!(pids.contains(&live.c.pid) && pids.len() == 3, "{pids:?}");
    live.lab.block_on(live.lab.runtime.pause(&live.c)).expect("pause");
    assert!(live.lab.runtime.is_paused(&live.c));
    let p = spec(&["true"])["process"].take();
    assert!(matches!(live.try_exec(&p), Err(Error::State(_))), "exec in a paused container");
    live.lab.block_on(live.lab.runtime.resume(&live.c)).expect("resume");
    assert_eq!(live.exec("echo on").out, "on\n");
    // Killed while frozen, it dies all the same.
    live.lab.block_on(live.lab.runtime.pause(&live.c)).expect("pause");
    assert_eq!(live.kill(), 137);
}

pub(crate) fn oom_kill_is_reported() {
    let mut lab = Lab::new();
    let mut s = spec(&["sh", "-c", "x=x; while :; do x=$x$x; done"]);
    s["linux"]["resources"]["memory"] = json!({"limit": 33554432, "swap": 33554432});
    let (created, _out) = lab.create(&s).expect("create");
    let heard = lab.block_on(async {
        let mut events = lab.runtime.oom_events(&created.state).expect("events");
        lab.runtime.start(&created.state).await.expect("start");
        tokio::time::timeout(std::time::Duration::from_secs(30), events.next()).await
    });
    assert!(matches!(heard, Ok(Some(()))), "{heard:?}");
    assert_eq!(lab.wait(created.pid), 137);
    lab.delete(created.state);
}

pub(crate) fn cgroups_path_forms() {
    let mut lab = Lab::new();
    let id = lab.id.clone();
    let systemd = fs::exists("/run/systemd/system").unwrap_or(false);
    for (path, place) in [
        (format!("/gantry-test/{id}"), format!("/gantry-test/{id}")),
        (format!("gantry-test/{id}"), format!("/gantry-test/{id}")),
        (
            format!("gantry-x.slice:gantry:{id}"),
            format!("/gantry.slice/gantry-x.slice/gantry-{id}.scope"),
        ),
    ] {
        let mut s = spec(&["sleep", "1000"]);
        let options = Options { systemd_cgroup: path.contains(':'), ..Options::default() };
        s["linux"]["cgroupsPath"] = path.clone().into();
        let made =
            lab.create_with(&s, Stdio::Fds { stdin: None, stdout: None, stderr: None }, options);
        if systemd && path.contains(':') {
            let e = made.map(drop).expect_err("the systemd form");
            assert!(e.to_string().contains("systemd"), "{e}");
            continue;
        }
        let created = made.unwrap_or_else(|e| panic!("{path}: {e}"));
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", created.pid)).expect("cgroups");
        assert!(cgroups.lines().all(|l| l.ends_with(&place)), "{path}: {cgroups}");
        lab.block_on(lab.runtime.kill_all(&created.state, libc::SIGKILL)).expect("kill");
        lab.wait(created.pid);
        lab.delete(created.state);
    }
}
