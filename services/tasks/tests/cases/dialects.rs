//! Shims that start as containerd's of different ages do, one that runs already, and
//! what a runtime says of itself.
//!
//! The foreign shims are scripts in front of our own, each as strict as its model.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::tasks::{Status, Tasks};
use gantry_core::{Any, Kind};
use gantry_ttrpc::containerd::runc::v1::Options;
use gantry_ttrpc::containerd::runtime::bootstrap::v1::BootstrapParams;
use gantry_ttrpc::containerd::types::RuntimeInfo;
use gantry_ttrpc::{any, convert};
use prost::Message;

use crate::fixture::{self, Host, SHIM};

/// A shim that keeps what it got on standard input, and goes on like this with `start`.
pub(super) fn shim(host: &Host, start: &str) -> PathBuf {
    let path = host.path("containerd-shim-fake-v1");
    let own = host.config.shim_path.display();
    let script = format!(
        "#!/bin/sh\nown={own}\nfor action; do :; done\n\
         [ \"$action\" = start ] || exec $own \"$@\"\n\
         cat >\"$0.stdin\"\n{start}\n"
    );
    fixture::script(&path, &script);
    path
}

/// Runs a container with this shim to its end; the answer of `start`, as it was kept.
async fn life(host: &Host, shim: &Path) -> Vec<u8> {
    let tasks = host.manager();
    host.run("c1", &["sleep", "1000"], shim.to_str().unwrap()).await;
    assert_eq!(tasks.get(&host.ctx, "c1", "").await.unwrap().status, Status::Running);
    let kept = fs::read(host.bundle("c1").join("bootstrap.json")).unwrap();
    host.end("c1").await;
    assert!(!host.bundle("c1").exists());
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_print_an_address_and_take_no_parameters() {
    let host = Host::new(0).await;
    let shim = shim(
        &host,
        "if [ -s \"$0.stdin\" ]; then echo 'unknown input' >&2; exit 1; fi\n\
         unset MAX_SHIM_VERSION; exec $own \"$@\" </dev/null",
    );
    let kept = String::from_utf8(life(&host, &shim).await).unwrap();
    assert!(kept.starts_with("{\"version\":2,\"address\":\"unix:///"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_in_between_print_json_and_take_options() {
    let host = Host::new(0).await;
    let shim = shim(&host, "MAX_SHIM_VERSION=3 exec $own \"$@\" <\"$0.stdin\"");
    let kept = String::from_utf8(life(&host, &shim).await).unwrap();
    assert!(kept.starts_with("{\"version\":3,\"address\":\"unix:///"), "{kept}");
    assert_eq!(fs::read(host.path("containerd-shim-fake-v1.stdin")).unwrap(), b"");

    // The options are an Any: its fields 1 and 2, here with io_uid (field 4) of 7.
    host.container("c2", &["sleep", "1000"], shim.to_str().unwrap());
    let options = any::pack(&Options { io_uid: 7, ..Options::default() });
    host.change("c2", |c| c.runtime.options = Some(convert::from_any(options)));
    let tasks = host.manager();
    // Empty options of the task are none: those of the container count.
    let mut task = host.task("c2");
    task.options = Some(Any { type_url: "containerd.runc.v1.Options".into(), value: vec![] });
    tasks.create(&host.ctx, task).await.unwrap();
    let stdin = fs::read(host.path("containerd-shim-fake-v1.stdin")).unwrap();
    assert_eq!(stdin, b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x20\x07\x22\x01\xff");
    tasks.start(&host.ctx, "c2", "").await.unwrap();
    host.end("c2").await;
    // Otherwise the task's do.
    let mut task = host.task("c2");
    let options = any::pack(&Options { io_uid: 8, ..Options::default() });
    task.options = Some(convert::from_any(options));
    tasks.create(&host.ctx, task).await.unwrap();
    let stdin = fs::read(host.path("containerd-shim-fake-v1.stdin")).unwrap();
    assert_eq!(stdin, b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x20\x08\x22\x01\xff");
    tasks.delete(&host.ctx, "c2", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_insist_on_parameters_and_answer_in_kind() {
    let host = Host::new(0).await;
    let shim = shim(
        &host,
        "case $(tail -c 1 \"$0.stdin\" | od -An -tx1) in ''|*ff)\n\
         echo 'no bootstrap parameters' >&2; exit 1;; esac\n\
         exec $own \"$@\" <\"$0.stdin\"",
    );
    let kept = String::from_utf8(life(&host, &shim).await).unwrap();
    assert!(kept.contains("\"version\":3") && kept.contains("\"protocol\":\"ttrpc\""), "{kept}");
    let stdin = fs::read(host.path("containerd-shim-fake-v1.stdin")).unwrap();
    // instance_id is field 1, namespace field 2.
    assert!(stdin.starts_with(b"\x0a\x02c1\x12\x07default"), "{stdin:?}");
    let params = BootstrapParams::decode(stdin.as_slice()).unwrap();
    assert_eq!(params.containerd_ttrpc_address, host.config.ttrpc_address);
    assert_eq!(params.containerd_grpc_address, host.config.grpc_address);
    assert_eq!(params.extensions, []);

    let options = any::pack(&Options { io_uid: 7, ..Options::default() });
    host.change("c1", |c| c.runtime.options = Some(convert::from_any(options.clone())));
    let tasks = host.manager();
    tasks.create(&host.ctx, host.task("c1")).await.unwrap();
    let stdin = fs::read(host.path("containerd-shim-fake-v1.stdin")).unwrap();
    let params = BootstrapParams::decode(stdin.as_slice()).unwrap();
    let values: Vec<_> = params.extensions.into_iter().map(|e| e.value.unwrap()).collect();
    assert_eq!(values, [options]);
    tasks.delete(&host.ctx, "c1", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_parameters_for_something_else_is_ended() {
    let host = Host::new(0).await;
    let shim = shim(
        &host,
        "if [ ! -s \"$0.stdin\" ]; then echo 'not today' >&2; exit 1; fi\n\
         exec $own \"$@\" </dev/null",
    );
    host.container("c1", &["true"], shim.to_str().unwrap());
    let tasks = host.manager();
    let err = tasks.create(&host.ctx, host.task("c1")).await.unwrap_err();
    assert!(err.to_string().contains("not today"), "{err}");
    assert!(!host.bundle("c1").exists());
    let gone = async {
        while fs::read_dir(host.path("s")).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("its socket goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_service_that_the_client_names() {
    let mut host = Host::new(1).await;
    host.run("c1", &["sleep", "1000"], SHIM).await;
    let address = fs::read_to_string(host.bundle("c1").join("address")).unwrap();
    host.container("c2", &["sleep", "1000"], SHIM);
    let options = any::pack(&Options {
        task_api_address: format!("ttrpc+{address}"),
        task_api_version: 3,
        ..Options::default()
    });
    let mut task = host.task("c2");
    task.options = Some(convert::from_any(options));
    let tasks = host.manager();
    tasks.create(&host.ctx, task).await.unwrap();
    tasks.start(&host.ctx, "c2", "").await.unwrap();
    drop(tasks);
    host.stop();
    host.restart().await;
    host.end("c2").await;
    assert!(!host.bundle("c2").exists());
    let tasks = host.manager();
    assert_eq!(tasks.get(&host.ctx, "c1", "").await.unwrap().status, Status::Running);
    host.end("c1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_runtime_says_of_itself() {
    let host = Host::new(0).await;
    let manager = host.manager();
    let info = manager.runtime_info("io.containerd.runc.v2", None).await.unwrap();
    assert_eq!(info.type_url, "containerd.types.RuntimeInfo");
    let info = RuntimeInfo::decode(info.value.as_slice()).unwrap();
    assert_eq!(info.name, "io.containerd.gantry.v2");
    let features = info.features.unwrap();
    assert_eq!(
        features.type_url,
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    );
    let features: serde_json::Value = serde_json::from_slice(&features.value).unwrap();
    assert!(features["mountOptions"].as_array().unwrap().iter().any(|o| o == "rro"));
    for unknown in ["io.containerd.nope.v1", "/bin/false"] {
        let err = manager.runtime_info(unknown, None).await.unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition, "{err}");
        assert!(err.to_string().contains(unknown), "{err}");
    }
    let err = manager.runtime_info("nope", None).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
}
