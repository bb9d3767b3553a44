//! Root file systems that are more than an overlay.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use gantry_grpc::containerd::services::containers::v1::DeleteContainerRequest;
use gantry_grpc::containerd::services::containers::v1::containers_client::ContainersClient;
use gantry_grpc::containerd::services::mounts::v1 as mounts;
use gantry_grpc::containerd::services::mounts::v1::mounts_client::MountsClient;
use gantry_grpc::containerd::services::snapshots::v1 as snapshots;
use gantry_grpc::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use gantry_grpc::containerd::types::Mount;
use gantry_tests::{Daemon, Registry, run, wait_for};
use serde_json::json;
use tonic::Code;

use crate::shims::{Service, USUAL, connect, end, spec, start_on};

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|o| (*o).to_owned()).collect();
    Mount { r#type: kind.into(), source: source.into(), target: String::new(), options }
}

/// The loop devices of an image.
fn devices(image: &Path) -> String {
    run(Command::new("losetup").arg("-nO").arg("NAME").arg("-j").arg(image)).ok().stdout
}

async fn activations(service: &Service) -> Vec<String> {
    let mut client = MountsClient::new(service.clone());
    let list = client.list(mounts::ListRequest::default()).await;
    let mut list = list.expect("a list").into_inner();
    let mut names = Vec::new();
    while let Some(one) = list.message().await.expect("one more") {
        names.extend(one.info.map(|info| info.name));
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_makes_its_part_and_takes_it_away() {
    let mut daemon = Daemon::start();
    let service = connect(daemon.address(), daemon.name()).await;
    let image = daemon.scratch().join("image");
    let content = daemon.scratch().join("content");
    fs::create_dir(&content).expect("a directory");
    fs::write(content.join("from-the-image"), "yes").expect("a file");
    fs::File::create(&image).and_then(|f| f.set_len(8 << 20)).expect("a file");
    run(Command::new("mkfs.ext4").arg("-qd").args([&content, &image])).ok();
    let root = vec![
        mount("loop", &image.display().to_string(), &["ro"]),
        mount("format/ext4", "{{ mount 0 }}", &["ro"]),
        mount("format/overlay", "overlay", &["ro", "lowerdir={{ mount 1 }}:/"]),
    ];
    let of = |id: &str| spec(daemon.name(), id, json!({}));
    let pid = start_on(root.clone(), &service, USUAL, "c1", "", of("c1")).await.expect("a task");
    let inside = format!("/proc/{pid}/root/from-the-image");
    assert_eq!(fs::read_to_string(&inside).expect("it is there"), "yes");
    assert_eq!(devices(&image).lines().count(), 1);
    assert_eq!(activations(&service).await, ["c1"]);

    // A name that is in use, and a template of nothing: nothing is left of the attempt.
    let taken = mounts::ActivateRequest {
        name: "c2".into(),
        mounts: root[..1].to_vec(),
        ..Default::default()
    };
    MountsClient::new(service.clone()).activate(taken).await.expect("somebody's");
    let refused = start_on(root.clone(), &service, USUAL, "c2", "", of("c2")).await;
    assert_eq!(refused.expect_err("the name is in use").code(), Code::AlreadyExists);
    let bad = vec![root[0].clone(), mount("format/ext4", "{{ mount 7 }}", &[])];
    let refused = start_on(bad, &service, USUAL, "c3", "", of("c3")).await;
    assert_eq!(refused.expect_err("no such mount").code(), Code::InvalidArgument);
    assert_eq!(activations(&service).await, ["c1", "c2"]);
    assert_eq!(devices(&image).lines().count(), 2);
    let theirs = mounts::DeactivateRequest { name: "c2".into() };
    MountsClient::new(service.clone()).deactivate(theirs).await.expect("it was there");
    for id in ["c2", "c3"] {
        let delete = DeleteContainerRequest { id: id.into() };
        ContainersClient::new(service.clone()).delete(delete).await.expect("a record");
    }
    drop(service);

    daemon.kill();
    daemon.restart();
    let service = connect(daemon.address(), daemon.name()).await;
    assert_eq!(fs::read_to_string(&inside).expect("it is still there"), "yes");
    end(&service, "c1").await;
    assert_eq!(activations(&service).await, Vec::<String>::new());
    wait_for("the end of the device", || devices(&image).is_empty().then_some(()));
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_shifted_by_labels() {
    let daemon = Daemon::start();
    let image = Registry::shared().reference("busybox:latest");
    let ctr = |args: &[&str]| daemon.ctr(&[&["-n", daemon.name()], args].concat());
    ctr(&["images", "pull", "--plain-http", &image]).ok();
    let listed = ctr(&["snapshots", "ls"]).ok();
    let parent = listed.lines()[1].split_whitespace().next().expect("a snapshot").to_owned();

    let service = connect(daemon.address(), daemon.name()).await;
    let mut client = SnapshotsClient::new(service.clone());
    let map = |kind: &str, map: &str| (format!("containerd.io/snapshot/{kind}"), map.to_owned());
    let shifts = [map("uidmapping", "0:100000:65536"), map("gidmapping", "0:200000:65536")];
    // No container keeps it yet when the pull's garbage is collected.
    let held = ("containerd.io/gc.root".to_owned(), "yes".to_owned());
    let labels = shifts.into_iter().chain([held]).collect();
    let prepare = snapshots::PrepareSnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "shifted".into(),
        parent,
        labels,
    };
    let rootfs = client.prepare(prepare).await.expect("a snapshot").into_inner().mounts;
    let shown: Vec<&String> = rootfs.iter().flat_map(|mount| &mount.options).collect();
    assert!(shown.iter().any(|option| *option == "uidmap=0:100000:65536"), "{shown:?}");

    let mut wanted = spec(daemon.name(), "c1", json!({}));
    let mut json: serde_json::Value = serde_json::from_slice(&wanted.value).expect("JSON");
    json["process"]["args"] = json!(["sh", "-c", "touch /new; exec sleep 600"]);
    json["root"]["readonly"] = false.into();
    json["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
    (json["linux"]["uidMappings"], json["linux"]["gidMappings"]) = (map(100_000), map(200_000));
    wanted.value = json.to_string().into_bytes();
    // The way to the root has to be open for it.
    let dir = daemon.state();
    for dir in [dir.parent().expect("the test's own directory"), &dir] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).expect("a mode");
    }
    let pid = start_on(rootfs, &service, USUAL, "c1", "", wanted).await.expect("a task");
    // What the image has and what the container makes is its own root's; the image stays as it is.
    let owner = |path: &str| {
        let meta = fs::metadata(format!("/proc/{pid}/root/{path}")).ok()?;
        Some((meta.uid(), meta.gid()))
    };
    let made = wait_for("the new file", || owner("new"));
    assert_eq!((owner("bin/busybox"), made), (Some((100_000, 200_000)), (100_000, 200_000)));
    let layer = daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs");
    assert_eq!(fs::metadata(layer.join("bin/busybox")).expect("the image's file").uid(), 0);
    end(&service, "c1").await;
    let remove =
        snapshots::RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: "shifted".into() };
    client.remove(remove).await.expect("it was there");
    daemon.assert_nothing_left();
}
