//! Limits, as the files of the container's own cgroup and of /proc tell them.

use std::fs;

use super::Place;

/// Reads a file of the container's cgroup: of version 2, or of version 1.
fn cgroup(v2: &str, v1: &str) -> String {
    format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}")
}

/// Whether the machine's cgroups are of version 2.
fn is_unified() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").expect("look at the cgroups")
}

/// A block device of this machine, and its numbers.
fn block_device() -> (String, String) {
    let disks = fs::read_dir("/sys/block").expect("list block devices").flatten();
    let mut disks: Vec<_> = disks
        .filter_map(|disk| {
            let path = format!("/dev/{}", disk.file_name().to_str()?);
            let read = |name: &str| fs::read_to_string(disk.path().join(name)).ok();
            let (size, numbers) = (read("size")?, read("dev")?);
            fs::exists(&path).ok()?.then(|| (size.trim() == "0", path, numbers.trim().to_owned()))
        })
        .collect();
    // One with something in it, when there is one.
    disks.sort();
    let (_, path, numbers) = disks.into_iter().next().expect("every machine has one");
    (path, numbers)
}

impl Place {
    /// What a shell prints in a container whose limit may be unknown to this kernel: then a
    /// warning names it.
    #[track_caller]
    fn inside_or_warned(&self, flags: &[&str], script: &str, warning: &str) -> Option<String> {
        let line = [&["--rm"][..], flags].concat();
        let output = self.run(&line, &["sh", "-c", script]).ok();
        let warned = output.stderr.contains(warning);
        assert!(warned || output.stderr.is_empty(), "{flags:?}: {}", output.stderr);
        (!warned).then(|| output.text().to_owned())
    }
}

#[test]
fn memory() {
    let place = Place::new();
    let limit = cgroup("memory.max", "memory/memory.limit_in_bytes");
    let some = ["--memory", "64m", "--memory-swap", "-1"];
    assert_eq!(place.inside(&some, &limit), "67108864");
    let other = ["--memory", "64m", "--memory-swap", "-1", "--user", "1000"];
    assert_eq!(place.inside(&other, &limit), "67108864", "not only root may look");
    let soft = cgroup("memory.low", "memory/memory.soft_limit_in_bytes");
    assert_eq!(place.inside(&["--memory-reservation", "32m"], &soft), "33554432");
    let swap = cgroup("memory.swap.max", "memory/memory.memsw.limit_in_bytes");
    let flags = ["--memory=64m", "--memory-swap=128m"];
    if let Some(bytes) = place.inside_or_warned(&flags, &swap, "Memory limited without swap") {
        // Of swap alone, or of both.
        assert_eq!(bytes, if is_unified() { "67108864" } else { "134217728" });
        let flags = ["--memory=64m", "--memory-swap=32m"];
        place.refused(&flags, "memoryswap limit should be larger");
    }
    let willing = "cat /sys/fs/cgroup/memory/memory.swappiness";
    let flags = ["--memory-swappiness", "10"];
    if let Some(percent) = place.inside_or_warned(&flags, willing, "swappiness discarded") {
        assert_eq!(percent, "10");
    }
    let control = "cat /sys/fs/cgroup/memory/memory.oom_control";
    let flags = ["--memory=64m", "--memory-swap=-1", "--oom-kill-disable"];
    if let Some(control) = place.inside_or_warned(&flags, control, "OomKillDisable discarded") {
        assert!(control.contains("oom_kill_disable 1"), "{control}");
    }
    place.refused(&["--memory", "1m"], "Minimum memory limit allowed is 6MB");
    place.refused(&["--memory", "lots"], "invalid size: 'lots'");
    place.refused(&["--memory-swappiness=101"], "memory swappiness range is 0-100");
    place.daemon.assert_nothing_left();
}

#[test]
fn processors() {
    let place = Place::new();
    let quota = cgroup("cpu.max", "cpu/cpu.cfs_quota_us");
    assert!(place.inside(&["--cpus", "0.5"], &quota).starts_with("50000"));
    let both = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || \
                echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us)";
    let flags = ["--cpu-quota", "30000", "--cpu-period", "60000"];
    assert_eq!(place.inside(&flags, both), "30000 60000");
    let weight = place.inside(&["--cpu-shares", "512"], &cgroup("cpu.weight", "cpu/cpu.shares"));
    assert!(if is_unified() { weight != "100" } else { weight == "512" }, "{weight}");
    let lists = "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status | cut -f2";
    let flags = ["--cpuset-cpus", "0", "--cpuset-mems", "0"];
    assert_eq!(place.inside(&flags, lists), "0\n0");
    // Few kernels let groups have it, and then only as much as those above them have.
    let flags = ["--rm", "--cpu-rt-period", "1000000", "--cpu-rt-runtime", "1000"];
    let script = "cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us";
    let output = place.run(&flags, &["sh", "-c", script]);
    let told = output.stderr.contains("real-time") || output.stderr.contains("rt_");
    assert!(output.text() == "1000" || (output.code != 0 && told), "{output:?}");
    place.refused(&["--cpus", "0.0000000001"], "value is too precise");
    place.refused(&["--cpus", "-1"], "Range of CPUs is from 0.01 to ");
    place.refused(&["--cpus=1", "--cpu-quota=1000"], "Nano CPUs and CPU Quota cannot both be set");
    place.refused(&["--cpuset-cpus", "4096"], "Requested CPUs are not available");
    place.refused(&["--cpu-shares", "-1"], "invalid CPU shares");
    place.daemon.assert_nothing_left();
}

#[test]
fn processes() {
    let place = Place::new();
    let pids = cgroup("pids.max", "pids/pids.max");
    assert_eq!(place.inside(&["--pids-limit", "77"], &pids), "77");
    for unlimited in ["0", "-1"] {
        assert_eq!(place.inside(&["--pids-limit", unlimited], &pids), "max");
    }
    place.sleeping("limited", &["--pids-limit", "-1"]);
    let limit = || place.asked("{{json .HostConfig.PidsLimit}}", "limited");
    let update = |limit: &str| {
        let line = ["update", "--pids-limit", limit, "limited"];
        assert_eq!(place.daemon.gantry(&line).ok().text(), "limited");
    };
    assert_eq!(limit(), "null");
    // 0 is as good as no flag to Docker's command line.
    for (asked, shown, held) in [("66", "66", "66"), ("0", "66", "66"), ("-1", "0", "max")] {
        update(asked);
        let (said, set) = (limit(), place.exec("limited", &pids));
        assert_eq!((said.as_str(), set.as_str()), (shown, held), "{asked}");
    }
    place.daemon.gantry(&["rm", "-f", "limited"]).ok();
    let files = "ulimit -n; ulimit -Hn";
    assert_eq!(place.inside(&["--ulimit", "nofile=100:200"], files), "100\n200");
    // Fewer than it takes to make a container.
    assert_eq!(place.inside(&["--ulimit", "nofile=5"], files), "5\n5");
    let flags = ["--sysctl", "net.core.somaxconn=777"];
    assert_eq!(place.inside(&flags, "cat /proc/sys/net/core/somaxconn"), "777");
    let score = "cat /proc/self/oom_score_adj";
    assert_eq!(place.inside(&["--oom-score-adj", "500"], score), "500");
    place.refused(&["--ulimit", "nofile=2:1"], "less than or equal to hard limit: 2 > 1");
    place.refused(&["--sysctl", "kernel.panic=1"], "kernel.panic");
    place.refused(&["--oom-score-adj", "1001"], "range for oom score adj is [-1000, 1000]");
    place.daemon.assert_nothing_left();
}

#[test]
fn cgroups() {
    let place = Place::new();
    let parent = format!("{}/below", place.daemon.cgroup());
    let flags = ["--cgroup-parent", &parent, "--cgroupns", "host"];
    let seen = place.inside(&flags, "cat /proc/self/cgroup");
    let below = format!(":{parent}/");
    assert!(seen.lines().any(|line| line.contains(&below)), "{seen} lacks {below}");
    let own = place.inside(&["--cgroupns=private"], "cat /proc/self/cgroup");
    assert!(!own.contains(&place.daemon.cgroup()), "{own}");
    place.refused(&["--cgroup-parent", "/a/../b"], "invalid cgroup-parent");
    place.refused(&["--cgroupns", "other"], "--cgroupns: invalid CGROUP mode");
}

#[test]
fn disks() {
    let place = Place::new();
    let (disk, numbers) = block_device();
    let tell = "cat /sys/fs/cgroup/io.max 2>/dev/null || \
                cat /sys/fs/cgroup/blkio/blkio.throttle.*_device";
    for (flag, rate, key) in [
        ("--device-read-bps", "1m", "1048576"),
        ("--device-write-bps", "2m", "2097152"),
        ("--device-read-iops", "77", "77"),
        ("--device-write-iops", "88", "88"),
    ] {
        let limit = format!("{disk}:{rate}");
        if let Some(limits) = place.inside_or_warned(&[flag, &limit], tell, "limit discarded") {
            let told = limits.lines().any(|line| line.contains(&numbers) && line.contains(key));
            assert!(told, "{flag}: {limits}");
            place.refused(&[flag, "/dev/null:1"], "/dev/null");
        }
        place.refused(&[flag, "null:1"], "bad format for device path: null:1");
    }
    let weights = "cat /sys/fs/cgroup/io*weight /sys/fs/cgroup/blkio/*weight* 2>/dev/null; true";
    let flags = ["--blkio-weight", "300"];
    if let Some(told) = place.inside_or_warned(&flags, weights, "Weight discarded") {
        assert!(!told.is_empty(), "{told}");
    }
    let limit = format!("{disk}:300");
    let flags = ["--blkio-weight-device", &limit];
    let output = place.run(&[&["--rm"][..], &flags].concat(), &["sh", "-c", weights]);
    // A disk has weights of its own where its scheduler knows them.
    if output.code == 125 {
        let why = format!("weight_device to \"{numbers} 300\"");
        assert!(output.stderr.contains(&why), "{output:?}");
    } else if !output.stderr.contains("weight_device discarded") {
        assert!(output.ok().text().contains(&numbers));
    }
    place.refused(&["--blkio-weight-device", "/dev/null:5"], "invalid weight for device");
    place.daemon.assert_nothing_left();
}
