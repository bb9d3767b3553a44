//! Shims that are not ours under gantryd, and ours as the one of several containers.

use std::path::{Path, PathBuf};

use gantry_core::Namespace;
use gantry_grpc::any;
use gantry_grpc::containerd::services::containers::v1::containers_client::ContainersClient;
use gantry_grpc::containerd::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, container,
};
use gantry_grpc::containerd::services::introspection::v1::PluginInfoRequest;
use gantry_grpc::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use gantry_grpc::containerd::services::sandbox::v1 as sandbox;
use gantry_grpc::containerd::services::sandbox::v1::controller_client::ControllerClient;
use gantry_grpc::containerd::services::sandbox::v1::store_client::StoreClient;
use gantry_grpc::containerd::services::tasks::v1 as tasks;
use gantry_grpc::containerd::services::tasks::v1::tasks_client::TasksClient;
use gantry_grpc::containerd::types::{Mount, RuntimeInfo, RuntimeRequest, Sandbox};
use gantry_grpc::context::Headers;
use gantry_tests::{
    Containerd, Daemon, Options, Output, Registry, Terminal, endpoint, leftovers, wait_for,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost_types::Any;
use serde_json::json;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// Debian's shim of containerd, which executes runc.
const RUNC_SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
/// Debian's runc.
const RUNC: &str = "/usr/sbin/runc";
/// The runtime that most clients ask for.
pub(crate) const USUAL: &str = "io.containerd.runc.v2";

/// A daemon with an image, driven by Debian's `ctr`.
struct Ctr {
    daemon: Daemon,
    image: String,
}

impl Ctr {
    fn start(config: &str) -> Self {
        let options = Options { config: config.to_owned(), ..Options::default() };
        let ctr = Self {
            daemon: Daemon::with(options),
            image: Registry::shared().reference("busybox:latest"),
        };
        ctr.run(&["images", "pull", "--plain-http", &ctr.image]).ok();
        ctr
    }

    fn run(&self, args: &[&str]) -> Output {
        self.daemon.ctr(&[&["-n", self.daemon.name()], args].concat())
    }

    /// A container of this runtime that sleeps; its first process.
    fn sleeper(&self, runtime: &str, id: &str) -> u32 {
        self.run(&["run", "-d", "--runtime", runtime, &self.image, id, "sleep", "600"]).ok();
        self.pid(id)
    }

    fn pid(&self, id: &str) -> u32 {
        let list = self.run(&["tasks", "ls"]).ok();
        let row = list.lines().into_iter().find(|l| l.starts_with(id)).expect("listed").to_owned();
        row.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("a pid")
    }

    fn stopped(&self, id: &str) {
        wait_for("the end of the task", || {
            let list = self.run(&["tasks", "ls"]).ok().stdout;
            list.lines().any(|l| l.starts_with(id) && l.contains("STOPPED")).then_some(())
        });
    }

    /// Fails when something is left, of sandboxes as well.
    #[track_caller]
    fn assert_nothing_left(&self) {
        self.daemon.assert_nothing_left();
        assert_eq!(sandbox_bundles(&self.daemon), Vec::<PathBuf>::new());
        let works = self.daemon.root().join(format!("{}/{}", TASKS, self.daemon.name()));
        assert_eq!(entries(&works), Vec::<PathBuf>::new());
    }
}

const TASKS: &str = "io.containerd.runtime.v2.task";

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.path()).collect()
}

fn sandbox_bundles(daemon: &Daemon) -> Vec<PathBuf> {
    let top = daemon.state().join("io.containerd.sandbox.controller.v1.shim");
    entries(&top).iter().flat_map(|namespace| entries(namespace)).collect()
}

/// The process that is the parent of another.
fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    line.trim().parse().expect("a number")
}

fn program(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it is there");
    String::from_utf8_lossy(line.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

fn gone(pid: u32) {
    wait_for("the end of a process", || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

#[test]
fn containerds_shim_by_its_path() {
    let ctr = Ctr::start("");
    let with = ["run", "--rm", "--runtime", RUNC_SHIM];
    let echo = ctr.run(&[&with[..], &[&ctr.image, "a", "echo", "hello"]].concat()).ok();
    assert_eq!(echo.stdout, "hello\n");
    ctr.run(&[&with[..], &[&ctr.image, "b", "sh", "-c", "exit 3"]].concat()).exits(3);

    let pid = ctr.sleeper(RUNC_SHIM, "c");
    assert!(program(parent(pid)).ends_with("containerd-shim-runc-v2"));
    let exec =
        |id: &str, line: &str| ctr.run(&["tasks", "exec", "--exec-id", id, "c", "sh", "-c", line]);
    assert_eq!(exec("e1", "echo in").ok().stdout, "in\n");
    exec("e2", "exit 4").exits(4);
    ctr.run(&["tasks", "pause", "c"]).ok();
    assert!(ctr.run(&["tasks", "ls"]).ok().stdout.contains("PAUSED"));
    ctr.run(&["tasks", "resume", "c"]).ok();
    let metrics = ctr.run(&["tasks", "metrics", "--format", "json", "c"]).ok();
    let metrics: serde_json::Value = serde_json::from_str(&metrics.stdout).expect("JSON");
    assert!(metrics["memory"]["usage"]["usage"].as_u64().is_some_and(|n| n > 0), "{metrics}");
    assert_eq!(ctr.run(&["tasks", "ps", "c"]).ok().lines().len(), 2);
    ctr.run(&["tasks", "kill", "-s", "9", "c"]).ok();
    ctr.stopped("c");
    ctr.run(&["tasks", "rm", "c"]);
    ctr.run(&["containers", "rm", "c"]).ok();
    ctr.assert_nothing_left();
}

#[test]
fn containerds_shim_under_a_mapped_name_outlives_the_daemon() {
    let mut ctr = Ctr::start(&format!("[runtimes]\n\"{USUAL}\" = \"{RUNC_SHIM}\""));
    let mut listener =
        Terminal::start(ctr.daemon.ctr_command(&["-n", ctr.daemon.name(), "events"]));
    wait_for("the subscription", || {
        ctr.run(&["containers", "create", &ctr.image, "probe", "true"]).ok();
        ctr.run(&["containers", "rm", "probe"]).ok();
        listener.poll();
        listener.rest().contains("/containers/delete").then_some(())
    });
    ctr.run(&["run", "--rm", &ctr.image, "ev", "sh", "-c", "exit 3"]).exits(3);
    for topic in ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] {
        listener.expect(topic);
    }
    let lives = ctr.sleeper(USUAL, "lives");
    let ends = ctr.sleeper(USUAL, "ends");
    let lost = ctr.sleeper(USUAL, "lost");
    let shim = parent(lives);
    assert!(program(shim).ends_with("containerd-shim-runc-v2"));
    ctr.daemon.kill();
    kill(Pid::from_raw(ends as i32), Signal::SIGKILL).expect("kill its process");
    kill(Pid::from_raw(parent(lost) as i32), Signal::SIGKILL).expect("kill its shim");
    gone(ends);
    ctr.daemon.restart();
    assert_eq!((ctr.pid("lives"), parent(lives)), (lives, shim));
    let exec = ctr.run(&["tasks", "exec", "--exec-id", "e", "lives", "echo", "again"]).ok();
    assert_eq!(exec.stdout, "again\n");
    ctr.stopped("ends");
    gone(lost);
    assert!(!ctr.run(&["tasks", "ls"]).ok().stdout.contains("lost"));

    // Killed under a daemon that watches: the exit is told, and nothing is left.
    let ticks = ["sh", "-c", "while echo tick; do sleep 0.1; done"];
    ctr.run(&[&["run", "-d", &ctr.image, "victim"], &ticks[..]].concat()).ok();
    let victim = ctr.pid("victim");
    let mut wait = Terminal::start(ctr.daemon.ctr_command(&[
        "-n",
        ctr.daemon.name(),
        "tasks",
        "attach",
        "victim",
    ]));
    // It waits from the moment on at which output comes.
    for _ in 0..3 {
        wait.expect("tick");
    }
    kill(Pid::from_raw(parent(victim) as i32), Signal::SIGKILL).expect("kill its shim");
    assert_eq!(wait.wait(), 137);
    gone(victim);
    for id in ["lives", "ends"] {
        ctr.run(&["tasks", "rm", "-f", id]);
    }
    ctr.run(&["containers", "rm", "lives", "ends", "lost", "victim"]).ok();
    ctr.assert_nothing_left();
}

#[test]
fn who_names_runc_by_its_path_gets_runc() {
    let ctr = Ctr::start("");
    let root = ctr.daemon.scratch().join("runcroot").display().to_string();
    let named = |binary: &str, id: &str, args: &[&str]| {
        let with = ["run", "--rm", "--runc-binary", binary, "--runc-root", &root];
        ctr.run(&[&with[..], &[&ctr.image, id], args].concat())
    };
    assert_eq!(named(RUNC, "xropt", &["echo", "o"]).ok().stdout, "o\n");
    assert!(Path::new(&root).exists(), "runc had its state there");
    // By a mere name the usual shim is meant, ours, which stands for runc.
    assert_eq!(named("runc", "usual", &["echo", "o"]).ok().stdout, "o\n");
    let other = named("runsc", "other", &["echo", "o"]).exits(1);
    assert!(other.stderr.contains("binary_name \"runsc\""), "{}", other.stderr);
    ctr.run(&["containers", "rm", "other"]);
    ctr.assert_nothing_left();
}

pub(crate) type Service = InterceptedService<Channel, Headers>;

/// A client of a containerd socket, ours or theirs.
pub(crate) async fn connect(address: PathBuf, namespace: &str) -> Service {
    let channel = endpoint(&address).connect().await.expect("connect");
    InterceptedService::new(channel, Headers::new(&Namespace::new(namespace).expect("a name")))
}

/// The specification of a container that sleeps.
pub(crate) fn spec(namespace: &str, id: &str, annotations: serde_json::Value) -> Any {
    let spec = json!({
        "ociVersion": "1.0.2",
        "annotations": annotations,
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["sleep", "600"], "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {
            "cgroupsPath": format!("/{namespace}/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}],
        },
    });
    Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
        value: spec.to_string().into_bytes(),
    }
}

/// Runs a container whose root is the host's, read-only; its first process.
async fn start(service: &Service, runtime: &str, id: &str, sandbox: &str, spec: Any) -> u32 {
    let root = Mount {
        r#type: "bind".into(),
        source: "/".into(),
        options: vec!["bind".into(), "ro".into()],
        ..Mount::default()
    };
    start_on(vec![root], service, runtime, id, sandbox, spec).await.expect("a task")
}

/// Runs a container on these mounts; its first process.
pub(crate) async fn start_on(
    rootfs: Vec<Mount>,
    service: &Service,
    runtime: &str,
    id: &str,
    sandbox: &str,
    spec: Any,
) -> Result<u32, tonic::Status> {
    let container = Container {
        id: id.into(),
        runtime: Some(container::Runtime { name: runtime.into(), options: None }),
        spec: Some(spec),
        sandbox: sandbox.into(),
        ..Container::default()
    };
    let create = CreateContainerRequest { container: Some(container) };
    ContainersClient::new(service.clone()).create(create).await.expect("a container");
    let mut client = TasksClient::new(service.clone());
    let container_id = id.to_owned();
    let create = tasks::CreateTaskRequest { container_id, rootfs, ..Default::default() };
    client.create(create).await?;
    let start = tasks::StartRequest { container_id: id.into(), exec_id: String::new() };
    Ok(client.start(start).await?.into_inner().pid)
}

/// Kills a task and removes it with its container.
pub(crate) async fn end(service: &Service, id: &str) {
    let mut client = TasksClient::new(service.clone());
    let all = tasks::KillRequest { container_id: id.into(), signal: 9, ..Default::default() };
    // It may have ended.
    let _ = client.kill(all).await;
    let wait = tasks::WaitRequest { container_id: id.into(), exec_id: String::new() };
    assert_eq!(client.wait(wait).await.expect("its end").into_inner().exit_status, 137);
    let delete = tasks::DeleteTaskRequest { container_id: id.into() };
    client.delete(delete).await.expect("it is deleted");
    let delete = DeleteContainerRequest { id: id.into() };
    ContainersClient::new(service.clone()).delete(delete).await.expect("its record, too");
}

/// Two containers of one pod by annotation, and one that is alone.
async fn pod(service: &Service, namespace: &str, runtime: &str) {
    let member = json!({"io.kubernetes.cri.sandbox-id": "pod"});
    let one = start(service, runtime, "pod", "", spec(namespace, "pod", member.clone())).await;
    let two = start(service, runtime, "two", "", spec(namespace, "two", member)).await;
    let alone = start(service, runtime, "alone", "", spec(namespace, "alone", json!({}))).await;
    let shim = parent(one);
    assert_eq!(parent(two), shim);
    assert_ne!(parent(alone), shim);
    end(service, "two").await;
    assert_eq!(parent(one), shim, "the other goes on");
    end(service, "pod").await;
    gone(shim);
    end(service, "alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_our_shim() {
    let daemon = Daemon::start();
    let service = connect(daemon.address(), daemon.name()).await;
    pod(&service, daemon.name(), USUAL).await;
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_our_shim_under_a_stock_containerd() {
    let server = Containerd::start();
    let namespace = format!("pod{}", std::process::id());
    let service = connect(server.address(), &namespace).await;
    pod(&service, &namespace, "io.containerd.gantry.v2").await;
    assert_eq!(leftovers::cgroups(&format!("/{namespace}")), Vec::<PathBuf>::new());
}

fn record(id: &str) -> Sandbox {
    let runtime =
        gantry_grpc::containerd::types::sandbox::Runtime { name: USUAL.into(), options: None };
    Sandbox { sandbox_id: id.into(), runtime: Some(runtime), ..Sandbox::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_from_its_record_to_its_end() {
    let mut daemon = Daemon::start();
    let service = connect(daemon.address(), daemon.name()).await;
    let mut store = StoreClient::new(service.clone());
    let mut controller = ControllerClient::new(service.clone());
    let id = || "s1".to_owned();
    let create = |sandboxer: &str| sandbox::ControllerCreateRequest {
        sandbox_id: id(),
        sandboxer: sandboxer.into(),
        ..Default::default()
    };
    let other = controller.create(create("podsandbox")).await.expect_err("there is no such one");
    assert_eq!(
        (other.code(), other.message()),
        (Code::NotFound, "failed to get sandbox controller by podsandbox: not found")
    );
    let missing = controller.create(create("shim")).await.expect_err("it has no record");
    assert_eq!(missing.code(), Code::NotFound);
    let stored = sandbox::StoreCreateRequest { sandbox: Some(record("s1")) };
    store.create(stored).await.expect("a record");
    controller.create(create("")).await.expect("it is set up");
    let again = controller.create(create("shim")).await.expect_err("it is there");
    assert_eq!(again.code(), Code::AlreadyExists);
    let start_it = sandbox::ControllerStartRequest { sandbox_id: id(), ..Default::default() };
    let started = controller.start(start_it).await.expect("it starts").into_inner();
    assert!(started.address.starts_with("unix://") && started.version == 3, "{started:?}");
    let member = spec(daemon.name(), "c1", json!({}));
    let pid = start(&service, USUAL, "c1", "s1", member).await;
    drop((store, controller));

    daemon.kill();
    daemon.restart();
    let service = connect(daemon.address(), daemon.name()).await;
    let mut store = StoreClient::new(service.clone());
    let mut controller = ControllerClient::new(service.clone());
    let status =
        sandbox::ControllerStatusRequest { sandbox_id: id(), verbose: true, ..Default::default() };
    let status = controller.status(status).await.expect("a status").into_inner();
    assert_eq!(
        (status.state.as_str(), status.info["containers"].as_str()),
        ("SANDBOX_READY", "c1")
    );
    let metrics = sandbox::ControllerMetricsRequest { sandbox_id: id(), ..Default::default() };
    let metrics = controller.metrics(metrics).await.expect("metrics").into_inner().metrics;
    assert!(metrics.and_then(|m| m.data).is_some());
    let stop = sandbox::ControllerStopRequest { sandbox_id: id(), ..Default::default() };
    controller.stop(stop.clone()).await.expect("it stops");
    gone(pid);
    let wait = sandbox::ControllerWaitRequest { sandbox_id: id(), ..Default::default() };
    assert_eq!(controller.wait(wait).await.expect("its end").into_inner().exit_status, 0);
    end(&service, "c1").await;
    let shutdown = sandbox::ControllerShutdownRequest { sandbox_id: id(), ..Default::default() };
    controller.shutdown(shutdown.clone()).await.expect("it goes");
    let twice = controller.shutdown(shutdown).await.expect_err("it is gone");
    assert_eq!(twice.code(), Code::NotFound);
    controller.stop(stop).await.expect("what is gone has stopped");
    let delete = sandbox::StoreDeleteRequest { sandbox_id: id() };
    store.delete(delete).await.expect("its record goes");
    daemon.assert_nothing_left();
    assert_eq!(sandbox_bundles(&daemon), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_says_what_it_can_do() {
    let daemon = Daemon::start();
    let service = connect(daemon.address(), daemon.name()).await;
    let mut client = IntrospectionClient::new(service);
    let ask = |runtime: &str| PluginInfoRequest {
        r#type: "io.containerd.runtime.v2".into(),
        id: "task".into(),
        options: Some(any::pack(&RuntimeRequest { runtime_path: runtime.into(), options: None })),
    };
    let answer = client.plugin_info(ask(USUAL)).await.expect("an answer").into_inner();
    assert_eq!(answer.plugin.expect("the plugin").id, "task");
    let info: RuntimeInfo = any::unpack(&answer.extra.expect("extra")).expect("a RuntimeInfo");
    assert_eq!(info.name, "io.containerd.gantry.v2");
    let features = info.features.expect("features").value;
    let features: serde_json::Value = serde_json::from_slice(&features).expect("JSON");
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    let unknown = client.plugin_info(ask("io.containerd.nope.v1")).await.expect_err("no such");
    assert_eq!(unknown.code(), Code::FailedPrecondition);
}

/// What those look for who look into the state directory.
#[test]
fn a_bundle_has_what_containerds_has() {
    let ctr = Ctr::start("");
    let server = Containerd::start();
    let theirs = |args: &[&str]| server.ctr(&[&["-n", "layout"], args].concat()).ok();
    theirs(&["images", "pull", "--plain-http", &ctr.image]);
    theirs(&["run", "-d", &ctr.image, "c", "sleep", "600"]);
    let pid = ctr.sleeper(USUAL, "c");
    let ours = ctr.daemon.state().join(TASKS).join(ctr.daemon.name()).join("c");
    let model = server.state().join(TASKS).join("layout/c");
    // The FIFO of the log and the files in which runc and its shim talk to each other.
    let internal = ["log", "log.json", "options.json", "shim-binary-path"];
    for entry in entries(&model) {
        let name = entry.file_name().expect("a name").to_owned();
        let there = std::fs::symlink_metadata(ours.join(&name));
        if internal.iter().any(|i| name == *i) {
            continue;
        }
        let there = there.unwrap_or_else(|_| panic!("{} is missing", name.display()));
        let wanted = std::fs::symlink_metadata(&entry).expect("it is there").file_type();
        assert_eq!(there.file_type(), wanted, "{}", name.display());
    }
    let init = std::fs::read_to_string(ours.join("init.pid")).expect("init.pid");
    assert_eq!(init, pid.to_string());
    let work = std::fs::read_link(ours.join("work")).expect("work");
    assert!(work.starts_with(ctr.daemon.root()) && work.is_dir(), "{}", work.display());
    theirs(&["tasks", "kill", "-s", "9", "c"]);
    wait_for("the end", || theirs(&["tasks", "ls"]).stdout.contains("STOPPED").then_some(()));
    server.ctr(&["-n", "layout", "tasks", "rm", "c"]);
    theirs(&["containers", "rm", "c"]);
    ctr.run(&["tasks", "rm", "-f", "c"]);
    ctr.run(&["containers", "rm", "c"]).ok();
    ctr.assert_nothing_left();
}
