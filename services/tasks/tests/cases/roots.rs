//! Root file systems that the host has to make a part of.

use gantry_core::Labels;
use gantry_core::tasks::Tasks;

use crate::fixture::{Host, SHIM};

const CONTAINER: &str = "containerd.io/gc.bref.container";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_task_left_is_made_anew() {
    let host = Host::new(1).await;
    let tasks = host.manager();
    let labels = |of: &str| Labels::from([(CONTAINER.to_owned(), of.to_owned())]);
    let create = async |id: &str| {
        host.container(id, &["true"], SHIM);
        let mut task = host.task(id);
        task.rootfs[0].kind = "host/bind".into();
        tasks.create(&host.ctx, task).await
    };
    let names = || host.mounts.0.lock().unwrap().clone();
    host.mounts.0.lock().unwrap().insert("c1".into(), labels("c1"));
    create("c1").await.unwrap();
    assert_eq!(names()["c1"], labels("c1"));
    tasks.delete(&host.ctx, "c1", "").await.unwrap();
    assert!(names().is_empty());

    for theirs in [labels("c3"), Labels::new()] {
        host.mounts.0.lock().unwrap().insert("c2".into(), theirs.clone());
        assert!(create("c2").await.unwrap_err().is_already_exists());
        assert_eq!(names()["c2"], theirs, "it is somebody else's");
        assert!(!host.bundle("c2").exists());
    }
}
