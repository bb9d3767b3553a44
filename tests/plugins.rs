//! Snapshotters of other programs, and mounts that the daemon makes for clients.

use std::path::Path;
use std::process::Command;

use gantry_core::Namespace;
use gantry_grpc::containerd::services::mounts::v1 as mounts;
use gantry_grpc::containerd::types::Mount;
use gantry_grpc::context::Headers;
use gantry_tests::{Daemon, Options, Output, Registry, endpoint, run, wait_for};
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use mounts::mounts_client::MountsClient;

/// A daemon whose snapshotter `far` is the other's `native`.
fn pair() -> (Daemon, Daemon) {
    let plugin = Daemon::start();
    let config = format!(
        "[proxy_plugins.far]\ntype = \"snapshot\"\naddress = {:?}\nsnapshotter = \"native\"\n\
         platform = \"linux/amd64\"\ncapabilities = [\"other\"]\nexports = {{ root = \"/far\" }}\n",
        plugin.address()
    );
    let daemon = Daemon::with(Options { config, ..Options::default() });
    (daemon, plugin)
}

fn ctr(daemon: &Daemon, args: &[&str]) -> Output {
    daemon.ctr(&[&["-n", daemon.name()], args].concat())
}

fn names(daemon: &Daemon, namespace: &str, snapshotter: &str) -> Vec<String> {
    let list = daemon.ctr(&["-n", namespace, "snapshots", "--snapshotter", snapshotter, "ls"]);
    let list = list.ok();
    let first = |line: &&str| line.split_whitespace().next().map(str::to_owned);
    list.lines().iter().skip(1).filter_map(first).collect()
}

#[test]
fn another_program_keeps_the_snapshots() {
    let (mut daemon, mut plugin) = pair();
    let image = Registry::shared().reference("busybox:latest");
    let row = ctr(&daemon, &["plugins", "ls"]).ok();
    let row = row.lines().into_iter().find(|l| l.contains(" far ")).expect("listed").to_owned();
    assert!(row.contains("io.containerd.snapshotter.v1"), "{row}");

    ctr(&daemon, &["images", "pull", "--plain-http", "--snapshotter", "far", &image]).ok();
    let mine = names(&daemon, daemon.name(), "far");
    let theirs = names(&plugin, daemon.name(), "native");
    assert_eq!((mine.len(), theirs.len()), (1, 1), "{mine:?} {theirs:?}");
    assert!(theirs[0].starts_with(&format!("{}/", daemon.name())), "{theirs:?}");
    assert!(theirs[0].ends_with(&format!("/{}", mine[0])), "{theirs:?}");
    let hello = ["run", "--rm", "--snapshotter", "far", &image, "a", "echo", "hello"];
    assert_eq!(ctr(&daemon, &hello).ok().stdout, "hello\n");
    wait_for("the container's snapshot to be gone", || {
        (names(&plugin, daemon.name(), "native").len() == 1).then_some(())
    });

    // Both end hard, and what they knew is there again.
    daemon.kill();
    plugin.kill();
    plugin.restart();
    daemon.restart();
    assert_eq!(ctr(&daemon, &hello).ok().stdout, "hello\n");

    plugin.kill();
    let dead = ctr(&daemon, &hello).exits(1);
    assert!(dead.stderr.contains("snapshotter far at"), "{}", dead.stderr);
    ctr(&daemon, &["images", "pull", "--plain-http", &image]).ok();
    let near = ["run", "--rm", &image, "b", "echo", "near"];
    assert_eq!(ctr(&daemon, &near).ok().stdout, "near\n");
    assert_eq!(names(&daemon, daemon.name(), "far"), mine, "records need no plugin");
    plugin.restart();
    assert_eq!(ctr(&daemon, &hello).ok().stdout, "hello\n");

    ctr(&daemon, &["images", "rm", "--sync", &image]).ok();
    wait_for("everything to be collected", || {
        let left = names(&plugin, daemon.name(), "native");
        (names(&daemon, daemon.name(), "far").is_empty() && left.is_empty()).then_some(())
    });
    daemon.assert_nothing_left();
}

#[test]
fn a_clashing_plugin_is_refused_at_start() {
    let daemon = Daemon::start();
    let config = daemon.scratch().join("clash.toml");
    let text = "[proxy_plugins.native]\ntype = \"snapshot\"\naddress = \"/x.sock\"\n";
    std::fs::write(&config, text).expect("write a configuration");
    let mut command = Command::new(gantry_tests::paths::program("gantryd"));
    command.arg("--config").arg(&config);
    for (flag, name) in [("--root", "root2"), ("--state", "state2"), ("--address", "2.sock")] {
        command.arg(flag).arg(daemon.scratch().join(name));
    }
    let refused = run(&mut command);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("proxy_plugins.native"), "{}", refused.stderr);
}

type Client = MountsClient<InterceptedService<Channel, Headers>>;

fn client(daemon: &Daemon) -> Client {
    let channel = endpoint(&daemon.address()).connect_lazy();
    let namespace = Namespace::new(daemon.name()).expect("a namespace");
    MountsClient::new(InterceptedService::new(channel, Headers::new(&namespace)))
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        r#type: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    }
}

fn activate(name: &str, mounts: &[Mount], labels: &[(&str, &str)]) -> mounts::ActivateRequest {
    mounts::ActivateRequest {
        name: name.into(),
        mounts: mounts.to_vec(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        temporary: false,
    }
}

fn mounted(daemon: &Daemon) -> usize {
    let top = daemon.state().join("mounts");
    let table = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| Path::new(point).starts_with(&top)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_mounted_for_clients() {
    let mut daemon = Daemon::start();
    let image = daemon.scratch().join("disk.img").display().to_string();
    let disk = [
        mount("mkfs/loop", &image, &["X-containerd.mkfs.size=16MiB", "X-containerd.mkfs.fs=ext4"]),
        mount("format/ext4", "{{ mount 0 }}", &[]),
        mount(
            "format/mkdir/bind",
            "{{ mount 1 }}/data",
            &["X-containerd.mkdir.path={{ mount 1 }}/data:0755", "rw", "rbind"],
        ),
    ];
    let made = client(&daemon).activate(activate("d", &disk, &[])).await.expect("activated");
    let info = made.into_inner().info.expect("an activation");
    assert_eq!((info.active.len(), info.system.len()), (2, 1));
    let data = Path::new(&info.system[0].source).to_owned();
    std::fs::write(data.join("file"), "kept").expect("write to the disk");
    let again = client(&daemon).activate(activate("d", &disk, &[])).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
    let plain = [mount("bind", "/", &["ro"])];
    let plain = client(&daemon).activate(activate("p", &plain, &[])).await.unwrap_err();
    assert_eq!(plain.code(), Code::Unimplemented, "{plain}");

    daemon.kill();
    assert_eq!(mounted(&daemon), 1, "mounts outlive the daemon");
    daemon.restart();
    let request = mounts::InfoRequest { name: "d".into() };
    let found = client(&daemon).info(request.clone()).await.expect("found again");
    assert_eq!(found.into_inner().info.expect("an activation"), info);
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("it is there"), "kept");
    client(&daemon).deactivate(mounts::DeactivateRequest { name: "d".into() }).await.expect("gone");
    assert_eq!(client(&daemon).info(request).await.unwrap_err().code(), Code::NotFound);
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_go_with_what_they_are_for() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    ctr(&daemon, &["images", "pull", "--plain-http", &image]).ok();
    ctr(&daemon, &["containers", "create", &image, "c", "true"]).ok();
    let source = daemon.scratch().display().to_string();
    let bind = [mount("bind", &source, &["ro"]), mount("format/bind", "{{ mount 0 }}", &["ro"])];
    let labels = [("containerd.io/gc.bref.container", "c")];
    client(&daemon).activate(activate("of-c", &bind, &labels)).await.expect("activated");
    assert_eq!(mounted(&daemon), 1);
    // Something is collected, and that is not.
    ctr(&daemon, &["images", "rm", "--sync", &image]).ok();
    assert_eq!(mounted(&daemon), 1);
    ctr(&daemon, &["containers", "rm", "c"]).ok();
    wait_for("the mount to be collected", || (mounted(&daemon) == 0).then_some(()));
    let request = mounts::InfoRequest { name: "of-c".into() };
    assert_eq!(client(&daemon).info(request).await.unwrap_err().code(), Code::NotFound);
}
