use gantry_core::Labels;
use gantry_core::networks::PortWish;
use serde_json::json;

use super::*;
use crate::fields::one_line;
use crate::model::{
    Attached, Dependency, DeviceLimit, DeviceLimitKind, DeviceSetting, Flags, Meta, MountSetting,
    Network, RestartMode, RestartPolicy, Security, Ulimit,
};

/// What Docker 28 shows of `run -d --network none --name web busybox sleep 600`, with the values
/// of the container below.
const DOCKER: &str = include_str!("docker.json");

fn container() -> Container {
    let mut container = Container {
        id: "0123456789ab".repeat(5) + "0123",
        snapshotter: "overlayfs".into(),
        snapshot_key: "key".into(),
        created_at: Timestamp { seconds: 1_714_550_400, nanos: 120_000_000 },
        ..Container::default()
    };
    container.runtime.name = "io.containerd.gantry.v2".into();
    container
}

fn meta(settings: Settings) -> Meta {
    Meta {
        name: "web".into(),
        image: "busybox".into(),
        image_id: "sha256:00".into(),
        settings,
        ..Meta::default()
    }
}

fn plain() -> Settings {
    Settings {
        command: vec!["sleep".into(), "600".into()],
        env: vec!["PATH=/bin".into(), "HOSTNAME=0123456789ab".into()],
        working_dir: "/".into(),
        hostname: "0123456789ab".into(),
        stop_signal: 15,
        ..Settings::default()
    }
}

fn running() -> State {
    State {
        phase: Phase::Running,
        pid: 4711,
        started_at: Timestamp { seconds: 1_714_550_401, nanos: 0 },
        ..State::default()
    }
}

fn image() -> ImageRuntime {
    ImageRuntime { env: Some(vec!["PATH=/bin".into()]), ..ImageRuntime::default() }
}

/// The text that is shown.
fn text(settings: Settings, state: State, change: impl FnOnce(&mut Object<'_>)) -> String {
    let container = container();
    let summary = Summary::of(&container, meta(settings), state);
    let overlay = Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: ["index=off", "workdir=/s/7/work", "upperdir=/s/7/fs", "lowerdir=/s/2/fs:/s/1/fs"]
            .map(str::to_owned)
            .into(),
    };
    let mut object = Object {
        files: ContainerFiles::below(Path::new("/r"), &container.id),
        image: Some(image()),
        volumes: Places::new(),
        layers: layers(&[overlay], summary.state.pid),
        health: None,
        execs: Vec::new(),
        can_spare: false,
        summary: &summary,
        container: &container,
    };
    change(&mut object);
    object.fields().to_string()
}

fn json(settings: Settings, state: State, change: impl FnOnce(&mut Object<'_>)) -> Value {
    serde_json::from_str(&text(settings, state, change)).unwrap()
}

#[test]
fn dockers_shape_in_dockers_order() {
    assert_eq!(text(plain(), running(), |_| {}), one_line(DOCKER));
}

#[test]
fn states() {
    let of = |phase, change: fn(&mut State)| {
        let mut state = State { phase, ..State::default() };
        change(&mut state);
        json(plain(), state, |_| {})["State"].take()
    };
    let created = of(Phase::Created, |_| {});
    assert_eq!((&created["Status"], &created["Running"]), (&json!("created"), &json!(false)));
    assert_eq!((&created["StartedAt"], &created["FinishedAt"]), (&json!(NEVER), &json!(NEVER)));
    let exited = of(Phase::Exited, |state| {
        state.exit_code = 137;
        state.oom_killed = true;
    });
    assert_eq!((&exited["Status"], &exited["ExitCode"]), (&json!("exited"), &json!(137)));
    assert_eq!((&exited["OOMKilled"], &exited["Dead"]), (&json!(true), &json!(false)));
    let paused = of(Phase::Paused, |_| {});
    assert_eq!((&paused["Running"], &paused["Paused"]), (&json!(true), &json!(true)));
    let again = of(Phase::Restarting, |_| {});
    assert_eq!((&again["Running"], &again["Restarting"]), (&json!(true), &json!(true)));
    assert!(again.get("Health").is_none());
}

#[test]
fn what_happens_beside_its_settings() {
    let state = State { restart_count: 3, ..running() };
    let shown = json(plain(), state, |object| {
        object.execs = vec!["e1".into()];
        object.health = Some(json!({"Status": "healthy", "FailingStreak": 0, "Log": []}));
        object.can_spare = true;
    });
    assert_eq!((&shown["RestartCount"], &shown["ExecIDs"]), (&json!(3), &json!(["e1"])));
    assert_eq!(shown["State"]["Health"]["Status"], "healthy");
    assert_eq!(shown["HostConfig"]["OomKillDisable"], false);
    let ended = json(plain(), State { phase: Phase::Exited, ..State::default() }, |_| {});
    assert!(ended["GraphDriver"]["Data"].get("MergedDir").is_none());
    assert_eq!(ended["GraphDriver"]["Data"]["UpperDir"], "/s/7/fs");
    assert!(layers(&[], 1).is_none());
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn flags() -> Flags {
    let mut flags = Flags {
        security: Security {
            cap_add: vec!["net_admin".into(), "CAP_CHOWN".into(), "net_admin".into()],
            cap_drop: vec!["all".into()],
            no_new_privileges: true,
            seccomp: "unconfined".into(),
            unconfined_paths: true,
            read_only: true,
            ..Security::default()
        },
        init: true,
        devices: vec![DeviceSetting {
            host_path: "/dev/fuse".into(),
            container_path: "/dev/f".into(),
            access: "rw".into(),
        }],
        device_cgroup_rules: vec!["c 13:* rwm".into()],
        cdi_devices: vec!["vendor.com/gpu=0".into()],
        ulimits: vec![Ulimit { name: "nofile".into(), soft: 10, hard: 20 }],
        sysctls: labels(&[("net.core.somaxconn", "7")]),
        groups: vec!["audio".into()],
        annotations: labels(&[("a.b/c", "d")]),
        shm_size: 1 << 20,
        oom_score_adj: Some(-5),
        cgroup_parent: "/some".into(),
        log_driver: "local".into(),
        log_options: labels(&[("max-size", "1m")]),
        domainname: "example.org".into(),
        ..Flags::default()
    };
    flags.namespaces.pid = "host".into();
    flags.namespaces.ipc = "shareable".into();
    flags.resources.memory = Some(64 << 20);
    flags.resources.memory_swap = Some(-1);
    flags.resources.nano_cpus = Some(1_500_000_000);
    flags.resources.pids = Some(50);
    flags.resources.cpuset_cpus = Some("0".into());
    let limit = |kind| DeviceLimit { kind, path: "/dev/vda".into(), rate: 9 };
    flags.resources.device_limits =
        vec![limit(DeviceLimitKind::WriteIops), limit(DeviceLimitKind::Weight)];
    flags
}

#[test]
fn no_limit_of_processes_is_zero() {
    let mut settings = plain();
    settings.flags.resources.pids = Some(-1);
    let shown = json(settings, running(), |_| {});
    assert_eq!(shown["HostConfig"]["PidsLimit"], 0);
}

#[test]
fn limits_and_rights() {
    let settings = Settings {
        flags: flags(),
        network: Network::Host,
        restart: RestartPolicy { mode: RestartMode::OnFailure, maximum_retries: 3 },
        after: vec![Dependency { container: "db".into(), healthy: true }],
        stop_timeout: Some(-1),
        ..plain()
    };
    let shown = json(settings, running(), |_| {});
    let expected = [
        ("RestartPolicy", json!({"Name": "on-failure", "MaximumRetryCount": 3})),
        ("NetworkMode", json!("host")),
        ("LogConfig", json!({"Type": "local", "Config": {"max-size": "1m"}})),
        ("Annotations", json!({"a.b/c": "d"})),
        ("CapAdd", json!(["CAP_CHOWN", "CAP_NET_ADMIN"])),
        ("CapDrop", json!(["ALL"])),
        ("GroupAdd", json!(["audio"])),
        ("IpcMode", json!("shareable")),
        ("PidMode", json!("host")),
        ("UTSMode", json!("")),
        ("OomScoreAdj", json!(-5)),
        ("ReadonlyRootfs", json!(true)),
        ("SecurityOpt", json!(["no-new-privileges", "seccomp=unconfined"])),
        ("ShmSize", json!(1 << 20)),
        ("Sysctls", json!({"net.core.somaxconn": "7"})),
        ("Memory", json!(64 << 20)),
        ("MemorySwap", json!(-1)),
        ("NanoCpus", json!(1_500_000_000)),
        ("CgroupParent", json!("/some")),
        ("CpusetCpus", json!("0")),
        ("BlkioWeightDevice", json!([{"Path": "/dev/vda", "Weight": 9}])),
        ("BlkioDeviceWriteIOps", json!([{"Path": "/dev/vda", "Rate": 9}])),
        ("BlkioDeviceReadBps", json!([])),
        ("DeviceCgroupRules", json!(["c 13:* rwm"])),
        ("PidsLimit", json!(50)),
        ("Ulimits", json!([{"Name": "nofile", "Hard": 20, "Soft": 10}])),
        ("MaskedPaths", json!([])),
        ("ReadonlyPaths", json!([])),
        ("Init", json!(true)),
        ("After", json!(["db:healthy"])),
    ];
    for (name, value) in expected {
        assert_eq!(shown["HostConfig"][name], value, "{name}");
    }
    let devices = &shown["HostConfig"]["Devices"];
    let fuse = json!({
        "PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "rw",
    });
    assert_eq!(devices, &json!([fuse]));
    let requests = &shown["HostConfig"]["DeviceRequests"];
    assert_eq!((&requests[0]["Driver"], &requests[0]["Count"]), (&json!("cdi"), &json!(0)));
    assert_eq!(requests[0]["DeviceIDs"], json!(["vendor.com/gpu=0"]));
    assert_eq!(shown["LogPath"], "", "Docker shows it of json-file only");
    assert_eq!(shown["Config"]["Domainname"], "example.org");
    assert_eq!(shown["Config"]["StopTimeout"], -1);
    assert!(shown["NetworkSettings"]["Networks"]["host"].is_object());
}

#[test]
fn what_was_asked_of_networks() {
    let mut settings = plain();
    settings.network = Network::Attached;
    settings.networking.attached = vec![Attached { name: "app".into(), ..Attached::default() }];
    settings.networking.ports =
        vec![PortWish { host_port: 8080, container_port: 80, ..PortWish::default() }];
    settings.networking.exposed = vec!["443/tcp".parse().unwrap()];
    settings.networking.dns.servers = vec![[9, 9, 9, 9].into()];
    settings.networking.dns.search = vec!["example.com".into()];
    settings.networking.extra_hosts = vec!["db:10.0.0.1".into()];
    let shown = json(settings.clone(), running(), |_| {});
    let expected = [
        ("NetworkMode", json!("app")),
        ("PortBindings", json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]})),
        ("Dns", json!(["9.9.9.9"])),
        ("DnsOptions", json!([])),
        ("DnsSearch", json!(["example.com"])),
        ("ExtraHosts", json!(["db:10.0.0.1"])),
        ("PublishAllPorts", json!(false)),
    ];
    for (name, value) in expected {
        assert_eq!(shown["HostConfig"][name], value, "{name}");
    }
    assert_eq!(shown["Config"]["ExposedPorts"], json!({"443/tcp": {}, "80/tcp": {}}));
    settings.share_network("c2");
    let shown = json(settings, running(), |_| {});
    assert_eq!(shown["HostConfig"]["NetworkMode"], "container:c2");
    assert_eq!(shown["NetworkSettings"]["Networks"], json!({}));
}

#[test]
fn privileged_ones_mask_nothing() {
    let mut settings = plain();
    settings.flags.security.privileged = true;
    let shown = json(settings, running(), |_| {});
    assert_eq!(shown["HostConfig"]["Privileged"], true);
    assert!(shown["HostConfig"]["MaskedPaths"].is_null());
    assert!(shown["HostConfig"].get("MaskedPaths").is_some());
}

#[test]
fn mounts_stand_where_docker_has_them() {
    let bind = MountSetting {
        source: "/host".into(),
        target: "/in".into(),
        create_source: true,
        ..MountSetting::default()
    };
    let memory =
        MountSetting { kind: MountKind::Tmpfs, target: "/run".into(), ..MountSetting::default() };
    let settings = Settings { mounts: vec![bind, memory], ..plain() };
    let shown = json(settings, running(), |_| {});
    assert_eq!(shown["HostConfig"]["Binds"], json!(["/host:/in"]));
    assert_eq!(shown["HostConfig"]["Tmpfs"], json!({"/run": ""}));
    assert!(shown["HostConfig"].get("Mounts").is_none());
    assert_eq!(shown["Mounts"][0]["Destination"], "/in");
    assert_eq!(shown["Mounts"].as_array().unwrap().len(), 1);
}
