use super::*;

const MIB: i64 = 1 << 20;

/// A machine that can limit everything.
fn facts() -> Facts {
    Facts {
        memory: true,
        swap: true,
        reservation: true,
        swappiness: true,
        oom_kill_disable: true,
        pids: true,
        cpu_shares: true,
        cpu_cfs: true,
        cpu_realtime: true,
        cpuset: true,
        blkio_weight: true,
        blkio_weight_device: true,
        blkio_throttle: true,
        cpus: "0-1".into(),
        mems: "0".into(),
        count: 2,
    }
}

fn ask(change: impl FnOnce(&mut Resources), facts: &Facts) -> Result<(Resources, Vec<String>)> {
    let mut resources = Resources::default();
    change(&mut resources);
    check(&mut resources, facts, false).map(|warnings| (resources, warnings))
}

fn refused(change: impl FnOnce(&mut Resources)) -> String {
    ask(change, &facts()).unwrap_err().to_string()
}

fn limit(kind: DeviceLimitKind, rate: u64) -> DeviceLimit {
    DeviceLimit { kind, path: "/dev/sda".into(), rate }
}

#[test]
fn what_follows_from_memory() {
    let (made, warnings) = ask(|r| r.memory = Some(64 * MIB), &facts()).unwrap();
    assert_eq!(made.memory_swap, Some(128 * MIB));
    assert!(warnings.is_empty());
    let unlimited = |r: &mut Resources| (r.memory, r.memory_swap) = (Some(64 * MIB), Some(-7));
    assert_eq!(ask(unlimited, &facts()).unwrap().0.memory_swap, Some(-1));
    let (made, _) = ask(|r| (r.memory, r.pids) = (Some(0), Some(0)), &facts()).unwrap();
    assert_eq!((made.memory, made.memory_swap, made.pids), (None, None, None));
    assert_eq!(ask(|r| r.pids = Some(-7), &facts()).unwrap().0.pids, None);
}

#[test]
fn rules_of_memory() {
    assert_eq!(refused(|r| r.memory = Some(1)), "Minimum memory limit allowed is 6MB");
    assert_eq!(refused(|r| r.memory = Some(-1)), "Minimum memory limit allowed is 6MB");
    assert!(
        refused(|r| (r.memory, r.memory_swap) = (Some(64 * MIB), Some(32 * MIB)))
            .starts_with("Minimum memoryswap limit should be larger")
    );
    assert!(
        refused(|r| r.memory_swap = Some(64 * MIB)).starts_with("You should always set the Memory")
    );
    assert!(refused(|r| r.memory_swappiness = Some(101)).starts_with("Invalid value: 101"));
    assert!(refused(|r| r.memory_reservation = Some(1)).contains("reservation allowed is 6MB"));
    assert!(
        refused(|r| (r.memory, r.memory_reservation) = (Some(32 * MIB), Some(64 * MIB)))
            .starts_with("Minimum memory limit can not be less")
    );
}

#[test]
fn rules_of_processors() {
    assert_eq!(
        refused(|r| r.nano_cpus = Some(3_000_000_000)),
        "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
    );
    assert!(refused(|r| r.nano_cpus = Some(-1)).starts_with("Range of CPUs"));
    assert!(refused(|r| r.nano_cpus = Some(1)).starts_with("Range of CPUs"));
    assert_eq!(
        refused(|r| (r.nano_cpus, r.cpu_quota) = (Some(CPU), Some(5000))),
        "Conflicting options: Nano CPUs and CPU Quota cannot both be set"
    );
    assert!(
        refused(|r| (r.nano_cpus, r.cpu_period) = (Some(CPU), Some(5000))).contains("CPU Period")
    );
    assert!(refused(|r| r.cpu_period = Some(999)).starts_with("CPU cfs period"));
    assert!(refused(|r| r.cpu_quota = Some(999)).starts_with("CPU cfs quota"));
    assert!(refused(|r| r.cpu_shares = Some(-1)).starts_with("invalid CPU shares (-1)"));
    assert!(refused(|r| r.cpuset_cpus = Some("0-9".into())).starts_with("Requested CPUs are not"));
    assert!(
        refused(|r| r.cpuset_cpus = Some("x".into())).starts_with("Invalid value x for cpuset")
    );
    assert!(refused(|r| r.cpuset_mems = Some("1".into())).contains("available: 0"));
    assert!(ask(|r| r.cpuset_cpus = Some("1".into()), &facts()).is_ok());
    let none = Facts { cpu_realtime: false, ..facts() };
    assert!(ask(|r| r.cpu_rt_runtime = Some(1000), &none).is_err());
}

#[test]
fn rules_of_input_and_output() {
    assert!(refused(|r| r.blkio_weight = Some(9)).starts_with("Range of blkio weight"));
    let weight = limit(DeviceLimitKind::Weight, 1001);
    assert!(refused(|r| r.device_limits = vec![weight]).starts_with("invalid weight for device"));
    let path = DeviceLimit { path: "sda".into(), ..limit(DeviceLimitKind::ReadBps, 1) };
    assert!(refused(|r| r.device_limits = vec![path]).starts_with("bad format"));
}

#[test]
fn what_the_host_can_not_limit_is_told_and_left_out() {
    let wishes = |r: &mut Resources| {
        r.memory = Some(64 * MIB);
        r.memory_reservation = Some(32 * MIB);
        r.memory_swappiness = Some(10);
        r.oom_kill_disable = Some(true);
        r.pids = Some(10);
        r.cpu_shares = Some(512);
        r.cpu_quota = Some(5000);
        r.cpuset_cpus = Some("0".into());
        r.blkio_weight = Some(500);
        r.device_limits = [1, 2].map(|rate| limit(DeviceLimitKind::ReadBps, rate)).to_vec();
    };
    let (made, warnings) = ask(wishes, &Facts { count: 2, ..Facts::default() }).unwrap();
    assert_eq!(made, Resources::default());
    assert_eq!(warnings.len(), 10, "{warnings:#?}");
    let (made, warnings) = ask(wishes, &Facts { swap: false, ..facts() }).unwrap();
    assert_eq!((made.memory, made.memory_swap), (Some(64 * MIB), None));
    assert!(warnings[0].ends_with("Memory limited without swap."), "{warnings:?}");
}

#[test]
fn updates() {
    let before = Resources {
        memory: Some(64 * MIB),
        memory_swap: Some(128 * MIB),
        nano_cpus: Some(CPU),
        ..Resources::default()
    };
    let update = |change: fn(&mut Resources)| {
        let mut resources = Resources::default();
        change(&mut resources);
        updated(&before, &resources, &facts()).map(|(after, _)| after).map_err(|e| e.to_string())
    };
    let after = update(|r| r.memory = Some(96 * MIB)).unwrap();
    assert_eq!((after.memory, after.memory_swap), (Some(96 * MIB), Some(128 * MIB)));
    assert_eq!(after.nano_cpus, Some(CPU));
    let said = update(|r| r.memory = Some(256 * MIB)).unwrap_err();
    assert!(said.starts_with("Memory limit should be smaller than already set"), "{said}");
    let both = update(|r| (r.memory, r.memory_swap) = (Some(256 * MIB), Some(-1))).unwrap();
    assert_eq!((both.memory, both.memory_swap), (Some(256 * MIB), Some(-1)));
    let said = update(|r| r.cpu_quota = Some(5000)).unwrap_err();
    assert!(said.contains("CPU Quota cannot be updated as NanoCPUs"), "{said}");
    assert!(update(|r| r.memory_reservation = Some(65 * MIB)).is_err());
    for unlimited in [0, -1, -7] {
        let change = Resources { pids: Some(unlimited), ..Resources::default() };
        assert_eq!(updated(&before, &change, &facts()).unwrap().0.pids, Some(-1));
    }
    assert_eq!(updated(&before, &Resources::default(), &facts()).unwrap().0, before);
}
