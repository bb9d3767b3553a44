use super::*;
use crate::host::cdi::Edits;
use crate::host::devices::Node;
use crate::model::{DeviceLimit, DeviceLimitKind, MountSetting, Namespaces, Resources, Ulimit};

fn build_with(settings: &Settings, mounts: &[Value], devices: &Devices) -> Value {
    let files = ContainerFiles::below(Path::new("/root/c"), "c1");
    let builder =
        SpecBuilder::new("/gantry/", Path::new("/usr/bin/shim"), &Host::new(&[])).unwrap();
    let size = Some(Size { columns: 80, rows: 24 });
    let shared = &Shared::default();
    let input = SpecInput { id: "c1", settings, files: &files, size, mounts, devices, shared };
    serde_json::from_slice(&builder.build(&input).unwrap()).unwrap()
}

fn build(settings: &Settings) -> Value {
    build_with(settings, &[], &Devices::default())
}

fn flagged(change: impl FnOnce(&mut Flags)) -> Value {
    let mut settings = Settings { command: vec!["true".into()], ..Settings::default() };
    change(&mut settings.flags);
    build(&settings)
}

fn mount<'a>(spec: &'a Value, target: &str) -> Option<&'a Value> {
    spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == target)
}

fn options(spec: &Value, target: &str) -> Vec<String> {
    let options = mount(spec, target).unwrap()["options"].clone();
    serde_json::from_value(options).unwrap()
}

fn kinds(spec: &Value) -> Vec<String> {
    let all = spec["linux"]["namespaces"].as_array().unwrap();
    all.iter().map(|namespace| namespace["type"].as_str().unwrap().to_owned()).collect()
}

fn rules(spec: &Value) -> &Vec<Value> {
    spec["linux"]["resources"]["devices"].as_array().unwrap()
}

/// The calls that the filter allows without conditions.
fn allows(spec: &Value, call: &str) -> bool {
    let rules = spec["linux"]["seccomp"]["syscalls"].as_array().unwrap();
    let plain = |rule: &&Value| rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none();
    rules.iter().filter(plain).any(|rule| rule["names"].as_array().unwrap().contains(&json!(call)))
}

#[test]
fn a_container_with_defaults() {
    let spec = build(&Settings {
        entrypoint: vec!["/bin/sh".into()],
        command: vec!["-c".into(), "true".into()],
        working_dir: "/".into(),
        hostname: "h".into(),
        ..Settings::default()
    });
    assert_eq!(spec["process"]["args"], json!(["/bin/sh", "-c", "true"]));
    assert_eq!(spec["process"]["user"], json!({"uid": 0, "gid": 0, "username": "0"}));
    let capabilities = spec["process"]["capabilities"].as_object().unwrap();
    assert_eq!(capabilities["bounding"].as_array().unwrap().len(), 14);
    // None is inheritable or ambient.
    assert_eq!(capabilities.keys().collect::<Vec<_>>(), ["bounding", "effective", "permitted"]);
    for absent in ["noNewPrivileges", "consoleSize", "rlimits", "oomScoreAdj"] {
        assert!(spec["process"].get(absent).is_none(), "{absent}");
    }
    for absent in ["hooks", "annotations", "domainname"] {
        assert!(spec.get(absent).is_none(), "{absent}");
    }
    for absent in ["devices", "rootfsPropagation"] {
        assert!(spec["linux"].get(absent).is_none(), "{absent}");
    }
    assert_eq!(spec["hostname"], "h");
    assert_eq!(spec["root"]["readonly"], false);
    assert_eq!(spec["linux"]["cgroupsPath"], "/gantry/c1");
    assert_eq!(kinds(&spec), ["mount", "uts", "pid", "ipc", "cgroup", "network"]);
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(spec["linux"]["resources"].as_object().unwrap().len(), 1);
    assert_eq!(rules(&spec)[0]["allow"], false);
    for target in ["/proc", "/dev/shm", "/etc/hosts", "/etc/resolv.conf"] {
        assert!(mount(&spec, target).is_some(), "{target}");
    }
    assert!(options(&spec, "/sys/fs/cgroup").contains(&"ro".to_owned()));
    assert!(options(&spec, "/dev/shm").contains(&"size=67108864".to_owned()));
}

#[test]
fn the_hosts_network_and_a_terminal() {
    let spec = build(&Settings {
        network: Network::Host,
        tty: true,
        user: "web:www".into(),
        ..Settings::default()
    });
    assert!(!kinds(&spec).contains(&"network".to_owned()));
    assert!(spec["linux"].get("sysctl").is_none());
    assert_eq!(spec["process"]["consoleSize"], json!({"height": 24, "width": 80}));
    assert_eq!(spec["process"]["user"]["username"], "web:www");
}

#[test]
fn capabilities_and_their_filter() {
    let spec = flagged(|f| {
        f.security.cap_add = vec!["SYS_ADMIN".into()];
        f.security.cap_drop = vec!["CHOWN".into()];
    });
    let bounding = spec["process"]["capabilities"]["bounding"].as_array().unwrap();
    assert!(bounding.contains(&json!("CAP_SYS_ADMIN")));
    assert!(!bounding.contains(&json!("CAP_CHOWN")));
    assert!(allows(&spec, "mount"));
    assert!(!allows(&flagged(|_| {}), "mount"));
    let none = flagged(|f| f.security.cap_drop = vec!["ALL".into()]);
    assert_eq!(none["process"]["capabilities"]["permitted"], json!([]));
    assert!(!allows(&none, "chroot"));
}

#[test]
fn filters_are_kept_but_not_for_ever() {
    let builder = SpecBuilder::new("/", Path::new("/x"), &Host::new(&[])).unwrap();
    let some = |names: &[&str]| {
        let cap_add = names.iter().map(|n| (*n).to_owned()).collect();
        let security = Security { cap_add, ..Security::default() };
        let granted = capabilities::granted(&security, builder.available).unwrap();
        builder.filter(&security, granted).unwrap().unwrap()
    };
    assert!(Arc::ptr_eq(&some(&[]), &builder.seccomp));
    assert!(Arc::ptr_eq(&some(&["SYS_ADMIN"]), &some(&["SYS_ADMIN"])));
    let optional = ["SYS_TIME", "SYSLOG", "SYS_NICE", "SYS_PTRACE", "NET_ADMIN", "SYS_BOOT"];
    for set in 0..1 << optional.len() {
        let names: Vec<&str> =
            (0..optional.len()).filter(|n| set >> n & 1 == 1).map(|n| optional[n]).collect();
        some(&names);
    }
    assert!(builder.filters.lock().unwrap().len() <= FILTERS);
}

#[test]
fn seccomp_of_the_caller() {
    let none = flagged(|f| f.security.seccomp = "unconfined".into());
    assert!(none["linux"].get("seccomp").is_none());
    let own = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let spec = flagged(|f| f.security.seccomp = own.into());
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    assert_eq!(spec["linux"]["seccomp"]["syscalls"][0]["names"], json!(["mkdir"]));
    // A profile counts for a privileged container too.
    let spec = flagged(|f| {
        f.security.seccomp = own.into();
        f.security.privileged = true;
    });
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
}

#[test]
fn privileged_containers() {
    let spec = flagged(|f| f.security.privileged = true);
    let here = Capabilities::available().names().len();
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), here);
    assert!(spec["linux"].get("seccomp").is_none());
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(*rules(&spec), [json!({"allow": true, "access": "rwm"})]);
    for target in ["/sys", "/sys/fs/cgroup"] {
        assert!(!options(&spec, target).contains(&"ro".to_owned()), "{target}");
    }
}

#[test]
fn rights_of_the_process() {
    let spec = flagged(|f| {
        f.security.no_new_privileges = true;
        f.oom_score_adj = Some(300);
        f.ulimits = vec![Ulimit { name: "nofile".into(), soft: 10, hard: 20 }];
        f.groups = vec!["44".into(), "audio".into(), "video".into()];
        f.annotations = [("a".to_owned(), "b".to_owned())].into();
    });
    let process = &spec["process"];
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["oomScoreAdj"], 300);
    assert_eq!(process["rlimits"], json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]));
    assert_eq!(process["user"]["additionalGids"], json!([44]));
    assert_eq!(spec["annotations"], json!({"a": "b", "io.gantry.groups": "audio,video"}));
}

#[test]
fn paths_and_the_root() {
    let spec = flagged(|f| {
        f.security.unconfined_paths = true;
        f.security.read_only = true;
    });
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["root"]["readonly"], true);
    assert!(options(&spec, "/etc/hosts").contains(&"ro".to_owned()));
    assert!(options(&spec, "/sys").contains(&"ro".to_owned()));
}

#[test]
fn names_of_host_and_domain() {
    let spec = flagged(|f| f.domainname = "example.com".into());
    assert_eq!(spec["domainname"], "example.com");
    let mut settings = Settings { hostname: "h".into(), ..Settings::default() };
    settings.flags.namespaces.uts = "host".into();
    let spec = build(&settings);
    assert!(spec.get("hostname").is_none());
    assert!(!kinds(&spec).contains(&"uts".to_owned()));
}

#[test]
fn namespaces_of_others() {
    let host = Namespaces {
        pid: "host".into(),
        ipc: "host".into(),
        cgroup: "host".into(),
        user: "host".into(),
        ..Namespaces::default()
    };
    let spec = flagged(|f| f.namespaces = host);
    assert_eq!(kinds(&spec), ["mount", "uts", "network"]);
    assert_eq!(mount(&spec, "/dev/shm").unwrap()["source"], "/dev/shm");
    let other = Namespaces {
        pid: "container:c2".into(),
        ipc: "container:c2".into(),
        ..Namespaces::default()
    };
    let spec = flagged(|f| f.namespaces = other);
    let joined = &spec["linux"]["namespaces"];
    // Until they are joined they lead nowhere.
    assert_eq!(joined[2], json!({"type": "pid", "path": "/proc/0/ns/pid"}));
    assert_eq!(joined[3], json!({"type": "ipc", "path": "/proc/0/ns/ipc"}));
    assert!(options(&spec, "/dev/shm").contains(&"gantry.namespace=/proc/0/ns/mnt".to_owned()));
    let mut settings = Settings::default();
    settings.share_network("c2");
    let spec = build(&settings);
    let all = spec["linux"]["namespaces"].as_array().unwrap();
    assert_eq!(all.last().unwrap(), &json!({"type": "network", "path": "/proc/0/ns/net"}));
    assert!(spec["linux"].get("sysctl").is_none());
    let spec = flagged(|f| f.namespaces.ipc = "none".into());
    assert!(mount(&spec, "/dev/shm").is_none());
    assert!(kinds(&spec).contains(&"ipc".to_owned()));
}

#[test]
fn kernel_parameters_and_memory_that_is_shared() {
    let spec = flagged(|f| {
        f.sysctls = [
            ("net.core.somaxconn".to_owned(), "7".to_owned()),
            ("net.ipv4.ping_group_range".to_owned(), "1 0".to_owned()),
        ]
        .into();
        f.shm_size = 1 << 20;
    });
    let sysctl = &spec["linux"]["sysctl"];
    assert_eq!(sysctl["net.core.somaxconn"], "7");
    assert_eq!(sysctl["net.ipv4.ping_group_range"], "1 0");
    assert_eq!(sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
    assert!(options(&spec, "/dev/shm").contains(&"size=1048576".to_owned()));
}

#[test]
fn a_first_process_of_ours() {
    let spec = flagged(|f| f.init = true);
    assert_eq!(spec["process"]["args"], json!(["/sbin/docker-init", "--", "true"]));
    assert_eq!(mount(&spec, "/sbin/docker-init").unwrap()["source"], "/usr/bin/shim");
    assert!(options(&spec, "/sbin/docker-init").contains(&"ro".to_owned()));
    let spec = flagged(|f| {
        f.init = true;
        f.namespaces.pid = "host".into();
    });
    assert_eq!(spec["process"]["args"], json!(["true"]));
}

#[test]
fn cgroups_below_others() {
    for (parent, path) in [("/a/b/", "/a/b/c1"), ("a", "/a/c1"), ("/", "/c1")] {
        let spec = flagged(|f| f.cgroup_parent = parent.into());
        assert_eq!(spec["linux"]["cgroupsPath"], path);
    }
}

#[test]
fn limits() {
    let resources = Resources {
        memory: Some(64 << 20),
        memory_swap: Some(128 << 20),
        memory_reservation: Some(32 << 20),
        memory_swappiness: Some(0),
        oom_kill_disable: Some(true),
        pids: Some(10),
        nano_cpus: Some(1_500_000_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        blkio_weight: Some(300),
        ..Resources::default()
    };
    let spec = flagged(|f| f.resources = resources.clone());
    let made = &spec["linux"]["resources"];
    assert_eq!(
        made["memory"],
        json!({
            "limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "swappiness": 0,
            "disableOOMKiller": true,
        })
    );
    assert_eq!(
        made["cpu"],
        json!({"quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0"})
    );
    assert_eq!((&made["pids"]["limit"], &made["blockIO"]["weight"]), (&json!(10), &json!(300)));
    // What is unlimited is told to one that runs only.
    let none = Resources { memory_swap: Some(-1), pids: Some(-1), ..Resources::default() };
    assert_eq!(resources::limits(&none, &[], false), json!({}));
    let told = json!({"memory": {"swap": -1}, "pids": {"limit": -1}});
    assert_eq!(resources::limits(&none, &[], true), told);
}

#[test]
fn limits_of_devices() {
    let limit = |kind, rate| DeviceLimit { kind, path: "/dev/x".into(), rate };
    let mut settings = Settings::default();
    settings.flags.resources.device_limits =
        vec![limit(DeviceLimitKind::ReadBps, 1), limit(DeviceLimitKind::WriteIops, 2)];
    let devices = Devices { limited: vec![(8, 0), (8, 16)], ..Devices::default() };
    let spec = build_with(&settings, &[], &devices);
    assert_eq!(
        spec["linux"]["resources"]["blockIO"],
        json!({
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 2}],
        })
    );
}

fn node(path: &str, minor: u64) -> Node {
    Node {
        path: path.into(),
        kind: 'c',
        major: 10,
        minor,
        mode: Some(0o660),
        uid: None,
        gid: None,
        access: "rw".into(),
    }
}

#[test]
fn devices() {
    let mut settings = Settings { user: "1000:7".into(), ..Settings::default() };
    settings.flags.device_cgroup_rules = vec!["c 13:* r".into()];
    let edits = Edits { nodes: vec![node("/dev/cdi", 2)], ..Edits::default() };
    let devices = Devices { nodes: vec![node("/dev/own", 1)], edits, limited: Vec::new() };
    let spec = build_with(&settings, &[], &devices);
    let nodes = &spec["linux"]["devices"];
    assert_eq!(nodes[0]["path"], "/dev/own");
    assert!(nodes[0].get("uid").is_none());
    assert_eq!((&nodes[1]["uid"], &nodes[1]["gid"]), (&json!(1000), &json!(7)));
    let rule = |minor: u64| json!({"allow": true, "type": "c", "major": 10, "minor": minor, "access": "rw"});
    assert!(rules(&spec).contains(&rule(1)) && rules(&spec).contains(&rule(2)));
    let given = json!({"allow": true, "type": "c", "major": 13, "access": "r"});
    assert!(rules(&spec).contains(&given));
}

#[test]
fn what_described_devices_change() {
    let mount_of = |target: &str| json!({"destination": target, "type": "bind", "source": "/s"});
    let edits = Edits {
        env: vec!["A=2".into(), "B=3".into()],
        mounts: vec![mount_of("/lib/x")],
        hooks: [("createContainer".to_owned(), vec![json!({"path": "/bin/hook"})])].into(),
        groups: vec![44],
        ..Edits::default()
    };
    let settings = Settings { env: vec!["A=1".into()], ..Settings::default() };
    let devices = Devices { edits, ..Devices::default() };
    let spec = build_with(&settings, &[mount_of("/lib/x/"), Value::Null], &devices);
    assert_eq!(spec["process"]["env"], json!(["A=2", "B=3"]));
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
    assert_eq!(spec["hooks"]["createContainer"][0]["path"], "/bin/hook");
    assert!(mount(&spec, "/lib/x").is_some() && mount(&spec, "/lib/x/").is_none());
}

#[test]
fn mounts_of_the_caller_take_the_place_of_others() {
    let at = |target: &str| json!({"destination": target, "type": "tmpfs", "source": "mine"});
    let settings = Settings::default();
    let asked = [at("/dev"), at("/etc"), at("/etc/hosts/")];
    let spec = build_with(&settings, &asked, &Devices::default());
    assert_eq!(mount(&spec, "/dev").unwrap()["source"], "mine");
    assert!(mount(&spec, "/dev/pts").is_none() && mount(&spec, "/proc").is_some());
    assert!(mount(&spec, "/etc/hosts").is_none());
    let all: Vec<&str> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    let place = |target| all.iter().position(|t| *t == target).unwrap();
    assert!(place("/etc") < place("/etc/hostname"));
    let spec = build_with(&settings, &[at("/sys")], &Devices::default());
    assert!(mount(&spec, "/sys/fs/cgroup").is_none() && mount(&spec, "/dev/pts").is_some());
    let mounts = vec![MountSetting { propagation: "rshared".into(), ..MountSetting::default() }];
    let spec = build(&Settings { mounts, ..Settings::default() });
    assert_eq!(spec["linux"]["rootfsPropagation"], "shared");
}

#[test]
fn users_by_number() {
    for (text, want) in [
        ("", (None, None)),
        ("7", (Some(7), None)),
        ("7:8", (Some(7), Some(8))),
        ("a:8", (None, Some(8))),
    ] {
        assert_eq!(process::numbers(text), want, "{text}");
    }
}
